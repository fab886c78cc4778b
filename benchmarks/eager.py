"""Latency of the eager network, one image of 512x512, 150 classes, float32: median and range of interleaved rounds.

.venv/bin/python benchmarks/eager.py [ROUNDS]
"""

from __future__ import annotations

import platform
import statistics
import sys
import time

import torch

from cgrseg.nn import VARIANTS, build


@torch.inference_mode()
def main(rounds: int) -> None:
    models = {
        f"{name} {mode}": build(name, bias_mode=mode).eval() for name in VARIANTS for mode in ("relative", "official")
    }
    images = torch.randn(1, 3, 512, 512)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 2):  # two of them are warm-up
        for name, model in models.items():
            start = time.perf_counter()
            model(images)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {rounds} rounds")
    print(f"{'model and bias mode':<22}{'median ms':>10}{'min':>8}{'max':>8}")
    for name, values in seconds.items():
        median, low, high = (1000 * f(values) for f in (statistics.median, min, max))
        print(f"{name:<22}{median:>10.1f}{low:>8.1f}{high:>8.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
