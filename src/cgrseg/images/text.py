"""Class names in pictures: fonts for any script, long names cut in the middle."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

LONGEST_NAME = 28  # letters
COVERED = 0x500  # Latin, Greek and Cyrillic letters are below; DejaVu Sans has all of them
NO_FONT = "name needs a font"


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """The name in one line; of a long one the beginning and the end, so that names with equal beginnings differ."""
    name = " ".join(name.split())
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end].rstrip()}…{name[-end:].lstrip()}"


def drawable(name: str, otherwise: str = NO_FONT) -> str:
    """The name if a font on this machine has all its letters, else another text."""
    return name if _path(frozenset(name)) is not None else otherwise


def font(letter: int, text: str = "") -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text: DejaVu Sans, which comes with matplotlib, or one of the system.

    Args:
        letter: size in pixels.
        text: without it, or if no font has its letters, the font is DejaVu Sans.

    Raises:
        OSError: Pillow was built without FreeType.
    """
    return _open(_path(frozenset(text)) or _dejavu(), letter)


@lru_cache(maxsize=64)
def _open(path: Path, letter: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, letter)
    except ImportError as error:
        raise OSError("this Pillow was built without FreeType, which draws the legend: `pip install pillow`") from error


@lru_cache(maxsize=1)
def _dejavu() -> Path:
    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    path = Path(package.origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf"  # importing it takes 0.2 s
    if not path.is_file():  # a system's own package
        from matplotlib import get_data_path

        path = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return path


@lru_cache(maxsize=4096)
def _path(letters: frozenset[str]) -> Path | None:
    """The first font that has all the letters; None if there is none."""
    codes = {ord(letter) for letter in letters if letter != " "}
    if all(32 <= code < COVERED for code in codes):
        return _dejavu()
    return next((path for path in (_dejavu(), *_system_fonts()) if codes <= _codes(path)), None)


@lru_cache(maxsize=1)
def _system_fonts() -> list[Path]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(map(Path, findSystemFonts()))


@lru_cache(maxsize=1024)
def _codes(path: Path) -> frozenset[int]:
    """The characters of a font; none if it cannot be used."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 20)  # fonts of bitmaps have fixed sizes
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
