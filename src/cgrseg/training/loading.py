"""Batches from data loading processes, and one line for what can go wrong with such processes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from cgrseg.data.dataset import Samples
from cgrseg.data.sampling import StepSampler
from cgrseg.data.transforms import STRIDE, Batch, TrainingCrops, collate, read_teacher, stacked, teacher_file
from cgrseg.preprocessing import Preprocessing

from .config import TrainConfig
from .progress import StopRequest
from .setup import Data

SHARED_MEMORY = Path("/dev/shm")  # on Linux: batches of other processes lie there
AHEAD = 4  # batches that each process reads in advance
HELD = 2  # batches that the training loop holds
PATIENCE = 2.0  # seconds until a loop that waits for data looks for a request to stop


def load_batches(
    config: TrainConfig,
    data: Data,
    preprocessing: Preprocessing,
    fabric: Fabric,
    *,
    first_step: int,
    stop: StopRequest,
) -> Iterator[Batch]:
    """From `first_step` on: images [b, 3, crop, crop], labels [b, crop, crop], teacher probabilities, messages.

    Ends early if a stop is requested while it waits for data.

    Raises:
        RuntimeError and others: of a data loading process; see `explain`.
    """
    crops = TrainingCrops(
        samples=data.train,
        augmentation=config.augment,
        preprocessing=preprocessing,
        seed=config.seed,
        teacher=None if config.teacher is None else Path(config.teacher),
        transform=data.transform,
    )
    # On a CPU, all data loading processes work on the same batch: they slow the network's threads equally, which would
    # otherwise wait for the one whose core is taken. A lower priority of these processes would be faster still on a
    # quiet machine (by 4 %), but on a busy one they would get nearly no time.
    sampler = StepSampler(
        first_step=first_step,
        steps=config.steps,
        batch=config.batch_size,
        rank=fabric.global_rank,
        world=fabric.world_size,
        parts=max(config.workers, 1) if fabric.device.type == "cpu" else 1,
    )
    loader = DataLoader(
        crops,
        batch_sampler=sampler,
        num_workers=config.workers,
        prefetch_factor=batches_ahead(config, classes=len(data.train.labels)),
        pin_memory=fabric.device.type == "cuda",
        collate_fn=collate_shared if config.workers else collate,
        worker_init_fn=_worker,
        timeout=PATIENCE if config.workers else 0,
    )
    order = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    batches, parts = iter(loader), list[Batch]()
    while not stop.number:
        try:
            parts.append(next(batches))
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                continue
            raise
        if len(parts) < sampler.parts:
            continue
        images, labels, teacher, problems = joined(parts, order)
        parts = []
        moved = images.to(fabric.device, dtype, non_blocking=True, memory_format=order)
        yield moved, labels.to(fabric.device, torch.int64, non_blocking=True), teacher, problems


def batches_ahead(config: TrainConfig, *, classes: int) -> int | None:
    """The batches that each data loading process reads in advance: fewer where the shared memory is small.

    Raises:
        MemoryError: not even one fits.
    """
    if not config.workers or not SHARED_MEMORY.is_dir():
        return AHEAD if config.workers else None
    channels = config.spec.get("in_channels", 3)
    cell = 4 * classes / STRIDE**2 if config.teacher else 0  # bytes per pixel of the teacher's probabilities
    pixels = config.batch_size / (config.devices * config.nodes) * config.augment.crop**2
    size = int(pixels * (4 * channels + 2 + cell))  # labels have one or two bytes
    free = shutil.disk_usage(SHARED_MEMORY).free // config.devices
    ahead = (free // size - HELD) // config.workers
    if ahead < 1:
        needed = (config.workers + HELD) * size * config.devices
        raise MemoryError(
            f"{SHARED_MEMORY} has {free >> 20} MB free for data loading processes, and batches of {size >> 20} MB need "
            f"{needed >> 20}: use --workers 0, or in Docker --shm-size {max(2 * needed >> 30, 1)}g"
        )
    return min(ahead, AHEAD)


def check_teacher(config: TrainConfig, samples: Samples) -> None:
    """Check before a run that every training image has its teacher's logits.

    Raises:
        ValueError: some have none, the logits are of other classes, or only one of `teacher` and its weight is given.
    """
    if (config.teacher is None) != (config.loss.teacher == 0):
        raise ValueError(
            f"teacher is {config.teacher or 'null'} and loss.teacher, its weight, {config.loss.teacher:g}: give both, "
            "such as --teacher logits --loss.teacher 1, or neither"
        )
    if config.teacher is None:
        return
    files = [teacher_file(Path(config.teacher), samples.name(index)) for index in range(len(samples))]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"--teacher {config.teacher} has no logits of {len(missing)} of {len(files)} training images, such as "
            f"{missing[0]}: store them"
        )
    read_teacher(files[0], classes=len(samples.labels))


def collate_shared(samples: Sequence[Any]) -> Batch:
    """A batch in shared memory, with labels as in the samples.

    Otherwise a thread of the data loading process would move it there: if there is no room, that thread only prints a
    traceback, and the training waits for the batch for ever.
    """
    return stacked(samples, _stack_shared)


def _stack_shared(tensors: tuple[Tensor, ...]) -> Tensor:
    """`torch.stack`, written to shared memory at once."""
    first = tensors[0]
    storage = torch.UntypedStorage._new_shared(first.nbytes * len(tensors))  # type: ignore[no-untyped-call]
    shape = (len(tensors), *first.shape)
    whole = torch.empty(0, dtype=first.dtype).set_(storage, 0, shape, torch.empty(shape, device="meta").stride())
    return torch.stack(tensors, out=whole)


def joined(parts: Sequence[Batch], order: torch.memory_format) -> Batch:
    """One batch of several; its images have memory format `order`. A single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    images, labels, teachers, problems = zip(*parts, strict=True)
    lengths = [len(part) for part in images]
    whole = torch.empty((sum(lengths), *images[0].shape[1:]), memory_format=order)
    for place, part in zip(torch.split(whole, lengths), images, strict=True):
        place.copy_(part)  # `torch.cat` into another memory format takes four times as long
    teacher = None if teachers[0] is None else torch.cat(teachers)
    return whole, torch.cat(labels), teacher, [problem for found in problems for problem in found]


def explain(error: Exception) -> Exception | None:
    """An error of data loading processes as one line; None for other errors."""
    text = str(error)
    if "DataLoader worker" not in text:
        return None
    if "shared memory" in text or "Bus error" in text:
        return MemoryError(
            f"{SHARED_MEMORY}, through which data loading processes pass batches, is full: use --workers 0, or in "
            "Docker --shm-size 1g; continue with --resume"
        )
    if "killed by signal" in text or "exited unexpectedly" in text:  # which of the two is a matter of timing
        return MemoryError(
            "a data loading process was ended from outside, often for lack of memory: use fewer --workers, or "
            "--workers 0; continue with --resume"
        )
    if text.startswith("Caught ") and isinstance(error, OSError | ValueError | MemoryError):
        return type(error)(" ".join(text.rpartition(f"\n{type(error).__name__}: ")[2].split()))
    return None


def _worker(_number: int) -> None:
    """One thread per data loading process, to leave the cores to the network; the main process handles signals."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to all processes of a terminal
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    """Job managers send SIGTERM to every process of a job; only the trainer's ends its data loading processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
