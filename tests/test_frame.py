"""The layers of the package, what its imports cost, and what the pinned requirements contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cgrseg

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cgrseg"
LAYERS = [
    *("_process", "_text", "_progress", "typed", "_yaml", "labels", "preprocessing", "description", "images"),
    *("nn", "rivals", "weights", "inference", "data", "evaluation", "training", "deploy", "measure", "paper"),
    *("server", "web", "cluster", "cli"),
]
TOP = {"__init__", "__main__"}  # `cgrseg/__init__.py` and `__main__.py` may import everything
NN_IMPORTS = {"torch", "timm", "labels", "preprocessing", "description", *sys.stdlib_module_names}
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "fastapi", "ray", "lightning_fabric"}
VERBS = [
    *("demo", "app", "doctor", "predict", "info", "check-data", "import-data", "convert-masks", "train", "val"),
    *("export", "benchmark", "serve", "push", "convert", "tables", "figures", "study"),
]


def imports(path: Path, source: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file of the package imports, anywhere in the file."""
    package = ("cgrseg", *path.relative_to(source).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def layer_of(name: str) -> str:
    """The layer that an import from `cgrseg` ends up in; a public name counts as its module."""
    module = re.sub(r"^cgrseg\.(\w+)$", lambda match: cgrseg._MODULES.get(match[1], match[0]), name)
    # `import cgrseg` alone gives access to every public name, the highest of which is `export`.
    return {"cgrseg": "deploy", "cgrseg.__version__": "_process"}.get(module) or module.split(".")[1]


def wrong_imports(source: Path) -> list[str]:
    """One line for each import from a higher layer."""
    wrong = []
    for path in sorted(source.rglob("*.py")):
        layer = path.relative_to(source).parts[0].removesuffix(".py")
        if layer in TOP:
            continue
        where = path.relative_to(source)
        if layer not in LAYERS:
            wrong.append(f"{where}: there is no layer {layer}")
            continue
        for line, name in imports(path, source):
            ours = name.split(".")[0] == "cgrseg"
            other = layer_of(name) if ours else name.split(".")[0]
            if other == layer:
                continue
            if layer == "nn":
                bad = other not in NN_IMPORTS
            else:
                bad = ours and (other not in LAYERS or LAYERS.index(other) > LAYERS.index(layer))
            if bad:
                wrong.append(f"{where}:{line}: {layer} imports {name}")
    return wrong


def test_every_package_imports_only_lower_layers() -> None:
    assert wrong_imports(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("labels.py", "import cgrseg.preprocessing", "labels imports cgrseg.preprocessing"),
        ("labels.py", "from cgrseg import nn", "labels imports cgrseg.nn"),
        ("nn/model.py", "from ..images import photos", "nn imports cgrseg.images.photos"),
        ("nn/model.py", "import cgrseg", "nn imports cgrseg"),
        ("nn/backbones/mscan.py", "import numpy as np", "nn imports numpy"),
        ("nn/backbones/mscan.py", "from ...weights import load", "nn imports cgrseg.weights.load"),
        ("weights/load.py", "def f():\n    from cgrseg import Segmenter", "weights imports cgrseg.Segmenter"),
        ("inference/result.py", "if X:\n    import cgrseg.data.listing", "inference imports cgrseg.data.listing"),
        ("measure/speed.py", "from ..cli.main import main", "measure imports cgrseg.cli.main.main"),
        ("utils/things.py", "import os", "there is no layer utils"),
    ],
)
def test_an_import_from_a_higher_layer_is_found(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code, encoding="utf-8")
    (found,) = wrong_imports(tmp_path)
    assert found.endswith(complaint)


def test_imports_from_lower_layers_and_the_same_package_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    lines = [
        "import numpy",
        "from . import metrics",
        "from .report import text_table",
        "from ..nn import CGRSeg",
        "from cgrseg import LabelSpace, Segmenter, __version__, load",
        "from cgrseg.weights.artifact import save",
    ]
    (tmp_path / "evaluation" / "plots.py").write_text("\n".join(lines), encoding="utf-8")
    assert wrong_imports(tmp_path) == []


def modules_of(code: str) -> set[str]:
    """The top-level packages that a new interpreter has imported after running `code`."""
    text = f"import sys\n{code}\nprint('\\n', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [[], ["--help"], ["-V"], ["predikt"], *([verb, "--help"] for verb in VERBS)])
def test_help_and_mistakes_import_nothing_heavy(words: list[str]) -> None:
    assert not modules_of(f"from cgrseg.cli.main import main\nmain({words})") & HEAVY


@pytest.mark.parametrize("module", ["cgrseg", "cgrseg.cli.main", "cgrseg.training.config", "cgrseg.labels"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert not modules_of(f"import {module}") & HEAVY


def test_printing_the_configuration_imports_nothing_heavy() -> None:
    assert not modules_of("from cgrseg.cli.main import main\nmain(['train', '--print_config'])") & HEAVY


@pytest.mark.parametrize("module", ["cgrseg.nn", "cgrseg.inference.pipeline", "cgrseg.weights.load"])
def test_the_default_models_need_neither_timm_nor_torchvision(module: str) -> None:
    assert not modules_of(f"import {module}") & {"timm", "torchvision", "matplotlib"}


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "gone.jpg", "--weights", "cgrseg_lite-voc21", "--out", "out"],
        ["predict", ".", "--weights", "gone.safetensors", "--out", "out"],
        ["train", "--out", "run", "--data", "nowhere"],
        ["train", "--out", "run", "--init", "gone.pth"],
        ["val", "--weights", "gone.onnx", "--data", "."],
        ["info", "gone.safetensors"],
        ["export", "--weights", "cgrseg_lite-voc21", "--out", "out", "--int8"],
        ["convert", "gone.pth", "--out", "out.safetensors"],
        ["figures", "attention", "gone.jpg", "--weights", "cgrseg_lite-voc21"],
        ["study", "gone.yaml", "--out", "out"],
    ],
)
def test_cheap_checks_come_before_torch_is_imported(words: list[str]) -> None:
    code = f"from cgrseg.cli.main import main\nassert main({words}) == 2"
    assert "torch" not in modules_of(code)


def test_every_public_name_can_be_imported() -> None:
    assert set(cgrseg._MODULES) | {"__version__"} == set(cgrseg.__all__) <= set(dir(cgrseg))
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
        want = {re.split(r"[\[ ;><=]", item)[0].lower().replace("_", "-") for item in requirements}
        assert want <= have, f"run `make lock`: requirements/{name} lacks {want - have}"
    assert pinned("base.txt") <= pinned("dev.txt")
