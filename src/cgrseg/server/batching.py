"""Requests that wait, grouped by padded size: reading, the network and encoding overlap, memory stays bounded."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch

from cgrseg.images.photos import read_photo_bytes
from cgrseg.inference.pipeline import photos_abreast
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Prepared, Segmenter
from cgrseg.preprocessing import Preprocessing, Size

from .responses import Answer
from .uploads import FORMATS, NAME, Limits, RefusedError, check_photo

P = ParamSpec("P")
T = TypeVar("T")
AROUND = 2  # batches outside of the network: one being read, one being encoded


@dataclass(eq=False)
class Job:
    """One photo on its way.

    Args:
        data: the file's bytes, decoded only when its turn comes.
        preprocessing: what this request wants.
        size: (height, width) of the upright photo, from its header.
        padded: (height, width) of the network's input.
        encode: what to send back, from the result.
    """

    data: bytes
    preprocessing: Preprocessing
    size: Size
    padded: Size
    encode: Callable[[Segmentation], Answer]
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def prepare(self) -> Prepared:
        photo = read_photo_bytes(self.data, NAME, formats=FORMATS)
        image, valid = self.preprocessing.prepare(photo)
        return Prepared(photo=photo, image=image, valid=valid)

    def finish(self, outcome: Answer | BaseException) -> None:
        if self.answer.done():  # its sender has stopped waiting
            return
        if isinstance(outcome, BaseException):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Batcher:
    """Labels jobs on one segmenter, the longest waiting first, together with others of its padded size.

    A batch is put together when there is room to work on it, not before: under light load nobody waits for
    company, and under heavy load batches fill up. On a CPU a batch alone has all threads; several run abreast, each
    on its share.

    Args:
        segmenter: does the work.
        limits: of the queue and of a batch.
        note_batch: told the number of photos of each batch.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits, *, note_batch: Callable[[int], None]) -> None:
        self.segmenter, self.limits = segmenter, limits
        self.photos = ThreadPoolExecutor(min(max(os.cpu_count() or 1, 2), 16), "photos")
        self.seconds = 0.1  # per photo, averaged over the last few batches
        self._note_batch = note_batch
        self._threads, self._abreast = torch.get_num_threads(), photos_abreast(segmenter)
        self._network = ThreadPoolExecutor(self._abreast, "network")
        self._in_network = asyncio.Semaphore(self._abreast)
        self._room = asyncio.Semaphore(self._abreast + AROUND)
        self._waiting: list[Job] = []
        self._arrived = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._driver = asyncio.get_running_loop().create_task(self._drive())

    @property
    def waiting(self) -> int:
        """Photos that no batch has taken yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return not self._driver.done()

    def require_room(self) -> None:
        """Refuse with 503 where the queue is full."""
        if len(self._waiting) >= self.limits.queue:
            raise RefusedError(503, "too many photos are waiting: come again later", retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Seconds until today's queue should be done, from 1 to 60."""
        return min(max(math.ceil(len(self._waiting) * self.seconds), 1), 60)

    async def look(self, data: bytes, preprocessing: Preprocessing) -> tuple[Size, Size]:
        """`check_photo` off the event loop."""
        return await _in(self.photos, check_photo, data, preprocessing, self.limits)

    async def label(self, job: Job) -> Answer:
        """Wait for a job's answer.

        Raises:
            RefusedError: 503 where the queue is full, 504 after the limit's seconds, 422 for a damaged photo,
                413 where the device has too little memory for it.
        """
        self.require_room()
        self._waiting.append(job)
        self._arrived.set()
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await job.answer
        except TimeoutError as error:
            raise RefusedError(504, f"no answer within {self.limits.seconds:g} s: come again later") from error
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def close(self) -> None:
        """Finish what was taken, then stop."""
        while self._waiting or self._working:
            await asyncio.sleep(0.01)
        self._driver.cancel()
        self.photos.shutdown(wait=False)
        self._network.shutdown(wait=False)

    async def _drive(self) -> None:
        while True:
            await self._arrived.wait()
            await self._room.acquire()
            jobs = self._take()
            if not self._waiting:
                self._arrived.clear()
            if not jobs:  # their senders went away meanwhile
                self._room.release()
                continue
            task = asyncio.get_running_loop().create_task(self._work(jobs))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    def _take(self) -> list[Job]:
        """The longest waiting job and those of its size, within the limits of a batch."""
        jobs: list[Job] = []
        for job in list(self._waiting):
            area = job.padded[0] * job.padded[1] * (len(jobs) + 1)
            pixels = sum(other.size[0] * other.size[1] for other in [*jobs, job])
            if jobs and (job.padded != jobs[0].padded or area > self.limits.network_pixels):
                continue
            if jobs and pixels > self.limits.pixels:
                continue
            jobs.append(job)
            self._waiting.remove(job)
            if len(jobs) == self.limits.batch:
                break
        return jobs

    async def _work(self, jobs: list[Job]) -> None:
        start = time.monotonic()
        try:
            prepared = await asyncio.gather(*(self._read(job) for job in jobs))
            pairs = [(job, item) for job, item in zip(jobs, prepared, strict=True) if item is not None]
            if not pairs:
                return
            async with self._in_network:
                self._note_batch(len(pairs))
                results = await self._run([item for _, item in pairs])
            await asyncio.gather(*(self._encode(job, result) for (job, _), result in zip(pairs, results, strict=True)))
        except BaseException as error:
            for job in jobs:
                job.finish(error)
            if not isinstance(error, Exception):
                raise
        finally:
            each = (time.monotonic() - start) / (self._abreast + AROUND) / len(jobs)
            self.seconds += 0.2 * (each - self.seconds)
            self._room.release()

    async def _read(self, job: Job) -> Prepared | None:
        try:
            return await _in(self.photos, job.prepare)
        except (ValueError, OSError) as error:
            job.finish(RefusedError(422, str(error)))
        except Exception as error:  # a fault of ours, or of Pillow's, shall not hurt the batch's other photos
            job.finish(error)
        return None

    async def _run(self, items: list[Prepared]) -> list[Segmentation | RefusedError]:
        """One pass; where memory runs out, one photo at a time."""
        try:
            return list(await _in(self._network, self._label, items))
        except MemoryError as error:
            if len(items) == 1:
                return [RefusedError(413, f"{error}")]
        return [(await self._run([item]))[0] for item in items]

    def _label(self, items: list[Prepared]) -> list[Segmentation]:
        """On one of the network's threads."""
        alone = not self._waiting and len(self._working) == 1
        torch.set_num_threads(self._threads if alone else self._threads // self._abreast)  # of this thread
        return self.segmenter.run(items)

    async def _encode(self, job: Job, result: Segmentation | RefusedError) -> None:
        if isinstance(result, RefusedError):
            return job.finish(result)
        try:
            job.finish(await _in(self.photos, job.encode, result))
        except Exception as error:
            job.finish(error)


async def _in(pool: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
