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

from cgrseg._process import quiet

EXTRA_FILE = "cgrseg.json"  # inside a .pt2: what the file says of its model
PACKAGE = ".aoti.pt2"  # how the names of packages end

_SAMPLE, _GRAPH = "data/sample_inputs/model.pt", "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RECORD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+|(?!data/|models/).*")
# The operations that our networks and the encoders of timm are made of. Of all of aten, some open files, and some
# trust their arguments with the memory.
_OPERATIONS = (
    "__and__|_assert_tensor_metadata|abs|adaptive_avg_pool2d|add|add_|addmm|amax|amin|arange|argmax|avg_pool2d|"
    "baddbmm|batch_norm|bmm|cat|chunk|clamp|clamp_min|clone|constant_pad_nd|contiguous|conv2d|detach|div|dropout|"
    "eq|exp|expand|expand_as|feature_dropout|flatten|flip|floor_divide|full|ge|gelu|group_norm|gt|hardsigmoid|"
    "hardsigmoid_|hardswish|hardswish_|hardtanh|hardtanh_|index_select|layer_norm|le|leaky_relu|leaky_relu_|"
    "lift_fresh_copy|linalg_vector_norm|linear|lt|matmul|max_pool2d|maximum|mean|minimum|mm|mul|mul_|narrow|ne|"
    "neg|numpy_T|ones|ones_like|pad|permute|pow|relu|relu6|relu_|remainder|repeat|reshape|roll|rsqrt|rsub|"
    "scaled_dot_product_attention|select|sigmoid|sigmoid_|silu|silu_|slice|softmax|split|split_with_sizes|sqrt|"
    "squeeze|stack|sub|sum|sym_size|t|tanh|to|transpose|type_as|unbind|unflatten|unsqueeze|upsample_bicubic2d|"
    "upsample_bilinear2d|upsample_nearest2d|var|view|view_as|where|zeros|zeros_like"
)
_WORDS = {  # a string below this key may be ...
    "target": rf"torch\.ops\.aten\.({_OPERATIONS})\.(?!_)\w+|"
    r"torch\.sym_(max|min|int|float|not|ite)|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|ge|gt|le|lt)",
    "expr_str": r"((Add|Mul|Pow|FloorDiv|Mod|PythonMod|Max|Min|Rational|Integer|Symbol|integer|positive|nonnegative|"
    r"True|False|[su]\d+)\b|[\d (),='-])*",
    "": r"[\w.]*",  # anywhere else
}
# What an argument may be, and of what type: torch takes a text for a number, and hands it on.
_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("as_int", "as_ints", "as_scalar_type", "as_memory_format", "as_layout"), int),
    **dict.fromkeys(("as_bool", "as_bools", "as_none"), bool),
    **dict.fromkeys(("as_float", "as_floats"), (int, float)),
    **dict.fromkeys(("as_tensor", "as_tensors", "as_device", "as_expr"), dict),
    **dict.fromkeys(("as_sym_int", "as_sym_ints", "as_sym_bool", "as_sym_float"), dict),
    "as_name": str,
}
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

    content = path.read_bytes()  # once: what is loaded is what was looked at
    with PT2ArchiveReader(io.BytesIO(content)) as archive:
        for name in archive.get_file_names():
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
        program = json.loads(archive.read_bytes(_GRAPH))
    for unused in ("guards_code", "torch_version"):  # the one is never evaluated, the other is only compared
        program.pop(unused, None)
    for part in (program["graph_module"], *program["graph_module"]["graph"]["nodes"]):
        part.pop("metadata", None)  # where in the sources it came from: nothing but names
    _inspect(program)
    contents = load_pt2(io.BytesIO(content))
    return contents.exported_programs["model"], contents.extra_files.get(EXTRA_FILE, "")


def _inspect(part: Any, key: str = "") -> None:
    """Raise ValueError where a program's JSON, below `key`, has anything but arithmetic and operations of aten."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name.startswith("as_"):
                kind = _ARGUMENTS.get(name)
                if kind is None or not all(
                    isinstance(one, kind) for one in (value if isinstance(value, list) else [value])
                ):
                    raise ValueError(f"its program has {name} of {str(value)[:60]!r}")
            if name in ("in_spec", "out_spec"):
                _inspect_spec(json.loads(value))
            else:
                _inspect(name)
                _inspect(value, name)
    elif isinstance(part, list):
        for value in part:
            _inspect(value, key)
    elif isinstance(part, str) and not re.fullmatch(_WORDS.get(key, _WORDS[""]), part, re.ASCII):
        raise ValueError(f"its program says {part[:60]!r}")


def _inspect_spec(part: Any) -> None:
    """The same of how arguments are nested."""
    for node in part[1:] if isinstance(part, list) else [part]:
        if node["type"] not in _CONTAINERS or node["context"] not in (None, "null", "[]"):
            raise ValueError(f"its program takes {node['type']}")
        for child in node["children_spec"]:
            _inspect_spec(child)


def processor() -> str:
    """Architecture and instruction sets of this processor, as torch knows them: machine code made here may use all."""
    found = torch.cpu.get_capabilities()
    return " ".join([found["architecture"], *(name for name, there in found.items() if there is True)])


def open_package(path: Path) -> tuple[Callable[[Tensor], Any], str]:
    """A package of AOTInductor as a function of a contiguous tensor on the CPU, and what it says of the model.

    Raises:
        ValueError: it was compiled for a processor that has what this one lacks, or doesn't say.
        RuntimeError: torch can't load it.
    """
    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    metadata = loader.load_metadata_from_package(os.fspath(path), "model")
    if "processor" not in metadata:
        raise ValueError("it does not say what processor it was compiled for")
    missing = set(metadata["processor"].split()) - set(processor().split())
    if missing:  # one such instruction would end the process
        raise ValueError(f"it was compiled for a processor with {', '.join(sorted(missing))}, which is not here")
    with quiet():
        return torch._inductor.aoti_load_package(path), metadata.get(EXTRA_FILE, "")
