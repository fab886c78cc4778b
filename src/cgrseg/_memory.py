"""Memory that a network frees it needs again at its next call; kept by the process, it comes at once."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30  # bytes that are free and stay, at most
LARGEST = (256 << 20, 32 << 20)  # bytes of an array up to which it may; older libraries take the second alone


def keep_memory() -> bool:
    """Have this process keep up to a gigabyte of what it frees, for its next arrays.

    The C library of Linux gives large arrays back to the system as they are freed, so that each layer of each call
    waits for new pages. `cgrseg` commands call this; call it in programs of your own that run a model on a CPU.

    Returns:
        Whether this system's C library could: glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT)) and any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST)
