"""Add close-ups of heads to a dataset of people, so that a model learns portraits from street photos.

    python examples/close_ups.py ccp closeups

writes a dataset folder with the given photos and close-ups of the heads in them. A head is found by the class hair of
the mask and fills from a quarter to all of the close-up's height. Small close-ups are enlarged and sharpened, because a
model trained on blurred close-ups only takes a sharp face for texture. The same call gives the same files.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cgrseg.data.listing import open_dataset

SIDE = 320  # shorter side of enlarged close-ups, pixels
LEAST_HAIR = 150  # pixels of hair needed to find a head
Box = tuple[int, int, int, int]  # left, top, right, bottom


def head_box(mask: np.ndarray, hair: int, skin: int) -> Box | None:
    """The hair without stray pixels and the face below it; None if there is too little hair."""
    rows, columns = np.nonzero(mask == hair)
    if len(rows) < LEAST_HAIR:
        return None
    (top, bottom), (left, right) = (np.percentile(places, (2, 98)).astype(int) for places in (rows, columns))
    side = max(right - left, 20)
    face = np.nonzero((mask[top : top + 2 * side, left:right] == skin).any(axis=1))[0]
    chin = top + int(np.percentile(face, 80)) if len(face) else bottom
    return left, top, right, max(min(bottom, top + 2 * side), min(chin, top + 2 * side))


def close_up(size: tuple[int, int], head: Box, random: np.random.Generator) -> Box:
    """A box in an image of (width, height) that the head fills to a random part."""
    left, top, right, bottom = head
    height = max(bottom - top, 24) * np.exp(random.uniform(0, np.log(4)))
    width = height * random.uniform(0.7, 1.3)
    center = (left + right) / 2 + random.uniform(-0.3, 0.3) * width
    y = top - random.uniform(-0.05, 0.4) * min(height, 2 * (bottom - top))
    x0, y0 = max(int(center - width / 2), 0), max(int(y), 0)
    return x0, y0, min(int(x0 + width), size[0]), min(int(y0 + height), size[1])


def enlarge(photo: Image.Image, mask: Image.Image, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Both with a shorter side of at least SIDE; the photo sharpened by a random amount, with some noise."""
    factor = max(SIDE / min(photo.size), 1.0)
    size = (round(photo.width * factor), round(photo.height * factor))
    larger = photo.resize(size, Image.Resampling.LANCZOS)
    sharp = larger.filter(ImageFilter.UnsharpMask(radius=factor, percent=int(random.uniform(0, 400)), threshold=0))
    noise = random.normal(0, random.uniform(0, 8), (size[1], size[0], 1))
    noisy = np.clip(np.asarray(sharp) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(noisy), mask.resize(size, Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add close-ups of heads to a dataset.")
    parser.add_argument("data", type=Path, help="dataset folder with the classes hair and skin")
    parser.add_argument("out", type=Path, help="folder for the new dataset; it must not exist yet")
    parser.add_argument("--each", type=int, default=2, help="close-ups per photo (%(default)s)")
    arguments = parser.parse_args()

    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already: name a new folder, or remove it")
    try:
        splits = {split: open_dataset(arguments.data, split) for split in ("train", "val", "test")}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    names = splits["train"].labels.names
    if not {"hair", "skin"} <= set(names):
        parser.error(f"{arguments.data} has no classes hair and skin, only {', '.join(names)}")
    hair, skin = names.index("hair"), names.index("skin")
    for split, samples in splits.items():
        for kind in ("images", "masks"):
            (arguments.out / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(len(samples)):
            pixels, mask = samples.read(index)
            photo = Image.fromarray(pixels)
            random, stem = np.random.default_rng((index, len(samples))), Path(samples.name(index)).stem
            head = head_box(np.asarray(mask), hair, skin)
            boxes = [close_up(photo.size, head, random) for _ in range(arguments.each)] if head else []
            pairs = [enlarge(photo.crop(box), mask.crop(box), random) for box in boxes]
            for number, (image, ids) in enumerate([*pairs, (photo, mask)]):
                image.save(arguments.out / "images" / split / f"{stem}-{number}.jpg", quality=95)
                ids.save(arguments.out / "masks" / split / f"{stem}-{number}.png")
    shutil.copy(arguments.data / "classes.json", arguments.out)


if __name__ == "__main__":
    main()
