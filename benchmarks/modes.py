"""Seconds and peak memory of the sliding window and of averaged views: `python benchmarks/modes.py slide`.

The network is replaced by one that costs almost nothing, so what is measured is the work on its logits. Run it
once a mode: the peak is the process's.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.inference import predictor as modes
from cgrseg.preprocessing import Preprocessing


class Net(nn.Module):
    """Stride-8 logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(F.avg_pool2d(images, 8, ceil_mode=True))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["slide", "slide-cosine", "tta"])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--band", type=int, default=modes.BAND_VALUES, help="floats that one band may hold")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    modes.BAND_VALUES = arguments.band

    def label(net: Net, side: int) -> Tensor:
        photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        if arguments.mode == "tta":
            return modes.averaged(net, modes.views(photo, Preprocessing(), scales=modes.SCALES), size=(side, side))
        image, valid = Preprocessing().prepare(photo)
        options = {"valid": valid, "size": (side, side), "cosine": arguments.mode == "slide-cosine"}
        return modes.slide(net, image[None], **options)

    label(Net(2), 64)
    before, start = peak(), time.process_time()
    label(Net(arguments.classes), arguments.side)
    print(
        f"{arguments.mode}, {arguments.side}x{arguments.side}, {arguments.classes} classes, bands of {arguments.band}: "
        f"{time.process_time() - start:.1f} s of CPU time, {peak() - before:.0f} MiB at the peak"
    )


if __name__ == "__main__":
    main()
