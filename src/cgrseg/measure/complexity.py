"""What a model costs: parameters, the paper's "FLOPs" and true multiply-adds, part by part (Table 1)."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from cgrseg.nn.reconstruction import ConvNorm


@dataclass(frozen=True)
class Cost:
    """What one part, or the whole, costs for one photo.

    Args:
        parameters: numbers that training learns.
        paper_flops: operations as the paper's counter sees them, see `PaperCounter`.
        macs: multiply-adds of convolutions (without biases) and matrix products.
    """

    parameters: int
    paper_flops: int
    macs: int


@dataclass(frozen=True)
class Complexity:
    """The cost of a whole model, and of its direct children in their order (encoder, context, ...)."""

    size: tuple[int, int]  # height, width of the photo
    total: Cost
    parts: dict[str, Cost]


def complexity(model: nn.Module, size: tuple[int, int] = (512, 512)) -> Complexity:
    """Count what `model` costs for one photo of `size` (height, width), in evaluation mode.

    Runs a copy of the model on shapes alone (torch's meta device), so nothing of `model` is touched and no
    arithmetic is done. Models of others are counted, too; their parts are their direct children.

    Raises:
        ValueError: a size that the model refuses.
    """
    model = copy.deepcopy(model).to("meta").eval()
    photo = torch.zeros(1, 3, *size, dtype=next(model.parameters()).dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as true, PaperCounter(model) as paper:
        model(photo)
    flops = {name: sum(by_operator.values()) for name, by_operator in true.get_flop_counts().items()}
    root = type(model).__name__

    def cost(part: nn.Module, name: str | None) -> Cost:
        parameters = sum(parameter.numel() for parameter in part.parameters())
        if name is None:
            return Cost(parameters, paper.flops.total(), flops.get("Global", 0) // 2)
        return Cost(parameters, paper.flops[name], flops.get(f"{root}.{name}", 0) // 2)

    parts = {name: cost(part, name) for name, part in model.named_children()}
    return Complexity(size=size, total=cost(model, None), parts=parts)


class PaperCounter(TorchFunctionMode):
    """Counts, while it is entered, as the paper's numbers were counted: mmcv's counter on the released model.

    Counted, in evaluation mode and for each call:
    - a convolution: its multiply-adds, and one for each output element if it has a bias;
    - a linear layer: its multiply-adds;
    - ReLU, ReLU6, hard sigmoid: one for each output element;
    - a mean, a strided slice: one for each input element (the release has pooling layers there);
    - a batch, layer or group norm: two for each element, but no batch norm in the encoder and in `ConvNorm`
      (the release has synchronised ones there, which its counter does not know);
    - a resize in the encoder: one for each output element.
    All else is free: GELU, sigmoid, softmax, pooling to a grid, the other resizes, matrix products.

    `flops` holds the count of each direct child of `model`, and under "" what lies outside them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._part = ""
        self._hidden = 0  # how many modules whose batch norms do not count are being run
        for name, part in model.named_children():
            part.register_forward_pre_hook(partial(self._enter, name))
            part.register_forward_hook(partial(self._enter, ""))
        for name, module in model.named_modules():
            if name == "encoder" or isinstance(module, ConvNorm):
                module.register_forward_pre_hook(partial(self._hide_norms, +1))
                module.register_forward_hook(partial(self._hide_norms, -1))

    def _enter(self, part: str, *_: object) -> None:
        self._part = part

    def _hide_norms(self, step: int, *_: object) -> None:
        self._hidden += step

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.flops[self._part] += self._count(func.__name__, out, *args, **kwargs)
        return out

    def _count(self, name: str, out: Any, source: Any = None, other: Any = None, /, *rest: Any, **named: Any) -> int:
        """What the function called `name` counts, given its result and its arguments."""
        source = named.get("input", source)
        match name:
            case "conv2d":
                biased = named.get("bias", rest[0] if rest else None) is not None
                return int(out.numel() * (math.prod(named.get("weight", other).shape[1:]) + biased))
            case "linear":
                return int(out.numel() * source.shape[-1])
            case "relu" | "relu_" | "relu6" | "hardtanh" | "hardsigmoid":
                return int(out.numel())
            case "mean":
                return int(source.numel())
            case "__getitem__":
                index = other if isinstance(other, tuple) else (other,)
                strided = any(isinstance(i, slice) and i.step not in (None, 1) for i in index)
                return int(source.numel()) if strided else 0
            case "interpolate":
                upsampled = self._part == "encoder" and not named.get("align_corners")  # else a table of the bias
                return int(out.numel()) if upsampled else 0
            case "batch_norm":
                return 0 if self._hidden else 2 * int(out.numel())
            case "layer_norm" | "group_norm":
                return 2 * int(out.numel())
        return 0
