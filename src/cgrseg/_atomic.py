"""Files appear whole or not at all (ground floor: imports nothing of ours)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
