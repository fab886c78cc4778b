"""Sums over the processes of a distributed run; with one process, nothing is asked of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")


@contextmanager
def launched(device: str) -> Iterator[str]:
    """Inside, the processes that torchrun started work together; a process on its own stays so.

    Args:
        device: "auto" takes the GPUs where there are any, one a process; else "cpu", "cuda", "cuda:1", ….

    Yields:
        The device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available():
        yield device
        return
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    """How many there are, 1 outside of a distributed run."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return distributed.get_rank() if _together() else 0


def sum_in_place(counts: Tensor) -> None:
    """Replace `counts` by its sum over all processes, which must all call this."""
    if processes() > 1:
        distributed.all_reduce(counts)


def gather(value: Value) -> list[Value]:
    """The value of every process, by rank; all must call this."""
    if processes() == 1:
        return [value]
    found: list[Value | None] = [None] * processes()
    distributed.all_gather_object(found, value)
    return [item for item in found if item is not None]


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
