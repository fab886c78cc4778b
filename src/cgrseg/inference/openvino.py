"""OpenVINO: the one core of a process, and files that run as fast at any size as if they were made for it."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
KEPT = 4  # shapes that have a network of their own: photos are upright or wide, and come alone or in batches
OFTEN = 32  # calls of another shape after which it gets one, too; what that costs has then been lost


class Unusable(ValueError):
    """A message for the user, as opposed to what a runtime raises."""


@cache
def openvino_core() -> Any:
    """The one OpenVINO core of this process.

    On a CPU with AMX each core gives signal handlers a stack of its own and takes it away as it goes. Of two, if the
    older goes first, the other leaves handlers on a stack that is no more, and the next Ctrl-C, or child that ends,
    kills the process without a word (OpenVINO 2026.4).
    """
    import openvino  # type: ignore[import-untyped]

    return openvino.Core()


class _Compiled:
    """A compiled network as a function that threads may share: each call in progress has a request of its own."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.idle: list[Any] = []

    def __call__(self, images: Array) -> Array:
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.network.create_infer_request()
        try:
            return np.array(request.infer([images])[0])  # a copy: the request keeps its own
        finally:
            self.idle.append(request)


class OpenVINONetwork:
    """A model as OpenVINO reads it, called as a function of tensors: its first output, of its one input.

    Compiled for one shape [B, 3, H, W] it is about 1.3 times as fast as for any. So the first `KEPT` shapes that come
    get a network of their own, while other calls wait; further ones share one for any shape, unless they come often.

    Args:
        path: .xml, with its .bin beside it.
        device: "auto", "cpu", "gpu", …
        threads: of the CPU; None leaves it to OpenVINO.
        bf16: compute in bfloat16 what is not quantised, not in float32.

    Raises:
        Unusable: there is no such device, or bfloat16 on it.
        RuntimeError: OpenVINO can't read the file.
        ValueError: when called, if OpenVINO can't compile it for the device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None, bf16: bool = False) -> None:
        core = openvino_core()
        place = "CPU" if device == "auto" else device.upper()
        if place.partition(".")[0] not in core.available_devices:
            known = ", ".join(name.lower() for name in core.available_devices)
            raise Unusable(f"runtime openvino has no device {device!r} here: use {known}")
        if bf16 and "BF16" not in core.get_property(place, "OPTIMIZATION_CAPABILITIES"):
            raise Unusable(f"device {device!r} of runtime openvino does not compute in bf16: leave it out")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None and place == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        self.model = core.read_model(path)
        self.path, self._place, self._settings = path, place, settings
        self._for_any: _Compiled | None = None
        self._own: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()  # the least recently used first
        self._others: Counter[tuple[int, ...]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.detach().cpu().numpy())
        return torch.from_numpy(self._network(array.shape)(array))

    def _network(self, shape: tuple[int, ...]) -> _Compiled:
        """The compiled network for images of a shape."""
        with self._lock:
            if shape in self._own:
                self._own.move_to_end(shape)
                return self._own[shape]
            self._others[shape] += 1
            if len(self._own) < KEPT or self._others[shape] == OFTEN:
                self._others.clear()
                graph = self.model.clone()
                graph.reshape(list(shape))
                network = self._compile(graph)
                if len(self._own) == KEPT:
                    self._own.popitem(last=False)
                self._own[shape] = network
                return network
            if self._for_any is None:
                self._for_any = self._compile(self.model)
            return self._for_any

    def _compile(self, graph: Any) -> _Compiled:
        try:
            return _Compiled(openvino_core().compile_model(graph, self._place, self._settings))
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise ValueError(
                f"OpenVINO can't run {self.path} on {self._place} ({line}): choose another device"
            ) from error
