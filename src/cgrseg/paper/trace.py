"""The modules of a network as they run: names, classes and output shapes, for the drawing of Figure 2."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgrseg.nn import CGRSeg

Size = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One call of a module.

    Args:
        name: of the module, as in `model.get_submodule`.
        kind: its class.
        shape: of the output without the batch: (C, h, w), or (D, K, 1) for prototypes.
        parameters: of the module.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Trace:
    """The steps of one image through a network, in the order of the calls.

    Args:
        size: height, width of the image.
        encoder: one step per map, from fine to coarse.
        context: pooling and blocks; none in SegNeXt.
        contexts: shapes of p2, p3, p4.
        calibrate, lateral, fuse: of the reconstruction, at strides 8, 16, 32; lateral has no last step.
        reconstruction: the whole.
        head: its direct children except dropout; one that is called twice is there twice.
    """

    size: Size
    encoder: list[Step]
    context: list[Step]
    contexts: list[tuple[int, ...]]
    calibrate: list[Step]
    lateral: list[Step]
    fuse: list[Step]
    reconstruction: Step
    head: list[Step]


def trace(model: CGRSeg, size: Size) -> Trace:
    """Run a copy of the model on the meta device, where nothing is computed, and record what every module returns.

    Raises:
        ValueError: the model does not accept images of this size.
    """
    model = copy.deepcopy(model).to("meta").eval()
    calls: list[tuple[str, nn.Module, Any]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, _, out, name=name: calls.append((name, module, out)))
    with torch.no_grad():
        model(torch.zeros(1, 3, *size, device="meta"))

    def step(name: str, module: nn.Module, out: Any) -> Step:
        shape = tuple(out.shape[1:]) if isinstance(out, Tensor) else ()
        return Step(name, type(module).__name__, shape, sum(each.numel() for each in module.parameters()))

    def children(part: str) -> list[Step]:
        """The calls of a part's direct children."""
        return [step(*call) for call in calls if call[0].rpartition(".")[0] == part]

    def by_name(part: str) -> list[Step]:
        return sorted(children(part), key=lambda step: step.name)

    def maker(out: Tensor) -> Step:
        """The outermost module that returns a map; the last one with its shape, if the encoder changed the map."""
        parts = [call for call in calls if call[0].startswith("encoder.") and isinstance(call[2], Tensor)]
        makers = [call for call in parts if call[2] is out] or [call for call in parts if call[2].shape == out.shape]
        if not makers:
            return Step("encoder", type(model.encoder).__name__, tuple(out.shape[1:]), 0)
        depth = min(call[0].count(".") for call in makers)
        return step(*[call for call in makers if call[0].count(".") == depth][-1])

    outputs = {name: out for name, _, out in calls}
    head = [one for one in children("head") if not one.kind.startswith("Dropout")]
    (whole,) = [one for one in children("") if one.name == "reconstruction"]
    return Trace(
        size,
        [maker(out) for out in outputs["encoder"]],
        [*(one for one in children("context") if one.name != "context.blocks"), *children("context.blocks")],
        [tuple(out.shape[1:]) for out in outputs["context"]],
        by_name("reconstruction.calibrate"),
        by_name("reconstruction.lateral"),
        by_name("reconstruction.fuse"),
        whole,
        head,
    )
