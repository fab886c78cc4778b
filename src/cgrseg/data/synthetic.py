"""Synthetic scenes with exact masks, drawn on the fly from a seed, so that everything runs without a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cgrseg.labels import LabelSpace

from .masks import Ids

Grid = np.ndarray[Any, np.dtype[np.float32]]
Outline = list[tuple[Grid, int]]  # polygons [N, 2] in a circle of radius 1, drawn in order with 1 or cut out with 0

STREAM = {"train": 2, "val": 3, "test": 4}  # sampling.py uses 0 and 1
OBJECTS = (4, 9)  # fewest and most in a scene
RADIUS = (0.1, 0.28)  # of an object, as a share of the scene's short side
BACKGROUND = (70, 70, 70)  # colour of class 0 in overlays


class Synthetic:
    """One split of synthetic scenes. Scene `index` is a function of (seed, split, index); splits share no scene.

    Class 0 is the background. Every other class has its own shape, colour and texture. Objects are rotated, squashed,
    cut off by the border and occlude each other; uneven light, noise and grey background shapes are added.

    Args:
        classes: number of classes including the background, 2 to 65535.
        size: (height, width) of a scene in pixels, each at least 16.
        count: number of scenes in this split.
        seed: seed of the whole dataset.
        split: train, val or test.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        classes: int = 6,
        size: tuple[int, int] = (256, 256),
        count: int = 256,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        if not 2 <= classes <= 65535:
            raise ValueError(f"classes is {classes}: use 2 to 65535, including the background")
        if min(size) < 16:
            raise ValueError(f"size is {size}: use at least 16 pixels in height and width")
        if count < 1:
            raise ValueError(f"count is {count}: use at least one scene")
        if split not in STREAM:
            raise ValueError(f"no split {split!r}: choose from {', '.join(STREAM)}")
        self.classes, self.size, self.count, self.seed, self.split = classes, size, count, seed, split
        self.labels = _labels(classes)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The file name of the scene."""
        return f"{self.split}_{index:05d}.png"

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """The photo in RGB and its mask of class ids (L, or I;16 past 255 classes).

        Raises:
            IndexError: there is no such scene.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"no scene {index}: the split {self.split} has {self.count}")
        random = np.random.default_rng([self.seed, STREAM[self.split], index])
        scene = _Scene(self.size, random)
        for _ in range(int(random.integers(3))):  # grey background objects of any shape
            grey = np.full(3, random.uniform(40, 210))
            scene.place(int(random.integers(len(SHAPES))), 0, 0, color=grey, random=random)
        for _ in range(int(random.integers(OBJECTS[0], OBJECTS[1] + 1))):
            label = int(random.integers(1, self.classes))
            color = np.array(self.labels.colors[label]) + random.uniform(-24, 24, 3)
            scene.place((label - 1) % len(SHAPES), (label - 1) % len(TEXTURES), label, color=color, random=random)
        mask = np.array(scene.classes, np.uint8 if self.labels.ignore_index < 256 else np.uint16)[scene.top]
        return scene.photo(random), Image.fromarray(mask)


class _Scene:
    """A scene while it is drawn: the topmost object and the texture of each pixel."""

    def __init__(self, size: tuple[int, int], random: np.random.Generator) -> None:
        self.size = size
        self.top = np.zeros(size, np.uint8)  # H W, number of the object; 0 is the background
        coarse, fine = (_smooth(size, cells, random, low=-1, high=1) for cells in (4, 24))
        self.texture = 45 * coarse + 14 * fine  # H W
        self.colors: list[Ids] = [random.uniform(90, 170) + random.uniform(-14, 14, 3)]
        self.classes = [0]

    def place(self, shape: int, texture: int, label: int, *, color: Ids, random: np.random.Generator) -> None:
        """Draw one object on top."""
        height, width = self.size
        radius = random.uniform(*RADIUS) * min(self.size)
        y, x = random.uniform(0, height), random.uniform(0, width)
        angle, squash = random.uniform(0, 2 * np.pi), random.uniform(0.75, 1)
        top, left = max(int(y - radius), 0), max(int(x - radius), 0)
        bottom, right = min(int(y + radius) + 2, height), min(int(x + radius) + 2, width)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * radius
        stencil = Image.new("L", (right - left, bottom - top))
        draw = ImageDraw.Draw(stencil)
        for corners, ink in OUTLINES[shape]:
            draw.polygon(((corners * (1, squash)) @ turn + (x - left, y - top)).ravel().tolist(), fill=ink)
        drawn = np.asarray(stencil).view(bool)  # h w
        rows = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        columns = np.arange(left, right, dtype=np.float32)[None] - np.float32(x)
        period = max(min(self.size) / 24, 4.0) * random.uniform(0.85, 1.15)
        across, along = (np.float32(2 * np.pi / period * f(angle)) for f in (np.cos, np.sin))
        pattern = TEXTURES[texture](columns * across + rows * along, rows * across - columns * along)
        region = np.s_[top:bottom, left:right]
        np.copyto(self.texture[region], 38 * pattern, where=drawn)
        np.copyto(self.top[region], np.uint8(len(self.classes)), where=drawn)
        self.colors.append(color)
        self.classes.append(label)

    def photo(self, random: np.random.Generator) -> Image.Image:
        """RGB: colours and textures in uneven light, with camera noise."""
        light = _smooth(self.size, 3, random, low=0.7, high=1.15)
        noise = random.standard_normal(self.size, np.float32) * np.float32(random.uniform(4, 14))
        grey = self.texture * light + noise
        top = self.top.astype(np.intp)
        planes = (values.take(top) * light + grey for values in np.array(self.colors, np.float32).T)
        return Image.merge("RGB", [Image.fromarray(plane.clip(0, 255).astype(np.uint8)) for plane in planes])


def _labels(classes: int) -> LabelSpace:
    """Classes named by shape; after the last shape they repeat in other colours and textures: "disc 2"."""
    shapes = list(SHAPES)
    names = ["background"]
    for place in range(classes - 1):
        turn, shape = divmod(place, len(shapes))
        names.append(shapes[shape] if turn == 0 else f"{shapes[shape]} {turn + 1}")
    numbered = LabelSpace.numbered(classes)
    return LabelSpace(names=tuple(names), colors=(BACKGROUND, *numbered.colors[1:]), ignore_index=numbered.ignore_index)


def _smooth(size: tuple[int, int], cells: int, random: np.random.Generator, *, low: float, high: float) -> Grid:
    """float32 [H, W]: random values on a grid of cells x cells, interpolated."""
    values = Image.fromarray(random.uniform(low, high, (cells, cells)).astype(np.float32))
    return np.asarray(values.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _regular(corners: int, *, radius: float = 1.0, inner: float | None = None) -> Grid:
    """A regular polygon, or a star with inner radius `inner`."""
    count = corners if inner is None else 2 * corners
    angles = 2 * np.pi * np.arange(count) / count
    reach = np.full(count, radius)
    if inner is not None:
        reach[1::2] = inner
    corners_at: Grid = (np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]).astype(np.float32)
    return corners_at


def _box(x: float, y: float, *, at: float = 0.0) -> Grid:
    return np.array([[-x, at - y], [x, at - y], [x, at + y], [-x, at + y]], np.float32)


SHAPES: dict[str, Outline] = {
    "disc": [(_regular(32), 1)],
    "star": [(_regular(5, inner=0.42), 1)],
    "ring": [(_regular(32), 1), (_regular(24, radius=0.55), 0)],
    "square": [(_regular(4), 1)],
    "bars": [(_box(0.85, 0.13, at=place), 1) for place in (-0.46, 0.0, 0.46)],
    "triangle": [(_regular(3), 1)],
    "cross": [(_box(0.95, 0.28), 1), (_box(0.28, 0.95), 1)],
    "crescent": [(_regular(32), 1), (_regular(28, radius=0.78) + np.array([0.45, 0], np.float32), 0)],
}
OUTLINES = list(SHAPES.values())
# Texture -1 … 1 at (u, v), in radians along and across the object. Seven textures and eight shapes give 56 pairs
# before the first repeats.
TEXTURES: list[Callable[[Grid, Grid], Grid]] = [
    lambda u, v: np.zeros_like(u),
    lambda u, v: np.sign(np.sin(u)),
    lambda u, v: np.sign(np.sin(u) * np.sin(v)),
    lambda u, v: np.sin(u + 2 * np.sin(v / 2)),
    lambda u, v: 1.6 * (np.sin(u) * np.sin(v) > 0.3) - 0.8,
    lambda u, v: np.sign(np.sin(np.hypot(u, v))),
    lambda u, v: np.sin(v / 3),
]
