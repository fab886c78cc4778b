"""The training loop: from images and masks to a run folder, in one process or on many machines (Lightning Fabric)."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from cgrseg.data.dataset import Samples, describe_map
from cgrseg.evaluation import Scores, evaluate
from cgrseg.inference.network import Network, evaluation_mode
from cgrseg.inference.predictor import Predictor
from cgrseg.weights.artifact import save

from .checkpoint import RunFolder
from .config import TrainConfig
from .losses import teacher_loss
from .optimization import rate, set_rate
from .pictures import draw
from .progress import Clock, Progress, Stopped, StopRequest, asked_to_stop
from .setup import Data, Parts, load_batches, make_data, make_fabric, make_parts, with_precision


def train(config: TrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train; evaluate the val split during the run and the test split (or val) at the end; return the card.

    Raises:
        FileNotFoundError, ValueError: the dataset or an option is wrong; nothing has been written then. Later:
            ten steps in a row had no finite gradient, or too many pairs cannot be read.
        OSError: the run folder cannot be written; the last state is kept.
        MemoryError: the device has too little memory; the message says what to lower.
        Stopped: by Ctrl-C or SIGTERM, after saving the state.
    """
    config = with_precision(config)
    data = make_data(config)
    fabric = make_fabric(config)
    fabric.launch()
    fabric.print(describe_map(data.train))
    parts = make_parts(config, data, fabric)
    folder, state = RunFolder(config), None
    if fabric.is_global_zero:
        folder.open(resume=resume)
    fabric.barrier()
    if resume and (state := folder.load_state()) is not None:
        parts.load_state(state)
    progress = Progress(**state["progress"]) if state else Progress()
    try:
        fit(fabric, config, data, parts, folder, progress)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"out of memory with {config.batch} crops of {config.augment.crop} in {config.accumulate} passes: "
            f"try --accumulate {2 * config.accumulate}, --batch {max(config.batch // 2, 1)} or "
            f"--augment.crop {max(config.augment.crop * 3 // 4 // 32 * 32, 32)}"
        ) from error
    return finish(fabric, config, data, parts, folder, progress)


def fit(fabric: Fabric, config: TrainConfig, data: Data, parts: Parts, folder: RunFolder, progress: Progress) -> None:
    """Train from step `progress.step` to the last one."""
    batches = load_batches(config, data, parts.network.preprocessing, fabric, first_step=progress.step)
    clock = Clock(first_step=progress.step, batch=config.batch)
    hidden = not fabric.is_global_zero
    bar = tqdm(total=config.steps, initial=progress.step, unit="step", desc=config.model, disable=hidden)
    with bar, asked_to_stop() as request:
        while progress.step < config.steps:
            with clock.waiting():
                images, labels, teacher, problems = next(batches)
            for problem in progress.note_problems(_of_all(fabric, problems), config.skip_limit):
                _say(bar, f"skipped {problem}")
            progress.note_step(*train_step(fabric, config, parts, images, labels, progress.step, teacher))
            bar.set_postfix({"loss": f"{progress.loss:.3f}", **clock.postfix(progress.step)}, refresh=False)
            bar.update()
            with clock.paused():
                last = progress.step == config.steps
                stop = _agreed(fabric, request)
                if last or progress.step % config.log_every == 0:
                    log(fabric, config, folder, progress, clock)
                if scored := last or progress.step % config.scores_every == 0:
                    score(fabric, config, data, parts, folder, progress, bar)
                if scored or stop or progress.step % config.save_every == 0:
                    save_state(fabric, parts, folder, progress)
                if stop and not last:
                    raise Stopped(stop, f"stopped after step {progress.step}: continue with --resume")


def train_step(
    fabric: Fabric,
    config: TrainConfig,
    parts: Parts,
    images: Tensor,
    labels: Tensor,
    step: int,
    teacher: Tensor | None = None,
) -> tuple[float, bool]:
    """One optimizer step: (loss, whether loss and gradient were finite). A step that is not finite changes nothing."""
    before = [buffer.clone() for buffer in parts.buffers]
    set_rate(parts.optimizer, rate(step, config.steps, config.optim))
    torch.manual_seed(_seed(config.seed, step, fabric.global_rank))  # dropout and drop path
    count = _reduced(fabric, parts.loss.count(labels), "mean")  # gradients are averaged as well
    total = torch.zeros((), device=images.device)
    for number in range(config.accumulate):
        some_images, some_labels = images.chunk(config.accumulate)[number], labels.chunk(config.accumulate)[number]
        with fabric.no_backward_sync(parts.model, enabled=number < config.accumulate - 1):
            logits = parts.model(some_images)
            loss = parts.loss(logits, some_labels, count=count, share=1 / config.accumulate)
            if teacher is not None and config.loss.teacher:
                loss = loss + config.loss.teacher / config.accumulate * teacher_loss(
                    logits, teacher.chunk(config.accumulate)[number]
                )
            fabric.backward(loss)
        total = total + loss.detach()
    norm = fabric.clip_gradients(
        parts.model, parts.optimizer, max_norm=config.optim.clip or math.inf, error_if_nonfinite=False
    )
    assert norm is not None
    total = _reduced(fabric, total.double(), "mean")
    value, finite = torch.stack([total, (total.isfinite() & norm.isfinite()).double()]).tolist()
    if finite or config.precision == "fp16":  # the gradient scaler of fp16 skips such steps itself
        parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    if not finite:
        for buffer, old in zip(parts.buffers, before, strict=True):
            buffer.copy_(old)
    elif parts.average is not None:
        parts.average.update_parameters(parts.network)
    return value, bool(finite)


def log(fabric: Fabric, config: TrainConfig, folder: RunFolder, progress: Progress, clock: Clock) -> None:
    """Write a line to train.jsonl and to the loggers; only the timing fields differ between equal runs."""
    learning_rate = config.optim.lr * rate(progress.step - 1, config.steps, config.optim)
    row = {"step": progress.step, "loss": progress.loss, "lr": learning_rate, "skipped": progress.skipped}
    if fabric.is_global_zero:
        folder.log(row | clock.row(progress.step))
    fabric.log_dict({f"train/{name}": row[name] for name in ("loss", "lr")}, step=progress.step)


def score(
    fabric: Fabric, config: TrainConfig, data: Data, parts: Parts, folder: RunFolder, progress: Progress, bar: Any
) -> None:
    """Evaluate the current weights on the val split; write the best so far to best.safetensors."""
    scores = _evaluate(fabric, parts, data.val)
    miou = scores.mean_iou()
    fabric.log_dict({"val/miou": miou}, step=progress.step)
    if fabric.is_global_zero:
        _say(bar, f"step {progress.step}: {data.val.split} mIoU {100 * miou:.2f} %")
        row = {"step": progress.step, "split": data.val.split, "miou": miou}
        folder.metrics(row | {name: getattr(scores.confusion, name)() for name in ("mean_accuracy", "accuracy")})
        if not miou <= progress.best:
            write_weights(folder, "best", parts, make_card(config, data.val, parts, scores, progress))
    progress.best = max(progress.best, miou)


def _evaluate(fabric: Fabric, parts: Parts, samples: Samples) -> Scores:
    with evaluation_mode(parts.scored):
        return evaluate(Predictor(Network.of(parts.scored)), samples, fabric=fabric)


def save_state(fabric: Fabric, parts: Parts, folder: RunFolder, progress: Progress) -> None:
    """Write what a resumed run needs to continue with the same bits."""
    if fabric.is_global_zero:
        folder.save_state({"step": progress.step, "progress": vars(progress), **parts.state()})
    fabric.barrier()


def finish(
    fabric: Fabric, config: TrainConfig, data: Data, parts: Parts, folder: RunFolder, progress: Progress
) -> dict[str, Any]:
    """Evaluate on the test split (or val), write last.safetensors and the pictures, return the card."""
    scores = _evaluate(fabric, parts, data.test)
    card = make_card(config, data.test, parts, scores, progress)
    if fabric.is_global_zero:
        write_weights(folder, "last", parts, card)
        with evaluation_mode(parts.scored):
            draw(folder, parts.scored, data.test, scores)
    fabric.barrier()
    return card


def make_card(
    config: TrainConfig, samples: Samples, parts: Parts, scores: Scores, progress: Progress
) -> dict[str, Any]:
    """The card of a weights file: recipe, scores, and the card of the initial weights."""
    ious = map(_percent, scores.confusion.class_iou().tolist())
    return {
        "recipe": config.card(),
        "init": parts.network.card or None,
        "step": progress.step,
        "split": samples.split,
        "miou": _percent(scores.mean_iou()),
        "mean_accuracy": _percent(scores.confusion.mean_accuracy()),
        "accuracy": _percent(scores.confusion.accuracy()),
        "class_iou": dict(zip(samples.labels.names, ious, strict=True)),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_weights(folder: RunFolder, name: str, parts: Parts, card: dict[str, Any]) -> None:
    """Write the evaluated network as NAME.safetensors."""
    path = folder.path / f"{name}.safetensors"
    with folder.writing(path.name):
        save(parts.scored, path, card=card)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 2)


def _say(bar: Any, line: str) -> None:
    """Print a line above the progress bar, from the first process."""
    if not bar.disable:
        bar.write(line, file=sys.stderr)


def _of_all(fabric: Fabric, problems: list[str]) -> list[str]:
    """The messages of all processes, so that all stop at the same step."""
    if fabric.world_size == 1 or not fabric.all_reduce(
        torch.tensor(float(len(problems)), device=fabric.device), reduce_op="sum"
    ):
        return problems
    gathered = [fabric.broadcast(problems, src=rank) for rank in range(fabric.world_size)]
    return [problem for some in gathered for problem in some]


def _agreed(fabric: Fabric, request: StopRequest) -> int:
    """The signal that any process received, 0 for none: all stop at the same step."""
    if fabric.world_size == 1:
        return request.number
    number = torch.tensor(float(request.number), device=fabric.device)
    return int(_reduced(fabric, number, "max"))


def _reduced(fabric: Fabric, value: Tensor, how: str) -> Tensor:
    """Reduce a value over all processes."""
    reduced = fabric.all_reduce(value, reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced


def _seed(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
