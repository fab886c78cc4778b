"""The order of speed: latencies of Table 1, their rank correlation with the paper's throughput, and swapped pairs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from cgrseg.cli.main import main
from cgrseg.nn import VARIANTS
from cgrseg.paper import order
from cgrseg.paper.published import published

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "table1.py"
TABLE = published()[0]


def result(model: str, how: str, ms: float, speed: float, **changes: Any) -> dict[str, Any]:
    """What `cgrseg benchmark` writes of a candidate, as far as it is read here."""
    spec = dataclasses.asdict(VARIANTS[model]) if model in VARIANTS else None
    times = {"network": {"median": speed, "low": speed, "high": speed}}
    numbers = {"network_ms": {"median": ms}, "photo_to_labels_ms": {"median": ms + 7}, "images_per_second": 1000 / ms}
    about = {"label": f"{model}:{how}", "model": model, "spec": spec, "how": how, "precision": "float32"}
    return {**about, **numbers, "times_as_fast": times, **changes}


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Four methods that print 142.3, 138.4, 117.1 and 91.1 images/s, with the first two swapped in OpenVINO."""
    rows = [
        result("cgrseg_t", "openvino", 30, 1.0),
        result("seaformer_l", "openvino", 39, 0.8),  # slower, though measured while the machine was fast
        result("segformer_b0", "openvino", 38, 0.5),
        result("segnext_s", "openvino", 90, 0.3),
        result("segnext_s", "openvino", 9, 3.0, precision="int8"),
        result("segnext_s", "compiled", 8, 4.0),
        result("maskformer_swin_t", "eager", 500, 0.1),  # the paper has no throughput
        {**result("deeplabv3plus_r101", "eager", 1, 9.0), "model": "other"},
    ]
    path = tmp_path / "table1.json"
    path.write_text(json.dumps({"format": 1, "settings": {"size": [512, 512]}, "machine": {}, "results": rows}))
    return path


def test_pairs_that_swap_are_those_that_the_paper_orders_differently() -> None:
    paper = {"a": 10.0, "b": 8.0, "c": 8.0, "d": 1.0}
    assert order.swaps(paper, {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}) == []
    assert order.swaps(paper, {"a": 2.0, "b": 3.0, "c": 2.0, "d": 2.5}) == [("a", "b"), ("a", "d"), ("c", "d")]


def test_ranks_are_compared_with_those_of_the_paper() -> None:
    paper = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    first, *swapped = order.compare(paper, {"a": 400.0, "b": 20.0, "c": 3.0, "d": 2.0}, "x")
    assert "Spearman's rho 1.00, Kendall's tau 1.00; 0 of 6 pairs swap" in first and not swapped
    first, *swapped = order.compare(paper, {"a": 3.0, "b": 4.0, "c": 2.0, "d": 1.0}, "x")
    assert "rho 0.80, Kendall's tau 0.67; 1 of 6 pairs swap" in first
    assert swapped == ["x: a is faster in the paper, but slower here, than b"]
    assert order.compare({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, "x") == []


def test_table_1_is_printed_with_sizes_latencies_and_the_order(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "--table", "1", "--speed", str(report)]) == 0
    _, _, text = capsys.readouterr().out.partition("## Table 1: speed measured here")
    rows = {cells[0]: cells[1:] for line in text.splitlines() if (cells := line.replace(" ", "").split("|")[1:-1])}
    assert rows["CGRSeg-T"] == ["9.4", "4.0", "4.5", "138.4", "30.0", "", "37.0"]
    assert rows["Seaformer-L"] == ["14.0", "6.5", "6.3", "142.3", "39.0", "", "46.0"]
    assert rows["SegNeXt-S"] == ["13.9", "15.5", "15.6", "91.1", "90.0", "", "97.0"]
    assert rows["MaskFormer"] == ["41.8", "49.4", "50.9", "", "", "500.0", ""]
    assert len(rows) == 2 + 5
    assert "4 methods, Spearman's rho 0.80, Kendall's tau 0.67; 1 of 6 pairs swap" in text  # by ratios, not by ms
    assert "OpenVINO: Seaformer-L is faster in the paper, but slower here, than CGRSeg-T\n" in text
    assert "eager PyTorch, one image" not in text  # a single method


def test_the_run_measures_every_row_and_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("table1", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert len(script.MODELS) == len(TABLE.rows) == 21

    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        """Writes a report, except for the one that fails."""
        commands.append(command)
        names = [command[4], *command[command.index("--compare") + 1 : command.index("--max-batch")]]
        rows = [result(*name.split(":"), 10.0 * len(commands), 1 / len(commands)) for name in names]  # type: ignore[arg-type]
        machine = dict.fromkeys(("processor", "torch", "openvino", "onnxruntime"), "x")
        settings = {"size": [512, 512], "threads": 2, "cores": [0], "rounds": 1}
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        content = {"format": 1, "settings": settings, "machine": machine, "how": [], "results": rows}
        if out.name != "segformer_b0":
            (out / "benchmark.json").write_text(json.dumps(content))
        return type("Done", (), {"returncode": out.name == "segformer_b0"})

    monkeypatch.setattr(script.subprocess, "run", run)
    arguments = ["--out", str(tmp_path), "--models", "cgrseg_t", "segformer_b0", "seaformer_l"]
    script.main(arguments)
    firsts = ("cgrseg_t:eager", "segformer_b0:openvino", "seaformer_l:openvino")
    assert [command[3:7] for command in commands] == [
        ["benchmark", "cgrseg_t:openvino", "--compare", first] for first in firsts
    ]
    labels = [row["label"] for row in json.loads((tmp_path / "table1.json").read_text())["results"]]
    assert labels == ["cgrseg_t:openvino", "cgrseg_t:eager", "seaformer_l:openvino", "seaformer_l:eager"]
    (tmp_path / "segformer_b0").rmdir()
    script.main(arguments)
    assert len(commands) == 4  # only the one that failed runs again
