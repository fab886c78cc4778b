"""Label Studio, Supervisely, Cityscapes and Mapillary files, written by hand after each tool's specification."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from importing import HEIGHT, WIDTH, complaint, drawn, imported, photo, write_json
from PIL import Image

from cgrseg.data.importing.importer import find_annotations
from cgrseg.data.importing.label_studio import decode_brush


def brush(runs: list[tuple[int, int]]) -> list[int]:
    """Pairs (length, value) after @thi.ng/rle-pack's `encode`: all as repeated values, with lengths of 8 bits."""
    bits = f"{sum(length for length, _ in runs):032b}{7:05b}" + f"{7:04b}" * 4
    bits += "".join(f"1{0:02b}{length - 1:08b}{value:08b}" for length, value in runs)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def label_studio(root: Path, results: list[dict[str, Any]]) -> Path:
    """After https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks."""
    photo(root / "images" / "a.png")
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    result = [{"id": f"r{number}", **size, **each} for number, each in enumerate(results, 1)]
    task = {"id": 4, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": result}]}
    unfinished = {"id": 5, "data": {"image": "/data/upload/1/0a1b2c3d-b.png"}, "annotations": []}
    write_json(root / "project.json", [task, unfinished])
    return root


def test_label_studio_polygons_boxes_and_brushes(tmp_path: Path) -> None:
    points = [[0, 50], [100, 50], [100, 100], [0, 100]]
    pixels = [(4 * 12, 0), (8, 255), (4 * 34, 0)]  # four values per pixel, along the rows
    results = [
        {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["soil"]}},
        {"type": "brushlabels", "value": {"format": "rle", "rle": brush(pixels), "brushlabels": ["plant"]}},
        {
            "type": "rectanglelabels",
            "value": {"x": 25, "y": 66.7, "width": 25, "height": 33.3, "rotation": 0, "rectanglelabels": ["plant"]},
        },
    ]
    found, masks, names = imported(label_studio(tmp_path / "src", results))
    assert found.format == "label-studio" and names == ["background", "plant", "soil"]
    assert (masks["train/a"] == drawn("........ ....11.. ........ 22222222 22112222 22112222")).all()
    assert "task 5: has no annotation: it is left out" in str(found.problems[0])


def test_label_studio_keeps_images_without_regions_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    polygon = {"type": "polygonlabels", "value": {"points": [[0, 0], [100, 0], [100, 100]], "polygonlabels": ["soil"]}}
    root = label_studio(tmp_path / "no-size", [polygon])
    tasks = json.loads((root / "project.json").read_text())
    for name in ("original_width", "original_height"):
        tasks[0]["annotations"][0]["result"][0].pop(name)
    write_json(root / "project.json", tasks)
    assert imported(root)[1]["train/a"].any()
    found, masks, _ = imported(label_studio(tmp_path / "empty", []))
    assert set(masks) == {"train/a"} and not masks["train/a"].any()
    point = {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["soil"]}}
    found = find_annotations(label_studio(tmp_path / "points", [point]))
    assert any("has regions of the type keypointlabels, which are left out" in str(each) for each in found.problems)
    points = [[0, 50], [100, 50], [100, 100], [0, 100]]
    region = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["soil"]}}
    root = label_studio(tmp_path / "two", [{**region, "to_name": "img1"}, {**region, "to_name": "img2"}])
    assert "has regions on several images: export one image per task" in complaint(root)


def test_brush_run_lengths_hold_single_values_and_four_widths() -> None:
    bits = f"{6:032b}{7:05b}{2:04b}{1:04b}{7:04b}{15:04b}"  # lengths of 3, 2, 8 and 16 bits
    bits += f"0{1:02b}{2:02b}" + f"{1:08b}{2:08b}{3:08b}"  # three single values, length in 2 bits
    bits += f"1{0:02b}{2:03b}{9:08b}"  # three times 9, length in 3 bits
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode_brush(data, 6).tolist() == [1, 2, 3, 9, 9, 9]
    for wrong, message in ((data[:8], "is cut"), ([999], "not a list of bytes"), ("x", "not a list of bytes")):
        with pytest.raises(ValueError, match=message):
            decode_brush(wrong, 6)
    with pytest.raises(ValueError, match="has an rle of 6 values instead of 8"):
        decode_brush(data, 8)


def png(bits: list[list[int]]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.array(bits, np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def supervisely(root: Path, objects: list[dict[str, Any]]) -> Path:
    """After https://docs.supervisely.com: "Supervisely annotation JSON format"; a bitmap is a PNG, zlib and base64."""
    classes = [
        {"title": "wall", "shape": "polygon", "color": "#102030"},
        {"title": "door", "shape": "bitmap", "color": "#FF0000"},
    ]
    write_json(root / "meta.json", {"classes": classes, "tags": []})
    photo(root / "train" / "img" / "a.png")
    content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": objects}
    write_json(root / "train" / "ann" / "a.png.json", content)
    return root


def test_supervisely_polygons_with_holes_and_bitmaps(tmp_path: Path) -> None:
    data = base64.b64encode(zlib.compress(png([[1, 0], [1, 1]]))).decode()
    ring = {"exterior": [[0, 0], [4, 0], [4, 4], [0, 4]], "interior": [[[2, 2], [3, 2], [3, 3], [2, 3]]]}
    objects = [
        {"classTitle": "wall", "geometryType": "polygon", "points": ring},
        {"classTitle": "door", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [6, 4]}},
        {"classTitle": "wall", "geometryType": "line", "points": {"exterior": [[0, 0], [5, 5]], "interior": []}},
    ]
    found, masks, names = imported(supervisely(tmp_path / "src", objects))
    assert found.format == "supervisely" and names == ["background", "wall", "door"]
    assert found.labels.colors[1:] == ((16, 32, 48), (255, 0, 0))
    expected = drawn("11111... 11111... 11..1... 11..1... 11111.2. ......22")  # corners are pixels, as in cv2.fillPoly
    assert (masks["train/a"] == expected).all()


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"geometryType": "bitmap", "bitmap": {"data": "eJw=", "origin": [0, 0]}}, "has a mask that can't be decoded"),
        ({"geometryType": "bitmap", "bitmap": {"data": "eJx", "origin": [0, 0]}}, "has a bitmap that can't be decoded"),
        ({"geometryType": "bitmap"}, "has no bitmap: export it again"),
        ({"geometryType": "sphere", "points": {}}, "has the geometryType sphere, which is not read"),
    ],
)
def test_bad_supervisely_figures_are_errors(figure: dict[str, Any], message: str, tmp_path: Path) -> None:
    error = complaint(supervisely(tmp_path / "src", [{"classTitle": "wall", **figure}]))
    assert message in error and "a.png.json" in error and "\n" not in error


def test_supervisely_classes_must_be_in_meta(tmp_path: Path) -> None:
    ring = {"exterior": [[0, 0], [4, 0], [4, 4]], "interior": []}
    figure = {"classTitle": "roof", "geometryType": "polygon", "points": ring}
    (error,) = find_annotations(supervisely(tmp_path / "src", [figure])).errors
    assert "object 1 (roof): has the class roof, which is not in meta.json: add it there" in str(error)


def test_cityscapes_polygons_are_drawn_as_its_scripts_do(tmp_path: Path) -> None:
    """After cityscapesScripts, createLabelImg.py: in order, with ImageDraw.polygon; "cargroup" is car."""
    root = tmp_path / "src"
    photo(root / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    objects = [
        {"label": "road", "polygon": [[0, 3], [7, 3], [7, 5], [0, 5]]},
        {"label": "cargroup", "polygon": [[1, 2], [3, 2], [3, 4], [1, 4]]},
        {"label": "sky", "deleted": 1, "polygon": [[0, 0], [7, 0], [7, 5]]},
        {"label": "ego vehicle", "polygon": [[6, 5], [7, 5], [7, 4]]},
    ]
    content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    write_json(root / "gtFine" / "val" / "ulm" / "ulm_000000_000019_gtFine_polygons.json", content)
    found, masks, names = imported(root)
    assert found.format == "cityscapes" and names == ["car", "road", "sky"]
    expected = drawn("######## ######## #000#### 10001111 1000111# 111111##")
    assert (masks["val/ulm_000000_000019_leftImg8bit"] == expected).all()


def test_mapillary_polygons(tmp_path: Path) -> None:
    """After Mapillary Vistas 2.0, polygons/NAME.json."""
    root = tmp_path / "src"
    photo(root / "validation" / "images" / "x1.jpg")
    for folder in ("labels", "instances", "panoptic"):
        photo(root / "validation" / "v2.0" / folder / "x1.png")
    objects = [
        {"label": "nature--sky", "polygon": [[0, 0], [8, 0], [8, 3], [0, 3]]},
        {"label": "void--unlabeled", "polygon": [[0, 0], [2, 0], [2, 2], [0, 2]]},
    ]
    content = {"width": WIDTH, "height": HEIGHT, "objects": objects}
    write_json(root / "validation" / "v2.0" / "polygons" / "x1.json", content)
    found, masks, names = imported(root, unlabeled="background")
    assert found.format == "mapillary" and names == ["background", "nature--sky"]
    assert (masks["val/x1"] == drawn("##111111 ##111111 11111111 ........ ........ ........")).all()


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a JSON file."""
    if path:
        yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from places(value, (*path, key))


def with_polygons(root: Path) -> list[tuple[str, Path]]:
    """Small datasets of all JSON formats: (format, file)."""
    ring, flat = [[0, 2], [8, 2], [8, 6]], [0, 2, 8, 2, 8, 6]
    points = {"exterior": ring, "interior": [[[2, 2], [3, 2], [3, 3]]]}
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    regions: list[Any] = [[flat], {"size": [HEIGHT, WIDTH], "counts": "7240m0"}]
    annotations = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": each} for k, each in enumerate(regions)]
    coco = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    shapes = [
        {"label": "a", "shape_type": "polygon", "points": ring},
        {"label": "b", "shape_type": "circle", "points": ring[:2]},
        {"label": "b", "shape_type": "mask", "points": ring[:2], "mask": "abcd"},
    ]
    labelme = {"imagePath": "a.png", "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
    objects = [{"label": "a", "polygon": ring}]
    files = {"coco": coco, "labelme": labelme, "mapillary": {"width": WIDTH, "height": HEIGHT, "objects": objects}}
    paths = [(name, write_json(photo(root / name / "a.png").with_name("a.json"), files[name])) for name in files]
    box = {"x": 25, "y": 66, "width": 25, "height": 33, "rotation": 0, "rectanglelabels": ["p"]}
    polygon = {"points": [[0, 50], [100, 50], [100, 100]], "polygonlabels": ["p"]}
    results = [{"type": "rectanglelabels", "value": box}, {"type": "polygonlabels", "value": polygon}]
    figures = [
        {"classTitle": "wall", "geometryType": "polygon", "points": points},
        {"classTitle": "wall", "geometryType": "rectangle", "points": {"exterior": ring[:2]}},
        {"classTitle": "door", "geometryType": "bitmap", "bitmap": {"data": "eJw=", "origin": [6, 4]}},
    ]
    paths.append(("label-studio", label_studio(root / "ls", results) / "project.json"))
    return [*paths, ("supervisely", supervisely(root / "sly", figures) / "train" / "ann" / "a.png.json")]


@pytest.mark.parametrize(
    "value", [None, [], {"a": 1}, -1, 10**400, 1e9, "\0", [[None]]], ids=lambda value: str(value)[:8]
)
def test_values_of_another_type_are_errors_and_never_a_crash(value: Any, tmp_path: Path) -> None:
    for format, file in with_polygons(tmp_path):
        root = next(folder for folder in file.parents if folder.parent == tmp_path)
        whole = json.loads(file.read_text())
        for path in places(whole):
            content = json.loads(json.dumps(whole))
            parent = content
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            write_json(file, content)
            assert "\n\n" not in complaint(root, format=format)
        write_json(file, whole)
