"""A `torch.utils.data.Dataset` of (image, mask) as a labelled split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from cgrseg.images.bands import read_image
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Pixels

from .dataset import SegmentationDataset


class TorchSamples:
    """One labelled split from a dataset of one's own.

    Args:
        dataset: has a length; item i is a pair (image, mask). The image is uint8 [H, W, channels] or a PIL image. The
            mask is whole numbers [H, W], or a PIL image of ids: class ids or the ignore index.
        labels: the classes: names in the order of their ids, or a LabelSpace.
        split: train, val or test.
        channels: of the images.

    Raises:
        ValueError: the dataset has no length or no items, or the first item is not such a pair.
    """

    def __init__(
        self, dataset: Dataset[Any], labels: LabelSpace | Sequence[str], split: str, *, channels: int = 3
    ) -> None:
        kind = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(f"{split} is a {kind}: give a dataset with __len__ and __getitem__")
        if not len(dataset):
            raise ValueError(f"{split} is a {kind} of length 0: give one with images")
        self.dataset, self.labels, self.split, self.channels = dataset, label_space(labels), split, channels
        self._ids = SegmentationDataset((), self.labels, split)
        self.read(0)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """The number of the item: "train_00012"."""
        return f"{self.split}_{index:05d}"

    def read(self, index: int) -> tuple[Pixels, Image.Image]:
        """The image, uint8 [H, W, C], and its mask of class ids.

        Raises:
            ValueError: the dataset cannot read the item, it is not a pair of image and mask of equal size, or the image
                has another number of channels.
        """
        where = f"item {index} of {self.split} ({type(self.dataset).__name__})"
        try:
            item = self.dataset[index]
        except (OSError, ValueError) as error:
            raise ValueError(f"{where} cannot be read ({error}): repair or remove it") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"{where} is a {type(item).__name__}: return a pair (image, mask)")
        image, raw = np.asarray(item[0]), np.asarray(item[1])
        if isinstance(item[0], Image.Image):
            try:
                image = read_image(item[0], self.channels)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        fits = image.ndim == 3 and image.shape == (*raw.shape, self.channels)
        if not fits or image.dtype != np.uint8 or raw.dtype.kind not in "ui":
            raise ValueError(
                f"{where} is an image {image.dtype} {list(image.shape)} and a mask {raw.dtype} {list(raw.shape)}: "
                f"return uint8 [H, W, {self.channels}] and whole numbers [H, W]"
            )
        classes = self._ids.classes_of(raw)
        if (wrong := raw[classes < 0]).size:
            raise ValueError(
                f"{where} holds class {wrong[0]}, but there are {len(self.labels)} classes, from 0 on: add the class "
                f"to labels, or use {self.labels.ignore_index} to ignore these pixels"
            )
        stored = np.uint8 if max(self.labels.ignore_index, len(self.labels) - 1) < 256 else np.uint16
        return image, Image.fromarray(classes.astype(stored))


def label_space(labels: LabelSpace | Sequence[str]) -> LabelSpace:
    """Names as a LabelSpace with distinct colours.

    Raises:
        ValueError: there are no names, not all are texts, or two are equal.
    """
    if isinstance(labels, LabelSpace):
        return labels
    if isinstance(labels, str) or not labels:
        raise ValueError(f"labels is {labels!r}: give the class names in the order of their ids")
    if repeated := [name for name in labels if list(labels).count(name) > 1]:
        raise ValueError(f"labels has {repeated[0]!r} twice: give each class a name of its own")
    numbered = LabelSpace.numbered(len(labels))
    return LabelSpace(names=tuple(labels), colors=numbered.colors, ignore_index=numbered.ignore_index)
