"""The order of speed in Table 1: our latencies beside the paper's throughput, rank correlation, and pairs that swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]

from .measured import Model, match, model_of, model_of_result, read_512
from .published import Row, Table
from .tables import cost_of, label_of, layout

RUNTIMES = {"openvino": "OpenVINO", "eager": "eager PyTorch"}
FEWEST = 3  # methods, for a rank correlation


@dataclass(frozen=True)
class Timing:
    """One image of 512x512 through one architecture.

    Args:
        model: the architecture.
        how: "openvino" or "eager", in float32.
        network_ms, photo_ms: medians of the network, and from the JPEG to the label map.
        speed: how many times as fast the network is as the first candidate of the report, in the same rounds.
    """

    model: Model
    how: str
    network_ms: float
    photo_ms: float
    speed: float


def read_timings(path: Path) -> list[Timing]:
    """The candidates of a report of `cgrseg benchmark` that ran in OpenVINO or eager, in float32.

    Raises:
        ValueError: as `read_512`.
    """
    return [
        Timing(
            model,
            result["how"],
            result["network_ms"]["median"],
            result["photo_to_labels_ms"]["median"],
            result["times_as_fast"]["network"]["median"],
        )
        for result in read_512(path)["results"]
        if (model := model_of_result(result)) is not None
        and result.get("how") in RUNTIMES
        and result.get("precision") == "float32"
    ]


def find(timings: Sequence[Timing], row: Row, how: str) -> Timing | None:
    """The last timing of a row's architecture."""
    return next((one for one in reversed(timings) if one.how == how and match(one.model, row) == ""), None)


def swaps(paper: Mapping[str, float], ours: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs (faster in the paper, faster here) of methods whose order differs; equal speeds do not count."""
    found = []
    for one, other in combinations(sorted(paper, key=lambda name: -paper[name]), 2):
        if paper[one] > paper[other] and ours[one] < ours[other]:
            found.append((one, other))
    return found


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


def render(table: Table, timings: Sequence[Timing], form: str) -> str:
    """Parameters, both counts of operations and latencies of every row that was measured, and the order of speed."""
    head = ["method", "parameters, M", "FLOPs, G", "multiply-adds, G", "speed paper, images/s"]
    head += ["OpenVINO, ms", "eager, ms", "photo to label map, ms"]
    lines, order = [], dict[str, dict[str, tuple[float, float]]]()
    for row in table.rows:
        found = {how: timing for how in RUNTIMES if (timing := find(timings, row, how)) is not None}
        if (model := model_of(row)) is None or not found:
            continue
        cost, label, speed = cost_of(model), label_of(row, table), row.images_per_second
        cells = [label, f"{cost.parameters / 1e6:.1f}", f"{cost.paper_flops / 1e9:.1f}", f"{cost.macs / 1e9:.1f}"]
        cells.append("" if speed is None else f"{speed:.1f}")
        cells += [f"{found[how].network_ms:.1f}" if how in found else "" for how in RUNTIMES]
        lines.append([*cells, f"{found['openvino'].photo_ms:.1f}" if "openvino" in found else ""])
        if speed is not None:
            for how, timing in found.items():
                order.setdefault(how, {})[label] = (speed, timing.speed)
    notes = ["FLOPs are by the paper's counter for every method; photo to label map is through OpenVINO"]
    for how, speeds in order.items():
        paper, ours = ({name: both[side] for name, both in speeds.items()} for side in (0, 1))
        notes += compare(paper, ours, RUNTIMES[how])
    return layout(f"Table {table.number}: speed measured here, one image of 512x512", head, lines, notes, form)
