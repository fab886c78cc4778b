"""`Segmentation`: the label map of an image, and on request areas, confidence, overlay and mask file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgrseg.images import render
from cgrseg.images.files import save_image
from cgrseg.labels import LabelSpace

from .predictor import Prediction

RUN_LENGTHS = 3  # zlib's Z_RLE: label maps in half the time of the default, at almost the same size


@dataclass(eq=False)
class Segmentation:
    """The segmented image.

    Args:
        labels: class ids [H, W] at the image's own (upright) size; uint8 up to 256 classes, otherwise uint16.
        label_space: names and colours of the classes.
        photo: uint8 RGB [H, W, 3]; `overlay` draws on it.
        prediction: for `confidence`; None after `release`.
    """

    labels: np.ndarray[Any, np.dtype[Any]]
    label_space: LabelSpace = field(repr=False)
    photo: np.ndarray[Any, np.dtype[np.uint8]] = field(repr=False)
    prediction: Prediction | None = field(repr=False, default=None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all classes, by class id."""
        return self.label_space.names

    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [K]: pixels per class."""
        counts = np.zeros(len(self.names), np.int64)
        for rows in np.array_split(self.labels, max(self.labels.size >> 20, 1)):  # bincount copies to int64
            counts += np.bincount(rows.ravel(), minlength=len(counts))
        return counts

    def areas(self) -> dict[str, float]:
        """Name -> share of the pixels for the classes in this image, the largest first; sum 1."""
        areas: dict[str, float] = {}
        for name, _, share in self.legend():
            areas[name] = areas.get(name, 0.0) + share
        return areas

    def confidence(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [H, W], 0 … 1: the probability (softmax) of the winning class, computed when called.

        Raises:
            ValueError: `release` was called before.
        """
        if self.prediction is None:
            raise ValueError("the logits of this image were released: call confidence() before release()")
        return self.prediction.confidence()

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """The image with the colours of its classes drawn over it, RGB.

        Args:
            alpha: from 0 (only the image) to 1 (only the colours).
            legend: add a panel with names, colours and shares; without it the picture has the image's size.

        Raises:
            ValueError: alpha is not from 0 to 1.
        """
        picture = render.overlay(self.photo, self.labels, self.label_space, alpha=alpha)
        return render.with_legend(picture, self.legend()) if legend else picture

    def legend(self) -> list[render.Entry]:
        """(name, colour, share) of the classes in this image, the largest first."""
        counts = self.counts()
        largest_first = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        colors, pixels = self.label_space.colors, self.labels.size
        return [(self.names[label], colors[label], float(counts[label] / pixels)) for label in largest_first]

    def save(self, path: str | Path) -> None:
        """Write the label map as PNG, atomically: class ids with the class colours as palette.

        With more than 256 classes, which a palette cannot hold, it is a 16-bit grey PNG of the ids.

        Raises:
            ValueError: the path does not end in ".png".
            OSError: it cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"{path}: a label map is saved as .png, which keeps every id: choose such a name")
        save_image(render.mask_picture(self.labels, self.label_space), path, compress_type=RUN_LENGTHS)

    def release(self) -> None:
        """Free the logits; everything except `confidence` still works."""
        self.prediction = None
