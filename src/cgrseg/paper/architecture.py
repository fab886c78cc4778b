"""Figure 2: the network, drawn from its modules with their names, channels and sizes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Size

from .figures import COLUMN, OURS, STYLE, THEIRS, new_figure

WIDTH, HEIGHT = 0.78, 0.6  # of a box; columns and rows are 1 apart
COLORS = {"encoder": "#dbe7f3", "context": "#fde3c8", "reconstruction": "#dcefdc", "head": "#f6d5d7", "": "#ffffff"}
Place = tuple[float, float]  # column, row


@rc_context(STYLE)
def architecture(model: CGRSeg, size: Size) -> Figure:
    """The network for an image of `size` (height, width).

    A box has the name of the module, its class, the shape of its output (channels, height, width), and its
    parameters. The encoder is the first column, the context the last row, the head the last column.
    """
    seen = trace(model, size)
    boxes: dict[Place, Step] = {}
    maps = len(seen.encoder)
    for row, step in enumerate(seen.encoder, 1):
        boxes[0, row] = step
    rows = [maps - 2, maps - 1, maps]  # of c2, c3, c4
    below, last = maps + 1, 3.15
    for row, calibrate, fuse in zip(rows, seen.calibrate, seen.fuse, strict=False):
        boxes[1, row], boxes[2, row] = calibrate, fuse
    if not seen.calibrate:
        boxes[1, rows[0]], last = seen.reconstruction, 2.15
    for row, step in enumerate(seen.head):
        boxes[last, row] = step
    height = max(below + bool(seen.context), len(seen.head))
    figure = new_figure(0.58 * height + 0.35, width=2 * COLUMN)
    axes = figure.subplots()
    axes.set(xlim=(-0.55, last + 0.45), ylim=(height - 0.6, -1.05))
    axes.axis("off")
    spec = model.spec
    total = sum(each.numel() for each in model.parameters()) / 1e6
    about = f"{spec.name} on {spec.backbone}, {spec.num_classes} classes, {total:.2f} M parameters"
    axes.text(-WIDTH / 2, -0.86, about, fontsize=7, fontweight="bold", va="center")
    legend = "boxes: module, class, output (channels x height x width), parameters"
    axes.text(-WIDTH / 2, -0.62, legend, fontsize=6, va="center")
    _box(axes, (0, 0), "", "image", "", (3, *size))
    for place, step in boxes.items():
        _box(axes, place, step.name.partition(".")[0], step.name, step.kind, step.shape, step.parameters)
    for row in range(maps):
        _arrow(axes, (0, row + HEIGHT / 2), (0, row + 1 - HEIGHT / 2))
    if seen.calibrate:
        _draw_reconstruction(axes, rows, seen.lateral)
    else:
        for row in rows:
            _arrow(axes, (WIDTH / 2, row), (0.5, row), (0.5, rows[0]), (1 - WIDTH / 2, rows[0]))
    if seen.context:
        _draw_context(axes, seen.context, seen.contexts, rows, below)
    _draw_head(axes, seen.head, rows[0], last)
    return figure


def _draw_reconstruction(axes: Any, rows: list[int], lateral: list[Step]) -> None:
    """From c_i through RCM and fusion, and from each fusion up to the next RCM."""
    for row in rows:
        _arrow(axes, (WIDTH / 2, row), (1 - WIDTH / 2, row))
        _arrow(axes, (1 + WIDTH / 2, row), (2 - WIDTH / 2, row))
    for row, step in zip(rows[:-1], lateral, strict=True):
        middle = row + 0.5
        _arrow(axes, (2, row + 1 - HEIGHT / 2), (2, middle), (0.5, middle), (0.5, row))
        note = f"resized, {step.name} ({step.shape[0]} channels), added"
        axes.text(1.25, middle, note, fontsize=4.8, ha="center", va="center", bbox=PLAIN)


def _draw_head(axes: Any, steps: list[Step], row: int, column: float) -> None:
    """From the fused map in `row` down the head; the steps of the DPG head that read the fused map get it as well."""
    bus, left = column - 0.55, column - WIDTH / 2
    readers = [0, *(place for place, step in enumerate(steps) if step.kind in ("SpatialGather", "PrototypeGate"))]
    if len(readers) > 1:
        readers.append(len(steps) - 1)  # classifies fused + gated
    for reader in readers:
        _arrow(axes, (column - 1.15 + WIDTH / 2, row), (bus, row), (bus, reader), (left, reader))
    for place in range(len(steps) - 1):
        _arrow(axes, (column, place + HEIGHT / 2), (column, place + 1 - HEIGHT / 2))


def _draw_context(axes: Any, steps: list[Step], contexts: list[tuple[int, ...]], rows: list[int], below: int) -> None:
    """From the pyramid down to pooling and blocks, and from there up to each fusion."""
    pool, *blocks = steps
    _box(axes, (1, below), "context", pool.name, pool.kind, pool.shape, pool.parameters)
    first, name = blocks[0], "context.blocks"
    kind = f"{len(blocks)} x {first.kind}" if len(blocks) > 1 else first.kind
    _box(axes, (2, below), "context", name, kind, first.shape, sum(each.parameters for each in blocks))
    left, right = -0.5, 2 + WIDTH / 2 + 0.06
    for row in rows:
        _arrow(axes, (-WIDTH / 2, row), (left, row), (left, below), (1 - WIDTH / 2, below))
    _arrow(axes, (1 + WIDTH / 2, below), (2 - WIDTH / 2, below))
    for number, (row, shape) in enumerate(zip(rows, contexts, strict=True), 2):
        at = row + HEIGHT / 3
        _arrow(axes, (2 + WIDTH / 2, below), (right, below), (right, at), (2 + WIDTH / 2, at))
        text = f"p{number}: {_times(shape)}"
        axes.text(right - 0.03, row + HEIGHT / 2 + 0.11, text, fontsize=4.8, ha="right", va="center")


PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def _box(
    axes: Any, place: Place, part: str, name: str, kind: str, shape: tuple[int, ...], parameters: int | None = None
) -> None:
    column, row = place
    axes.add_patch(
        FancyBboxPatch(
            (column - WIDTH / 2, row - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=COLORS[part],
            edgecolor=OURS if part == "head" else THEIRS,
            linewidth=0.6,
        )
    )
    size = _times(shape) + ("" if not parameters else f", {_amount(parameters)}")
    lines = [
        (name, 6, "bold"),
        *([(kind, 5 if len(kind) < 34 else 4.6, "normal")] if kind else []),
        (size, 5.5, "normal"),
    ]
    for index, (text, fontsize, weight) in enumerate(lines):
        offset = (index - (len(lines) - 1) / 2) * 0.17
        axes.text(column, row + offset, text, fontsize=fontsize, fontweight=weight, ha="center", va="center")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _amount(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters / 1e3:.1f} k"


def _arrow(axes: Any, *points: Place) -> None:
    """A line through these points with a head at the last one."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color="#444444", linewidth=0.6, solid_joinstyle="miter", zorder=0.5)
    style = {"arrowstyle": "-|>", "color": "#444444", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 5}
    axes.annotate("", points[-1], points[-2], arrowprops=style)


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
        encoder: one step per map, from fine to coarse.
        context: pooling and blocks; none in SegNeXt.
        contexts: shapes of p2, p3, p4.
        calibrate, lateral, fuse: of the reconstruction, at strides 8, 16, 32; lateral has no last step.
        reconstruction: the whole.
        head: its direct children except dropout; one that is called twice is there twice.
    """

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
        [maker(out) for out in outputs["encoder"]],
        [*(one for one in children("context") if one.name != "context.blocks"), *children("context.blocks")],
        [tuple(out.shape[1:]) for out in outputs["context"]],
        by_name("reconstruction.calibrate"),
        by_name("reconstruction.lateral"),
        by_name("reconstruction.fuse"),
        whole,
        head,
    )
