"""Each photo counts once, at its own size, in any mode and number of processes, and the model is left as it was."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import multiprocessing
from torch.nn import functional as F

import cgrseg
from cgrseg.data.dataset import Samples, SegmentationDataset
from cgrseg.data.listing import open_dataset
from cgrseg.evaluation import Scores
from cgrseg.evaluation import evaluate as evaluate_predictor
from cgrseg.evaluation.metrics import ConfusionMatrix
from cgrseg.evaluation.plots import classes_figure, confusion_figure, legend_entries, side_by_side
from cgrseg.evaluation.report import text_table, write_report
from cgrseg.inference.modes import Mode
from cgrseg.inference.network import Network, evaluation_mode
from cgrseg.inference.predictor import Predictor
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing

RESIZED = Preprocessing(short_side=48)
SIZES = [(64, 80), (61, 97), (97, 61), (40, 41), (64, 80)]


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Five photos of several sizes in three classes; the last one is ignored as a whole."""
    root, random = tmp_path / "data", np.random.default_rng(0)
    for side in ("images", "masks"):
        (root / side / "test").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        mask = random.integers(0, 3, (height // 16 + 1, width // 16 + 1)).repeat(16, 0).repeat(16, 1)[:height, :width]
        photo = (mask[..., None] * 90 + random.integers(0, 60, (height, width, 3))).astype(np.uint8)
        mask[:3] = 255
        mask[5, 5] = 65535 if number == 1 else 255
        if number == 4:
            mask[:] = 255
        Image.fromarray(photo).save(root / "images" / "test" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint16 if number == 1 else np.uint8)).save(
            root / "masks" / "test" / f"{number}.png"
        )
    classes = [{"id": number, "name": name} for number, name in enumerate(("sky", "road", "tree"))]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return open_dataset(root, "test")


def make_model() -> CGRSeg:
    torch.manual_seed(0)
    model = cgrseg.create_model("cgrseg_n", num_classes=3)
    torch.nn.init.normal_(model.head.classifier.weight)
    with evaluation_mode(model), torch.no_grad():  # so that all classes win somewhere
        model.head.classifier.bias -= model(torch.randn(4, 3, 64, 96)).mean((0, 2, 3))
    return model


def evaluate(
    model: CGRSeg,
    samples: Samples,
    *,
    mode: Mode = "whole",
    window: int = 512,
    indices: list[int] | None = None,
    fabric: Fabric | None = None,
) -> Scores:
    with evaluation_mode(model):
        predictor = Predictor(Network.of(model), mode=mode, window=window, preprocessing=RESIZED)
        return evaluate_predictor(predictor, samples, indices=indices, fabric=fabric, progress=False)


@pytest.fixture(scope="module")
def model() -> CGRSeg:
    return make_model().eval()


def slow_counts(model: CGRSeg, samples: Samples) -> tuple[np.ndarray, list[float]]:
    """The confusion matrix from full-size logits and numpy, and each photo's mIoU."""
    total, photos = np.zeros((3, 3), np.int64), []
    for index in range(len(samples)):
        photo, mask = samples.read(index)
        image, valid = RESIZED.prepare(np.asarray(photo))
        with torch.inference_mode():
            logits = F.interpolate(model(image[None]).double(), tuple(image.shape[1:]), mode="bilinear")
            logits = F.interpolate(logits[..., : valid[0], : valid[1]], photo.shape[:2], mode="bilinear")
        predicted, truth = logits[0].argmax(0).numpy(), np.asarray(mask)
        counts = np.zeros((3, 3), np.int64)
        np.add.at(counts, (truth[truth < 3], predicted[truth < 3]), 1)
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        photos.append(float((counts.diagonal()[union > 0] / union[union > 0]).mean()) if union.any() else math.nan)
        total += counts
    return total, photos


def test_counts_are_those_of_full_size_logits_at_each_photos_size(model: CGRSeg, samples: Samples) -> None:
    scores = evaluate(model, samples)
    expected, photos = slow_counts(model, samples)
    assert (
        int(scores.confusion.counts.sum())
        == expected.sum()
        == sum(int((np.asarray(samples.read(index)[1]) < 3).sum()) for index in range(5))
    )
    assert len(np.unique(expected.nonzero()[1])) > 1
    assert np.abs(scores.confusion.counts.numpy() - expected).sum() <= 4  # near ties
    assert list(scores.photo_iou) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(list(scores.photo_iou.values()), photos, atol=1e-3)
    assert scores.worst() == sorted(range(4), key=photos.__getitem__) and scores.worst(2) == scores.worst()[:2]
    assert scores.mean_iou() == scores.confusion.mean_iou()


@pytest.mark.parametrize("mode", ["slide", "slide-cosine", "tta"])
def test_every_mode_counts_every_pixel_once(model: CGRSeg, samples: Samples, mode: str) -> None:
    whole = evaluate(model, samples, indices=[1, 3])
    scores = evaluate(model, samples, mode=mode, window=40, indices=[3, 1, 3])
    assert torch.equal(scores.confusion.counts.sum(1), whole.confusion.counts.sum(1))
    assert not torch.equal(scores.confusion.counts, whole.confusion.counts)
    assert list(scores.photo_iou) == [1, 3]


def test_a_window_over_all_is_the_whole_photo(model: CGRSeg, samples: Samples) -> None:
    counts = [evaluate(model, samples, mode=mode).confusion.counts for mode in ("whole", "slide", "slide-cosine")]
    assert all((other - counts[0]).abs().sum() <= 8 for other in counts[1:])


def test_a_model_in_float64_is_scored_too(model: CGRSeg, samples: Samples) -> None:
    double = make_model().double()
    for mode in ("whole", "slide"):
        one, two = (evaluate(net, samples, mode=mode, indices=[0]) for net in (double, model))
        assert (one.confusion.counts - two.confusion.counts).abs().sum() <= 20


def test_each_part_gets_its_training_flag_back_also_after_an_error(samples: Samples) -> None:
    model = make_model()
    model.train()
    model.encoder.eval()
    model.encoder.stem[0].train()
    before = {name: module.training for name, module in model.named_modules()}
    seen = set()
    hook = model.head.register_forward_hook(lambda module, *_: seen.add(module.training))
    evaluate(model, samples, indices=[0])
    hook.remove()
    assert seen == {False}
    assert {name: module.training for name, module in model.named_modules()} == before
    Path(samples.pairs[1][1]).write_bytes(b"no picture")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"1\.png"):
        evaluate(model, samples)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_models_with_more_classes_are_refused(samples: Samples) -> None:
    wide = cgrseg.create_model("cgrseg_n", num_classes=9)
    torch.nn.init.zeros_(wide.head.classifier.weight)
    wide.head.classifier.bias.data[7] = 1
    with pytest.raises(ValueError, match="predicts class 7, but there are 3"):
        evaluate(wide, samples)


def process(rank: int, data: Path, port: int, out: Path) -> None:
    """One of two processes; in the second part one of them reads a damaged mask."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    os.environ |= {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "RANK": str(rank)}
    fabric = Fabric(accelerator="cpu", devices=1, num_nodes=2, strategy="ddp")
    fabric.launch()
    samples = open_dataset(data, "test")
    scores = evaluate(make_model(), samples, fabric=fabric)
    table = {
        "confusion": scores.confusion.counts.tolist(),
        "boundary": scores.boundary.counts.tolist(),
        "photos": list(scores.photo_iou.items()),
    }
    fabric.barrier()
    if rank == 0:
        (data / "masks" / "test" / "3.png").write_bytes(b"no picture")
    fabric.barrier()
    try:
        evaluate(make_model(), samples, fabric=fabric)
    except ValueError as error:
        table["error"] = str(error)
    (out / f"{rank}.json").write_text(json.dumps(table))


@pytest.mark.slow
def test_two_processes_sum_to_one_without_counting_twice_and_fail_together(
    model: CGRSeg, samples: Samples, tmp_path: Path
) -> None:
    alone = evaluate(model, samples)  # five photos: an odd number for two processes
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    multiprocessing.spawn(process, (tmp_path / "data", port, tmp_path), nprocs=2)
    for rank in (0, 1):
        table = json.loads((tmp_path / f"{rank}.json").read_text())
        assert table["confusion"] == alone.confusion.counts.tolist()
        assert table["boundary"] == alone.boundary.counts.tolist()
        np.testing.assert_allclose(table["photos"], list(alone.photo_iou.items()), atol=1e-12)
        assert "3.png" in table["error"]


@pytest.fixture
def scores(model: CGRSeg, samples: Samples) -> Iterator[Scores]:
    yield evaluate(model, samples)


def test_the_report_holds_the_scores_as_text_numbers_and_pictures(
    model: CGRSeg, samples: Samples, scores: Scores, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    about = {"weights": "n.safetensors"}
    predictor = Predictor(Network.of(model), preprocessing=RESIZED)
    for _ in range(2):  # a second report replaces the first
        write_report(
            folder, scores, samples, lambda photo: predictor.predict([predictor.prepare(photo)])[0].labels, about
        )
    worst = [f"{place:02}_{index}.png" for place, index in enumerate(scores.worst(), 1)]
    assert sorted(path.name for path in (folder / "worst").iterdir()) == worst and len(worst) == 4
    names = {path.name for path in folder.iterdir()}
    pictures = {"classes.png", "confusion.png"}
    assert names == {"table.txt", "classes.csv", "photos.csv", "confusion.csv", "scores.json", "worst"} | pictures
    table = json.loads((folder / "scores.json").read_text())
    assert table["miou"] == scores.mean_iou() and table["photos"] == 5 and table["weights"] == "n.safetensors"
    assert [row["name"] for row in table["classes"].values()] == ["sky", "road", "tree"]
    assert [row["iou"] for row in table["classes"].values()] == scores.confusion.class_iou().tolist()
    rows = (folder / "confusion.csv").read_text().splitlines()
    assert [list(map(int, row.split(",")[1:])) for row in rows[1:]] == scores.confusion.counts.tolist()
    assert f"{100 * scores.mean_iou():.2f}" in (folder / "table.txt").read_text()
    assert len((folder / "photos.csv").read_text().splitlines()) == 5
    for path in (*(folder / name for name in pictures), *(folder / "worst").iterdir()):
        with Image.open(path) as picture:
            assert min(picture.size) > 80


def test_a_class_that_never_occurs_is_a_dash_in_the_table_and_null_in_numbers(scores: Scores, tmp_path: Path) -> None:
    labels = LabelSpace.numbered(3)
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    few = Scores(labels, confusion, scores.boundary, {0: math.nan})
    line = next(line for line in text_table(few).splitlines() if line.startswith("class 2"))
    assert line.split()[2:6] == ["0.00", "-", "-", "-"]
    assert few.worst() == []
    for figure in (confusion_figure(confusion, labels), classes_figure(confusion, labels)):
        figure.savefig(tmp_path / "picture.png")
    assert [text.get_text() for text in figure.axes[0].texts].count("absent") == 1


def test_side_by_side_draws_truth_and_prediction_in_their_colours_and_the_ignored_in_black() -> None:
    labels = LabelSpace(names=("a", "b"), colors=((255, 0, 0), (0, 0, 255)))
    photo = np.zeros((4, 6, 3), np.uint8)
    truth = np.zeros((4, 6), np.uint8)
    truth[0] = 255
    predicted = np.ones((4, 6), np.uint8)
    sheet = np.asarray(side_by_side(photo, truth, predicted, labels))
    assert sheet.shape == (4, 18, 3) and not sheet[:, :6].any() and not sheet[0, 6:12].any()
    assert (sheet[1:, 6:12] == [153, 0, 0]).all() and (sheet[:, 12:] == [0, 0, 153]).all()


@pytest.mark.parametrize("names", [("Straße", "ñ Ελλάς"), ("$5 or $6", "$\\frac{")])
def test_class_names_of_any_kind_are_drawn_as_they_are(names: tuple[str, str], tmp_path: Path) -> None:
    labels = LabelSpace(names=names, colors=((255, 0, 0), (0, 0, 255)))
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    for figure in (confusion_figure(confusion, labels), classes_figure(confusion, labels)):
        figure.savefig(tmp_path / "picture.png")
        assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == set(names)


def test_what_is_no_predictor_and_no_split_is_refused_with_the_calls_that_make_them(
    model: CGRSeg, samples: Samples
) -> None:
    for given in (("best.safetensors", samples), ("best.safetensors", "data"), (cgrseg.Segmenter(model), samples)):
        with pytest.raises(
            TypeError, match=r"not (str|Segmenter) and .*Segmenter\(FILE\)\.predictor and .*open_dataset"
        ):
            cgrseg.evaluate(*given)


def test_a_name_that_dejavu_lacks_is_drawn_in_a_font_of_the_system_or_as_the_number_of_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors, so a missing letter fails."""
    stix = Path(matplotlib.get_data_path(), "fonts/ttf/STIXGeneral.ttf")
    monkeypatch.setattr("cgrseg.images.text._system_fonts", lambda: [stix])
    labels = LabelSpace(names=("sky", "\u1d81rea", "\uf8d0"), colors=((0, 0, 0), (9, 9, 9), (99, 9, 9)))
    confusion = ConfusionMatrix(3)
    confusion.counts += 1
    for figure in (confusion_figure(confusion, labels), classes_figure(confusion, labels)):
        figure.savefig(tmp_path / "picture.png")
        assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {"sky", "\u1d81rea", "class 2"}
    ids = np.array([[0, 1, 2]])
    assert [entry[0] for entry in legend_entries([ids], [ids], labels)] == ["sky", "\u1d81rea", "class 2"]


def test_a_name_that_is_not_utf_8_does_not_stop_the_report(samples: Samples, scores: Scores, tmp_path: Path) -> None:
    name = os.fsdecode("stra\xdfe.png".encode("latin-1"))
    photo = tmp_path / name
    try:
        photo.write_bytes(samples.pairs[0][0].read_bytes())  # type: ignore[attr-defined]
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    renamed = SegmentationDataset(((photo, samples.pairs[0][1]), *samples.pairs[1:]), samples.labels)  # type: ignore[attr-defined]
    write_report(tmp_path / "report", scores, renamed, lambda photo: np.zeros(photo.shape[:2], np.uint8))
    assert "stra\\xdfe.png" in (tmp_path / "report" / "photos.csv").read_text(encoding="utf-8")
