"""Text for terminals: aligned tables, and names of files that are safe to print."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Rows of equal length as aligned columns, two spaces apart.

    Args:
        rows: the cells; the first row may be the heading.
        left: numbers of the columns that are aligned to the left; all others are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def printable(text: str | os.PathLike[str]) -> str:
    """The text with control characters, and bytes of file names that are not UTF-8, as escapes such as \\x1b."""
    text = os.fspath(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
