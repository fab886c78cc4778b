"""Files appear whole or not at all (ground floor: imports nothing of ours)."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the name `path` when the block succeeds.

    The temporary name keeps the suffix (Pillow and PyAV choose the format by it) and starts with a dot. If
    the block raises, the temporary file is removed and whatever stood at `path` before is untouched.
    Missing parent folders are made.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".unfinished-{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


ASIDE = ".unfinished-export-"


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write to; the files right in it move to `folder` when the block succeeds.

    `folder` is made if need be. What killed processes left aside in it is removed first.

    Raises:
        OSError: the folder can't be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _at_work(folder), tempfile.TemporaryDirectory(prefix=ASIDE, dir=folder) as aside:
        yield Path(aside)
        for file in sorted(path for path in Path(aside).iterdir() if path.is_file()):
            os.replace(file, folder / file.name)


@contextmanager
def _at_work(folder: Path) -> Iterator[None]:
    """Hold a lock that all who write here share; who is alone for a moment removes what the dead left.

    The system takes the lock from a process that dies. Where it knows no such locks, leftovers stay.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in folder.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
        with suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_SH)
        yield
    finally:
        os.close(place)
