"""Settings of the whole process that make inference faster, and silence for libraries."""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30  # bytes of free memory that are kept, at most
LARGEST = (256 << 20, 32 << 20)  # bytes of an array that is kept; older C libraries accept only the second value
SPINS = 10_000  # about 0.1 ms; libgomp's own 300,000 take several ms


def keep_memory() -> bool:
    """Keep freed memory in this process for its next arrays, up to a gigabyte.

    The C library of Linux returns large arrays to the system when they are freed, so that each layer of each call
    waits for new pages. `open_network` and the commands call this for models on the CPU.

    Returns:
        Whether this system's C library can do it: glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT)) and any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST)


def share_cores() -> None:
    """Let torch's threads sleep soon after their work, unless GOMP_SPINCOUNT or OMP_WAIT_POLICY is set.

    Otherwise they take the cores from other processes and from OpenVINO's threads for several milliseconds each time:
    with as many other busy processes as cores, a training step takes four to ten times as long. On a quiet machine it
    costs nothing measurable. Must be called before torch is imported; the commands do.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def no_telemetry() -> None:
    """Stop OpenVINO and NNCF from sending usage data to Google, which they do without asking.

    Must be called before they are imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # they do without it


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> str:
    """A line that says that other processes keep the cores busy; "" if they do not, or on Windows."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"this machine is busy: load {load:.1f} on {cores()} cores" if load > cores() else ""


@contextmanager
def fast_imports() -> Iterator[None]:
    """For imports: within the block, no garbage is collected, and what was made is left out of later collections.

    Garbage collections that look at all of torch's objects take a third of the time of `cgrseg predict ONE`. Only the
    block that imports torch first leaves objects out, because this cannot be undone for single objects.
    """
    enabled, first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            atexit.register(_unfreeze_triton)
        if enabled:
            gc.enable()


def _unfreeze_triton() -> None:
    """Let the end of the process collect all: Triton would report its objects as leaked."""
    if "triton" in sys.modules:
        gc.unfreeze()


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, no warnings and no log lines below errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
