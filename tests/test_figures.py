"""The figures render, at a column's width, with the right numbers in them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.cli.paper import _find_sample
from cgrseg.labels import LabelSpace
from cgrseg.nn import VARIANTS, CGRSeg, build
from cgrseg.paper import figures
from cgrseg.paper.architecture import architecture, trace
from cgrseg.paper.attention_maps import Stages, attention_stages, class_embedding
from cgrseg.paper.frontier import frontier
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
    published_flops, counted = frontier(Measured()).axes
    rows = published()[0].rows
    assert points(published_flops) == {(row.flops_g, row.miou) for row in rows} and len(rows) == 21
    assert {text.get_text() for text in published_flops.texts} == {row.method for row in rows}
    built = [(model_of(row), row) for row in rows if row.ours is not None]
    assert points(counted) == {(cost_of(model).macs / 1e9, row.miou) for model, row in built if model is not None}
    for axes in (published_flops, counted):
        low, high = axes.get_xlim()
        assert all(low < x < high for x, _ in points(axes))


def test_names_in_figure_1_overlap_neither_each_other_nor_the_frame() -> None:
    figure = frontier(Measured())
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
        pairs = [(one, other) for index, one in enumerate(boxes) for other in boxes[:index]]
        assert len(pairs) == 210 and not any(one.overlaps(other) for one, other in pairs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[("cgrseg_n", {}), ("cgrseg_lite", {}), ("segnext_t", {}), ("cgrseg_n", {"head": "ham", "mixer": "convnext"})],
        ("cgrseg_n", {"context": "conv", "reconstruct": False, "head": "none"}),
    ],
)
def test_figure_2_has_every_module_with_the_size_of_its_output(name: str, options: dict[str, Any]) -> None:
    model = build(name, num_classes=7, **options).eval()
    figure = architecture(model, (75, 101))
    texts = [text.get_text() for text in figure.axes[0].texts]
    seen = trace(model, (75, 101))
    assert "3 x 75 x 101" in texts
    outputs: dict[str, Any] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, out, path=path: outputs.setdefault(path, out))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 75, 101))
    assert [step.shape for step in seen.encoder] == [tuple(out.shape[1:]) for out in outputs["encoder"]]
    assert seen.contexts == [tuple(out.shape[1:]) for out in outputs["context"]]
    steps = [*seen.calibrate, *seen.fuse, *seen.head] if seen.calibrate else [seen.reconstruction, *seen.head]
    for step in steps:
        assert step.shape == tuple(outputs[step.name].shape[1:])
        assert step.parameters == sum(each.numel() for each in model.get_submodule(step.name).parameters())
        assert step.name in texts and step.kind in texts
        assert any(text.startswith(" x ".join(map(str, step.shape))) for text in texts)
    assert seen.head[-1].shape == (7, 10, 13)


def test_figure_2_has_the_sizes_of_a_photo(weights: str, squares: Path, tmp_path: Path) -> None:
    photo = str(squares / "images" / "test" / "0.png")
    with Image.open(photo) as picture:
        width, height = picture.size
    assert main(["figures", "architecture", photo, "--weights", weights, "--out", str(tmp_path)]) == 0
    (svg,) = tmp_path.glob("architecture.nano.*.svg")
    size = [int(side) for side in svg.name.split(".")[2].split("x")]
    assert size == [-(-height // 32) * 32, -(-width // 32) * 32]  # padded
    assert f"3 x {size[0]} x {size[1]}" in svg.read_text()


def points(axes: Any) -> set[tuple[float, float]]:
    return {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}


def test_figure_1_marks_what_was_measured_here() -> None:
    t, protocol = VARIANTS["cgrseg_t"], published()[0].protocol
    measured = Measured([Score(t, 41.5, protocol, "scores.json")], [Speed(t, 20.0, 40.0)])
    operations, _, latency = frontier(measured).axes
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


def test_figure_3_has_colour_bars_with_the_limits_of_the_maps() -> None:
    ramp = np.linspace(-0.0004, 1, 24, dtype=np.float32).reshape(4, 6)
    constant = np.zeros_like(ramp)
    figure = figures.attention(PHOTO[:4, :6], Stages(ramp, -ramp, constant, 0.48 + 0.02 * ramp), "context.0")
    maps = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}
    assert maps["attention, 0 to 1"].get_clim() == (0, 1)
    assert maps["attention, own range"].get_clim() == pytest.approx((0.48, 0.5), abs=1e-4)
    assert maps["axial sum"].get_clim() == pytest.approx((-0.0004, 1))
    assert all(drawn.get_alpha() is None for drawn in maps.values())  # or the colours are not those of the bar
    bars = [
        [label.get_text() for label in axes.get_xticklabels()]
        for axes in figure.axes
        if axes.get_label() == "<colorbar>"
    ]
    assert bars[1:] == [["0.0", "1.0"], ["-1.0", "0.0"], ["0.00", "0.00"], ["0.0", "1.0"], ["0.480", "0.500"]]


def test_the_class_embedding_is_the_heads_own_and_sums_to_1(model: CGRSeg) -> None:
    weights = class_embedding(model, PHOTO)
    assert weights.shape == (2,) and weights.sum() == pytest.approx(1)
    figure = figures.classes(weights, LabelSpace.numbered(2), {"class 0": 0.25, "class 1": 0.75})
    embedding, shares = figure.axes  # one quantity per axis
    assert sorted(bar.get_width() for bar in embedding.patches) == pytest.approx(sorted(100 * weights))
    assert {bar.get_width() for bar in shares.patches} == {25.0, 75.0}
    assert embedding.get_xlabel() != shares.get_xlabel()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["frontier"], "frontier"),
        (["architecture", "--size", "64x96"], "architecture.nano.64x96"),
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
    columns = 2 if name.startswith(("predictions", "architecture")) else 1
    with Image.open(png) as picture:
        assert picture.width == columns * 3.5 * 300
    text = svg.read_text()
    assert "<text" in text  # letters, not outlines, so that they can be searched
    words = {"frontier": "CGRSeg-L", "predictions": "mask", "classes.0": "square", "attention.0.context.0": "axial sum"}
    assert words.get(name, "head.classifier") in text


def test_figure_5_finds_photos_of_a_val_split_that_is_taken_from_train(squares: Path) -> None:
    shutil.rmtree(squares / "images" / "val")
    shutil.rmtree(squares / "masks" / "val")
    found = {_find_sample(path)[0].split for path in (squares / "images" / "train").iterdir()}
    assert found == {"train", "val"}
    with pytest.raises(ValueError, match="is in no pair of image and mask"):
        _find_sample(squares / "images" / "train" / "x.png")


def test_figure_5_shows_the_truth_of_the_photo_in_the_classes_colours(squares: Path) -> None:
    truth = np.zeros((4, 6), np.uint8)
    truth[0], truth[1:, 3:] = 255, 1
    labels = LabelSpace(names=("ground", "square"), colors=((1, 2, 3), (255, 0, 0)))
    figure: Figure = figures.predictions([(PHOTO[:4, :6], truth, truth, 0 * truth)], labels, ["peer", "ours"])
    assert [axes.get_title() for axes in figure.axes] == ["image", "mask", "peer", "ours", "where they differ"]
    drawn = figure.axes[1].images[0].get_array()
    assert drawn is not None
    assert [tuple(int(v) for v in drawn[place]) for place in ((0, 0), (2, 0), (2, 4))] == [
        (0, 0, 0),
        (1, 2, 3),
        (255, 0, 0),
    ]


def test_figure_5_colours_who_is_right_where_two_models_differ() -> None:
    mask = np.array([[0, 0, 1, 1, 255, 2]])
    peer = np.array([[0, 1, 1, 0, 0, 0]])
    ours = np.array([[0, 0, 0, 0, 1, 1]])
    picture, shares = figures.difference(mask, peer, ours, 3)
    blue, orange, dark = ((0x3B, 0x6F, 0xA8), (0xE0, 0x82, 0x14), (0x4D, 0x4D, 0x4D))
    same = (235, 235, 235)  # also where both are wrong alike
    assert [tuple(map(int, pixel)) for pixel in picture[0]] == [same, blue, orange, same, (0, 0, 0), dark]
    assert shares == [0.2, 0.2, 0.2]  # of the five labelled pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["architecture", "--model", "cgrseg_x"], "no model is called 'cgrseg_x'"),
        (["architecture", "--size", "512"], "--size 512: write HEIGHTxWIDTH in pixels"),
        (["architecture", "PHOTO", "PHOTO"], "architecture draws one image"),
        (["pareto"], 'Invalid value "pareto" for FIGURE. Choose from: "frontier", "architecture"'),
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
