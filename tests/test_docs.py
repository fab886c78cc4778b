"""The docs match the code: quoted messages exist, and packages, layers and public names are listed."""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from test_frame import imports, layer_of

import cgrseg
from cgrseg import rivals
from cgrseg.description import Mixer
from cgrseg.paper.study import judge, read_study, text_report

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cgrseg"


def texts_of(path: Path) -> Iterator[str]:
    """Every string of a source file, with … for values that are filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def fits(quoted: str, text: str) -> bool:
    """Whether the quoted message can be a part of the message that `text` makes."""
    parts = [re.escape(part.strip()) for part in quoted.split("…") if part.strip()]
    return re.search(r".*?".join(parts), text, re.DOTALL) is not None


def test_messages_in_troubleshooting_exist_in_the_code() -> None:
    page = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("troubleshooting*.md"))
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert quoted
    known = [text for path in SOURCE.rglob("*.py") for text in texts_of(path)]
    assert [message for message in quoted if not any(fits(message, text) for text in known)] == []
    assert not any(fits("… is a bad photo: throw it away", text) for text in known)


def test_the_paper_page_lists_every_model_that_is_compared() -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    section = page.partition("## Compared methods")[2].partition("\n## ")[0]
    listed = {
        name
        for line in section.splitlines()
        if line[:3] == "| `"
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert listed == {*rivals.NAMES, "segnext_t", "segnext_s", "segnext_b"}


@pytest.mark.parametrize(
    ("name", "verdicts"),  # as the text below each table says
    [
        ("camvid-small", {"suggested": 3, "undecided": 5}),
        ("camvid-imagenet", {"holds": 1, "suggested": 3, "opposite suggested": 1, "undecided": 3}),
    ],
)
def test_the_paper_page_has_the_verdicts_of_the_stored_scores(name: str, verdicts: dict[str, int]) -> None:
    page = (ROOT / "docs" / "paper-claims.md").read_text(encoding="utf-8")
    rows = csv.DictReader((ROOT / "benchmarks" / f"study-{name}.csv").read_text(encoding="utf-8").splitlines())
    scores = {(row["arm"], int(row["seed"])): float(row["miou"]) for row in rows}
    study = read_study(ROOT / "recipes" / "studies" / f"{name}.yaml")
    assert text_report(study, scores).partition("\n\n")[2].strip() in page
    assert Counter(verdict.word for verdict in judge(study, scores)) == verdicts


def layers_of(page: str) -> list[str]:
    """The modules and packages in the first column of the table of docs/layout.md, in order."""
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    return [name.removesuffix(".py").rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_layout_page_lists_every_package_in_the_order_of_the_layers() -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    layers = layers_of(page)
    own = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(layers) == own - {"__init__", "__main__"} and len(layers) == len(set(layers))
    for path in sorted(SOURCE.rglob("*.py")):
        layer = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for _, name in imports(path, SOURCE) if layer in layers else ():
            other = layer_of(name) if name.split(".")[0] == "cgrseg" else layer
            assert layers.index(other) <= layers.index(layer), f"{path}: docs/layout.md has {other} below {layer}"


def test_the_layout_page_names_only_modules_that_exist() -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    missing = [path for path in re.findall(r"`([\w/]+\.py)`", page) if not list(SOURCE.rglob(path))]
    assert missing == []


def test_a_new_mixer_needs_as_many_places_as_the_layout_page_says() -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    (count,) = re.findall(r"^\| token mixer \| (\d+):", page, re.MULTILINE)
    mixers = set(get_args(Mixer)) - {"rca", "self_attention"}
    places = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if mixers & {text for text in texts_of(path) if text in mixers}
    }
    assert len(places) == int(count), places


def test_the_python_pages_document_the_public_names_and_list_them() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    public = set(cgrseg.__all__) - {"__version__"}
    assert set(re.findall(r"^::: cgrseg\.(\w+)$", pages, re.MULTILINE)) == public
    rows = re.findall(r"^\| \[.*\|([^|]*)\|$", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == public


def test_figures_with_their_date_are_on_the_benchmarks_page_only() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    cards = {"benchmark.md", "weights.md", "paper-claims.md", "train.md"}  # of weights, of a study, of an example
    dated = {page.name for page in pages if re.search(r"\b20\d\d-\d\d-\d\d\b", page.read_text(encoding="utf-8"))}
    assert "benchmark.md" in dated and dated <= cards


def test_the_card_of_the_bundled_weights_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for name in cgrseg.list_weights():
        card = (SOURCE / "weights" / "bundled" / f"{name}.md").read_text(encoding="utf-8")
        assert card.partition("\n")[2].strip() in page
