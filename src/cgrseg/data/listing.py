"""Open a split of a dataset, or list all splits with what is wrong with their files."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from cgrseg.images.find import BROKEN, CLOSED, HIDDEN, describe_skipped
from cgrseg.images.photos import IMAGE_SUFFIXES
from cgrseg.labels import LabelSpace

from .dataset import DataProblem, SegmentationDataset
from .folder import (
    SPLITS,
    FolderFiles,
    by_key,
    folder_files,
    folder_labels,
    is_carved,
    match_key,
    means_split,
    split_files,
    split_folders,
)
from .formats import FORMATS
from .settings import Format


def open_dataset(root: str | Path, split: str, format: Format = "folder", *, channels: int = 3) -> SegmentationDataset:
    """One split of a dataset.

    The folder format: photos in `root/images/SPLIT`, with sub-folders; for each a PNG mask of the same name in
    `root/masks/SPLIT`; and `root/classes.json` (or `root/masks/classes.json`). Without a train folder, `images` and
    `masks` themselves are the train split. Without a val folder, a tenth of the train split is val, chosen by a hash
    of the name, so that it stays the same when photos are added. Without classes.json, the classes are the ids in
    the masks of all splits, named by number.

    Args:
        root: its folder.
        split: train, val or test.
        format: how the folder is laid out and what its mask ids mean.
        channels: of the photos: 3 for RGB, 1 for grey, or the number of bands.

    Raises:
        FileNotFoundError: a folder, a list or a mask is missing; it names it.
        ValueError: the format or the split is unknown, the split is empty, two photos share a mask, or the class list
            is invalid.
    """
    _check_root(Path(root), format)
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose from {', '.join(SPLITS)}")
    if format == "folder":
        files = folder_files(Path(root), split)
        for problem in files.ambiguous():
            raise ValueError(str(problem))
        for problem in _lost_files(files):
            raise FileNotFoundError(str(problem))
        dataset = SegmentationDataset(files.pairs, folder_labels(Path(root)), split, folder=files.photos)
    else:
        dataset = FORMATS[format](Path(root), split)
    for problem in missing_files(dataset.pairs):
        raise FileNotFoundError(str(problem))
    return replace(dataset, channels=channels)


@dataclass(frozen=True)
class Listing:
    """The splits of a dataset, whether their files exist or not.

    Args:
        splits: each with at least one pair; masks are not compared with classes if `labels` is None.
        labels: the classes, or None if they are unknown.
        notes: split -> where it comes from, if not from its own folder.
        problems: what is wrong with folders, lists and names.
    """

    splits: tuple[SegmentationDataset, ...]
    labels: LabelSpace | None
    notes: dict[str, str]
    problems: tuple[DataProblem, ...]


def list_dataset(root: Path, format: Format, wanted: Sequence[str] = SPLITS) -> Listing:
    """List the wanted splits of a dataset, if it has them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such format.
    """
    _check_root(root, format)
    return _list_folder(root, wanted) if format == "folder" else _list_known(root, format, wanted)


def _check_root(root: Path, format: Format) -> None:
    if format not in get_args(Format):
        raise ValueError(f"no dataset format {format!r}: choose from {', '.join(get_args(Format))}")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: check the path of the dataset")


def photo_files(folder: Path) -> list[Path]:
    """The photos in a folder of a split and its sub-folders, sorted."""
    return split_files(folder, IMAGE_SUFFIXES).files


def missing_files(pairs: Sequence[tuple[Path, Path]]) -> Iterator[DataProblem]:
    """Listed photos that do not exist, and photos without a mask."""
    siblings: dict[Path, list[str]] = {}
    for photo, mask in pairs:
        if not photo.is_file():
            cause = "does not exist or is not a regular file: unpack the dataset again, or remove it from the list"
            yield DataProblem("listed photos that do not exist", cause, photo)
        elif not mask.is_file():
            folder = mask.parent
            if folder not in siblings:
                siblings[folder] = sorted(os.listdir(folder)) if folder.is_dir() else []
            name = f"NAME{mask.suffix}" if mask.stem == photo.stem else mask.name
            cause = f"has no mask {name} in {folder}: {_missing_cure(mask, siblings[folder])}"
            yield DataProblem("photos without a mask", cause, photo)


def _missing_cure(mask: Path, names: Sequence[str]) -> str:
    """What to do about a missing mask, in view of the sorted names in its folder."""
    start = bisect_left(names, mask.stem)
    rest = names[start].removeprefix(mask.stem) if start < len(names) and names[start].startswith(mask.stem) else ""
    if rest.lower() in (".jpg", ".jpeg"):
        return f"there is a {rest}, but JPEG changes ids; export it again as PNG, or see `cgrseg convert-masks`"
    if rest and rest.lower() in IMAGE_SUFFIXES:
        return f"there is a {rest}; convert it to PNG"
    if rest.lower().endswith(mask.suffix):
        return f"rename NAME{rest} to NAME{mask.suffix}, if that is the mask"
    return "add it, or remove the photo"


def _list_known(root: Path, format: Format, wanted: Sequence[str]) -> Listing:
    splits: list[SegmentationDataset] = []
    problems: list[DataProblem] = []
    for split in ("train", "val") if wanted == SPLITS else wanted:
        try:
            samples = FORMATS[format](root, split)
        except (OSError, ValueError) as error:
            problems.append(DataProblem("layout", str(error)))
            continue
        problems += missing_files(samples.pairs)
        splits.append(samples)
    return Listing(tuple(splits), splits[0].labels if splits else None, {}, tuple(problems))


def _list_folder(root: Path, wanted: Sequence[str]) -> Listing:
    missing = [root / side for side in ("images", "masks") if not (root / side).is_dir()]
    if missing:
        cause = "no such folder: a dataset has images/, masks/ and classes.json"
        return Listing((), None, {}, tuple(DataProblem("layout", cause, folder) for folder in missing))
    problems = list(_stray_folders(root))
    labels = None
    try:
        labels = folder_labels(root)
    except (OSError, ValueError) as error:
        problems.append(DataProblem("class list", str(error)))
    splits: list[SegmentationDataset] = []
    notes = {}
    for split in wanted:
        if split == "test" and not any((root / side / split).is_dir() for side in ("images", "masks")):
            continue
        try:
            files = folder_files(root, split)
        except (OSError, ValueError) as error:
            problems.append(DataProblem("layout", str(error)))
            continue
        problems += missing_files(files.pairs)
        carved_val = split == "val" and "train" in wanted and is_carved(root, split)
        if carved_val:
            notes[split] = "a share of train, chosen by name"
        else:
            problems += [*files.ambiguous(), *_lost_files(files), *_unused_files(files)]
            hidden = files.found_photos.skipped.get(HIDDEN)
            notes[split] = f"left out {describe_skipped({HIDDEN: hidden}, files.photos)}" if hidden else ""
        splits.append(SegmentationDataset(files.pairs, labels or LabelSpace.numbered(255), split, folder=files.photos))
    return Listing(tuple(splits), labels, notes, tuple(dict.fromkeys(problems)))


def _lost_files(files: FolderFiles) -> Iterator[DataProblem]:
    """Photos and masks that can't be read because of a broken link or the permissions of a folder."""
    for path in (*files.found_photos.lost, *files.found_masks.lost):
        yield DataProblem("lost files", "is a broken link or an unreadable folder: repair or remove it", path)


def _unused_files(files: FolderFiles) -> Iterator[DataProblem]:
    """Masks without a photo, and files that are neither photos nor masks."""
    keys = set(by_key(files.found_photos.files, files.photos))
    for mask in files.found_masks.files:
        if match_key(mask, files.masks) not in keys:
            cause = (
                f"has no photo of the same name in {files.photos}: it is not used; add the photo, or remove the mask"
            )
            yield DataProblem("masks without a photo", cause, mask, is_error=False)
    for folder, found in ((files.photos, files.found_photos), (files.masks, files.found_masks)):
        others = {key: paths for key, paths in found.skipped.items() if key not in (HIDDEN, BROKEN, CLOSED)}
        if others:
            kinds = "photos" if folder == files.photos else "PNG masks"
            cause = f"left out what are not {kinds}: {describe_skipped(others, folder)}"
            yield DataProblem("files that are not used", cause, folder, is_error=False)


def _stray_folders(root: Path) -> Iterator[DataProblem]:
    """Folders that seem to be splits but have another name, and others that are not used."""
    for side in ("images", "masks"):
        nested = split_folders(root, "train")[0] != root / "images"
        for path in sorted((root / side).iterdir()):
            if not path.is_dir() or path.name in SPLITS or path.name.startswith("."):
                continue
            if means_split(path.name):
                cause = f"the folder would not be used: splits are called {', '.join(SPLITS)}; rename or remove it"
                yield DataProblem("misnamed splits", cause, path)
            elif nested:
                cause = f"the folder is none of {', '.join(SPLITS)}: it is not used; rename or remove it"
                yield DataProblem("unused folders", cause, path, is_error=False)
