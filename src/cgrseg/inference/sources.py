"""What to label: files, folders, globs and videos, each with the path of its outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgrseg._text import printable
from cgrseg.images.find import BROKEN, LOOP, SPECIAL, Found, contains_itself, describe_skipped, find_files
from cgrseg.images.photos import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))
SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
PHOTO_OUTPUTS = {
    **{"overlay": ".overlay.jpg", "mask": ".mask.png", "confidence": ".confidence.png"},
    **{"outline": ".outline.jpg", "cutout": ".cutout.png", "geojson": ".geojson"},
}
FOLDER_OUTPUTS = {"coco": "annotations.coco.json", "csv": "shares.csv"}  # one file for all photos of a folder
VIDEO_OUTPUTS = {"overlay": ".overlay.mp4", "legend": ".legend.jpg"}
OUTPUT_ENDINGS = (*PHOTO_OUTPUTS.values(), *VIDEO_OUTPUTS.values())


@dataclass(frozen=True)
class Source:
    """A photo or video to label.

    Args:
        path: the file.
        output: path of its outputs, without their suffixes (".mask.png", …).
    """

    path: Path
    output: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def outputs(self, kinds: Sequence[str] = ("overlay", "mask", "confidence")) -> dict[str, Path]:
        """Kind -> the file to write: the `kinds` of a photo, the overlay and legend of a video."""
        suffixes = VIDEO_OUTPUTS if self.is_video else {kind: PHOTO_OUTPUTS.get(kind, "") for kind in kinds}
        names = {kind: FOLDER_OUTPUTS.get(kind) or self.output.name + suffix for kind, suffix in suffixes.items()}
        return {kind: self.output.with_name(name) for kind, name in names.items()}


def find_sources(
    patterns: Sequence[str], *, out: Path, on_skipped: Callable[[str], object] = lambda line: None
) -> list[Source]:
    """List the files that the patterns name, sorted, each once.

    A pattern is a file (of any suffix), a folder (searched by `find_files` for photos and videos) or a glob such as
    "photos/**/*.jpg". Outputs mirror the folders below the pattern's own folder, or below the common folder of all
    patterns. `a.jpg` gives `a.mask.png`; if `a.png` is in the same folder, the two give `a.jpg.mask.png` and
    `a.png.mask.png`, whether they are labelled in one run or in two. Earlier outputs are never sources.

    Args:
        patterns: at least one.
        out: the output folder; it need not exist.
        on_skipped: is called with a line for each folder or glob in which something was left out, such as
            "photos: left out .heic (2): a.heic, b.heic; hidden (1): .ipynb_checkpoints".

    Raises:
        FileNotFoundError: a pattern matches nothing.
        ValueError: a pattern matches no photo or video, a named file is a pipe, socket or device, or an output would
            overwrite a source.
    """
    out = Path(os.path.abspath(out))
    roots: set[Path] = set()
    sources: set[Path] = set()
    for pattern in patterns:
        path = Path(os.path.abspath(pattern))
        if path.is_dir():
            root, found = path, find_files(path, SUFFIXES)
        elif path.is_file():
            root, found = path.parent, Found([path])
        elif path.exists():
            raise ValueError(f"{pattern} is not a regular file: name a photo, a video or a folder")
        elif glob.has_magic(pattern):
            root, found = _glob(pattern)
        else:
            raise FileNotFoundError(f"{pattern} is not there: name a photo, a folder, a video or a quoted glob")
        files = found.files
        if files != [path]:  # a file named by itself is meant
            files = [file for file in files if not _is_output(file, root=root, out=out)]
        if found.skipped:
            on_skipped(f"{printable(pattern)}: left out {describe_skipped(found.skipped, root)}")
        if not files:
            cure = "convert what was left out to JPEG or PNG" if found.skipped else "name another folder"
            raise ValueError(
                f"{pattern} holds no photo or video, whose names end in {' '.join(sorted(SUFFIXES))}: {cure}"
            )
        roots.add(root)
        sources.update(files)
    base = Path(os.path.commonpath(roots))
    paths = sorted(sources)
    # Names depend on the files that lie in a folder, not on those labelled in this run.
    present = sources | {file for folder in {path.parent for path in paths} for file in _alike(folder)}
    beside = sorted(file for file in present if file in sources or not _is_output(file, root=file.parent, out=out))
    names = dict(zip(beside, output_names([path.relative_to(base) for path in beside]), strict=True))
    found_sources = [Source(path=path, output=out / names[path]) for path in paths]
    _refuse_overwriting(found_sources)
    return found_sources


def _alike(folder: Path) -> list[Path]:
    """The photos and videos directly in a folder."""
    with os.scandir(folder) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in SUFFIXES
        ]


def _refuse_overwriting(sources: Sequence[Source]) -> None:
    inputs = {os.path.realpath(source.path) for source in sources}
    for source in sources:
        for output in source.outputs(tuple(PHOTO_OUTPUTS)).values():
            if os.path.realpath(output) in inputs:
                raise ValueError(f"the output of {source.path} would overwrite the source {output}: use another --out")


def _glob(pattern: str) -> tuple[Path, Found]:
    """The folder before the first wildcard, and the photos and videos that match."""
    parts = Path(os.path.abspath(pattern)).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    found = Found()
    matches = [Path(os.path.abspath(match)) for match in glob.glob(pattern, recursive=True)]
    if not matches:
        raise FileNotFoundError(f"{pattern} matches nothing")
    for path in matches:
        suffix = path.suffix.lower()
        if path.is_dir():
            continue
        if not path.is_file():
            found.skipped[SPECIAL if path.exists() else BROKEN].append(path)
        elif contains_itself(path):
            found.skipped[LOOP].append(path)
        elif suffix in SUFFIXES:
            found.files.append(path)
        else:
            found.skipped[suffix or "no suffix"].append(path)
    return Path(*parts[:first]), found


def _is_output(path: Path, *, root: Path, out: Path) -> bool:
    """Whether a file is an earlier output: anything in `out` below the searched folder, otherwise by its name."""
    if out != root and out.is_relative_to(root):
        return path.is_relative_to(out)
    return path.is_relative_to(out) and path.name.endswith(OUTPUT_ENDINGS)


def output_names(paths: Sequence[Path]) -> list[Path]:
    """The paths without suffix; names that would be equal, apart from case, keep theirs."""
    names = [path.with_suffix("") for path in paths]
    while True:
        count = Counter(str(name).casefold() for name in names)
        clashing = [count[str(name).casefold()] > 1 and name != path for name, path in zip(names, paths, strict=True)]
        if not any(clashing):
            return names
        names = [path if clash else name for name, path, clash in zip(names, paths, clashing, strict=True)]
