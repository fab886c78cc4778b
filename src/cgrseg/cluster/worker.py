"""A worker of the cluster: it has one model, labels blocks of rows and writes the outputs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cgrseg.images.photos import read_photo_bytes
from cgrseg.inference.outputs import encode
from cgrseg.inference.pipeline import FAILURES
from cgrseg.inference.predictor import Prepared
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Segmenter, batches
from cgrseg.inference.sources import PHOTO_OUTPUTS
from cgrseg.server.responses import encode_result

from .sources import Storage

MANIFEST = "manifest"
TABLE = "table"
READERS = 2  # threads that decode and encode
MAX_CRASHES = 2  # workers that may die on one photo before it counts as failed; one can die for another reason
OUTCOME = pa.schema([("name", pa.string()), ("error", pa.string())])
RESULT = pa.schema(
    [
        *OUTCOME,
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", pa.binary()),
        ("shares", pa.map_(pa.string(), pa.float64())),
        ("confidence", pa.float64()),
    ]
)
Row = dict[str, Any]


class BlockLabeler:
    """Labels blocks; Ray Data constructs one in each worker process.

    A block is done when its part of the manifest is written, after its outputs. The part is named by a hash of the
    photos' names, so that a block that is repeated because its worker died replaces itself.

    Args:
        weights: the content of the weights file, or a Ray reference to it.
        out: folder or URL of the outputs.
        kinds: of overlay, mask, confidence (files per photo) and parquet (a table per block).
        batch: photos of equal padded size that go through the network together.
        short_side, device: as for `Segmenter`.
        done: sorted hashes (`hash_name`) of the names that earlier runs have done.
    """

    def __init__(
        self,
        *,
        weights: bytes | ray.ObjectRef[bytes],
        out: str,
        kinds: Sequence[str],
        batch: int,
        short_side: int | None,
        device: str,
        done: np.ndarray[Any, np.dtype[np.uint64]],
    ) -> None:
        self.out, self.kinds, self.batch, self.done = Storage(out), kinds, batch, done
        content = weights if isinstance(weights, bytes) else ray.get(weights)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.safetensors")
            path.write_bytes(content)
            self.segmenter = Segmenter(path, device=device, short_side=short_side)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Label the rows that are not done yet; returns their names and errors (null if there was none)."""
        rows = [row for row in block.to_pylist() if not self._is_done(row["name"])]
        if not rows:
            return OUTCOME.empty_table()
        names = [row["name"] for row in rows]
        part = f"part-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:20]}"
        crashes = CrashRecord(self.out, part)
        labelled = self._label(rows) if crashes.is_first_attempt else self._label_one_by_one(rows, crashes)
        outcomes = {row["name"]: row for row in labelled}
        results = [outcomes[name] for name in names]
        if "parquet" in self.kinds:
            buffer = BytesIO()
            table = pa.Table.from_pylist(results, schema=RESULT)
            pq.write_table(table, buffer, compression="zstd")
            self.out.write(f"{TABLE}/{part}.parquet", buffer.getvalue())
        done = [{"name": row["name"], "error": row.get("error")} for row in results]
        self.out.write(f"{MANIFEST}/{part}.jsonl", "".join(f"{json.dumps(row)}\n" for row in done).encode())
        crashes.close()
        return pa.Table.from_pylist(done, OUTCOME)

    def _is_done(self, name: str) -> bool:
        wanted = np.uint64(hash_name(name))
        place = int(np.searchsorted(self.done, wanted))
        return place < len(self.done) and bool(self.done[place] == wanted)

    def _label_one_by_one(self, rows: Sequence[Row], crashes: CrashRecord) -> Iterator[Row]:
        """After a crash: a photo on which workers crash repeatedly becomes a row with an error."""
        for row in rows:
            name = row["name"]
            if crashes.count(name) >= MAX_CRASHES:
                cure = "it may need more memory than available: set --short-side, or make it smaller"
                yield _failure(name, RuntimeError(f"{name}: {MAX_CRASHES} workers died on it: {cure}"))
                continue
            crashes.begin(name)
            yield from self._label([row])

    def _label(self, rows: Sequence[Row]) -> Iterator[Row]:
        failed: list[Row] = []
        with ThreadPoolExecutor(READERS) as pool:
            for group in batches(self._read_ahead(rows, pool, failed), self.batch):
                try:
                    results = self.segmenter.run([item for _, item in group])
                except FAILURES as error:
                    failed += [_failure(name, error) for name, _ in group]
                    continue
                yield from pool.map(self._finish, [name for name, _ in group], results)
        yield from failed

    def _read_ahead(
        self, rows: Sequence[Row], pool: ThreadPoolExecutor, failed: list[Row]
    ) -> Iterator[tuple[str, Prepared]]:
        reading: deque[tuple[str, Future[Prepared]]] = deque()
        waiting = iter(rows)
        while True:
            for row in islice(waiting, READERS + 2 * self.batch - len(reading)):
                reading.append((row["name"], pool.submit(self._prepare, row)))
            if not reading:
                return
            name, future = reading.popleft()
            try:
                yield name, future.result()
            except FAILURES as error:
                failed.append(_failure(name, error))

    def _prepare(self, row: Row) -> Prepared:
        name = PurePosixPath(row["name"])
        if name.is_absolute() or ".." in name.parts or not name.name:
            raise ValueError(f"{name} is not a valid output name: it must be a relative path without ..")
        path = row.get("path")
        data = row["bytes"] if path is None else Storage(path).read()
        return self.segmenter.prepare(read_photo_bytes(data, path or row["name"]))

    def _finish(self, name: str, result: Segmentation) -> Row:
        try:
            for kind in self.kinds:
                if kind != "parquet":
                    self.out.write(name + PHOTO_OUTPUTS[kind], encode(result, kind))
        except FAILURES as error:
            return _failure(name, error)
        if "parquet" not in self.kinds:
            return {"name": name}
        height, width = result.labels.shape
        mask = encode_result(result, "mask", confidence=True)
        return {
            "name": name,
            "height": height,
            "width": width,
            "mask": mask.content,
            "shares": list(result.areas().items()),
            "confidence": mask.confidence,
        }


def hash_name(name: str) -> int:
    """64 bits of a name: those of ten million names take 80 MB."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _failure(name: str, error: BaseException) -> Row:
    text = " ".join(str(error).split()) or type(error).__name__
    return {"name": name, "error": text if name in text else f"{name}: {text}"}


class CrashRecord:
    """A hidden file beside the outputs that exists while a block is being labelled.

    If it exists already, the block's worker has died. The photos are then labelled one by one, each noted before it is
    begun, so that the next crash can be attributed to a photo.

    Args:
        storage: the output folder.
        part: the block's name.
    """

    def __init__(self, storage: Storage, part: str) -> None:
        self._storage, self._name = storage, f".attempts/{part}.json"
        self._crashes: dict[str, int] = {}
        self.is_first_attempt = not storage.has(self._name)
        if not self.is_first_attempt:
            record = json.loads(storage.read(self._name))
            self._crashes = record["crashes"]
            if (photo := record["photo"]) is not None:
                self._crashes[photo] = self.count(photo) + 1
        self.begin(None)

    def begin(self, photo: str | None) -> None:
        """Note the photo that is begun; None for the whole block."""
        self._storage.write(self._name, json.dumps({"photo": photo, "crashes": self._crashes}).encode())

    def count(self, photo: str) -> int:
        """Crashes during this photo."""
        return self._crashes.get(photo, 0)

    def close(self) -> None:
        """The block is done."""
        self._storage.remove(self._name)
