"""The `cgrseg` command: flags from signatures, one line for every mistake, exit codes, help, recipes."""

from __future__ import annotations

import inspect
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import yaml
from cyclopts import App
from cyclopts.types import PositiveInt

from cgrseg._yaml import read_yaml
from cgrseg.cli import main as command
from cgrseg.cli._common import check_same_classes
from cgrseg.cli.main import main, make_app
from cgrseg.labels import LabelSpace
from cgrseg.training.config import TrainConfig

GROUPS = {
    "Start": ["demo", "app", "doctor"],
    "Use": ["predict", "info"],
    "Train": ["check-data", "import-data", "convert-masks", "train", "val"],
    "Ship": ["export", "benchmark", "serve", "push", "convert"],
    "Paper": ["tables", "figures", "study"],
}
VERBS = [verb for verbs in GROUPS.values() for verb in verbs]
CALLS: list[dict[str, object]] = []


def paint(
    photos: list[str],
    /,
    *,
    weights: Path,
    short_side: int | None = None,
    alpha: float = 0.5,
    batch: PositiveInt = 1,
    device: Literal["auto", "cpu"] = "auto",
    compare: list[str] | None = None,
    resume: bool = False,
) -> int | None:
    """Paint photos.

    Args:
        photos: photos, folders or globs
        weights: the weights file
        short_side: shorter side in pixels
        alpha: opacity of the colours
        batch: photos at once
        device: where to compute
        compare: other weights
        resume: leave finished photos alone
    """
    CALLS.append(dict(locals()))
    return 1 if "broken.jpg" in photos else None


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Add a function to the commands; `paint` above is added."""

    def put(function: Callable[..., object]) -> None:
        def with_command() -> App:
            app = make_app()
            app.command(function)
            return app

        monkeypatch.setattr(command, "make_app", with_command)

    CALLS.clear()
    put(paint)
    return put


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("cgrseg: ") and output.err.count("\n") == 1
    return output.err.removeprefix("cgrseg: ").rstrip("\n")


@pytest.mark.usefixtures("add")
def test_a_signature_becomes_positionals_and_flags() -> None:
    words = "paint a.jpg b/ --weights f.safetensors --short-side 512 --resume --compare x y z"
    assert main(words.split()) == 0
    assert main(["paint", "--weights=f", "--alpha=1", "--device", "cpu", "--short_side", "3", "broken.jpg"]) == 1
    first, second = CALLS
    assert first == {
        "photos": ["a.jpg", "b/"],
        "weights": Path("f.safetensors"),
        "short_side": 512,
        "alpha": 0.5,
        "batch": 1,
        "device": "auto",
        "compare": ["x", "y", "z"],
        "resume": True,
    }
    assert (second["alpha"], second["device"], second["resume"]) == (1.0, "cpu", False)
    assert second["short_side"] == 3


@pytest.mark.usefixtures("add")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("piant a.jpg", "unknown command piant: did you mean paint?"),
        ("xyzzy", "unknown command xyzzy: see `cgrseg --help`"),
        ("--verison", "unknown option --verison: did you mean --version?"),
        ("paint a.jpg --wieghts f", "unknown option --wieghts: did you mean --weights?"),
        ("paint a.jpg --weights=f --shortside=3", "unknown option --shortside: did you mean --short-side?"),
        ("paint a.jpg --weights=f --qqq", "unknown option --qqq: see `cgrseg paint --help`"),
        ("paint a.jpg", "--weights is missing: see `cgrseg paint --help`"),
        ("paint --weights f", "PHOTOS is missing: see `cgrseg paint --help`"),
        ("paint a.jpg --weights", "--weights needs a value: see `cgrseg paint --help`"),
        ("paint a.jpg --weights=f --short-side x", 'Invalid value for --short-side: unable to convert "x" into int.'),
        ("paint a.jpg --weights=f --short-side 2.5", 'Invalid value for --short-side: unable to convert "2.5" into'),
        ("paint a.jpg --weights=f --alpha much", 'Invalid value for --alpha: unable to convert "much" into float.'),
        ("paint a.jpg --weights=f --device tpu", 'Invalid value "tpu" for --device. Choose from: "auto", "cpu".'),
        ("paint a.jpg --weights=f --batch 0", "--batch is 0: it must be > 0"),
        ("info cgrseg_t cgrseg_b", "unexpected cgrseg_b: see `cgrseg info --help`"),
        ("train --lr 1", "unknown option --lr: did you mean --optim.lr?"),
        ("train --out x --lr=1", "unknown option --lr: did you mean --optim.lr?"),
        ("train --out x --augment.scale 1", "--augment.scale needs 2 values: see `cgrseg train --help`"),
        ("train --out x --optim.lr 0", "optim.lr is 0.0: it must be positive"),
        ("train --out x --loggers tensorbord", 'Choose from: "tensorboard", "wandb". Did you mean "tensorboard"?'),
        ("train", "--out is missing: see `cgrseg train --help`"),
        ("train --out x --model cgrseg_tt", "no model is called 'cgrseg_tt': did you mean"),
        ("train --out x --data nowhere", "no folder nowhere: check the path"),
        ("train --out x --init gone.pth", "no weights file gone.pth: check the path"),
        ("train --config gone.yaml", "no file gone.yaml: check the path"),
        ("val --weights gone.onnx --data .", "no weights file gone.onnx: check the path"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    output = capsys.readouterr()
    assert output.out == "" and message in output.err.splitlines()[-1]
    assert output.err.replace("no --data: training on synthetic scenes\n", "").count("\n") == 1
    assert CALLS == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("mask a.png holds class 12,\n  but classes.json ends at 10"), 2, "mask a.png holds class 12, but"),
        (ValueError("no class \x1b[31m\x07 in \x9bm"), 2, r"no class \x1b[31m\x07 in \x9bm"),
        (FileNotFoundError("No such file: a.jpg"), 2, "No such file: a.jpg"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), 2, "No such file or directory: a.jpg"),
        (
            FileNotFoundError(2, "No such file or directory", "a\udcff.jpg"),
            2,
            r"No such file or directory: a\xff.jpg",
        ),
        (PermissionError(13, "Permission denied", "out/a.png"), 2, "Permission denied: out/a.png"),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_an_exception_of_a_command_becomes_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    add: Callable[[Callable[..., object]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    add(fail)
    assert main(["fail"]) == code
    output = capfd.readouterr().err
    assert output.startswith(f"cgrseg: {message}") if message else output == ""
    assert output.count("\n") == bool(message)


def test_a_bug_in_a_command_is_not_hidden(add: Callable[[Callable[..., object]], None]) -> None:
    def fail() -> None:
        raise KeyError("bug")

    add(fail)
    with pytest.raises(KeyError, match="bug"):
        main(["fail"])


@pytest.mark.parametrize("module", ["attr", "cyclopts", "torch._utils"])
def test_ctrl_c_while_modules_are_imported_is_one_line(module: str, tmp_path: Path) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "cgrseg", "benchmark", "cgrseg_b"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert (process.returncode, error.splitlines()[-1]) == (130, "cgrseg: stopped") and "Traceback" not in error


def test_the_overview_lists_the_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"   (\w+)\s*$", line):
            group = found.setdefault(match[1], [])
        elif match := re.match(r"    ([a-z-]+)  +\S", line):
            group.append(match[1])
    assert list(found) == [*GROUPS, "Options"] and {name: found[name] for name in GROUPS} == GROUPS
    assert max(map(len, text.splitlines())) <= 80 and not re.search("[─│╭]", text)
    assert main([]) == 0 and capsys.readouterr().out == text


@pytest.mark.parametrize("name", VERBS)
def test_every_help_page_explains_every_option_and_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: cgrseg {name}" in text and max(map(len, text.splitlines())) <= 80
    examples = re.findall(r"^Example: cgrseg (\S+)", text, re.MULTILINE)
    assert examples and set(examples) == {name}
    for argument in make_app()[name].assemble_argument_collection(parse_docstring=True):
        if not argument.children:
            assert argument.parameter.help, f"cgrseg {name}: the docstring does not explain {argument.name}"


def test_the_examples_are_valid_command_lines() -> None:
    app = make_app()
    for name in VERBS:
        examples = re.findall(r"Example: `cgrseg (.*)`", inspect.getdoc(app[name].default_command) or "")
        assert examples
        for example in examples:
            app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_printed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert re.fullmatch(r"cgrseg \d+\.\d+.*\n", capsys.readouterr().out)


def test_completion_knows_commands_and_dotted_flags(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    assert main(["--install-completion", "--shell", "fish", "--output", str(script)]) == 0
    text = script.read_text()
    assert "predict" in text and "optim.weight-decay" in text and "slide-cosine" in text


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), ([], 0), (["dmeo"], 2)])
def test_python_dash_m_is_the_same_command(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "cgrseg", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) is (code == 0)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> TrainConfig:
    """The configuration that --print_config prints."""
    assert main(["train", *arguments, "--print_config"]) == 0
    return TrainConfig.from_dict(yaml.safe_load(capsys.readouterr().out))


def test_flags_go_over_the_recipe_and_both_over_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "steps: 300\noptim: {lr: 1e-3, warmup: null, weight_decay: 1e-05}\ncompile: true\nloggers: [tensorboard]\n"
        "spec: {bias_mode: official, context_blocks: 2, local_kernel: null, reconstruct: false}\n"
    )
    words = "--out x --optim.lr 1e-4 --no-compile --spec.context_blocks 3 --augment.flip 0 --augment.scale 1 2"
    config = printed(["--config", str(recipe), *words.split()], capsys)
    assert (config.steps, config.optim.lr, config.optim.weight_decay, config.compile) == (300, 1e-4, 1e-5, False)
    assert config.loggers == ["tensorboard"] and config.optim.clip == TrainConfig(out="x").optim.clip
    assert config.spec == {
        "bias_mode": "official",
        "context_blocks": 3,
        "local_kernel": None,
        "reconstruct": False,
    }
    assert (config.augment.flip, config.augment.scale) == (0.0, (1.0, 2.0))
    assert config.augment.crop == TrainConfig(out="x").augment.crop  # not the default of Augmentation alone


def test_values_of_flags_have_the_types_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--out x --loggers tensorboard wandb --augment.resize_to none --optim.clip null --init null --data=null "
    words += "--val-every 3 --save_every 4 --steps 5 --steps 6"
    config = printed([*words.split(), "--spec.dropout", "0", "--device", "cuda:0"], capsys)
    assert (config.loggers, config.augment.resize_to, config.optim.clip) == (["tensorboard", "wandb"], None, None)
    assert (config.init, config.data, config.steps) == (None, None, 6)
    assert (config.val_every, config.save_every, config.spec, config.device) == (3, 4, {"dropout": 0}, "cuda:0")
    assert printed(["--out", "x", "--augment.resize-to", "256", "64"], capsys).augment.resize_to == (256, 64)


def test_print_config_needs_no_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed([], capsys).steps == TrainConfig(out="x").steps


def test_resume_alone_uses_the_configuration_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(f"out: {tmp_path}\nseed: 7\nmodel: cgrseg_n\n")
    assert printed(["--out", str(tmp_path), "--resume"], capsys).seed == 7
    assert printed(["--out", str(tmp_path)], capsys).seed == 0
    assert "holds a run already: add --resume" in error_of(["train", "--out", str(tmp_path), "--data", "."], capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", "there is no option optim.lrr: did you mean lr?"),
        ("stps: 1", "there is no option stps: did you mean steps?"),
        ("steps: 2.5", "steps is 2.5: use a whole number"),
        ("steps: true", "steps is True: use a whole number"),
        ("optim: 3", "optim is '3': give a mapping"),
        ("steps: 1\nsteps: 2", "has the key steps twice"),
        ("optim: {lr: 1, lr: 2}", "has the key lr twice"),
        ("a: &x [1]\nb: *x", "has an alias (*name): write the value out"),
        ("- 1", "has no settings: write one `key: value` per line"),
        ("", "has no settings"),
        ("{", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_it(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    error = error_of(["train", "--config", str(tmp_path / "recipe.yaml"), "--out", "x"], capsys)
    assert str(tmp_path / "recipe.yaml") in error and message in error


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("lr: 1e-3\nname: 2e\nsmall: -.5E+2\n", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "recipe.yaml") == {"lr": 0.001, "name": "2e", "small": -50.0}


def test_a_file_that_is_not_text_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_yaml(tmp_path / "recipe.yaml")


def test_training_without_data_says_that_it_uses_synthetic_scenes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import cgrseg

    run = cgrseg.Run(tmp_path, {"split": "test", "miou": 1.0}, stopped=False)
    monkeypatch.setattr(cgrseg, "train", lambda config, **options: run, raising=False)
    assert main(["train", "--out", str(tmp_path / "run"), "--model", "cgrseg_n"]) == 0
    output = capsys.readouterr()
    assert output.err == "no --data: training on synthetic scenes\n" and "test mIoU 1.0 %" in output.out


@pytest.mark.parametrize("names", [("a", "b", "c"), ("b", "a")])
def test_other_classes_are_refused_and_numbered_ones_accepted(names: tuple[str, ...]) -> None:
    def space(*names: str) -> LabelSpace:
        return LabelSpace(names=names, colors=LabelSpace.numbered(len(names)).colors)

    with pytest.raises(ValueError, match="use weights and a class list that belong together"):
        check_same_classes(space("a", "b"), space(*names), weights="w", data=Path("d"))
    check_same_classes(space("a", "b"), LabelSpace.numbered(2), weights="w", data=Path("d"))


def test_app_says_at_once_that_it_loads_and_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("cgrseg.web", "cgrseg.server"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)  # cannot be imported
    assert main(["app"]) == 2
    assert capsys.readouterr().err == (
        'loading the page, which takes some seconds\ncgrseg: the page needs fastapi: pip install "cgrseg[app]"\n'
    )
