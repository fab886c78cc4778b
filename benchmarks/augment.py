"""Training crops: cropping before resizing against resizing before cropping. `python benchmarks/augment.py`.

Measures the geometric part of the released augmentation (draw the size, draw the crop by the 75 % rule, resize photo
and mask) on one thread, on masks without a dominant class. The reference resizes with torchvision, then crops. Both
make the same crops from the same random numbers and run in turn, so other load slows both. The result is the ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from cgrseg.data.settings import Augmentation
from cgrseg.data.synthetic import Synthetic
from cgrseg.data.transforms import crop_mask, crop_photo, draw_region, resized_size

Pixels = np.ndarray[Any, Any]
Pair = tuple[Pixels, Pixels]
IGNORE = 255
CASES = {
    "683x512 fitted into 2048x512": ((512, 683), (2048, 512)),
    "2048x1024 fitted into 2048x512": ((1024, 2048), (2048, 512)),
    "2048x1024 at its own size": ((1024, 2048), None),
}


def crop_first(photo: Pixels, mask: Pixels, augmentation: Augmentation, seed: int) -> tuple[torch.Tensor, Pixels]:
    """The order used in training."""
    random = np.random.default_rng(seed)
    size = resized_size(mask.shape, augmentation, random)
    region = draw_region(mask, size, augmentation, IGNORE, random)
    return crop_photo(photo, size, region), crop_mask(mask, size, region)


def resize_first(photo: Pixels, mask: Pixels, augmentation: Augmentation, seed: int) -> tuple[torch.Tensor, Pixels]:
    """The usual order, with torchvision: resize the whole photo and mask, then crop."""
    random = np.random.default_rng(seed)
    size = resized_size(mask.shape, augmentation, random)
    image = V.resize(torch.from_numpy(photo).permute(2, 0, 1), list(size), antialias=False)
    ids = torch.from_numpy(mask)[None]
    resized = V.resize(ids, list(size), interpolation=V.InterpolationMode.NEAREST_EXACT)[0].numpy()
    top, left, height, width = draw_region(resized, size, augmentation, IGNORE, random)
    region = np.s_[top : top + height, left : left + width]
    return image[(slice(None), *region)].float(), resized[region]


def pairs(size: tuple[int, int], count: int) -> list[Pair]:
    """Synthetic scenes of 512 pixels height, enlarged to the size; the background is divided into three classes."""
    scenes, shape, found = Synthetic(size=(512, 512 * size[1] // size[0]), count=count), size[::-1], []
    for index in range(count):
        photo, mask = scenes.read(index)
        ids = np.array(mask.resize(shape, Image.Resampling.NEAREST))
        tiles = 6 + np.add.outer(np.arange(size[0]) // 100, np.arange(size[1]) // 100) % 3
        found.append((np.array(photo.resize(shape)), np.where(ids == 0, tiles, ids).astype(np.uint8)))
    return found


def seconds(task: Callable[..., Any], found: list[Pair], augmentation: Augmentation, first_seed: int) -> float:
    start = time.perf_counter()
    for number, (photo, mask) in enumerate(found):
        task(photo, mask, augmentation, first_seed + number)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--crop", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, 1 thread, crops of {arguments.crop}, medians of {arguments.rounds} rounds in turn"
    )
    for name, (size, resize_to) in CASES.items():
        augmentation = Augmentation(crop=arguments.crop, resize_to=resize_to)
        found = pairs(size, arguments.photos)
        same = [crop_first(*found[0], augmentation, seed)[1] for seed in range(5)]
        assert all(
            (ids == resize_first(*found[0], augmentation, seed)[1]).mean() > 0.999 for seed, ids in enumerate(same)
        )
        taken: dict[Callable[..., Any], list[float]] = {resize_first: [], crop_first: []}
        for turn in range(arguments.rounds + 1):
            for task, spent in taken.items():
                duration = seconds(task, found, augmentation, 1000 * turn)
                if turn:  # the first one is a warm-up
                    spent.append(duration)
        slow, fast = (len(found) / np.median(spent) for spent in taken.values())
        ratios = np.array(taken[resize_first]) / np.array(taken[crop_first])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"{name}: resize everything {slow:.1f} samples/s, crop first {fast:.1f}; "
            f"ratio {middle:.2f} ({low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
