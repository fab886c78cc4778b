"""`cgrseg train --config`: recipes in YAML, below the flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrseg._yaml import read_yaml

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection

    from cgrseg.training.config import TrainConfig


def read_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every flag that is not on the command line its value in the recipe, otherwise its default.

    The recipe is the file of --config; with --resume alone, that of the run itself. Cyclopts calls this after
    reading the command line.

    Raises:
        OSError, ValueError: the recipe is missing or wrong.
    """
    from cyclopts import Token
    from cyclopts.config import Dict

    from cgrseg.training.config import CONFIG, TrainConfig

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
