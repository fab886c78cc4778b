"""The docs speak of what is there: each message that is quoted exists, each room is described."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cgrseg"


def texts() -> Iterator[str]:
    """Every string in the source, with … for what is filled in."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def fits(quoted: str, text: str) -> bool:
    """Whether the quoted message could be (the beginning or middle of) what `text` makes."""
    parts = [re.escape(part.strip()) for part in quoted.split("…") if part.strip()]
    return re.search(r".*?".join(parts), text, re.DOTALL) is not None


def test_every_message_in_troubleshooting_is_one_that_the_code_has() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 30
    known = list(texts())
    assert [message for message in quoted if not any(fits(message, text) for text in known)] == []
    assert not any(fits("… is a bad photo: throw it away", text) for text in known)


def test_the_layout_page_names_every_room() -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert {room for room in rooms if f"`{room}/`" not in page} == set()
    for path in re.findall(r"`(\w+\.py)`", page):
        assert list(SOURCE.rglob(path)), f"there is no {path}"
