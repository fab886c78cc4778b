"""Waiting photos, grouped by padded size: decoding, the network and encoding overlap, memory is bounded."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch

from cgrseg.images.photos import read_photo_bytes
from cgrseg.inference.pipeline import parallel_images
from cgrseg.inference.predictor import Prepared
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Segmenter
from cgrseg.preprocessing import Preprocessing, Size

from .containers import FORMATS
from .responses import EncodedResult
from .uploads import NAME, Limits, RefusedError, check_photo

P = ParamSpec("P")
T = TypeVar("T")
EXTRA_BATCHES = 2  # besides those in the network: one being decoded, one being encoded
HEADER_THREADS = 2


@dataclass(eq=False)
class PendingPhoto:
    """A photo that waits for its label map.

    Args:
        data: the file's bytes, decoded only when its batch is put together.
        preprocessing: of this request.
        size: (height, width) of the upright photo, from its header.
        padded: (height, width) of the network's input.
        encode: makes the response from the result.
    """

    data: bytes
    preprocessing: Preprocessing
    size: Size
    padded: Size
    encode: Callable[[Segmentation], EncodedResult]
    result: asyncio.Future[EncodedResult] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def finish(self, outcome: EncodedResult | BaseException) -> None:
        if self.result.done():  # the client no longer waits
            return
        if isinstance(outcome, BaseException):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class Pool:
    """Threads, and the time since one of them last finished a task.

    Args:
        threads: how many.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, name)
        self._threads = threads
        self._pending: set[Future[Any]] = set()
        self._progress = time.monotonic()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on one of the threads. If the awaiting task is cancelled first, it is not started."""
        if not self._pending:
            self._progress = time.monotonic()
        future = self._executor.submit(function, *args, **kwargs)
        self._pending.add(future)
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def _finished(self, future: Future[T]) -> None:
        self._pending.discard(future)
        if not future.cancelled():
            self._progress = time.monotonic()

    def is_stuck(self, seconds: float) -> bool:
        """Whether all threads are busy and none has finished a task for `seconds`."""
        return len(self._pending) >= self._threads and time.monotonic() - self._progress > seconds

    def shutdown(self) -> None:
        self._executor.shutdown(wait=False)


class Batcher:
    """Labels photos with one segmenter, the longest waiting first, together with others of its padded size.

    A batch is formed when a thread is free: no photo waits for others, and under load batches fill up. On a CPU a
    single batch uses all threads; several run in parallel, each on its share.

    Args:
        segmenter: labels the batches.
        limits: of the queue and of a batch, with network_pixels above 0.
        note_batch: called with the number of photos of each batch.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits, *, note_batch: Callable[[int], None]) -> None:
        self.segmenter, self.limits = segmenter, limits
        self.seconds = 0.1  # per photo, averaged over the last few batches
        self._note_batch = note_batch
        self._threads, self._parallel = torch.get_num_threads(), parallel_images(segmenter)
        self._headers = Pool(HEADER_THREADS, "headers")
        self._photos = Pool(min(max(os.cpu_count() or 1, 2), 16), "photos")
        self._network = Pool(self._parallel, "network")
        self._in_network = asyncio.Semaphore(self._parallel)
        self._room = asyncio.Semaphore(self._parallel + EXTRA_BATCHES)
        self._waiting: list[PendingPhoto] = []
        self._arrived = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._driver = asyncio.get_running_loop().create_task(self._drive())

    @property
    def waiting(self) -> int:
        """Photos that are not in a batch yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether photos wait or are being labelled."""
        return bool(self._waiting or self._working)

    def require_room(self) -> None:
        """Raise RefusedError (503) if the queue is full."""
        if len(self._waiting) >= self.limits.queue:
            raise RefusedError(503, "too many photos are waiting: retry later", retry_after=self.retry_after())

    def require_progress(self) -> None:
        """Raise RefusedError (503) if the queue has stopped, or all threads of a pool are stuck."""
        pools = (self._headers, self._photos, self._network)
        if self._driver.done() or any(pool.is_stuck(self.limits.seconds) for pool in pools):
            raise RefusedError(503, "the server makes no progress: restart it")

    def retry_after(self) -> int:
        """Seconds until the photos that wait now should be done, from 1 to 60."""
        return min(max(math.ceil(len(self._waiting) * self.seconds), 1), 60)

    async def check(self, data: bytes, preprocessing: Preprocessing) -> tuple[bytes, Size, Size]:
        """`check_photo` on threads of its own, so that slow headers do not delay the photos in the queue."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._headers.run(check_photo, data, preprocessing, self.limits)
        except TimeoutError as error:
            raise self._timed_out() from error

    async def label(self, photo: PendingPhoto) -> EncodedResult:
        """Wait for a photo's result; a photo whose caller is cancelled is dropped from the queue.

        Raises:
            RefusedError: 503 if the queue is full, 504 after the limit's seconds, 422 for a damaged photo,
                413 if the device has too little memory for it.
        """
        self.require_room()
        self._waiting.append(photo)
        self._arrived.set()
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await photo.result
        except TimeoutError as error:
            raise self._timed_out() from error
        finally:
            if photo in self._waiting:
                self._waiting.remove(photo)

    async def close(self) -> None:
        """Finish the photos that were accepted, then stop."""
        while self.busy:
            await asyncio.sleep(0.01)
        self._driver.cancel()
        for pool in (self._headers, self._photos, self._network):
            pool.shutdown()

    def _timed_out(self) -> RefusedError:
        return RefusedError(504, f"no result within {self.limits.seconds:g} s: retry later")

    async def _drive(self) -> None:
        while True:
            await self._arrived.wait()
            await self._room.acquire()
            batch = self._take()
            if not self._waiting:
                self._arrived.clear()
            if not batch:  # all clients went away meanwhile
                self._room.release()
                continue
            task = asyncio.get_running_loop().create_task(self._work(batch))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    def _take(self) -> list[PendingPhoto]:
        """The longest waiting photo and others of its padded size, within the limits of a batch."""
        batch: list[PendingPhoto] = []
        for photo in list(self._waiting):
            area = photo.padded[0] * photo.padded[1] * (len(batch) + 1)
            pixels = sum(other.size[0] * other.size[1] for other in [*batch, photo])
            if batch and (photo.padded != batch[0].padded or area > self.limits.network_pixels):
                continue
            if batch and pixels > self.limits.pixels:
                continue
            batch.append(photo)
            self._waiting.remove(photo)
            if len(batch) == self.limits.batch:
                break
        return batch

    async def _work(self, batch: list[PendingPhoto]) -> None:
        start = time.monotonic()
        try:
            prepared = await asyncio.gather(*(self._prepare(photo) for photo in batch))
            async with self._in_network:
                ready = [
                    (photo, item)
                    for photo, item in zip(batch, prepared, strict=True)
                    if item is not None and not photo.result.done()
                ]
                if not ready:  # no client waits for this pass any more
                    return
                self._note_batch(len(ready))
                results = await self._run([item for _, item in ready])
            await asyncio.gather(
                *(self._encode(photo, result) for (photo, _), result in zip(ready, results, strict=True))
            )
        except BaseException as error:
            for photo in batch:
                photo.finish(error)
            if not isinstance(error, Exception):
                raise
        finally:
            each = (time.monotonic() - start) / (self._parallel + EXTRA_BATCHES) / len(batch)
            self.seconds += 0.2 * (each - self.seconds)
            self._room.release()

    async def _prepare(self, photo: PendingPhoto) -> Prepared | None:
        try:
            return None if photo.result.done() else await self._photos.run(self._read, photo)
        except (ValueError, OSError) as error:
            photo.finish(RefusedError(422, str(error)))
        except Exception as error:  # a bug of ours or Pillow's does not affect the other photos of the batch
            photo.finish(error)
        return None

    def _read(self, photo: PendingPhoto) -> Prepared:
        """On a thread of the photos' pool."""
        pixels = read_photo_bytes(photo.data, NAME, formats=FORMATS)
        return self.segmenter.prepare(pixels, photo.preprocessing)

    async def _run(self, items: list[Prepared]) -> list[Segmentation | RefusedError]:
        """One pass; if memory runs out, one photo at a time."""
        try:
            return list(await self._network.run(self._label, items))
        except MemoryError as error:
            if len(items) == 1:
                return [RefusedError(413, f"{error}")]
        return [(await self._run([item]))[0] for item in items]

    def _label(self, items: list[Prepared]) -> list[Segmentation]:
        """On a thread of the network's pool."""
        alone = not self._waiting and len(self._working) == 1
        torch.set_num_threads(self._threads if alone else self._threads // self._parallel)  # of this thread
        return self.segmenter.run(items)

    async def _encode(self, photo: PendingPhoto, result: Segmentation | RefusedError) -> None:
        if isinstance(result, RefusedError):
            return photo.finish(result)
        try:
            photo.finish(await self._photos.run(photo.encode, result))
        except Exception as error:
            photo.finish(error)
