"""COCO JSON becomes the masks that its specification says: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from importing import HEIGHT, WIDTH, complaint, drawn, imported, photo, write_json
from PIL import Image

from cgrseg.data.importing.coco import decode_counts
from cgrseg.data.importing.importer import find_annotations
from cgrseg.inference.result import Segmentation
from cgrseg.labels import LabelSpace

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
RING = [1, 1, 5, 1, 5, 4, 1, 4]


def coco(root: Path, annotations: list[dict[str, Any]], name: str = "instances_default.json", **more: Any) -> Path:
    photo(root / "images" / "a.png")
    image = {"id": 9, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, **more}
    listed = [{"id": number, "image_id": 9, "iscrowd": 0, **each} for number, each in enumerate(annotations, 1)]
    content = {"images": [image], "annotations": listed, "categories": CATEGORIES}
    write_json(root / "annotations" / name, content)
    return root


def test_polygons_cover_the_pixels_whose_centres_are_inside(tmp_path: Path) -> None:
    small = {"category_id": 18, "segmentation": [[2.4, 1.6, 4.6, 1.6, 4.6, 2.4]]}  # holds the centre of no pixel …
    large = {"category_id": 3, "segmentation": [[0.5, 0.5, 4.5, 0.5, 4.5, 4.5], [6, 0, 8, 0, 8, 2, 6, 2]]}
    found, masks, names = imported(coco(tmp_path / "src", [small, large]))
    assert names == ["background", "car", "dog"]  # by increasing category id
    # … centres on the diagonal belong to the polygon on their right: (0.5, 0.5) is inside, (4.5, 1.5) is not
    expected = drawn("1111..11 .111..11 ..11.... ...1.... ........ ........")
    assert (masks["train/a"] == expected).all()
    assert found.pixels == (48 - 14, 14, 0) and found.format == "coco"
    text = found.text()
    assert "COCO JSON in" in text and "smaller regions cover larger ones" in text and "class 0, background" in text
    assert "splits not in the source: train 1; without val" in text


def test_smaller_regions_cover_larger_ones_whatever_their_order(tmp_path: Path) -> None:
    small = {"category_id": 3, "segmentation": [[2, 2, 4, 2, 4, 3, 2, 3]]}
    large = {"category_id": 18, "segmentation": [RING]}
    expected = drawn("........ .2222... .2112... .2222... ........ ........")
    for number, order in enumerate(([small, large], [large, small])):
        assert (imported(coco(tmp_path / str(number), order))[1]["train/a"] == expected).all()


def test_run_lengths_go_down_the_columns_and_crowds_are_regions(tmp_path: Path) -> None:
    runs = [7, 2, 4, 2, 33]
    plain = {"category_id": 3, "iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}}
    expected = drawn("........ .11..... .11..... ........ ........ ........")
    assert (imported(coco(tmp_path / "plain", [plain]))[1]["train/a"] == expected).all()
    # By hand after maskApi.c: from the fourth run on the difference to the run two before; 5 bits and a flag, plus 48.
    packed = {"category_id": 3, "iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "7240m0"}}
    assert decode_counts("7240m0") == runs
    assert (imported(coco(tmp_path / "packed", [packed]))[1]["train/a"] == expected).all()


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    bits = np.random.default_rng(0).random((70, 90)) > 0.4
    bits[:, 20:60] = True
    text = mask.encode(np.asfortranarray(bits, np.uint8))["counts"].decode()
    runs = decode_counts(text)
    assert sum(runs) == bits.size
    assert (bits == np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(90, 70).T).all()


def test_the_names_of_folders_and_files_give_the_splits(tmp_path: Path) -> None:
    root = coco(tmp_path / "src", [{"category_id": 3, "segmentation": [RING]}], "instances_train2017.json")
    valid = coco(tmp_path / "b", [{"category_id": 3, "segmentation": [RING]}])
    (root / "valid").mkdir()
    shutil.move(valid / "images" / "a.png", root / "valid" / "a.png")
    shutil.move(valid / "annotations" / "instances_default.json", root / "valid" / "_annotations.coco.json")
    found, masks, _ = imported(root)
    assert set(masks) == {"train/a", "val/a"} and "splits as in the source: train 1, val 1" in found.text()


def test_names_of_photos_give_no_split(tmp_path: Path) -> None:
    root = coco(tmp_path / "src", [{"category_id": 3, "segmentation": [RING]}], file_name="test_1.png")
    (root / "images" / "a.png").rename(root / "images" / "test_1.png")
    assert set(imported(root)[1]) == {"train/test_1"}


def test_roboflows_category_for_the_group_is_left_out(tmp_path: Path) -> None:
    photo(tmp_path / "src" / "train" / "a.png")
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    content = {
        "images": [{"id": 0, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 2, "segmentation": [RING]}],
        "categories": categories,
    }
    write_json(tmp_path / "src" / "train" / "_annotations.coco.json", content)
    assert imported(tmp_path / "src")[2] == ["background", "cat", "dog"]


def test_panoptic_pngs_hold_segments(tmp_path: Path) -> None:
    root = tmp_path / "src"
    photo(root / "val2017" / "a.jpg")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[1:3], pixels[4] = (7, 1, 0), (0, 0, 2)  # segments 7 + 256 and 2 * 65536; 0 is void
    (root / "panoptic_val2017").mkdir()
    Image.fromarray(pixels).save(root / "panoptic_val2017" / "a.png")
    segments = [{"id": 263, "category_id": 3}, {"id": 131072, "category_id": 18}]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": [{**each, "isthing": 1, "color": [each["id"], 0, 9]} for each in CATEGORIES],
    }
    write_json(root / "panoptic_val2017.json", content)
    found, masks, names = imported(root)
    assert found.format == "coco-panoptic" and names == ["car", "dog"] and found.labels.colors[1] == (18, 0, 9)
    assert (masks["val/a"] == drawn("######## 00000000 00000000 ######## 11111111 ########")).all()


def test_our_own_export_gives_the_same_masks(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 3, (23, 31), dtype=np.uint8)  # many holes, some of which touch
    labels[5:15, 5:20] = 1
    labels[8:11, 9:12] = 2
    space = LabelSpace.numbered(3)
    result = Segmentation(labels, space, np.zeros((*labels.shape, 3), np.uint8))
    root = tmp_path / "src"
    photo(root / "a.jpg", (31, 23))
    write_json(root / "coco.json", result.to_coco(tolerance=0, file_name="a.jpg"))
    _, masks, names = imported(root)
    assert names == list(space.names) and (masks["train/a"] == labels).all()


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 4, "segmentation": [RING]}, "annotation 2: has the category_id 4, which is not in categories"),
        ({"category_id": 3, "segmentation": [[1, 2, 3]]}, "has a polygon with an odd number of values"),
        ({"category_id": 3, "segmentation": [[1, 2, 3, 4]]}, "is not a polygon of three or more corners"),
        ({"category_id": 3, "segmentation": [[1, 2, 3, 4, "x", 5]]}, "is not a polygon of three or more corners"),
        ({"category_id": 3, "segmentation": [[1, 2, 1e300, 4, 5, 5]]}, "has the coordinate 1e+300"),
        ({"category_id": 3, "segmentation": [[9, 1, 12, 1, 12, 4]]}, "is outside of the photo of 8x6 (x 9 to 12"),
        ({"category_id": 3, "segmentation": {"size": [8, 6], "counts": [48]}}, "has an RLE of size [8, 6], but"),
        (
            {"category_id": 3, "segmentation": {"size": [6, 8], "counts": [40]}},
            "run lengths of 40 pixels instead of 48",
        ),
        ({"category_id": 3, "segmentation": {"size": [6, 8], "counts": [60, -12]}}, "run lengths of 48 pixels"),
        ({"category_id": 3, "segmentation": {"size": [6, 8], "counts": "7 4"}}, "has the character ' ' in its"),
        ({"category_id": 3, "segmentation": {"size": [6, 8], "counts": "724m"}}, "has a compressed RLE that is cut"),
        ({"image_id": 8, "category_id": 3, "segmentation": [RING]}, "annotations of the image_id 8, which is not in"),
    ],
)
def test_bad_annotations_are_errors_with_file_and_cure(
    annotation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    coco(tmp_path / "src", [{"category_id": 3, "segmentation": [RING]}, annotation])
    write_json(tmp_path / "src" / "annotations" / "other.json", {})  # other JSON files are ignored
    photo(tmp_path / "src" / "images" / "b.png")
    content = json.loads((tmp_path / "src" / "annotations" / "instances_default.json").read_text())
    content["images"].append({"id": 10, "file_name": "b.png", "width": WIDTH, "height": HEIGHT})
    write_json(tmp_path / "src" / "annotations" / "instances_default.json", content)
    (error,) = map(str, find_annotations(tmp_path / "src").errors)
    assert message in error and "instances_default.json" in error and "\n" not in error


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (
            [1, 1, 11, 1, 11, 4, 1, 4],
            "reaches beyond the photo of 8x6 (x 1 to 11 and y 1 to 4): it is cut at the border",
        ),
        ([1, 1, 5, 4, 5, 1, 1, 4], "crosses itself: parts that it covers twice are outside"),
    ],
)
def test_odd_polygons_are_warnings(ring: list[int], message: str, tmp_path: Path) -> None:
    found, _, _ = imported(coco(tmp_path / "src", [{"category_id": 3, "segmentation": [ring]}]))
    (problem,) = found.problems
    assert not problem.is_error and message in str(problem)


def test_a_photo_of_another_size_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path / "src", [{"category_id": 3, "segmentation": [RING]}], width=6, height=8)
    assert "a.png: is 8x6, but its annotation is for 6x8: remove the orientation" in complaint(root)
