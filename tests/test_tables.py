"""The tables show the paper's numbers as the paper's, and as ours only what was counted or measured here."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from cgrseg.cli.main import main
from cgrseg.nn import VARIANTS, ModelSpec
from cgrseg.paper import tables
from cgrseg.paper.published import published
from cgrseg.paper.tables import Measured, cost_of, heading, lines, same_architecture, spec_of


@pytest.fixture
def fake_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting is tested elsewhere, and takes a second a model."""

    def cost(spec: ModelSpec) -> tables.Cost:
        return tables.Cost(parameters=7_777_777, paper_flops=8_888_888_888, macs=0)

    monkeypatch.setattr(tables, "cost_of", cost)


def column(number: int, name: str, measured: list[Measured] | None = None) -> list[str]:
    table = published()[number - 1]
    index = heading(table).index(name)
    return [line[index] for line in lines(table, measured or [])]


def test_counted_sizes_stand_beside_the_papers_and_agree() -> None:
    assert column(4, "FLOPs ours, G") == column(4, "FLOPs paper, G") == ["3.56", "3.64", "3.83", "3.92", "4.00"]
    assert column(4, "parameters ours, M") == column(4, "parameters paper, M")
    page = Path(__file__).parents[1] / "docs" / "paper-tables.md"
    assert tables.render(published()[3], (), "md") in page.read_text(encoding="utf-8")


def test_no_published_number_stands_in_our_columns(fake_costs: None) -> None:
    for table in published():
        for row, line in zip(table.rows, lines(table), strict=True):
            ours = [cell for name, cell in zip(heading(table), line, strict=True) if " ours" in name]
            counted = {"", f"{7.777777:.1f}", f"{7.777777:.2f}", f"{8.888888:.1f}", f"{8.888888:.2f}"}
            assert set(ours) <= counted, line
            assert ours[0] == ""  # mIoU was not measured
            assert (ours[1] == "") == (row.ours is None)


def test_a_measured_score_counts_for_its_architecture_dataset_and_mode_alone(fake_costs: None) -> None:
    trained = dataclasses.replace(VARIANTS["cgrseg_t"], num_classes=150, bias_mode="official")
    measured = [Measured(spec=trained, miou={("ade20k", "whole"): 12.34})]
    first = column(1, "mIoU ours, %", measured)
    assert [cell for cell in first if cell] == ["12.3"]
    assert first[6] == "12.3" and published()[0].rows[6].method == "CGRSeg-T"
    assert not any(column(2, "mIoU ours, %", measured)) and not any(column(3, "mIoU ours, %", measured))
    assert column(8, "mIoU ours, %", measured) == ["", "", "12.34"]


def test_a_benchmark_file_fills_the_speed(fake_costs: None, tmp_path: Path) -> None:
    t = VARIANTS["cgrseg_t"]
    rows = [
        row(t, 21.04, 50.0),
        row(dataclasses.replace(t, bias_mode="official"), 9.0, 200.0),
        row(None, 99.0, 9.0),
        row(dataclasses.replace(t, head="se"), 77.0, 8.0),
    ]
    write_report(tmp_path / "speed.json", rows, [512, 512])
    measured = tables.read_speeds(tmp_path / "speed.json")
    speeds = column(1, "speed ours, images/s", measured)
    assert [cell for cell in speeds if cell] == ["21.0"]
    assert [one.latency_ms for one in measured] == [50.0, 8.0]  # the fastest of each architecture


def row(spec: ModelSpec | None, images_per_second: float, latency_ms: float) -> dict[str, object]:
    """What `cgrseg benchmark` writes of a contender, as far as tables need it."""
    fields = None if spec is None else dataclasses.asdict(spec)
    speeds = {"images_per_second": images_per_second, "network_ms": {"median": latency_ms}}
    return {"label": "one", "model": "theirs" if spec is None else spec.name, "spec": fields, **speeds}


def write_report(path: Path, rows: list[dict[str, object]], size: list[int]) -> None:
    path.write_text(json.dumps({"format": 1, "settings": {"size": size}, "machine": {}, "results": rows}))


def test_scores_of_val_are_read(fake_costs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = dataclasses.asdict(dataclasses.replace(VARIANTS["cgrseg_l"], num_classes=59))
    report = {"format": "pascal-context", "mode": "tta", "miou": 0.5178, "spec": spec}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scores.json").write_text(json.dumps(report))
    assert main(["tables", "--table", "3", "--format", "csv", "--scores", str(tmp_path)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["mIoU ours, %"] for row in rows if row["mIoU ours, %"]] == ["51.8"]
    assert rows[-1]["method"] == "CGRSeg-L" and rows[-1]["mIoU paper, %"] == "58.5"


@pytest.mark.parametrize("form", ["md", "html"])
def test_every_table_is_printed(
    fake_costs: None, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "--format", form, "--out", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / "all").read_text()
    for number in range(1, 11):
        assert f"Table {number}: " in text
    assert text.count("GatherExcite") == 1 and "(label lost)" in text and "43.60" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "11"], "--table 11: the paper has tables 1 to 10"),
        (["--scores", "."], "holds no scores.json: give a folder that `cgrseg val --out` wrote"),
        (["--speed", "bad.json"], "bad.json is no JSON file: give one of `cgrseg benchmark`"),
        (["--speed", "old.json"], "old.json is no report of this version: write it again with `cgrseg benchmark`"),
        (["--speed", "small.json"], "small.json was measured at 64x96, the paper at 512x512: measure it there"),
        (["--speed", "theirs.json"], "theirs.json holds no model of ours: measure one, such as `cgrseg benchmark"),
        (["--scores", "old.json"], "old.json has no 'format': write it again with `cgrseg val --out`"),
    ],
)
def test_bad_input_is_worded_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "old.json").write_text('{"miou": 1}')
    write_report(tmp_path / "small.json", [row(VARIANTS["cgrseg_t"], 1.0, 1.0)], [64, 96])
    write_report(tmp_path / "theirs.json", [row(None, 1.0, 1.0)], [512, 512])
    monkeypatch.chdir(tmp_path)
    assert main(["tables", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_architectures_are_told_apart() -> None:
    t = VARIANTS["cgrseg_t"]
    assert same_architecture(t, dataclasses.replace(t, num_classes=3, bias_mode="official", dropout=0.0))
    assert not same_architecture(t, dataclasses.replace(t, head="se"))
    assert cost_of(t).parameters == 9_364_611 or round(cost_of(t).parameters / 1e6, 4) == 9.3646
    assert spec_of(published()[0].rows[0]) is None
