"""`cgrseg info`: what a model or a weights file holds and costs, beside what the paper prints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgrseg.measure.complexity import Cost
    from cgrseg.nn import ModelSpec

# Parameters in M and "FLOPs" in G as the paper prints them.
PAPER = {
    "cgrseg_t": ("9.4", "4.0"),
    "cgrseg_b": ("18.1", "7.6"),
    "cgrseg_l": ("35.7", "14.9"),
    "segnext_t": ("4.3", "6.6"),
    "segnext_s": ("13.9", "15.9"),
}
PAPER_CONDITIONS = "512x512, 150 classes"
SIDES = range(32, 65536)  # the network needs 32 pixels; a JPEG holds no more than 65535
FREE_FIELDS = ("num_classes", "dropout", "drop_path", "bias_mode")  # leave the architecture as it is


def info(name: str, *, size: str = "512x512", num_classes: int = 150) -> int:
    """Print what a model or a weights file holds and costs.

    Parameters, operations as the paper's own counter sees them (the "FLOPs" of its tables) and true
    multiply-adds, part by part, beside the paper's printed figures. For a weights file also its classes, its
    preprocessing and its card.

    Args:
        name: a model, such as cgrseg_t, a weights file (.safetensors), or the name of bundled weights
        size: height and width of the photo that is counted for
        num_classes: classes of a model given by name; a weights file knows its own
    """
    height, width = _parse_size(size)

    import torch

    from cgrseg.measure.complexity import complexity
    from cgrseg.nn import VARIANTS, build
    from cgrseg.weights.load import bundled, load

    is_file = name not in VARIANTS and (name.endswith(".safetensors") or Path(name).exists() or name in bundled())
    model: Any
    if is_file:
        model = load(name, device="cpu")
    else:
        with torch.device("meta"):  # shapes without numbers
            model = build(name, num_classes=num_classes)
    spec: ModelSpec = model.spec
    cost = complexity(model, (height, width))

    print(f"{name}: {spec.name} on {spec.backbone}, {spec.num_classes} classes, photo of {height}x{width}\n")
    rows = [("part", "parameters M", "paper's counter G", "true MACs G")]
    rows += [_cost_row(part, each) for part, each in cost.parts.items()]
    rows += [_cost_row("total", cost.total)]
    if spec.name not in PAPER:
        note = f"{spec.name} is ours, not the paper's: there are no printed figures for it"
    elif _architecture(spec) != _architecture(VARIANTS[spec.name]):
        note = f"altered from the paper's {spec.name}: there are no printed figures for it"
    else:
        rows.append(("paper", *PAPER[spec.name], ""))
        note = f"paper: as printed in the paper's Table 1, for {PAPER_CONDITIONS}"
    print("\n".join([*_table(rows), "", note]))
    if is_file:
        print("\n".join(_contents(model)))
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size {text}: write HEIGHTxWIDTH in pixels, such as 512x683")
    height, width = int(match[1]), int(match[2])
    if height not in SIDES or width not in SIDES:
        raise ValueError(f"--size {text}: each side must be between {SIDES[0]} and {SIDES[-1]} pixels")
    return height, width


def _architecture(spec: ModelSpec) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(spec).items() if key not in FREE_FIELDS}


def _cost_row(part: str, cost: Cost) -> tuple[str, str, str, str]:
    return part, f"{cost.parameters / 1e6:.4f}", f"{cost.paper_flops / 1e9:.4f}", f"{cost.macs / 1e9:.4f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def _contents(model: Any) -> list[str]:
    """What a weights file knows beside its numbers: classes with their colours, preprocessing, card."""
    labels = model.labels
    names = [
        (str(index), name, "#{:02x}{:02x}{:02x}".format(*color))
        for index, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True))
    ]
    width = len(str(len(names) - 1))
    longest = max(map(len, labels.names))
    lines = ["", f"classes: {len(names)}, {labels.ignore_index} is ignored"]
    lines += [f"  {index:>{width}}  {name:<{longest}}  {color}" for index, name, color in names]
    for title, values in (("preprocessing", model.preprocessing.to_dict()), ("card", model.card)):
        lines += ["", f"{title}:", *(f"  {key}: {value}" for key, value in values.items())]
        if not values:
            lines[-1] += " empty"
    return lines
