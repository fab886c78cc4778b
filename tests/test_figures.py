"""The figures render, at a column's width, with the right numbers in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.labels import LabelSpace
from cgrseg.nn import VARIANTS, CGRSeg, build
from cgrseg.paper import figures
from cgrseg.paper.attention_maps import attention_stages, class_embedding
from cgrseg.paper.measured import Measured, Score, Speed, model_of
from cgrseg.paper.published import published
from cgrseg.paper.tables import cost_of
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact

PHOTO = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=2, context_blocks=1).eval()
    model.describe(preprocessing=Preprocessing())
    return model


@pytest.fixture(scope="module")
def weights(model: CGRSeg, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    labels = LabelSpace(names=("ground", "square"), colors=((0, 0, 0), (255, 0, 0)))
    artifact.save(model, path, labels=labels)
    return str(path)


def test_figure_1_has_every_published_point_and_every_count() -> None:
    published_flops, counted = figures.frontier(Measured()).axes
    rows = published()[0].rows
    assert points(published_flops) == {(row.flops_g, row.miou) for row in rows} and len(rows) == 21
    assert {text.get_text() for text in published_flops.texts} == {row.method for row in rows}
    built = [(model_of(row), row) for row in rows if row.ours is not None]
    assert points(counted) == {(cost_of(model).macs / 1e9, row.miou) for model, row in built if model is not None}
    for axes in (published_flops, counted):
        low, high = axes.get_xlim()
        assert all(low < x < high for x, _ in points(axes))


def points(axes: Any) -> set[tuple[float, float]]:
    return {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}


def test_figure_1_marks_what_was_measured_here() -> None:
    t, protocol = VARIANTS["cgrseg_t"], published()[0].protocol
    measured = Measured([Score(t, 41.5, protocol, "scores.json")], [Speed(t, 20.0, 40.0)])
    operations, _, latency = figures.frontier(measured).axes
    crosses = [line for line in operations.lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(4.0, 41.5)]
    assert points(latency) == {(40.0, 43.6), (40.0, 41.5)}


@pytest.mark.parametrize("layer", ["context.0", "reconstruction.0"])
def test_figure_3_shows_what_the_rca_computes(model: CGRSeg, layer: str) -> None:
    whole = np.zeros((64, 96, 3), np.uint8) + PHOTO[:1, :1]
    whole[20:40, 30:60] = 250
    stages = attention_stages(model, whole, layer, channel=3)
    part, number = layer.split(".")
    block = (model.context.blocks if part == "context" else model.reconstruction.calibrate)[int(number)]  # type: ignore[union-attr,index,operator]
    seen: list[torch.Tensor] = []
    handle = block.token_mixer.excite.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.inference_mode():
        model(model.preprocessing.prepare(whole)[0][None])
    handle.remove()
    resized = torch.nn.functional.interpolate(seen[0][:, 3:4], (64, 96), mode="bilinear")[0, 0]
    stretched = torch.from_numpy(stages.attention)
    # the sigmoid of the resized map is not the resized sigmoid, but at the pixels' own places they agree
    torch.testing.assert_close(stretched, resized, rtol=0, atol=0.05)
    assert 0 <= stages.attention.min() <= stages.attention.max() <= 1
    assert {heat.shape for heat in vars(stages).values()} == {(64, 96)}


def test_figure_3_without_a_channel_is_the_mean_over_all(model: CGRSeg) -> None:
    count = model.encoder.channels[-3]
    one = [attention_stages(model, PHOTO, "reconstruction.0", channel=index).area for index in range(count)]
    mean = attention_stages(model, PHOTO, "reconstruction.0").area
    np.testing.assert_allclose(np.mean(one, axis=0), mean, atol=1e-5)


def test_the_class_embedding_is_the_heads_own_and_sums_to_1(model: CGRSeg) -> None:
    weights = class_embedding(model, PHOTO)
    assert weights.shape == (2,) and weights.sum() == pytest.approx(1)
    figure = figures.classes(weights, LabelSpace.numbered(2), {"class 0": 0.25, "class 1": 0.75})
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    assert widths == pytest.approx(sorted(100 * weights))
    assert set(figure.axes[0].lines[0].get_xdata()) == {25.0, 75.0}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["frontier"], "frontier"),
        (["attention", "PHOTO", "--layer", "context.0"], "attention.0.context.0"),
        (["classes", "PHOTO"], "classes.0"),
        (["predictions", "PHOTO", "--peer", "WEIGHTS"], "predictions"),
    ],
)
def test_the_command_writes_png_and_svg_at_a_columns_width(
    arguments: list[str], name: str, weights: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(squares / "images" / "test" / "0.png")
    words = [{"PHOTO": photo, "WEIGHTS": weights}.get(word, word) for word in arguments]
    words += [] if "frontier" in words else ["--weights", weights]
    assert main(["figures", *words, "--out", str(tmp_path / "out")]) == 0
    png, svg = tmp_path / "out" / f"{name}.png", tmp_path / "out" / f"{name}.svg"
    assert capsys.readouterr().out.split() == [str(png), str(svg)]
    columns = 2 if name == "predictions" else 1
    with Image.open(png) as picture:
        assert picture.width == columns * 3.5 * 300
    text = svg.read_text()
    assert "<text" in text  # letters, not outlines, so that they can be searched
    assert {"frontier": "CGRSeg-L", "predictions": "mask", "classes.0": "square"}.get(name, "axial sum") in text


def test_figure_5_shows_the_truth_of_the_photo_in_the_classes_colours(squares: Path) -> None:
    truth = np.zeros((4, 6), np.uint8)
    truth[0], truth[1:, 3:] = 255, 1
    labels = LabelSpace(names=("ground", "square"), colors=((1, 2, 3), (255, 0, 0)))
    figure: Figure = figures.predictions([(PHOTO[:4, :6], truth, truth, 0 * truth)], labels, ["ours", "peer"])
    assert [axes.get_title() for axes in figure.axes] == ["image", "mask", "ours", "peer"]
    drawn = figure.axes[1].images[0].get_array()
    assert drawn is not None
    assert [tuple(int(v) for v in drawn[place]) for place in ((0, 0), (2, 0), (2, 4))] == [
        (0, 0, 0),
        (1, 2, 3),
        (255, 0, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pareto"], 'Invalid value "pareto" for FIGURE. Choose from: "frontier", "attention"'),
        (["attention", "x.jpg"], "attention needs an image and weights: cgrseg figures attention PHOTO --weights FILE"),
        (["frontier", "x.jpg"], "frontier takes no image: leave out x.jpg"),
        (["predictions", "x.jpg", "--weights", "WEIGHTS"], "predictions compares two models: add --peer FILE"),
        (
            ["attention", "PHOTO", "--weights", "WEIGHTS", "--layer", "context.7"],
            "--layer context.7: this model has no",
        ),
        (["attention", "PHOTO", "--weights", "WEIGHTS", "--layer", "head"], "--layer head: this model has no"),
        (
            ["attention", "PHOTO", "--weights", "WEIGHTS", "--layer", "context.0", "--channel", "9999"],
            "--channel 9999: context.0 has channels 0 to",
        ),
        (["predictions", "WEIGHTS", "--weights", "WEIGHTS", "--peer", "WEIGHTS"], "its mask cannot be found"),
    ],
)
def test_bad_input_is_worded_in_one_line(
    arguments: list[str], message: str, weights: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(squares / "images" / "test" / "0.png")
    words = [{"PHOTO": photo, "WEIGHTS": weights}.get(word, word) for word in arguments]
    assert main(["figures", *words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_model_without_strips_or_dpg_head_says_so(
    tmp_path: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.safetensors"
    artifact.save(build("cgrseg_n", num_classes=2, context_blocks=1, mixer="convnext", head="se"), path)
    photo = str(squares / "images" / "test" / "0.png")
    assert main(["figures", "attention", photo, "--weights", str(path), "--layer", "context.0"]) == 2
    assert main(["figures", "classes", photo, "--weights", str(path)]) == 2
    errors = capsys.readouterr().err
    assert "no strip convolutions there" in errors and "no DPG head" in errors


def test_speeds_of_the_benchmark_reach_figure_1(tmp_path: Path) -> None:
    spec = dataclasses.asdict(VARIANTS["segnext_t"])
    row = {"label": "", "model": "segnext_t", "spec": spec, "network_ms": {"median": 90.0}, "images_per_second": 12.0}
    report = {"format": 1, "settings": {"size": [512, 512]}, "machine": {}, "results": [row]}
    (tmp_path / "speed.json").write_text(json.dumps(report))
    assert main(["figures", "frontier", "--speed", str(tmp_path / "speed.json"), "--out", str(tmp_path)]) == 0
    assert "latency measured here" in (tmp_path / "frontier.svg").read_text()
