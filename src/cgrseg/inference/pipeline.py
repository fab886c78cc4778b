"""Many photos: reading, the network and writing overlap, memory stays flat, a broken file stops nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cgrseg.images import render
from cgrseg.images.files import atomic_write

from .result import Segmentation
from .segmenter import Prepared, Segmenter, batches
from .sources import Source
from .video import label_video

# What one bad or too large file may raise; anything else is a fault of ours and stops the run.
FAILURES = (OSError, ValueError, MemoryError)

Job = tuple[Source, Mapping[str, Path]]  # a photo or video, and the outputs to write: kind -> path
Outcome = tuple[int, str | None]  # how many more images are done, and what went wrong with one, if anything did
MOST_ABREAST = 8  # photos in the network at once: memory grows with them
# Measured on photos of 400x605: 4 ms against 35 for the fastest PNG, which is also five times larger. Without
# chroma subsampling coloured edges stay sharp.
JPEG: dict[str, Any] = {"quality": 90, "subsampling": 0}


def label_all(segmenter: Segmenter, jobs: Sequence[Job], *, batch: int = 1) -> Iterator[Outcome]:
    """Label photos, then videos; outputs appear whole or not at all, and one that fails stops nothing.

    Args:
        segmenter: does the work.
        jobs: see `Source.outputs`.
        batch: up to this many photos of equal padded size go through the network together.
    """
    yield from _label_photos(segmenter, [job for job in jobs if not job[0].is_video], batch=batch)
    for source, _ in jobs:
        if source.is_video:
            try:
                for frames in label_video(segmenter, source.path, source.outputs(), batch=batch):
                    yield frames, None
            except FAILURES as error:
                yield 0, _explain(source, error)


def _label_photos(segmenter: Segmenter, jobs: Sequence[Job], *, batch: int) -> Iterator[Outcome]:
    """Threads read ahead, run the network and write behind, each by a bounded number of photos."""
    workers = min(max(os.cpu_count() or 1, 2), 16)
    failed: deque[Outcome] = deque()
    writing: deque[tuple[Source, Future[None]]] = deque()
    with ThreadPoolExecutor(workers) as pool, _networks(segmenter) as (networks, abreast):
        photos = _read_ahead(segmenter, jobs, pool, depth=workers + 2 * batch * abreast, failed=failed)
        for group, results in _run_ahead(segmenter, batches(photos, batch), networks, abreast, failed):
            for (source, outputs), result in zip(group, results, strict=True):
                writing.append((source, pool.submit(_write, result, outputs)))
            while failed:
                yield failed.popleft()
            while len(writing) > workers + batch:
                yield _outcome(*writing.popleft())
        yield from failed
        while writing:
            yield _outcome(*writing.popleft())


def photos_abreast(segmenter: Segmenter) -> int:
    """How many photos, or batches, shall be in the network at once, each on its share of torch's threads.

    On a GPU one keeps it busy. On a CPU the operations of one photo are too small to share well: as many photos as
    torch has threads run abreast.
    """
    on_cpu = next(segmenter.model.parameters()).device.type == "cpu"
    return min(torch.get_num_threads(), MOST_ABREAST) if on_cpu else 1


@contextmanager
def _networks(segmenter: Segmenter) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that run the network, and how many photos are in them at once."""
    threads, abreast = torch.get_num_threads(), photos_abreast(segmenter)
    try:
        with ThreadPoolExecutor(abreast, initializer=torch.set_num_threads, initargs=(threads // abreast,)) as pool:
            yield pool, abreast
    finally:
        torch.set_num_threads(threads)


def _run_ahead(
    segmenter: Segmenter,
    groups: Iterable[list[tuple[Job, Prepared]]],
    networks: ThreadPoolExecutor,
    abreast: int,
    failed: deque[Outcome],
) -> Iterator[tuple[list[Job], list[Segmentation]]]:
    """Results in order, while `abreast` groups are in the network; groups that fail go to `failed`."""
    running: deque[tuple[list[Job], Future[list[Segmentation]]]] = deque()
    waiting = iter(groups)
    while True:
        for group in islice(waiting, abreast + 1 - len(running)):
            running.append(([job for job, _ in group], networks.submit(segmenter.run, [item for _, item in group])))
        if not running:
            return
        jobs, future = running.popleft()
        try:
            results = future.result()
        except FAILURES as error:
            failed.extend((0, _explain(source, error)) for source, _ in jobs)
            results, jobs = [], []
        yield jobs, results


def _read_ahead(
    segmenter: Segmenter, jobs: Sequence[Job], pool: ThreadPoolExecutor, *, depth: int, failed: deque[Outcome]
) -> Iterator[tuple[Job, Prepared]]:
    """Photos in order, up to `depth` being read in advance; those that can't be read go to `failed`."""
    reading: deque[tuple[Job, Future[Prepared]]] = deque()
    waiting = iter(jobs)
    while True:
        for job in islice(waiting, depth - len(reading)):
            reading.append((job, pool.submit(segmenter.prepare, job[0].path)))
        if not reading:
            return
        job, future = reading.popleft()
        try:
            prepared = future.result()
        except FAILURES as error:
            failed.append((0, _explain(job[0], error)))
        else:
            yield job, prepared


def _write(result: Segmentation, outputs: Mapping[str, Path]) -> None:
    for kind, path in outputs.items():
        if kind == "mask":
            result.save(path)
            continue
        with atomic_write(path) as temporary:
            if kind == "overlay":
                result.overlay().save(temporary, **JPEG)
            else:
                render.confidence_picture(result.confidence()).save(temporary, compress_level=1)


def _outcome(source: Source, future: Future[None]) -> Outcome:
    try:
        future.result()
    except FAILURES as error:
        return 0, _explain(source, error)
    return 1, None


def _explain(source: Source, error: BaseException) -> str:
    """One line that names the file."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if str(source.path) in text else f"{source.path}: {text}"
