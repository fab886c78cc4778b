"""A process of its own for each contender: how long until its first label map, and how much memory it takes at most.

python -m cgrseg.measure.cold_start '{"name": …}'
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrseg._process import keep_memory

from .candidates import Choice

if TYPE_CHECKING:
    from .speed import Settings

PHOTOS = 5  # before the memory is read


@dataclasses.dataclass(frozen=True)
class Fresh:
    """What a fresh process needs.

    Args:
        cold_start_seconds: from its start, imports and loading included, to the first label map.
        peak_memory_mb: 1e6 bytes of main memory at most, libraries included, after five photos; None where the
            system does not say.
        peak_gpu_memory_mb: 1e6 bytes that torch held on the GPU at most; None without one.
    """

    cold_start_seconds: float
    peak_memory_mb: float | None
    peak_gpu_memory_mb: float | None = None


def measure_fresh(choice: Choice, path: Path | None, photo: bytes, settings: Settings) -> Fresh:
    """Start a process that opens a contender and labels a photo with it; wait for it.

    Args:
        path: what `contenders.prepare` returned.
        photo: the file's bytes.

    Raises:
        ValueError: the process failed, with the last line that it wrote.
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
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def _measure(order: dict[str, Any]) -> Fresh:
    import torch

    from .candidates import open_contender
    from .stages import staged

    keep_memory()
    settings = order["settings"]
    torch.set_num_threads(settings["threads"])
    path = None if order["path"] is None else Path(order["path"])
    photo, size = Path(order["photo"]).read_bytes(), tuple(settings["size"])
    options = {name: settings[name] for name in ("classes", "device", "threads")}
    contender = open_contender(Choice(**order["choice"]), path, **options)
    staged(contender, photo, size)
    seconds = time.time() - order["start"]
    for _ in range(PHOTOS - 1):
        staged(contender, photo, size)
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    memory = _most_memory()
    return Fresh(seconds, None if memory is None else memory / 1e6, gpu)


def _most_memory() -> float | None:
    """Bytes of main memory that this process has had at most; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with the parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * float(line.split()[1])
    if sys.platform == "darwin":
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_measure(json.loads(sys.argv[1])))))
