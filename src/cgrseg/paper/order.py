"""The order of speed in Table 1: our latencies beside the paper's throughput, rank correlation, and pairs that swap."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]

from .measured import match, model_of, model_of_result
from .published import Table
from .tables import cost_of, label_of, layout

RUNTIMES = {"openvino": "OpenVINO", "eager": "eager PyTorch"}
FEWEST = 3  # methods, for a rank correlation


def swaps(paper: Mapping[str, float], ours: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs (faster in the paper, faster here) of methods whose order differs; equal speeds do not count."""
    pairs = combinations(sorted(paper, key=lambda name: -paper[name]), 2)
    return [(one, other) for one, other in pairs if paper[one] > paper[other] and ours[one] < ours[other]]


def compare(paper: Mapping[str, float], ours: Mapping[str, float], runtime: str) -> list[str]:
    """What the order of the same methods in two columns of speeds has in common, one line each."""
    names = list(paper)
    if len(names) < FEWEST:
        return []
    columns = [[speeds[name] for name in names] for speeds in (paper, ours)]
    rho, tau = spearmanr(*columns).statistic, kendalltau(*columns).statistic
    found = swaps(paper, ours)
    lines = [
        f"{runtime}, one image, against the paper's images/s on a V100: {len(names)} methods, "
        f"Spearman's rho {rho:.2f}, Kendall's tau {tau:.2f}; "
        f"{len(found)} of {len(names) * (len(names) - 1) // 2} pairs swap"
    ]
    for name in names:
        if slower := [other for one, other in found if one == name]:
            lines.append(f"{runtime}: {name} is faster in the paper, but slower here, than {', '.join(slower)}")
    return lines


def render(table: Table, report: Mapping[str, Any], form: str) -> str:
    """Parameters, both counts of operations and latencies of every row that was measured, and the order of speed.

    Args:
        table: Table 1.
        report: of `cgrseg benchmark` at 512x512. Its candidates in OpenVINO and eager, in float32, count; of several of
            one architecture the last. Speeds are compared as ratios to the first candidate, in the same rounds.
        form: as in `tables.render`.
    """
    head = ["method", "parameters, M", "FLOPs, G", "multiply-adds, G", "speed paper, images/s"]
    head += ["OpenVINO, ms", "eager, ms", "photo to label map, ms"]
    results = [one for one in report["results"] if one.get("how") in RUNTIMES and one.get("precision") == "float32"]
    measured = [(model, one) for one in results if (model := model_of_result(one)) is not None]
    lines, order = [], dict[str, dict[str, tuple[float, float]]]()
    for row in table.rows:
        found = {one["how"]: one for model, one in measured if match(model, row) == ""}
        if (model := model_of(row)) is None or not found:
            continue
        cost, label, speed = cost_of(model), label_of(row, table), row.images_per_second
        cells = [label, f"{cost.parameters / 1e6:.1f}", f"{cost.paper_flops / 1e9:.1f}", f"{cost.macs / 1e9:.1f}"]
        cells.append("" if speed is None else f"{speed:.1f}")
        cells += [f"{found[how]['network_ms']['median']:.1f}" if how in found else "" for how in RUNTIMES]
        photo = f"{found['openvino']['photo_to_labels_ms']['median']:.1f}" if "openvino" in found else ""
        lines.append([*cells, photo])
        if speed is not None:
            for how, one in found.items():
                order.setdefault(how, {})[label] = (speed, one["times_as_fast"]["network"]["median"])
    notes = ["FLOPs are by the paper's counter for every method; photo to label map is through OpenVINO"]
    for how, speeds in order.items():
        paper, ours = ({name: both[side] for name, both in speeds.items()} for side in (0, 1))
        notes += compare(paper, ours, RUNTIMES[how])
    return layout(f"Table {table.number}: speed measured here, one image of 512x512", head, lines, notes, form)
