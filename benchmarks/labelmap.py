"""Speed of label maps against two ways to write them in torch: `python benchmarks/labelmap.py --threads 2`.

"usual" is what mmsegmentation and transformers do: bilinear resizing, then argmax, of logits in NCHW order. "best" is
the best line that we know: the same with the logits in channels-last order. All run in turn, so other load slows all.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from claims import medians, store, times_as_fast
from torch import Tensor
from torch.nn import functional as F

from cgrseg.inference.labelmap import label_map
from cgrseg.measure.interleave import take_turns
from cgrseg.measure.stages import natural_logits

SIZE = (512, 512)


def one_line(logits: Tensor, layout: torch.memory_format) -> Tensor:
    """Resize and argmax; the copy to the memory layout is part of it."""
    return F.interpolate(logits.contiguous(memory_format=layout), SIZE, mode="bilinear").argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classes", type=int, nargs="+", default=[7, 12, 19, 150])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for classes in arguments.classes:
        logits = natural_logits(classes, (64, 64))
        ways: dict[str, Callable[[], Any]] = {
            "usual": partial(one_line, logits, torch.contiguous_format),
            "best": partial(one_line, logits, torch.channels_last),
            "label_map": partial(label_map, logits, SIZE),
        }
        differing = int((ways["usual"]() != ways["label_map"]()).sum())
        rounds = medians(take_turns(ways, rounds=arguments.rounds))
        row = {
            "classes": classes,
            **{f"{name}_ms": round(1000 * statistics.median(seconds), 2) for name, seconds in rounds.items()},
            "times_as_fast_as_usual": times_as_fast(rounds["usual"], rounds["label_map"]),
            "times_as_fast_as_best": times_as_fast(rounds["best"], rounds["label_map"]),
            "differing_pixels": differing,
        }
        print(row, flush=True)
        results.append(row)
    store(f"labelmap-{arguments.threads}-threads", results)


if __name__ == "__main__":
    main()
