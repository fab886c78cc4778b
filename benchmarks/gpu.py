"""Everything that needs a GPU, in one run of under 12 minutes: `python benchmarks/gpu.py`.

For each model, precision and way to run it: latency of one image and the images per second of the best batch, at
512x512 with 150 classes, and the paper's own protocol (batch 1, one stream). Then training images per second. Models
whose time is over are left out, and named. `--device cpu --size 64 --seconds 0.2` tries it without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from claims import store
from torch import nn
from torch.nn import functional as F

import cgrseg
from cgrseg.nn.fusion import fuse

MODELS = ("cgrseg_t", "cgrseg_lite", "cgrseg_b", "cgrseg_l")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLASSES = 150


def seconds_of(task: Callable[[], Any], device: str, budget: float) -> float:
    """Median seconds of a call, after three calls to warm up."""

    def clocked() -> float:
        start = time.perf_counter()
        task()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(3):
        clocked()
    end, taken = time.perf_counter() + budget, [clocked()]
    while time.perf_counter() < end or len(taken) < 5:
        taken.append(clocked())
    return statistics.median(taken)


def ways_of(model: nn.Module, compiled: bool) -> dict[str, nn.Module]:
    """The network as it is, folded, and compiled."""
    folded = fuse(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    ways = {"eager": model, "fused": folded}
    if compiled:
        ways["compiled"] = torch.compile(folded)  # type: ignore[assignment]
    return ways


def inference(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each precision and way."""
    torch.manual_seed(0)
    model = cgrseg.create_model(name, num_classes=CLASSES).eval().requires_grad_(False).to(options.device)
    rows = []
    for precision, dtype in PRECISIONS.items():
        for way, network in ways_of(model, options.compile).items():
            network = network.to(dtype)
            row: dict[str, Any] = {"model": name, "precision": precision, "way": way}
            with torch.inference_mode():
                for batch in options.batches:
                    images = torch.randn(batch, 3, options.size, options.size, device=options.device, dtype=dtype)
                    if way != "eager":
                        images = images.to(memory_format=torch.channels_last)
                    try:
                        taken = seconds_of(lambda n=network, x=images: n(x), options.device, options.seconds)  # type: ignore[misc]
                    except torch.OutOfMemoryError:
                        break
                    if batch == 1:
                        row["latency_ms"] = round(1000 * taken, 3)
                    if batch / taken > row.get("images_per_second", 0):
                        row |= {"images_per_second": round(batch / taken, 1), "best_batch": batch}
            print(row, flush=True)
            rows.append(row)
        model = model.float()
    return rows


def training(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of training steps, by precision."""
    rows = []
    for precision, dtype in PRECISIONS.items():
        torch.manual_seed(0)
        model = cgrseg.create_model(name, num_classes=CLASSES).to(options.device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        shape = (options.train_batch, 3, options.size, options.size)
        images = torch.randn(shape, device=options.device).to(memory_format=torch.channels_last)
        labels = torch.randint(0, CLASSES, (shape[0], *shape[2:]), device=options.device)

        def step() -> None:
            with torch.autocast(options.device, torch.bfloat16, enabled=dtype == torch.bfloat16):  # noqa: B023
                logits = model(images)  # noqa: B023
            F.cross_entropy(F.interpolate(logits.float(), labels.shape[1:], mode="bilinear"), labels).backward()  # noqa: B023
            optimizer.step()  # noqa: B023
            optimizer.zero_grad()  # noqa: B023

        taken = seconds_of(step, options.device, options.seconds)
        row = {"model": name, "precision": precision, "training_images_per_second": round(shape[0] / taken, 1)}
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=11, help="no model is started later")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--train-batch", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    end = time.perf_counter() + 60 * options.minutes
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "size": options.size,
        "classes": CLASSES,
        "inference": [],
        "training": [],
        "left_out": [],
    }
    for name in options.models:
        for kind, task in (("inference", inference), ("training", training)):
            if time.perf_counter() > end:
                results["left_out"].append(f"{kind} of {name}")
                continue
            results[kind] += task(name, options)
            store(f"gpu-{options.device}", results)  # what was measured stays if the machine is taken away


if __name__ == "__main__":
    main()
