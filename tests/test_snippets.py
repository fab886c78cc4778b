"""Every snippet of README and docs does what it says: Python runs, commands are ones that there are.

The Python blocks of a page run from top to bottom as one program, in an empty folder with

    photo.jpg, street.jpg, photos/{a,b}.jpg       small photos
    runs/{mine,street}/{best,last}.safetensors    weights of two classes (cgrseg_n, untrained)
    mydata/, street/                              a dataset of two classes, with classes.json
    classes.json                                  its class list

The lines of a bash block are not run: verbs, flags, make targets, extras and files of the project are looked up;
... stands for arguments that are left out, and recipe.yaml and recipes/ are there to be read.

Above a block that can't be checked stands, as a line of its own, why: <!-- not run: needs a GPU -->
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

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
    """The blocks of a language, without those that say why they are not run."""
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
    """What is wrong with a command, if anything that can be known without running it."""
    program, arguments = words[0], words[1:]
    if program == "cgrseg":
        if not arguments:
            return None
        if arguments[0] == "VERB":
            return None
        given = [word for word in arguments if word != "..."]
        try:
            parse(given)
        except (ValueError, OSError) as error:
            more = len(given) < len(arguments) and "is missing" in str(error)
            return None if more else str(error)
    elif program == "make":
        unknown = {word for word in arguments if "=" not in word} - TARGETS
        return f"there is no make target {unknown}" if unknown else None
    elif program.startswith("python"):
        files = [word for word in arguments if re.match(r"(benchmarks|examples|tests|src)/", word)]
        gone = [file for file in files if not (ROOT / file).exists()]
        return f"there is no file {gone}" if gone else None
    elif "install" in arguments:
        for extras in re.findall(r"(?:cgrseg|\.)\[([\w,-]+)\]", " ".join(arguments)):
            unknown = set(extras.split(",")) - set(EXTRAS)
            if unknown:
                return f"there is no extra {unknown}"
    return None


@pytest.fixture
def folder(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which snippets run, see the top of this file."""
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
def test_python_of_the_page_runs(page: Path, request: pytest.FixtureRequest) -> None:
    blocks = snippets(page.read_text(encoding="utf-8"), "python")
    if not blocks:
        return
    request.getfixturevalue("folder")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_the_page_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "recipe.yaml").write_text("out: runs/mine\nbatch: 16\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    wrong = []
    for block in snippets(page.read_text(encoding="utf-8"), "bash"):
        for words in commands(block.text):
            if complaint := wrong_command(words):
                wrong.append(f"{page.name}, block at line {block.line}: {shlex.join(words)}: {complaint}")
    assert wrong == []


def test_blocks_are_found_with_their_lines_and_a_reason_skips_one() -> None:
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
def test_a_wrong_command_is_found(line: str, words: str) -> None:
    complaints = [complaint for each in commands(line) if (complaint := wrong_command(each))]
    assert len(complaints) == 1 and words in complaints[0]
