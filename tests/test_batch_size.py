"""`--batch auto` tries sizes on a GPU, and takes a usual one on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.settings import Augmentation
from cgrseg.data.synthetic import Synthetic
from cgrseg.training import batch_size
from cgrseg.training.batch_size import find_batch
from cgrseg.training.config import TrainConfig
from cgrseg.training.setup import Data

CONFIG = TrainConfig(
    out="", model="cgrseg_n", batch="auto", augment=Augmentation(crop=64, resize_to=None), precision="fp32",
    device="cpu",
)  # fmt: skip


def scenes(count: int) -> Data:
    train = Synthetic(classes=3, size=(64, 64), count=count)
    return Data(train, train, train)


@pytest.mark.parametrize(
    ("room", "images", "accumulate", "expected"),
    [(40, 1000, 1, 32), (50, 1000, 4, 48), (2, 1000, 1, 2), (10**6, 100, 1, 96), (10**6, 10**5, 1, 1024)],
)
def test_the_largest_batch_that_fits_on_a_gpu_is_taken(
    room: int, images: int, accumulate: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(config: TrainConfig, data: Data) -> None:
        assert (config.steps, config.accumulate, config.init) == (2, accumulate, None)
        if config.batch_size > room:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(batch_size, "train_steps", steps)
    monkeypatch.setattr(batch_size.gc, "collect", lambda: 0)  # half a second in a test suite
    monkeypatch.setattr(batch_size, "usable_device", lambda name: torch.device("cuda"))
    config = replace(CONFIG, accumulate=accumulate, init="imagenet")
    assert find_batch(config, scenes(images)) == expected
    if room == 2:
        room = 1
        with pytest.raises(MemoryError, match="not even 2 crops of 64 fit"):
            find_batch(config, scenes(images))


def test_a_trial_is_a_training_of_two_steps_on_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def step(*arguments: object) -> tuple[float, bool]:
        sizes.append(tuple(arguments[3].shape))  # type: ignore[attr-defined]
        return real(*arguments)  # type: ignore[arg-type]

    real = batch_size.train_step
    monkeypatch.setattr(batch_size, "train_step", step)
    assert batch_size.fits(CONFIG, scenes(4), 3)
    assert sizes == [(3, 3, 64, 64)] * 2


def test_on_a_cpu_it_is_the_usual_batch_and_stands_in_the_run(squares: Path, tmp_path: Path) -> None:
    assert [find_batch(replace(CONFIG, accumulate=n), scenes(100)) for n in (1, 3, 12)] == [16, 15, 24]
    with pytest.raises(ValueError, match="with several processes, give a number"):
        find_batch(replace(CONFIG, devices=2), scenes(100))
    options = ["--model=cgrseg_n", "--augment.crop=64", "--augment.resize_to=null", "--workers=0", "--precision=fp32"]
    command = ["train", "--data", str(squares), "--out", str(tmp_path / "run"), *options, "--batch", "auto"]
    assert main([*command, "--steps=1"]) == 0
    assert cgrseg.load(tmp_path / "run" / "last.safetensors").card["recipe"]["batch"] == 6  # images
    (squares / "images" / "train" / "5.png").unlink()
    (squares / "masks" / "train" / "5.png").unlink()
    assert main([*command, "--steps=2", "--resume"]) == 0, "a resumed run keeps its batch"
