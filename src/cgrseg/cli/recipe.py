"""`cgrseg train`: the command, and recipes in YAML below its flags."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cgrseg._text import printable
from cgrseg._yaml import read_yaml
from cgrseg.training.config import CONFIG, DEFAULT_MODEL, PYTHON, TrainConfig, require_new_run

from ._common import check_folder, check_weights

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection


def train(
    *,
    config: Path | None = None,
    run: Annotated[TrainConfig, Parameter(name="*", negative=None, negative_iterable=())],
    resume: bool = False,
    epochs: float | None = None,
    find_lr: bool = False,
    print_config: bool = False,
) -> int:
    """Train a model on a dataset, or on synthetic scenes.

    A dataset folder has images/{train,val,test}, masks/{train,val,test} and classes.json. The run folder gets
    best.safetensors and last.safetensors for --weights of other commands, config.yaml, the log (train.jsonl), the
    scores (metrics.csv), plots of both, and the state for --resume, which continues to the same bits as a run that
    was not stopped.

    Example: `cgrseg train --data mydata --init cgrseg_lite-voc21 --out runs/mine`

    Args:
        config: a recipe (YAML); flags take precedence
        resume: continue the run in --out, with its own configuration unless --config is given; with a larger --steps
            it is extended, and the learning rate follows the schedule of the new length from there on
        epochs: passes over the training images, in place of --steps
        find_lr: do not train the model, but measure at which learning rate the loss falls fastest: 100 steps with a
            rising one, and a plot in --out
        print_config: print the whole configuration as a recipe, and do not train
    """
    run = with_typed_spec(run)
    if print_config:
        import yaml

        print(yaml.safe_dump(run.to_dict(), sort_keys=False, allow_unicode=True), end="")
        return 0
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes only this one prints
    if resume and config is None and run.data is None and not Path(run.out, CONFIG).is_file():
        raise FileNotFoundError(f"no run in {run.out}: check --out, or give --data for a new run")
    if run.data is None and first:
        print("no --data: training on synthetic scenes", file=sys.stderr)
    if run.data is not None and not run.data.startswith(PYTHON) and not Path(run.data).is_dir():
        raise FileNotFoundError(f"no folder {run.data}: check the path of the dataset")
    if not resume and not find_lr:
        require_new_run(run.out)
    check_weights(run.init)

    from cgrseg.description import find_spec

    # A wrong option is found before torch is imported, which takes seconds.
    find_spec(DEFAULT_MODEL if run.model == "auto" else run.model, **run.spec)

    if find_lr:
        from cgrseg.training import lr_range

        check_folder(Path(run.out))
        picture = Path(run.out, "lr-range.png")
        found = lr_range.find_lr(run)
        found.draw(picture)
        print(printable(f"the loss falls fastest at --optim.lr {found.best:.2g}, plot in {picture}"))
        return 0

    import cgrseg
    from cgrseg.training.progress import Stopped

    try:
        scores = cgrseg.train(run, resume=resume, epochs=epochs).scores
    except Stopped as stop:
        if first:
            print(printable(f"cgrseg: {stop}"), file=sys.stderr)
        return stop.exit_code
    if first:
        weights = printable(Path(run.out) / "last.safetensors")
        print(f"{scores['split']} mIoU {scores['miou']} %, weights in {weights}")
    return 0


def read_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every flag that is not on the command line its value in the recipe, otherwise its default.

    The recipe is the file of --config; with --resume alone, that of the run itself. Cyclopts calls this after
    reading the command line.

    Raises:
        OSError, ValueError: the recipe is missing or wrong.
    """
    from cyclopts import Token
    from cyclopts.config import Dict

    for argument in arguments:  # Cyclopts leaves "null" for a text or nothing as it is
        if argument.hint == str | None:
            argument.tokens = [
                token.evolve(value="", implicit_value=None) if token.value == "null" else token
                for token in argument.tokens
            ]

    def given(name: str) -> str | None:
        tokens = arguments[name].tokens
        return tokens[0].value if tokens else None

    path = given("--config")
    own = Path(given("--out") or "", CONFIG)
    if path is None and arguments["--resume"].tokens and given("--out") and own.is_file():
        path = str(own)
    table = {} if path is None else read_yaml(Path(path))
    try:
        values = TrainConfig.from_dict({"out": "", **table}).to_dict()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if (transform := values.pop("transform")) is not None:
        raise ValueError(
            f"{path} is of a run with the Python function {transform} as transform: resume it with "
            "cgrseg.train(..., transform=...)"
        )
    if arguments["--steps"].tokens and arguments["--epochs"].tokens:
        raise ValueError("--steps and --epochs say the same: give one of them")
    if not values["out"]:
        del values["out"]
        if arguments["--print-config"].tokens:
            values["out"] = "runs/mine"
    spec = arguments["--spec"]  # its fields are merged one by one
    taken = [token.keys for token in spec.tokens]
    for name, value in values.pop("spec").items():
        if (name,) not in taken:
            spec.append(Token(keyword=f"--spec.{name}", keys=(name,), value="null" if value is None else str(value)))
    Dict({commands[-1]: values}, source=path or "the defaults")(app, commands, arguments)


def with_typed_spec(config: TrainConfig) -> TrainConfig:
    """The configuration with numbers, true, false and null in `spec`, which flags give as text."""
    return dataclasses.replace(config, spec={name: _typed(value) for name, value in config.spec.items()})


def _typed(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "null": None}.get(text.lower(), text)
