"""The folder format: images/{train,val,test}, masks/{train,val,test} and classes.json."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cgrseg._text import printable
from cgrseg.images.find import Found, describe_skipped, find_files
from cgrseg.images.photos import IMAGE_SUFFIXES
from cgrseg.labels import LabelSpace

from .dataset import DataProblem, unreadable
from .masks import (
    PASSING,
    ColoredMask,
    are_grey_levels,
    count_ids,
    is_binary,
    passes_between,
    read_mask_file,
    solid_values,
)

SPLITS = ("train", "val", "test")
MISNAMED = {"training", "validation", "valid", "dev", "eval", "evaluation", "testing"}  # folders that mean a split
VAL_SHARE = 0.1  # of the training photos, if there is no val split
BINARY = (
    "hold only 0 and 255, black and white, but 255 means ignored: `cgrseg convert-masks FOLDER --out NEW_FOLDER` makes "
    "0 the background and 255 the object"
)
SMOOTHED = "the mask was resized with interpolation or anti-aliased; export it again with nearest neighbour"


@dataclass(frozen=True)
class FolderFiles:
    """The files of one split in the folder format.

    Args:
        photos, masks: the folders.
        pairs: each photo with its mask, or with the path where the mask is missing.
        found_photos, found_masks: all files in the folders.
    """

    photos: Path
    masks: Path
    pairs: tuple[tuple[Path, Path], ...]
    found_photos: Found
    found_masks: Found

    def ambiguous(self) -> Iterator[DataProblem]:
        """Photos that share one mask, and masks that share one photo."""
        for kind, folder, found in (
            ("photos", self.photos, self.found_photos),
            ("masks", self.masks, self.found_masks),
        ):
            other = "masks" if kind == "photos" else "photos"
            for names in by_key(found.files, folder).values():
                if len(names) > 1:
                    listed = ", ".join(path.relative_to(folder).as_posix() for path in names)
                    cause = f"holds {listed}, which would share one of the {other}: rename or remove one"
                    yield DataProblem(f"{kind} that share {other}", cause, folder)


def folder_files(root: Path, split: str) -> FolderFiles:
    """Find the photos and masks of a split of the folder format.

    Raises:
        FileNotFoundError: a folder is missing; it names it.
        ValueError: the split has no photos.
    """
    carved = is_carved(root, split)
    photos, masks = split_folders(root, "train" if carved else split)
    for needed in (photos, masks):
        if not needed.is_dir():
            raise FileNotFoundError(f"no folder {needed}: a dataset has images/{split}, masks/{split}, classes.json")
    found_photos, found_masks = split_files(photos, IMAGE_SUFFIXES), split_files(masks, {".png"})
    paths = found_photos.files
    if not paths:
        if found_photos.skipped:
            others = describe_skipped(found_photos.skipped, photos)
            raise ValueError(printable(f"{photos} has no photos: convert to JPEG or PNG what was left out, {others}"))
        raise ValueError(printable(f"{photos} has no photos: add some ({', '.join(sorted(IMAGE_SUFFIXES))})"))
    if carved:
        chosen = _val_keys(paths, photos)
        paths = [path for path in paths if (match_key(path, photos) in chosen) == (split == "val")]
    masks_by_key = by_key(found_masks.files, masks)
    pairs = []
    for path in paths:
        expected = masks / path.relative_to(photos).with_suffix(".png")
        pairs.append((path, masks_by_key.get(match_key(path, photos), [expected])[0]))
    return FolderFiles(photos, masks, tuple(pairs), found_photos, found_masks)


def folder_labels(root: Path) -> LabelSpace:
    """The classes of the folder format: classes.json, or without one the ids in the masks.

    Raises:
        ValueError: classes.json is invalid, a mask can't be read, or the ids in the masks can't be classes.
    """
    for listed in (root / "classes.json", root / "masks" / "classes.json"):
        if listed.is_file():
            return LabelSpace.from_classes_json(listed)
        if os.path.lexists(listed):
            raise ValueError(f"{listed} is not a regular file, or a broken link: replace it")
    return _classes_in_masks(root)


def is_carved(root: Path, split: str) -> bool:
    """Whether train and val are parts of one folder."""
    return split in ("train", "val") and not (root / "images" / "val").is_dir()


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of the photos and of the masks of a split in the folder format."""
    if split == "train" and not any((root / side / "train").is_dir() for side in ("images", "masks")):
        return root / "images", root / "masks"
    return root / "images" / split, root / "masks" / split


def split_files(folder: Path, suffixes: frozenset[str] | set[str]) -> Found:
    """The files of a split. `images` and `masks` themselves hold other splits, which are left out."""
    own = folder.name in ("images", "masks")
    splits = [name for name in os.listdir(folder) if means_split(name)] if own else []
    return find_files(folder, suffixes, without=[*splits, "classes.json"])


def means_split(name: str) -> bool:
    return name.casefold() in {*SPLITS, *MISNAMED}


def match_key(path: Path, folder: Path) -> str:
    """What a photo and its mask have in common: the path without suffix, in Unicode's composed form."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def by_key(paths: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    table: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        table[match_key(path, folder)].append(path)
    return dict(table)


def _val_keys(paths: Sequence[Path], photos: Path) -> set[str]:
    """The keys of the photos that become val: a tenth by hash, at least one of each side."""
    if len(paths) < 2:
        raise ValueError(f"{photos} has one photo and there is no val split: add photos, or images/val and masks/val")
    names = {path: unicodedata.normalize("NFC", path.relative_to(photos).as_posix()) for path in paths}
    place = {path: int.from_bytes(hashlib.sha256(os.fsencode(names[path])).digest()[:8]) / 2**64 for path in paths}
    chosen = [path for path in paths if place[path] < VAL_SHARE]
    if not 0 < len(chosen) < len(paths):  # very few photos: one for val, the rest for train
        chosen = [min(paths, key=place.__getitem__)]
    return {match_key(path, photos) for path in chosen}


def _classes_in_masks(root: Path) -> LabelSpace:
    """Numbered classes for the ids in the masks of all splits.

    Raises:
        ValueError: a mask can't be read, or its ids are colours, binary, grey levels or interpolated.
    """
    folders = sorted({split_folders(root, split)[1] for split in SPLITS})
    paths = [path for folder in folders if folder.is_dir() for path in split_files(folder, {".png"}).files]
    found: set[int] = set()
    smooth: list[Path] = []
    for path in tqdm(paths, unit="mask", desc="no classes.json: find ids", delay=1, leave=False, disable=None):
        try:
            mask = read_mask_file(path)
        except ColoredMask:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(str(unreadable(path, error, kind="masks"))) from error
        held = set(count_ids(mask)[0].tolist())
        found |= held
        thin = len(held - set(solid_values(mask).tolist())) if len(held) > 2 else 0  # ids that were hardly drawn
        if thin > 2 and (passes_between(mask) > PASSING or thin > max(len(held) / 2, 8)):
            smooth.append(path)
    masks = root / "masks"
    ignored = 65535 if max(found, default=0) > 255 else 255
    ids = sorted(found - {ignored})
    if smooth:
        raise ValueError(
            f"{smooth[0]}: {SMOOTHED} ({len(smooth)} of {len(paths)} masks; no classes.json lists the ids)"
        )
    if is_binary(found):
        raise ValueError(f"the masks in {masks} {BINARY}")
    if ignored in found and are_grey_levels(found):
        raise ValueError(
            f"the masks in {masks} hold the grey levels {', '.join(map(str, sorted(found)))}, of which 255 would be "
            "ignored: `cgrseg convert-masks` makes class ids of them, or list the ids in classes.json"
        )
    if len(ids) < 2:
        only = f"only the id {ids[0]}" if ids else "no class id but the ignored 255"
        raise ValueError(f"the masks in {masks} hold {only}: a training needs two classes or more")
    return LabelSpace(
        names=tuple(f"class {number}" for number in ids),
        colors=LabelSpace.numbered(len(ids)).colors,
        ignore_index=ignored,
        raw_ids={**{number: place for place, number in enumerate(ids)}, ignored: ignored},
    )
