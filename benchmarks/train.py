"""Training speed on a CPU: `python benchmarks/train.py`. Crops per second of plain loops and of `cgrseg train`.

A plain loop is: forward, cross entropy of the logits resized to the crop, backward, AdamW, channels-last. It trains on
one batch in memory, or on the same crops as `cgrseg train`, read by a DataLoader with as many processes. `cgrseg train`
also clips gradients, checks that they are finite and weights the classes. The photos are synthetic scenes of 480x360
in JPEG and PNG files. All run in turn; loops that read photos have used up what was read before a turn when its clock
starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from claims import store, times_as_fast
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import cgrseg
from cgrseg._process import keep_memory
from cgrseg.data.synthetic import Synthetic
from cgrseg.data.transforms import TrainingCrops, collate
from cgrseg.measure.interleave import clocked
from cgrseg.training.config import TrainConfig
from cgrseg.training.loading import AHEAD, load_batches
from cgrseg.training.progress import StopRequest
from cgrseg.training.setup import make_data, make_fabric, make_parts, resolved
from cgrseg.training.step import train_step

MODELS = ("cgrseg_t", "cgrseg_lite", "deeplabv3plus_mobilenet_v2", "segformer_b0")
CLASSES, CROP, BATCH = 11, 256, 8
PHOTOS = {"train": 64, "val": 1}
ENDLESS = 10**6  # steps
READING, OURS = "loop with a DataLoader, ", "cgrseg train, "


def write_photos(folder: Path) -> None:
    """A dataset of synthetic scenes."""
    for split, count in PHOTOS.items():
        scenes = Synthetic(classes=CLASSES, size=(360, 480), count=count, split=split)
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            photo, mask = scenes.read(index)
            photo.save(folder / "images" / split / f"{index}.jpg", quality=90)
            mask.save(folder / "masks" / split / f"{index}.png")
    classes = [{"id": number, "name": name} for number, name in enumerate(scenes.labels.names)]
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))


def plain(name: str, precision: str, batches: Iterator[Any]) -> Callable[[], None]:
    """A training step of a plain loop; `batches` yields images [B, 3, crop, crop], labels [B, crop, crop], more."""
    torch.manual_seed(0)
    model: nn.Module = cgrseg.create_model(name, num_classes=CLASSES)
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> None:
        images, labels, *_ = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images.to(memory_format=torch.channels_last))
        resized = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")
        F.cross_entropy(resized, labels, ignore_index=255).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_memory(crop: int, batch: int) -> Iterator[Any]:
    """The same batch for ever."""
    images = torch.randn(batch, 3, crop, crop).to(memory_format=torch.channels_last)
    return itertools.repeat((images, torch.randint(0, CLASSES, (batch, crop, crop))))


def read_by_a_data_loader(config: TrainConfig) -> Iterator[Any]:
    """The batches of `cgrseg train`."""
    crops = TrainingCrops(
        samples=make_data(config).train,
        augmentation=config.augment,
        preprocessing=cgrseg.create_model("cgrseg_n").preprocessing,
        seed=config.seed,
    )
    order = range(ENDLESS * config.batch_size)
    return iter(DataLoader(crops, config.batch_size, sampler=order, num_workers=config.workers, collate_fn=collate))


def ours(config: TrainConfig) -> Callable[[], None]:
    """A step of `cgrseg train`, with its loading."""
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
    parser.add_argument("--steps", type=int, default=8, help="per round and loop")
    parser.add_argument("--crop", type=int, default=CROP)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    keep_memory()
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as out:
        write_photos(Path(out, "data"))
        steps: dict[tuple[str, str], Callable[[], None]] = {}
        for precision, name in itertools.product(options.precisions, options.models):
            steps[name, precision] = plain(name, precision, in_memory(options.crop, options.batch))
            if name.startswith("cgrseg"):
                settings = {"model": name, "batch": options.batch, "steps": ENDLESS, "precision": precision}
                settings |= {"out": f"{out}/{name}", "data": f"{out}/data", "augment": {"crop": options.crop}}
                config = resolved(TrainConfig.from_dict(settings))
                steps[READING + name, precision] = plain(name, precision, read_by_a_data_loader(config))
                steps[OURS + name, precision] = ours(config)
        for _ in range(options.rounds):
            for key, step in steps.items():
                for _ in range(AHEAD):
                    step()
                seconds.setdefault(key, []).append(statistics.mean(clocked(step) for _ in range(options.steps)))
    rows = []
    for (name, precision), taken in seconds.items():
        row: dict[str, Any] = {
            "model": name,
            "precision": precision,
            "crops_per_second": round(options.batch / statistics.median(taken), 1),
        }
        if ", " in name:
            model = name.partition(", ")[2]
            row["share_of_the_plain_loop"] = times_as_fast(seconds[model, precision], taken)
            if name.startswith(OURS):
                row["share_of_the_loop_with_a_data_loader"] = times_as_fast(seconds[READING + model, precision], taken)
        print(row)
        rows.append(row)
    store("train", {"crop": options.crop, "batch": options.batch, "classes": CLASSES, "rows": rows})


if __name__ == "__main__":
    main()
