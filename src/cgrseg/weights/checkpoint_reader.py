"""Read the tensors of any checkpoint, of which nothing is run, and fill a module with them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cgrseg._text import printable
from cgrseg.images.files import utf8_path
from cgrseg.nn.backbones.attention_bias import table_fits

from .artifact import Pathlike, file_kind

Source = Mapping[str, Any] | Pathlike  # a state dict, possibly wrapped, or a file with one
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, and modules of Lightning
REFUSED = re.compile(r"GLOBAL|blocked|Unsupported (class|global|operand)|must be .* to load")
ENOUGH = 0.95  # share of our tensors that must be filled
CLASSIFIER = ("head.classifier.weight", "head.classifier.bias")
TABLE = "bias.table"
DAMAGED = (  # what torch's restricted unpickler raises on damaged bytes
    *(SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, AssertionError),
    *(AttributeError, LookupError, OverflowError, TypeError, ValueError),
)


def read_state(source: Source) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers and without what DDP, `torch.compile` and others prepend.

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
    tensors = {str(key): value for key, value in entries if isinstance(value, Tensor)}
    while prefix := next((one for one in PREFIXES if tensors and all(key.startswith(one) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
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


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint.

    Args:
        loaded: our tensors that the checkpoint filled.
        missing: our tensors that keep their values.
        unexpected: keys of the checkpoint that the model does not have (known unused ones are not listed).
        reshaped: those of `loaded` with another shape: scales, attention tables of another resolution, kernels of RGB
            for another number of channels.
        source: where the weights come from, if not from a given file.
        note: one line about what was not filled on purpose, or "".
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    source: str = ""
    note: str = ""

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("loaded", "missing", "unexpected", "reshaped")}
        text = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "loaded")
        return f"{text} tensors" + (f" from {self.source}" if self.source else "") + f"; {self.note}" * bool(self.note)

    def prefixed(self, prefix: str) -> LoadReport:
        """The report with `prefix` before the names of our tensors."""
        names = ("loaded", "missing", "reshaped")
        longer: dict[str, Any] = {name: tuple(prefix + key for key in getattr(self, name)) for name in names}
        return dataclasses.replace(self, **longer)


def load_keys(
    module: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    translate: Callable[[str], str | None] = str,
    *,
    kept: tuple[str, ...] = (),
) -> LoadReport:
    """Fill the tensors of `module` except `kept`.

    Args:
        module: unchanged if this fails.
        state: the tensors.
        name: the source in error messages.
        translate: key of the state -> ours, or None for an unused key.
        kept: our tensors that keep their values.

    Raises:
        ValueError: a tensor has another shape, or less than 95 % are filled.
    """
    ours = module.state_dict()
    found: dict[str, Tensor] = {}
    unexpected, reshaped = [], []
    for theirs, tensor in state.items():
        key = translate(theirs)
        if key is None or key in kept:
            continue
        if key not in ours:
            unexpected.append(theirs)
            continue
        shape = ours[key].shape
        if tensor.shape != shape:
            reshaped.append(key)
            if len(shape) == 4 and tensor.shape == (shape[0], 3, *shape[2:]):
                from timm.models import adapt_input_conv  # importing timm takes seconds

                tensor = adapt_input_conv(shape[1], tensor)  # summed for 1 channel, else repeated and scaled
            elif not (key.endswith(TABLE) and table_fits(tensor.shape, shape[0])):
                if tensor.squeeze().shape != ours[key].squeeze().shape:
                    raise ValueError(
                        f"{name}: {theirs} has shape {tuple(tensor.shape)}, our {key} {tuple(shape)}: "
                        "is it another variant?"
                    )
                tensor = tensor.reshape(shape)
        found[key] = tensor
    missing = tuple(key for key in ours if key not in found)
    scope = [key for key in ours if key not in kept]
    if len(found) < ENOUGH * len(scope):
        empty = [key for key in missing if key not in kept]
        raise ValueError(
            f"{name} fills {len(found)} of our {len(scope)} tensors, not {', '.join(empty[:3])}"
            f"{', …' if len(empty) > 3 else ''}: it is incomplete or another network"
        )
    module.load_state_dict(found, strict=False)
    return LoadReport(tuple(found), missing, tuple(unexpected), tuple(reshaped))
