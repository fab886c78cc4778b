"""Weights converted to OpenVINO, kept in a cache folder, so that the fastest runtime is the default one.

A conversion is compared with PyTorch before it is used. The cache is shared by all processes of a user.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from cgrseg._text import printable

LOGGER = logging.getLogger("cgrseg")
FORMAT = 1  # changes when converted files of earlier versions must not be used
LARGEST = 1 << 30  # bytes in the cache; beyond it the least recently used entries are removed
SIZES = ((64, 96), (97, 131))  # at which a conversion is compared with PyTorch
TOLERANCE = 1e-3  # in standard deviations of the logits


def cache_folder() -> Path:
    """$CGRSEG_CACHE, or cgrseg in the user's cache folder. It need not exist."""
    if chosen := os.environ.get("CGRSEG_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cgrseg"


def size() -> int:
    """Bytes that the converted networks take."""
    return _size(cache_folder() / "openvino")


def clear() -> int:
    """Remove all converted networks; returns the number of bytes that this frees.

    Raises:
        OSError: a file cannot be removed.
    """
    freed = size()
    with suppress(FileNotFoundError):
        shutil.rmtree(cache_folder() / "openvino")
    return freed


def converted(weights: Path) -> Path | None:
    """The OpenVINO file (.xml) of a weights file, from the cache or converted now.

    The first conversion, or the reason why there is none, is logged in one line. None means: use PyTorch.

    Raises:
        FileNotFoundError, ValueError: the weights file is missing or not usable.
    """
    name, entry = printable(weights), cache_folder() / "openvino" / _key(weights)
    model = entry / "model.xml"
    if not model.is_file():
        start = time.monotonic()
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _locked(entry.parent / f"{entry.name}.lock"):
                if not model.is_file():  # another process may have converted it meanwhile
                    _convert(weights, entry)
                    _evict(entry.parent, keep=entry)
        except OSError as error:
            reason = f"{error.strerror or error}"
            LOGGER.warning("%s runs in PyTorch: %s cannot be written (%s); set CGRSEG_CACHE", name, entry, reason)
            return None
        except Unsuitable as error:
            LOGGER.warning("%s runs in PyTorch: %s", name, error)
            return None
        seconds = time.monotonic() - start
        LOGGER.warning(
            "converted %s to OpenVINO for this machine in %.1f s; kept in %s", printable(weights.name), seconds, entry
        )
    with suppress(OSError):
        os.utime(entry)  # for the removal of the least recently used
    return model


class Unsuitable(Exception):
    """The network cannot be converted, or its conversion differs from PyTorch."""


def _key(weights: Path) -> str:
    with open(weights, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    parts = [content, str(FORMAT), version("cgrseg"), version("openvino"), platform.machine()]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]


def _convert(weights: Path, entry: Path) -> None:
    """Write the converted network to a temporary folder, compare it, and rename the folder to `entry`."""
    import torch

    from cgrseg.nn.fusion import fuse
    from cgrseg.weights import artifact

    from .runtimes import OpenVINONetwork
    from .trace import metadata, save_graph, to_openvino, trace

    model = artifact.load(weights)
    if model.spec.bias_mode == "official":
        raise Unsuitable('bias mode "official" has no graph for any size')
    with tempfile.TemporaryDirectory(prefix=f".unfinished-{entry.name}-", dir=entry.parent) as name:
        folder = Path(name) / "entry"
        folder.mkdir()
        folded = fuse(model)
        try:
            graph = to_openvino(trace(folded, preprocessing=model.preprocessing), metadata(model.description))
            save_graph(graph, folder / "model.xml")
            network = OpenVINONetwork(folder / "model.xml", "cpu")
            for size in SIZES:
                images = torch.randn(1, model.spec.in_channels, *size, generator=torch.Generator().manual_seed(0))
                with torch.inference_mode():
                    expected, found = folded(images), network(images)
                deviation = float((found - expected).abs().max() / expected.std())
                if not deviation <= TOLERANCE:
                    raise Unsuitable(f"its conversion deviates by {deviation:.1e} standard deviations")
        except OSError:
            raise
        except RuntimeError as error:  # of torch.export and of OpenVINO
            raise Unsuitable(f"it cannot be converted ({' '.join(str(error).split())[:120]})") from error
        expected_size = _size(folder)
        for file in folder.iterdir():
            descriptor = os.open(file, os.O_RDWR)  # Windows only flushes files that are open for writing
            os.fsync(descriptor)
            os.close(descriptor)
        if expected_size == 0 or not (folder / "model.bin").stat().st_size:
            raise Unsuitable("its conversion is empty")
        with suppress(OSError):
            os.rename(folder, entry)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock between processes; the system releases it when a process ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _evict(folder: Path, *, keep: Path, largest: int = LARGEST) -> None:
    """Remove what killed processes left, and the least recently used entries while the cache is too large."""
    for stale in folder.glob(".unfinished-*"):
        with suppress(OSError):  # another process may have finished it
            if keep.name in stale.name or time.time() - stale.stat().st_mtime > 600:
                shutil.rmtree(stale, ignore_errors=True)
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    total = sum(map(_size, entries))
    for entry in entries:
        if total <= largest:
            return
        if entry != keep:
            total -= _size(entry)
            shutil.rmtree(entry, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
