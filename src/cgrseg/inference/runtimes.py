"""Exported files under one face: ONNX Runtime, OpenVINO and torch.export behave as the model they came from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cgrseg.nn.model import check_images
from cgrseg.preprocessing import Size
from cgrseg.weights.artifact import Description

from .openvino import OpenVINONetwork, Unusable
from .programs import PACKAGE, open_package, read_program

Runtime = Literal["auto", "torch", "onnx", "openvino"]
SUFFIXES: dict[Runtime, str] = {"openvino": ".xml", "onnx": ".onnx", "torch": ".pt2"}  # the fastest on a CPU first
METADATA_KEY = "cgrseg"  # inside .onnx and .xml
Run = Callable[[Tensor], Tensor]


class ExportedNetwork(nn.Module):
    """A file that `cgrseg export` wrote, called as the model it came from.

    Args:
        path: the file.
        runtime: "torch", "onnx" or "openvino".
        description: what the file says about its model.
        size: the only (height, width) that it takes, or None for any.
        run: images float32 on the CPU -> logits.

    Shape: images float [B, 3, H, W], H, W >= 32 -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉].
    """

    def __init__(self, *, path: Path, runtime: str, description: Description, size: Size | None, run: Run) -> None:
        super().__init__()
        self.path, self.runtime, self.size, self._run = path, runtime, size, run
        self.spec, self.labels = description.spec, description.labels
        self.preprocessing, self.card = description.preprocessing, description.card
        # Empty: whoever asks a model's parameters for device and type gets the answer of this one's inputs.
        self.inputs = nn.Parameter(torch.empty(0), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        size = (images.shape[2], images.shape[3])
        if self.size is not None and size != self.size:
            raise ValueError(
                f"{self.path} takes {self.size[0]}x{self.size[1]} pixels only, not {size[0]}x{size[1]}: export it "
                "with that --size, or from weights whose bias mode is relative"
            )
        return self._run(images)


def find_exported(path: str | os.PathLike[str], runtime: Runtime = "auto") -> Path | None:
    """The exported file that a path means: itself, or the fastest of a folder whose runtime is installed.

    None where the path is neither.

    Raises:
        ValueError: the folder holds no such file or several, or the file belongs to another runtime.
    """
    path = Path(path)
    if path.is_dir():
        wanted = [name for name in SUFFIXES if runtime in (name, "auto") and (runtime != "auto" or installed(name))]
        for name in wanted:
            found = [
                file
                for file in sorted(path.glob(f"*{SUFFIXES[name]}"))
                if not file.stem.endswith((".image", ".int8", Path(PACKAGE).stem)) and not file.name.startswith(".")
            ]
            if len(found) > 1:
                raise ValueError(f"{path} holds {len(found)} {SUFFIXES[name]} files: name one, such as {found[0]}")
            if found:
                return found[0]
        if runtime == "auto":
            return None
        kinds = " or ".join(SUFFIXES[name] for name in wanted)
        raise ValueError(f"{path} holds no {kinds} file of ours: make one with `cgrseg export --out {path}`")
    if path.suffix not in SUFFIXES.values():
        return None
    if runtime != "auto" and SUFFIXES[runtime] != path.suffix:
        raise ValueError(f'{path} is no file of runtime "{runtime}": that takes {SUFFIXES[runtime]}')
    return path


def installed(runtime: str) -> bool:
    """Whether a runtime's package is there."""
    return find_spec({"onnx": "onnxruntime"}.get(runtime, runtime)) is not None


def require(runtime: str) -> None:
    """Raise ValueError with the cure where a runtime is not installed."""
    if not installed(runtime):
        raise ValueError(f'runtime {runtime} is not installed: pip install "cgrseg[{runtime}]"')


def open_exported(
    path: str | os.PathLike[str],
    device: str | torch.device = "auto",
    *,
    threads: int | None = None,
    bf16: bool = False,
) -> ExportedNetwork:
    """Open a file that `cgrseg export --io tensor` wrote.

    Args:
        path: .onnx, .xml (OpenVINO, its .bin beside it), .pt2 (torch.export) or .aoti.pt2 (AOTInductor: to open it
            is to run the machine code inside).
        device: "auto", "cpu", "cuda" (onnx with a CUDA build, torch) or "gpu" (openvino).
        threads: CPU threads of the runtime; None leaves it to the runtime.
        bf16: compute in bfloat16, openvino alone. Images and logits are float32 all the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not ours or damaged, has pictures as inputs, its runtime is missing or lacks the device,
            or bfloat16 on it.
    """
    path = Path(path)
    runtime = next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if runtime is None:
        raise ValueError(f"{path} is no exported file: those end in {', '.join(SUFFIXES.values())}")
    if not path.is_file():
        raise FileNotFoundError(f"no exported file at {path}")
    require(runtime)
    if bf16 and runtime != "openvino":
        raise ValueError(f"{path}: of exported files only OpenVINO's (.xml) run in bf16: use one, or leave bf16 out")
    openers: dict[str, Callable[[Path, str, int | None], tuple[Run, str]]]
    openers = {"onnx": _open_onnx, "openvino": partial(_open_openvino, bf16=bf16), "torch": _open_torch}
    try:
        run, text = openers[runtime](path, str(device), threads)
    except Unusable as error:
        raise ValueError(str(error)) from error.__cause__
    except Exception as error:  # each runtime has errors of its own
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} can't be opened by runtime {runtime} ({line}): export it again") from error
    if not text:
        raise ValueError(f"{path} was not written by `cgrseg export`: it lacks classes and preprocessing")
    try:
        table = json.loads(text)
        description, io, size = Description.from_json(json.dumps(table["model"])), table["io"], table["size"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} describes its model wrongly ({error}): export it again") from error
    if io != "tensor":
        raise ValueError(f"{path} takes pictures and is for callers without cgrseg: export it with --io tensor")
    size = None if size is None else (int(size[0]), int(size[1]))
    return ExportedNetwork(path=path, runtime=runtime, description=description, size=size, run=run)


def _open_onnx(path: Path, device: str, threads: int | None) -> tuple[Run, str]:
    session = onnx_session(path, device, threads)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: _array(images)})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")


def onnx_session(path: Path, device: str = "cpu", threads: int | None = None) -> Any:
    """An ONNX Runtime session on a device, the CPU as the second choice of "auto"."""
    import onnxruntime  # type: ignore[import-untyped]

    kind = device.partition(":")[0]
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind not in ("auto", "cpu", "cuda") or (kind == "cuda" and not cuda):
        raise Unusable(f"runtime onnx has no device {device!r} here: use cpu, or install onnxruntime-gpu for cuda")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin on after a call would take the cores from what makes the label map.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if cuda and kind != "cpu":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)


def _open_openvino(path: Path, device: str, threads: int | None, bf16: bool) -> tuple[Run, str]:
    network = OpenVINONetwork(path, device, threads, bf16)
    text = network.model.get_rt_info(METADATA_KEY).astype(str) if network.model.has_rt_info(METADATA_KEY) else ""
    return network, text


def _open_torch(path: Path, device: str, threads: int | None) -> tuple[Run, str]:
    package = path.name.endswith(PACKAGE)
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise Unusable(f"runtime torch has no device {device!r} here: use cpu")
    if package and place.type != "cpu":
        if device != "auto":
            raise Unusable(f"{path} is compiled for the CPU: use cpu, or the .pt2 of --format torch")
        place = torch.device("cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    network, text = open_package(path) if package else _open_program(path, place)

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(images.to(place).contiguous())
        return logits

    return run, text


def _open_program(path: Path, place: torch.device) -> tuple[Run, str]:
    from torch.export.passes import move_to_device_pass

    program, text = read_program(path)
    if place.type != "cpu":
        program = move_to_device_pass(program, place)
    return program.module(check_guards=False), text


def _array(images: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images.detach().cpu().numpy())
