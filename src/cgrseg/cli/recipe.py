"""`cgrseg train --config`: recipes in YAML, below the flags."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from cgrseg.training.config import TrainConfig

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
    own = Path(given("--out") or "", "config.yaml")
    if path is None and arguments["--resume"].tokens and given("--out") and own.is_file():
        path = str(own)
    table = {} if path is None else read_yaml(Path(path))
    try:
        values = TrainConfig.from_dict({"out": "", **table}).to_dict()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping. 1e-3 is a number; duplicate keys and aliases are errors.

    Aliases are not read because a few nested ones make gigabytes out of a small file.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not such a file.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"{path} has an alias (*name): write the value out")
            node = super().compose_node(parent, index)
            if isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for key in (str(key.value) for key, _ in node.value):
                    if key in seen:
                        raise ValueError(f"{path} has the key {key} twice: remove one")
                    seen.add(key)
            return node

    Loader.add_implicit_resolver(  # YAML 1.1 reads 1e-3 as text
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the path of --config; recipes end in .yaml")
    try:
        table = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path} is not a recipe: write one `key: value` per line")
    return table


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
