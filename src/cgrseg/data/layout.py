"""Which photos and masks a dataset lists, and what is wrong with the list itself; opens no picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cgrseg.labels import LabelSpace

from .datasets import SPLITS, folder_labels, folder_pairs, is_carved, photo_files, shared_stems, split_folders
from .formats import FORMATS
from .labelled import Labelled
from .report import Finding
from .settings import Format


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
