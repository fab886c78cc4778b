"""Read the tensors of any checkpoint. Nothing in it is run."""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cgrseg._text import printable
from cgrseg.images.files import utf8_path

from .artifact import Pathlike, file_kind

Source = Mapping[str, Any] | Pathlike  # a state dict, possibly wrapped, or a file with one
WRAPPERS = ("state_dict", "model")
REFUSED = re.compile(r"GLOBAL|blocked|Unsupported (class|global|operand)|must be .* to load")
DAMAGED = (  # what torch's restricted unpickler raises on damaged bytes
    *(SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, AssertionError),
    *(AttributeError, LookupError, OverflowError, TypeError, ValueError),
)


def read_state(source: Source) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers and without the prefix "module.".

    Args:
        source: a state dict, or a .safetensors, .pth, .pt or .bin file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint, or holds pickled objects other than tensors.
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
        raise ValueError(f"{source_name(source)} holds no named tensors: it is not a checkpoint")
    return tensors


def source_name(source: Source) -> str:
    """The name of a source in error messages."""
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def _read(name: str) -> Any:
    kind = file_kind(name)
    if kind == "unknown":
        raise ValueError(f"{name} is not a weights file: give a .safetensors, .pth, .pt or .bin file")
    check_archive(name)
    try:
        if kind == "safetensors":
            with utf8_path(name) as opened:
                return load_file(opened)
        with warnings.catch_warnings(action="ignore"):  # about unusual pickles, which are read or refused
            return torch.load(name, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        if isinstance(error, pickle.UnpicklingError) and REFUSED.search(str(error)):
            raise ValueError(
                f"{name} holds pickled objects other than tensors; refused: "
                'ask its author for the "state_dict" alone, or save that yourself where you trust the file'
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{name} is damaged or not a checkpoint ({reason})") from error


def check_archive(name: str) -> None:
    """Check the checksums and the size of a file of `torch.save` before it is read; other files pass.

    Raises:
        ValueError: a checksum is wrong, or an entry is compressed: `torch.save` never compresses, and a small file
            could expand to many times the memory.
    """
    try:
        if not zipfile.is_zipfile(name):
            return
        with zipfile.ZipFile(name) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            wrong = None if packed else archive.testzip()
    except Exception as error:  # damaged headers raise BadZipFile, EOFError, struct.error and others
        reason = printable(str(error)) or type(error).__name__
        raise ValueError(f"{name} is damaged ({reason}): copy or download it again") from error
    if packed:
        raise ValueError(f"{name} has a compressed entry ({printable(packed[0])}), unlike files of torch.save: refused")
    if wrong is not None:
        raise ValueError(f"{name} is damaged (the checksum of {printable(wrong)} is wrong): copy or download it again")
