"""check-data: find what is wrong with a dataset before a training does."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from cgrseg._process import cores
from cgrseg.images.bands import read_image

from ..custom import seeded
from ..dataset import DataProblem, Samples, SegmentationDataset, size_problem, to_class_ids, unreadable
from ..folder import SMOOTHED, SPLITS
from ..listing import list_dataset
from ..masks import PASSING, ColoredMask, Ids, count_ids, is_binary, passes_between, read_mask_file, solid_values
from ..settings import Format
from ..torch_dataset import TorchSamples
from .faults import (
    MaskColors,
    class_problems,
    color_problem,
    jpeg_problem,
    mask_colors,
    palette_problems,
    rotated,
    stored_palette,
)
from .report import DatasetReport, SplitReport

NAMED = 4  # files with the same content named in a line
Item = TypeVar("Item")
Result = TypeVar("Result")


def inspect(root: str | Path, format: Format = "folder", *, channels: int = 3) -> DatasetReport:
    """Open every pair of every split and list all that is wrong.

    Args:
        root: the dataset's folder.
        format: how it is laid out.
        channels: that the photos must have.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such format.
    """
    return _inspect(Path(root), format, most=None, channels=channels)


def quick_check(
    root: str | Path,
    format: Format = "folder",
    *,
    pairs: int = 8,
    splits: Sequence[str] = SPLITS,
    channels: int = 3,
) -> DatasetReport:
    """The fast form, for the start of a training: layout, class list, unpaired files, and some pairs of each split.

    Args:
        root, format, channels: as in `inspect`.
        pairs: how many are opened in each split.
        splits: those that are checked.

    Raises:
        FileNotFoundError, ValueError: as in `inspect`.
    """
    return _inspect(Path(root), format, most=pairs, splits=splits, channels=channels)


def class_shares(samples: Samples, *, most: int = 5000) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [K]: share of the labelled pixels per class.

    Masks that can't be read are left out. Photos are not opened if the samples can read a mask alone.

    Args:
        samples: a labelled split.
        most: masks that are counted, evenly spaced.

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
    chosen = _spread(len(samples), most)
    own = isinstance(samples, TorchSamples)  # may draw random numbers, and need not be safe in threads
    with seeded(0, 0) if own else nullcontext():
        for counts in map(count, chosen) if own else _each(count, chosen, "class shares"):
            total += counts
    if total.sum() == 0:
        raise ValueError(f"the {samples.split} masks have no labelled pixel that can be read: run `cgrseg check-data`")
    shares: np.ndarray[Any, np.dtype[np.float64]] = total / total.sum()
    return shares


@dataclass
class _Checked:
    """What was found in one pair."""

    pair: tuple[Path, Path]
    problems: list[DataProblem] = field(default_factory=list)
    size: tuple[int, int] | None = None  # width, height of the photo
    content: bytes = b""  # a hash of the photo's pixels
    colors: MaskColors | None = None
    raw: Counter[int] | None = None  # stored id -> pixels; None if the mask can't be read
    pixels: Ids | None = None  # int64 [K]
    ignored: int = 0


def _inspect(
    root: Path, format: Format, *, most: int | None, channels: int, splits: Sequence[str] = SPLITS
) -> DatasetReport:
    listing = list_dataset(root, format, splits)
    labels = listing.labels
    problems = list(listing.problems)
    reports: list[SplitReport] = []
    copies: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    colors: list[tuple[Path, MaskColors]] = []
    for samples in listing.splits:
        pairs = [pair for pair in samples.pairs if pair[0].is_file() and pair[1].is_file()]
        chosen = _spread(len(pairs), most)
        check = partial(_check_pair, samples, known=labels is not None, channels=channels)
        checked = list(_each(check, [pairs[place] for place in chosen], f"check {samples.split}"))
        split = _summary(samples, checked, listing.notes.get(samples.split, ""))
        others = [pairs[place][1] for place in sorted(set(range(len(pairs))) - set(chosen))]
        if labels is not None and split.raw:
            _add_until_two_classes(samples, split, others)
        reports.append(split)
        for pair in checked:
            problems += pair.problems
            if most is None and pair.content:
                copies[pair.content].append((samples.split, pair.pair[0]))
            if pair.colors is not None:
                colors.append((pair.pair[1], pair.colors))
            if len(samples.labels) == 2 and is_binary(set(pair.raw or ())) and not is_binary(set(split.raw)):
                cause = "holds only 0 and 255, while other masks hold 1: 255 is ignored, but is it the object here?"
                problems.append(DataProblem("binary masks among others", cause, pair.pair[1], is_error=False))
        if format == "folder":
            colors += _other_palettes(others, [pair.pair[1] for pair in checked], samples.split)
    problems += _duplicates(copies)
    if format == "folder":
        problems += palette_problems(colors, labels)
    if labels is not None:
        problems += class_problems(reports, labels, complete=most is None)
    return DatasetReport(root, format, labels, tuple(reports), tuple(problems))


def _check_pair(samples: SegmentationDataset, pair: tuple[Path, Path], *, known: bool, channels: int) -> _Checked:
    photo_path, mask_path = pair
    checked = _Checked(pair)
    problems = checked.problems
    photo = raw = None
    try:
        photo = read_image(photo_path, channels)  # H W C
    except (OSError, ValueError) as error:
        problems.append(unreadable(photo_path, error, kind="photos"))
    try:
        raw = samples.read_ids(mask_path)  # H W
    except ColoredMask:
        problems.append(color_problem(mask_path))
    except (OSError, ValueError) as error:
        problems.append(unreadable(mask_path, error, kind="masks"))
    if photo is not None:
        checked.size = (photo.shape[1], photo.shape[0])
        key = repr(checked.size).encode()
        checked.content = hashlib.blake2b(photo.data, digest_size=16, key=key).digest()
        if photo.min() == photo.max():
            cause = "all pixels have one colour: replace the photo, or remove the pair"
            problems.append(DataProblem("photos of one colour", cause, photo_path, is_error=False))
    if raw is None:
        return checked
    if photo is not None and raw.shape != photo.shape[:2]:
        problems.append(size_problem(photo_path, mask_path, photo, raw))
    elif photo is not None:
        problems += rotated(photo_path, mask_path, photo, raw)
    if filecmp.cmp(photo_path, mask_path, shallow=False):
        problems.append(DataProblem("photos that are masks", "is the same file as its mask: replace it", photo_path))
    ids, counts = count_ids(raw)
    if samples.read_ids is read_mask_file:
        problems += jpeg_problem(mask_path)
        checked.colors = mask_colors(mask_path, ids.tolist())
    checked.raw = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    if known:
        _check_ids(samples, checked, raw, ids, counts)
    return checked


def _check_ids(samples: SegmentationDataset, checked: _Checked, raw: Ids, ids: Ids, counts: Ids) -> None:
    """Compare the ids of a mask with the classes."""
    labels, mask_path = samples.labels, checked.pair[1]
    classes = samples.classes_of(ids)
    unknown = classes < 0
    smoothed = passes_between(raw) > PASSING
    if unknown.any():
        cause = samples.id_problem(ids[unknown])
        if smoothed or not np.isin(ids[unknown], solid_values(raw)).any():
            cause += f"; they are along borders: {SMOOTHED}"
        checked.problems.append(DataProblem("ids outside the class list", cause, mask_path))
    elif smoothed:
        cause = f"many borders lead through an id between the two sides: {SMOOTHED}"
        checked.problems.append(DataProblem("smoothed masks", cause, mask_path, is_error=False))  # not certain
    ignored = classes == labels.ignore_index
    if ignored.all():
        cause = f"is all ignored (id {', '.join(map(str, ids))}): nothing is learned from it; remove the pair"
        checked.problems.append(DataProblem("masks without a labelled pixel", cause, mask_path, is_error=False))
    checked.pixels = np.zeros(len(labels), np.int64)
    np.add.at(checked.pixels, classes[~ignored & ~unknown], counts[~ignored & ~unknown])
    checked.ignored = int(counts[ignored].sum())


def _summary(samples: SegmentationDataset, checked: Sequence[_Checked], note: str) -> SplitReport:
    counts = [pair.pixels for pair in checked if pair.pixels is not None]
    stacked = np.array(counts, np.int64).reshape(len(counts), len(samples.labels))
    return SplitReport(
        name=samples.split,
        photos=len(samples),
        checked=len(checked),
        sizes=Counter(pair.size for pair in checked if pair.size is not None),
        pixels=stacked.sum(0),
        holders=(stacked > 0).sum(0),
        ignored=sum(pair.ignored for pair in checked),
        raw=sum((pair.raw for pair in checked if pair.raw is not None), Counter()),
        note=note,
    )


def _add_until_two_classes(samples: SegmentationDataset, split: SplitReport, masks: Sequence[Path]) -> None:
    """Count further masks while those counted hold one class: objects may be rare."""
    for path in masks:
        if np.count_nonzero(split.pixels) > 1:
            return
        try:
            raw = samples.read_ids(path)
        except (OSError, ValueError):
            continue
        ids, counts = count_ids(raw)
        split.raw.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        classes = samples.classes_of(ids)
        known = (classes >= 0) & (classes != samples.labels.ignore_index)
        np.add.at(split.pixels, classes[known], counts[known])


def _other_palettes(masks: Sequence[Path], checked: Sequence[Path], split: str) -> Iterator[tuple[Path, MaskColors]]:
    """The colours of masks that were not opened, if their palette, which is quick to read, is not one of `checked`."""
    known = {stored_palette(path) for path in checked}
    for path, palette in zip(masks, _each(stored_palette, masks, f"palettes of {split}"), strict=True):
        if palette and not any(other.startswith(palette) or palette.startswith(other) for other in known if other):
            known.add(palette)
            try:
                colors = mask_colors(path, count_ids(read_mask_file(path))[0].tolist())
            except (OSError, ValueError):  # reported when it is read
                continue
            if colors is not None:
                yield path, colors


def _duplicates(copies: dict[bytes, list[tuple[str, Path]]]) -> Iterator[DataProblem]:
    for places in copies.values():
        names = ", ".join(str(path) for _, path in places[:NAMED])
        if len(places) > NAMED:
            names += f" and {len(places) - NAMED} more"
        if len({split for split, _ in places}) > 1:
            cause = f"{names} are the same photo: scores would count photos of the training; keep it in one split"
            yield DataProblem("photos in more than one split", cause)
        elif len(places) > 1:
            yield DataProblem("photos twice in a split", f"{names} are the same photo: keep one", is_error=False)


def _each(task: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """`task` of each item in order, in threads (decoding releases the GIL), with a progress bar if it takes long."""
    threads = min(cores(), 8)
    with ThreadPoolExecutor(threads) as pool:
        yield from tqdm(
            pool.map(task, items), total=len(items), desc=title, unit="pair", delay=1, leave=False, disable=None
        )


def _spread(count: int, most: int | None) -> list[int]:
    """Up to `most` of the numbers 0 … count - 1, evenly spaced."""
    if most is None or count <= most:
        return list(range(count))
    return [place * count // most for place in range(most)]
