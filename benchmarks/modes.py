"""CPU time and peak memory of sliding windows and averaged scales: `python benchmarks/modes.py slide`.

The network is replaced by one that costs almost nothing, so the work on its logits is measured. Run it once per mode:
the peak is that of the process.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from torch.nn import functional as F

from cgrseg.description import Description, ModelSpec
from cgrseg.inference.network import Network
from cgrseg.inference.predictor import Predictor
from cgrseg.labels import LabelSpace


def predictor(classes: int, mode: str) -> Predictor:
    """A predictor whose network is one 1x1 convolution at stride 8."""
    mix = torch.nn.Conv2d(3, classes, 1)
    description = Description(ModelSpec(num_classes=classes), LabelSpace.numbered(classes))
    return Predictor(Network(lambda images: mix(F.avg_pool2d(images, 8, ceil_mode=True)), description), mode=mode)


def label(classes: int, mode: str, side: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    chosen = predictor(classes, mode)
    chosen.predict([chosen.prepare(photo)])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["whole", "slide", "slide-cosine", "scales", "tta"])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    label(2, arguments.mode, 64)
    before, start = peak(), time.process_time()
    label(arguments.classes, arguments.mode, arguments.side)
    print(
        f"{arguments.mode}, {arguments.side}x{arguments.side}, {arguments.classes} classes: "
        f"{time.process_time() - start:.1f} s of CPU time, {peak() - before:.0f} MiB at the peak"
    )


if __name__ == "__main__":
    main()
