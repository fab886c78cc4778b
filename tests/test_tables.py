"""The tables show the paper's numbers as the paper's, and as ours only what was counted or measured here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cgrseg.cli.main import main
from cgrseg.labels import LabelSpace
from cgrseg.nn import VARIANTS, ModelSpec, build
from cgrseg.paper import tables
from cgrseg.paper.measured import Measured, Score, match, model_of, not_comparable, read_scores, read_speeds
from cgrseg.paper.published import Protocol, published
from cgrseg.paper.tables import heading, lines
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact

TABLES = published()
ADE20K, COCO, PASCAL = (TABLES[number].protocol for number in (0, 1, 2))
T = VARIANTS["cgrseg_t"]


def column(number: int, name: str, measured: Measured | None = None) -> list[str]:
    table = TABLES[number - 1]
    index = heading(table).index(name)
    return [line[index] for line in lines(table, measured or Measured())]


@pytest.mark.slow
def test_the_stored_counts_are_those_of_the_models() -> None:
    for model, counts in tables.counts().items():
        assert tables.count(model) == counts, model


def test_counted_sizes_stand_beside_the_papers_and_agree() -> None:
    assert column(4, "FLOPs ours, G") == column(4, "FLOPs paper, G") == ["3.56", "3.64", "3.83", "3.92", "4.00"]
    assert column(4, "parameters ours, M") == column(4, "parameters paper, M")
    page = Path(__file__).parents[1] / "docs" / "paper-tables.md"
    written = "\n".join(tables.render(table, Measured(), "md") for table in TABLES)
    assert page.read_text(encoding="utf-8").endswith(written), "write docs/paper-tables.md again"


def test_no_published_number_is_in_our_columns() -> None:
    for table in TABLES:
        for row, line in zip(table.rows, lines(table, Measured()), strict=True):
            cells = dict(zip(heading(table), line, strict=True))
            ours = [cells[name] for name in cells if " ours" in name]
            assert cells["mIoU ours, %"] == ""  # not measured
            assert cells.get("speed ours, images/s", "") == ""
            assert any(ours) == (row.ours is not None)
            if row.ours is not None:
                model = model_of(row)
                assert model is not None
                cost, digits = tables.cost_of(model), len(cells["FLOPs ours, G"].partition(".")[2])
                assert cells["FLOPs ours, G"] == f"{cost.paper_flops / 1e9:.{digits}f}"
                assert cells["multiply-adds ours, G"] == f"{cost.macs / 1e9:.{digits}f}"


def test_a_score_counts_for_its_architecture_and_protocol() -> None:
    trained = dataclasses.replace(T, bias_mode="official")
    measured = Measured([Score(trained, 12.34, ADE20K, "scores.json")])
    first = column(1, "mIoU ours, %", measured)
    assert first[6] == "12.3" and TABLES[0].rows[6].method == "CGRSeg-T"
    assert [cell for cell in first if cell] == ["12.3"]
    assert not any(column(2, "mIoU ours, %", measured)) and not any(column(3, "mIoU ours, %", measured))
    assert column(8, "mIoU ours, %", measured) == ["", "", "12.34"]
    assert not_comparable(TABLES, measured.scores) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"split": "train"}, "split train, not val"),
        ({"images": 3}, "images 3, not 2000"),
        ({"short_side": 256}, "short side 256, not 512"),
        ({"mode": "tta"}, "mode tta, not whole"),
        ({"mode": "slide, window 512"}, "mode slide, window 512, not whole"),
        ({"classes": 151}, "classes 151, not 150"),
        ({"dataset": "folder"}, "dataset folder, not ade20k"),
    ],
)
def test_a_score_of_another_protocol_is_listed_apart(changes: dict[str, Any], difference: str) -> None:
    measured = Measured([Score(T, 50.0, dataclasses.replace(ADE20K, **changes), "three.json")])
    for table in TABLES:
        assert not any(column(table.number, "mIoU ours, %", measured))
    line = f"cgrseg_t, 50.00 % (three.json), against Table 1, CGRSeg-T: {difference}"
    assert not_comparable(TABLES, measured.scores) == [line]
    assert line in tables.render_not_comparable(TABLES, measured, "md")


def test_a_score_of_another_architecture_is_listed_apart() -> None:
    score = Score(dataclasses.replace(T, width=96), 50.0, ADE20K, "x.json")
    assert not_comparable(TABLES, [score]) == [
        "cgrseg_t, 50.00 % (x.json), against Table 1: no row has this architecture"
    ]


def test_coco_stuff_10k_and_164k_are_two_datasets() -> None:
    tenth = dataclasses.replace(COCO, dataset="coco-stuff10k", images=1000, mode="scales")
    measured = Measured([Score(T, 40.0, COCO, "a"), Score(T, 39.0, tenth, "b")])
    assert [cell for cell in column(2, "mIoU ours, %", measured) if cell] == ["40.0"]
    (line,) = not_comparable(TABLES[1:2], measured.scores)
    assert "dataset coco-stuff10k, not coco-stuff164k; images 1000, not 5000; mode scales, not whole" in line


def test_the_released_b_has_the_row_of_b_and_is_marked() -> None:
    released = dataclasses.replace(VARIANTS["cgrseg_b"], context_blocks=6, bias_mode="official")
    measured = Measured([Score(released, 45.41, ADE20K, "b.json")])
    assert [cell for cell in column(1, "mIoU ours, %", measured) if cell] == ["45.4 (N = 6)"]


def test_a_benchmark_file_fills_the_speed_of_ours_and_of_rivals(tmp_path: Path) -> None:
    rows = [
        row(T, 21.04, 50.0),
        row(dataclasses.replace(T, bias_mode="official"), 9.0, 200.0),
        row(None, 99.0, 9.0),
        row(dataclasses.replace(T, head="se"), 77.0, 8.0),
        {**row(None, 33.0, 7.0), "model": "segformer_b0"},
    ]
    write_report(tmp_path / "speed.json", rows, [512, 512])
    measured = Measured(speeds=read_speeds(tmp_path / "speed.json"))
    speeds = column(1, "speed ours, images/s", measured)
    assert [cell for cell in speeds if cell] == ["33.0", "21.0"]
    assert [one.latency_ms for one in measured.speeds] == [50.0, 8.0, 7.0]  # the fastest of each architecture


def row(spec: ModelSpec | None, images_per_second: float, latency_ms: float) -> dict[str, object]:
    """What `cgrseg benchmark` writes of a candidate, as far as tables need it."""
    fields = None if spec is None else dataclasses.asdict(spec)
    speeds = {"images_per_second": images_per_second, "network_ms": {"median": latency_ms}}
    return {"label": "one", "model": "theirs" if spec is None else spec.name, "spec": fields, **speeds}


def write_report(path: Path, rows: list[dict[str, object]], size: list[int]) -> None:
    path.write_text(json.dumps({"format": 1, "settings": {"size": size}, "machine": {}, "results": rows}))


def test_what_val_writes_is_read_back(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "nano.safetensors"
    model = build("cgrseg_n", num_classes=2, context_blocks=1)
    model.describe(preprocessing=Preprocessing(short_side=64))
    artifact.save(model, weights, labels=LabelSpace(("ground", "square"), ((0, 0, 0), (255, 0, 0))))
    command = ["val", "--weights", str(weights), "--data", str(squares), "--out", str(tmp_path / "report")]
    assert main([*command, "--device", "cpu"]) == 0
    (score,) = read_scores(tmp_path)
    assert score.protocol == Protocol("folder", "test", 2, 2, "whole", 64, 2048)
    assert score.model == model.spec
    capsys.readouterr()
    assert main(["tables", "--table", "1", "--scores", str(tmp_path)]) == 0
    assert "dataset folder, not ade20k; split test, not val; images 2, not 2000" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["md", "html"])
def test_every_table_is_printed(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--format", form, "--out", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / "all").read_text()
    for number in range(1, 11):
        assert f"Table {number}: " in text
    assert text.count("GatherExcite") == 1 and "(label lost)" in text and "43.60" in text
    assert "leaves matrix products out" in text  # how FLOPs were counted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "11"], "--table 11: the paper has tables 1 to 10"),
        (["--scores", "."], "has no scores.json: give a folder that `cgrseg val --out` wrote"),
        (["--speed", "bad.json"], "bad.json is not a JSON file: give one of `cgrseg benchmark`"),
        (["--speed", "old.json"], "old.json is not a report of this version: write it again with `cgrseg benchmark`"),
        (["--speed", "small.json"], "small.json was measured at 64x96, the paper at 512x512: measure it there"),
        (
            ["--speed", "theirs.json"],
            "theirs.json has no model of ours or of the paper: measure one",
        ),
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


def test_classes_rates_and_bias_mode_do_not_change_the_architecture() -> None:
    row = TABLES[0].rows[6]
    assert match(dataclasses.replace(T, num_classes=3, bias_mode="official", dropout=0.0), row) == ""
    assert match(dataclasses.replace(T, head="se"), row) is None
    assert match("segformer_b0", row) is None and match("segformer_b0", TABLES[0].rows[1]) == ""
