"""Killed anywhere, resumed to the same bits: processes are really killed, inside checkpoint writes too."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import cgrseg

# `cgrseg train` in a process that ends itself by SIGKILL at the chosen moment, "name:count".
DRIVER = """
import os, resource, signal, sys
import torch
from cgrseg.cli.main import main
from cgrseg.training import loop

moment, _, count = sys.argv[1].partition(":")
left = int(count or 0)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def reached():
    global left
    left -= 1
    return left == 0

real_save, real_replace, real_step = torch.save, os.replace, loop.train_step

def save(state, path):
    real_save(state, path)
    if moment == "inside the state" and reached():
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        die()
    if moment == "disk full after" and reached():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

def replace(source, target):
    if moment == "before a rename" and reached():
        die()
    real_replace(source, target)
    if moment == "after a rename" and reached():
        die()

def train_step(*arguments):
    result = real_step(*arguments)
    if moment == "after a step" and reached():
        die()
    return result

torch.save, os.replace, loop.train_step = save, replace, train_step
sys.exit(main(sys.argv[2:]))
"""
STEPS = 9
SETTINGS = [
    "--model=cgrseg_n", f"--steps={STEPS}", "--batch=2", "--augment.crop=64", "--augment.resize_to=null",
    "--optim.ema=0.9", "--precision=fp32", "--log_every=1", "--val_every=4", "--save_every=2",
]  # fmt: skip


def start(moment: str, data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, moment, "train", "--data", str(data), "--out", str(out), *SETTINGS, *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run(moment: str, data: Path, out: Path, *more: str) -> tuple[int, str]:
    process = start(moment, data, out, *more)
    error = process.communicate(timeout=300)[1]
    return process.returncode, error


def run_and_signal(number: int, data: Path, out: Path, *more: str, delay: float = 0.0) -> tuple[int, str]:
    """Send the signal to the whole job, readers too, once it has logged a step."""
    log = out / "train.jsonl"
    before = log.read_text().count("\n") if log.exists() else 0
    process = start("never", data, out, *more)
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_text().count("\n") <= before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=300)[1]
    return process.returncode, error


def what_remains(out: Path) -> dict[str, object]:
    """Everything that must not depend on how often a run was killed."""
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    timing = ("seconds", "images_per_second", "waiting_share")
    state = torch.load(out / "state.pt", weights_only=True)
    weights = {name: cgrseg.load(out / f"{name}.safetensors") for name in ("best", "last")}
    return {
        "log": [{key: value for key, value in row.items() if key not in timing} for row in log],
        "metrics": (out / "metrics.csv").read_text(),
        "progress": state["progress"],
        "tensors": {
            **{f"{part}.{key}": value for part in ("model", "average") for key, value in state[part].items()},
            **{f"moment {key}": value["exp_avg_sq"] for key, value in state["optimizer"]["state"].items()},
            **{f"{name}.{key}": value for name, model in weights.items() for key, value in model.state_dict().items()},
        },
        "cards": {name: model.card for name, model in weights.items()},
    }


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    tensors, others = one.pop("tensors"), other.pop("tensors")
    assert one == other
    assert isinstance(tensors, dict) and isinstance(others, dict) and set(tensors) == set(others)
    assert [key for key in tensors if not torch.equal(tensors[key], others[key])] == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The dataset, and the run that nothing disturbed."""
    from conftest import make_squares

    root = tmp_path_factory.mktemp("unbroken")
    data = make_squares(root)
    code, error = run("never", data, root / "run", "--workers=0")
    assert code == 0, error
    return data, root / "run"


@pytest.mark.slow
def test_a_run_killed_at_many_moments_ends_in_the_same_bits(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = unbroken
    out = tmp_path / "run"
    moments = [
        "before a rename:1",  # of the configuration: nothing is there yet
        "after a step:3",
        "inside the state:1",
        "after a rename:4",  # the best weights are written, the state that knows of them is not
    ]
    for moment in moments:
        code, error = run(moment, data, out, "--workers=0", "--resume")
        assert code == -signal.SIGKILL, f"{moment}: {error}"
    assert (out / "state.pt").exists() and 0 < torch.load(out / "state.pt", weights_only=True)["step"] < STEPS
    code, error = run("never", data, out, "--workers=2", "--resume")
    assert code == 0, error
    assert_same(what_remains(out), what_remains(whole))
    assert not list(out.glob(".unfinished-*"))


@pytest.mark.slow
def test_a_run_stopped_by_signals_and_killed_by_chance_ends_in_the_same_bits(
    unbroken: tuple[Path, Path], tmp_path: Path
) -> None:
    data, whole = unbroken
    out, seed = tmp_path / "run", random.SystemRandom().randrange(2**32)
    print(f"seed of the moment: {seed}")
    for number, word in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        code, error = run_and_signal(number, data, out, "--workers=2", "--resume")
        assert code == word and "continue with --resume" in error.splitlines()[-1] and "Traceback" not in error
    code, _ = run_and_signal(
        signal.SIGKILL, data, out, "--workers=1", "--resume", delay=random.Random(seed).uniform(0, 0.8)
    )
    assert code in (-signal.SIGKILL, 0)  # 0: chance let it finish
    code, error = run("never", data, out, "--workers=0", "--resume")
    assert code == 0, error
    assert_same(what_remains(out), what_remains(whole))


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state_and_says_so(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = unbroken
    out = tmp_path / "run"
    code, error = run("disk full after:1", data, out, "--workers=0")
    assert code == 2 and "Traceback" not in error
    assert "the last good state is still there; make room" in error.splitlines()[-1]
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 2
    assert run("never", data, out, "--workers=0", "--resume")[0] == 0
    assert_same(what_remains(out), what_remains(whole))


def test_a_damaged_state_is_named_and_left_alone(
    unbroken: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cgrseg.cli.main import main

    data, whole = unbroken
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    (out / "state.pt").write_bytes((whole / "state.pt").read_bytes()[:5000])
    assert main(["train", "--data", str(data), "--out", str(out), *SETTINGS, "--workers=0", "--resume"]) == 2
    assert "state.pt is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "state.pt").stat().st_size == 5000
