"""Every recipe is valid and has the settings that its name promises; the paper's recipes have the paper's settings."""

from __future__ import annotations

import dataclasses
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from cgrseg.cli.main import main
from cgrseg.nn import build
from cgrseg.training.config import TrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def read(*arguments: str) -> TrainConfig:
    """The configuration that `cgrseg train --print_config` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["train", *arguments, "--print_config"]) == 0
    return TrainConfig.from_dict(yaml.safe_load(printed.getvalue()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_valid_configuration_of_the_model_in_its_name(path: Path) -> None:
    config = read("--config", str(path), "--out", "runs/x")
    if config.model == "auto":
        assert path.stem == "folder" and config.spec == {}
        return
    build(config.model, **config.spec)
    size = path.stem.rpartition("-")[2]
    family = "segnext" if "segnext" in path.stem else "cgrseg"
    assert config.model == f"{family}_{size}"


def test_every_dataset_and_size_of_the_paper_has_a_recipe() -> None:
    papers = {
        f"{data}-{size}" for data in ("ade20k", "coco-stuff10k", "coco-stuff164k", "pascal-context") for size in "tbl"
    }
    assert papers <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", [p for p in RECIPES if "official" in p.read_text()], ids=lambda path: path.stem)
def test_the_papers_recipes_have_the_papers_settings(path: Path) -> None:
    config = read("--config", str(path), "--out", "runs/x")
    steps, batch, lr, crop = {
        "ade20k": (160_000, 16, 1.2e-4, 512),
        "coco-stuff10k": (80_000, 8, 1.2e-4, 512),
        "coco-stuff164k": (80_000, 8, 1.2e-4, 512),
        "pascal-context": (80_000, 16, 6e-5, 480),
    }[config.format]
    assert (config.steps, config.batch, config.optim.lr, config.augment.crop) == (steps, batch, lr, crop)
    assert config.optim.groups == "official" and config.spec == {"bias_mode": "official"} and config.loss.mean == "all"
    assert config.format == path.stem.rpartition("-")[0]


def test_flags_take_precedence_over_the_recipe_in_both_spellings() -> None:
    recipe = str(RECIPES[0])
    config = read("--config", recipe, "--out", "x", "--optim.lr", "5e-4", "--val-every", "7", "--save_every", "9")
    assert (config.optim.lr, config.val_every, config.save_every) == (5e-4, 7, 9)
    assert config.optim.weight_decay == 0.01  # from the recipe


def test_print_config_prints_a_recipe_of_the_same_configuration(tmp_path: Path) -> None:
    config = read("--out", "x", "--spec.bias_mode", "official", "--augment.resize_to", "null")
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert read("--config", str(tmp_path / "printed.yaml")) == config


def test_the_folder_recipe_is_the_default() -> None:
    folder = next(path for path in RECIPES if path.stem == "folder")
    assert read("--config", str(folder), "--out", "x") == read("--out", "x")


def test_a_configuration_is_equal_after_writing_and_reading_yaml() -> None:
    config = read("--config", str(RECIPES[0]), "--out", "x")
    config.refuse_other(yaml.safe_load(yaml.safe_dump(config.to_dict())), Path("x"))
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match="a run with seed 0, not 1"):
        other.refuse_other(config.to_dict(), Path("x"))


@pytest.mark.parametrize(
    ("recipe", "samples"),
    [
        ("ade20k-t", "ade20k/ADEChallengeData2016"),
        ("coco-stuff164k-t", "coco_stuff/coco_stuff164k"),
        ("coco-stuff10k-t", "coco_stuff/coco_stuff10k_REBUILT"),
        ("pascal-context-t", "pascal_context/REBUILT"),
    ],
)
def test_a_recipe_of_the_paper_trains_two_steps_on_samples_of_its_dataset(
    recipe: str, samples: str, shared: Path, tmp_path: Path
) -> None:
    data = shared / "data" / "format_samples" / samples
    if recipe == "ade20k-t":  # its samples belong to the val split
        for side in ("images", "annotations"):
            (tmp_path / "ade" / side).mkdir(parents=True)
            for split in ("training", "validation"):
                (tmp_path / "ade" / side / split).symlink_to(data / side / "validation")
        data = tmp_path / "ade"
    path = next(path for path in RECIPES if path.stem == recipe)
    words = [
        *("--config", str(path), "--data", str(data), "--out", str(tmp_path / "run")),
        *("--model", "cgrseg_n", "--init", "null", "--steps", "2", "--batch", "2", "--workers", "0"),
        *("--augment.crop", "64", "--augment.resize_to", "256", "64", "--log_every", "1"),
    ]
    assert main(["train", *words]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    assert (tmp_path / "run" / "best.safetensors").is_file()
