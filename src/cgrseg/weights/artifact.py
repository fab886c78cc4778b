"""One .safetensors file is a whole model: its tensors, and in the metadata all that is needed to use them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cgrseg.images.files import atomic_write
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, ModelSpec
from cgrseg.nn.backbones.attention_bias import table_fits
from cgrseg.nn.fusion import FusedCGRSeg
from cgrseg.preprocessing import Preprocessing

FORMAT = 1
# Everything stands under one metadata key, as JSON: safetensors writes several keys in random order, and
# equal models shall give equal files.
METADATA_KEY = "cgrseg"
EDITED = "the file is damaged, was edited, or is of another model"
FLOATS = {"F16", "BF16", "F32", "F64"}
# The fields of a spec that hold other types than their defaults do.
NUMBERS: dict[str, tuple[type, ...]] = {
    "dropout": (float, int),
    "drop_path": (float, int, type(None)),
    "strip_kernel": (int, type(None)),
    "local_kernel": (int, type(None)),
}
Pathlike = str | os.PathLike[str]


@dataclass(frozen=True)
class Description:
    """What a weights file says about its model.

    Args:
        spec: decides the tensors and the arithmetic.
        labels: one name and colour a class.
        preprocessing: how a photo becomes the network's input.
        card: where the numbers come from: data, recipe, scores, terms. Plain JSON values.
    """

    spec: ModelSpec
    labels: LabelSpace
    preprocessing: Preprocessing
    card: dict[str, Any]

    def to_json(self) -> str:
        """The text that a file of ours carries in its metadata."""
        table = {
            "format": FORMAT,
            "spec": dataclasses.asdict(self.spec),
            "labels": self.labels.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "card": self.card,
        }
        return json.dumps(table, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is damaged, or a newer version wrote it.
        """
        try:
            return _parse(text)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(_line(error)) from error


def describe_model(model: CGRSeg) -> Description:
    """What a model says about itself; numbered classes, default preprocessing and an empty card where it doesn't."""
    labels = getattr(model, "labels", None) or LabelSpace.numbered(model.spec.num_classes)
    preprocessing = getattr(model, "preprocessing", None) or Preprocessing()
    return Description(model.spec, labels, preprocessing, dict(getattr(model, "card", {})))


def save(
    model: nn.Module,
    path: Pathlike,
    *,
    labels: LabelSpace | None = None,
    preprocessing: Preprocessing | None = None,
    card: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a model to one file, which appears whole or not at all. Equal models give equal bytes.

    Args:
        model: a CGRSeg on any device and in any mode, also inside DDP, Fabric or torch.compile.
        path: where to; a file there is replaced.
        labels, preprocessing, card: None takes what the model carries, else numbered classes, the default
            preprocessing and an empty card.
        half: store kernels as float16, which halves the file. What is one number a channel (norms, running
            statistics, biases, scales) stays float32, and so does a kernel that float16 would distort.

    Raises:
        ValueError: the model is no CGRSeg, or `labels` has another length than the model has classes.
        OSError: the file can't be written.
    """
    model = _unwrapped(model)
    classes = model.spec.num_classes
    labels = labels or getattr(model, "labels", None) or LabelSpace.numbered(classes)
    if len(labels) != classes:
        raise ValueError(
            f"the model has {classes} classes but the class list {len(labels)}: give the list of its training"
        )
    preprocessing = preprocessing or getattr(model, "preprocessing", None) or Preprocessing()
    card = dict(getattr(model, "card", {}) if card is None else card)
    metadata = {METADATA_KEY: Description(model.spec, labels, preprocessing, card).to_json()}
    tensors = {key: _stored(tensor, half=half) for key, tensor in model.state_dict().items()}
    try:
        with atomic_write(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # what the user's umask says; safetensors would shut others out
            save_file(tensors, temporary, metadata=metadata)
            temporary.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{os.fspath(path)} can't be written: {_line(error)}") from error


def load(path: Pathlike, device: str | torch.device = "cpu", *, spec: ModelSpec | None = None) -> CGRSeg:
    """Read a model from a file that `save` wrote: float32, evaluation mode, .labels, .preprocessing, .card.

    Args:
        path: the file.
        device: where the model goes.
        spec: build this instead of the file's own spec; its tensors must be the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no weights file of ours, is damaged, or its tensors don't fit the spec; the message
            says what it is and what to do. Nothing in it is ever unpickled or run.
    """
    description = describe(path)
    spec = spec or description.spec
    name = os.fspath(path)
    try:
        with safe_open(name, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            model = _empty(spec, shapes, name)
            tensors: dict[str, Tensor] = {}
            for key, ours in model.state_dict().items():
                kind = slices[key].get_dtype()
                if kind not in (FLOATS if ours.is_floating_point() else {"I64"}):
                    raise ValueError(f"{name}: tensor {key} has type {kind}: {EDITED}")
                # The file is memory-mapped: copy, so that nothing depends on it any more.
                tensors[key] = file.get_tensor(key).to(ours.dtype, copy=True)
    except SafetensorError as error:
        raise ValueError(_damaged(name, error)) from error
    model.load_state_dict(tensors, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # some timm encoders compute what they don't store
        model = CGRSeg(spec=spec)
        model.load_state_dict(tensors)
    model.labels = description.labels
    model.preprocessing = description.preprocessing
    model.card = description.card
    return model.to(device).eval()


def describe(path: Pathlike) -> Description:
    """Read what a weights file says about its model, without its tensors.

    Raises:
        FileNotFoundError, ValueError: as in `load`.
    """
    name = os.fspath(path)
    kind = file_kind(name)
    if kind == "pickle":
        raise ValueError(
            f"{name} is a pickled PyTorch file; convert it first: cgrseg convert {name} --out "
            f"{Path(name).with_suffix('.safetensors')}"
        )
    if kind == "unknown":
        raise ValueError(f"{name} is not a weights file: give a .safetensors file that cgrseg wrote")
    try:
        with safe_open(name, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise ValueError(_damaged(name, error)) from error
    if text is None:
        raise ValueError(
            f"{name} holds no description of a cgrseg model, so it belongs to another project: released "
            "CGRSeg checkpoints go through `cgrseg convert`, ImageNet encoders through adapters.load_encoder"
        )
    try:
        return Description.from_json(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def is_ours(path: Pathlike) -> bool:
    """Whether a file is one that `save` wrote, by its metadata.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is empty, or it is damaged.
    """
    name = os.fspath(path)
    if file_kind(name) != "safetensors":
        return False
    try:
        with safe_open(name, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(_damaged(name, error)) from error


def file_kind(name: str) -> Literal["safetensors", "pickle", "unknown"]:
    """What a file is by its first bytes.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is a folder, or it is empty.
    """
    if os.path.isdir(name):
        raise ValueError(f"{name} is a folder: give the weights file itself")
    if not os.path.exists(name):
        raise FileNotFoundError(f"no weights file at {name}")
    with open(name, "rb") as file:
        head = file.read(9)
    if not head:
        raise ValueError(f"{name} is empty (0 bytes): copy or download it again")
    if head[8:] == b"{":  # after the header's length in 8 bytes
        return "safetensors"
    return "pickle" if head.startswith((b"PK\x03\x04", b"\x80")) else "unknown"


def _parse(text: str) -> Description:
    table = json.loads(text)
    version = table["format"]
    if type(version) is not int or version < 1:
        raise ValueError(f"its format is {version!r}: {EDITED}")
    if version > FORMAT:
        raise ValueError(f"a newer cgrseg wrote it (format {version}, this one reads {FORMAT}): upgrade this one")
    spec = _parse_spec(table["spec"])
    labels = LabelSpace.from_dict(table["labels"])
    if len(labels) != spec.num_classes:
        raise ValueError(
            f"its class list names {len(labels)} classes, its model tells {spec.num_classes} apart: {EDITED}"
        )
    return Description(spec, labels, Preprocessing.from_dict(table["preprocessing"]), dict(table["card"]))


def _parse_spec(table: dict[str, Any]) -> ModelSpec:
    defaults = dataclasses.asdict(ModelSpec())
    for field, value in table.items():
        if field not in defaults:
            raise ValueError(f"this cgrseg doesn't know the model option {field!r}: upgrade cgrseg")
        allowed: Any = NUMBERS.get(field, type(defaults[field]))
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
            raise ValueError(f"its model option {field} is {value!r}: {EDITED}")
    return ModelSpec(**table)


def _empty(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]], name: str) -> CGRSeg:
    """The model without memory, once the file's shapes are known to fit it."""
    if spec.context_blocks > len(shapes):  # before a damaged number builds modules for hours
        raise ValueError(f"{name}: {len(shapes)} tensors are too few for {spec.context_blocks} context blocks")
    try:
        with torch.device("meta"):
            model = CGRSeg(spec=spec)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: its model can't be built: {_line(error)}") from error
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
        raise ValueError(f"{name} has {len(unexpected)} tensors too many, first {unexpected[0]}: {EDITED}")
    return model


def _unwrapped(model: nn.Module) -> CGRSeg:
    inner: Any = model
    while not isinstance(inner, CGRSeg):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"a {type(model).__name__} can't be saved as weights: give the CGRSeg model")
    if isinstance(inner, FusedCGRSeg):
        raise ValueError("a fused model can't be saved as weights: save the model that it was made from")
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
    return f"{name} is damaged or cut short ({_line(error)}): copy or download it again"


def _line(error: Exception) -> str:
    """The error in one line; one that was not raised to be read also says of what kind it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | SafetensorError) else f"{type(error).__name__} {text}"
