"""The benchmark: candidates in turn, ratios with intervals, percentiles, limits; its report is complete."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from cgrseg.cli.main import main
from cgrseg.deploy.export import Export
from cgrseg.measure import candidates, speed
from cgrseg.measure import interleave as rounds
from cgrseg.measure.candidates import Choice, Settings, parse
from cgrseg.measure.complexity import complexity
from cgrseg.measure.report import PHOTO_TO_LABELS, STAGES, read_report, render, write_report
from cgrseg.measure.roofline import Limits, least_seconds, operations
from cgrseg.measure.stages import natural_logits, sample_photo
from cgrseg.nn import CGRSeg, build
from cgrseg.weights import artifact


def test_percentiles_interpolate_between_the_values() -> None:
    assert speed.latency([4.0, 1.0, 3.0, 2.0, 5.0]) == pytest.approx({"median": 3000, "p90": 4600, "p99": 4960})
    assert speed.latency([0.002]) == {"median": 2.0, "p90": 2.0, "p99": 2.0}


def test_a_ratio_is_the_median_over_rounds_so_that_a_drift_of_both_sides_cancels() -> None:
    drift = [1.0, 2.0, 5.0, 9.0, 20.0]
    assert rounds.ratio([6 * x for x in drift], [2 * x for x in drift]) == rounds.Ratio(3.0, 3.0, 3.0)
    mixed = rounds.ratio([2.0, 4.0, 6.0, 8.0, 10.0], [2.0] * 5)
    assert mixed.median == 3.0
    assert mixed.low == 1.0 and mixed.high == 5.0  # the medians of 5 draws reach both ends in 2.5 % of all cases
    narrow = rounds.ratio([3.0] * 40 + [30.0], [1.0] * 41)
    assert narrow == rounds.Ratio(3.0, 3.0, 3.0)  # one disturbed round moves nothing
    with pytest.raises(ValueError, match="2 rounds cannot be compared with 1"):
        rounds.ratio([1.0, 2.0], [1.0])


def test_every_side_has_its_turn_in_every_round_and_one_call_goes_untimed() -> None:
    calls: list[str] = []
    after: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = rounds.take_turns(sides, rounds=4, after=after.append)
    assert {name: [len(turn) for turn in turns] for name, turns in seconds.items()} == {n: [3] * 4 for n in "abc"}
    assert calls == [name for name in after for _ in range(1 + rounds.CALLS)]
    assert all(sorted(after[start : start + 3]) == ["a", "b", "c"] for start in range(0, 12, 3))
    with pytest.raises(ValueError, match="rounds is 0"):
        rounds.take_turns(sides, rounds=0)


def test_the_limit_is_taken_operation_by_operation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    first, second = operations(model, (4, 5))
    assert (first.macs, first.numbers) == (20 * 24, 60 + 24 + 160)
    assert (second.macs, second.numbers) == (20 * 72, 160 + 72 + 8 + 160)
    limits = Limits(macs_per_second={"float32": 1440.0, "int8": 14400.0}, bytes_per_second=976.0)
    assert least_seconds([first, second], limits, "float32") == pytest.approx(1.0 + 1600 / 976)  # both by their bytes
    assert least_seconds([second], limits, "int8") == pytest.approx(400 / 976)
    fast = dataclasses.replace(limits, bytes_per_second=1e9)
    assert least_seconds([first, second], fast, "float32") == pytest.approx((480 + 1440) / 1440)
    nano = build("cgrseg_n", num_classes=5)
    assert sum(one.macs for one in operations(nano, (64, 96))) == complexity(nano, (64, 96)).total.macs


def test_natural_logits_form_regions() -> None:
    winner = natural_logits(20, (64, 64)).argmax(1)
    same = (winner[:, 1:] == winner[:, :-1]).float().mean()
    assert 0.9 < same < 1 and 4 < len(winner.unique()) <= 20
    assert torch.equal(winner, natural_logits(20, (64, 64)).argmax(1))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one run: weights the naive way, exported, and in int8."""
    folder = tmp_path_factory.mktemp("clock")
    artifact.save(build("cgrseg_n", num_classes=7), folder / "mine.safetensors")
    Image.new("RGB", (120, 70), "red").save(folder / "red.png")
    weights = str(folder / "mine.safetensors")
    command = ["benchmark", f"{weights}:naive", "--compare", f"{weights}:openvino", f"{weights}:openvino:int8"]
    flags = ["--size", "64x96", "--rounds", "2", "--threads", "1", "--max-batch", "2"]
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert main([*command, *flags, "--photo", str(folder / "red.png"), "--out", str(folder)]) == 0
    assert before is None or os.sched_getaffinity(0) == before
    yield folder


@pytest.mark.slow
def test_a_run_tells_all_of_every_contender(measured: Path) -> None:
    report = read_report(measured / "benchmark.json")
    rows = report["results"]
    assert [row["label"] for row in rows] == [
        f"mine.safetensors:{how}" for how in ("naive", "openvino", "openvino:int8")
    ]
    assert [row["runtime"] for row in rows] == ["torch", "openvino", "openvino"]
    assert [row["precision"] for row in rows] == ["float32", "float32", "int8"]
    assert [row["spec"]["bias_mode"] for row in rows] == ["official", "relative", "relative"]
    assert [row["spec"]["num_classes"] for row in rows] == [7, 7, 7]
    for row in rows:
        assert row["model"] == "cgrseg_n" and row["device"] == "cpu"
        assert 0 < row["network_ms"]["median"] <= row["network_ms"]["p90"] <= row["network_ms"]["p99"]
        assert list(row["stages_ms"]) == list(STAGES) and all(time > 0 for time in row["stages_ms"].values())
        assert row["photo_to_labels_ms"]["median"] > row["stages_ms"]["label map"]
        for one in row["times_as_fast"].values():
            assert 0 < one["low"] <= one["median"] <= one["high"]
        assert row["images_per_second"] == max(row["images_per_second_at_batch"].values())
        assert set(row["images_per_second_at_batch"]) == {"1", "2"}
        assert row["cold_start_seconds"] > 0 and row["peak_memory_mb"] > 50 and row["peak_gpu_memory_mb"] is None
        assert 0 < row["limit_ms"] == pytest.approx(row["share_of_limit"] * row["network_ms"]["median"])
    assert rows[0]["times_as_fast"]["network"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    settings = report["settings"]
    assert settings["threads"] == len(settings["cores"]) == 1 and settings["base"] == "mine.safetensors:naive"
    assert settings["photo"] == "given" and settings["size"] == [64, 96]
    assert any("natural logits" in line for line in report["how"])
    assert {"processor", "cpu", "python", "torch", "openvino", "load_before"} <= set(report["machine"])


@pytest.mark.slow
def test_the_report_comes_back_as_it_was_and_its_tables_hold_it(measured: Path, tmp_path: Path) -> None:
    report = read_report(measured / "benchmark.json")
    write_report(report, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (measured / "benchmark.json").read_bytes()
    text = render(report, {"cgrseg_n": 138.4})
    assert text.count("| mine.safetensors:openvino ") == 3 and text.count("138.4") == 3
    assert "1.00 (1.00 to 1.00)" in text
    with Image.open(measured / "benchmark.png") as chart:
        assert chart.format == "PNG" and chart.width == 1200
    assert not list(measured.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("cgrseg_t", Choice("cgrseg_t", "channels_last")),
        ("cgrseg_t:naive", Choice("cgrseg_t", "naive")),
        ("cgrseg_t:compiled:bf16", Choice("cgrseg_t", "compiled", "bf16")),
        ("segformer_b0", Choice("segformer_b0", "eager")),
        ("runs/model.int8.xml", Choice("runs/model.int8.xml", "file")),
        ("runs/model.xml:bf16", Choice("runs/model.xml", "file", "bf16")),
        ("segformer_b0:openvino:bf16", Choice("segformer_b0", "openvino", "bf16")),
        ("cgrseg_t:openvino:int8", Choice("cgrseg_t", "openvino", "int8")),
        ("segnext_t:onnx", Choice("segnext_t", "onnx")),
    ],
)
def test_a_contender_is_one_word(text: str, choice: Choice) -> None:
    assert parse(text) == choice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cgrseg_t:opnvino"], "cgrseg_t:opnvino: nothing runs as 'opnvino': choose from openvino"),
        (["cgrseg_t:onnx:fused"], "cgrseg_t:onnx:fused: onnx and fused exclude each other: write one of them"),
        (["segformer_b0:onnx"], "segformer_b0:onnx: segformer_b0 runs as eager, compiled, openvino, not as onnx"),
        (["cgrseg_t:onnx:bf16"], "cgrseg_t:onnx:bf16: bf16 is for models in torch and OpenVINO, not for onnx"),
        (["cgrseg_t:openvino:int8:bf16"], "cgrseg_t:openvino:int8:bf16: int8 and bf16 exclude each other"),
        (["cgrseg_t:int8"], "cgrseg_t:int8: int8 is for our models in OpenVINO: write for example cgrseg_t:"),
        (["segformer_b0:openvino:int8"], "segformer_b0:openvino:int8: int8 is for our models in Open"),
        (["a.xml:int8"], "a.xml:int8: an exported file runs in its own runtime: write a.xml or a.xml:bf16"),
        (["a.xml:onnx"], "a.xml:onnx: an exported file runs in its own runtime: write a.xml or a.xml:bf16"),
        (["a.onnx:bf16"], "a.onnx:bf16: an exported file runs in its own runtime: write a.onnx"),
        (["a.xml"], "no exported file at a.xml"),
        (["nosuch"], "no weights are called 'nosuch', "),
        (["cgrseg_n", "--compare", "cgrseg_n:channels_last"], "cgrseg_n:channels_last is listed twice: remove one"),
        (["cgrseg_n", "--size", "512"], "--size 512: write HEIGHTxWIDTH in pixels"),
        (["cgrseg_n", "--rounds", "0"], "--rounds is 0: it must be > 0"),
        (["cgrseg_n", "--threads", "5000"], "threads is 5000, but there are"),
        (["cgrseg_n", "--threads", "0"], "--threads is 0: it must be > 0"),
        (["cgrseg_n", "--photo", "none.jpg"], "none.jpg does not exist: check the path"),
        (["cgrseg_n", "--out", "file"], "--out file is a file: name a folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"cgrseg: {message}") and captured.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_missing_extra_names_its_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "cgrseg.rivals.from_transformers", raising=False)
    assert main(["benchmark", "segformer_b0"]) == 2
    assert capsys.readouterr().err == (
        'cgrseg: segformer_b0 needs transformers, which is not installed: pip install "cgrseg[peers]"\n'
    )


def test_files_of_the_same_name_are_exported_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []

    def export(model: CGRSeg, folder: Path, *, name: str, **options: object) -> list[Export]:
        exported.append((model.spec.num_classes, folder / f"{name}.xml"))
        exported[-1][1].touch()
        return [Export(exported[-1][1], [])]

    monkeypatch.setattr(candidates, "export", export)

    paths = []
    for classes in (2, 3):
        (tmp_path / str(classes)).mkdir()
        path = tmp_path / str(classes) / "best.safetensors"
        artifact.save(build("cgrseg_n", num_classes=classes), path)
        for _ in range(2):
            choice = Choice(str(path), "openvino")
            paths.append(candidates.prepare(choice, tmp_path, Settings(size=(64, 64)), b""))
    (two, first), (three, second) = exported
    assert (two, three) == (2, 3) and paths == [first, first, second, second] and first != second


def test_files_of_the_same_name_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(Exception):
        pass

    def stop(choice: Choice, *_: object) -> Path:
        raise Named

    monkeypatch.setattr(speed, "prepare", stop)
    one, two = (Choice(str(tmp_path / folder / "best.safetensors"), "eager") for folder in "ab")
    with pytest.raises(Named):
        speed.benchmark([one, two], Settings(size=(64, 64)))
    with pytest.raises(ValueError, match="is listed twice"):
        speed.benchmark([one, one], Settings(size=(64, 64)))


def test_weights_of_other_images_than_rgb_are_refused(tmp_path: Path) -> None:
    artifact.save(build("cgrseg_n", num_classes=2, in_channels=1), tmp_path / "grey.safetensors")
    choice = Choice(str(tmp_path / "grey.safetensors"), "eager")
    with pytest.raises(ValueError, match="has in_channels 1: measure weights of RGB photos"):
        speed.benchmark([choice], Settings(size=(64, 64)))


def test_the_sample_photo_has_the_size_that_is_asked_for() -> None:
    import io

    with Image.open(io.BytesIO(sample_photo((48, 80)))) as photo:
        assert photo.size == (80, 48) and photo.format == "JPEG"
    assert "encode" not in PHOTO_TO_LABELS and set(PHOTO_TO_LABELS) < set(STAGES)


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format": 1, "settings": {}, "machine": {}, "results": [{}]}))
    with pytest.raises(ValueError, match="not a report of this version"):
        read_report(tmp_path / "a.json")
