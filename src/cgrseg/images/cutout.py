"""The pixels of some classes on a transparent background, with a soft edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from cgrseg.labels import LabelSpace

Array = np.ndarray[Any, np.dtype[Any]]


def cutout(photo: Array, inside: Array, membership: Array | None = None, *, width: float = 4.0) -> Image.Image:
    """RGBA of the size of the photo; transparent pixels are black, so that nothing of them is left in the file.

    Args:
        photo: uint8 RGB [H, W, 3].
        inside: bool [H, W], the pixels to keep.
        membership: float [H, W], at least 0.5 inside: makes the alpha of the edge; without it the edge is hard.
        width: pixels on each side of the edge that may be partly transparent.
    """
    alpha = Image.fromarray(inside.astype(np.uint8) * 255)
    if membership is not None:
        near = np.asarray(alpha.filter(ImageFilter.BoxBlur(width)), np.float32) / 255  # 0 or 1 away from the edge
        near = 1 - np.abs(2 * near - 1)
        soft = np.clip(2 * membership - 0.5, 0, 1)
        alpha = Image.fromarray(((inside + (soft - inside) * near) * 255 + 0.5).astype(np.uint8))
    picture = Image.fromarray(photo * (np.asarray(alpha) > 0)[..., None])
    picture.putalpha(alpha)
    return picture


def cutout_classes(label_space: LabelSpace, classes: str | int | Sequence[str | int] | None) -> list[int]:
    """The ids of the classes of a cut-out: by default all but "background".

    Raises:
        ValueError: an unknown class, or none is given and none is called "background".
    """
    if classes is not None:
        return label_space.find(classes)
    if label_space.background is None:
        names = ", ".join(label_space.names[:8]) + ", …" * (len(label_space) > 8)
        raise ValueError(f"a cut-out needs classes, since none is called background: choose from {names}")
    return [label for label in range(len(label_space)) if label != label_space.background]
