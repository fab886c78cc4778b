"""Names and colours of the classes, and the mask ids that stand for them."""

from __future__ import annotations

import colorsys
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import Any

Color = tuple[int, int, int]
UNSAFE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, lone surrogates, line separators
REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the direction of the text after


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the classes 0 … K-1.

    Args:
        names: one name per class, in the order of the ids, without control characters.
        colors: one (red, green, blue) per class, each 0 … 255.
        ignore_index: the mask value that is neither trained on nor scored, 0 … 65535 and not a class.
        raw_ids: raw mask id -> class, for masks that do not store classes directly; None means the identity.

    Raises:
        ValueError: names and colours differ in number, or a value is missing, out of range or of another type.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int = 255
    raw_ids: dict[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a label space needs at least one class")
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names but {len(self.colors)} colours: give one colour a class")
        for number, (name, color) in enumerate(zip(self.names, self.colors, strict=True)):
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"class {number} has the name {name!r}: use a text that is not empty")
            if any(unicodedata.category(letter) in UNSAFE or letter in REORDERING for letter in name):
                raise ValueError(f"class {number} has control characters in its name {name!a}: remove them")
            if not isinstance(color, tuple) or len(color) != 3 or not all(_is_integer(c, 0, 255) for c in color):
                raise ValueError(f"class {name!r} has the color {color!r}: use three integers from 0 to 255")
        if not _is_integer(self.ignore_index, 0, 65535):
            raise ValueError(f"ignore_index is {self.ignore_index!r}: use an integer from 0 to 65535, such as 255")
        if self.ignore_index < len(self.names):
            raise ValueError(
                f"ignore_index {self.ignore_index} is also the class {self.names[self.ignore_index]!r}: "
                "use a value outside the classes, such as 255 or 65535"
            )
        for raw, label in (self.raw_ids or {}).items():
            if label != self.ignore_index and not _is_integer(label, 0, len(self.names) - 1):
                raise ValueError(f"raw_ids maps {raw} to {label!r}, which is neither a class nor the ignore_index")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """The class called "background", in any case, or "_background_"; None if there is none."""
        names = [name.strip("_").casefold() for name in self.names]
        return names.index("background") if "background" in names else None

    def find(self, classes: str | int | Sequence[str | int]) -> list[int]:
        """The ids of classes given by name or id, or of one class, each once, in increasing order.

        Raises:
            ValueError: there is no such class; the message suggests similar names.
        """
        ids = set()
        for given in [classes] if isinstance(classes, str | int | Integral) else classes:
            wanted = unicodedata.normalize("NFC", str(given))
            if wanted in self.names:
                ids.add(self.names.index(wanted))
            elif wanted.isdecimal() and int(wanted) < len(self):
                ids.add(int(wanted))
            else:
                near = get_close_matches(wanted, self.names, n=5) or [*self.names[:20], "…"][: len(self)]
                raise ValueError(f"no class is called {given!r}: choose a name such as {', '.join(near)}, or an id")
        return sorted(ids)

    @classmethod
    def numbered(cls, count: int) -> LabelSpace:
        """`count` unnamed classes: "class 0", "class 1", … in distinct colours."""
        return cls(
            names=tuple(f"class {i}" for i in range(count)),
            colors=tuple(_distinct_color(i) for i in range(count)),
            ignore_index=255 if count <= 255 else 65535,
        )

    @classmethod
    def from_classes_json(cls, path: str | Path) -> LabelSpace:
        """Read `{"classes": [{"id", "name", "color"}], "ignore_index"}` in UTF-8.

        Without a color, one is chosen; without an ignore_index, it is 255.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not such a list, its ids are not 0 … K-1, two names are equal, or a value is of
                another type or out of range; the message names the file and the key.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no class list at {path}")
        try:
            table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeated_keys)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a class list: it can't be read as JSON in UTF-8 ({error})") from error
        try:
            return cls._from_table(table)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _from_table(cls, table: Any) -> LabelSpace:
        entries = table.get("classes") if isinstance(table, dict) else None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError('is not a class list: it must look like {"classes": [{"id": 0, "name": "sky"}]}')
        for key in table.keys() - {"ignore_index"}:
            if "ignore" in key.lower():
                raise ValueError(f'"{key}" is not a key of a class list: use "ignore_index"')
        for entry in entries:
            for key in ("id", "name"):
                if key not in entry:
                    raise ValueError(f'{json.dumps(entry)} has no "{key}"')
            if "colour" in entry:
                raise ValueError(f'class {entry["id"]!r} has the key "colour": use "color"')
            if not _is_integer(entry["id"], 0, 65535):
                raise ValueError(f'"id" is {entry["id"]!r}: use integers from 0')
        entries = sorted(entries, key=lambda entry: int(entry["id"]))
        ids = [entry["id"] for entry in entries]
        if ids != list(range(len(ids))):
            cure = f"they must be 0 to {len(ids) - 1}, each once"
            if ids == list(range(1, len(ids) + 1)):
                cure += "; convert masks with ids from 1 by `cgrseg convert-masks --one-based`"
            raise ValueError(f'"id" has the values {ids[:10]}{", …" * (len(ids) > 10)}: {cure}')
        names = [entry["name"] for entry in entries]
        colors = [entry.get("color") for entry in entries]
        colors = [list(_distinct_color(number)) if color is None else color for number, color in enumerate(colors)]
        for name, color in zip(names, colors, strict=True):
            if not isinstance(name, str):
                raise ValueError(f'"name" is {name!r}: use a text')
            if not isinstance(color, list):
                raise ValueError(f'class {name!r} has the "color" {color!r}: use three integers from 0 to 255')
        names = [unicodedata.normalize("NFC", name) for name in names]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f'two classes have the "name" {repeated[0]!r}: give each class its own')
        ignore_index = table.get("ignore_index", 255)
        return cls(names=tuple(names), colors=tuple(map(tuple, colors)), ignore_index=ignore_index)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> LabelSpace:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a value is missing, of another type or out of range.
        """
        names, colors, raw_ids = table.get("names"), table.get("colors"), table.get("raw_ids")
        if not isinstance(names, list) or not isinstance(colors, list):
            raise ValueError("the classes have no list of names or of colors")
        return cls(
            names=tuple(names),
            colors=tuple(tuple(color) if isinstance(color, list) else color for color in colors),
            ignore_index=table.get("ignore_index", -1),
            raw_ids={int(raw): label for raw, label in raw_ids.items()} if isinstance(raw_ids, dict) else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "ignore_index": self.ignore_index,
            "raw_ids": None if self.raw_ids is None else {str(raw): label for raw, label in self.raw_ids.items()},
        }

    def palette(self) -> bytes:
        """The 768 bytes for `PIL.Image.putpalette`; ids without a class are black."""
        flat = bytes(channel for color in self.colors[:256] for channel in color)
        return flat.ljust(768, b"\0")


def _distinct_color(index: int) -> Color:
    """Hues a golden angle apart in three brightnesses, so that neighbouring ids look different."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, (0.95, 0.7, 0.5)[index % 3])
    return round(red * 255), round(green * 255), round(blue * 255)


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f'the key "{repeated}" stands twice in one object: remove one')
    return table
