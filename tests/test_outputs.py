"""`cgrseg predict --save`: files per photo and per folder, complete after any kill, never over someone's own file."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.inference import pipeline
from cgrseg.inference.collected import CollectedFiles
from cgrseg.inference.outputs import MEDIA_TYPES
from cgrseg.inference.pipeline import _is_written
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.sources import FOLDER_OUTPUTS, PHOTO_OUTPUTS
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

NAMES = ("background", "road, street", "tree")
COCO, CSV = FOLDER_OUTPUTS["coco"], FOLDER_OUTPUTS["csv"]


def save_weights(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=len(names))
    torch.nn.init.normal_(model.head.classifier.weight)
    artifact.save(model, path, labels=LabelSpace(names=names, colors=LabelSpace.numbered(len(names)).colors))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def predict(weights: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*arguments: object, weights: Path = weights) -> int:
        options = ["--weights", str(weights), "--out", str(tmp_path / "out"), "--device", "cpu"]
        return main(["predict", *map(str, arguments), *options])

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(number).integers(0, 256, (5, 6 + number, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)
    return folder


def names_of(path: Path) -> list[str]:
    return [image["file_name"] for image in json.loads(path.read_text())["images"]]


def table_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def test_every_output_is_written_and_says_what_the_segmentation_says(
    photos: Path, tmp_path: Path, predict: Callable[..., int], weights: Path
) -> None:
    kinds = [*PHOTO_OUTPUTS, *FOLDER_OUTPUTS]
    assert set(MEDIA_TYPES) == set(kinds)
    assert predict(photos, "--save", ",".join(kinds), "--tolerance", 0) == 0
    out = tmp_path / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *(name + suffix for name in ("a", "b", "sub/c") for suffix in PHOTO_OUTPUTS.values()),
        *(folder + name for folder in ("", "sub/") for name in (COCO, CSV)),
    }
    result = Segmenter(weights, device="cpu")(photos / "sub" / "c.png")
    assert json.loads((out / "sub" / "c.geojson").read_text()) == json.loads(json.dumps(result.to_geojson(tolerance=0)))
    assert json.loads((out / "sub" / COCO).read_text()) == result.to_coco(tolerance=0, file_name="c.png")
    with Image.open(out / "sub" / "c.cutout.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(result.cutout()))
    header, row = table_of(out / "sub" / CSV)
    assert header == ["file", "width", "height", *NAMES, "unknown"]
    assert row[:3] == ["c.png", "64", "40"] and row[-1] == "0"
    assert [float(cell) for cell in row[3:-1]] == pytest.approx(
        (result.counts() / result.labels.size).tolist(), abs=1e-6
    )


def test_one_file_has_all_photos_of_its_folder_with_ids_of_their_own(
    photos: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    assert predict(photos, "--save", "coco,csv") == 0
    table = json.loads((tmp_path / "out" / COCO).read_text())
    assert names_of(tmp_path / "out" / COCO) == ["a.png", "b.jpg"]
    assert [image["id"] for image in table["images"]] == [1, 2]
    assert [each["id"] for each in table["annotations"]] == list(range(1, len(table["annotations"]) + 1))
    sizes = {1: 48 * 40, 2: 56 * 40}
    for image, pixels in sizes.items():
        assert sum(each["area"] for each in table["annotations"] if each["image_id"] == image) == pixels
    assert [row[0] for row in table_of(tmp_path / "out" / CSV)] == ["file", "a.png", "b.jpg"]


def test_classes_with_commas_in_their_names_can_be_chosen(
    photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(photos / "a.png", "--save", "geojson", "--classes", "road, street", "--classes", "0,2") == 0
    assert predict(photos / "a.png", "--save", "geojson,cutout", "--classes", "road, street") == 0
    found = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert {feature["properties"]["class"] for feature in found} == {"road, street"}
    assert predict(photos / "a.png", "--save", "cutout", "--classes", "tre") == 2
    assert "no class is called 'tre': choose a name such as tree" in capsys.readouterr().err


def test_a_killed_run_resumes_to_the_same_files(
    photos: Path, tmp_path: Path, predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, wanted = tmp_path / "out", "coco,csv,geojson"
    assert predict(photos, "--save", wanted) == 0
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for path in whole:
        path.unlink()
    write, done, started = pipeline._write, [], itertools.count()

    def killed(result: Any, job: Any, **options: Any) -> None:
        if next(started):  # several threads write at the same time
            raise KeyboardInterrupt
        write(result, job, **options)
        done.append(job[0].path)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_write", killed)
        assert predict(photos, "--save", wanted) != 0
    assert not (out / COCO).exists()
    hidden = out / f".{COCO}.part"
    hidden.write_bytes(hidden.read_bytes() + b'{"file_name": "b.j')  # a line that was cut
    redone: list[str] = []
    monkeypatch.setattr(
        pipeline, "_write", lambda result, job, **k: (redone.append(job[0].path.name), write(result, job, **k))
    )
    assert predict(photos, "--save", wanted, "--resume") == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == whole
    assert len(redone) == 2 and done[0].name not in redone
    redone.clear()
    assert predict(photos, "--save", wanted, "--resume") == 0 and redone == []


def test_resume_adds_new_photos_to_the_files_and_repairs_damaged_ones(
    photos: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    out = tmp_path / "out"
    assert predict(photos / "a.png", "--save", "coco,csv,geojson") == 0
    (out / "a.geojson").write_text('{"type": "Feat')
    assert not _is_written(out / "a.geojson")
    assert predict(photos / "a.png", photos / "b.jpg", "--save", "coco,csv,geojson", "--resume") == 0
    assert names_of(out / COCO) == ["a.png", "b.jpg"] and _is_written(out / "a.geojson")
    assert [row[0] for row in table_of(out / CSV)] == ["file", "a.png", "b.jpg"]
    whole = (out / COCO).read_bytes()
    (out / COCO).write_bytes(whole[:-300])
    assert predict(photos / "a.png", photos / "b.jpg", "--save", "coco,csv", "--resume") == 0
    assert (out / COCO).read_bytes() == whole
    assert predict(photos / "b.jpg", "--save", "coco,csv") == 0
    assert names_of(out / COCO) == ["b.jpg"]  # without --resume the files are made anew


def test_resume_with_other_classes_is_refused(
    photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_weights(tmp_path / "other.safetensors", ("background", "sea"))
    for kind, name in FOLDER_OUTPUTS.items():
        assert predict(photos / "a.png", "--save", kind) == 0
        before = (tmp_path / "out" / name).read_bytes()
        assert predict(photos / "b.jpg", "--save", kind, "--resume", weights=other) == 2
        assert f"{name} has other classes than these weights" in capsys.readouterr().err
        assert (tmp_path / "out" / name).read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "content"), [("coco", '{"images": []}'), ("csv", "name;share\n"), ("csv", "\xff\xfe")]
)
def test_a_file_of_someone_else_is_not_overwritten(
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    content: str,
) -> None:
    mine = tmp_path / "out" / FOLDER_OUTPUTS[kind]
    mine.parent.mkdir()
    mine.write_text(content, encoding="latin-1")
    for options in ([], ["--resume"]):
        assert predict(photos, "--save", kind, *options) == 2
        assert "is not an output of cgrseg and would be overwritten" in capsys.readouterr().err
        assert mine.read_text(encoding="latin-1") == content


def test_new_outputs_never_overwrite_a_photo(
    tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str], weights: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.cutout.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    options = ["--weights", str(weights), "--out", str(folder), "--save", "cutout"]
    assert main(["predict", str(folder / "a.png"), str(folder / "a.cutout.png"), *options]) == 2
    assert "would overwrite the source" in capsys.readouterr().err


def test_a_photo_that_fails_is_left_out_and_done_by_the_next_run(
    photos: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    whole = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[:300])
    assert predict(photos, "--save", "coco") == 1
    assert names_of(tmp_path / "out" / COCO) == ["a.png"]
    (photos / "b.jpg").write_bytes(whole)
    assert predict(photos, "--save", "coco", "--resume") == 0
    assert names_of(tmp_path / "out" / COCO) == ["a.png", "b.jpg"]


def test_records_are_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / COCO
    line = {"width": 9, "height": 9, "annotations": [{"category_id": 0, "segmentation": [[0] * 2000]}]}
    with CollectedFiles([path], LabelSpace.numbered(2)) as files:
        for number in range(300):
            files.add(path, {"file_name": f"{number:03}.png", **line})
        assert sum(len(str(value)) for value in vars(files).values()) < 10_000
    assert len(names_of(path)) == 300 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", [COCO, CSV])
def test_records_of_a_killed_run_with_other_classes_are_refused(name: str, tmp_path: Path) -> None:
    record = {"file_name": "x", "row": ["x", 1, 1, 1, 0, 0], "width": 1, "height": 1, "annotations": []}
    CollectedFiles([tmp_path / name], LabelSpace.numbered(2)).add(tmp_path / name, record)
    with pytest.raises(ValueError, match="has other classes than these weights"):
        CollectedFiles([tmp_path / name], LabelSpace.numbered(3), keep=True)
    with CollectedFiles([tmp_path / name], LabelSpace.numbered(2), keep=True) as files:
        files.add(tmp_path / name, {**record, "file_name": "y", "row": ["y", 1, 1, 1, 0, 0]})
    assert (tmp_path / name).exists() and not list(tmp_path.glob(".*"))


def test_a_table_keeps_the_bytes_of_names_that_are_not_utf_8(
    photos: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (photos / "a.png").rename(photos / name)
    except OSError:
        pytest.skip("this file system only has UTF-8 names")
    for options in ([], ["--resume"]):
        assert predict(photos, "--save", "csv", *options) == 0
        assert b"\ncaf\xe9.png," in (tmp_path / "out" / CSV).read_bytes()


def test_equal_class_names_have_columns_of_their_own(tmp_path: Path) -> None:
    labels = LabelSpace(names=("a", "a", "file", "unknown"), colors=((0, 0, 0),) * 4)
    with CollectedFiles([tmp_path / CSV], labels) as files:
        files.add(tmp_path / CSV, {"file_name": "x", "row": ["x", 1, 1, 0.5, 0.5, 0, 0, 0]})
    columns = ["file", "width", "height", "a (0)", "a (1)", "file (2)", "unknown (3)", "unknown"]
    assert table_of(tmp_path / CSV)[0] == columns


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--threshold", "1.2"], "threshold is 1.2"),
        (["--tolerance", "-1"], "tolerance is -1"),
        (["--save", "polygons"], "'polygons' is not an output: choose from overlay, mask"),
        (["--save", "coco", "--engine", "ray"], "'coco' is not an output"),
        (["--classes", "tree", "--engine", "ray"], "--classes needs --engine local"),
    ],
)
def test_wrong_options_are_one_line(
    photos: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert predict(photos, *options) == 2
    assert complaint in capsys.readouterr().err


def test_threshold_and_palette_reach_the_mask(photos: Path, tmp_path: Path, predict: Callable[..., int]) -> None:
    assert predict(photos / "a.png", "--save", "mask,csv", "--threshold", 1, "--palette", "distinct") == 0
    with Image.open(tmp_path / "out" / "a.mask.png") as mask:
        assert np.unique(np.asarray(mask)).tolist() == [255]
        palette = mask.getpalette()
    assert palette is not None and palette[3:9] != [c for k in (1, 2) for c in LabelSpace.numbered(3).colors[k]]
    assert table_of(tmp_path / "out" / CSV)[1][-1] == "1"
