"""`cgrseg.train` from Python: settings by name, callbacks, datasets and augmentation of one's own."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.custom import CustomTransform, seeded
from cgrseg.data.listing import open_dataset
from cgrseg.data.torch_dataset import TorchSamples
from cgrseg.labels import LabelSpace
from cgrseg.training import scoring
from cgrseg.training.config import OptimConfig, TrainConfig

NAMES = ["ground", "square"]
SMALL: dict[str, Any] = {
    "model": "cgrseg_n",
    "batch": 2,
    "augment": {"crop": 64, "resize_to": None},
    "workers": 0,
    "precision": "fp32",
    "log_every": 1,
    "val_every": 100,
}


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of such short runs."""
    if "settings_by_name" not in request.node.name:
        monkeypatch.setattr(scoring, "draw", lambda *arguments: None)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return cgrseg.load(run / "last.safetensors").state_dict()


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = weights_of(one), weights_of(other)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


class Squares(Dataset[Any]):
    """A split of the squares: arrays or PIL images."""

    def __init__(self, root: Path, split: str, *, pil: bool = False, noisy: bool = False) -> None:
        self.samples, self.pil, self.noisy = open_dataset(root, split), pil, noisy

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        image, mask = self.samples.read(index)
        if self.pil:
            return image, mask
        pixels = np.array(image)
        if self.noisy:
            pixels //= random.randint(1, 3) + np.random.randint(2) + int(torch.randint(2, ()))
        return pixels, np.asarray(mask).astype(np.int64)


def test_settings_by_name_give_the_run_of_the_command_line(squares: Path, tmp_path: Path) -> None:
    run = cgrseg.train(
        data=squares, out=tmp_path / "a", **SMALL, steps=2, optim=OptimConfig(lr=1e-3), loss={"class_weights": [1, 2]}
    )
    more = ["--batch=2", "--augment.crop=64", "--augment.resize_to=null", "--workers=0", "--precision=fp32"]
    more += ["--steps=2", "--loss.class_weights", "1", "2", "--log_every=1"]
    assert main(["train", "--data", str(squares), "--out", str(tmp_path / "b"), "--model=cgrseg_n", *more]) == 0
    assert_same(tmp_path / "a", tmp_path / "b")
    assert run.folder == tmp_path / "a" and not run.stopped
    assert run.scores["split"] == "test" and run.scores["step"] == 2 and set(run.scores["class_iou"]) == set(NAMES)
    assert cgrseg.load(run.weights["last"]).card["miou"] == run.scores["miou"]
    assert set(run.weights) == {"best", "last"} and set(run.pictures) == {"curves", "classes", "samples"}
    assert all(path.is_file() for path in (*run.weights.values(), *run.pictures.values()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepps": 3}, "no option stepps: did you mean steps"),
        ({"lr": 1e-4}, "no option lr: did you mean optim.lr"),
        ({"optim": {"lrr": 1e-4}}, "no option optim.lrr: did you mean lr"),
        ({"steps": "many"}, "steps is 'many': use a whole number"),
        ({"steps": 3, "epochs": 2}, "epochs is 2: give a positive number, and no steps"),
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0: it must be at least 1"),
        ({"loss": {"class_weights": [1.0, 2.0, 3.0]}}, "has 3 numbers, but there are 2 classes.* ground, square"),
        ({"loss": {"class_weights": [0.0, -1.0]}}, "give one number of 0 or more per class"),
        ({"labels": NAMES}, "labels go with a dataset of your own"),
        ({"transform": 3}, "transform is 3: give a function"),
        ({"transform": len, "teacher": "logits"}, "transform and teacher exclude each other"),
        ({"spec": {"num_classes": 2}}, "spec.num_classes cannot be chosen"),
        ({"seed": -1}, "seed is -1: it must be at least 0"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_written(
    squares: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        cgrseg.train(data=squares, out=tmp_path / "run", **{**SMALL, **settings})
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_configuration_or_recipe_is_the_base_of_the_settings(squares: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out: elsewhere\nmodel: cgrseg_n\noptim: {lr: 0.002, warmup: 1}\n", encoding="utf-8")
    from cgrseg.training.run import _configuration

    config = _configuration(recipe, {"out": "here", "optim": {"lr": 0.1}}, resume=False)
    assert (config.out, config.model, config.optim) == ("here", "cgrseg_n", OptimConfig(lr=0.1, warmup=1))
    with pytest.raises(FileNotFoundError):
        _configuration(tmp_path / "none.yaml", {"out": "here"}, resume=False)
    again = _configuration(TrainConfig(out="a", steps=7), {"loss": {"dice": 1.0}}, resume=False)
    assert (again.out, again.steps, again.loss.dice) == ("a", 7, 1.0)
    assert TrainConfig(out=Path("a")).out == "a"


def test_callbacks_see_every_step_and_score_and_do_not_change_the_run(squares: Path, tmp_path: Path) -> None:
    steps: list[Any] = []
    scores: list[Any] = []
    settings = {**SMALL, "data": squares, "steps": 4, "val_every": 2}
    cgrseg.train(**settings, out=tmp_path / "a", on_step=steps.append, on_score=scores.append)
    cgrseg.train(**settings, out=tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(step.loss) for step in steps) and steps[-1].lr == pytest.approx(1e-3 / 4)
    assert [score["step"] for score in scores] == [2, 4] and {score["split"] for score in scores} == {"val"}
    assert 0 <= scores[0]["miou"] <= 100


@pytest.mark.parametrize("way", ["on_step", "on_score", "patience"])
def test_a_run_that_ends_early_has_scores_and_goes_on_to_the_bits_of_a_whole_run(
    squares: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "data": squares, "steps": 6, "val_every": 2, "optim": {"ema": 0.9}}
    early: dict[str, Any] = {
        "on_step": {"on_step": lambda step: step.number < 2},
        "on_score": {"on_score": lambda scores: False},
        "patience": {"patience": 1},
    }[way]
    if way == "patience":  # the first score is the best one
        from cgrseg.evaluation import Scores

        values = iter([0.5, 0.4, *[0.3] * 20])
        monkeypatch.setattr(Scores, "mean_iou", lambda self: next(values))
    run = cgrseg.train(**settings, out=tmp_path / "run", **early)
    ended = 4 if way == "patience" else 2
    assert run.stopped and run.scores["step"] == ended and run.scores["split"] == "test"
    assert all(path.is_file() for path in run.weights.values())
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == ended
    if way == "patience":
        again = cgrseg.train(out=tmp_path / "run", resume=True)
        assert again.stopped and again.scores["step"] == 4
        assert cgrseg.train(out=tmp_path / "run", resume=True, patience=9).scores["step"] == 6
    elif way == "on_step":
        assert not cgrseg.train(out=tmp_path / "run", resume=True).stopped
        cgrseg.train(**settings, out=tmp_path / "whole")
        assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_resumed_from_its_folder_alone_and_counts_epochs(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cgrseg.train(data=squares, out=out, **SMALL, epochs=0.5).scores["step"] == 2  # of 6 images, 2 per step
    assert cgrseg.train(out=out, resume=True, steps=3).scores["step"] == 3
    with pytest.raises(ValueError, match="holds a run already"):
        cgrseg.train(data=squares, out=out, **SMALL, steps=3)
    with pytest.raises(ValueError, match="run with seed 0, not 1"):
        cgrseg.train(out=out, resume=True, seed=1)
    assert main(["train", "--out", str(out), "--resume", "--epochs", "2"]) == 0
    assert cgrseg.load(out / "last.safetensors").card["recipe"]["steps"] == 6


def test_resuming_where_there_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run in .*: check out"):
        cgrseg.train(out=tmp_path / "run", resume=True)
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "check --out, or give --data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_steps_and_epochs_exclude_each_other_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path / "run"), "--steps", "3", "--epochs", "2"]) == 2
    assert "--steps and --epochs" in capsys.readouterr().err


def test_a_dataset_of_ones_own_trains_what_the_same_folder_trains(squares: Path, tmp_path: Path) -> None:
    train, val, test = (Squares(squares, split, pil=split == "train") for split in ("train", "val", "test"))
    run = cgrseg.train(data=train, val=val, test=test, labels=NAMES, out=tmp_path / "own", **SMALL, steps=2)
    folder = cgrseg.train(data=squares, out=tmp_path / "folder", **SMALL, steps=2)
    assert_same(run.folder, folder.folder)
    assert run.scores == folder.scores
    card = cgrseg.load(run.weights["last"]).card
    assert card["recipe"]["data"] == "Python dataset Squares"


def test_a_random_dataset_and_transform_resume_to_the_same_bits_whatever_the_workers(
    squares: Path, tmp_path: Path
) -> None:
    def noise(image: Any, mask: Any) -> Any:
        image += np.random.randint(0, 20, image.shape).astype(np.uint8)
        if random.random() < 0.5:
            image, mask = image[::-1], mask[::-1]
        image[: int(torch.randint(1, 20, ()))] = 0
        return image, mask

    def train(out: str, **more: Any) -> Any:
        data, val = Squares(squares, "train", noisy=True), Squares(squares, "val")
        settings = {**SMALL, "steps": 4, "save_every": 2, **more}
        return cgrseg.train(data=data, val=val, labels=NAMES, transform=noise, out=tmp_path / out, **settings)

    train("whole")
    assert train("parts", on_step=lambda step: step.number < 2).stopped
    random.seed(7)
    train("parts", resume=True, workers=2)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_dataset_of_ones_own_is_read_in_the_main_thread_only(squares: Path, tmp_path: Path) -> None:
    class Guarded(Squares):
        def __getitem__(self, index: int) -> Any:
            assert threading.current_thread() is threading.main_thread()
            return super().__getitem__(index)

    data, val = Guarded(squares, "train"), Guarded(squares, "val")
    cgrseg.train(data=data, val=val, labels=NAMES, out=tmp_path / "run", **{**SMALL, "steps": 1})


def test_numbers_of_numpy_are_numbers(squares: Path, tmp_path: Path) -> None:
    rate, weights = np.logspace(-4, -3, 2)[0], list(np.array([1.0, 2.0]))
    settings = {**SMALL, "steps": np.int64(2), "seed": np.int64(3)}
    seen = []

    def end(step: Any) -> Any:
        seen.append(step.number)
        return np.bool_(False)

    run = cgrseg.train(
        data=squares, out=tmp_path / "run", optim={"lr": rate}, loss={"class_weights": weights}, on_step=end, **settings
    )
    assert run.stopped and seen == [1]


def test_what_only_python_has_must_be_given_again(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes: list[Any] = []

    def darker(image: Any, mask: Any) -> Any:
        shapes.append((image.shape, mask.shape))
        return image // 2, mask

    settings = {**SMALL, "steps": 1}
    cgrseg.train(data=squares, out=tmp_path / "a", transform=darker, **settings)
    assert len(shapes) == 2, "the crops of one step, and not the images that are scored"
    assert all(image == (*mask, 3) and max(mask) <= 64 for image, mask in shapes)
    with pytest.raises(ValueError, match=r"the Python function darker as transform: resume it with cgrseg\.train"):
        cgrseg.train(out=tmp_path / "a", resume=True, steps=2)
    assert main(["train", "--out", str(tmp_path / "a"), "--resume", "--steps=2"]) == 2
    assert "the Python function darker as transform" in capsys.readouterr().err
    assert cgrseg.load(tmp_path / "a" / "last.safetensors").card["recipe"]["transform"] == "darker"
    pairs = [(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8))] * 2
    cgrseg.train(data=pairs, val=pairs, labels=NAMES, out=tmp_path / "b", **settings)
    with pytest.raises(ValueError, match=r"run on a Python dataset list: resume it with cgrseg\.train"):
        cgrseg.train(out=tmp_path / "b", resume=True, steps=2)
    assert main(["train", "--out", str(tmp_path / "b"), "--resume", "--steps=2"]) == 2
    assert "run on a Python dataset list" in capsys.readouterr().err


IMAGE, MASK = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (IMAGE, "item 0 of train .* is a ndarray: return a pair"),
        ((IMAGE.astype(np.float32), MASK), r"image float32 \[8, 9, 3\] .* return uint8 \[H, W, 3\]"),
        ((IMAGE, MASK[:4]), r"mask uint8 \[4, 9\]"),
        ((IMAGE, MASK / 2), "mask float64"),
        ((IMAGE, MASK + 2), "holds class 2, but there are 2 classes"),
        ((IMAGE, MASK.astype(np.int64) - 1), "holds class -1"),
    ],
)
def test_an_item_that_is_no_pair_is_one_line(item: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchSamples([item], NAMES, "train")  # type: ignore[arg-type]


def test_a_dataset_without_length_val_or_labels_is_one_line(tmp_path: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(pairs)

    pairs: Any = [(IMAGE, MASK)]
    for given, message in (
        ({"data": Stream(), "val": pairs, "labels": NAMES}, "train is a Stream: give a dataset with __len__"),
        ({"data": [], "val": pairs, "labels": NAMES}, "train is a list of length 0"),
        ({"data": pairs, "labels": NAMES}, "val is missing"),
        ({"data": pairs, "val": pairs}, "labels is missing: .* the class names"),
        ({"data": pairs, "val": pairs, "labels": "sky"}, "labels is 'sky'"),
        ({"data": pairs, "val": pairs, "labels": ["a", "a"]}, "labels has 'a' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            cgrseg.train(out=tmp_path / "run", **SMALL, **given)
    assert not (tmp_path / "run").exists()


def test_ids_that_are_ignored_stay_so_and_palette_images_are_ids() -> None:
    mask = Image.fromarray(np.array([[0, 1], [255, 1]], np.uint8))
    samples = TorchSamples([(IMAGE[:2, :2], mask)], NAMES, "val")  # type: ignore[arg-type]
    assert np.asarray(samples.read(0)[1]).tolist() == [[0, 1], [255, 1]]


def test_datasets_of_ones_own_may_have_other_channels(tmp_path: Path) -> None:
    item = (np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8), np.eye(64, dtype=np.uint8))
    pairs: Any = [item] * 2
    settings: dict[str, Any] = {**SMALL, "val": pairs, "labels": NAMES, "steps": 1}
    run = cgrseg.train(data=pairs, out=tmp_path / "four", spec={"in_channels": 4}, **settings)
    assert cgrseg.Segmenter(run.weights["last"])(item[0]).labels.shape == (64, 64)
    with pytest.raises(ValueError, match=r"item 0 of train .* image uint8 \[64, 64, 4\] .* return uint8 \[H, W, 3\]"):
        cgrseg.train(data=pairs, out=tmp_path / "three", **settings)
    with pytest.raises(ValueError, match=r"item 0 of train \(list\): .* 3 channels, the model takes 4"):
        TorchSamples([(Image.new("RGB", (9, 8)), MASK)], NAMES, "train", channels=4)  # type: ignore[arg-type]


def test_transforms_by_position_by_name_and_with_a_seed_of_their_own() -> None:
    class Albumentations:
        """Like albumentations: keywords only, a generator of its own, a dict."""

        def __init__(self) -> None:
            self.random = random.Random()

        def set_random_seed(self, seed: int) -> None:
            self.random.seed(seed)

        def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
            assert not args
            return {**data, "image": data["image"] + np.uint8(self.random.randrange(200))}

    labels, crop = LabelSpace.numbered(2), torch.full((3, 4, 5), 7.0)
    mask = np.ones((4, 5), np.uint8)
    own = CustomTransform(Albumentations(), labels, 3)
    (one, kept), (other, _), (again, _) = (own(crop, mask, number) for number in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other) and kept.tolist() == mask.tolist()
    for function in (
        lambda image, mask: (image + 1, mask),
        lambda photo, truth: {"image": photo + 1, "mask": truth},
        lambda *, image, mask: [image + 1, mask],
    ):
        image, _ = CustomTransform(function, labels, 3)(crop, mask, 0)
        assert image.dtype == torch.float32 and image.unique().tolist() == [8.0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda image, mask: image, "transform returned a ndarray: return"),
        (lambda image, mask: {"image": image}, "transform returned a dict"),
        (lambda image, mask: None, "transform returned a NoneType"),
        (lambda image, mask: (image / 255, mask), "image float64"),
        (lambda image, mask: (image[:2], mask[:2]), r"return uint8 \[4, 5, 3\]"),
        (lambda image, mask: (image, mask + 1), "class 2, but there are 2: use 255"),
    ],
)
def test_a_transform_that_returns_something_else_is_one_line(made: Any, message: str) -> None:
    transform = CustomTransform(made, LabelSpace.numbered(2), 0)
    with pytest.raises(ValueError, match=message):
        transform(torch.zeros(3, 4, 5), np.ones((4, 5), np.uint8), 0)


def test_transforms_of_torchvision_are_refused_because_they_leave_arrays_unchanged() -> None:
    from torchvision.transforms import v2

    with pytest.raises(ValueError, match="torchvision's RandomHorizontalFlip, which leaves NumPy arrays unchanged"):
        CustomTransform(v2.RandomHorizontalFlip(1.0), LabelSpace.numbered(2), 0)


def test_global_generators_depend_on_seed_and_sample_and_are_restored() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(0, 5):
        first = draw()
    assert draw() == expected
    with seeded(0, 5):
        assert draw() == first
    for other in ((1, 5), (0, 6)):
        with seeded(*other):
            assert all(a != b for a, b in zip(draw(), first, strict=True))
