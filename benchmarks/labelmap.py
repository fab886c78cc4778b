"""Speed of label maps against interpolation and argmax: `python benchmarks/labelmap.py --threads 2`.

Both run in turn, so other load slows both. The result is the ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cgrseg.inference.labelmap import confidence, label_map
from cgrseg.measure.stages import natural_logits

CASES: dict[str, dict[str, Any]] = {
    "512x512": {"size": (512, 512)},
    "512x512 input, of which 512x341 is the image, to 640x427": {
        "size": (640, 427),
        "input_size": (512, 512),
        "valid": (512, 341),
    },
}


def resized(logits: Tensor, size: Any, input_size: Any = None, valid: Any = None) -> Tensor:
    """The expression that a label map replaces, without its argmax."""
    if input_size is not None:
        logits = F.interpolate(logits, input_size, mode="bilinear")[..., : valid[0], : valid[1]]
    return F.interpolate(logits, size, mode="bilinear")


def disagreement(logits: Tensor) -> float:
    """The share of cells (four neighbouring logits) whose corners have different winners."""
    winner = logits.argmax(1).float()
    return float((F.max_pool2d(winner, 2, 1) != -F.max_pool2d(-winner, 2, 1)).float().mean())


def clocked(task: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def spread(values: list[float], digits: int) -> str:
    """Median and the middle half of the values."""
    low, middle, high = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classes", type=int, default=150)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.classes} classes, 64x64 logits")
    print(f"medians of {arguments.rounds} rounds in turn, in brackets the middle half\n")
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "natural": natural_logits(arguments.classes, (64, 64)),
        "white noise": torch.randn(1, arguments.classes, 64, 64, generator=generator),
    }
    for case, steps in CASES.items():
        for kind, logits in inputs.items():
            sides: dict[str, Callable[[], Tensor]] = {
                "interpolate + argmax": lambda x=logits, s=steps: resized(x, **s).argmax(1),
                "label_map": lambda x=logits, s=steps: label_map(x, **s),
                "interpolate + softmax + max": lambda x=logits, s=steps: resized(x, **s).softmax(1).amax(1),
                "confidence": lambda x=logits, s=steps: confidence(x, **s),
            }
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(arguments.rounds + 1):
                results = {}
                for name, task in sides.items():
                    duration, results[name] = clocked(task)
                    if turn:  # the first one is a warm-up
                        seconds[name].append(duration)
            differing = int((results["interpolate + argmax"] != results["label_map"]).sum())
            print(f"{case}, {kind}: {disagreement(logits):.0%} of the cells are on borders, {differing} pixels differ")
            for slow, fast in (("interpolate + argmax", "label_map"), ("interpolate + softmax + max", "confidence")):
                ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
                for name in (slow, fast):
                    print(f"  {name:<28}{spread([1000 * value for value in seconds[name]], 1)} ms")
                print(f"  ratio                       {spread(ratios, 1)}")


if __name__ == "__main__":
    main()
