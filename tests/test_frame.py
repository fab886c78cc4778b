"""The house keeps its plan: who may import whom, what is instant, what the pinned requirements say."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cgrseg
from cgrseg.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cgrseg"
FLOORS = [
    *("_atomic", "_process", "labels", "preprocessing", "nn", "weights", "inference", "data", "evaluation"),
    *("training", "measure", "deploy", "paper", "serving", "cli"),
]
DOOR = {"__init__", "__main__"}  # `cgrseg/__init__.py` and `__main__.py` stand outside and see every room
NN_LIBRARIES = {"torch", "timm", *sys.stdlib_module_names}


def imports(path: Path, source: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file of the package imports, wherever in the file."""
    package = ("cgrseg", *path.relative_to(source).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def room_of(name: str) -> str:
    """The room that an import from `cgrseg` ends up in; a public name counts as its home."""
    home = re.sub(r"^cgrseg\.(\w+)$", lambda match: cgrseg._HOME_OF.get(match[1], match[0]), name)
    # `import cgrseg` reaches all that the door hands out, the highest of which is the Segmenter.
    return {"cgrseg": "inference", "cgrseg.__version__": "_atomic"}.get(home) or home.split(".")[1]


def broken_floors(source: Path) -> list[str]:
    """One line for each import that the plan forbids."""
    broken = []
    for path in sorted(source.rglob("*.py")):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        if room in DOOR:
            continue
        where = path.relative_to(source)
        if room not in FLOORS:
            broken.append(f"{where}: the plan has no room {room}")
            continue
        for line, name in imports(path, source):
            if name.split(".")[0] != "cgrseg":
                if room == "nn" and name.split(".")[0] not in NN_LIBRARIES:
                    broken.append(f"{where}:{line}: nn imports {name}")
                continue
            other = room_of(name)
            if other == room:
                continue
            if room == "nn" or other not in FLOORS or FLOORS.index(other) > FLOORS.index(room):
                broken.append(f"{where}:{line}: {room} imports {name}")
    return broken


def test_every_room_imports_only_rooms_below_it() -> None:
    assert broken_floors(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("labels.py", "import cgrseg.preprocessing", "labels imports cgrseg.preprocessing"),
        ("labels.py", "from cgrseg import nn", "labels imports cgrseg.nn"),
        ("nn/model.py", "from ..labels import LabelSpace", "nn imports cgrseg.labels.LabelSpace"),
        ("nn/model.py", "import cgrseg", "nn imports cgrseg"),
        ("nn/backbones/mscan.py", "import numpy as np", "nn imports numpy"),
        ("nn/backbones/mscan.py", "from ...weights import create", "nn imports cgrseg.weights.load"),
        (
            "weights/create.py",
            "def f():\n    from cgrseg import Segmenter",
            "weights imports cgrseg.Segmenter",
        ),
        (
            "inference/result.py",
            "if X:\n    import cgrseg.data.listing",
            "inference imports cgrseg.data.listing",
        ),
        ("measure/speed.py", "from ..cli.main import main", "measure imports cgrseg.cli.main.main"),
        ("utils/things.py", "import os", "the plan has no room utils"),
    ],
)
def test_a_planted_import_from_above_is_found(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code, encoding="utf-8")
    (found,) = broken_floors(tmp_path)
    assert found.endswith(complaint)


def test_imports_from_below_and_within_a_room_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "inference").mkdir()
    lines = [
        "import cgrseg, numpy",
        "from . import modes",
        "from .result import Segmentation",
        "from ..nn import CGRSeg",
        "from cgrseg import LabelSpace, __version__, load",
        "from cgrseg.weights.artifact import save",
    ]
    (tmp_path / "inference" / "segmenter.py").write_text("\n".join(lines), encoding="utf-8")
    assert broken_floors(tmp_path) == []


INSTANT = {"import cgrseg": "0", "cgrseg --help": "main(['--help'])"} | {
    f"cgrseg {verb} --help": f"main([{verb!r}, '--help'])" for verb in VERBS
}


def processor_seconds() -> float:
    """Of all finished children: on a machine that others use, the clock on the wall also shows what they do."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("what", INSTANT)
def test_help_and_import_are_instant_and_leave_torch_alone(what: str) -> None:
    door = "import cgrseg" if what == "import cgrseg" else "from cgrseg.cli.main import main"
    code = f"import sys\n{door}\ncode = {INSTANT[what]}\nsys.exit('torch' if 'torch' in sys.modules else code)"
    best = 60.0
    for _ in range(5):
        start = processor_seconds()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        best = min(best, processor_seconds() - start)
        if best < 0.6:
            break
    assert best < 0.6, f"{what} takes {best:.2f} s at best"


def test_the_door_hands_out_every_public_name() -> None:
    assert set(cgrseg._HOME_OF) | {"__version__"} == set(cgrseg.__all__) <= set(dir(cgrseg))
    for name in cgrseg.__all__:
        assert getattr(cgrseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'segmenter_'"):
        _ = cgrseg.segmenter_


def pinned(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[\w.+-]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["uv.txt", "base.txt", "dev.txt"])
def test_pinned_requirements_are_hashed_and_name_no_host(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert set(re.findall(r"--[a-z-]+", text)) == {"--hash"}
    entries = re.split(r"\n(?=\w)", text.strip())
    assert len(entries) >= len(pinned(name)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)


def test_pinned_requirements_cover_what_the_package_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    plain = {"base.txt": project["dependencies"]}
    plain["dev.txt"] = plain["base.txt"] + extras["video"] + extras["dev"] + extras["docs"]
    for name, requirements in plain.items():
        have = {pin.partition("==")[0] for pin in pinned(name)}
        want = {re.split(r"[\[ ><=]", item)[0].lower().replace("_", "-") for item in requirements}
        assert want <= have, f"run `make lock`: requirements/{name} lacks {want - have}"
    assert pinned("base.txt") <= pinned("dev.txt")
