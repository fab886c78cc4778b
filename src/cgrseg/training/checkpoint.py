"""The run folder: its configuration, its logs and the state from which it resumes to the same bits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from cgrseg.images.files import atomic_write

from .config import TrainConfig

STATE, CONFIG, LOG, METRICS = "state.pt", "config.yaml", "train.jsonl", "metrics.csv"


class RunFolder:
    """What stands on disk of one run.

    Logs are appended to; after a crash they are cut back to the step of the state, so that a resumed run
    writes what an unbroken one would have.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = Path(config.out)
        self.config = config

    def open(self, *, resume: bool) -> None:
        """Make the folder, or with `resume` go on with the run that is in it.

        Raises:
            ValueError: the folder holds a run and `resume` is not asked for, or a run of another config.
            OSError: it can't be written.
        """
        written = self.path / CONFIG
        if not written.is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(written) as temporary:
                temporary.write_text(yaml.safe_dump(self.config.to_dict(), sort_keys=False), encoding="utf-8")
        elif not resume:
            raise ValueError(f"{self.path} holds a run already: add --resume, or choose another --out")
        else:
            self.config.refuse_other(yaml.safe_load(written.read_text(encoding="utf-8")) or {}, self.path)
            for leftover in self.path.glob(".unfinished-*"):  # of a process that was killed while writing
                leftover.unlink()

    def load_state(self) -> dict[str, Any] | None:
        """The last good state, or None; tensors and plain values only. Logs are cut back to its step.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / STATE
        if not path.is_file():
            self._cut_back(-1)
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self._cut_back(state["step"])
        except (OSError, RuntimeError, KeyError, EOFError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({str(error).splitlines()[0]}): delete it to begin the run again"
            ) from error
        return state

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state by a newer one, all or nothing.

        Raises:
            OSError: there is no room; the last good state is still there.
        """
        with self.writing(STATE), atomic_write(self.path / STATE) as temporary:
            torch.save(state, temporary)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Around a write to the folder: where it fails, the error says what stays and how to go on.

        Raises:
            OSError: the write failed.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            what = reason if name in reason else f"{self.path / name} can't be written ({reason})"
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
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line, name) <= step]
            with atomic_write(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str, name: str) -> float:
    if name == METRICS:
        first = line.split(",")[0]
        return float(first) if first.isdigit() else (-1 if first == "step" and "," in line else float("inf"))
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
