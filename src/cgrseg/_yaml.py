"""Read YAML files of settings: numbers as people write them, and no file that becomes larger than it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


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
        raise FileNotFoundError(f"no file {path}: check the path")
    try:
        table = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path} has no settings: write one `key: value` per line")
    return table
