"""Masks that tools write are read by their lists of classes; and what is written is whole, or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from importing import complaint, drawn, imported, photo, write_json
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.data.check import inspect
from cgrseg.data.importing import importer
from cgrseg.data.importing.importer import find_annotations

IDS = drawn("00000000 01110000 01110000 00022200 00022200 00000000").astype(np.uint8)
COLORS = np.array([[0, 0, 0], [10, 20, 30], [200, 0, 9]], np.uint8)


def cvat_masks(root: Path) -> Path:
    """After https://docs.cvat.ai/docs/dataset_management/formats/format-smask: 3 channels, colours of labelmap.txt."""
    photo(root / "JPEGImages" / "a.jpg")
    (root / "SegmentationClass").mkdir()
    (root / "SegmentationObject").mkdir()
    Image.fromarray(COLORS[IDS]).save(root / "SegmentationClass" / "a.png")
    Image.fromarray(COLORS[IDS]).save(root / "SegmentationObject" / "a.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    lines = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:10,20,30::\ndog:200,0,9::\n"
    (root / "labelmap.txt").write_text(lines)
    return root


def test_cvat_masks_have_the_colours_of_the_label_map(tmp_path: Path) -> None:
    found, masks, names = imported(cvat_masks(tmp_path / "src"))
    assert found.format == "cvat-masks" and names == ["background", "cat", "dog"]
    assert (masks["train/a"] == IDS).all() and found.labels.colors[2] == (200, 0, 9)


def test_overlays_are_no_photos_and_several_exports_keep_theirs_apart(tmp_path: Path) -> None:
    """labelme2voc writes pictures of the masks, and CVAT numbers the frames of every task from 0."""
    for task, shade in (("one", 10), ("two", 200)):
        root = cvat_masks(tmp_path / "src" / task)
        Image.new("RGB", (8, 6), (shade,) * 3).save(root / "JPEGImages" / "a.jpg")
        for folder in ("SegmentationClassVisualization", "SegmentationObjectVisualization", "overlays"):
            photo(root / folder / "a.jpg")
    (tmp_path / "src" / "two" / "labelmap.txt").unlink()
    found, masks, _ = imported(tmp_path / "src")
    assert not found.problems and len(masks) == 2 and all((mask == IDS).all() for mask in masks.values())
    photos = sorted(path for path in (tmp_path / "src-out" / "images").rglob("*.*"))
    assert [round(float(np.asarray(Image.open(path)).mean())) for path in photos] == [10, 200]


def test_a_mask_with_several_possible_photos_is_an_error(tmp_path: Path) -> None:
    root = cvat_masks(tmp_path / "src")
    (root / "JPEGImages").rename(root / "photos")
    photo(root / "overlays" / "a.png")
    assert "can belong to overlays/a.png, photos/a.jpg: keep the photos in JPEGImages" in complaint(root)


def test_colours_that_no_class_has_are_errors(tmp_path: Path) -> None:
    root = cvat_masks(tmp_path / "src")
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:10,20,30::\ncow 1\n")
    first, second = complaint(root).splitlines()
    assert "labelmap.txt, line 3: has 'cow 1': write name:red,green,blue::" in first
    assert "a.png has the colour #c80009, which no class has: add it" in second


def test_voc_masks_in_the_splits_of_image_sets(tmp_path: Path) -> None:
    """After the VOC 2012 development kit, section 8: palette PNGs of 21 ids, 255 is void."""
    root = tmp_path / "src"
    (root / "SegmentationClass").mkdir(parents=True)
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192]
    ids = IDS.copy()
    ids[0] = 255
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        photo(root / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(ids)
        mask.putpalette(palette)
        mask.save(root / "SegmentationClass" / f"{name}.png")
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("2007_000032\n")
    (folder / "val.txt").write_text("2007_000033\n")
    (folder / "trainval.txt").write_text("2007_000032\n2007_000033\n")
    found, masks, names = imported(root)
    assert found.format == "voc" and len(names) == 21 and names[:2] == ["background", "aeroplane"]
    assert set(masks) == {"train/2007_000032", "val/2007_000033"}
    assert (masks["train/2007_000032"] == ids).all()


def test_roboflow_masks_have_the_ids_of_their_table(tmp_path: Path) -> None:
    """After Roboflow's export "Semantic Segmentation Masks": NAME_mask.png and _classes.csv in each split."""
    root = tmp_path / "src"
    for split, rows in (("train", "0, background\n1, cat\n2, dog"), ("valid", "0, background\n1, dog\n2, cat")):
        photo(root / split / "a_jpg.rf.1.jpg")
        Image.fromarray(IDS).save(root / split / "a_jpg.rf.1_mask.png")
        (root / split / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}\n")
    found, masks, names = imported(root)
    assert found.format == "roboflow" and names == ["background", "cat", "dog"]
    assert (masks["train/a_jpg.rf.1"] == IDS).all() and (masks["val/a_jpg.rf.1"] == np.array([0, 2, 1])[IDS]).all()
    (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, dog\n")
    (error,) = find_annotations(root).errors
    assert "a_jpg.rf.1_mask.png has the id 2, which is not in _classes.csv: add its name" in str(error)


def test_lists_of_photos_and_masks(tmp_path: Path) -> None:
    root = tmp_path / "src"
    photo(root / "images" / "a b.jpg")
    photo(root / "images" / "c.jpg")
    (root / "masks").mkdir()
    Image.fromarray(IDS).save(root / "masks" / "a b.png")
    Image.fromarray(np.repeat(IDS[..., None], 3, 2)).save(root / "masks" / "c.png")  # ids in three equal channels
    (root / "train.txt").write_text("images/a b.jpg\tmasks/a b.png\n")
    (root / "val.txt").write_text("images/c.jpg masks/c.png\n\n")
    found, masks, names = imported(root)
    assert found.format == "lists" and names == ["class 0", "class 1", "class 2"]
    assert (masks["train/a b"] == IDS).all() and (masks["val/c"] == IDS).all()
    (root / "labels.txt").write_text("sky\nsoil\n")
    error = complaint(root)
    assert "has the id 2, which is not in labels.txt" in error and "--one-based" in error
    for name in ("a b", "c"):
        Image.fromarray((IDS > 0).astype(np.uint8) * 255).save(root / "masks" / f"{name}.png")
    (root / "labels.txt").unlink()
    assert find_annotations(root).labels.names == ("background", "object")


def coco_of_two(root: Path) -> Path:
    for name in "ab":
        photo(root / f"{name}.png")
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abc")]
    ring = [[1, 1, 5, 1, 5, 4, 1, 4]]
    annotations = [{"id": each, "image_id": each, "category_id": 1, "segmentation": ring} for each in range(3)]
    write_json(
        root / "coco.json", {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    )
    return root


def test_errors_write_nothing_unless_their_images_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = coco_of_two(tmp_path / "src"), tmp_path / "out"
    assert main(["import-data", str(root), "--out", str(out)]) == 1
    output = capsys.readouterr()
    assert "COCO JSON in" in output.out and "names the photo c.png, which is not in" in output.err
    assert "errors: 1, nothing was written" in output.err and list(tmp_path.iterdir()) == [root]
    assert main(["import-data", str(root), "--out", str(out), "--skip-errors"]) == 0
    output = capsys.readouterr()
    assert "warning: " in output.err and "left out: names the photo c.png" in output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "src"]
    report = inspect(out, "folder")
    assert all("same photo" in error for error in report.errors)  # these photos are equal
    assert main(["import-data", str(root), "--out", str(out)]) == 2
    assert f"--out {out} exists already" in capsys.readouterr().err
    assert main(["import-data", str(root), "--out", str(root / "out")]) == 2
    assert "is inside of the source" in capsys.readouterr().err


def test_a_stopped_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = coco_of_two(tmp_path / "src"), tmp_path / "out"
    found = find_annotations(root, skip_errors=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importer, "write_classes", stop)
    with pytest.raises(KeyboardInterrupt):
        importer.write_dataset(found, out)
    assert list(tmp_path.iterdir()) == [root]


def test_a_full_disk_names_the_output_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = coco_of_two(tmp_path / "src"), tmp_path / "out"

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(importer.shutil, "copyfile", full)
    assert main(["import-data", str(root), "--out", str(out), "--skip-errors"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"cgrseg: No space left on device: {out}"
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [NaN]}', "{", "\ufeff\u2028{"])
def test_json_that_cannot_be_read_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.json").write_text(text, encoding="utf-8")
    assert main(["import-data", str(tmp_path / "src"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a.json" in error
