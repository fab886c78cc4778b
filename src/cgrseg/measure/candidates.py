"""Candidates of a benchmark: a model or file and how it runs, written as one word such as `cgrseg_t:openvino`."""

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

from cgrseg import rivals
from cgrseg._process import quiet
from cgrseg.deploy.export import export
from cgrseg.deploy.quantize import quantize_unverified
from cgrseg.description import ModelSpec
from cgrseg.inference.network import SUFFIXES, open_exported, require
from cgrseg.inference.runtimes import OpenVINONetwork, import_openvino
from cgrseg.nn import VARIANTS, CGRSeg, build
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Size
from cgrseg.weights import artifact
from cgrseg.weights.load import find_weights, usable_device

# How a model runs; the first is the default.
HOWS = {
    "channels_last": "folded, channels last: as in a Segmenter with torch",
    "fused": "folded",
    "eager": "as built",
    "naive": "as built, official bias mode; upsampling, softmax and argmax for the label map",
    "compiled": "folded, with torch.compile; on a GPU with CUDA graphs",
    "onnx": "exported, in ONNX Runtime",
    "openvino": "exported, in OpenVINO",
}
PRECISIONS = {"bf16": "bfloat16", "int8": "int8"}  # word -> precision, if not float32
CPU = torch.device("cpu")
RIVAL_HOWS = ("eager", "compiled", "openvino")


@dataclass(frozen=True)
class Settings:
    """What all candidates have in common.

    Args:
        size: (height, width) of the network's input.
        rounds: number of turns of each candidate.
        threads: CPU threads, on as many of the available cores.
        classes: of models with random weights.
        device: "auto", "cpu", "cuda", …
        max_batch: throughput is measured at the best of the batches 1, 2, 4, … up to this.

    Raises:
        ValueError: one of the numbers is below 1.
    """

    size: Size = (512, 512)
    rounds: int = 20
    threads: int = 1
    classes: int = 150
    device: str = "auto"
    max_batch: int = 16

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", "classes", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
class Choice:
    """What is measured.

    Args:
        name: a variant, a rival (`rivals.NAMES`), a weights file, bundled weights, or an exported file.
        how: of `HOWS`; "file" for an exported file.
        precision: "bf16", "int8" or "": float32, or that of the file.
    """

    name: str
    how: str
    precision: str = ""

    def __str__(self) -> str:
        words = (Path(self.name).name, "" if self.how == "file" else self.how, self.precision)
        return ":".join(word for word in words if word)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network that is ready to be measured.

    Args:
        network: images [B, 3, H, W] as `place` returns them -> logits [B, K, h, w].
        runtime: "torch", "onnx" or "openvino".
        precision: "float32", "bfloat16" or "int8".
        model: builds the network before folding and exporting, for counting operations.
        spec: of our models.
        device, layout: of the input.
        naive: its label map is computed by upsampling, softmax and argmax.
    """

    network: Callable[[Tensor], Tensor]
    runtime: str
    precision: str
    model: Callable[[], nn.Module]
    spec: ModelSpec | None = None
    device: torch.device = CPU
    layout: torch.memory_format = torch.contiguous_format
    naive: bool = False

    def place(self, images: Tensor) -> Tensor:
        """The images on the device, in the type and memory format of the network."""
        dtype = torch.bfloat16 if self.runtime == "torch" and self.precision == "bfloat16" else torch.float32
        return images.to(self.device, dtype, memory_format=self.layout)

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def parse(text: str) -> Choice:
    """NAME[:HOW][:PRECISION] as a `Choice`.

    Raises:
        ValueError: an unknown name, or one that cannot run like that or needs a missing package.
    """
    name, *words = text.split(":")
    while words and words[0] not in (*HOWS, *PRECISIONS) and Path(f"{name}:{words[0]}").exists():  # C:\\model.xml
        name = f"{name}:{words.pop(0)}"
    precisions = [word for word in words if word in PRECISIONS]
    hows = [word for word in words if word not in PRECISIONS]
    for word in hows:
        if word not in HOWS:
            known = ", ".join(difflib.get_close_matches(word, HOWS, n=1) or [*HOWS, *PRECISIONS])
            raise ValueError(f"{text}: nothing runs as {word!r}: choose from {known}")
    for alike in (hows, precisions):
        if len(alike) > 1:
            raise ValueError(f"{text}: {' and '.join(alike)} exclude each other: write one of them")
    precision = "".join(precisions)
    if Path(name).suffix in SUFFIXES.values():
        usable = [name, *([f"{name}:bf16"] if Path(name).suffix == SUFFIXES["openvino"] else [])]
        if hows or text not in usable:
            raise ValueError(f"{text}: an exported file runs in its own runtime: write {' or '.join(usable)}")
        return Choice(name, "file", precision)
    rival = name in rivals.NAMES
    if not rival and name not in VARIANTS:
        find_weights(name)  # raises for unknown names
    how = hows[0] if hows else ("eager" if rival else next(iter(HOWS)))
    if rival and how not in RIVAL_HOWS:
        raise ValueError(f"{text}: {name} runs as {', '.join(RIVAL_HOWS)}, not as {how}")
    if precision == "bf16" and how in ("onnx", "naive"):
        raise ValueError(f"{text}: bf16 is for models in torch and OpenVINO, not for {how}")
    if precision == "int8" and (rival or how != "openvino"):
        raise ValueError(f"{text}: int8 is for our models in OpenVINO: write for example cgrseg_t:openvino:int8")
    if rival:
        rivals.load_file(name)  # raises for missing libraries
    if how in ("onnx", "openvino"):
        require(how)
    return Choice(name, how, precision)


def prepare(choice: Choice, folder: Path, settings: Settings, photo: bytes) -> Path | None:
    """Create the file that a candidate is opened from, if it needs one: random weights, an exported model.

    Args:
        choice: the candidate.
        folder: for the files; files of other candidates are used again.
        settings: classes and size.
        photo: an image file that calibrates int8.

    Returns:
        The file; None for a rival in torch, which is built from its configuration.

    Raises:
        ValueError: the model cannot be exported.
        OSError: a file cannot be read or written.
    """
    if choice.how == "file":
        return Path(choice.name)
    if choice.name in rivals.NAMES:
        if choice.how != "openvino":
            return None
        path = folder / f"{choice.name}.xml"
        if not path.exists():
            to_openvino(_rival(choice.name, settings.classes), path, settings.size)
        return path
    weights = folder / f"{choice.name}.safetensors" if choice.name in VARIANTS else find_weights(choice.name)
    if choice.name in VARIANTS and not weights.exists():
        torch.manual_seed(0)
        artifact.save(build(choice.name, num_classes=settings.classes), weights)
    if choice.how not in ("onnx", "openvino"):
        return weights
    runtime: Literal["onnx", "openvino"] = "onnx" if choice.how == "onnx" else "openvino"
    int8 = choice.precision == "int8"
    name = f"{weights.stem}-{crc32(str(weights.resolve()).encode()):08x}"  # two runs both have a best.safetensors
    path = folder / f"{name}{'.int8' if int8 else ''}{SUFFIXES[runtime]}"
    if path.exists():
        return path
    model = artifact.load(weights)
    if int8:
        (folder / "photo").write_bytes(photo)
        return quantize_unverified(model, folder / "photo", folder, name=name)
    return export(model, folder, name=name, formats=[runtime], size=settings.size, batches=(1,))[0].path


def to_openvino(model: nn.Module, path: Path, size: Size) -> None:
    """Write a rival as OpenVINO IR in float32, for any batch of images of `size` (height, width).

    Raises:
        ValueError: OpenVINO cannot convert it.
    """
    openvino = import_openvino()
    example = torch.zeros(1, 3, *size)
    try:
        with quiet(), torch.no_grad():
            converted = openvino.convert_model(model.eval(), example_input=example, input=[-1, 3, *size])
    except Exception as error:  # the converter has its own error types
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"OpenVINO cannot convert {type(model).__name__} ({line}): run it as eager") from error
    openvino.save_model(converted, path, compress_to_fp16=False)


def open_candidate(choice: Choice, path: Path | None, settings: Settings) -> Candidate:
    """Open what `prepare` returned.

    Raises:
        ValueError: the file is not usable, or there is no such device.
        OSError: the file cannot be read.
    """
    bf16, rival = choice.precision == "bf16", choice.name in rivals.NAMES
    precision = PRECISIONS.get(choice.precision, "float32")
    if path is not None and path.suffix in SUFFIXES.values():
        if rival:
            network = OpenVINONetwork(path, settings.device, settings.threads, bf16)
            return Candidate(network, "openvino", precision, partial(_rival, choice.name, settings.classes))
        exported = open_exported(path, settings.device, threads=settings.threads, bf16=bf16)
        precision = "int8" if ".int8" in path.name else precision
        spec = exported.description.spec
        return Candidate(exported, exported.runtime, precision, partial(_shapes, spec), spec)
    device = usable_device(settings.device)
    if path is None:
        count = partial(_rival, choice.name, settings.classes)
        model = _compiled(count().to(device), choice, torch.contiguous_format)
        return Candidate(model, "torch", precision, count, device=device)
    spec = artifact.describe(path).spec
    naive = choice.how == "naive"
    if naive:
        spec = dataclasses.replace(spec, bias_mode="official")
    own = artifact.load(path, device, spec=spec)
    layout = torch.channels_last if choice.how in ("channels_last", "compiled") else torch.contiguous_format
    model = _compiled(own if choice.how in ("eager", "naive") else fuse(own), choice, layout)
    return Candidate(model, "torch", precision, partial(_shapes, spec), spec, device, layout, naive)


def _compiled(model: nn.Module, choice: Choice, layout: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """The model in the candidate's type and memory format, compiled if the candidate is."""
    if choice.precision == "bf16":
        model = model.to(torch.bfloat16)
    model = model.to(memory_format=layout)
    if choice.how != "compiled":
        return model
    on_gpu = next(model.parameters()).is_cuda
    return torch.compile(model, mode="reduce-overhead" if on_gpu else None)


def _rival(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    with quiet():
        return rivals.build(name, classes).eval().requires_grad_(False)


def _shapes(spec: ModelSpec) -> nn.Module:
    """The model on the meta device."""
    with torch.device("meta"):
        return CGRSeg(spec=spec).eval()
