"""Files of one call appear together: they are written aside and move when all are good."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
