"""The first plain training loop: one process, the folder format, cross-entropy, AdamW, warm-up and linear decay."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cgrseg.data.datasets import FolderDataset, to_class_ids
from cgrseg.evaluation.evaluate import evaluate
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights.artifact import save
from cgrseg.weights.create import create_model, usable_device


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run.

    Args:
        data, model, out: dataset folder, variant, run folder.
        init: weights to start from, a file or a bundled name, of the same variant and classes; None starts fresh.
        steps, batch, crop: number of steps, crops a step, side of a crop in pixels.
        lr, weight_decay, warmup: AdamW's peak rate, its decay (norms, biases and scales are free), steps to the peak.
        short_side: the photo's shorter side in pixels, at which it is judged and around which it is scaled;
            None takes the dataset's median.
        scale: smallest and largest random enlargement before the crop.
        bf16: autocast to bfloat16.
        seed: every sample is a function of (seed, step, position).
        workers: processes that read and crop.
        device: "auto", "cpu" or "cuda".
    """

    data: str
    model: str
    out: str
    init: str | None = None
    steps: int = 4000
    batch: int = 16
    crop: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    short_side: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    bf16: bool = True
    seed: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        for field, least in (("steps", 1), ("batch", 1), ("crop", 32), ("warmup", 0), ("workers", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least {least}")
        if self.batch == 1 and self.crop <= 64:
            raise ValueError(f"a batch of one crop of {self.crop} gives BatchNorm one value: use --batch 2 or more")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}: give the smallest enlargement, then the largest")


def train(config: TrainConfig) -> tuple[Path, dict[str, Any]]:
    """Train, score the val split while going and test (or val) at the end; returns the artifact's path and its card.

    Raises:
        FileNotFoundError, ValueError: the dataset or an option is wrong; nothing has been written then.
    """
    samples = FolderDataset.open(config.data, "train")
    val = FolderDataset.open(config.data, "val")
    device = usable_device(config.device)
    weights = class_weights(samples).to(device)
    preprocessing = Preprocessing(short_side=config.short_side or _median_short_side(samples))
    torch.manual_seed(config.seed)
    model = create_model(config.model, num_classes=len(samples.labels), weights=config.init)
    before = getattr(model, "card", None)
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, config.steps, config.warmup))
    autocast = torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    log = ["step,loss,lr,val_miou,seconds"]

    began, running = time.monotonic(), math.nan
    bar = tqdm(batches(samples, config, preprocessing), total=config.steps, unit="step", desc=config.model)
    for step, (images, labels) in enumerate(bar, start=1):
        images = images.to(device, memory_format=torch.channels_last)
        with autocast:
            logits = model(images)
        logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, labels.to(device), weights, ignore_index=samples.labels.ignore_index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        bar.set_postfix(loss=f"{running:.3f}", lr=f"{schedule.get_last_lr()[0]:.1e}", refresh=False)
        if step % max(config.steps // 5, 1) == 0 or step == config.steps:
            scores = evaluate(model, val, preprocessing)
            model.train()
            row = [step, f"{running:.4f}", f"{schedule.get_last_lr()[0]:.3e}", f"{scores.mean_iou():.4f}"]
            log.append(",".join(map(str, [*row, f"{time.monotonic() - began:.0f}"])))
            (out / "train.csv").write_text("\n".join(log) + "\n", encoding="utf-8")
            bar.write(f"step {step}: val mIoU {100 * scores.mean_iou():.2f} %")

    split = "test" if (Path(config.data) / "images" / "test").is_dir() else "val"
    scores = evaluate(model, FolderDataset.open(config.data, split), preprocessing)
    path = out / "last.safetensors"
    card = {
        "recipe": asdict(config) | {field: _file_name(getattr(config, field)) for field in ("data", "out", "init")},
        "init": before,
        "split": split,
        "miou": round(100 * scores.mean_iou(), 2),
        "mean_accuracy": round(100 * scores.mean_accuracy(), 2),
        "accuracy": round(100 * scores.accuracy(), 2),
        "class_iou": {
            name: round(100 * iou, 2)
            for name, iou in zip(samples.labels.names, scores.class_iou().tolist(), strict=True)
        },
        "seconds": round(time.monotonic() - began),
        "date": datetime.now(UTC).date().isoformat(),
    }
    save(model, path, labels=samples.labels, preprocessing=preprocessing, card=card)
    return path, card


def rate(step: int, steps: int, warmup: int) -> float:
    """The multiplier of the learning rate at a step: linear up over `warmup`, then linear down to 0 at `steps`."""
    return min((step + 1) / max(warmup, 1), max(steps - step, 0) / max(steps - warmup, 1))


def parameter_groups(model: CGRSeg, weight_decay: float) -> list[dict[str, Any]]:
    """Weight matrices and kernels decay; norms, biases, scales and attention tables don't."""
    kernels = [p for p in model.parameters() if p.ndim == 4]
    chosen = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def class_weights(samples: FolderDataset) -> Tensor:
    """1 / log(1.1 + share of the pixels), scaled to mean 1: rare classes count more, but boundedly.

    It reads every pair, so that a broken one is named now and not in the middle of the run.
    """
    counts = np.zeros(len(samples.labels))
    for index in tqdm(range(len(samples)), unit="photo", desc="count classes", leave=False):
        ids = to_class_ids(samples.read(index)[1]).ravel()
        counts += np.bincount(ids[ids != samples.labels.ignore_index], minlength=len(counts))
    weights = 1 / np.log(1.1 + counts / counts.sum())
    return torch.from_numpy(weights / weights.mean()).float()


def batches(
    samples: FolderDataset, config: TrainConfig, preprocessing: Preprocessing
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of images [B, 3, crop, crop] (normalised) and labels int64 [B, crop, crop]."""
    crops = Crops(samples, config, preprocessing)
    loader = DataLoader(
        crops,
        batch_size=config.batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        prefetch_factor=4 if config.workers else None,
    )
    return iter(loader)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Sample number i of the run: a photo of shuffled epoch i // n, randomly scaled, cropped, flipped, tinted."""

    def __init__(self, samples: FolderDataset, config: TrainConfig, preprocessing: Preprocessing) -> None:
        self.samples, self.config, self.preprocessing = samples, config, preprocessing

    def __len__(self) -> int:
        return self.config.steps * self.config.batch

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(number, len(self.samples))
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.samples))
        random = np.random.default_rng([self.config.seed, 1, number])
        photo, mask = self.samples.read(int(order[place]))
        photo, mask = self._crop(photo, mask, random)
        if random.random() < 0.5:
            photo, mask = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (photo, mask))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            if random.random() < 0.5:
                photo = enhance(photo).enhance(random.uniform(0.6, 1.4))
        image = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()  # 3 crop crop
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std))
        return (image - mean) / std, torch.from_numpy(to_class_ids(mask))

    def _crop(
        self, photo: Image.Image, mask: Image.Image, random: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        """Cut the wanted region at the photo's own scale and resize only that; what lies outside is ignored."""
        height, width = self.preprocessing.resized_size((photo.height, photo.width))
        base = min(height / photo.height, width / photo.width)
        scale = base * math.exp(random.uniform(*np.log(self.config.scale)))
        side = self.config.crop / scale  # of the region, in photo pixels
        x, y = (random.uniform(min(n - side, 0), max(n - side, 0)) for n in photo.size)
        left, top, right, bottom = (
            max(x, 0),
            max(y, 0),
            min(x + side, photo.width),
            min(y + side, photo.height),
        )
        size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
        place = (round((left - x) * scale), round((top - y) * scale))
        mean = tuple(round(channel) for channel in self.preprocessing.mean)
        canvas = Image.new("RGB", (self.config.crop, self.config.crop), mean)
        canvas.paste(photo.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom)), place)
        labels = Image.new(mask.mode, canvas.size, self.samples.labels.ignore_index)
        labels.paste(mask.resize(size, Image.Resampling.NEAREST, box=(left, top, right, bottom)), place)
        return canvas, labels


def _file_name(path: str | None) -> str | None:
    """The last part alone: a weights file tells nobody's folders."""
    return None if path is None else Path(path).resolve().name


def _median_short_side(samples: FolderDataset) -> int:
    sides = []
    for path, _ in samples.pairs:
        with Image.open(path) as photo:
            sides.append(min(photo.size))
    return sorted(sides)[len(sides) // 2]
