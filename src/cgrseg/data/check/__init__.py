"""check-data: what is wrong with a dataset, before an hour of training finds out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from cgrseg.images.photos import DAMAGE, read_photo

from ..dataset import ColoredMask, Ids, Labelled, Samples, size_problem, to_class_ids
from ..listing import Listing, list_dataset
from ..settings import Format
from .colors import PASSING, color_problem, passes_between, solid_values
from .report import Finding, Report, SplitReport

HANDFUL = 8  # pairs a split that the quick form opens
SHARES_FROM = 5000  # masks that class shares are counted on
SHOWN = 12  # absent classes named in a line; the table shows them all
FEW_PIXELS = 64  # a class with fewer in train is as good as absent
Item = TypeVar("Item")
Result = TypeVar("Result")


def inspect(root: str | Path, format: Format = "folder") -> Report:
    """Open every pair of every split and list all that is wrong.

    Args:
        root: the dataset's folder.
        format: how it is laid out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such format.
    """
    return _inspect(Path(root), format, most=None)


def quick_check(root: str | Path, format: Format = "folder") -> Report:
    """The fast form, for the start of a run: layout, class list, unpaired files, and 8 pairs of each split.

    Raises:
        FileNotFoundError, ValueError: as in `inspect`.
    """
    return _inspect(Path(root), format, most=HANDFUL)


def class_shares(samples: Samples) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [K]: share of the labelled pixels that each class has.

    Counted on at most 5,000 masks, evenly spaced; photos are left closed where the samples can read a mask alone.
    Masks that can't be read are left out.

    Raises:
        ValueError: no mask has a labelled pixel.
    """
    classes, ignored = len(samples.labels), samples.labels.ignore_index
    read: Callable[[int], Ids] = getattr(samples, "read_mask", lambda index: to_class_ids(samples.read(index)[1]))

    def count(index: int) -> Ids:
        try:
            ids = read(index)
        except ValueError:
            return np.zeros(classes, np.int64)
        return np.bincount(ids.ravel(), minlength=max(classes, ignored + 1))[:classes]

    total = np.zeros(classes, np.int64)
    for counts in _each(count, _spread(len(samples), SHARES_FROM), "class shares"):
        total += counts
    if total.sum() == 0:
        raise ValueError(f"the {samples.split} masks have no labelled pixel that can be read: run `cgrseg check-data`")
    shares: np.ndarray[Any, np.dtype[np.float64]] = total / total.sum()
    return shares


@dataclass(frozen=True)
class _Look:
    """What one pair shows."""

    findings: list[Finding]
    size: tuple[int, int] | None = None  # width, height of the photo
    content: bytes = b""  # a hash of the photo's pixels
    pixels: Ids | None = None  # int64 K
    ignored: int = 0


def _inspect(root: Path, format: Format, *, most: int | None) -> Report:
    listing = list_dataset(root, format)
    findings = list(listing.findings)
    splits: list[SplitReport] = []
    copies: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    for samples in listing.splits:
        pairs = [pair for pair in samples.pairs if pair[0].is_file() and pair[1].is_file()]
        chosen = [pairs[place] for place in _spread(len(pairs), most)]
        look_at = partial(_look, samples, known=listing.labels is not None)
        looks = list(_each(look_at, chosen, f"check {samples.split}"))
        splits.append(_summary(samples, looks, listing))
        for (photo, _), look in zip(chosen, looks, strict=True):
            findings += look.findings
            if most is None and look.content:
                copies[look.content].append((samples.split, photo))
    findings += _duplicates(copies)
    if listing.labels is not None:
        findings += _about_classes(splits, listing, complete=most is None)
    return Report(root, format, listing.labels, tuple(splits), tuple(findings))


def _look(samples: Labelled, pair: tuple[Path, Path], *, known: bool) -> _Look:
    photo_path, mask_path = pair
    findings: list[Finding] = []
    photo = raw = None
    try:
        photo = read_photo(photo_path)  # H W 3
    except DAMAGE as error:
        findings.append(Finding("unreadable photos", _named(photo_path, error)))
    try:
        raw = samples.read_ids(mask_path)  # H W
    except ColoredMask:
        try:
            findings.append(Finding(*color_problem(mask_path)))
        except DAMAGE as error:
            findings.append(Finding("unreadable masks", _named(mask_path, error)))
    except DAMAGE as error:
        findings.append(Finding("unreadable masks", _named(mask_path, error)))
    size = None if photo is None else (photo.shape[1], photo.shape[0])
    content = b"" if photo is None else hashlib.blake2b(photo.data, digest_size=16, key=repr(size).encode()).digest()
    if raw is None:
        return _Look(findings, size, content)
    if photo is not None and raw.shape != photo.shape[:2]:
        findings.append(Finding("masks of another size", size_problem(photo_path, mask_path, photo, raw)))
    if not known:
        return _Look(findings, size, content)
    ids, counts = _counted(raw)
    classes = samples.classes_of(ids)
    unknown = classes < 0
    if unknown.any():
        share = f"{counts[unknown].sum() / raw.size:.2%} of its pixels"
        message = f"{samples.id_problem(mask_path, ids[unknown])} ({share} hold no class)"
        if passes_between(raw) > PASSING or not np.isin(ids[unknown], solid_values(raw)).any():
            message += f"; they lie along borders: {SMOOTHED}"
        findings.append(Finding("ids outside the class list", message))
    elif (passing := passes_between(raw)) > PASSING:
        message = f"mask {mask_path}: {passing:.0%} of its borders lead through an id between the two sides: {SMOOTHED}"
        findings.append(Finding("smoothed masks", message, ruins=False))  # a guess must not stop a run
    ignored = classes == samples.labels.ignore_index
    if ignored.all():
        values = ", ".join(map(str, ids))
        message = f"mask {mask_path} is all ignored (id {values}): nothing is learned from it; remove the pair"
        findings.append(Finding("masks without a labelled pixel", message, ruins=False))
    pixels = np.zeros(len(samples.labels), np.int64)
    np.add.at(pixels, classes[~ignored & ~unknown], counts[~ignored & ~unknown])
    return _Look(findings, size, content, pixels, int(counts[ignored].sum()))


SMOOTHED = "the mask was resized with interpolation or anti-aliased; export it again with nearest neighbour"


def _summary(samples: Labelled, looks: Sequence[_Look], listing: Listing) -> SplitReport:
    counts = [look.pixels for look in looks if look.pixels is not None]
    stacked = np.array(counts, np.int64).reshape(len(counts), len(samples.labels))
    return SplitReport(
        name=samples.split,
        photos=len(samples),
        checked=len(looks),
        sizes=Counter(look.size for look in looks if look.size is not None),
        pixels=stacked.sum(0),
        holders=(stacked > 0).sum(0),
        ignored=sum(look.ignored for look in looks),
        note=listing.notes.get(samples.split, ""),
    )


def _duplicates(copies: dict[bytes, list[tuple[str, Path]]]) -> Iterator[Finding]:
    for places in copies.values():
        names = ", ".join(str(path) for _, path in places)
        if len({split for split, _ in places}) > 1:
            message = f"{names} are one photo: scores count photos that were trained on; keep it in one split"
            yield Finding("photos in more than one split", message)
        elif len(places) > 1:
            yield Finding("photos twice in a split", f"{names} are one photo: keep one", ruins=False)


def _about_classes(splits: Sequence[SplitReport], listing: Listing, *, complete: bool) -> Iterator[Finding]:
    labels = listing.labels
    assert labels is not None
    for split in splits:
        if not split.pixels.any() and not split.ignored:
            continue  # no mask could be read, which is said already
        held = [name for name, count in zip(labels.names, split.pixels, strict=True) if count]
        if split.name == "train" and len(held) < 2 <= len(labels):
            only = f"the one class {held[0]}" if held else "no class"
            also = f", the rest of the pixels ({split.ignore_share:.1%}) is ignored" if split.ignored else ""
            cure = "there is nothing to tell apart; 255 means ignored: if it marks a class, run `cgrseg convert-masks`"
            yield Finding("classes", f"the train masks looked at hold {only}{also}: {cure}")
            continue
        if not complete:
            continue
        absent = [name for name in labels.names if name not in held]
        if absent:
            effect = "can't be learned" if split.name == "train" else "get no score there"
            shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
            message = f"{len(absent)} of {len(labels)} classes are in no {split.name} mask and {effect}: {shown}"
            yield Finding("absent classes", message, ruins=False)
        for name, pixels in zip(labels.names, split.pixels, strict=True):
            if split.name == "train" and 0 < pixels < FEW_PIXELS:
                message = f"class {name} has {pixels} pixels in train: too few to learn; add photos of it"
                yield Finding("tiny classes", message, ruins=False)


def _each(task: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """`task` of each item in order, on threads (decoding frees the interpreter), with a bar if it takes long."""
    threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(threads) as pool:
        yield from tqdm(
            pool.map(task, items), total=len(items), desc=title, unit="pair", delay=1, leave=False, disable=None
        )


def _spread(count: int, most: int | None) -> list[int]:
    """Up to `most` of the places 0 … count - 1, evenly spaced."""
    if most is None or count <= most:
        return list(range(count))
    return [place * count // most for place in range(most)]


def _named(path: Path, error: BaseException) -> str:
    text = str(error)
    return text if str(path) in text else f"{path} can't be read ({text}): replace or remove the pair"


def _counted(raw: Ids) -> tuple[Ids, Ids]:
    """The ids that a mask holds and the pixels of each."""
    if raw.dtype == np.uint8:
        counts = np.bincount(raw.ravel(), minlength=256)
        ids = np.flatnonzero(counts)
        return ids, counts[ids]
    found, counts = np.unique(raw, return_counts=True)
    return found, counts
