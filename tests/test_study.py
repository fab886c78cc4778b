"""A study trains what is missing, resumes, pairs by seed, and says no more than its intervals allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from scipy.stats import ttest_1samp

from cgrseg.cli.main import main
from cgrseg.paper.statistics import holm, interval, p_value
from cgrseg.paper.study import Claim, Study, differences, judge, read_study, run, text_report
from cgrseg.training.config import TrainConfig

CLAIMS = [{"say": "one block is enough", "better": "one", "worse": "none"}]


@pytest.fixture
def write(tmp_path: Path, squares: Path) -> Callable[..., Path]:
    """Write the file of a 2x2 grid of 2 steps each."""

    def write(**changes: object) -> Path:
        table = {
            "title": "tiny",
            "train": {
                "model": "cgrseg_n",
                "data": str(squares),
                "spec": {"context_blocks": 1},
                "steps": 2,
                "batch": 2,
                "augment": {"crop": 64, "resize_to": None},
                "precision": "fp32",
                "workers": 0,
                "device": "cpu",
            },
            "arms": {"one": None, "none": {"spec": {"head": "none"}}},
            "seeds": [0, 1],
            "claims": CLAIMS,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**table, **changes}, sort_keys=False))
        return path

    return write


def test_a_grid_is_trained_stops_resumes_and_skips_what_is_finished(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out, lines = read_study(write()), tmp_path / "out", list[str]()

    def interrupt(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, out, interrupt)
    assert [line.partition(":")[0] for line in lines] == ["1/4 one, seed 0", "2/4 none, seed 0"]
    assert (out / "study.md").is_file()  # of the two finished cells

    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 2
    assert "one block is enough" in printed and "one - none" in printed
    assert {path.name for path in out.glob("study.*")} == {"study.md", "study.csv", "study.png", "study.svg"}
    assert len((out / "study.csv").read_text().splitlines()) == 5

    scores = run(study, out, print)
    assert set(scores) == {(arm, seed) for arm in ("one", "none") for seed in (0, 1)}
    longer = yaml.safe_load(write().read_text())["train"] | {"steps": 3}
    with pytest.raises(ValueError, match="is of a run with steps 2, not 3: choose another --out"):
        run(read_study(write(train=longer)), out, print)


def test_a_study_that_leaves_the_precision_open_can_be_continued(write: Callable[..., Path], tmp_path: Path) -> None:
    train = yaml.safe_load(write().read_text())["train"]
    train.pop("precision", None)
    study = read_study(write(train=train, seeds=[0]))
    assert study.arms["one"].precision == "auto"
    assert run(study, tmp_path / "out", print) == run(study, tmp_path / "out", print)


def test_intervals_are_students() -> None:
    middle, half = interval([1.0, 2.0, 3.0])
    assert middle == 2 and half == pytest.approx(4.302653 / math.sqrt(3))
    assert math.isnan(interval([1.0])[1])


def test_p_values_are_those_of_scipy() -> None:
    values = [1.0, 1.4, 0.3]
    assert p_value(values) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert math.isnan(p_value([5.0])) and p_value([0.0, 0.0]) == 1 and p_value([2.0, 2.0]) == 0


def test_holms_correction_is_as_by_hand() -> None:
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, math.nan])
    assert corrected[0] == pytest.approx(0.04) and math.isnan(corrected[1])  # a claim without seeds counts as well


@pytest.mark.parametrize(
    ("values", "claims", "word"),
    [
        ([1.0, 1.1, 0.9], 1, "holds"),
        ([-1.0, -1.1, -0.9], 1, "does not hold"),
        ([3.0, -1.0, 1.0], 1, "undecided"),
        ([5.0], 1, "undecided"),
        ([], 1, "undecided"),
        ([0.0, 0.0, 0.0], 1, "undecided"),
        ([2.9, 4.0, 2.0], 1, "holds"),  # p = .037
        ([2.9, 4.0, 2.0], 8, "suggested"),
        ([-2.9, -4.0, -2.0], 8, "opposite suggested"),
        ([1.0, 1.01, 0.99], 8, "holds"),
    ],
)
def test_a_verdict_needs_a_corrected_p_below_5_percent(values: list[float], claims: int, word: str) -> None:
    tested, others = Claim("x", "a", "b"), [Claim("y", "a", "a")] * (claims - 1)
    scores = {("a", seed): value for seed, value in enumerate(values)} | {("b", seed): 0.0 for seed in range(3)}
    study = Study("t", {}, (0, 1, 2), (tested, *others))
    assert judge(study, scores)[0].word == word


def test_arms_are_paired_by_seed() -> None:
    claim = Claim("x", "a", "b")
    scores = {("a", 0): 50.0, ("b", 0): 49.0, ("a", 1): 70.0, ("b", 1): 68.9, ("a", 2): 60.0}
    assert differences(claim, (0, 1, 2), scores) == pytest.approx([1.0, 1.1])
    study = Study("t", {"a": TrainConfig(out="."), "b": TrainConfig(out=".")}, (0, 1, 2), (claim,))
    text = " ".join(text_report(study, scores).split())
    assert "| x | a - b | +1.05 ± 0.64 | 2 | 0.030 | 0.030 | holds |" in text  # though the arms' own intervals overlap
    assert "| b | 49.00 | 68.90 | | 58.95 ± 126.43 |" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "seeds are [1, 1]: give one or more, each once"),
        ({"claims": [{"say": "x", "better": "one", "worse": "two"}]}, "names 'two', which is not an arm: add it"),
        ({"arms": {"one": {"stepz": 2}}, "claims": []}, "arm one"),
        (
            {"arms": {11: None}, "claims": []},
            "an arm is called 11, which YAML does not read as text: write it in quotes",
        ),
        (
            {"more": 1},
            "is not a study: there is no option more: choose from title, train, arms, seeds, claims",
        ),
        ({"arms": {"one": {"patience": 2}}, "claims": []}, "arm one has patience or batch auto"),
        ({"arms": {"one": {"batch": "auto"}}, "claims": []}, "arm one has patience or batch auto"),
        ({"arms": ["one"]}, "study.yaml is not a study: arms is ['one']: use a mapping"),
        ({"arms": {"one": 3}, "claims": []}, "study.yaml: arm one is 3: give a mapping of what it changes"),
        ({"seeds": "01"}, "study.yaml is not a study: seeds is '01': use a list of a whole number"),
        ({"claims": [{"say": "x"}]}, "study.yaml is not a study: claims.better is missing"),
    ],
)
def test_a_wrong_study_is_refused_before_it_trains(
    changes: dict[str, object], message: str, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(**changes)
    assert main(["study", str(path), "--out", str(path.parent / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (path.parent / "out").exists()


def test_the_study_of_the_papers_claims_can_be_read() -> None:
    study = read_study(Path(__file__).parents[1] / "recipes" / "studies" / "camvid-small.yaml", data="camvid")
    assert len(study.arms) == 8 and len(study.seeds) == 3 and len(study.claims) == 8
    assert {config.steps for config in study.arms.values()} == {500}
    assert study.arms["segnext"].model == "segnext_t" and study.arms["full"].data == "camvid"


def test_a_study_reads_numbers_as_a_recipe_does(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace("  steps: 2\n", "  steps: 2\n  optim: {lr: 1e-3}\n"))
    assert read_study(path).arms["one"].optim.lr == 0.001
    path.write_text(path.read_text() + "title: again\n")
    with pytest.raises(ValueError, match="has the key title twice"):
        read_study(path)
