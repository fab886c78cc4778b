"""Parameters, the paper's "FLOPs" and true multiply-adds of a model, part by part (Table 1)."""

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

from cgrseg.nn import CGRSeg
from cgrseg.nn.reconstruction import ConvNorm


@dataclass(frozen=True)
class Cost:
    """The cost of a part or of the whole model for one image.

    Args:
        parameters: trainable values.
        paper_flops: operations by the paper's counter, see `PaperCounter`.
        macs: multiply-adds of convolutions (without biases) and matrix products.
    """

    parameters: int
    paper_flops: int
    macs: int


@dataclass(frozen=True)
class Complexity:
    """The cost of a model and of its direct children in order (encoder, context, ...)."""

    size: tuple[int, int]  # height, width of the image
    total: Cost
    parts: dict[str, Cost]


def complexity(model: nn.Module, size: tuple[int, int] = (512, 512)) -> Complexity:
    """Count the cost of `model` for one image of `size` (height, width), in evaluation mode.

    Runs a copy of the model on the meta device, so `model` is unchanged and nothing is computed. Works for any model;
    its parts are its direct children.

    Raises:
        ValueError: a size that the model does not accept.
    """
    model = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    channels = model.spec.in_channels if isinstance(model, CGRSeg) else 3
    photo = torch.zeros(1, channels, *size, dtype=next(model.parameters()).dtype, device="meta")
    with torch.no_grad(), _true_counter() as true, PaperCounter(model) as paper:
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


def _true_counter() -> FlopCounterMode:
    """Counts matrix products and convolutions, also deformable ones if torchvision is loaded."""
    mapping: dict[Any, Any] = {}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        mapping[torch.ops.torchvision.deform_conv2d] = _deformable_flops
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _deformable_flops(_input: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return int(2 * math.prod(out_shape) * math.prod(weight[1:]))


class PaperCounter(TorchFunctionMode):
    """Counts operations as the paper did, with mmcv's counter on the released model; a context manager.

    Counted, in evaluation mode:
    - a convolution (also deformable or transposed): its multiply-adds, and one per output element if it has a bias;
    - a linear layer: its multiply-adds;
    - ReLU, ReLU6, hard sigmoid: one per output element;
    - a mean, a strided slice: one per input element (pooling layers in the release);
    - a batch, layer or group norm: two per element, but no batch norm in the encoder and in `ConvNorm` (synchronised
      ones in the release, which its counter does not know);
    - a resize in the encoder: one per output element.
    Everything else is free: GELU, sigmoid, softmax, pooling to a grid, other resizes, matrix products.

    `flops` has the count of each direct child of `model`, and "" for everything else.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._part = ""
        self._hidden = 0  # depth of running modules whose batch norms do not count
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
        """The count of a function, given its name, result and arguments."""
        source = named.get("input", source)
        match name:
            case "deform_conv2d":
                return int(out.numel() * math.prod(other.shape[1:]))
            case "conv_transpose2d":
                return int(source.numel() * math.prod(named.get("weight", other).shape[1:]))
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
                upsampled = self._part == "encoder" and not named.get("align_corners")  # otherwise a table of the bias
                return int(out.numel()) if upsampled else 0
            case "batch_norm":
                return 0 if self._hidden else 2 * int(out.numel())
            case "layer_norm" | "group_norm":
                return 2 * int(out.numel())
        return 0
