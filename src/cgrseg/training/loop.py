"""The training loop: from images and masks to a run folder, in one process or on many machines (Lightning Fabric)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from cgrseg._progress import progress_bar
from cgrseg._text import printable
from cgrseg._yaml import read_yaml
from cgrseg.data.dataset import describe_map

from .batch_size import find_batch
from .checkpoint import STATE, RunFolder
from .config import CONFIG, TrainConfig
from .fingerprint import changes, fingerprint
from .loading import batches_ahead, check_teacher, explain, load_batches
from .optimization import rate
from .progress import Callbacks, Clock, Progress, RunFailed, Step, Stopped, StopRequest, asked_to_stop, is_false
from .scoring import Scoring
from .setup import Data, Parts, make_data, make_fabric, make_parts
from .step import reduced, train_step

MOST_WARNINGS = 10


def run_training(
    config: TrainConfig,
    *,
    resume: bool,
    epochs: float | None,
    data: Data | None,
    transform: Callable[..., Any] | None,
    callbacks: Callbacks,
) -> tuple[TrainConfig, dict[str, Any]]:
    """The whole run; see `cgrseg.train`. Returns the configuration with all its values, and the card.

    Args:
        data: the splits of a dataset given in Python; None to open `config.data`.
        config: with its model and precision resolved.
        resume, epochs, transform, callbacks: as in `cgrseg.train`.
    """
    data = replace(data or make_data(config), transform=transform)
    if config.batch == "auto":
        written = Path(config.out, CONFIG)
        chosen = read_yaml(written)["batch"] if resume and written.is_file() else find_batch(config, data)
        config = replace(config, batch=chosen)
        print(f"batch auto: {chosen} crops per step")
    if epochs is not None:
        config = replace(config, steps=math.ceil(epochs * len(data.train) / config.batch_size))
    batches_ahead(config, classes=len(data.train.labels))
    check_teacher(config, data.train)
    fabric = make_fabric(config)
    fabric.launch()
    first = fabric.is_global_zero
    if first:
        print(*map(printable, [*describe_map(data.train).splitlines(), *_warnings(data)]), sep="\n")
    parts = make_parts(config, data, fabric)
    folder = RunFolder(config)
    try:
        with folder.opened(resume=resume) if first else nullcontext():
            fabric.barrier()
            progress = continue_run(fabric, config, data, parts, folder) if resume else Progress()
            return config, fit(fabric, config, data, parts, folder, progress, callbacks)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"out of memory with {config.batch_size} crops of {config.augment.crop} in {config.accumulate} passes: "
            f"try --accumulate {2 * config.accumulate}, --batch {max(config.batch_size // 2, 1)} or "
            f"--augment.crop {max(config.augment.crop * 3 // 4 // 32 * 32, 32)}"
        ) from error
    except RunFailed:
        if first:
            raise
        raise SystemExit(2) from None
    except Exception as error:
        if (clear := explain(error)) is not None:
            raise clear from error
        if not first and "onnection" in str(error):  # the first process has ended, and has said why
            raise SystemExit(2) from None
        raise


def continue_run(fabric: Fabric, config: TrainConfig, data: Data, parts: Parts, folder: RunFolder) -> Progress:
    """Load the state of the run, if there is one, and say so.

    Raises:
        ValueError: the state is damaged or of another run, or the dataset has other classes now.
    """
    state = folder.load_state()
    if state is None:
        fabric.print(printable(f"no state of a run in {folder.path}: beginning with step 0"))
        return Progress()
    notes = changes(state["data"], data) if "data" in state else []
    try:
        progress = Progress(**state["progress"])
        parts.load_state(state)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder.path / STATE} is of another run ({reason}): delete it to begin again") from error
    old = state.get("steps", config.steps)
    if old != config.steps:
        multiplier = rate(progress.step, config.steps, config.optim)
        notes.append(
            f"extended from {old} to {config.steps} steps: from here on the learning rate follows the schedule of "
            f"{config.steps} steps, {config.optim.lr * multiplier:.2g} at this step"
        )
    fabric.print(*map(printable, [f"resumed at step {progress.step} of {config.steps}", *notes]), sep="\n")
    return progress


def fit(
    fabric: Fabric,
    config: TrainConfig,
    data: Data,
    parts: Parts,
    folder: RunFolder,
    progress: Progress,
    callbacks: Callbacks,
) -> dict[str, Any]:
    """Train from step `progress.step` to the last one, or to an early end, and evaluate; returns the card."""
    first = fabric.is_global_zero
    about_data = fingerprint(data)
    clock = Clock(first_step=progress.step, batch=config.batch_size)
    bar = progress_bar(total=config.steps, initial=progress.step, unit="step", desc=config.model, disable=not first)
    with bar, asked_to_stop() as request:

        def say(line: str) -> None:
            if first:
                bar.write(printable(line), file=sys.stderr)

        def save_state() -> None:
            if first:
                more = {"step": progress.step, "steps": config.steps, "progress": vars(progress), "data": about_data}
                folder.save_state({**more, **parts.state()})

        scoring = Scoring(fabric, config, data, parts, folder, progress, say=say, on_score=callbacks.on_score)
        batches = load_batches(
            config, data, parts.network.preprocessing, fabric, first_step=progress.step, stop=request
        )
        while progress.step < config.steps and not (request.early or scoring.enough):
            with clock.waiting():
                batch = next(batches, None)
            if batch is None:  # stopped while waiting; the other processes may be in the middle of a step
                save_state()
                raise Stopped(request.number, f"stopped after step {progress.step}: continue with --resume")
            images, labels, teacher, problems = batch
            for problem in progress.note_problems(_of_all(fabric, problems), config.skip_limit):
                say(f"skipped {problem}")
            progress.note_step(*train_step(fabric, config, parts, images, labels, progress.step, teacher))
            bar.set_postfix({"loss": f"{progress.loss:.3f}", **clock.postfix(progress.step)}, refresh=False)
            bar.update()
            trained = clock.seconds()
            with clock.paused():
                if first and callbacks.on_step is not None:
                    done = Step(progress.step, progress.loss, learning_rate(config, progress.step))
                    request.early = is_false(callbacks.on_step(done))
                stop, request.early = _agreed(fabric, request)
                last = request.early or progress.step == config.steps
                if last or progress.step % config.log_every == 0:
                    log(fabric, config, folder, progress, clock)
                scored = scoring.during(trained / (progress.step - clock.first_step), trained, last=last)
                if scored or stop or progress.step % config.save_every == 0:
                    save_state()
                    fabric.barrier()
                if stop and not last:
                    raise Stopped(stop, f"stopped after step {progress.step}: continue with --resume")
        if progress.step < config.steps:
            why, how = "by a callback", "--resume"
            if scoring.patience_ended:
                why, how = f"no better score in {config.patience} evaluations", "--resume with a larger --patience"
            say(f"ended at step {progress.step} of {config.steps}: {why}; {how} continues")
    return scoring.at_the_end()


def log(fabric: Fabric, config: TrainConfig, folder: RunFolder, progress: Progress, clock: Clock) -> None:
    """Write a line to train.jsonl and to the loggers; only the timing fields differ between equal runs."""
    row = {"step": progress.step, "loss": progress.loss, "lr": learning_rate(config, progress.step)}
    row["skipped"] = progress.skipped
    if fabric.is_global_zero:
        folder.log(row | clock.row(progress.step))
    fabric.log_dict({f"train/{name}": row[name] for name in ("loss", "lr")}, step=progress.step)


def learning_rate(config: TrainConfig, number: int) -> float:
    """The encoder's learning rate in step `number`, counted from 1."""
    return config.optim.lr * rate(number - 1, config.steps, config.optim)


def _warnings(data: Data) -> list[str]:
    more = len(data.warnings) - MOST_WARNINGS
    lines = [f"warning: {warning}" for warning in data.warnings[:MOST_WARNINGS]]
    return [*lines, f"… and {more} more: `cgrseg check-data` lists them"] if more > 0 else lines


def _of_all(fabric: Fabric, problems: list[str]) -> list[str]:
    """The messages of all processes, so that all stop at the same step."""
    if fabric.world_size == 1 or not fabric.all_reduce(
        torch.tensor(float(len(problems)), device=fabric.device), reduce_op="sum"
    ):
        return problems
    gathered = [fabric.broadcast(problems, src=rank) for rank in range(fabric.world_size)]
    return [problem for some in gathered for problem in some]


def _agreed(fabric: Fabric, request: StopRequest) -> tuple[int, bool]:
    """The signal that any process received, 0 for none, and whether a callback ends the run: the same in all."""
    if fabric.world_size == 1:
        return request.number, request.early
    wanted = torch.tensor([float(request.number), float(request.early)], device=fabric.device)
    number, early = reduced(fabric, wanted, "max").tolist()
    return int(number), bool(early)
