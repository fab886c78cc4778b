"""Open any model for inference: a weights file, a bundled name, the hub, a model in memory, or an exported file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cgrseg._process import keep_memory
from cgrseg.description import Description
from cgrseg.images.files import refuse_not_utf8
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.nn.model import check_images
from cgrseg.preprocessing import Size
from cgrseg.weights.load import computes_bf16, find_weights, load

from .cache import converted
from .runtimes import OnnxNetwork, OpenVINONetwork, RuntimeUnusable

Runtime = Literal["auto", "torch", "onnx", "openvino"]
SUFFIXES: dict[str, str] = {"openvino": ".xml", "onnx": ".onnx"}  # the faster one on a CPU first
DIGEST_KEY = "cgrseg_bin"  # in OpenVINO files: of the .bin
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready to run.

    Args:
        run: images of the given device, type and memory format -> logits.
        description: of the model.
        runtime: "torch", "onnx" or "openvino".
        device, dtype, layout: of the input of `run`.
        size: the only (height, width) it accepts, or None for any.
        path: the exported file.

    Shape: images float [B, C, H, W], H, W >= 32 -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉].
    """

    run: Callable[[Tensor], Tensor]
    description: Description
    runtime: str = "torch"
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    size: Size | None = None
    path: Path | None = None

    def __call__(self, images: Tensor) -> Tensor:
        check_images(images, self.description.spec.in_channels)
        size = (images.shape[2], images.shape[3])
        if self.size is not None and size != self.size:
            raise ValueError(
                f"{self.path} accepts only {self.size[0]}x{self.size[1]} pixels, not {size[0]}x{size[1]}: export it "
                "with that --size, or from weights with bias mode relative"
            )
        return self.run(images.to(self.device, self.dtype, memory_format=self.layout))

    def set_streams(self, streams: int) -> None:
        """Prepare for calls from this many threads at the same time; it makes a difference in OpenVINO on a CPU."""
        if isinstance(self.run, OpenVINONetwork):
            self.run.set_streams(streams)

    @classmethod
    def of(cls, model: CGRSeg, *, layout: torch.memory_format = torch.contiguous_format) -> Network:
        """The model itself as a network, on its device and in its type, without folding."""
        weight = next(model.parameters())
        return cls(model, model.description, device=weight.device, dtype=weight.dtype, layout=layout)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode; afterwards every module has its previous mode."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def open_network(
    model: CGRSeg | str | os.PathLike[str],
    runtime: Runtime = "auto",
    device: str | torch.device = "auto",
    *,
    threads: int | None = None,
    bf16: bool = False,
) -> Network:
    """Open a model for inference.

    Args:
        model: a weights file, the name of bundled weights, "hf:USER/NAME", a file or folder of `cgrseg export`, or a
            model. A model is not changed: a folded copy is used (`cgrseg.nn.fusion.fuse`).
        runtime: "auto" uses the fastest: of an exported file its own; of a folder the fastest installed one; for
            weights on a CPU OpenVINO if it is installed (they are converted once, see `cgrseg.inference.cache`; set the
            environment variable CGRSEG_RUNTIME=torch to prevent this), otherwise "torch". Models in memory run in
            "torch".
        device: "auto" uses the GPU if there is one, and leaves a model on its device; or "cpu", "cuda:1", "gpu"
            (OpenVINO), ….
        threads: CPU threads of the runtime (of "torch": of the whole process); None leaves them unchanged.
        bf16: compute in bfloat16, if the device has it: faster, and labels change where two classes are almost equal.

    Raises:
        ValueError: the runtime does not fit the file or is not installed, or the device or bfloat16 is not available.
        OSError: the file cannot be read.
    """
    if runtime not in get_args(Runtime):
        raise ValueError(f"no runtime is called {runtime!r}: choose from {', '.join(get_args(Runtime))}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}: it must be at least 1")
    exported = None if isinstance(model, CGRSeg) else find_exported(model, runtime)
    if exported is not None:
        return open_exported(exported, device, threads=threads, bf16=bf16)
    if not isinstance(model, CGRSeg) and runtime in ("auto", "openvino") and _prefers_openvino(runtime, device):
        path = converted(find_weights(model))
        if path is not None:
            return open_exported(path, device, threads=threads, bf16=bf16)
    if runtime not in ("auto", "torch"):
        raise ValueError(
            f'runtime "{runtime}" opens exported files, and this is a torch model: '
            f"export it with cgrseg export --weights FILE --format {runtime} --out DIR"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    if not isinstance(model, CGRSeg):
        model = load(model, device)
        device = "auto"
    if device == "auto":
        device = next(model.parameters()).device
    keep_memory()
    with evaluation_mode(model):
        folded = fuse(model).to(device).to(memory_format=torch.channels_last)
    if bf16:
        place = next(folded.parameters()).device
        if not computes_bf16(place):
            raise ValueError(f"device {str(place)!r} has no bfloat16 arithmetic: leave bf16 out")
        folded = folded.to(torch.bfloat16)
    return Network.of(folded, layout=torch.channels_last)


def _prefers_openvino(runtime: str, device: str | torch.device) -> bool:
    """Whether weights are to run in OpenVINO: on request, or on a CPU if it is installed."""
    if runtime == "openvino":
        require(runtime)
        return True
    on_cpu = str(device) == "cpu" or (device == "auto" and not torch.cuda.is_available())
    return on_cpu and installed("openvino") and os.environ.get("CGRSEG_RUNTIME", "auto") == "auto"


def find_exported(path: str | os.PathLike[str], runtime: Runtime = "auto") -> Path | None:
    """The exported file that a path means: itself, or of a folder the one of the fastest installed runtime.

    None if the path is neither.

    Raises:
        ValueError: the folder has no such file or several, or the file belongs to another runtime.
    """
    path = Path(path)
    if path.is_dir():
        wanted = [name for name in SUFFIXES if runtime == name or (runtime == "auto" and installed(name))]
        for name in wanted:
            found = [
                file
                for file in sorted(path.glob(f"*{SUFFIXES[name]}"))
                if not file.stem.endswith((".image", ".int8")) and not file.name.startswith(".")
            ]
            if len(found) > 1:
                raise ValueError(f"{path} has {len(found)} {SUFFIXES[name]} files: name one, such as {found[0]}")
            if found:
                return found[0]
        if runtime in ("auto", "torch"):
            return None
        raise ValueError(f"{path} has no {SUFFIXES[runtime]} file: export one with `cgrseg export --out {path}`")
    if path.suffix == ".pt2":
        raise ValueError(f"{path} is a torch.export program, which only torch itself opens: use a .onnx or .xml file")
    if path.suffix not in SUFFIXES.values():
        return None
    if runtime != "auto" and SUFFIXES.get(runtime) != path.suffix:
        raise ValueError(f'{path} does not run in "{runtime}": leave the runtime out')
    return path


def installed(runtime: str) -> bool:
    """Whether the package of a runtime is installed."""
    return find_spec({"onnx": "onnxruntime"}.get(runtime, runtime)) is not None


def require(runtime: str) -> None:
    """Raise ValueError with the cure if a runtime is not installed."""
    if not installed(runtime):
        raise ValueError(f'runtime {runtime} is not installed: pip install "cgrseg[{runtime}]"')


def open_exported(
    path: str | os.PathLike[str], device: str | torch.device = "auto", *, threads: int | None = None, bf16: bool = False
) -> Network:
    """Open a file that `cgrseg export` wrote; arguments as in `open_network`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by this package or is damaged, takes image bytes as input, or its runtime is
            missing or lacks the device or bfloat16.
    """
    path = Path(path)
    runtime = next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if runtime is None:
        raise ValueError(f"{path} is not an exported file: these end in {', '.join(SUFFIXES.values())}")
    if not path.is_file():
        raise FileNotFoundError(f"no exported file at {path}")
    require(runtime)
    refuse_not_utf8(path, runtime)
    if bf16 and runtime != "openvino":
        raise ValueError(f"{path}: of exported files only OpenVINO's (.xml) run in bf16")
    run: OnnxNetwork | OpenVINONetwork
    try:
        if runtime == "onnx":
            run = OnnxNetwork(path, str(device), threads)
        else:
            run = OpenVINONetwork(path, str(device), threads, bf16)
            _check_weights(run.model, path)
        text = run.metadata
    except RuntimeUnusable:
        raise
    except Exception as error:  # each runtime has its own error types
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be opened by {runtime} ({line}): export it again") from error
    if not text:
        raise ValueError(f"{path} was not written by `cgrseg export`: it has no classes and preprocessing")
    try:
        table = json.loads(text)
        description = Description.from_dict(table["model"])
        io, size = table["io"], table["size"]
        if size is not None:
            height, width = size
            size = (int(height), int(width))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} has a wrong description ({error}): export it again") from error
    if io != "tensor":
        raise ValueError(f"{path} takes image bytes and is for programs without cgrseg: export it with --io tensor")
    if run.classes not in (None, description.spec.num_classes):
        raise ValueError(
            f"{path} describes {description.spec.num_classes} classes but has {run.classes} outputs: export it again"
        )
    return Network(run, description, runtime=runtime, size=size, path=path)


def weights_digest(path: Path) -> str:
    """SHA-256 of the .bin that belongs to an OpenVINO file."""
    with open(path.with_suffix(".bin"), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_weights(model: Any, path: Path) -> None:
    """OpenVINO itself accepts a .bin that is longer or has other content."""
    if model.has_rt_info(DIGEST_KEY) and str(model.get_rt_info(DIGEST_KEY).astype(str)) != weights_digest(path):
        raise RuntimeUnusable(
            f"{path.with_suffix('.bin')} is damaged or belongs to another {path.name}: copy both files again"
        )
