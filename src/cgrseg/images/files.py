"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from .photos import DAMAGE

PREFIX = ".unfinished-"


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it is renamed to `path` when the block succeeds.

    The temporary name keeps the suffix (Pillow and PyAV choose the format by it). If the block raises, the
    temporary file is removed and an existing file at `path` is unchanged. Missing parent folders are created.

    Args:
        path: the final path.
        durable: flush the content to the disk before the rename, so that it also survives a power failure.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{PREFIX}{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, target)
        if durable and sys.platform != "win32":
            _flush(target.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):  # as for a full disk
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], content: bytes | str, *, durable: bool = False) -> None:
    """Write bytes or UTF-8 text to `path`, atomically.

    Raises:
        OSError: not all of it could be written, for example because the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def save_image(picture: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a picture, atomically; the suffix of `path` gives the format, `options` go to `Image.save`.

    It is encoded in memory first, because Pillow does not report every write error of a full disk.

    Raises:
        OSError: as `write_file`.
    """
    buffer = BytesIO()
    picture.save(buffer, Image.registered_extensions()[Path(path).suffix.lower()], **options)
    write_file(path, buffer.getvalue())


def save_figure(figure: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a matplotlib figure, atomically; arguments and errors as in `save_image`."""
    buffer = BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:], **options)
    write_file(path, buffer.getvalue())


def remove_unfinished(folders: Iterable[Path], *, age: float = 3600) -> None:
    """Remove temporary files of processes that were killed while they wrote.

    Args:
        folders: where to look; they need not exist.
        age: seconds since the last change; a younger file may belong to a running process.
    """
    for folder in set(folders):
        for path in folder.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime > age:
                    path.unlink()


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path of an existing file for libraries that refuse names that are not UTF-8: of such a file a link to it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.path.abspath(path), os.path.join(folder, "file"))
            yield os.path.join(folder, "file")
    else:
        yield os.fspath(path)


def refuse_not_utf8(path: Path, library: str) -> None:
    """Raise ValueError if a name is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path} is a name that is not UTF-8, which {library} cannot open: rename it") from error


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be decoded as an image, to its end."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except DAMAGE:
        return False
    return True


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; the files in it are moved to `folder` when the block succeeds.

    `folder` is created if it is missing. Temporary folders of killed processes in it are removed first.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _remove_stale(folder), tempfile.TemporaryDirectory(prefix=f"{PREFIX}export-", dir=folder) as temporary:
        try:
            yield Path(temporary)
        except OSError as error:
            if error.errno is not None and (error.filename is None or str(error.filename).startswith(temporary)):
                error.filename = str(folder)
            raise
        for file in sorted(path for path in Path(temporary).iterdir() if path.is_file()):
            os.replace(file, folder / file.name)


@contextmanager
def _remove_stale(folder: Path) -> Iterator[None]:
    """Hold a shared lock on `folder`. Whoever first gets it alone removes stale temporary folders.

    The system releases the lock of a process that ends. On systems without such locks, stale folders remain.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for stale in folder.glob(f"{PREFIX}export-*"):
                shutil.rmtree(stale)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
