"""The lower bound of a network's time on this machine (roofline): for each operation the longer of its multiply-adds
over the measured matrix-product peak and its bytes over the measured copy rate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cgrseg.preprocessing import Size

from .interleave import clocked

SIDE = 1536  # of the matrices that are multiplied, on a CPU also as a 1x1 convolution
SIDE_OF_MAP = 48  # width of the map
COPIED = 1 << 28  # bytes that are copied, beyond any cache
REPEATS = 7
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Operation:
    """One convolution or matrix product: multiply-adds, and the numbers it reads and writes."""

    macs: int
    numbers: int


@dataclass(frozen=True)
class Limits:
    """Measured limits of the machine.

    Args:
        macs_per_second: by precision ("float32", …), of a large matrix product, plain or as a 1x1 convolution.
        bytes_per_second: read and written by a large copy.
    """

    macs_per_second: dict[str, float]
    bytes_per_second: float


def operations(model: nn.Module, size: Size) -> list[Operation]:
    """The convolutions and matrix products for one image of `size` (height, width), counted on shapes alone.

    Everything else (activations, norms, additions) counts as free.

    Raises:
        ValueError: a size that the model does not accept.
    """
    model = copy.deepcopy(model).to("meta").eval()
    counter = _Counter()
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, *size, device="meta"))
    return counter.found


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            numbers = sum(item.numel() for item in (*args, out) if isinstance(item, Tensor))
            self.found.append(Operation(count(*args, **(kwargs or {}), out_val=out) // 2, numbers))
        return out


def least_seconds(found: list[Operation], limits: Limits, precision: str) -> float:
    """Lower bound of the time of all operations.

    Args:
        precision: a key of `limits.macs_per_second`; gives the width of the numbers.
    """
    peak, width = limits.macs_per_second[precision], TYPES[precision].itemsize
    return sum(max(one.macs / peak, one.numbers * width / limits.bytes_per_second) for one in found)


@torch.inference_mode()
def measure_limits(precisions: set[str], device: torch.device) -> Limits:
    """Measure multiplication and copying on `device`, best of several runs, with torch's current threads."""
    peaks = {name: _peak(TYPES[name], device) for name in sorted(precisions)}
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Limits(peaks, 2 * COPIED / _best(lambda: target.copy_(source), device))


def _peak(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds per second. On some CPUs matrix products are slow and convolutions are not."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    if dtype == torch.int8:
        return SIDE**3 / _best(lambda: torch._int_mm(matrix, matrix), device)
    pixels = matrix.view(1, SIDE // SIDE_OF_MAP, SIDE_OF_MAP, SIDE).permute(0, 3, 1, 2)  # channels last
    kernel = matrix[..., None, None]
    product = _best(lambda: matrix @ matrix, device)
    if device.type != "cpu":
        return SIDE**3 / product
    return SIDE**3 / min(product, _best(lambda: F.conv2d(pixels, kernel), device))


def _best(task: Callable[[], object], device: torch.device) -> float:
    def waited() -> None:
        task()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    waited()
    return min(clocked(waited) for _ in range(REPEATS))
