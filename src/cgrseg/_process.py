"""What a process sets up once, so that networks in it run faster: it keeps memory, and its threads share the cores."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30  # bytes that are free and stay, at most
LARGEST = (256 << 20, 32 << 20)  # bytes of an array up to which it may; older libraries take the second alone
SPINS = 10_000  # some 0.1 ms; libgomp's own 300,000 take several


def keep_memory() -> bool:
    """Have this process keep what it frees, for its next arrays: up to a gigabyte at the end of its heap.

    The C library of Linux gives large arrays back to the system as they are freed, so that each layer of each call
    waits for new pages; in other threads than the main one, those above 64 MB go back all the same. `cgrseg` commands
    call this; call it in programs of your own that run a model on a CPU.

    Returns:
        Whether this system's C library could: glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT)) and any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST)


def share_cores() -> None:
    """Have torch's threads go to sleep soon after their work, unless GOMP_SPINCOUNT says how soon.

    Those that prepare a photo else take the cores from OpenVINO's, which run the network next, for its first
    milliseconds. It must come before torch is imported, and costs torch 1 %.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines below errors within the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
