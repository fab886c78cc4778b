"""The photos to label as rows of a Ray dataset: from folders, globs, Parquet tables and tars."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import ArrowInvalid, ArrowNotImplementedError, fs
from ray.data import Dataset

from cgrseg._text import printable
from cgrseg.images.files import write_file
from cgrseg.images.find import Found, describe_skipped
from cgrseg.images.photos import IMAGE_SUFFIXES
from cgrseg.inference.sources import find_sources, output_names

ROWS = 256  # photos per block of paths, which is repeated as a whole when a worker dies
# In parallel. They reserve no core, since the models may have all of them; Ray's own Parquet reader would wait for one.
READERS = 4
SCHEMA = pa.schema([("name", pa.string()), ("path", pa.string())])


def read_rows(
    sources: Sequence[str], *, out: str, rows: int = ROWS, on_skipped: Callable[[str], object] = lambda line: None
) -> Dataset:
    """A Ray dataset with the columns `name` (of the outputs, unique) and `path` or `bytes`.

    Args:
        sources: photos, folders and globs; or Parquet files or folders of them, with a column `path`, or
            `bytes` and `name`; or WebDataset tars. Paths or URLs; globs are local.
        out: the output folder, which is never a source.
        rows: photos per block of paths.
        on_skipped: see `find_sources`.

    Raises:
        OSError, ValueError: a source does not exist or has no photos, or the kinds are mixed.
    """
    kinds = {_kind(source, out) for source in sources}
    if len(kinds) > 1:
        raise ValueError(f"the sources mix {', '.join(sorted(kinds))}: use one kind per run")
    (kind,) = kinds
    if kind == "photos":
        table = photo_table(sources, out=out, on_skipped=on_skipped)
        return ray.data.from_arrow([table.slice(start, rows) for start in range(0, len(table), rows)])
    files = [part for source in sources for part in _parts(source, f".{kind}", out)]
    listed = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
    if kind == "tar":
        return listed.flat_map(members, num_cpus=0, concurrency=READERS)
    _check_columns(files[0])
    return listed.map_batches(table_rows, batch_size=1, batch_format="pyarrow", num_cpus=0, concurrency=READERS)


def photo_table(
    sources: Sequence[str], *, out: str, on_skipped: Callable[[str], object] = lambda line: None
) -> pa.Table:
    """Names and paths of photo files; local ones are named as `cgrseg predict` names them."""
    if not any("://" in source for source in sources):
        found = find_sources(sources, out=Path(out), on_skipped=on_skipped)
        videos = [source for source in found if source.is_video]
        if videos:
            raise ValueError(f"{videos[0].path} is a video: use --engine local, which labels photos and videos")
        root = Path(os.path.abspath(out))
        names = [source.output.relative_to(root).as_posix() for source in found]
        return pa.table({"name": names, "path": [str(source.path) for source in found]}, schema=SCHEMA)
    paths: list[str] = []
    relative: list[Path] = []
    for source in sources:
        storage = Storage(source)
        if storage.kind() == "file":
            paths.append(source)
            relative.append(Path(PurePosixPath(source).name))
            continue
        inside, others = [], Found()
        for name in _names(storage, out):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                inside.append(name)
            else:
                others.skipped[suffix or "no suffix"].append(Path(name))
        if others.skipped:
            on_skipped(f"{printable(source)}: left out {describe_skipped(others.skipped, Path())}")
        if not inside:
            raise ValueError(f"{source} has no photos: their names end in {' '.join(sorted(IMAGE_SUFFIXES))}")
        paths += [storage.url_of(name) for name in inside]
        relative += [Path(name) for name in inside]
    names = [name.as_posix() for name in output_names(relative)]
    if len(set(names)) < len(names):
        raise ValueError("two sources have photos of the same name: use a separate --out for each")
    return pa.table({"name": names, "path": paths}, schema=SCHEMA)


def members(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The photos of one tar, named TAR/MEMBER."""
    stem = PurePosixPath(row["file"]).stem
    with tarfile.open(fileobj=BytesIO(Storage(row["file"]).read())) as tar:
        for member in tar:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                content = tar.extractfile(member)
                assert content is not None
                yield {"name": f"{stem}/{member.name}", "bytes": content.read()}


def table_rows(batch: pa.Table) -> Iterator[pa.Table]:
    """The rows of Parquet files in parts: name and bytes as stored, or paths and names derived from them."""
    for file in batch.column("file").to_pylist():
        storage = Storage(file)
        with storage.files.open_input_file(storage.root) as opened:
            parquet = pq.ParquetFile(opened)
            stored = {"name", "bytes"} <= set(parquet.schema_arrow.names)
            for part in parquet.iter_batches(ROWS, columns=["name", "bytes"] if stored else ["path"]):
                table = pa.Table.from_batches([part])
                yield table if stored else _name_by_path(table)


def _names(storage: Storage, out: str) -> Iterator[str]:
    """The files of a source, without those of the output folder."""
    outputs = Storage(out)
    for name in storage.names():
        path = f"{storage.root}/{name}"
        if not (path.startswith(f"{outputs.root}/") and storage.files.equals(outputs.files)):
            yield name


def _kind(source: str, out: str) -> str:
    for suffix in ("parquet", "tar"):
        if source.endswith(f".{suffix}"):
            return suffix
    if "://" in source or os.path.isdir(source):
        storage = Storage(source)
        if storage.kind() == "folder":
            for name in _names(storage, out):
                suffix = PurePosixPath(name).suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    break
                if suffix in (".parquet", ".tar"):
                    return suffix[1:]
    return "photos"


def _parts(source: str, suffix: str, out: str) -> list[str]:
    storage = Storage(source)
    if storage.kind() == "nothing":
        raise FileNotFoundError(f"{source} does not exist: name a file or folder of {suffix} files")
    if storage.kind() == "file":
        return [source]
    return [storage.url_of(name) for name in _names(storage, out) if name.endswith(suffix)]


def _check_columns(file: str) -> None:
    storage = Storage(file)
    names = pq.read_schema(storage.root, filesystem=storage.files).names
    if "path" not in names and not {"name", "bytes"} <= set(names):
        raise ValueError(f"{file} has the columns {', '.join(names)}: it needs path, or name and bytes")


def _name_by_path(table: pa.Table) -> pa.Table:
    paths = table.column("path")
    names = [path.partition("://")[2] if "://" in path else path for path in paths.to_pylist()]
    return pa.table({"name": [name.lstrip("/") for name in names], "path": paths}, schema=SCHEMA)


class Storage:
    """A folder on this machine or in remote storage.

    Args:
        url: a path, or a URL that pyarrow (s3://, gs://, hdfs://, file://, …) or fsspec supports.

    Raises:
        ValueError: neither supports the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files, self.root, self._is_encoded = _resolve(url)
        self.is_local = isinstance(self.files, fs.LocalFileSystem)

    def read(self, name: str = "") -> bytes:
        """The content of a file below the root; "" is the root itself.

        Raises:
            OSError: it can't be read.
        """
        path = self._path(name)
        if self.is_local and os.path.exists(path) and not os.path.isfile(path):  # a pipe would block for ever
            raise OSError(f"{path} is not a regular file: name a file")
        with self.files.open_input_stream(path, compression=None) as stream:
            content: bytes = stream.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, replacing an existing one; missing folders are created."""
        path = self._path(name)
        if self.is_local:
            write_file(path, content)
            return
        self.files.create_dir(os.path.dirname(path), recursive=True)
        with self.files.open_output_stream(path, compression=None) as stream:  # appears when it is complete
            stream.write(content)

    def url_of(self, name: str) -> str:
        """The path or URL of a file below the root, with which another `Storage` finds it."""
        return f"{self.url.rstrip('/')}/{quote(name) if self._is_encoded else name}"

    def has(self, name: str) -> bool:
        """Whether the file exists."""
        return bool(self.files.get_file_info(self._path(name)).type == fs.FileType.File)

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.files.delete_file(self._path(name))

    def names(self, folder: str = "") -> Iterator[str]:
        """All files below a folder, relative to the root, sorted, without hidden ones."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        paths = [info.path for info in self.files.get_file_info(selector) if info.type == fs.FileType.File]
        for path in sorted(paths):
            name = path[len(self.root) :].lstrip("/")
            if not any(part.startswith(".") for part in name.split("/")):
                yield name

    def kind(self) -> str:
        """What the root is: "file", "folder" or "nothing"."""
        found = self.files.get_file_info(self.root).type
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "nothing")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def _resolve(url: str) -> tuple[fs.FileSystem, str, bool]:
    """The file system of a path or URL, the path in it, and whether the URL is percent-encoded."""
    if "://" not in url:
        return fs.LocalFileSystem(), os.path.abspath(url).rstrip("/") or "/", False
    try:
        files, root = fs.FileSystem.from_uri(url)
        return files, root.rstrip("/"), True
    except (ArrowInvalid, ArrowNotImplementedError):
        pass
    try:
        import fsspec

        known: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} is supported by neither pyarrow nor fsspec: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(known[0])), known[1].rstrip("/"), False
