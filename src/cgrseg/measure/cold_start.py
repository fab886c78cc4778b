"""Cold start and memory of a candidate, measured in a new process (python -m cgrseg.measure.cold_start)."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cgrseg._process import keep_memory

from .candidates import Choice, Settings

PHOTOS = 5  # before the memory is read


def measure_cold_start(choice: Choice, path: Path | None, photo: bytes, settings: Settings) -> dict[str, float | None]:
    """Start a process that opens a candidate and labels an image with it.

    Args:
        choice: the candidate.
        path: what `candidates.prepare` returned.
        photo: content of an image file.
        settings: of the benchmark.

    Returns:
        cold_start_seconds: from the start of the process, imports and loading included, to the first label map.
        peak_memory_mb: maximum main memory in 1e6 bytes, libraries included, after five images; None if the system
            does not report it.
        peak_gpu_memory_mb: maximum GPU memory of torch in 1e6 bytes; None without a GPU.

    Raises:
        ValueError: the process failed, with its last line of output.
    """
    with tempfile.TemporaryDirectory() as folder:
        photo_path = Path(folder) / "photo"
        photo_path.write_bytes(photo)
        order = {
            "choice": dataclasses.asdict(choice),
            "settings": dataclasses.asdict(settings),
            "path": None if path is None else str(path),
            "photo": str(photo_path),
            "start": time.time(),
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
        command = [sys.executable, "-m", __name__, json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"{choice} fails in a process of its own ({lines[-1][:200]}): run it alone")
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(order: dict[str, Any]) -> dict[str, float | None]:
    import torch

    from .candidates import open_candidate
    from .stages import run_stages

    keep_memory()
    settings = Settings(**{**order["settings"], "size": tuple(order["settings"]["size"])})
    torch.set_num_threads(settings.threads)
    path = None if order["path"] is None else Path(order["path"])
    photo = Path(order["photo"]).read_bytes()
    candidate = open_candidate(Choice(**order["choice"]), path, settings)
    run_stages(candidate, photo, settings.size)
    seconds = time.time() - order["start"]
    for _ in range(PHOTOS - 1):
        run_stages(candidate, photo, settings.size)
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {"cold_start_seconds": seconds, "peak_memory_mb": _peak_memory_mb(), "peak_gpu_memory_mb": gpu}


def _peak_memory_mb() -> float | None:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start with the parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * float(line.split()[1]) / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
