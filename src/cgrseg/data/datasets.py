"""The default dataset format: images/{train,val,test}/NAME, masks/{…}/NAME.png and classes.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cgrseg.labels import LabelSpace

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class FolderDataset:
    """The pairs of one split.

    Args:
        pairs: (photo, mask) paths, sorted by name.
        labels: names, colours and the ignore index.
    """

    pairs: tuple[tuple[Path, Path], ...]
    labels: LabelSpace

    @classmethod
    def open(cls, folder: str | Path, split: str) -> FolderDataset:
        """Read `folder/images/split`, `folder/masks/split` and `folder/classes.json`.

        Raises:
            FileNotFoundError: a folder, the class list or the mask of a photo is missing; it names it.
            ValueError: the split holds no photos.
        """
        root = Path(folder)
        photos, masks = root / "images" / split, root / "masks" / split
        for needed in (photos, masks):
            if not needed.is_dir():
                raise FileNotFoundError(
                    f"no folder {needed}: a dataset has images/{split}, masks/{split}, classes.json"
                )
        labels = LabelSpace.from_classes_json(root / "classes.json")
        pairs = []
        for photo in sorted(path for path in photos.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES):
            mask = masks / f"{photo.stem}.png"
            if not mask.is_file():
                raise FileNotFoundError(f"{photo} has no mask: expected {mask}")
            pairs.append((photo, mask))
        if not pairs:
            raise ValueError(f"{photos} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
        return cls(pairs=tuple(pairs), labels=labels)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """The photo in RGB and its mask as class ids in one channel, of equal size.

        Raises:
            ValueError: a file can't be decoded, the sizes differ, the mask has colours, or an id is not a class.
        """
        photo_path, mask_path = self.pairs[index]
        try:
            with Image.open(photo_path) as file:
                photo = ImageOps.exif_transpose(file).convert("RGB")
            with Image.open(mask_path) as mask:
                mask.load()
        except OSError as error:
            raise ValueError(f"can't read the pair {photo_path.name}, {mask_path.name}: {error}") from error
        if mask.mode not in ("L", "P", "I;16", "I", "1"):
            raise ValueError(f"mask {mask_path} has mode {mask.mode}: masks hold one class id a pixel, not colours")
        if mask.size != photo.size:
            raise ValueError(f"mask {mask_path} is {mask.size}, but its photo is {photo.size} (width, height)")
        ids = np.asarray(mask)
        wrong = ids[(ids >= len(self.labels)) & (ids != self.labels.ignore_index)]
        if wrong.size:
            raise ValueError(
                f"mask {mask_path} holds class {wrong.flat[0]}, but classes.json ends at {len(self.labels) - 1}: "
                "add the class, or map it to ignore"
            )
        return photo, Image.fromarray(ids)


def to_class_ids(mask: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A mask as int64 class ids [H, W]."""
    return np.asarray(mask).astype(np.int64)
