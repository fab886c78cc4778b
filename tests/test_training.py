"""Two folders of photos and masks in, a weights file out; a broken dataset is named before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.datasets import FolderDataset
from cgrseg.evaluation.confusion import ConfusionMatrix
from cgrseg.preprocessing import Preprocessing
from cgrseg.training.loop import Crops, TrainConfig, rate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits of 80x64 photos: a bright square (class 1) on dark ground (class 0), one ignored row."""
    root, random = tmp_path / "squares", np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((64, 80), np.uint8)
            y, x = random.integers(4, 30, 2)
            mask[y : y + 24, x : x + 24] = 1
            photo = np.where(mask[..., None] == 1, 220, 40) + random.integers(-20, 20, (64, 80, 3))
            mask[0] = 255
            Image.fromarray(photo.astype(np.uint8)).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    classes = [{"id": 0, "name": "ground", "color": [0, 0, 0]}, {"id": 1, "name": "square", "color": [255, 0, 0]}]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_index": 255}))
    return root


def train(folder: Path, out: Path, *more: str) -> int:
    short = ["--steps", "4", "--batch", "2", "--crop", "64", "--workers", "0", "--model", "cgrseg_n"]
    return main(["train", "--data", str(folder), "--out", str(out), *short, *more])


def test_training_learns_and_leaves_an_artifact_that_predicts(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path / "run", "--steps", "16", "--lr", "3e-3", "--warmup", "2") == 0
    losses = [float(line.split(",")[1]) for line in (tmp_path / "run" / "train.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]
    model = cgrseg.load(tmp_path / "run" / "last.safetensors")
    assert model.labels.names == ("ground", "square")
    assert model.preprocessing.short_side == 64
    assert set(model.card["class_iou"]) == {"ground", "square"} and model.card["split"] == "test"
    assert str(tmp_path) not in json.dumps(model.card)  # a weights file tells nobody's folders
    result = cgrseg.Segmenter(model)(folder / "images" / "test" / "0.png")
    assert result.labels.shape == (64, 80)


def test_the_same_seed_gives_the_same_weights_and_crops_whatever_the_workers(folder: Path, tmp_path: Path) -> None:
    for name, workers in (("a", "0"), ("b", "1")):
        assert train(folder, tmp_path / name, "--steps", "2", "--workers", workers) == 0
    first, second = (cgrseg.load(tmp_path / name / "last.safetensors").state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_crops_show_the_square_where_the_mask_says_so(folder: Path) -> None:
    config = TrainConfig(data="", model="", out="", crop=96, scale=(0.5, 2.0))
    crops = Crops(FolderDataset.open(folder, "train"), config, Preprocessing(short_side=64))
    kinds = set()
    for number in range(24):
        image, labels = crops[number]
        assert image.shape == (3, 96, 96) and labels.shape == (96, 96)
        kinds |= set(labels.unique().tolist())
        if (labels == 1).sum() > 50 and (labels == 0).sum() > 50:
            assert image[:, labels == 1].mean() > image[:, labels == 0].mean() + 1
    assert kinds == {0, 1, 255}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no masks", "masks/train"),
        ("no mask", "0.png has no mask"),
        ("large id", "holds class 9, but classes.json ends at 1"),
        ("colours", "not colours"),
        ("size", "but its photo is"),
        ("empty", "holds no photos"),
        ("broken photo", "can't read the pair 0.png"),
    ],
)
def test_a_broken_dataset_is_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, damage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = folder / "masks" / "train" / "0.png"
    if damage == "no masks":
        (folder / "masks" / "train").rename(folder / "elsewhere")
    elif damage == "no mask":
        mask.unlink()
    elif damage == "large id":
        Image.fromarray(np.full((64, 80), 9, np.uint8)).save(mask)
    elif damage == "colours":
        Image.new("RGB", (80, 64)).save(mask)
    elif damage == "size":
        Image.new("L", (40, 64)).save(mask)
    elif damage == "empty":
        for photo in (folder / "images" / "train").iterdir():
            photo.unlink()
    else:
        (folder / "images" / "train" / "0.png").write_bytes(b"\x89PNG not really")
    assert train(folder, tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cgrseg: ") and message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option", ["--steps=0", "--batch=0", "--crop=16", "--scale=[2,1]", "--workers=-1", "--batch=1"]
)
def test_an_impossible_option_is_one_line(folder: Path, tmp_path: Path, option: str) -> None:
    assert train(folder, tmp_path / "run", option) == 2
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_given_weights(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path / "first", "--steps", "2") == 0
    first = tmp_path / "first" / "last.safetensors"
    assert train(folder, tmp_path / "second", "--steps", "1", "--lr", "1e-9", "--init", str(first)) == 0
    before, after = cgrseg.load(first), cgrseg.load(tmp_path / "second" / "last.safetensors")
    torch.testing.assert_close(dict(after.named_parameters()), dict(before.named_parameters()), atol=1e-7, rtol=1e-5)
    assert after.card["init"]["recipe"]["steps"] == 2 and after.card["recipe"]["init"] == "last.safetensors"


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [rate(step, 100, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:] == pytest.approx([1 - (k - 10) / 90 for k in range(10, 101)])


def test_the_confusion_matrix_agrees_with_torchmetrics() -> None:
    torch.manual_seed(0)
    truth, predicted = torch.randint(0, 6, (3, 40, 50)), torch.randint(0, 6, (3, 40, 50))
    truth[truth == 5] = 255
    predicted[predicted == 5] = 4
    confusion = ConfusionMatrix(5)
    for t, p in zip(truth, predicted, strict=True):
        confusion.update(p, t)
    options = {"num_classes": 5, "ignore_index": 255}
    expected = multiclass_jaccard_index(predicted, truth, average="none", **options)
    torch.testing.assert_close(confusion.class_iou().float(), expected)
    assert confusion.mean_iou() == pytest.approx(expected.mean().item(), rel=1e-6)
    assert confusion.accuracy() == pytest.approx(
        multiclass_accuracy(predicted, truth, average="micro", **options).item(), rel=1e-6
    )
    assert confusion.mean_accuracy() == pytest.approx(
        multiclass_accuracy(predicted, truth, average="macro", **options).item(), rel=1e-6
    )
    with pytest.raises(ValueError, match="differ in size"):
        confusion.update(predicted[0], truth[0, 1:])
    with pytest.raises(ValueError, match="holds class 7"):
        confusion.update(predicted[0], torch.full_like(truth[0], 7))
