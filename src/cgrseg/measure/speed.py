"""The clock: contenders in turn under the same conditions, and a report that says what those were (Table 1's speed)."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cgrseg.preprocessing import Size
from cgrseg.weights.load import usable_device

from . import environment as machine
from .candidates import Choice, Contender, Export, open_contender, prepare
from .cold_start import measure_fresh
from .complexity import complexity
from .interleave import CALLS, clocked, percentile, ratio, take_turns
from .report import FORMAT, Report
from .roofline import Limits, least_seconds, measure_limits, operations
from .stages import PHOTO_TO_LABELS, REGIONS, STAGES, sample_photo, staged

GAIN = 1.03  # a larger batch must bring this much, or the sweep ends
WARM_UP = 3  # calls before the first round
HOW = [
    f"All run in turn, round by round, in changing order; a turn is one untimed call of the network, {CALLS} timed "
    "ones, and one photo on its whole way. Ratios are medians over the rounds with a 95 % bootstrap interval.",
    f"The label map is made of natural logits (about {REGIONS}x{REGIONS} smooth regions) in the shape of the "
    "network's own, since those of untrained weights are not natural. A naive label map is upsampling, softmax and "
    "argmax; all others, the peers' too, are the exact label map of cgrseg.",
    "Photo to label map begins with the bytes of a JPEG, decoding included, and ends with the class ids.",
    "The command keeps its memory (`keep_memory`) and lets torch's threads sleep soon after work (GOMP_SPINCOUNT).",
    "Models exported for this run in float take its size only; OpenVINO compiles every file for the size of the run.",
    "Models quantised for this run (int8) have the ranges of one photo and are compared with nothing.",
    "The limit counts each convolution and matrix product at the measured peak of a large one or the "
    "measured rate of a large copy, whichever takes longer, and all else as free.",
]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all contenders share.

    Args:
        size: (height, width) of the network's input.
        rounds: how often each has its turn.
        threads: CPU threads, on the first so many of the cores that the process may use.
        classes: of models with random weights.
        device: "auto", "cpu", "cuda", …
        max_batch: the throughput is taken at the best of the batches 1, 2, 4, … up to this.

    Raises:
        ValueError: one of the numbers is below 1.
    """

    size: Size = (512, 512)
    rounds: int = 20
    threads: int = 1
    classes: int = 150
    device: str = "auto"
    max_batch: int = 16

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", "classes", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def benchmark(choices: Sequence[Choice], settings: Settings, *, export: Export, photo: bytes | None = None) -> Report:
    """Measure the choices; the others are compared with the first.

    Args:
        export: how our models are exported.
        photo: a photo's file; None takes a sample of the settings' size.

    Returns:
        The report, ready for JSON; times and amounts are in the units that the names end in.

    Raises:
        ValueError: a choice is there twice or can't be run; the message says why.
        OSError: a file can't be read.
    """
    names = [str(choice) for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is there twice: leave one out")
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
            path = prepare(choice, Path(folder), classes=settings.classes, size=settings.size, export=export)
            opened.append((path, _open(choice, path, settings)))
            bar.update()
        contenders = {name: contender for name, (_, contender) in zip(names, opened, strict=True)}
        times = _in_turn(contenders, settings, photo, bar)
        limits = measure_limits({one.precision for one in contenders.values()}, usable_device(settings.device))
        for name, choice, (path, contender) in zip(names, choices, opened, strict=True):
            bar.set_description(f"batches of {name}")
            row = _about(choice, contender, settings) | times[name]
            row |= _limit(contender, settings, limits, row["network_ms"]["median"]) | _throughput(contender, settings)
            bar.update()
            bar.set_description(f"a fresh process of {name}")
            fresh = measure_fresh(choice, path, photo, settings)
            rows.append(row | dataclasses.asdict(fresh))
            bar.update()
    conditions = {"photo": "sample" if photo == sample_photo(settings.size) else "given", "cores": cores}
    return {
        "format": FORMAT,
        "settings": dataclasses.asdict(settings) | conditions | {"base": names[0]},
        "how": HOW,
        "machine": _machine() | {"load_before": load},
        "limits": dataclasses.asdict(limits),
        "results": rows,
    }


def _open(choice: Choice, path: Path | None, settings: Settings) -> Contender:
    device, threads = settings.device, settings.threads
    return open_contender(choice, path, classes=settings.classes, device=device, threads=threads)


@contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Hold torch to so many threads, and the process to so many cores where the system can; gives the cores' numbers.

    Raises:
        ValueError: there are fewer cores.
    """
    may = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if threads > len(may):
        raise ValueError(f"threads is {threads}, but there are {len(may)} cores: take no more than that")
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
def _in_turn(contenders: dict[str, Contender], settings: Settings, photo: bytes, bar: tqdm[Any]) -> dict[str, Any]:
    """Latencies, stages and ratios of each."""
    images = torch.randn(1, 3, *settings.size, generator=torch.Generator().manual_seed(0))
    sides = {name: partial(_call, one, one.place(images)) for name, one in contenders.items()}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        bar.set_description(f"warm up {name}")
        for _ in range(WARM_UP):
            sides[name]()
            staged(contender, photo, settings.size)
    bar.set_description("in turn")

    def after(name: str) -> None:
        stages[name].append(staged(contenders[name], photo, settings.size))
        bar.update()

    calls = take_turns(sides, rounds=settings.rounds, after=after)
    network = {name: [statistics.median(turn) for turn in turns] for name, turns in calls.items()}
    whole = {name: [sum(one[stage] for stage in PHOTO_TO_LABELS) for one in stages[name]] for name in contenders}
    base = next(iter(contenders))
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
        for name in contenders
    }


def _call(contender: Contender, images: Tensor) -> None:
    contender.network(images)
    contender.wait()


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p90 and p99 in milliseconds."""
    return {name: 1000 * percentile(seconds, at) for name, at in (("median", 50), ("p90", 90), ("p99", 99))}


def _about(choice: Choice, contender: Contender, settings: Settings) -> dict[str, Any]:
    """What a contender is, and what it costs for one photo."""
    cost = complexity(contender.model(), settings.size).total
    spec = contender.spec
    return {
        "label": str(choice),
        "model": choice.name if spec is None else spec.name,
        "how": choice.how,
        "runtime": contender.runtime,
        "precision": contender.precision,
        "device": str(contender.device),
        "spec": None if spec is None else dataclasses.asdict(spec),
        "parameters": cost.parameters,
        "macs": cost.macs,
    }


def _limit(contender: Contender, settings: Settings, limits: Limits, median_ms: float) -> dict[str, float]:
    least = 1000 * least_seconds(operations(contender.model(), settings.size), limits, contender.precision)
    return {"limit_ms": least, "share_of_limit": least / median_ms}


@torch.inference_mode()
def _throughput(contender: Contender, settings: Settings) -> dict[str, Any]:
    """Images a second at the best batch. The sweep ends where a larger batch brings less than `GAIN`, or no memory."""
    sweep: dict[int, float] = {}
    batch = 1
    while batch <= settings.max_batch:
        images = contender.place(torch.zeros(batch, 3, *settings.size))
        try:
            _call(contender, images)
            seconds = statistics.median(clocked(partial(_call, contender, images)) for _ in range(CALLS))
        except (MemoryError, RuntimeError):  # torch's own out-of-memory is a RuntimeError; a fixed batch is one, too
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


def _machine() -> dict[str, Any]:
    """Versions, processor, devices and runtimes."""
    findings = [*machine.versions(), *machine.devices(), *machine.runtimes()]
    return {"processor": machine.processor() or platform.machine()} | {one.name: one.state for one in findings}
