"""The snippets of README and docs work: Python runs, commands and their options exist.

The Python blocks of a page run from top to bottom as one program, in an empty folder with

    photo.jpg, street.jpg, photos/{a,b}.jpg       small photos
    runs/{mine,street}/{best,last}.safetensors    weights of two classes (cgrseg_n, untrained)
    mydata/, street/                              a dataset of two classes, with classes.json
    classes.json                                  its class list

The lines of a bash block are not run: commands, options, make targets, extras and files of the project are looked up;
... stands for omitted arguments, and recipe.yaml and recipes/ exist.

A block that cannot be checked has the reason on a line above it: <!-- not run: needs a GPU -->
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import cgrseg
from cgrseg.cli.main import parse
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"""^(?P<above>[^\n]*)\n  # the line above, or one further up where that is empty
    (?:[ \t]*\n)?
    (?P<indent>[ \t]*)```(?P<language>\w+)[^\n]*\n
    (?P<text>.*?)
    ^[ \t]*```""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
OPERATORS = {"&&", "||", "|", ";", "&"}


@dataclass
class Snippet:
    line: int  # of its first line, in the page
    language: str
    text: str


def snippets(page: str, language: str) -> list[Snippet]:
    """The blocks of a language, without those that give a reason why they are not run."""
    found = []
    for match in BLOCK.finditer("\n" + page):
        if match["language"] == language and not NOT_RUN.search(match["above"]):
            text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
            found.append(Snippet(page[: match.start("text") - 1].count("\n") + 1, language, text))
    return found


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a bash block, as words: without comments, operators, redirections and NAME=value."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in [*lexer, ";"]:
            if word in OPERATORS:
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            elif set(word) <= set("<>&"):
                skip = True
            elif skip:
                skip = False
            else:
                words.append(word)


def wrong_command(words: list[str]) -> str | None:
    """What is wrong with a command, as far as this is known without running it; None if nothing is."""
    program, arguments = words[0], words[1:]
    if program == "cgrseg":
        if not arguments:
            return None
        given = [word for word in arguments if word != "..."]
        try:
            parse(given)
        except (ValueError, OSError) as error:
            more = len(given) < len(arguments) and "is missing" in str(error)
            return None if more else str(error)
    elif program == "make":
        unknown = {word for word in arguments if "=" not in word} - TARGETS
        return f"no make target is called {unknown}" if unknown else None
    elif program.startswith("python"):
        files = [word for word in arguments if re.match(r"(benchmarks|examples|tests|src)/", word)]
        missing = [file for file in files if not (ROOT / file).exists()]
        return f"no file is called {missing}" if missing else None
    elif "install" in arguments:
        for extras in re.findall(r"(?:cgrseg|\.)\[([\w,-]+)\]", " ".join(arguments)):
            unknown = set(extras.split(",")) - set(EXTRAS)
            if unknown:
                return f"no extra is called {unknown}"
    return None


@pytest.fixture
def folder(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which snippets run, described at the top of this file."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as photo:
        small = photo.resize((128, 150))
    home = tmp_path / "here"
    (home / "photos").mkdir(parents=True)
    for name in ("photo.jpg", "street.jpg", "photos/a.jpg", "photos/b.jpg"):
        small.save(home / name)
    (home / "mydata").symlink_to(squares)
    (home / "street").symlink_to(squares)
    shutil.copy(squares / "classes.json", home / "classes.json")
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=2)
    labels = LabelSpace.from_classes_json(home / "classes.json")
    for name in ("mine/best", "mine/last", "street/best", "street/last"):
        path = home / "runs" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        artifact.save(model, path, labels=labels, half=True)
    monkeypatch.chdir(home)
    return home


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_snippets_run(page: Path, request: pytest.FixtureRequest) -> None:
    blocks = snippets(page.read_text(encoding="utf-8"), "python")
    if not blocks:
        return
    request.getfixturevalue("folder")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_snippets_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "recipe.yaml").write_text("out: runs/mine\nbatch: 16\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    wrong = []
    for block in snippets(page.read_text(encoding="utf-8"), "bash"):
        for words in commands(block.text):
            if complaint := wrong_command(words):
                wrong.append(f"{page.name}, block at line {block.line}: {shlex.join(words)}: {complaint}")
    assert wrong == []


def test_blocks_are_found_with_their_lines_and_a_reason_skips_a_block() -> None:
    page = "# A\n\n```python\na = 1\n```\n\n<!-- not run: needs a GPU -->\n```python\nb\n```\n"
    page += "\n- item\n\n  ```python\n  c = 2\n  ```\n"
    assert snippets(page, "python") == [Snippet(4, "python", "a = 1\n"), Snippet(15, "python", "c = 2\n")]
    assert snippets("<!-- not run: -->\n```python\na\n```\n", "python") != [], "a reason is needed"
    assert snippets("```python\na\n```\n", "python") == [Snippet(2, "python", "a\n")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cgrseg predikt a.jpg", "unknown command predikt"),
        ("cd x && cgrseg predict a.jpg --out o", "--weights is missing"),
        ("OMP_NUM_THREADS=1 cgrseg info cgrseg_t --sise 3x3  # with a comment", "unknown option --sise"),
        ("cgrseg predict a.jpg \\\n  --weights w --out o --batch many", "Invalid value for --batch"),
        ("make everything", "no make target"),
        ("python benchmarks/nothing.py 7", "no file"),
        ('pip install "cgrseg[apps]"', "no extra"),
    ],
)
def test_wrong_commands_are_found(line: str, words: str) -> None:
    complaints = [complaint for each in commands(line) if (complaint := wrong_command(each))]
    assert len(complaints) == 1 and words in complaints[0]


@pytest.mark.slow
def test_the_onnxruntime_snippet_labels_a_photo_of_another_size_as_predict_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    model = cgrseg.load("cgrseg_lite-voc21", device="cpu")
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    cgrseg.export(model, "exported", name="best", formats=["onnx"], io="image", sizes=[(64, 96)], batches=[1])
    (block,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs/ship.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/ship.md", "exec"), names)
    expected = cgrseg.Segmenter(model)("street.jpg")
    mask = np.asarray(names["mask"])
    assert min(mask.shape) != model.preprocessing.short_side, "the photo must be resized"
    assert mask.shape == expected.labels.shape and tuple(names["names"]) == expected.names
    assert (mask == expected.labels).mean() > 0.98  # borders differ, and 35 % agree without resizing
