"""Training speed on a CPU: `python benchmarks/train.py`. Crops per second of plain loops and of `cgrseg train`.

A plain loop is: forward, cross entropy of the logits resized to the crop, backward, AdamW, on one batch that is in
memory, channels-last. `cgrseg train` also draws, augments and loads its crops, and keeps a moving average of the
weights. All run in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from claims import store, times_as_fast
from torch import nn
from torch.nn import functional as F

import cgrseg
from cgrseg._process import keep_memory
from cgrseg.measure.interleave import clocked
from cgrseg.training.config import TrainConfig
from cgrseg.training.loading import load_batches
from cgrseg.training.loop import train_step
from cgrseg.training.progress import StopRequest
from cgrseg.training.setup import make_data, make_fabric, make_parts, resolved

MODELS = ("cgrseg_t", "cgrseg_lite", "deeplabv3plus_mobilenet_v2", "segformer_b0")
CLASSES, CROP, BATCH = 11, 256, 8


def plain(name: str, precision: str, crop: int, batch: int) -> Callable[[], None]:
    """A training step of a plain loop."""
    torch.manual_seed(0)
    model: nn.Module = cgrseg.create_model(name, num_classes=CLASSES)
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images = torch.randn(batch, 3, crop, crop).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch, crop, crop))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        resized = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")
        F.cross_entropy(resized, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(name: str, precision: Any, crop: int, batch: int, out: str) -> Callable[[], None]:
    """A step of `cgrseg train` on synthetic scenes, with its loading."""
    augment = TrainConfig(out=out).augment
    augment = type(augment)(crop=crop, resize_to=None)
    config = resolved(TrainConfig(out=out, model=name, batch=batch, steps=10**6, precision=precision, augment=augment))
    data, fabric = make_data(config), make_fabric(config)
    parts = make_parts(config, data, fabric)
    batches: Iterator[Any] = load_batches(
        config, data, parts.network.preprocessing, fabric, first_step=0, stop=StopRequest()
    )

    def step() -> None:
        images, labels, teacher, _ = next(batches)
        train_step(fabric, config, parts, images, labels, 0, teacher)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="per round")
    parser.add_argument("--crop", type=int, default=CROP)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as out:
        steps: dict[tuple[str, str], Callable[[], None]] = {}
        for precision in options.precisions:
            for name in options.models:
                steps[name, precision] = plain(name, precision, options.crop, options.batch)
                if name.startswith("cgrseg"):
                    run = ours(name, precision, options.crop, options.batch, f"{out}/{name}")
                    steps[f"cgrseg train, {name}", precision] = run
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
        for turn in range(options.rounds + 1):
            for key, step in steps.items():
                step()  # idle threads of the one before stop spinning
                taken = statistics.median(clocked(step) for _ in range(options.steps))
                if turn:
                    seconds[key].append(taken)
    rows = []
    for (name, precision), taken in seconds.items():
        row: dict[str, Any] = {
            "model": name,
            "precision": precision,
            "crops_per_second": round(options.batch / statistics.median(taken), 1),
        }
        if name.startswith("cgrseg train, "):
            loop = seconds[name.removeprefix("cgrseg train, "), precision]
            row["share_of_the_plain_loop"] = times_as_fast(loop, taken)
        print(row)
        rows.append(row)
    store("train", {"crop": options.crop, "batch": options.batch, "classes": CLASSES, "rows": rows})


if __name__ == "__main__":
    main()
