"""What can stand under the clock: a model or file, and how it is run, in one word: `cgrseg_t:openvino`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from cgrseg.inference.runtimes import SUFFIXES, open_exported, require
from cgrseg.nn import VARIANTS, CGRSeg, ModelSpec, build
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Size
from cgrseg.weights import artifact
from cgrseg.weights.load import create_model, find_weights, usable_device

from . import peers

# How a model is run -> what that means; the first is what is done where nothing is said.
HOWS = {
    "channels_last": "folded, channels last in memory: what a Segmenter does",
    "fused": "folded",
    "eager": "as it is built",
    "naive": "as it is built, official bias mode; upsample, softmax and argmax for the label map",
    "compiled": "folded, through torch.compile; on a GPU with CUDA graphs",
    "onnx": "exported, in ONNX Runtime",
    "openvino": "exported, in OpenVINO",
}
PRECISIONS = {"bf16": "bfloat16", "int8": "int8"}  # word of a contender -> what it computes in, where not float32
CPU = torch.device("cpu")
PEER_HOWS = ("eager", "compiled", "openvino")
Target = Literal["onnx", "openvino"]
Export = Callable[[CGRSeg, Target, Path, str, bool], Path]  # (model, runtime, folder, name, int8) -> what was written


@dataclass(frozen=True)
class Choice:
    """What is to be measured.

    Args:
        name: a variant, a peer, a weights file, bundled weights, or an exported file.
        how: of `HOWS`; "file" for an exported file.
        precision: "bf16", "int8" or nothing: float32, or what a file is.
    """

    name: str
    how: str
    precision: str = ""

    def __str__(self) -> str:
        words = (Path(self.name).name, "" if self.how == "file" else self.how, self.precision)
        return ":".join(word for word in words if word)


@dataclass(frozen=True, eq=False)
class Contender:
    """A network that is ready to run.

    Args:
        network: images [B, 3, H, W] as `place` returns them -> logits [B, K, h, w].
        classes: K.
        device, dtype, layout: of its input.
        runtime: what computes: "torch", "onnx" or "openvino".
        precision: "float32", "bfloat16" or "int8".
        model: builds the network as it is before folding and exporting, for counting.
        spec: what was built, if it is ours.
        naive: its label map is made by upsampling, softmax and argmax.
    """

    network: Callable[[Tensor], Tensor]
    classes: int
    runtime: str
    precision: str
    model: Callable[[], nn.Module]
    spec: ModelSpec | None = None
    device: torch.device = CPU
    layout: torch.memory_format = torch.contiguous_format
    naive: bool = False

    def place(self, images: Tensor) -> Tensor:
        """The images where and as the network takes them."""
        dtype = torch.bfloat16 if self.runtime == "torch" and self.precision == "bfloat16" else torch.float32
        return images.to(self.device, dtype, memory_format=self.layout)

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def parse(text: str) -> Choice:
    """NAME[:HOW][:PRECISION] as a `Choice`.

    Raises:
        ValueError: no such name, or one that can't be run like that or needs a package that is missing.
    """
    name, *words = text.split(":")
    while words and words[0] not in (*HOWS, *PRECISIONS) and Path(f"{name}:{words[0]}").exists():  # C:\model.xml
        name = f"{name}:{words.pop(0)}"
    precision = next((word for word in words if word in PRECISIONS), "")
    hows = [word for word in words if word not in PRECISIONS]
    for word in hows:
        if word not in HOWS:
            close = difflib.get_close_matches(word, HOWS, n=1)
            known = ", ".join(close or [*HOWS, *PRECISIONS])
            raise ValueError(f"{text}: nothing runs as {word!r}: choose from {known}")
    for alike in (hows, [word for word in words if word in PRECISIONS]):
        if len(alike) > 1:
            raise ValueError(f"{text}: {' and '.join(alike)} exclude each other: write one of them")
    if Path(name).suffix in SUFFIXES.values():
        usable = [name, *([f"{name}:bf16"] if Path(name).suffix == SUFFIXES["openvino"] else [])]
        if hows or text not in usable:
            raise ValueError(f"{text}: an exported file runs in its own runtime: write {' or '.join(usable)}")
        return Choice(name, "file", precision)
    peer = name in peers.PEERS
    if not peer and name not in VARIANTS:
        find_weights(name)  # which words what is wrong
    how = hows[0] if hows else ("eager" if peer else next(iter(HOWS)))
    if peer and how not in PEER_HOWS:
        raise ValueError(f"{text}: {name} runs as {', '.join(PEER_HOWS)}, not as {how}")
    if precision == "bf16" and how in ("onnx", "naive"):
        raise ValueError(f"{text}: bf16 is for models in torch and OpenVINO, not for {how}")
    if precision == "int8" and (peer or how != "openvino"):
        raise ValueError(f"{text}: int8 is for models of ours in OpenVINO: write such as cgrseg_t:openvino:int8")
    if peer:
        peers.require_peer(name)
    if how in ("onnx", "openvino"):
        require(how)
    return Choice(name, how, precision)


def prepare(choice: Choice, folder: Path, *, classes: int, size: Size, export: Export) -> Path | None:
    """Make the file that a choice is opened from, if need be: random weights, an exported model.

    Args:
        folder: for the files; what is there already from another choice is used again.
        classes: of models with random weights.
        size: (height, width) that a peer is exported for.
        export: how our models are exported; see `Export`.

    Returns:
        The file; None for a peer in torch, which is built from its configuration.

    Raises:
        ValueError: the model can't be exported.
        OSError: a file can't be read or written.
    """
    if choice.how == "file":
        return Path(choice.name)
    if choice.name in peers.PEERS:
        if choice.how != "openvino":
            return None
        path = folder / f"{choice.name}.xml"
        if not path.exists():
            peers.to_openvino(peers.build_peer(choice.name, classes), path, size)
        return path
    weights = _weights(choice.name, folder, classes)
    if choice.how not in ("onnx", "openvino"):
        return weights
    runtime: Target = "onnx" if choice.how == "onnx" else "openvino"
    int8 = choice.precision == "int8"
    name = f"{weights.stem}-{crc32(str(weights.resolve()).encode()):08x}"  # two runs have a best.safetensors each
    path = folder / f"{name}{'.int8' if int8 else ''}{SUFFIXES[runtime]}"
    return path if path.exists() else export(artifact.load(weights), runtime, folder, name, int8)


def _weights(name: str, folder: Path, classes: int) -> Path:
    if name not in VARIANTS:
        return find_weights(name)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        artifact.save(build(name, num_classes=classes), path)
    return path


def open_contender(
    choice: Choice, path: Path | None, *, classes: int, device: str = "auto", threads: int | None = None
) -> Contender:
    """Load what `prepare` made.

    Args:
        path: what `prepare` returned.
        classes: of a peer.
        device: "auto", "cpu", "cuda", "cuda:1", …
        threads: CPU threads of the exported files' runtimes.

    Raises:
        ValueError: the file is not usable, or there is no such device.
        OSError: the file can't be read.
    """
    if choice.name in peers.PEERS:
        return _open_peer(choice, path, classes=classes, device=device, threads=threads)
    assert path is not None
    if path.suffix in SUFFIXES.values():
        exported = open_exported(path, device, threads=threads, bf16=choice.precision == "bf16")
        precision = "int8" if ".int8" in path.name else _precision(choice)
        spec = exported.spec
        return Contender(exported, spec.num_classes, exported.runtime, precision, partial(_shapes, spec), spec)
    return _open_weights(choice, path, usable_device(device))


def _open_weights(choice: Choice, path: Path, device: torch.device) -> Contender:
    stored = artifact.describe(path).spec
    fields = {"bias_mode": "official"} if choice.how == "naive" else {}
    model = create_model(stored.name, stored.num_classes, path, **fields).eval().to(device)
    spec, count = model.spec, partial(_shapes, model.spec)
    layout = torch.contiguous_format
    if choice.how in ("fused", "channels_last", "compiled"):
        model = fuse(model)
    if choice.how in ("channels_last", "compiled"):
        layout = torch.channels_last
    network = _in_torch(model, choice, device, layout)
    naive = choice.how == "naive"
    return Contender(network, spec.num_classes, "torch", _precision(choice), count, spec, device, layout, naive)


def _open_peer(choice: Choice, path: Path | None, *, classes: int, device: str, threads: int | None) -> Contender:
    count = partial(peers.build_peer, choice.name, classes)
    if path is not None:
        network = peers.open_openvino(path, device, threads, choice.precision == "bf16")
        return Contender(network, classes, "openvino", _precision(choice), count)
    place = usable_device(device)
    network = _in_torch(count().to(place), choice, place, torch.contiguous_format)
    return Contender(network, classes, "torch", _precision(choice), count, device=place)


def _precision(choice: Choice) -> str:
    return PRECISIONS.get(choice.precision, "float32")


def _shapes(spec: ModelSpec) -> nn.Module:
    """The model without its numbers."""
    with torch.device("meta"):
        return build(**dataclasses.asdict(spec)).eval()


def _in_torch(
    model: nn.Module, choice: Choice, device: torch.device, layout: torch.memory_format
) -> Callable[[Tensor], Tensor]:
    """The model as it is called under the clock."""
    if choice.precision == "bf16":
        model = model.to(torch.bfloat16)
    model = model.to(memory_format=layout)
    if choice.how != "compiled":
        return model
    return torch.compile(model, mode="reduce-overhead" if device.type == "cuda" else None)
