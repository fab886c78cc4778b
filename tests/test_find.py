"""All readers find files by one rule: recurse, follow links, skip hidden names and special files, and say so."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cgrseg.images.find import describe_skipped, find_files
from cgrseg.images.photos import IMAGE_SUFFIXES
from cgrseg.inference.sources import Source, find_sources

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(sources: list[Source], out: Path) -> list[str]:
    return [source.output.relative_to(out).as_posix() for source in sources]


def test_sub_folders_and_links_are_followed_and_links_back_are_not(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root / "a.png", root / "sub" / "b.PNG", other / "city" / "c.jpg", tmp_path / "d.jpg")
    (root / "linked").symlink_to(other)
    (root / "file.jpg").symlink_to(tmp_path / "d.jpg")
    (other / "back").symlink_to(root)  # root/linked/back is root again
    (root / "sub" / "self").symlink_to(root / "sub" / "self")
    found = find_files(root, IMAGE_SUFFIXES)
    assert [path.relative_to(root).as_posix() for path in found.files] == [
        "a.png",
        "file.jpg",
        "linked/city/c.jpg",
        "sub/b.PNG",
    ]
    assert "links to a folder that contains them (1): linked/back" in describe_skipped(found.skipped, root)


def test_pipes_sockets_broken_links_and_hidden_names_are_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / ".ipynb_checkpoints" / "a.png", tmp_path / ".b.png", tmp_path / ".DS_Store")
    touch(tmp_path / "c.heic", tmp_path / "d.heic", tmp_path / "README")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.png"))
    server.close()
    found = find_files(tmp_path, IMAGE_SUFFIXES)
    assert [path.name for path in found.files] == ["a.png"]
    text = describe_skipped(found.skipped, tmp_path)
    for part in (
        "hidden (2): .b.png, .ipynb_checkpoints",
        ".heic (2): c.heic, d.heic",
        "no suffix (1): README",
        "not regular files (2): pipe.png, socket.png",
        "broken links (1): gone.png",
    ):
        assert part in text


def test_predict_says_what_it_leaves_out_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.heic", tmp_path / "in" / ".ipynb_checkpoints" / "a.png")
    lines: list[str] = []
    found = find_sources([str(tmp_path / "in")], out=tmp_path / "out", on_skipped=lines.append)
    assert names(found, tmp_path / "out") == ["a"]
    (line,) = lines
    assert "in: left out " in line and "hidden (1): .ipynb_checkpoints" in line and ".heic (1): b.heic" in line


@pytest.mark.parametrize("pattern", ["", "**/*.png"])
def test_a_folder_and_a_glob_of_it_give_the_same_sources(pattern: str, tmp_path: Path) -> None:
    root, city = tmp_path / "in", tmp_path / "city"
    touch(root / "a.png", city / "b.png", root / ".hidden" / "c.png")
    (root / "city").symlink_to(city)
    (city / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.png")
    found = find_sources([str(root / pattern)], out=tmp_path / "out")
    assert names(found, tmp_path / "out") == ["a", "city/b"]


def test_a_pipe_or_device_named_as_source_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for source in (str(tmp_path / "pipe.png"), "/dev/null"):
        with pytest.raises(ValueError, match="is not a regular file"):
            find_sources([source], out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is not there"):
        find_sources([str(tmp_path / "nowhere.png")], out=tmp_path / "out")


def test_an_output_that_would_overwrite_a_source_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.overlay.jpg")
    sources = [str(tmp_path / "a.jpg"), str(tmp_path / "a.overlay.jpg")]
    with pytest.raises(ValueError, match=r"would overwrite the source .*a\.overlay\.jpg: use another --out"):
        find_sources(sources, out=tmp_path)
    assert len(find_sources(sources, out=tmp_path / "out")) == 2


def test_photos_that_differ_in_suffix_never_share_outputs_even_in_separate_runs(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "b.jpg")
    out = tmp_path / "out"
    runs = [names(find_sources([str(tmp_path / name)], out=out), out) for name in ("a.jpg", "a.png", "b.jpg")]
    assert runs == [["a.jpg"], ["a.png"], ["b"]]


def test_names_that_are_not_utf_8_are_sources_too(tmp_path: Path) -> None:
    name = os.fsdecode("stra\xdfe.png".encode("latin-1"))
    try:
        touch(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    lines: list[str] = []
    touch(tmp_path / "in" / name.replace("png", "heic"))
    (found,) = find_sources([str(tmp_path / "in")], out=tmp_path / "out", on_skipped=lines.append)
    assert found.output.name == name.removesuffix(".png")
    assert "stra\\xdfe.heic" in lines[0]
    lines[0].encode("utf-8")


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "\x1b[31mred.txt")
    lines: list[str] = []
    find_sources([str(tmp_path / "in")], out=tmp_path / "out", on_skipped=lines.append)
    assert "\x1b" not in lines[0] and "\\x1b[31mred.txt" in lines[0]
