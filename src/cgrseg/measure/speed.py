"""Benchmark candidates in turn under the same conditions, and report those conditions (speed in Table 1)."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cgrseg.weights.load import usable_device

from . import environment
from .candidates import Candidate, Choice, Settings, open_candidate, prepare
from .cold_start import measure_cold_start
from .complexity import complexity
from .interleave import CALLS, clocked, ratio, take_turns
from .report import FORMAT, PHOTO_TO_LABELS, STAGES, Report
from .roofline import Limits, least_seconds, measure_limits, operations
from .stages import REGIONS, run_stages, sample_photo

GAIN = 1.05  # a larger batch must increase the throughput by this factor, or the sweep ends
WARM_UP = 3  # calls before the first round
HOW = [
    "All candidates run in turn, round by round, in changing order. A turn is one untimed call of the network, "
    f"{CALLS} timed calls, and one image from file to label map. Ratios are medians over the rounds with a 95 % "
    "bootstrap interval.",
    f"Label maps are computed from natural logits (about {REGIONS}x{REGIONS} smooth regions) in the shape of the "
    "network's own, because logits of untrained weights are not natural. A naive label map is upsampling, softmax and "
    "argmax; all others, also of other models, are the exact label map of cgrseg.",
    "Photo to label map starts with the bytes of a JPEG, including decoding, and ends with the class ids.",
    "The process keeps its memory (`keep_memory`), and torch's threads sleep soon after work (GOMP_SPINCOUNT).",
    "Float models exported for this run accept only its size; OpenVINO compiles every file for the size of the run.",
    "Models quantised for this run (int8) are calibrated on one image and not compared.",
    "The limit counts each convolution and matrix product at the measured peak of a large one or the measured rate of "
    "a large copy, whichever takes longer, and everything else as free.",
]


def benchmark(choices: Sequence[Choice], settings: Settings, *, photo: bytes | None = None) -> Report:
    """Measure the choices; the others are compared with the first.

    Args:
        choices: the candidates.
        settings: what they have in common.
        photo: content of an image file; None uses a sample of the settings' size.

    Returns:
        The report, ready for JSON; times and amounts have the units in their names.

    Raises:
        ValueError: a choice is listed twice, cannot run or does not take RGB photos.
        OSError: a file cannot be read.
    """
    for choice in choices:
        if choices.count(choice) > 1:
            raise ValueError(f"{choice} is listed twice: remove one")
    names = [str(choice) for choice in choices]
    names = [f"{Path(c.name).parent}/{n}" if names.count(n) > 1 else n for c, n in zip(choices, names, strict=True)]
    photo = sample_photo(settings.size) if photo is None else photo
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(settings.threads) as cores,
        tqdm(total=len(names) * (settings.rounds + 3), unit="turn", disable=None, leave=False) as bar,
    ):
        rows, opened = [], []
        for name, choice in zip(names, choices, strict=True):
            bar.set_description(f"open {name}")
            path = prepare(choice, Path(folder), settings, photo)
            candidate = open_candidate(choice, path, settings)
            if candidate.spec is not None and candidate.spec.in_channels != 3:
                raise ValueError(f"{name} has in_channels {candidate.spec.in_channels}: measure weights of RGB photos")
            opened.append((path, candidate))
            bar.update()
        candidates = {name: candidate for name, (_, candidate) in zip(names, opened, strict=True)}
        times = _in_turn(candidates, settings, photo, bar)
        limits = measure_limits({one.precision for one in candidates.values()}, usable_device(settings.device))
        for name, choice, (path, candidate) in zip(names, choices, opened, strict=True):
            bar.set_description(f"batches of {name}")
            row = _about(choice, candidate, settings, limits) | times[name]
            row |= {"share_of_limit": row["limit_ms"] / row["network_ms"]["median"]} | _throughput(candidate, settings)
            bar.update()
            bar.set_description(f"cold start of {name}")
            rows.append(row | measure_cold_start(choice, path, photo, settings))
            bar.update()
    conditions = {"photo": "sample" if photo == sample_photo(settings.size) else "given", "cores": cores}
    return {
        "format": FORMAT,
        "settings": dataclasses.asdict(settings) | conditions | {"base": names[0]},
        "how": HOW,
        "machine": environment.summary() | {"load_before": load},
        "limits": dataclasses.asdict(limits),
        "results": rows,
    }


@contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Limit torch to this many threads, and the process to as many cores if the system can; yields the cores.

    Raises:
        ValueError: there are fewer cores.
    """
    may = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if threads > len(may):
        raise ValueError(f"threads is {threads}, but there are {len(may)} cores: use at most that many")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, may[:threads])
        yield may[:threads]
    finally:
        torch.set_num_threads(before)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, may)


@torch.inference_mode()
def _in_turn(candidates: dict[str, Candidate], settings: Settings, photo: bytes, bar: tqdm[Any]) -> dict[str, Any]:
    """Latencies, stages and ratios of each candidate."""
    images = torch.randn(1, 3, *settings.size, generator=torch.Generator().manual_seed(0))
    sides = {name: partial(_call, one, one.place(images)) for name, one in candidates.items()}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    for name, candidate in candidates.items():
        bar.set_description(f"warm up {name}")
        for _ in range(WARM_UP):
            sides[name]()
            run_stages(candidate, photo, settings.size)
    bar.set_description("in turn")

    def after(name: str) -> None:
        stages[name].append(run_stages(candidates[name], photo, settings.size))
        bar.update()

    calls = take_turns(sides, rounds=settings.rounds, after=after)
    network = {name: [statistics.median(turn) for turn in turns] for name, turns in calls.items()}
    whole = {name: [sum(one[stage] for stage in PHOTO_TO_LABELS) for one in stages[name]] for name in candidates}
    base = next(iter(candidates))
    return {
        name: {
            "network_ms": latency([seconds for turn in calls[name] for seconds in turn]),
            "photo_to_labels_ms": latency(whole[name]),
            "stages_ms": {stage: 1000 * statistics.median(one[stage] for one in stages[name]) for stage in STAGES},
            "times_as_fast": {
                "network": dataclasses.asdict(ratio(network[base], network[name])),
                "photo_to_labels": dataclasses.asdict(ratio(whole[base], whole[name])),
            },
        }
        for name in candidates
    }


def _call(candidate: Candidate, images: Tensor) -> None:
    candidate.network(images)
    candidate.wait()


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p90 and p99 in milliseconds."""
    return {name: 1000 * float(np.percentile(seconds, at)) for name, at in (("median", 50), ("p90", 90), ("p99", 99))}


def _about(choice: Choice, candidate: Candidate, settings: Settings, limits: Limits) -> dict[str, Any]:
    """The candidate, its cost for one image, and the lower bound of its time."""
    model, spec = candidate.model(), candidate.spec
    cost = complexity(model, settings.size).total
    return {
        "label": str(choice),
        "model": choice.name if spec is None else spec.name,
        "how": choice.how,
        "runtime": candidate.runtime,
        "precision": candidate.precision,
        "device": str(candidate.device),
        "spec": None if spec is None else dataclasses.asdict(spec),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "limit_ms": 1000 * least_seconds(operations(model, settings.size), limits, candidate.precision),
    }


@torch.inference_mode()
def _throughput(candidate: Candidate, settings: Settings) -> dict[str, Any]:
    """Images per second at the best batch. The sweep ends when a larger batch gains too little or lacks memory."""
    sweep: dict[int, float] = {}
    batch = 1
    while batch <= settings.max_batch:
        images = candidate.place(torch.zeros(batch, 3, *settings.size))
        try:
            _call(candidate, images)
            seconds = statistics.median(clocked(partial(_call, candidate, images)) for _ in range(CALLS))
        except (MemoryError, RuntimeError):  # torch's out-of-memory error is a RuntimeError, and so is a fixed batch
            if not sweep:
                raise
            break
        sweep[batch] = batch / seconds
        if batch > 1 and sweep[batch] < GAIN * sweep[batch // 2]:
            break
        batch *= 2
    best = max(sweep, key=lambda one: sweep[one])
    return {
        "images_per_second": sweep[best],
        "best_batch": best,
        "images_per_second_at_batch": {str(one): value for one, value in sweep.items()},
    }
