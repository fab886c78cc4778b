"""A file that is written atomically is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrseg.images.files import atomic_write


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "picture.png"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"first half")
        assert not target.exists()
        assert (temporary.parent, temporary.suffix) == (target.parent, ".png")
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_file_systems_allow_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'ü' * 125}.png"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
