"""Datasets on disk. The default: images/{train,val,test}/NAME, masks/{…}/NAME.png and classes.json."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

from cgrseg.images.photos import DAMAGE
from cgrseg.labels import LabelSpace

from .check.report import Finding
from .dataset import Labelled, Samples, describe_map, read_mask_file, to_class_ids
from .formats import FORMATS
from .settings import Format

__all__ = ["FolderDataset", "Format", "Labelled", "Samples", "describe_map", "open_dataset", "to_class_ids"]

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
SPLITS = ("train", "val", "test")
VAL_SHARE = 0.1  # of the training photos, where a folder has no val split


def open_dataset(root: str | Path, split: str, format: Format = "folder") -> Labelled:
    """One split of a dataset.

    Args:
        root: its folder.
        split: train, val or test.
        format: how the folder is laid out and what its mask ids mean.

    Raises:
        FileNotFoundError: a folder, a list or a mask is missing; it names it.
        ValueError: the format or the split is unknown, or the split is empty.
    """
    if format not in get_args(Format):
        raise ValueError(f"no dataset format {format!r}: choose from {', '.join(get_args(Format))}")
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose from {', '.join(SPLITS)}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {root}: check the path of the dataset")
    if format == "folder":
        return FolderDataset.open(root, split)
    dataset = FORMATS[format](Path(root), split)
    _check(dataset.pairs)
    return dataset


@dataclass(frozen=True)
class FolderDataset(Labelled):
    """The pairs of one split of the folder format."""

    @classmethod
    def open(cls, folder: str | Path, split: str) -> FolderDataset:
        """Read `folder/images/split`, `folder/masks/split` and `folder/classes.json`.

        Without a train folder, photos right in `images` (masks right in `masks`) are the train split. Without a
        val folder, a tenth of the train split is val, chosen by a hash of the file name, so that it stays the
        same when photos are added. Without classes.json, the classes are the ids found in the masks of all
        splits, named by number.

        Raises:
            FileNotFoundError: a folder or the mask of a photo is missing; it names it.
            ValueError: the split holds no photos, or two photos share one mask.
        """
        root = Path(folder)
        pairs = folder_pairs(root, split)
        shared = shared_stems([photo for photo, _ in pairs])
        if shared:
            photos = pairs[0][0].parent
            raise ValueError(f"{photos} holds two photos named {shared[0]}, which would share one mask: rename one")
        _check(pairs)
        return cls(pairs=pairs, labels=folder_labels(root), split=split)


def folder_pairs(root: Path, split: str) -> tuple[tuple[Path, Path], ...]:
    """The photos of a split of the folder format, each with the path where its mask belongs.

    Raises:
        FileNotFoundError: a folder is missing; it names it.
        ValueError: the split holds no photos.
    """
    carved = is_carved(root, split)
    photos, masks = split_folders(root, "train" if carved else split)
    for needed in (photos, masks):
        if not needed.is_dir():
            raise FileNotFoundError(f"no folder {needed}: a dataset has images/{split}, masks/{split}, classes.json")
    paths = photo_files(photos)
    if not paths:
        raise ValueError(f"{photos} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    if carved:
        chosen = _val_names([path.name for path in paths], photos)
        paths = [path for path in paths if (path.name in chosen) == (split == "val")]
    return tuple((path, masks / f"{path.stem}.png") for path in paths)


def folder_labels(root: Path) -> LabelSpace:
    """The classes of the folder format: classes.json, or else the ids that the masks hold.

    Raises:
        ValueError: classes.json is no class list, or a mask can't be read.
    """
    listed = root / "classes.json"
    return LabelSpace.from_classes_json(listed) if listed.is_file() else _found_classes(root)


def is_carved(root: Path, split: str) -> bool:
    """Whether train and val are parts of one folder."""
    return split in ("train", "val") and not (root / "images" / "val").is_dir()


def shared_stems(photos: Sequence[Path]) -> list[str]:
    """Names that more than one photo has but for its ending."""
    return sorted(stem for stem, count in Counter(path.stem for path in photos).items() if count > 1)


def _check(pairs: Sequence[tuple[Path, Path]]) -> None:
    for photo, mask in pairs:
        if not photo.is_file():
            raise FileNotFoundError(f"no photo {photo}: unpack the dataset again, or remove it from the list")
        if not mask.is_file():
            raise FileNotFoundError(f"{photo} has no mask: expected {mask}")


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """Where the folder format keeps the photos and the masks of a split."""
    if split == "train" and not any((root / side / "train").is_dir() for side in ("images", "masks")):
        return root / "images", root / "masks"
    return root / "images" / split, root / "masks" / split


def photo_files(folder: Path) -> list[Path]:
    """The photos in a folder by name, hidden files left out."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


def _val_names(names: list[str], photos: Path) -> set[str]:
    if len(names) < 2:
        raise ValueError(f"{photos} holds one photo and there is no val split: add photos, or images/val and masks/val")
    place = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 for name in names}
    chosen = {name for name in names if place[name] < VAL_SHARE}
    if not 0 < len(chosen) < len(names):  # a handful of photos: one to watch, the rest to train on
        chosen = {min(names, key=place.__getitem__)}
    return chosen


def _found_classes(root: Path) -> LabelSpace:
    """Numbered classes for the ids that the masks of all splits hold.

    Raises:
        ValueError: a mask can't be read, or there is no id but the ignored ones.
    """
    folders = {split_folders(root, split)[1] for split in SPLITS}
    paths = [path for folder in sorted(folders) if folder.is_dir() for path in sorted(folder.glob("[!.]*.png"))]
    found: set[int] = set()
    for path in tqdm(paths, unit="mask", desc="no classes.json: find ids", leave=False):
        try:
            found |= set(np.unique(read_mask_file(path)).tolist())
        except DAMAGE as error:
            raise ValueError(f"can't read {path} ({error}): repair it, or give a classes.json") from error
    wide = max(found, default=0) > 255
    ids = sorted(found - ({65535} if wide else {255}))
    if not ids:
        raise ValueError(f"the masks in {root / 'masks'} hold no class id but the ignored 255: give a classes.json")
    numbered = LabelSpace.numbered(len(ids))
    ignore = 65535 if wide else 255
    return LabelSpace(
        names=tuple(f"class {number}" for number in ids),
        colors=numbered.colors,
        ignore_index=ignore,
        raw_ids={**{number: place for place, number in enumerate(ids)}, 255 if not wide else 65535: ignore},
    )


@dataclass(frozen=True)
class Listing:
    """The splits of a dataset, whether their files are there or not.

    Args:
        splits: each with at least one pair; masks are taken at their word where `labels` is None.
        labels: the classes, or None where they can't be told.
        notes: split -> where it comes from, if not from a folder of its own.
        findings: what is wrong with folders, lists and names.
    """

    splits: tuple[Labelled, ...]
    labels: LabelSpace | None
    notes: dict[str, str]
    findings: tuple[Finding, ...]


def list_dataset(root: Path, format: Format) -> Listing:
    """List all splits of a dataset.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such format.
    """
    if format not in get_args(Format):
        raise ValueError(f"no dataset format {format!r}: choose from {', '.join(get_args(Format))}")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: check the path of the dataset")
    return _list_folder(root) if format == "folder" else _list_known(root, format)


def _list_known(root: Path, format: Format) -> Listing:
    splits: list[Labelled] = []
    findings: list[Finding] = []
    for split in ("train", "val"):
        try:
            samples = FORMATS[format](root, split)
        except (OSError, ValueError) as error:
            findings.append(Finding("layout", str(error)))
            continue
        findings += _missing(samples.pairs)
        splits.append(samples)
    return Listing(tuple(splits), splits[0].labels if splits else None, {}, tuple(findings))


def _list_folder(root: Path) -> Listing:
    findings = list(_stray_folders(root))
    labels = None
    try:
        labels = folder_labels(root)
    except (OSError, ValueError) as error:
        findings.append(Finding("class list", str(error)))
    splits: list[Labelled] = []
    for split in SPLITS:
        if split == "test" and not any((root / side / split).is_dir() for side in ("images", "masks")):
            continue
        try:
            pairs = folder_pairs(root, split)
        except (OSError, ValueError) as error:
            findings.append(Finding("layout", str(error)))
            continue
        findings += _missing(pairs)
        if not (split == "val" and is_carved(root, split)):
            findings += _folder_names(*split_folders(root, split))
        splits.append(Labelled(pairs, labels or LabelSpace.numbered(255), split))
    notes = {"val": "a share of train, chosen by name"} if is_carved(root, "val") else {}
    return Listing(tuple(splits), labels, notes, tuple(dict.fromkeys(findings)))


def _missing(pairs: tuple[tuple[Path, Path], ...]) -> Iterator[Finding]:
    """Listed photos that are not there, and photos without a mask."""
    for photo, mask in pairs:
        if not photo.is_file():
            cure = "unpack the dataset again, or remove it from the list"
            yield Finding("listed photos that are not there", f"no photo {photo}: {cure}")
        elif not mask.is_file():
            alike = [path.name for path in sorted(mask.parent.glob(f"{_escaped(photo.stem)}*")) if path.is_file()]
            cure = "add it, or remove the photo"
            if alike and Path(alike[0]).stem == photo.stem:
                cure = f"{alike[0]} is no PNG: convert it to PNG"
            elif alike:
                cure = f"rename {alike[0]}, if that is it"
            yield Finding("photos without a mask", f"{photo} has no mask {mask}: {cure}")


def _folder_names(photos: Path, masks: Path) -> Iterator[Finding]:
    """Masks without a photo, and photos that would share a mask."""
    paths = photo_files(photos)
    for stem in shared_stems(paths):
        twins = ", ".join(path.name for path in paths if path.stem == stem)
        yield Finding("photos that share a mask", f"{photos} holds {twins}, which would share one mask: rename one")
    stems = {path.stem for path in paths}
    for mask in sorted(masks.glob("[!.]*.png")):
        if mask.stem not in stems:
            message = f"{mask} has no photo in {photos}: it is not used; add the photo, or remove the mask"
            yield Finding("masks without a photo", message, ruins=False)


def _stray_folders(root: Path) -> Iterator[Finding]:
    """Sub-folders that look like splits but have another name."""
    for side in ("images", "masks"):
        if not (root / side).is_dir():
            yield Finding("layout", f"no folder {root / side}: a dataset has images/, masks/ and classes.json")
            continue
        for path in sorted((root / side).iterdir()):
            if path.is_dir() and path.name not in SPLITS and not path.name.startswith("."):
                message = f"{path} is none of {', '.join(SPLITS)}: it is not used; rename or remove it"
                yield Finding("unused folders", message, ruins=False)


def _escaped(name: str) -> str:
    """A name as a glob pattern that means itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
