"""Download weights from the Hugging Face hub, checked by their hash, and upload them with a model card."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from cgrseg.images.files import write_file

from . import artifact
from .card import config, model_card

T = TypeVar("T")
HUB_FILE = "model.safetensors"
REFUSED = "log in with `hf auth login` or set HF_TOKEN to a token that may write there"


def fetch(repository: str, *, cure: str) -> Path:
    """The local path of a hub repository's weights, from the cache or downloaded; its hash is checked in both cases.

    Args:
        repository: "USER/NAME".
        cure: an alternative for the error message, in half a sentence.

    Raises:
        OSError: the download failed, or the file does not have the announced hash and was removed.
    """
    path = Path(from_hub(repository, lambda: hf_hub_download(repository, HUB_FILE), cure=f", or {cure}"))
    _verify(path, repository)
    return path


def from_hub(repository: str, download: Callable[[], T], *, cure: str = "") -> T:
    """Call `download`; errors become one line.

    Raises:
        OSError: the hub cannot be reached, or has no such repository.
    """
    try:
        if not isinstance(try_to_load_from_cache(repository, HUB_FILE), str):
            _check_online()
        return download()
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(
            f"{HUB_FILE} of {repository} cannot be downloaded from the Hugging Face hub ({_line(error)}): "
            f"go online once{cure}"
        ) from error


def pages(
    path: artifact.Pathlike, repository: str, *, terms: str | None, limits: str | None, license: str
) -> dict[str, str]:
    """The files beside the weights: file name -> text, the model card and config.json.

    Args:
        path: a weights file.
        repository: "USER/NAME", the target.
        terms: licence or terms of the training data; None uses the card of the weights.
        limits: known limitations; None uses the card, or the scores.
        license: of the weights, in the hub's spelling ("apache-2.0", "cc-by-4.0", "other").

    Raises:
        FileNotFoundError, ValueError: it is not a weights file, or the terms of the data are unknown.
    """
    description = artifact.describe(path)
    terms = terms or description.card.get("terms")
    if not terms:
        raise ValueError(
            f"{path} does not state the terms of its training data: add --terms, such as "
            '--terms "CC BY 4.0, photos by the city of Gent"'
        )
    card = {**description.card, "terms": terms, **({"limits": limits} if limits else {})}
    return {
        "README.md": model_card(description, card, repository=repository, license=license),
        "config.json": json.dumps(config(description), indent=2, ensure_ascii=False) + "\n",
    }


def write(path: artifact.Pathlike, texts: dict[str, str], folder: Path) -> None:
    """Write the files for the hub into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    for name, data in {HUB_FILE: Path(path).read_bytes(), **_encoded(texts)}.items():
        write_file(folder / name, data)


def push(path: artifact.Pathlike, texts: dict[str, str], repository: str, *, private: bool = False) -> str:
    """Upload a weights file and its pages in one commit; a missing repository is created.

    Args:
        path: a weights file.
        texts: see `pages`.
        repository: "USER/NAME".
        private: whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        OSError: the hub cannot be reached or refuses.
    """
    api = HfApi()
    files: dict[str, str | bytes] = {HUB_FILE: str(path), **_encoded(texts)}
    try:
        _check_online()
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in files.items()]
        commit = api.create_commit(repository, operations, commit_message="Upload weights with their card")
    except HfHubHTTPError as error:
        status = error.response.status_code
        cure = REFUSED if status in (401, 403) else "try again later"
        raise OSError(f"{repository} cannot be written on the Hugging Face hub (status {status}): {cure}") from error
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{repository} cannot be written on the Hugging Face hub ({_line(error)}): go online, or write a "
            "folder with --out"
        ) from error
    return str(commit.commit_url)


def _encoded(texts: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in texts.items()}


def _verify(path: Path, repository: str) -> None:
    """Compare the hash: the hub's client compares only sizes, and names the cached file by its hash."""
    stored = path.resolve()
    with open(stored, "rb") as file:
        if len(stored.name) == 64:  # large files: SHA-256
            found = hashlib.file_digest(file, "sha256").hexdigest()
        elif len(stored.name) == 40:  # small files: Git's hash
            found = hashlib.sha1(b"blob %d\0" % stored.stat().st_size + file.read()).hexdigest()
        else:  # systems without links: no hash
            return
    if found != stored.name:
        path.unlink()
        stored.unlink(missing_ok=True)
        raise OSError(f"{HUB_FILE} of {repository} is damaged (its hash differs) and was removed: download it again")


def _check_online() -> None:
    """Fail at once without a network; the hub's client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE or getproxies():
        return  # the client fails at once, or a proxy is used
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    socket.create_connection((address.hostname or "", port), timeout=5).close()


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
