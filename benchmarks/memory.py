"""Speed of a network in PyTorch on a CPU with and without `keep_memory`, which every command and `Segmenter` calls.

python benchmarks/memory.py [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

SIZES = ((512, 512), (720, 960), (1024, 2048))
CALLS = 7


def main() -> None:
    """Print the times of both and the median ratio; the processes run in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["keep", "leave"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measure(chosen.side == "keep", chosen.threads)))
        return
    found: dict[str, list[list[float]]] = {"keep": [], "leave": []}
    for number in range(chosen.rounds):
        for side in ("keep", "leave") if number % 2 else ("leave", "keep"):
            command = [sys.executable, __file__, "--side", side, "--threads", str(chosen.threads)]
            found[side].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    for index, (height, width) in enumerate(SIZES):
        keep, leave = ([1000 * one[index] for one in found[side]] for side in ("keep", "leave"))
        ratios = sorted(slow / fast for slow, fast in zip(leave, keep, strict=True))
        print(
            f"{height}x{width}: {statistics.median(leave):.0f} ms, kept {statistics.median(keep):.0f} ms, "
            f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def measure(keep: bool, threads: int) -> list[float]:
    """Median seconds of cgrseg_t's folded network for one image of each size."""
    import torch

    import cgrseg
    from cgrseg._process import keep_memory
    from cgrseg.nn.fusion import fuse

    if keep:
        keep_memory()
    torch.set_num_threads(threads)
    network = fuse(cgrseg.create_model("cgrseg_t", num_classes=150).eval()).to(memory_format=torch.channels_last)
    medians = []
    with torch.inference_mode():
        for size in SIZES:
            image = torch.zeros(1, 3, *size).to(memory_format=torch.channels_last)
            network(image)
            times = []
            for _ in range(CALLS):
                start = time.perf_counter()
                network(image)
                times.append(time.perf_counter() - start)
            medians.append(statistics.median(times))
    return medians


if __name__ == "__main__":
    main()
