"""The `cgrseg` command: a signature becomes flags, what goes wrong becomes one line and an exit code."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal, get_type_hints

import pytest

from cgrseg.cli.main import VERBS, main

CALLS: list[dict[str, object]] = []


def paint(
    photos: list[str],
    *,
    weights: Path,
    short_side: int | None = None,
    alpha: float = 0.5,
    device: Literal["auto", "cpu"] = "auto",
    resume: bool = False,
) -> int | None:
    """Paint photos.

    Args:
        photos: photos, folders or globs
        weights: the weights file
        short_side: shorter side in pixels
        alpha: how strong the colours are
        device: where to compute
        resume: leave finished photos alone
    """
    CALLS.append(dict(locals()))
    return 1 if "broken.jpg" in photos else None


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Put a function in the place of the verb `paint`."""

    def put(function: Callable[..., object]) -> None:
        module = types.ModuleType("cgrseg.cli.paint")
        module.__dict__["paint"] = function
        monkeypatch.setitem(sys.modules, "cgrseg.cli.paint", module)
        monkeypatch.setitem(VERBS, "paint", "paint photos")

    CALLS.clear()
    put(paint)
    return put


@pytest.mark.usefixtures("verb")
def test_a_signature_becomes_positionals_and_flags() -> None:
    assert main(["paint", "a.jpg", "b/", "--weights", "f.safetensors", "--short-side", "512", "--resume"]) == 0
    assert main(["paint", "--weights=f", "--alpha=1", "--device", "cpu", "broken.jpg"]) == 1
    first, second = CALLS
    assert first == {
        "photos": ["a.jpg", "b/"],
        "weights": Path("f.safetensors"),
        "short_side": 512,
        "alpha": 0.5,
        "device": "auto",
        "resume": True,
    }
    assert (second["alpha"], second["device"], second["resume"]) == (1.0, "cpu", False)


@pytest.mark.usefixtures("verb")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["piant", "a.jpg"], "no verb 'piant': did you mean paint?"),
        (["xyzzy"], "no verb 'xyzzy': `--help` lists what there is"),
        (["--verison"], "no option '--verison': did you mean --version?"),
        (["paint", "a.jpg", "--wieghts", "f"], "no option --wieghts: did you mean --weights?"),
        (
            ["paint", "a.jpg", "--weights=f", "--shortside=3"],
            "no option --shortside: did you mean --short-side?",
        ),
        (["paint", "a.jpg", "--weights=f", "--qqq"], "no option --qqq: `--help` lists what there is"),
        (["paint", "a.jpg"], "missing --weights"),
        (["paint", "--weights", "f"], "missing PHOTOS"),
        (["paint", "a.jpg", "--weights"], "argument --weights: expected one argument"),
        (["paint", "a.jpg", "--weights=f", "--short-side", "x"], "--short-side takes a whole number, not x"),
        (["paint", "a.jpg", "--weights=f", "--alpha", "much"], "--alpha takes a number, not much"),
        (["paint", "a.jpg", "--weights=f", "--device", "tpu"], "--device takes auto or cpu, not tpu"),
        (["paint", "a.jpg", "--weights=f", "b.jpg"], "unrecognized arguments: b.jpg"),
    ],
)
def test_a_slip_of_the_fingers_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"cgrseg: {message}\n")
    assert CALLS == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            ValueError("mask a.png holds class 12,\n  but classes.json ends at 10"),
            2,
            "mask a.png holds class 12, but",
        ),
        (FileNotFoundError("No such file: a.jpg"), 2, "No such file: a.jpg"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), 2, "No such file or directory: a.jpg"),
        (PermissionError(13, "Permission denied", "out/a.png"), 2, "Permission denied: out/a.png"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_what_a_verb_raises_becomes_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    verb: Callable[[Callable[..., object]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def paint() -> None:
        raise error

    verb(paint)
    assert main(["paint"]) == code
    output = capfd.readouterr().err
    assert output.startswith(f"cgrseg: {message}") if message else output == ""
    assert output.count("\n") == bool(message)


def test_a_bug_in_a_verb_is_not_hidden(verb: Callable[[Callable[..., object]], None]) -> None:
    def paint() -> None:
        raise KeyError("bug")

    verb(paint)
    with pytest.raises(KeyError, match="bug"):
        main(["paint"])


@pytest.mark.usefixtures("verb")
def test_help_says_what_the_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {verb} " in overview for verb in VERBS)
    assert main(["paint", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: cgrseg paint",
        "Paint photos.",
        "PHOTOS [PHOTOS ...]",
        "--short-side",
        "leave finished photos",
    ):
        assert part in text
    assert "<class" not in text


@pytest.mark.parametrize("name", VERBS)
def test_every_option_of_every_verb_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function = getattr(import_module(f"cgrseg.cli.{name.replace('-', '_')}"), name.replace("-", "_"))
    documented = inspect.getdoc(function) or ""
    hints = get_type_hints(function)
    for parameter in inspect.signature(function).parameters:
        if dataclasses.is_dataclass(hints[parameter]):  # its fields are the options
            for field in dataclasses.fields(hints[parameter]):
                assert re.search(rf"\b{field.name}\b[\w, ]*: ", inspect.getdoc(hints[parameter]) or ""), field.name
            continue
        assert f"    {parameter}: " in documented, f"cgrseg {name}: the docstring does not explain {parameter}"
    assert main([name, "--help"]) == 0
    assert f"usage: cgrseg {name}" in capsys.readouterr().out


def test_every_file_of_a_verb_is_in_the_table() -> None:
    folder = Path(inspect.getfile(main)).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    assert files - {"main"} == set(VERBS)


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), ([], 2), (["dmeo"], 2)])
def test_python_dash_m_is_the_same_command(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "cgrseg", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) is (code == 0)
