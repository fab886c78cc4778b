"""Label photos on a cluster with Ray Data; the masks are those of `cgrseg predict`."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from cgrseg.inference.network import find_exported
from cgrseg.weights.load import find_weights

from .sources import Storage, read_rows
from .worker import MANIFEST, BlockLabeler, hash_name

MAX_ERRORS = 20  # that the summary holds; the manifest has all


@dataclass
class Summary:
    """The result of a run.

    Args:
        photos: labelled in this run.
        failed: photos with an error in this run.
        there: photos done by earlier runs.
        errors: the first of them.
    """

    photos: int = 0
    failed: int = 0
    there: int = 0
    errors: list[str] = field(default_factory=list)


def label_on_cluster(
    sources: Sequence[str],
    *,
    weights: str,
    out: str,
    kinds: Sequence[str] = ("mask",),
    batch: int = 1,
    short_side: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[int], object] = lambda count: None,
    on_skipped: Callable[[str], object] = lambda line: None,
) -> Summary:
    """Label all photos of `sources` on the Ray cluster at `RAY_ADDRESS`, or on this machine.

    Outputs and manifest are written to `out` block by block. A photo that can't be labelled is a row with an error. A
    worker that dies is replaced and its block is repeated. `resume` continues a run that ended early.

    Args:
        sources: see `cgrseg.cluster.sources.read_rows`.
        weights: a file or a name; its content is sent to the workers.
        out: folder or URL that all workers can write to.
        kinds: of overlay, mask, confidence and parquet.
        batch: photos of equal padded size that go through the network together.
        short_side: as for `Segmenter`.
        device: "auto" gives each worker a GPU where the cluster has any; "cpu" or "cuda".
        workers: models in parallel, each with one core or one GPU; None lets Ray add workers up to the cluster's size.
        resume: skip what the manifest in `out` lists as done.
        progress: called with the number of further rows that are done.
        on_skipped: see `cgrseg.inference.sources.find_sources`.

    Raises:
        OSError, ValueError: a source, the weights or `out` are invalid, or `out` has a run and `resume` is off.
    """
    if find_exported(weights) is not None:
        raise ValueError(f"{weights} is an exported file: --engine ray takes weights files")
    content = Path(find_weights(weights)).read_bytes()
    done = finished(out)
    if len(done) and not resume:
        raise ValueError(f"{out} has the manifest of an earlier run: add --resume, or choose another --out")
    _start_ray()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpu = device.startswith("cuda") or (device == "auto" and resources.get("GPU", 0) > 0)
    room = max(int(resources.get("GPU" if gpu else "CPU", 1)), 1)
    shipped = ray.put(content)  # referenced here, so that replaced workers find it
    models = ActorPoolStrategy(size=workers) if workers else ActorPoolStrategy(min_size=1, max_size=room)
    dataset = read_rows(sources, out=out, on_skipped=on_skipped).map_batches(
        BlockLabeler,
        fn_constructor_kwargs={
            "weights": shipped,
            "out": out,
            "kinds": tuple(kinds),
            "batch": batch,
            "short_side": short_side,
            "device": "cuda" if gpu else "cpu",
            "done": done,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=models,
        num_cpus=None if gpu else 1,
        num_gpus=1 if gpu else None,
    )
    summary = Summary(there=len(done))
    block: Any
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        errors = [error for error in block.column("error").to_pylist() if error is not None]
        summary.photos += len(block) - len(errors)
        summary.failed += len(errors)
        summary.errors += errors[: MAX_ERRORS - len(summary.errors)]
        progress(len(block))
    return summary


def finished(out: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Sorted hashes of the names in the manifest; errors count as done.

    Photos of a source folder called "manifest" have their outputs beside it: only files of the manifest are read.
    """
    storage = Storage(out)
    hashes = [
        hash_name(json.loads(line)["name"])
        for name in storage.names(MANIFEST)
        if re.fullmatch(rf"{MANIFEST}/part-[0-9a-f]+\.jsonl", name)
        for line in storage.read(name).decode().splitlines()
    ]
    return np.unique(np.array(hashes, np.uint64))


def _start_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
