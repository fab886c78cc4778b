"""Two folders of photos and masks in, a run folder out; what is broken is named before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.check.report import DatasetReport
from cgrseg.training import loop, setup
from cgrseg.training.config import OptimConfig, TrainConfig
from cgrseg.training.setup import resolved
from cgrseg.weights.artifact import describe, save

SMALL = ["--model", "cgrseg_n", "--batch", "2", "--augment.crop", "64", "--augment.resize_to", "null", "--workers", "0"]


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *SMALL, "--steps", "4", *more])


def weights_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return cgrseg.load(run / f"{name}.safetensors").state_dict()


def test_training_learns_and_leaves_a_run_folder_that_every_verb_takes(squares: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["--optim.lr", "3e-3", "--optim.ema", "0.9", "--log_every", "1", "--val_every", "8"]
    assert train(squares, run, "--steps", "16", *more) == 0
    log = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 17)) and log[-1]["loss"] < log[0]["loss"]
    assert {"loss", "lr", "skipped", "seconds", "images_per_second", "waiting_share"} <= set(log[0])
    assert [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()] == ["step", "8", "16"]
    model = cgrseg.load(run / "last.safetensors")
    assert model.labels.names == ("ground", "square")
    assert set(model.card["class_iou"]) == {"ground", "square"} and model.card["split"] == "test"
    assert cgrseg.load(run / "best.safetensors").card["split"] == "val"
    assert str(tmp_path) not in json.dumps(model.card)  # a weights file tells nobody's folders
    assert cgrseg.Segmenter(model)(squares / "images" / "test" / "0.png").labels.shape == (64, 80)
    for name in ("curves.png", "classes.png", "samples.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 100


def test_the_same_seed_gives_the_same_weights_whatever_the_workers_and_another_seed_others(
    squares: Path, tmp_path: Path
) -> None:
    for name, more in (("a", []), ("b", ["--workers", "2"]), ("c", ["--seed", "1"])):
        assert train(squares, tmp_path / name, "--steps", "2", *more) == 0
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.classifier.weight"], c["head.classifier.weight"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no masks", "masks/train"),
        ("no mask", "has no mask"),
        ("large id", "holds class 9, but classes.json ends at 1"),
        ("colours", "has colours"),
        ("size", "but its photo is"),
        ("empty", "has no photos"),
        ("one-class list", "holds class 1"),
    ],
)
def test_a_broken_dataset_is_one_line_and_nothing_is_written(
    squares: Path, tmp_path: Path, damage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = squares / "masks" / "train" / "0.png"
    if damage == "no masks":
        (squares / "masks" / "train").rename(squares / "elsewhere")
    elif damage == "no mask":
        mask.unlink()
    elif damage == "large id":
        Image.fromarray(np.full((64, 80), 9, np.uint8)).save(mask)
    elif damage == "colours":
        Image.new("RGB", (80, 64), (200, 0, 0)).save(mask)
    elif damage == "size":
        Image.new("L", (40, 64)).save(mask)
    elif damage == "one-class list":
        (squares / "classes.json").write_text('{"classes": [{"id": 0, "name": "ground"}]}')
    else:
        for photo in (squares / "images" / "train").iterdir():
            photo.unlink()
    assert train(squares, tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cgrseg: ") and message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option",
    ["--steps=0", "--batch=0", "--augment.crop=16", "--augment.scale=[2,1]", "--workers=-1", "--batch=1",
     "--batch=3 --accumulate=2", "--precision=fp16 --device=cpu", "--optim.ema=2", "--spec.widht=3", "--init=nowhere",
     "--data=elsewhere"],
)  # fmt: skip
def test_an_impossible_option_is_one_line(
    squares: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(squares, tmp_path / "run", *option.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("cgrseg: ")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_not_overwritten_and_not_resumed_with_other_settings(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(squares, run, "--steps", "1") == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert train(squares, run, "--steps", "1") == 2
    assert "add --resume, or choose another --out" in capsys.readouterr().err
    assert train(squares, run, "--steps", "1", "--seed", "5", "--resume") == 2
    assert "config.yaml is of a run with seed 0, not 5" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_training_goes_on_from_given_weights_also_for_other_classes(squares: Path, tmp_path: Path) -> None:
    assert train(squares, tmp_path / "first", "--steps", "2") == 0
    first = tmp_path / "first" / "last.safetensors"
    slow = ["--steps", "1", "--optim.lr", "1e-9", "--init", str(first)]
    assert train(squares, tmp_path / "second", *slow) == 0
    before, after = cgrseg.load(first), cgrseg.load(tmp_path / "second" / "last.safetensors")
    torch.testing.assert_close(dict(after.named_parameters()), dict(before.named_parameters()), atol=1e-7, rtol=1e-5)
    assert after.card["init"]["recipe"]["steps"] == 2 and after.card["recipe"]["init"] == "last.safetensors"
    classes = [{"id": number, "name": f"class {number}"} for number in range(5)]
    (squares / "classes.json").write_text(json.dumps({"classes": classes}))
    assert train(squares, tmp_path / "third", *slow) == 0
    third = cgrseg.load(tmp_path / "third" / "last.safetensors")
    assert third.spec.num_classes == 5
    torch.testing.assert_close(third.encoder.stem[0].weight, before.encoder.stem[0].weight, atol=1e-7, rtol=1e-5)


def test_a_frozen_encoder_keeps_its_weights(squares: Path, tmp_path: Path) -> None:
    assert train(squares, tmp_path / "first", "--steps", "1") == 0
    first = str(tmp_path / "first" / "last.safetensors")
    assert train(squares, tmp_path / "second", "--init", first, "--freeze", "encoder") == 0
    before, after = cgrseg.load(first), cgrseg.load(tmp_path / "second" / "last.safetensors")
    for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        if name.startswith("encoder."):  # weights and running statistics
            assert torch.equal(old, new), name
    assert not torch.equal(before.head.classifier.weight, after.head.classifier.weight)


def test_frozen_norms_keep_the_statistics_of_the_initial_weights(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(squares, tmp_path / "first", "--steps", "1") == 0
    first = str(tmp_path / "first" / "last.safetensors")
    assert train(squares, tmp_path / "second", "--init", first, "--freeze", "norm", "--val_every", "1") == 0
    before, after = (cgrseg.load(path).state_dict() for path in (first, tmp_path / "second" / "last.safetensors"))
    kept = {key for key in before if torch.equal(before[key], after[key])}
    statistics = {key for key in before if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert kept - {"head.gate.conv_mask.bias"} == statistics  # a bias before a softmax has no gradient
    assert train(squares, tmp_path / "third", "--freeze", "norm") == 2
    assert "freeze norm keeps the statistics of initial weights: give --init" in capsys.readouterr().err


def test_a_step_without_a_finite_gradient_changes_nothing_and_ten_in_a_row_stop_the_run(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, seen = loop.load_batches, []

    def poisoned(bad: range) -> Any:
        def batches(config: TrainConfig, *rest: Any, first_step: int, **more: Any) -> Iterator[Any]:
            found = real(config, *rest, first_step=first_step, **more)
            for step, (images, labels, teacher, problems) in enumerate(found, start=first_step):
                seen.append(step)
                yield (images * math.nan if step in bad else images), labels, teacher, problems

        return batches

    monkeypatch.setattr(loop, "load_batches", poisoned(range(1, 3)))
    assert train(squares, tmp_path / "some", "--log_every", "1", "--optim.ema", "0.5") == 0
    log = [json.loads(line) for line in (tmp_path / "some" / "train.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in log] == [0, 1, 2, 2] and seen == [0, 1, 2, 3]
    assert all(tensor.isfinite().all() for tensor in weights_of(tmp_path / "some").values())

    monkeypatch.setattr(loop, "load_batches", poisoned(range(3, 99)))
    assert train(squares, tmp_path / "all", "--steps", "20", "--save_every", "2", "--val_every", "20") == 2
    assert "10 steps in a row gave no finite loss and gradient, from step 4 on" in capsys.readouterr().err
    state = torch.load(tmp_path / "all" / "state.pt", weights_only=True)
    assert state["step"] == 12
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_unreadable_photos_are_replaced_and_named_up_to_the_limit(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = squares / "images" / "train" / "3.png"
    photo.write_bytes(photo.read_bytes()[:500])  # the header is whole: only decoding finds out
    more = ["--loss.class_weights", "none", "--workers", "1"]
    assert train(squares, tmp_path / "run", *more) == 0
    assert "skipped" in (said := capsys.readouterr().err) and "3.png" in said
    assert train(squares, tmp_path / "strict", *more, "--skip-limit", "0") == 2
    assert "3.png: is damaged or incomplete" in capsys.readouterr().err and not (tmp_path / "strict").exists()
    healthy = DatasetReport(squares, "folder", None)  # the file breaks, or is one that the quick check does not open
    monkeypatch.setattr(setup, "quick_check", lambda *_, **__: healthy)
    assert train(squares, tmp_path / "strict", *more, "--skip-limit", "0") == 2
    assert "1 pairs cannot be read" in capsys.readouterr().err


def test_accumulated_passes_and_clipping_take_the_same_step_as_one_pass(squares: Path, tmp_path: Path) -> None:
    # BatchNorm sees smaller batches in passes: only in evaluation mode is the step the same, so it is frozen here.
    config = TrainConfig(
        out=str(tmp_path), data=str(squares), model="cgrseg_n", batch=4, workers=0, precision="fp64",
        optim=OptimConfig(clip=0.1), spec={"dropout": 0.0, "drop_path": 0.0},
    )  # fmt: skip
    results = []
    for accumulate in (1, 2):
        chosen = TrainConfig(**{**vars(config), "accumulate": accumulate})
        data, fabric = loop.make_data(chosen), loop.make_fabric(chosen)
        parts = loop.make_parts(chosen, data, fabric)
        parts.network.eval()
        images, labels = (
            torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.manual_seed(1)),
            torch.ones(4, 64, 64, dtype=torch.int64),
        )
        labels[0, :50] = 255
        value, finite = loop.train_step(fabric, chosen, parts, images, labels, 100)
        assert finite
        results.append((value, parts.network.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for key, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, results[1][1][key], rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("kind", ["ours", "released", "encoder"])
def test_every_kind_of_weights_can_start_a_run(kind: str, squares: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    donor = cgrseg.create_model("cgrseg_n" if kind == "ours" else "cgrseg_t", num_classes=4)
    path = tmp_path / "donor.safetensors"
    if kind == "ours":
        save(donor, path)
    else:
        from cgrseg.weights.adapters import official_key

        path = path.with_suffix(".pth")
        state = {official_key(key): value for key, value in donor.state_dict().items()}
        if kind == "encoder":
            state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
            state = {k.replace("attention_biases_seg", "attention_biases"): v for k, v in state.items()}
        torch.save({"state_dict": state}, path)
    from cgrseg.weights.pretrained import start_from

    model = cgrseg.create_model(donor.spec.name, num_classes=2)
    report = start_from(model, path)
    assert torch.equal(model.encoder.stem[0].weight, donor.encoder.stem[0].weight)
    assert set(report.missing) >= {"head.classifier.weight", "head.classifier.bias"} or kind == "encoder"
    with pytest.raises(ValueError, match=r"is a|holds a|has|fills"):
        start_from(cgrseg.create_model("cgrseg_b", num_classes=2), path)


def test_without_a_model_a_run_takes_that_of_its_initial_weights(squares: Path, tmp_path: Path) -> None:
    donor, config = tmp_path / "donor.safetensors", TrainConfig(out=str(tmp_path / "run"), data=str(squares))
    assert resolved(config).model == "cgrseg_t" and resolved(config).spec == {}
    assert resolved(replace(config, init="imagenet")).model == "cgrseg_t"
    save(cgrseg.create_model("cgrseg_n", num_classes=4, head="se", context_blocks=1), donor)
    found = resolved(replace(config, init=str(donor)))
    assert (found.model, found.spec) == ("cgrseg_n", {"head": "se", "context_blocks": 1})
    assert resolved(replace(config, init=str(donor), model="cgrseg_b")).model == "cgrseg_b"
    arguments = ["--init", str(donor), "--steps", "1", "--batch", "2", "--augment.crop", "64", "--workers", "0"]
    assert main(["train", "--data", str(squares), "--out", str(tmp_path / "run"), *arguments]) == 0
    trained = describe(tmp_path / "run" / "last.safetensors")
    assert (trained.spec.name, trained.spec.head, trained.spec.num_classes) == ("cgrseg_n", "se", 2)
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "2"]) == 0


def test_out_of_memory_says_what_to_try(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "train_step", full)
    assert train(squares, tmp_path / "run") == 2
    assert "2 crops of 64 in 1 passes: try --accumulate 2, --batch 1" in capsys.readouterr().err
