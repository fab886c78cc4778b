"""Files that torch runs, .pt2: programs of torch.export, and packages of machine code by AOTInductor.

torch.export.load trusts its file: it unpickles what is marked so, evaluates formulas and guards as Python, resolves
names within torch and loads machine code. So a program is read only after all of its parts were found to be of the
few kinds that `cgrseg export` writes. A package is machine code: to open it is to run it, as with any program.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .quiet import quiet

EXTRA_FILE = "cgrseg.json"  # inside a .pt2: what the file says of its model
PACKAGE = ".aoti.pt2"  # how the names of packages end

_SAMPLE, _GRAPH = "data/sample_inputs/model.pt", "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RECORD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+|(?!data/|models/).*")
_WORDS = {  # a string below this key may be ...
    "target": r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|ge|gt|le|lt)",
    "expr_str": r"((Add|Mul|Pow|FloorDiv|Mod|PythonMod|Max|Min|CeilToInt|Rational|Integer|Symbol|integer|positive|"
    r"nonnegative|True|False|[a-z]+\d+)\b|[\d (),='-])*",
    "": r"[\w.]*",  # anywhere else
}
_FREE = ("metadata", "guards_code", "torch_version", "schema_version")  # neither resolved nor evaluated, as we load
_REFUSED = ("as_string", "as_strings", "as_operator", "as_graph", "as_custom_obj")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def read_program(path: Path) -> tuple[ExportedProgram, str]:
    """A program of torch.export, and what its file says of the model ("" if nothing).

    Use its `.module(check_guards=False)`: guards are Python code, and too strict for sides of one token.

    Raises:
        ValueError: it holds something that could run code, or that `cgrseg export` doesn't write.
        Exception: whatever torch raises where the file is damaged.
    """
    from torch.export.pt2_archive import PT2ArchiveReader
    from torch.export.pt2_archive._package import load_pt2  # torch.export.load would try older formats, all pickles

    with PT2ArchiveReader(os.fspath(path)) as archive:
        names = archive.get_file_names()
        for name in names:
            if name not in (_SAMPLE, _GRAPH, *_TABLES) and not _RECORD.fullmatch(name):
                raise ValueError(f"it holds {name}, which `cgrseg export` doesn't write there")
        for name in _TABLES:
            for entry in json.loads(archive.read_bytes(name))["config"].values():
                if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                    raise ValueError(f"{name} names a pickle")
        try:
            torch.load(io.BytesIO(archive.read_bytes(_SAMPLE)), weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{_SAMPLE} is a pickle of more than tensors") from error
        _inspect(json.loads(archive.read_bytes(_GRAPH)))
    contents = load_pt2(os.fspath(path))
    return contents.exported_programs["model"], contents.extra_files.get(EXTRA_FILE, "")


def _inspect(part: Any, key: str = "") -> None:
    """Raise ValueError where a program's JSON, below `key`, has anything but arithmetic and operations of aten."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in _REFUSED and value is not None:
                raise ValueError(f"its program has {name}")
            if name in ("in_spec", "out_spec"):
                _inspect_spec(json.loads(value))
            elif name not in _FREE:
                _inspect(name)
                _inspect(value, name)
    elif isinstance(part, list):
        for value in part:
            _inspect(value, key)
    elif isinstance(part, str) and not re.fullmatch(_WORDS.get(key, _WORDS[""]), part):
        raise ValueError(f"its program says {part[:60]!r}")


def _inspect_spec(part: Any) -> None:
    """The same of how arguments are nested."""
    for node in part[1:] if isinstance(part, list) else [part]:
        if node["type"] not in _CONTAINERS or node["context"] not in (None, "null", "[]"):
            raise ValueError(f"its program takes {node['type']}")
        for child in node["children_spec"]:
            _inspect_spec(child)


def open_package(path: Path) -> tuple[Callable[[Tensor], Any], str]:
    """A package of AOTInductor as a function of a contiguous tensor on the CPU, and what it says of the model.

    Raises:
        ValueError: it was compiled for another kind of processor.
        RuntimeError: torch can't load it.
    """
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    metadata = loader.load_metadata_from_package(os.fspath(path), "model")
    needed, here = metadata.get("capability"), torch.backends.cpu.get_cpu_capability()
    if needed not in (here, None):
        raise ValueError(f"it was compiled for a processor with {needed}, not {here}")
    with quiet():
        return torch._inductor.aoti_load_package(path), metadata.get(EXTRA_FILE, "")
