"""Augmentation by a function of one's own, with random numbers that are a function of (seed, sample)."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgrseg.labels import LabelSpace

from .masks import Ids

STREAM = 5  # of random numbers: sampling.py and synthetic.py use 0 to 4


class CustomTransform:
    """Calls a function on each crop, before the flip and the photometric distortion.

    Args:
        function: (image uint8 [h, w, C], mask uint8 or uint16 [h, w]) -> the same as a pair or as a dict with "image"
            and "mask". If it takes keywords (`**data`), as transforms of albumentations do, it is called with image=
            and mask=. It gets arrays of its own, and may change them.
        labels: the classes that masks may have.
        seed: of the run.

    Raises:
        ValueError: the function is not callable, or of torchvision, whose transforms leave arrays as they are.
    """

    def __init__(self, function: Callable[..., Any], labels: LabelSpace, seed: int) -> None:
        check_transform(function)
        self.function, self.labels, self.seed = function, labels, seed
        kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        named = {name for name, kind in kinds.items() if kind == inspect.Parameter.KEYWORD_ONLY}
        self.by_name = inspect.Parameter.VAR_KEYWORD in kinds.values() or {"image", "mask"} <= named

    def __call__(self, image: Tensor, labels: Ids, number: int) -> tuple[Tensor, Ids]:
        """The crop of sample `number`, float32 [C, h, w] of whole values from 0 to 255, and its labels [h, w].

        Raises:
            ValueError: the function returned something else than an image and a mask of the same size and types.
        """
        pixels, mask = image.permute(1, 2, 0).to(torch.uint8).contiguous().numpy(), np.array(labels)
        with seeded(self.seed, number) as value:
            if hasattr(self.function, "set_random_seed"):  # albumentations keeps generators of its own
                self.function.set_random_seed(value)
            made = self.function(image=pixels, mask=mask) if self.by_name else self.function(pixels, mask)
        try:
            image_out, mask_out = (made["image"], made["mask"]) if isinstance(made, dict) else made
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"transform returned a {type(made).__name__}: return (image, mask), or a dict") from error
        image_out, mask_out = np.asarray(image_out), np.asarray(mask_out)
        size = (*labels.shape, len(image))
        fits = image_out.shape == size and mask_out.shape == labels.shape
        if not fits or image_out.dtype != np.uint8 or mask_out.dtype.kind not in "ui":
            raise ValueError(
                f"transform returned an image {image_out.dtype} {list(image_out.shape)} and a mask {mask_out.dtype} "
                f"{list(mask_out.shape)}: return uint8 {list(size)} and whole numbers {list(labels.shape)}"
            )
        wrong = mask_out[(mask_out != self.labels.ignore_index) & ((mask_out < 0) | (mask_out >= len(self.labels)))]
        if wrong.size:
            raise ValueError(
                f"transform returned a mask with class {wrong[0]}, but there are {len(self.labels)}: use "
                f"{self.labels.ignore_index} for pixels without a label"
            )
        return torch.from_numpy(np.array(image_out)).permute(2, 0, 1).float(), mask_out


def check_transform(function: Callable[..., Any]) -> None:
    """Raise ValueError if `function` cannot change arrays."""
    if not callable(function):
        raise ValueError(f"transform is {function!r}: give a function of (image, mask)")
    if type(function).__module__.startswith("torchvision."):
        raise ValueError(
            f"transform is torchvision's {type(function).__name__}, which leaves NumPy arrays unchanged: give a "
            "function of (image, mask) that calls it on tv_tensors"
        )


@contextmanager
def seeded(seed: int, number: int) -> Iterator[int]:
    """Within the block, the global generators of `random`, NumPy and torch (CPU) depend on (seed, number) only.

    Yields:
        A seed below 2^32 for other generators.
    """
    value = int(np.random.SeedSequence([seed, STREAM, number]).generate_state(1)[0])
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)
    try:
        yield value
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
