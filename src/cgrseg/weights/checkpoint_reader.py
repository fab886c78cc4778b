"""Checkpoints of other projects: their tensors are read, and nothing in them is ever run."""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .artifact import Pathlike, file_kind

Source = Mapping[str, Any] | Pathlike  # a state dict, perhaps inside wrappers, or a file with one
WRAPPERS = ("state_dict", "model")
REFUSED = re.compile(r"GLOBAL|blocked|Unsupported (class|global|operand)|must be .* to load")
DAMAGED = (  # what torch's restricted unpickler meets in broken bytes
    *(SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, AssertionError),
    *(AttributeError, LookupError, OverflowError, TypeError, ValueError),
)


def read_state(source: Source) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers and without "module." in front.

    Args:
        source: a state dict, or a .safetensors, .pth, .pt or .bin file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no checkpoint, or holds pickled objects other than tensors.
    """
    content: Any = source if isinstance(source, Mapping) else _read(os.fspath(source))
    while isinstance(content, Mapping):
        inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key).removeprefix("module."): value for key, value in entries if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{source_name(source)} holds no tensors by name: it is no checkpoint")
    return tensors


def source_name(source: Source) -> str:
    """What error messages call a source."""
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def _read(name: str) -> Any:
    kind = file_kind(name)
    try:
        if kind == "safetensors":
            return load_file(name)
        with warnings.catch_warnings(action="ignore"):  # of an odd pickle, which is refused or read all the same
            return torch.load(name, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        if isinstance(error, pickle.UnpicklingError) and REFUSED.search(str(error)):
            raise ValueError(
                f"{name} holds pickled objects other than tensors; refused: "
                'ask its author for the "state_dict" alone, or save that yourself where you trust the file'
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{name} is damaged or no checkpoint ({reason})") from error
