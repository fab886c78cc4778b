"""What to label: files, folders, globs and videos, each with the place of its outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PHOTO_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".ppm",
        ".pgm",
        ".avif",
    )
)
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))
PHOTO_OUTPUTS = {"overlay": ".overlay.jpg", "mask": ".mask.png", "confidence": ".confidence.png"}
VIDEO_OUTPUTS = {"overlay": ".overlay.mp4", "legend": ".legend.jpg"}


@dataclass(frozen=True)
class Source:
    """A photo or video to label.

    Args:
        path: where it is.
        output: where its outputs go, without their suffixes (".mask.png", …).
    """

    path: Path
    output: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def outputs(self, kinds: Sequence[str] = tuple(PHOTO_OUTPUTS)) -> dict[str, Path]:
        """Kind -> the file to write: of a photo the `kinds` asked for, of a video its overlay and legend."""
        suffixes = VIDEO_OUTPUTS if self.is_video else {kind: PHOTO_OUTPUTS[kind] for kind in kinds}
        return {kind: self.output.with_name(self.output.name + suffix) for kind, suffix in suffixes.items()}


def find_sources(patterns: Sequence[str], *, out: Path) -> list[Source]:
    """List what the patterns name, sorted, each file once.

    A pattern is a file (of any suffix), a folder (searched with its sub-folders for photos and videos; hidden
    files are left out) or a glob such as "photos/**/*.jpg". Outputs mirror the folders below the pattern's
    own folder, or below the folder that all patterns share. `a.jpg` gives `a.mask.png`; where `a.png` lies
    beside it, the two give `a.jpg.mask.png` and `a.png.mask.png`. Earlier outputs are never sources.

    Args:
        patterns: at least one.
        out: the output folder; it need not exist.

    Raises:
        FileNotFoundError: a pattern names nothing.
        ValueError: a pattern names a folder or files without any photo or video.
    """
    out = Path(os.path.abspath(out))
    roots: set[Path] = set()
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(os.path.abspath(pattern))
        if path.is_dir():
            root, files = path, [file for file in _walk(path) if not _is_output(file, root=path, out=out)]
        elif path.exists():
            root, files = path.parent, [path]
        elif glob.has_magic(pattern):
            root, files = _glob(pattern, out=out)
        else:
            raise FileNotFoundError(f"{pattern} is not there: name a photo, a folder, a video or a quoted glob")
        if not files:
            raise ValueError(
                f"{pattern} holds no photo or video: their names end in "
                + " ".join(sorted(PHOTO_SUFFIXES | VIDEO_SUFFIXES))
            )
        roots.add(root)
        found.update(files)
    base = Path(os.path.commonpath(roots))
    paths = sorted(found)
    names = output_names([path.relative_to(base) for path in paths])
    return [Source(path=path, output=out / name) for path, name in zip(paths, names, strict=True)]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and _is_picture(name):
                yield Path(parent, name)


def _glob(pattern: str, *, out: Path) -> tuple[Path, list[Path]]:
    """The folder before the first wildcard, and the photos and videos that match."""
    parts = Path(os.path.abspath(pattern)).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    root = Path(*parts[:first])
    matches = [Path(os.path.abspath(match)) for match in glob.glob(pattern, recursive=True)]
    if not matches:
        raise FileNotFoundError(f"{pattern} matches nothing")
    return root, [
        path
        for path in matches
        if path.is_file() and _is_picture(path.name) and not _is_output(path, root=root, out=out)
    ]


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES | VIDEO_SUFFIXES


def _is_output(path: Path, *, root: Path, out: Path) -> bool:
    """An earlier run's output: anything in `out` below the searched folder, else known by its name."""
    if out != root and out.is_relative_to(root):
        return path.is_relative_to(out)
    return path.is_relative_to(out) and path.name.endswith((*PHOTO_OUTPUTS.values(), *VIDEO_OUTPUTS.values()))


def output_names(paths: Sequence[Path]) -> list[Path]:
    """The paths without suffix; those that would fall together (if only but for case) keep theirs."""
    names = [path.with_suffix("") for path in paths]
    while True:
        count = Counter(str(name).casefold() for name in names)
        clashing = [count[str(name).casefold()] > 1 and name != path for name, path in zip(names, paths, strict=True)]
        if not any(clashing):
            return names
        names = [path if clash else name for name, path, clash in zip(names, paths, clashing, strict=True)]
