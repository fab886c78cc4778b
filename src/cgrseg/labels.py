"""What the classes are called, how they are drawn and which raw mask ids mean them."""

from __future__ import annotations

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the classes 0 … K-1.

    Args:
        names: one name a class, in the order of the ids.
        colors: one (red, green, blue) a class, each 0 … 255.
        ignore_index: the mask value that is neither trained on nor scored.
        raw_ids: raw mask id -> class, for masks that don't store classes directly; None means the identity.

    Raises:
        ValueError: names and colours differ in number, are empty, or hold a value out of range.
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
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in color):
                raise ValueError(f"class {name!r} has colour {color}: use three integers from 0 to 255")
        if 0 <= self.ignore_index < len(self.names):
            raise ValueError(
                f"ignore_index {self.ignore_index} is also the class {self.names[self.ignore_index]!r}: "
                "use a value outside the classes, such as 255 or 65535"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, count: int) -> LabelSpace:
        """`count` classes without names: "class 0", "class 1", … in well separated colours."""
        return cls(
            names=tuple(f"class {i}" for i in range(count)),
            colors=tuple(_distinct_color(i) for i in range(count)),
            ignore_index=255 if count <= 255 else 65535,
        )

    @classmethod
    def from_classes_json(cls, path: str | Path) -> LabelSpace:
        """Read `{"classes": [{"id", "name", "color"}], "ignore_index"}`; a missing colour is chosen.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not JSON, or its ids are not 0 … K-1, each once.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no class list at {path}")
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            entries = sorted(table["classes"], key=lambda entry: entry["id"])
            ids = [entry["id"] for entry in entries]
            names = tuple(str(entry["name"]) for entry in entries)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path} is not a class list ({error!r}): it looks like {{"classes": [{{"id": 0, "name": "sky"}}]}}'
            ) from error
        if ids != list(range(len(ids))):
            raise ValueError(f"{path} lists the ids {ids}: they must be 0 to {len(ids) - 1}, each once")
        colors = tuple(tuple(entry.get("color") or _distinct_color(entry["id"])) for entry in entries)
        return cls(names=names, colors=colors, ignore_index=table.get("ignore_index", 255))

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> LabelSpace:
        """The inverse of `to_dict`."""
        raw_ids = table.get("raw_ids")
        return cls(
            names=tuple(table["names"]),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in table["colors"]),
            ignore_index=table["ignore_index"],
            raw_ids=None if raw_ids is None else {int(raw): int(label) for raw, label in raw_ids.items()},
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
        """The 768 bytes that `PIL.Image.putpalette` takes; ids past the classes are black."""
        flat = bytes(channel for color in self.colors[:256] for channel in color)
        return flat.ljust(768, b"\0")


def _distinct_color(index: int) -> Color:
    """Hues a golden angle apart, in three brightnesses, so that neighbouring ids never look alike."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, (0.95, 0.7, 0.5)[index % 3])
    return round(red * 255), round(green * 255), round(blue * 255)
