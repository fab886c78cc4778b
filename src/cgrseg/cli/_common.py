"""What several commands share: checks of their flags, and text for the terminal."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cgrseg.labels import LabelSpace

Weights = Annotated[str, Parameter(metavar="FILE")]
SIDES = range(32, 65536)  # the network needs 32 pixels; a JPEG has at most 65535
WEIGHTS_SUFFIXES = (".safetensors", ".onnx", ".xml", ".pth", ".pt", ".bin", ".ckpt")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "HEIGHTxWIDTH".

    Raises:
        ValueError: another form, or a side that is not between 32 and 65535 pixels.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size {text}: write HEIGHTxWIDTH in pixels, such as 512x683")
    height, width = int(match[1]), int(match[2])
    if height not in SIDES or width not in SIDES:
        raise ValueError(f"--size {text}: each side must be between {SIDES[0]} and {SIDES[-1]} pixels")
    return height, width


def split_commas(values: Iterable[str]) -> list[str]:
    """The values of a flag that may be given apart or joined by commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def check_weights(*weights: str | None) -> None:
    """Find a missing weights file before torch is imported.

    Raises:
        FileNotFoundError: a path that ends like a weights file does not exist.
    """
    for path in map(Path, filter(None, weights)):
        if path.suffix in WEIGHTS_SUFFIXES and not str(path).startswith("hf:") and not path.exists():
            raise FileNotFoundError(f"no weights file {path}: check the path")


def check_folder(out: Path) -> None:
    """Test that files can be written to the output folder, before any work is done. Nothing is made.

    Raises:
        OSError: it is a file, or files can't be written to it, or to the nearest folder above it that exists.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(f"--out {out} can't be written to ({error.strerror}): name another folder") from error


def check_same_classes(ours: LabelSpace, theirs: LabelSpace, *, weights: str, data: Path) -> None:
    """Check that the weights and the data have the same classes in the same order.

    Where one side only has numbered classes ("class 3"), only the counts must agree.

    Raises:
        ValueError: they differ.
    """
    cure = "use weights and a class list that belong together"
    if len(ours) != len(theirs):
        raise ValueError(f"{weights} has {len(ours)} classes, but {data} has {len(theirs)}: {cure}")
    if any(all(re.fullmatch(r"class \d+", name) for name in side.names) for side in (ours, theirs)):
        return
    for label, (name, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if name != other:
            raise ValueError(f"class {label} is {name!r} in {weights}, but {other!r} in {data}: {cure}")
