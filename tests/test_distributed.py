"""Two processes, on one machine or on two, train what one process trains with the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import cgrseg

SETTINGS = [
    "--model=cgrseg_n", "--spec.dropout=0", "--spec.drop_path=0", "--steps=3", "--batch=8", "--augment.crop=64",
    "--augment.resize_to=null", "--optim.ema=0.9", "--precision=fp64", "--log_every=1", "--val_every=3", "--workers=0",
    "--device=cpu", "--optim.lr=1e-5",
]  # fmt: skip
# The rate is small because AdamW divides by |g| + 1e-8: where a gradient is almost zero, its rounding errors are
# multiplied by rate / 1e-8. A mistake in splitting the batch changes whole steps, 1e-5, and is still found.


def start(data: Path, out: Path, *more: str, launcher: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    verb = ["-m", "cgrseg", "train", "--data", str(data), "--out", str(out), *SETTINGS, *more]
    command = [sys.executable, *launcher, *verb]
    quiet = {"GLOO_SOCKET_IFNAME": "lo", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, **quiet}, stdout=pipe, stderr=pipe, text=True)


def finish(*processes: subprocess.Popen[str]) -> None:
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(errors)


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = (cgrseg.load(run / "last.safetensors") for run in (one, other))
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert first.card["miou"] == second.card["miou"] and first.card["class_iou"] == second.card["class_iou"]
    losses = [
        [json.loads(line)["loss"] for line in (run / "train.jsonl").read_text().splitlines()] for run in (one, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9) and len(losses[0]) == 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The dataset, and the run of one process."""
    from conftest import make_squares

    root = tmp_path_factory.mktemp("alone")
    data = make_squares(root)
    finish(start(data, root / "run"))
    return data, root / "run"


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_train_the_same_weights(
    alone: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = alone
    finish(start(data, tmp_path / "run", "--devices=2"))
    assert_equal_runs(run, tmp_path / "run")


@pytest.mark.slow
def test_two_machines_train_the_same_weights(alone: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = alone
    port = str(free_port())
    machines = [
        start(data, tmp_path / "run", "--nodes=2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK=rank)
        for rank in "01"
    ]
    finish(*machines)
    assert_equal_runs(run, tmp_path / "run")


@pytest.mark.slow
def test_torchrun_launches_it(alone: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = alone
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finish(start(data, tmp_path / "run", "--devices=2", launcher=torchrun))
    assert_equal_runs(run, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_print_every_line_once(alone: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = alone
    out, error = start(data, tmp_path / "run", "--devices=2").communicate(timeout=300)
    lines = (out + error).splitlines()
    assert len(lines) == len(set(lines)) and "step 3: val mIoU" in error
    process = start(data, tmp_path / "run", "--devices=2", "--resume", "--seed=3")
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and error.count("\n") == 1 and "is of a run with seed 0, not 3" in error
