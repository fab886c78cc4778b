"""Segment many files: reading, the network and writing overlap; memory is bounded; a damaged file does not stop it."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path

import torch

from cgrseg.images.files import is_image, remove_unfinished, write_file

from .collected import CollectedFiles, coco_record, collected_names
from .outputs import DEFAULT, OutputOptions, encode
from .predictor import Prepared
from .result import Segmentation
from .segmenter import Segmenter, batches
from .shares import csv_row
from .sources import FOLDER_OUTPUTS, Source
from .video import segment_video

# What a bad or too large file may raise; anything else is a bug and stops the run.
FAILURES = (OSError, ValueError, MemoryError)

Job = tuple[Source, Mapping[str, Path]]  # an image or video, and the outputs to write: kind -> path
Outcome = tuple[int, str | None]  # images done since the last one, and the error of one, if any
NAMED = ("overlay", "outline")  # outputs with the names of regions
MOST_PARALLEL = 8  # images in the network at the same time: memory grows with them


def segment_files(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    *,
    batch: int = 1,
    options: OutputOptions = DEFAULT,
    collected: CollectedFiles | None = None,
) -> Iterator[Outcome]:
    """Segment images, then videos. Outputs are written atomically; a file that fails does not stop the others.

    Args:
        segmenter: the model.
        jobs: see `Source.outputs`.
        batch: up to this many images of equal padded size are processed together.
        options: how outputs are made.
        collected: gets the records for outputs that are one file per folder, if there are such outputs.
    """
    remove_unfinished(path.parent for _, outputs in jobs for path in outputs.values())
    write = partial(_write, options=options, collected=collected)
    yield from _segment_images(segmenter, [job for job in jobs if not job[0].is_video], write, batch=batch)
    for source, _ in jobs:
        if source.is_video:
            try:
                for frames in segment_video(segmenter, source.path, source.outputs(), batch=batch):
                    yield frames, None
            except FAILURES as error:
                yield 0, _explain(source, error)


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with their outputs that are missing or damaged; jobs without such outputs are left out."""
    names = {path: collected_names(path) for path in collected_paths(jobs)}

    def is_done(job: Job, path: Path) -> bool:
        return job[0].path.name in names[path] if path in names else _is_written(path)

    with ThreadPoolExecutor(threads()) as pool:
        wanted = [(job, kind, path) for job in jobs for kind, path in job[1].items()]
        done = pool.map(is_done, (job for job, _, _ in wanted), (path for _, _, path in wanted))
        missing: dict[Source, dict[str, Path]] = {}
        for ((source, _), kind, path), written in zip(wanted, done, strict=True):
            if not written:
                missing.setdefault(source, {})[kind] = path
    return list(missing.items())


def _is_written(path: Path) -> bool:
    if path.suffix == ".mp4":
        return path.is_file() and path.stat().st_size > 0
    if path.suffix == ".geojson":
        try:
            return bool(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            return False
    return is_image(path)


def collected_paths(jobs: Sequence[Job]) -> set[Path]:
    """The outputs that are one file per folder."""
    return {path for _, outputs in jobs for kind, path in outputs.items() if kind in FOLDER_OUTPUTS}


def threads() -> int:
    """Threads for reading and writing images."""
    return min(max(os.cpu_count() or 1, 2), 16)


def _segment_images(
    segmenter: Segmenter, jobs: Sequence[Job], write: Callable[[Segmentation, Job], None], *, batch: int
) -> Iterator[Outcome]:
    """Threads read ahead, run the network and write, each with a bounded number of images."""
    workers = threads()
    failed: deque[Outcome] = deque()
    writing: deque[tuple[Source, Future[None]]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    with pool, _networks(segmenter) as (networks, parallel):
        if any(kind in NAMED for _, outputs in jobs for kind in outputs):
            pool.submit(import_module, "scipy.ndimage")  # takes a fifth of a second, while the network is compiled
        photos = _read_ahead(segmenter, jobs, pool, depth=workers + 2 * batch * parallel, failed=failed)
        for group, results in _run_ahead(segmenter, batches(photos, batch), networks, parallel, failed):
            for job, result in zip(group, results, strict=True):
                writing.append((job[0], pool.submit(write, result, job)))
            while failed:
                yield failed.popleft()
            while len(writing) > workers + batch:
                yield _outcome(*writing.popleft())
        yield from failed
        while writing:
            yield _outcome(*writing.popleft())


def parallel_images(segmenter: Segmenter) -> int:
    """How many images, or batches, run in the network at the same time, each on its share of torch's threads.

    On a GPU one at a time keeps it busy. On a CPU the operations of one image are too small to share well, so as many
    images as torch has threads run in parallel.
    """
    on_cpu = segmenter.predictor.network.device.type == "cpu"
    return min(torch.get_num_threads(), MOST_PARALLEL) if on_cpu else 1


@contextmanager
def _networks(segmenter: Segmenter) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that run the network, and how many images they process at the same time."""
    threads, parallel = torch.get_num_threads(), parallel_images(segmenter)
    network = segmenter.predictor.network
    network.set_streams(parallel)
    try:
        with ThreadPoolExecutor(
            parallel, initializer=torch.set_num_threads, initargs=(max(threads // parallel, 1),)
        ) as pool:
            yield pool, parallel
    finally:
        torch.set_num_threads(threads)
        network.set_streams(1)


def _run_ahead(
    segmenter: Segmenter,
    groups: Iterable[list[tuple[Job, Prepared]]],
    networks: ThreadPoolExecutor,
    parallel: int,
    failed: deque[Outcome],
) -> Iterator[tuple[list[Job], list[Segmentation]]]:
    """Results in order, with `parallel` groups in the network; errors go to `failed`."""
    running: deque[tuple[list[Job], Future[list[Segmentation]]]] = deque()
    waiting = iter(groups)
    while True:
        for group in islice(waiting, parallel + 1 - len(running)):
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
    """Images in order, up to `depth` read in advance; errors go to `failed`."""
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


def _write(result: Segmentation, job: Job, *, options: OutputOptions, collected: CollectedFiles | None) -> None:
    source, outputs = job
    for kind, path in outputs.items():
        name = source.path.name
        if kind not in FOLDER_OUTPUTS:
            write_file(path, encode(result, kind, options))
        elif collected is None:
            raise ValueError(f"{path} is one file per folder: give segment_files a CollectedFiles")
        elif kind == "coco":
            collected.add(path, coco_record(result, name, options.classes, options.tolerance))
        else:
            collected.add(path, {"file_name": name, "row": csv_row(result, name)})


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
