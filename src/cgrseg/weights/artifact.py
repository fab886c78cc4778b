"""One .safetensors file is a whole model: the tensors, and in the metadata its `Description`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cgrseg.description import EDITED, Description, ModelSpec
from cgrseg.images.files import atomic_write, utf8_path
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg
from cgrseg.nn.backbones.attention_bias import table_fits
from cgrseg.nn.fusion import FusedCGRSeg
from cgrseg.preprocessing import Preprocessing

# Everything is stored under one metadata key: safetensors writes several keys in random order, and equal models
# shall give equal files.
METADATA_KEY = "cgrseg"
FLOATS = {"F16", "BF16", "F32", "F64"}
Pathlike = str | os.PathLike[str]


def save(
    model: nn.Module,
    path: Pathlike,
    *,
    labels: LabelSpace | None = None,
    preprocessing: Preprocessing | None = None,
    card: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a model to one file, atomically. Equal models give equal bytes.

    Args:
        model: a CGRSeg on any device and in any mode, also wrapped by DDP, Fabric or torch.compile.
        path: an existing file is replaced.
        labels: None uses the model's own.
        preprocessing: None uses the model's own.
        card: None uses the model's own.
        half: store kernels as float16, which halves the file. Per-channel values (norms, running statistics,
            biases, scales) stay float32, and so does a kernel that float16 cannot represent.

    Raises:
        ValueError: the model is not a CGRSeg, `labels` has another length, or a weight is not finite.
        OSError: the file cannot be written.
    """
    model = _unwrapped(model)
    parts = {"labels": labels, "preprocessing": preprocessing, "card": None if card is None else dict(card)}
    given: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    description = dataclasses.replace(model.description, **given)
    tensors = {key: _stored(tensor, half=half) for key, tensor in model.state_dict().items()}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{os.fspath(path)} is not written: {key} has values that are not finite (NaN, infinity)")
    try:
        with atomic_write(path, durable=True) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # of the user's umask; safetensors would make the file private
            save_file(tensors, temporary, metadata={METADATA_KEY: description.to_json()})
            temporary.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{os.fspath(path)} cannot be written: {_line(error)}") from error


def load(path: Pathlike, device: str | torch.device = "cpu", *, spec: ModelSpec | None = None) -> CGRSeg:
    """Read a model from a file that `save` wrote: float32, evaluation mode, with its description.

    Args:
        path: the file.
        device: where the model is placed.
        spec: build this spec instead of the file's; its tensors must be the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a weights file of this package, is damaged, or its tensors do not fit the spec.
            Nothing in it is unpickled or run.
    """
    description = describe(path)
    spec = spec or description.spec
    name = os.fspath(path)
    try:
        with utf8_path(name) as opened, safe_open(opened, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            model = _empty(spec, shapes, name)
            tensors: dict[str, Tensor] = {}
            for key, ours in model.state_dict().items():
                kind = slices[key].get_dtype()
                if kind not in (FLOATS if ours.is_floating_point() else {"I64"}):
                    raise ValueError(f"{name}: tensor {key} has type {kind}: {EDITED}")
                # The file is memory-mapped: copy, so that the model does not depend on it.
                tensors[key] = file.get_tensor(key).to(ours.dtype, copy=True)
                if not tensors[key].isfinite().all():
                    raise ValueError(
                        f"{name}: tensor {key} has values that are not finite (NaN, infinity), so every prediction "
                        "would be wrong: use weights from before the training diverged"
                    )
    except SafetensorError as error:
        raise ValueError(_damaged(name, error)) from error
    model.load_state_dict(tensors, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # some timm encoders compute buffers they do not store
        model = CGRSeg(spec=spec)
        model.load_state_dict(tensors)
    model.description = dataclasses.replace(description, spec=spec)
    return model.to(device).eval()


def describe(path: Pathlike) -> Description:
    """Read the description in a weights file, without its tensors.

    Raises:
        FileNotFoundError, ValueError: as in `load`.
    """
    name = os.fspath(path)
    kind = file_kind(name)
    if kind == "pickle":
        target = Path(name).with_suffix(".safetensors")
        target = target.with_stem(f"{target.stem}-converted") if target == Path(name) else target
        raise ValueError(f"{name} is a pickled PyTorch file; convert it first: cgrseg convert {name} --out {target}")
    if kind == "unknown":
        raise ValueError(f"{name} is not a weights file: give a .safetensors file that cgrseg wrote")
    text = _metadata(name)
    if text is None:
        raise ValueError(
            f"{name} has no description of a cgrseg model, so it belongs to another project: convert a released "
            "checkpoint or a state dict with `cgrseg convert`"
        )
    try:
        return Description.from_json(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def has_description(path: Pathlike) -> bool:
    """Whether `save` wrote the file, judged by its metadata.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is empty, or it is damaged.
    """
    name = os.fspath(path)
    return file_kind(name) == "safetensors" and _metadata(name) is not None


def _metadata(name: str) -> str | None:
    try:
        with utf8_path(name) as opened, safe_open(opened, framework="pt") as file:
            return (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise ValueError(_damaged(name, error)) from error


def file_kind(name: str) -> Literal["safetensors", "pickle", "unknown"]:
    """The kind of a file by its first bytes.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is a folder, or it is empty.
    """
    if os.path.isdir(name):
        raise ValueError(f"{name} is a folder: give the weights file itself")
    if not os.path.exists(name):
        raise FileNotFoundError(f"no weights file at {name}")
    if not os.path.isfile(name):
        raise ValueError(f"{name} is not a regular file: give a weights file")
    with open(name, "rb") as file:
        head = file.read(9)
    if not head:
        raise ValueError(f"{name} is empty (0 bytes): copy or download it again")
    if head[8:] == b"{":  # after 8 bytes with the length of the header
        return "safetensors"
    return "pickle" if head.startswith((b"PK\x03\x04", b"\x80")) else "unknown"


def _empty(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]], name: str) -> CGRSeg:
    """The model without memory, after checking that the file's shapes fit it."""
    if spec.context_blocks > len(shapes):  # a damaged number would build modules for hours
        raise ValueError(f"{name}: {len(shapes)} tensors are too few for {spec.context_blocks} context blocks")
    try:
        with torch.device("meta"):
            model = CGRSeg(spec=spec)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: its model cannot be built: {_line(error)}") from error
    ours = model.state_dict()
    for key, tensor in ours.items():
        if key in shapes and shapes[key] != tuple(tensor.shape):
            if key.endswith("bias.table") and table_fits(shapes[key], tensor.shape[0]):
                continue
            theirs, needed = shapes[key], tuple(tensor.shape)
            raise ValueError(f"{name}: tensor {key} has shape {theirs}, the model needs {needed}: {EDITED}")
    missing = [key for key in ours if key not in shapes]
    unexpected = [key for key in shapes if key not in ours]
    if missing:
        raise ValueError(f"{name} lacks {len(missing)} of {len(ours)} tensors, first {missing[0]}: {EDITED}")
    if unexpected:
        raise ValueError(f"{name} has {len(unexpected)} unknown tensors, first {unexpected[0]}: {EDITED}")
    return model


def _unwrapped(model: nn.Module) -> CGRSeg:
    inner: Any = model
    while not isinstance(inner, CGRSeg):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"a {type(model).__name__} cannot be saved as weights: give the CGRSeg model")
    if isinstance(inner, FusedCGRSeg):
        raise ValueError("a fused model cannot be saved as weights: save the original model")
    return inner


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor.to("cpu", copy=True).contiguous()
    tensor = tensor.to("cpu", torch.float32, copy=True).contiguous()
    if half and tensor.squeeze().ndim > 1:
        rounded = tensor.half()
        if torch.allclose(rounded.float(), tensor, rtol=0, atol=tensor.abs().max().item() * 2**-10):
            return rounded
    return tensor


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged or incomplete ({_line(error)}): copy or download it again"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
