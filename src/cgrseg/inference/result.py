"""What came out for one photo: its label map, and on request areas, confidence, overlay and mask file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgrseg.images import render
from cgrseg.images.files import atomic_write
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Size

from .labelmap import confidence

RUN_LENGTHS = 3  # zlib's Z_RLE: label maps in half the time of the default, at nearly its size


@dataclass(eq=False)
class Segmentation:
    """The labelled photo.

    Args:
        labels: class ids [H, W] at the photo's own (upright) size; uint8 up to 256 classes, else uint16.
        label_space: names and colours of the classes.
        photo: the uint8 RGB [H, W, 3] photo that was labelled; `overlay` draws on it.
        logits: [1, K, h, w] as the network gave them, until `release`.
        input_size: (height, width) of the network's padded input.
        valid: (height, width) of the part of that input that was photo.
    """

    labels: np.ndarray[Any, np.dtype[Any]]
    label_space: LabelSpace = field(repr=False)
    photo: np.ndarray[Any, np.dtype[np.uint8]] = field(repr=False)
    logits: Tensor | None = field(repr=False)
    input_size: Size
    valid: Size

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all classes, by class id."""
        return self.label_space.names

    def areas(self) -> dict[str, float]:
        """Name -> share of the pixels, for the classes in this photo, the largest first; they sum to 1."""
        areas: dict[str, float] = {}
        for name, _, share in self.legend():
            areas[name] = areas.get(name, 0.0) + share
        return areas

    def confidence(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [H, W], 0 … 1: the probability (softmax) of the winning class, computed when called.

        Raises:
            ValueError: the logits were let go by `release`.
        """
        if self.logits is None:
            raise ValueError("the logits of this photo were released: call confidence() before release()")
        with torch.inference_mode():
            size = (self.labels.shape[0], self.labels.shape[1])
            values = confidence(self.logits, size, input_size=self.input_size, valid=self.valid)
            return values[0].cpu().numpy()

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """The photo in the colours of its classes, RGB.

        Args:
            alpha: 0 shows the photo alone, 1 the colours alone.
            legend: add a panel with names, colours and shares; without it the picture has the photo's size.

        Raises:
            ValueError: alpha is not from 0 to 1.
        """
        picture = render.overlay(self.photo, self.labels, self.label_space, alpha=alpha)
        return render.with_legend(picture, self.legend()) if legend else picture

    def legend(self) -> list[render.Entry]:
        """(name, colour, share) of the classes in this photo, the largest first."""
        counts = np.zeros(len(self.names), np.int64)
        for rows in np.array_split(self.labels, max(self.labels.size >> 20, 1)):  # bincount copies to int64
            counts += np.bincount(rows.ravel(), minlength=len(counts))
        largest_first = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        colors, pixels = self.label_space.colors, self.labels.size
        return [(self.names[label], colors[label], float(counts[label] / pixels)) for label in largest_first]

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG, whole or not at all: class ids with the class colours as palette.

        Beyond 256 classes, which a palette can't hold, it is a 16-bit grey PNG of the ids.

        Raises:
            ValueError: the path doesn't end in ".png".
            OSError: it can't be written there.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"{path}: a label map is saved as .png, which keeps every id: choose such a name")
        with atomic_write(path) as temporary:
            picture = render.mask_picture(self.labels, self.label_space)
            picture.save(temporary, compress_type=RUN_LENGTHS)

    def release(self) -> None:
        """Let the logits go; everything but `confidence` still works."""
        self.logits = None
