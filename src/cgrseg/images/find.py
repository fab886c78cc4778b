"""Find files in folders by one rule: links are followed, hidden names and special files are left out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cgrseg._text import printable

HIDDEN, BROKEN, SPECIAL = "hidden", "broken links", "not regular files"
LOOP, CLOSED = "links to a folder that contains them", "unreadable folders"


@dataclass
class Found:
    """What a folder holds.

    Args:
        files: regular files with a known suffix, sorted.
        skipped: reason -> what was left out for it: HIDDEN, BROKEN, SPECIAL, LOOP, CLOSED, or the suffix.
    """

    files: list[Path] = field(default_factory=list)
    skipped: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def lost(self) -> list[Path]:
        """Broken links and unreadable folders: what a dataset should have, but can't be read."""
        return self.skipped.get(BROKEN, []) + self.skipped.get(CLOSED, [])


def find_files(folder: Path, suffixes: Collection[str], *, without: Collection[str] = ()) -> Found:
    """The files below a folder whose suffix, in lower case, is one of `suffixes`.

    Links are followed, except those to a folder that contains them. Names that begin with a dot are left out, and so
    are pipes, sockets and devices, which could block a reader for ever.

    Args:
        folder: where to look.
        suffixes: in lower case, with their dot.
        without: names of entries directly in `folder` that are ignored.

    Raises:
        OSError: the folder can't be read.
    """
    found = Found()
    resolved = folder.resolve()
    above = frozenset(map(_identity, (resolved, *resolved.parents)))
    _walk(folder, frozenset(suffixes), frozenset(without), above, found)
    found.files.sort()
    return found


def _walk(
    folder: Path, suffixes: frozenset[str], without: frozenset[str], above: frozenset[tuple[int, int]], found: Found
) -> None:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry.path)
        suffix = path.suffix.lower()
        if entry.name in without:
            continue
        if entry.name.startswith("."):
            if suffix in suffixes or _is(entry, "dir"):
                found.skipped[HIDDEN].append(path)
        elif _is(entry, "dir"):
            try:
                identity = _identity(path)
                if identity in above:
                    found.skipped[LOOP].append(path)
                else:
                    _walk(path, suffixes, frozenset(), above | {identity}, found)
            except PermissionError:
                found.skipped[CLOSED].append(path)
        elif not _is(entry, "file"):
            found.skipped[BROKEN if entry.is_symlink() and not path.exists() else SPECIAL].append(path)
        elif suffix in suffixes:
            found.files.append(path)
        else:
            found.skipped[suffix or "no suffix"].append(path)


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def contains_itself(path: Path) -> bool:
    """Whether the path leads through a folder twice, by a link to a folder that contains it."""
    folders = [_identity(parent) for parent in path.parents]
    return len(set(folders)) < len(folders)


def describe_skipped(skipped: Mapping[str, Collection[Path]], root: Path, *, most: int = 3) -> str:
    """One line such as ".heic (2): a.heic, b.heic; hidden (1): .ipynb_checkpoints", at most `most` names each."""
    parts = []
    for reason, paths in skipped.items():
        names = [printable(os.path.relpath(path, root)) for path in list(paths)[:most]]
        parts.append(f"{reason} ({len(paths)}): {', '.join(names)}{', …' if len(paths) > most else ''}")
    return "; ".join(parts)
