"""Each known dataset opens in its own layout, and every stored id becomes the right class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgrseg.data.check import inspect
from cgrseg.data.dataset import describe_map, id_map
from cgrseg.data.formats import CITYSCAPES_IDS, COCO_UNUSED, CONTEXT_IDS
from cgrseg.data.listing import open_dataset
from cgrseg.data.settings import Format

COUNT = {
    "ade20k": 150,
    "coco-stuff164k": 171,
    "coco-stuff10k": 171,
    "pascal-context": 59,
    "cityscapes": 19,
    "voc": 21,
}


def photo(path: Path, size: tuple[int, int] = (8, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(str(path).encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path)


def mask(path: Path, *ids: int, dtype: Any = np.uint8) -> None:
    """4x8 pixels that hold the given ids in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(ids, dtype), (4, 8))).save(path)


def mat(path: Path, variable: str, *ids: int, dtype: Any = np.uint16, **more: Any) -> None:
    io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {variable: np.resize(np.array(ids, dtype), (4, 8)), **more})


def listed(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def ids(root: Path, split: str, format: Format, index: int = 0) -> list[int]:
    """The class ids of a mask in the order in which they stand."""
    return np.asarray(open_dataset(root, split, format).read(index)[1]).ravel().tolist()


def build_ade20k(root: Path) -> None:
    for folder in ("training", "validation"):
        photo(root / "ADEChallengeData2016" / "images" / folder / "ADE_1.jpg")
        mask(root / "ADEChallengeData2016" / "annotations" / folder / "ADE_1.png", 0, 1, 7, 150)


def build_coco164k(root: Path) -> None:
    for folder in ("train2017", "val2017"):
        photo(root / "images" / folder / "0001.jpg")
        mask(root / "stuffthingmaps" / folder / "0001.png", 0, 10, 11, 12, 181, 255)


def build_coco10k(root: Path) -> None:
    for name, numbers in (("train", "12"), ("test", "3"), ("all", "123")):
        listed(root / "imageLists" / f"{name}.txt", *(f"COCO_{number}" for number in numbers))
    for number in "123":
        photo(root / "images" / f"COCO_{number}.jpg")
        mat(root / "annotations" / f"COCO_{number}.mat", "S", 0, 1, 11, 12, 13, 182, captions=np.zeros((2, 2)))


def build_context(root: Path) -> None:
    voc = root / "VOCdevkit" / "VOC2010"
    for split in ("train", "val"):
        listed(voc / "ImageSets" / "SegmentationContext" / f"{split}.txt", f"2008_{split}")
        photo(voc / "JPEGImages" / f"2008_{split}.jpg")
        mask(voc / "SegmentationClassContext" / f"2008_{split}.png", 0, 1, 59)


def build_cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        photo(root / "leftImg8bit" / split / "ulm" / "ulm_0_1_leftImg8bit.png")
        mask(root / "gtFine" / split / "ulm" / "ulm_0_1_gtFine_labelIds.png", 0, 7, 9, 33, 16)


def build_voc(root: Path) -> None:
    for split in ("train", "val"):
        listed(root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt", f"2007_{split}")
        photo(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"2007_{split}.jpg")
        mask(root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"2007_{split}.png", 0, 1, 20, 255)


BUILD = {
    "ade20k": (build_ade20k, [255, 0, 6, 149]),
    "coco-stuff164k": (build_coco164k, [0, 10, 255, 11, 170, 255]),
    "coco-stuff10k": (build_coco10k, [255, 0, 10, 255, 11, 170]),
    "pascal-context": (build_context, [255, 0, 58]),
    "cityscapes": (build_cityscapes, [255, 0, 255, 18, 255]),
    "voc": (build_voc, [0, 1, 20, 255]),
}


@pytest.mark.parametrize("format", BUILD)
def test_a_rebuilt_layout_opens_with_every_id_in_its_place(format: Format, tmp_path: Path) -> None:
    build, expected = BUILD[format]
    build(tmp_path)
    for split in ("train", "val"):
        samples = open_dataset(tmp_path, split, format)
        assert len(samples.labels) == COUNT[format] and samples.labels.ignore_index == 255
        found = ids(tmp_path, split, format)
        assert found == np.resize(expected, len(found)).tolist()
        assert samples.read(0)[0].shape == (4, 8, 3)
    assert not inspect(tmp_path, format).errors


@pytest.mark.parametrize("format", BUILD)
def test_a_missing_file_is_named_when_opening_and_listed_by_check_data(format: Format, tmp_path: Path) -> None:
    BUILD[format][0](tmp_path)
    samples = open_dataset(tmp_path, "train", format)
    lost = samples.pairs[-1][1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match="has no mask "):
        open_dataset(tmp_path, "train", format)
    assert any(str(samples.pairs[-1][0]) in error for error in inspect(tmp_path, format).errors)


@pytest.mark.parametrize("format", BUILD)
def test_an_id_outside_the_map_is_an_error(format: Format, tmp_path: Path) -> None:
    BUILD[format][0](tmp_path)
    samples = open_dataset(tmp_path, "train", format)
    path = samples.pairs[0][1]
    if path.suffix == ".mat":
        mat(path, "S", 1, 300)
    else:
        mask(path, 1, 200 if format != "coco-stuff164k" else 190)
    with pytest.raises(ValueError, match=r"holds class (200|190|300), but the class list ends at"):
        samples.read(0)


@pytest.mark.parametrize("format", [*BUILD, "folder"])
def test_an_empty_folder_and_unknown_splits_are_refused(format: Format, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no (folder|list)"):
        open_dataset(tmp_path, "train", format)
    with pytest.raises(ValueError, match="no split 'dev': choose from train, val, test"):
        open_dataset(tmp_path, "dev", format)
    if format in ("ade20k", "voc", "pascal-context", "coco-stuff164k"):
        with pytest.raises(ValueError, match=f"{format} has no labelled split test"):
            open_dataset(tmp_path, "test", format)


def test_the_maps_are_written_out_and_printed(tmp_path: Path) -> None:
    build_cityscapes(tmp_path)
    samples = open_dataset(tmp_path, "train", "cityscapes")
    assert [id_map(samples.labels)[raw] for raw in CITYSCAPES_IDS] == list(range(19))
    text = describe_map(samples)
    assert "   7 -> 0 road" in text and "  33 -> 18 bicycle" in text
    assert "0-6, 9-10, 14-16, 18, 29-30, 255 -> ignored; any other id is an error" in text


def test_coco_stuff_ten_k_scores_its_test_photos_as_val(tmp_path: Path) -> None:
    build_coco10k(tmp_path)
    names = {split: open_dataset(tmp_path, split, "coco-stuff10k").pairs for split in ("train", "val", "test")}
    assert len(names["train"]) == 2 and names["val"] == names["test"] and len(names["val"]) == 1


@pytest.mark.parametrize("kind", ["mat", "png"])
def test_pascal_context_takes_the_authors_459_ids_too(kind: str, tmp_path: Path) -> None:
    build_context(tmp_path)
    shutil.rmtree(tmp_path / "VOCdevkit" / "VOC2010" / "SegmentationClassContext")
    for split in ("train", "val"):
        path = tmp_path / "trainval" / f"2008_{split}.{kind}"
        if kind == "mat":
            mat(path, "LabelMap", 2, 458, 1, 459, 431)
        else:
            mask(path, 2, 458, 1, 459, 431, dtype=np.uint16)
    assert ids(tmp_path, "val", "pascal-context")[:5] == [0, 58, 255, 255, 255]


def test_a_mat_file_without_the_matrix_or_of_another_kind_is_named(tmp_path: Path) -> None:
    build_coco10k(tmp_path)
    samples = open_dataset(tmp_path, "train", "coco-stuff10k")
    mat(samples.pairs[0][1], "LabelMap", 1)
    with pytest.raises(ValueError, match=r"COCO_1\.mat: has no matrix S"):
        samples.read(0)
    samples.pairs[0][1].write_bytes(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(ValueError, match=r"MATLAB 7\.3"):
        samples.read(0)


def folder(root: Path, **splits: int) -> Path:
    for split, count in splits.items():
        for number in range(count):
            photo(root / "images" / split / f"{split}{number}.png")
            mask(root / "masks" / split / f"{split}{number}.png", 0, 1, 255)
    classes = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


def names_of(root: Path, split: str) -> set[str]:
    samples = open_dataset(root, split)
    return {samples.name(index) for index in range(len(samples))}


def test_a_tenth_of_train_becomes_val_and_stays_so_when_photos_are_added(tmp_path: Path) -> None:
    root = folder(tmp_path, train=60)
    before = names_of(root, "val")
    assert 1 <= len(before) <= 14 and not before & names_of(root, "train")
    assert len(before | names_of(root, "train")) == 60
    folder(root, train=100)
    after = names_of(root, "val")
    assert before == {name for name in after if int(name[5:-4]) < 60} and len(after) > len(before)


def test_masks_without_a_class_list_give_numbered_classes_of_all_splits(tmp_path: Path) -> None:
    root = folder(tmp_path, train=2, val=1)
    (root / "classes.json").unlink()
    mask(root / "masks" / "val" / "val0.png", 3, 40)
    samples = open_dataset(root, "train")
    assert samples.labels.names == ("class 0", "class 1", "class 3", "class 40")
    assert ids(root, "val", "folder")[:2] == [2, 3] and ids(root, "train", "folder")[:3] == [0, 1, 255]


def test_sixteen_bit_masks_and_more_than_256_classes(tmp_path: Path) -> None:
    root = folder(tmp_path, train=1, val=1)
    classes = {"classes": [{"id": k, "name": str(k)} for k in range(300)], "ignore_index": 65535}
    (root / "classes.json").write_text(json.dumps(classes))
    mask(root / "masks" / "train" / "train0.png", 299, 255, 0, 65535, dtype=np.uint16)
    assert ids(root, "train", "folder")[:4] == [299, 255, 0, 65535]


def test_a_mask_that_fits_the_photo_before_its_rotation_says_so(tmp_path: Path) -> None:
    root = folder(tmp_path, train=1, val=1)
    path = root / "images" / "train" / "train0.png"
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(path, exif=exif)
    with pytest.raises(ValueError, match=r"is \(8, 4\), but its photo is \(4, 8\).*before its EXIF rotation"):
        open_dataset(root, "train").read(0)


# The real and rebuilt samples; their notes tell the traps.
SAMPLES = {
    "ade20k": ("ade20k", {"val": 3}),
    "coco-stuff164k": ("coco_stuff/coco_stuff164k", {"train": 13, "val": 8}),
    "coco-stuff10k": ("coco_stuff/coco_stuff10k_REBUILT", {"train": 4, "val": 2, "test": 2}),
    "pascal-context": ("pascal_context/REBUILT", {"train": 2, "val": 2}),
}
LISTS = {
    "ade20k": "ade20k",
    "coco-stuff164k": "coco_stuff171",
    "coco-stuff10k": "coco_stuff171",
    "pascal-context": "pascal_context59",
}


@pytest.mark.parametrize("format", SAMPLES)
def test_the_samples_open_and_use_the_listed_classes(format: Format, shared: Path) -> None:
    place, counts = SAMPLES[format]
    root = shared / "data" / "format_samples"
    table = json.loads((root / "class_lists" / f"{LISTS[format]}.json").read_text())
    expected = [entry["name"] for entry in table]
    for split, count in counts.items():
        samples = open_dataset(root / place, split, format)
        assert len(samples) == count
        assert [name.strip() for name in samples.labels.names] == [name.strip() for name in expected]
        for index in range(count):
            picture, classes = samples.read(index)
            assert picture.shape[:2] == classes.size[::-1]
            found = set(np.unique(np.asarray(classes)).tolist())
            assert found <= {*range(len(expected)), 255} and len(found) > 1


def test_the_two_containers_of_coco_stuff_agree(shared: Path) -> None:
    root = shared / "data" / "format_samples" / "coco_stuff"
    small, large = {}, {}
    for split in ("train", "val"):
        for table, place, format in (
            (small, "coco_stuff10k_REBUILT", "coco-stuff10k"),
            (large, "coco_stuff164k", "coco-stuff164k"),
        ):
            samples = open_dataset(root / place, split, format)  # type: ignore[arg-type]
            for index in range(len(samples)):
                table[Path(samples.name(index)).stem[-12:]] = np.asarray(samples.read(index)[1])
    assert len(small) == 6
    assert all((classes == large[name]).all() for name, classes in small.items())


def test_both_forms_of_pascal_context_agree(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "context"
    shutil.copytree(shared / "data" / "format_samples" / "pascal_context" / "REBUILT", root)
    small = [np.asarray(open_dataset(root, "val", "pascal-context").read(index)[1]) for index in range(2)]
    shutil.rmtree(root / "VOCdevkit" / "VOC2010" / "SegmentationClassContext")
    large = [np.asarray(open_dataset(root, "val", "pascal-context").read(index)[1]) for index in range(2)]
    assert all((one == other).all() for one, other in zip(small, large, strict=True))


def test_the_constants_are_those_of_the_notes(shared: Path) -> None:
    assert COCO_UNUSED == (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90) and len(CONTEXT_IDS) == 59
    table = json.loads((shared / "data/format_samples/pascal_context/map_459_to_59.json").read_text())
    assert [entry["id459"] for entry in table if entry["id59"] is not None] == list(CONTEXT_IDS)
