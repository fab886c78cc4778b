"""Progress of long work: a bar on a terminal; in a log, which has no line to redraw, a plain line every 30 seconds."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 30.0  # between plain lines


def progress_bar(*, terminal: bool | None = None, seconds: float = SECONDS, **options: Any) -> Any:
    """A tqdm bar on standard error.

    Args:
        terminal: draw a bar, or write lines; None asks whether standard error is a terminal.
        seconds: between lines; work that is done earlier writes none.
        options: of tqdm.
    """
    if sys.stderr.isatty() if terminal is None else terminal:
        return tqdm(**options)
    text = "{desc}{n_fmt} of {total_fmt} {unit}s, {elapsed} passed, {remaining} left, {rate_fmt}{postfix}"
    options |= {"desc": f"{options['desc']}: "} if options.get("desc") else {}
    return tqdm(**options, file=_Lines(sys.stderr), mininterval=seconds, delay=seconds, miniters=1, bar_format=text)


class _Lines:
    """A file for tqdm that writes each state of the bar as a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if line := text.strip():
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()
