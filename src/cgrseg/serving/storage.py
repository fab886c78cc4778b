"""Files by path or URL, the same on a disk, in a bucket or behind any fsspec file system."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

from pyarrow import ArrowInvalid, ArrowNotImplementedError, fs


class Storage:
    """A folder that may lie anywhere.

    Args:
        url: a path, or a URL that pyarrow (s3://, gs://, hdfs://, file://, …) or fsspec knows.

    Raises:
        ValueError: neither knows such a URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files, self.root = _resolve(url)
        self.is_local = isinstance(self.files, fs.LocalFileSystem)

    def read(self, name: str = "") -> bytes:
        """The content of a file below the root; "" is the root itself.

        Raises:
            OSError: it can't be read.
        """
        with self.files.open_input_stream(self._path(name), compression=None) as stream:
            content: bytes = stream.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, over what was there; missing folders are made."""
        path = self._path(name)
        self.files.create_dir(os.path.dirname(path), recursive=True)
        # A bucket shows an object only when it is complete; elsewhere it takes its name at the end.
        unfinished = f"{os.path.dirname(path)}/.unfinished-{secrets.token_hex(6)}" if self.is_local else path
        try:
            with self.files.open_output_stream(unfinished, compression=None) as stream:
                stream.write(content)
            if self.is_local:
                os.replace(unfinished, path)
        finally:
            if self.is_local and os.path.exists(unfinished):
                os.unlink(unfinished)

    def has(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return bool(self.files.get_file_info(self._path(name)).type == fs.FileType.File)

    def remove(self, name: str) -> None:
        """Delete a file that is there."""
        self.files.delete_file(self._path(name))

    def names(self, folder: str = "") -> Iterator[str]:
        """All files below a folder, relative to the root, sorted; hidden ones are left out."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        paths = [info.path for info in self.files.get_file_info(selector) if info.type == fs.FileType.File]
        for path in sorted(paths):
            name = path[len(self.root) :].lstrip("/")
            if not any(part.startswith(".") for part in name.split("/")):
                yield name

    def kind(self) -> str:
        """ "file", "folder" or "nothing": what stands at the root."""
        found = self.files.get_file_info(self.root).type
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "nothing")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def _resolve(url: str) -> tuple[fs.FileSystem, str]:
    if "://" not in url:
        return fs.LocalFileSystem(), os.path.abspath(url).rstrip("/") or "/"
    try:
        files, root = fs.FileSystem.from_uri(url)
        return files, root.rstrip("/")
    except (ArrowInvalid, ArrowNotImplementedError):
        pass
    try:
        import fsspec

        known: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} lies where neither pyarrow nor fsspec can read: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(known[0])), known[1].rstrip("/")
