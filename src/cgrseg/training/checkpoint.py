"""The run folder: its configuration, its logs and the state from which it resumes to the same bits."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from cgrseg._yaml import read_yaml
from cgrseg.images.files import PREFIX, atomic_write, write_file
from cgrseg.weights.checkpoint_reader import DAMAGED, check_archive

from .config import CONFIG, TrainConfig, require_new_run

STATE, LOG, METRICS, LOCK = "state.pt", "train.jsonl", "metrics.csv", ".lock"
PARTS = {"step", "progress", "model", "optimizer", "average", "scaler"}  # of a state


class RunFolder:
    """The files of one run.

    Logs are appended to; after a crash they are cut back to the step of the state, so that a resumed run writes what
    an uninterrupted one would have written.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.out)
        self.config = config

    @contextmanager
    def opened(self, *, resume: bool) -> Iterator[None]:
        """Create the folder, or with `resume` continue the run in it. Within the block no other training can.

        Raises:
            ValueError: the folder has a run and `resume` is false, or a run with other settings or more steps, or
                another training is using it.
            OSError: it cannot be written to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            written = self.path / CONFIG
            if written.is_file():
                if not resume:
                    require_new_run(self.path)
                self._compare(written)
            write_file(written, yaml.safe_dump(self.config.to_dict(), sort_keys=False))
            for stale in self.path.glob(f"{PREFIX}*"):  # of a process that was killed while it wrote
                if stale.is_file():
                    stale.unlink()
            yield

    def _compare(self, written: Path) -> None:
        settings = read_yaml(written)
        self.config.refuse_other(settings, written)
        steps = settings.get("steps")
        if not isinstance(steps, int):
            raise ValueError(f"{written} has steps {steps!r}: restore it, or choose another --out")
        if steps > self.config.steps:
            raise ValueError(f"{written} is of a run of {steps} steps: extend it with --steps {steps} or more")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock that the system releases when the process ends, however it ends."""
        if sys.platform == "win32":
            yield
            return
        import fcntl

        with open(self.path / LOCK, "a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which data loading processes would hold
            except (BlockingIOError, PermissionError) as error:
                raise ValueError(
                    f"another training is running in {self.path}: wait for its end, or choose another --out"
                ) from error
            except OSError:  # a file system without locks
                pass
            yield

    def load_state(self) -> dict[str, Any] | None:
        """The last good state, or None; tensors and plain values only. Logs are cut back to its step.

        Raises:
            ValueError: the file is damaged, or of another run.
        """
        path = self.path / STATE
        if not path.is_file():
            self._cut_back(-1)
            return None
        cure = "restore it, or delete it to begin the run again"
        check_archive(str(path))
        try:
            with warnings.catch_warnings(action="ignore"):  # about unusual pickles
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, *DAMAGED) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(f"{path} is damaged or not a state of a run ({reason}): {cure}") from error
        if not isinstance(state, dict) or not state.keys() >= PARTS:
            raise ValueError(f"{path} is not a state of a run: {cure}")
        if "config" in state:
            self.config.refuse_other(state["config"], path)
        self._cut_back(state["step"])
        return state

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state by a newer one, all or nothing.

        Raises:
            OSError: there is no room; the last good state is still there.
        """
        with self.writing(STATE), atomic_write(self.path / STATE, durable=True) as temporary:
            torch.save({**state, "config": self.config.identity()}, temporary)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Around a write to the folder: if it fails, the error says what stays and how to continue.

        Raises:
            OSError: the write failed.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            what = reason if name in reason else f"{self.path / name} cannot be written ({reason})"
            raise OSError(
                f"{what}: the last good state is still there; make room, then run again with --resume"
            ) from error

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to train.jsonl."""
        self._append(LOG, json.dumps(row) + "\n")

    def metrics(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.csv, which gets its heading with the first one."""
        path, text = self.path / METRICS, io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if not path.exists() or not path.stat().st_size:
            writer.writeheader()
        writer.writerow(row)
        self._append(METRICS, text.getvalue())

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of train.jsonl."""
        path = self.path / LOG
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        path = self.path / METRICS
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []

    def _append(self, name: str, text: str) -> None:
        with self.writing(name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(text)

    def _cut_back(self, step: int) -> None:
        """Keep the whole lines of steps up to `step`: a killed run may have written more, or half a line."""
        for name in (LOG, METRICS):
            path = self.path / name
            if not path.exists():
                continue
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_file(path, "".join(f"{line}\n" for line in lines if _step_of(line, name) <= step))


def _step_of(line: str, name: str) -> float:
    if name == METRICS:
        first = line.split(",")[0]
        return float(first) if first.isdigit() else (-1 if first == "step" and "," in line else float("inf"))
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
