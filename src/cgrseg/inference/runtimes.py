"""Exported files in ONNX Runtime and OpenVINO, called as functions of tensors."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgrseg._process import no_telemetry

Array = np.ndarray[Any, Any]
METADATA_KEY = "cgrseg"  # in exported files
_LOCK = threading.RLock()  # while OpenVINO is set up


class RuntimeUnusable(ValueError):
    """A message for the user, unlike what a runtime raises."""


class OnnxNetwork:
    """An ONNX file in ONNX Runtime.

    Args:
        path: .onnx.
        device: "cpu", "cuda", or "auto": CUDA if this build of ONNX Runtime has it.
        threads: CPU threads; None leaves the choice to ONNX Runtime.

    Raises:
        RuntimeUnusable: there is no such device.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        self._arguments = (path, device, threads)
        self.session = onnx_session(path, device, threads)
        self.metadata: str = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
        self._input = self.session.get_inputs()[0].name
        classes = self.session.get_outputs()[0].shape[1:2]
        self.classes = next((side for side in classes if isinstance(side, int)), None)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self._input: _array(images)})[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxNetwork, self._arguments


def onnx_session(path: Path, device: str = "cpu", threads: int | None = None) -> Any:
    """An ONNX Runtime session; arguments and errors as in `OnnxNetwork`."""
    import onnxruntime  # type: ignore[import-untyped]

    kind = device.partition(":")[0]
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind not in ("auto", "cpu", "cuda") or (kind == "cuda" and not cuda):
        raise RuntimeUnusable(f"runtime onnx has no device {device!r}: use cpu, or install onnxruntime-gpu for cuda")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that keep spinning after a call would slow down the label map.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if cuda and kind != "cpu":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)


def import_openvino() -> Any:
    """The package openvino, without its telemetry."""
    no_telemetry()
    import openvino  # type: ignore[import-untyped]

    # Its first conversion to NumPy waits for ever if another thread converts at the same time (OpenVINO 2026.4).
    with _LOCK:
        _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino


def openvino_core() -> Any:
    """The OpenVINO core of this process.

    On a CPU with AMX each core gives signal handlers a stack of its own and removes it when it is deleted. With two
    cores, handlers can be left on a removed stack, and the next signal kills the process (OpenVINO 2026.4).
    """
    with _LOCK:
        return _core()


@cache
def _core() -> Any:
    return import_openvino().Core()


class _Compiled:
    """A compiled network that threads may share: each call in progress has its own inference request."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.idle: list[Any] = []

    def __call__(self, images: Array) -> Array:
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.network.create_infer_request()
        try:
            return np.array(request.infer([images])[0])  # a copy: the request reuses its own
        finally:
            self.idle.append(request)


class OpenVINONetwork:
    """A model in OpenVINO: its first output as a function of its one input.

    A network compiled for one shape [B, 3, H, W] is about 1.3 times as fast as one for any shape. The first
    shapes get one each; further shapes share a general network until they are frequent.

    Args:
        model: .xml with its .bin, or an OpenVINO model.
        device: "auto", "cpu", "gpu", …
        threads: CPU threads; None leaves the choice to OpenVINO.
        bf16: compute in bfloat16 what is not quantised, instead of float32.
        shapes: number of shapes with a compiled network of their own.
        frequent: calls after which another shape gets one in place of the least recently used.

    Raises:
        RuntimeUnusable: there is no such device, or it has no bfloat16.
        RuntimeError: OpenVINO cannot read the file.
        ValueError: when called, if OpenVINO cannot compile the model for the device.
    """

    def __init__(
        self,
        model: Any,
        device: str = "auto",
        threads: int | None = None,
        bf16: bool = False,
        *,
        shapes: int = 4,
        frequent: int = 32,
    ) -> None:
        self._arguments = (model, device, threads, bf16)
        self._shapes, self._frequent = shapes, frequent
        core = openvino_core()
        place = "CPU" if device == "auto" else device.upper()
        if place.partition(".")[0] not in core.available_devices:
            known = ", ".join(name.lower() for name in core.available_devices)
            raise RuntimeUnusable(f"runtime openvino has no device {device!r}: use {known}")
        if bf16 and "BF16" not in core.get_property(place, "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeUnusable(f"device {device!r} of runtime openvino has no bfloat16 arithmetic: leave bf16 out")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None and place == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        self.model = core.read_model(model) if isinstance(model, str | Path) else model
        has_metadata = self.model.has_rt_info(METADATA_KEY)
        self.metadata = str(self.model.get_rt_info(METADATA_KEY).astype(str)) if has_metadata else ""
        shape = self.model.outputs[0].get_partial_shape()
        fixed = bool(shape.rank.is_static and len(shape) > 1 and shape[1].is_static)
        self.classes: int | None = shape[1].get_length() if fixed else None
        self._name = str(model) if isinstance(model, str | Path) else "the model"
        self._place, self._settings = place, settings
        self._general: _Compiled | None = None
        self._own: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()  # the least recently used first
        self._others: Counter[tuple[int, ...]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        array = _array(images)
        return torch.from_numpy(self._network(array.shape)(array))

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenVINONetwork, self._arguments

    def set_streams(self, streams: int) -> None:
        """Prepare for calls from this many threads at the same time, each on its share of the cores; 1 is the default.

        Networks are compiled again at the next call. Calls in progress are not affected.
        """
        with self._lock:
            if self._place == "CPU" and streams != self._settings.get("NUM_STREAMS", 1):
                self._settings["NUM_STREAMS"] = streams
                self._own.clear()
                self._general = None

    def _network(self, shape: tuple[int, ...]) -> _Compiled:
        """The compiled network for a shape."""
        with self._lock:
            if shape in self._own:
                self._own.move_to_end(shape)
                return self._own[shape]
            self._others[shape] += 1
            if len(self._own) < self._shapes or self._others[shape] == self._frequent:
                self._others.clear()
                graph = self.model.clone()
                graph.reshape(list(shape))
                network = self._compile(graph)
                if self._own and len(self._own) >= self._shapes:
                    self._own.popitem(last=False)
                self._own[shape] = network
                return network
            if self._general is None:
                self._general = self._compile(self.model)
            return self._general

    def _compile(self, graph: Any) -> _Compiled:
        try:
            return _Compiled(openvino_core().compile_model(graph, self._place, self._settings))
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise ValueError(
                f"OpenVINO cannot run {self._name} on {self._place} ({line}): choose another device"
            ) from error


def _array(images: Tensor) -> Array:
    return np.ascontiguousarray(images.detach().cpu().numpy())
