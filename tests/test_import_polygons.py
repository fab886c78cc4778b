"""Polygons of labelling tools become masks, by files written by hand after each tool's specification."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from importing import HEIGHT, WIDTH, complaint, drawn, imported, photo, write_json
from matplotlib.path import Path as MatplotlibPath
from PIL import Image

from cgrseg.data.importing.importer import find_annotations
from cgrseg.data.importing.raster import union_of_rings
from cgrseg.data.importing.source import read_xml


def test_polygons_hold_the_centres_that_matplotlib_finds_inside() -> None:
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:60, 0:70] + 0.5
    for _ in range(40):
        turns = np.sort(random.random(random.integers(5, 20))) * 2 * np.pi
        radius = random.uniform(5, 40, len(turns))  # some reach beyond the photo
        ring = np.stack([35 + radius * np.cos(turns), 30 + radius * np.sin(turns)], 1)
        patch = union_of_rings([ring], 60, 70)
        bits = np.zeros((60, 70), bool)
        rows, columns = patch.bits.shape
        bits[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.bits
        inside = MatplotlibPath([*ring, ring[0]], closed=True).contains_points(np.stack([x.ravel(), y.ravel()], 1))
        assert (bits == inside.reshape(60, 70)).all()


def test_polygons_with_a_common_border_share_no_pixel() -> None:
    middle = [[4, 0], [4.5, 2], [3.5, 3.5], [4, 6]]  # some centres are on it
    left = union_of_rings([[[0, 0], *middle, [0, 6]]], 6, 8).bits
    right = union_of_rings([[*middle[::-1], [8, 0], [8, 6]]], 6, 8)
    whole = np.zeros((6, 8), int)
    whole[:, : left.shape[1]] += left
    whole[:, right.left :] += right.bits
    assert (whole == 1).all()


def test_parts_that_a_ring_covers_twice_are_outside() -> None:
    twice = [[0, 0], [6, 0], [6, 6], [0, 6], [0, 0], [2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    patch = union_of_rings([twice], 6, 6)
    assert (patch.bits == (drawn("111111 111111 11..11 11..11 111111 111111") == 1)).all()
    assert patch.notes == ("crosses itself: parts that it covers twice are outside",)
    hole = [[0, 0], [6, 0], [6, 6], [0, 6], [0, 0], [2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]  # the other way round
    assert (union_of_rings([hole], 6, 6).bits == patch.bits).all() and union_of_rings([hole], 6, 6).notes == ()


def labelme(root: Path, shapes: list[dict[str, Any]], image: str = "a.png") -> Path:
    """After labelme 5: https://github.com/wkentaro/labelme/blob/main/labelme/_label_file.py."""
    photo(root / "a.png")
    content = {"version": "5.4.1", "flags": {}, "imagePath": image, "imageData": None}
    write_json(root / "a.json", {**content, "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes})
    return root


def test_one_file_that_is_no_json_is_listed_and_can_be_left_out(tmp_path: Path) -> None:
    root = labelme(tmp_path / "src", [{"label": "road", "points": [[0, 0], [8, 0], [8, 6]], "shape_type": "polygon"}])
    (root / "0-cut.json").write_text('{"shapes": [')
    problem = complaint(root)
    assert problem.startswith(f"{root}/0-cut.json: can't be read as JSON") and problem.count("\n") == 0
    assert complaint(root, skip_errors=True) == ""
    assert [item.photo.name for item in find_annotations(root, skip_errors=True).annotations.items] == ["a.png"]
    (root / "a.json").unlink()
    assert complaint(root).startswith(f"{root}/0-cut.json can't be read as JSON")  # nothing else tells the format


def test_a_photo_with_two_annotations_is_reported_with_both_files(tmp_path: Path) -> None:
    root = labelme(tmp_path / "src", [])
    (root / "b.json").write_bytes((root / "a.json").read_bytes())
    assert complaint(root) == f"{root}/b.json: annotates a.png as {root}/a.json does: annotate a photo once"


def test_a_source_without_a_photo_says_so(tmp_path: Path) -> None:
    root = labelme(tmp_path / "src", [{"label": "road", "points": [[0, 0], [8, 0], [8, 6]]}], image="gone.png")
    text = find_annotations(root).text()
    assert "0 photos, 1 class\n" in text and text.endswith("splits not in the source: no photos")


def test_labelme_shapes_cover_each_other_in_their_order(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    shapes = [
        {"label": "road", "shape_type": "polygon", "points": [[0, 2], [8, 2], [8, 6], [0, 6]]},
        {"label": "car", "shape_type": "rectangle", "points": [[5, 4], [2, 1]]},
        {"label": "sign", "shape_type": "circle", "points": [[7, 1], [7.8, 1]]},
        {"label": "sign", "shape_type": "mask", "points": [[0, 4], [1, 5]], "mask": mask},
        {"label": "road", "shape_type": "linestrip", "points": [[0, 0], [8, 6]]},
        {"label": "car", "shape_type": "oriented_rectangle", "points": [[6, 4], [7, 5], [6, 6], [5, 5]]},
    ]
    found, masks, names = imported(labelme(tmp_path / "src", shapes))
    assert found.format == "labelme" and names == ["background", "car", "road", "sign"]
    expected = drawn("......33 ..111.33 22111222 22111222 23222122 32222122")
    assert (masks["train/a"] == expected).all()
    assert [str(each) for each in found.problems] == [
        f"{tmp_path}/src/a.json, shape 5 (road): is a linestrip, which has no area: it is left out"
    ]


def test_labelmes_names_of_photos_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    shapes = [{"label": "a", "points": [[0, 0], [8, 0], [8, 6], [0, 6]]}]
    photo(tmp_path / "secret.png")
    for number, name in enumerate(("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png")):
        error = complaint(labelme(tmp_path / str(number), shapes, name))
        assert f"names the photo {name}, which is not in" in error and "a.json: " in error
    _, masks, names = imported(labelme(tmp_path / "good", shapes, "..\\photos\\a.png"))  # labelme on Windows
    assert names == ["a"] and (masks["train/a"] == 0).all()


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
<label><name>sky</name><color>#0000ff</color></label><label><name>Baum</name><color>#00ff00</color></label>
</labels></task></meta>
<image id="0" name="a.png" width="8" height="6">
<polygon label="Baum" occluded="0" points="1.00,1.00;5.00,1.00;5.00,4.00;1.00,4.00" z_order="1"></polygon>
<box label="sky" xtl="0.0" ytl="0.0" xbr="8.0" ybr="2.0" z_order="0"></box>
<mask label="sky" rle="1, 2, 3" left="5" top="4" width="3" height="2" z_order="0"></mask>
<ellipse label="sky" cx="1" cy="5" rx="1" ry="0.9" z_order="0"></ellipse>
<polyline label="sky" points="0,0;5,5" z_order="0"></polyline>
</image></annotations>
"""


def cvat(root: Path, text: str) -> Path:
    photo(root / "images" / "a.png")
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


def test_cvat_shapes_are_drawn_by_z_order(tmp_path: Path) -> None:
    """After https://docs.cvat.ai/docs/other/xml_format, "Annotation"; runs go along the rows of the mask's box."""
    found, masks, names = imported(cvat(tmp_path / "src", CVAT))
    assert found.format == "cvat" and names == ["background", "sky", "Baum"]
    assert found.labels.colors[1:] == ((0, 0, 255), (0, 255, 0))
    expected = drawn("11111111 12222111 .2222... .2222... 11....11 11......")
    assert (masks["train/a"] == expected).all()
    assert "polyline 5 (sky): has no area" in str(found.problems[0])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused(tmp_path: Path, encoding: str) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;">]>'
    root = cvat(tmp_path / "src", "")
    text = CVAT.replace("<annotations>", f"{bomb}<annotations>").replace("utf-8", encoding)
    (root / "annotations.xml").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"annotations\.xml has a document type"):
        read_xml(root / "annotations.xml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rle="1, 2, 3"', 'rle="1, 2, 4"', "mask 3 (sky) has run lengths of 7 pixels instead of 6"),
        ('rle="1, 2, 3"', 'rle="1, x"', "mask 3 (sky) has an rle that is not a list of numbers"),
        ('left="5"', 'left="6"', "has a mask of 3x2 at (6, 4), which is outside of the photo of 8x6"),
        ('xtl="0.0"', 'xtl="nan"', "box 2 (sky) has the values"),
        ('cx="1"', "", "ellipse 4 (sky) has the values"),
        ('name="a.png"', 'name="b.png"', "names the photo b.png, which is not in"),
        ('width="8" height="6"', 'width="8" height="7"', "a.png: is 8x6, but its annotation is for 8x7"),
        ("</annotations>", "", "can't be read as XML"),
    ],
)
def test_bad_cvat_files_are_errors(old: str, new: str, message: str, tmp_path: Path) -> None:
    error = complaint(cvat(tmp_path / "src", CVAT.replace(old, new)))
    assert message in error and "annotations.xml" in error and "\n" not in error


def yolo(root: Path, lines: str, split: str = "train") -> Path:
    """After https://docs.ultralytics.com/datasets/segment."""
    (root / split / "labels").mkdir(parents=True)
    photo(root / split / "images" / "a.png")
    (root / split / "labels" / "a.txt").write_text(lines)
    names = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['leaf', 'stem']\n"
    (root / "data.yaml").write_text(names)
    return root


def test_yolo_polygons_are_shares_of_the_photo(tmp_path: Path) -> None:
    lines = "1 0.25 0.5 0.5 0.5 0.5 0.66667 0.25 0.66667\n0 0 0.16667 1 0.16667 1 1 0 1\n"
    yolo(tmp_path / "src", lines)
    found, masks, names = imported(yolo(tmp_path / "src", "", split="valid"))
    assert found.format == "yolo" and names == ["background", "leaf", "stem"]
    assert (masks["train/a"] == drawn("........ 11111111 11111111 11221111 11111111 11111111")).all()
    assert (masks["val/a"] == 0).all()  # a photo without objects


def test_yolo_files_may_lie_beside_their_photos_and_names_are_normalised(tmp_path: Path) -> None:
    root = yolo(tmp_path / "src", "0 0 0 1 0 1 1 0 1\n")
    (root / "train" / "labels" / "a.txt").rename(root / "train" / "images" / "a.txt")
    photo(root / "train" / "images" / "caf\u00e9.png")
    (root / "train" / "labels" / "cafe\u0301.txt").write_text("1 0 0 1 0 1 1 0 1\n")
    found, masks, _ = imported(root)
    assert not found.problems and [int(mask.min()) for mask in masks.values()] == [0, 1]


def test_yolo_lists_of_names_by_id_and_its_faults(tmp_path: Path) -> None:
    root = yolo(tmp_path / "src", "0 0 0 1 0 1 1\n7 0 0 1 0 1 1\n0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("names:\n  0: leaf\n  1: stem\n")
    photo(root / "train" / "images" / "b.png")
    found = find_annotations(root)
    texts = [str(each) for each in found.problems]
    assert any("a.txt, line 2: has the class 7, which is not in names of data.yaml: add its name" in t for t in texts)
    assert any("a.txt, line 3: is a box, not a polygon" in t for t in texts)
    assert any("b.png: has no file in labels: it is all background" in t for t in texts)
    assert len(found.errors) == 1
    (root / "train" / "labels" / "gone.txt").write_text("")
    assert "gone.txt: has no photo of the same name in images: add it" in complaint(root)
    (root / "train" / "labels" / "gone.txt").unlink()
    for line, message in (("0 0 0 640 0 640 320", "has the coordinate 640"), ("0 0 0 1 0 1", "has 5 coordinates")):
        (root / "train" / "labels" / "a.txt").write_text(line)
        assert message in str(find_annotations(root).errors[0])


def test_two_tools_in_one_folder_need_a_choice(tmp_path: Path) -> None:
    root = labelme(tmp_path / "src", [{"label": "a", "points": [[0, 0], [8, 0], [8, 6], [0, 6]]}])
    (root / "annotations.xml").write_text(CVAT)
    message = r"annotations of several tools: labelme JSON \(a\.json\); CVAT for images \(annotations\.xml\): choose"
    with pytest.raises(ValueError, match=message):
        find_annotations(root)
    assert find_annotations(root, format="cvat").format == "cvat"
    with pytest.raises(ValueError, match="has no YOLO polygons: found labelme, cvat; check --from"):
        find_annotations(root, format="yolo")
