"""Known datasets, those of the paper and two more: where their files are and what their mask ids mean.

Each function lists a split; the caller checks whether the listed files exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cgrseg.images.find import find_files
from cgrseg.images.photos import DAMAGE
from cgrseg.labels import LabelSpace

from .dataset import SegmentationDataset
from .masks import Ids, read_mask_file

IGNORE = 255
# COCO's thing ids (stored as id - 1) that are never used; the other ids are renumbered in order.
COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# The 59 most frequent of PASCAL-Context's 459 labels, in the order of their ids.
CONTEXT_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158),
    *(159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
    *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)


def ade20k(root: Path, split: str) -> SegmentationDataset:
    """The SceneParsing zip: 0 is "other" and ignored, 1 … 150 are the classes 0 … 149."""
    root = _inside(root, "ADEChallengeData2016")
    folder = _known(split, {"train": "training", "val": "validation"}, "ade20k")
    pairs = _pairs(root / "images" / folder, ".jpg", lambda photo: root / "annotations" / folder / f"{photo.stem}.png")
    return SegmentationDataset(
        pairs, _labels("ade20k", {raw: raw - 1 for raw in range(1, 151)}, ignored=(0, 255)), split
    )


def coco_stuff164k(root: Path, split: str) -> SegmentationDataset:
    """COCO 2017 photos and the `stuffthingmaps` PNGs: raw ids 0 … 181, of which 11 are unused, 255 unlabelled."""
    folder = _known(split, {"train": "train2017", "val": "val2017"}, "coco-stuff164k")
    masks = root / "stuffthingmaps" if (root / "stuffthingmaps").is_dir() else root / "annotations"
    pairs = _pairs(root / "images" / folder, ".jpg", lambda photo: masks / folder / f"{photo.stem}.png")
    return SegmentationDataset(pairs, _labels("coco-stuff", _coco_ids(first=0), ignored=(*COCO_UNUSED, 255)), split)


def coco_stuff10k(root: Path, split: str) -> SegmentationDataset:
    """images/*.jpg, annotations/*.mat (variable S: 0 unlabelled, else id + 1) and imageLists/{train,test}.txt.

    It has no val list: val is the 1,000 test photos, as in the papers.
    """
    name = _known(split, {"train": "train", "val": "test", "test": "test"}, "coco-stuff10k")
    names = _listed(root / "imageLists" / f"{name}.txt")
    pairs = tuple((root / "images" / f"{name}.jpg", root / "annotations" / f"{name}.mat") for name in names)
    ignored = (0, *(raw + 1 for raw in COCO_UNUSED))
    labels = _labels("coco-stuff", _coco_ids(first=1), ignored=ignored)
    return SegmentationDataset(pairs, labels, split, partial(read_mat, variable="S"))


def pascal_context(root: Path, split: str) -> SegmentationDataset:
    """VOC 2010 photos with 59 classes; everything else is ignored.

    The masks are 8-bit PNGs (SegmentationClassContext: 0 background, 1 … 59), or the authors' 459 ids: 16-bit
    PNGs, or trainval/*.mat (variable LabelMap). If both exist, PNGs are used.
    """
    top = root
    root = _inside(root, "VOC2010", "VOCdevkit/VOC2010")
    name = _known(split, {"train": "train", "val": "val"}, "pascal-context")
    names = _listed(root / "ImageSets" / "SegmentationContext" / f"{name}.txt")
    places = [root / "SegmentationClassContext", *(folder / "trainval" for folder in (root, *root.parents[:2], top))]
    options = [folder / f"{names[0]}{suffix}" for suffix in (".png", ".mat") for folder in places]
    first = next((path for path in options if path.is_file()), options[0])
    pairs = tuple((root / "JPEGImages" / f"{name}.jpg", first.with_name(f"{name}{first.suffix}")) for name in names)
    if not first.is_file():
        raise FileNotFoundError(f"{pairs[0][0]}: has no mask {first}: unpack the masks, too")
    read: Callable[[Path], Ids] = partial(read_mat, variable="LabelMap") if first.suffix == ".mat" else read_mask_file
    if read(first).dtype == np.uint8:
        return SegmentationDataset(
            pairs, _labels("pascal-context", {k: k - 1 for k in range(1, 60)}, ignored=(0, 255)), split
        )
    known = {raw: place for place, raw in enumerate(CONTEXT_IDS)}
    ignored = sorted({*range(460), 65535} - set(known))
    return SegmentationDataset(pairs, _labels("pascal-context", known, ignored=ignored), split, read)


def cityscapes(root: Path, split: str) -> SegmentationDataset:
    """leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/…_gtFine_labelIds.png: 19 of the 34 ids are classes."""
    _known(split, {"train": "train", "val": "val", "test": "test"}, "cityscapes")

    def mask(photo: Path) -> Path:
        stem = photo.name.removesuffix("_leftImg8bit.png")
        return root / "gtFine" / split / photo.parent.name / f"{stem}_gtFine_labelIds.png"

    pairs = _pairs(root / "leftImg8bit" / split, "_leftImg8bit.png", mask)
    known = {raw: place for place, raw in enumerate(CITYSCAPES_IDS)}
    ignored = sorted({*range(34), 255} - set(known))
    return SegmentationDataset(pairs, _labels("cityscapes", known, ignored=ignored), split)


def voc(root: Path, split: str) -> SegmentationDataset:
    """VOC 2012 (or another year): palette PNGs with 0 background, 1 … 20, and 255 at the borders of objects."""
    name = _known(split, {"train": "train", "val": "val"}, "voc")
    root = _inside(root, "VOC2012", "VOCdevkit/VOC2012")
    names = _listed(root / "ImageSets" / "Segmentation" / f"{name}.txt")
    pairs = tuple((root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names)
    return SegmentationDataset(pairs, _labels("voc", {raw: raw for raw in range(21)}, ignored=(255,)), split)


FORMATS: dict[str, Callable[[Path, str], SegmentationDataset]] = {
    "ade20k": ade20k,
    "coco-stuff164k": coco_stuff164k,
    "coco-stuff10k": coco_stuff10k,
    "pascal-context": pascal_context,
    "cityscapes": cityscapes,
    "voc": voc,
}


def read_mat(path: Path, *, variable: str) -> Ids:
    """The raw ids [H, W] in `variable` of a MATLAB file.

    Raises:
        ImportError: scipy is missing.
        OSError, ValueError: the file can't be read, or has no such matrix.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('reading .mat masks needs scipy: pip install "cgrseg[mat]"') from error
    try:
        table: dict[str, Any] = loadmat(str(path), variable_names=[variable])
    except NotImplementedError as error:  # scipy's error for HDF5
        raise ValueError(f"{path} is a MATLAB 7.3 file, which is HDF5: save it again with -v7") from error
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}): unpack the dataset again") from error
    if variable not in table or np.ndim(table[variable]) != 2:
        raise ValueError(f"{path} has no matrix {variable}: is it a mask of this dataset?")
    return np.asarray(table[variable])


def _coco_ids(*, first: int) -> dict[int, int]:
    used = [raw for raw in range(182) if raw not in COCO_UNUSED]
    return {raw + first: place for place, raw in enumerate(used)}


def _labels(name: str, known: dict[int, int], *, ignored: Sequence[int]) -> LabelSpace:
    listed = LabelSpace.from_classes_json(Path(__file__).with_name("classes") / f"{name}.json")
    raw_ids = {**known, **dict.fromkeys(ignored, IGNORE)}
    return LabelSpace(names=listed.names, colors=listed.colors, ignore_index=IGNORE, raw_ids=raw_ids)


def _known(split: str, folders: dict[str, str], name: str) -> str:
    if split not in folders:
        raise ValueError(f"{name} has no labelled split {split}: choose from {', '.join(folders)}")
    return folders[split]


def _inside(root: Path, *nested: str) -> Path:
    """The dataset's own folder, if `root` is the folder it was unpacked into."""
    return next((root / name for name in nested if (root / name).is_dir()), root)


def _pairs(photos: Path, ending: str, mask: Callable[[Path], Path]) -> tuple[tuple[Path, Path], ...]:
    if not photos.is_dir():
        raise FileNotFoundError(f"no folder {photos}: check the dataset's folder and format")
    found = find_files(photos, {f".{ending.rpartition('.')[2]}"})
    if found.lost:
        raise FileNotFoundError(f"{found.lost[0]} is a broken link or an unreadable folder: repair or remove it")
    pairs = tuple((path, mask(path)) for path in found.files if path.name.endswith(ending))
    if not pairs:
        raise ValueError(f"{photos} has no photos (*{ending}): check the dataset's folder and format")
    return pairs


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no list {path}: check the dataset's folder and format")
    names = path.read_text(encoding="utf-8-sig").split()
    if not names:
        raise ValueError(f"{path} lists no photos: unpack the dataset again")
    return names
