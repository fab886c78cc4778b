"""Build the parts of a run from its configuration: Fabric, data, model, optimizer, loss."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import DoublePrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from cgrseg.data.check import class_shares, quick_check
from cgrseg.data.dataset import Samples
from cgrseg.data.listing import open_dataset
from cgrseg.data.sampling import StepSampler
from cgrseg.data.synthetic import Synthetic
from cgrseg.data.transforms import TrainingCrops, collate
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights.load import computes_bf16, create_model, usable_device
from cgrseg.weights.pretrained import start_from

from .config import TrainConfig
from .losses import SegmentationLoss
from .optimization import make_optimizer, moving_average
from .sync_batchnorm import synchronise

PRECISION: dict[str, Literal["bf16-mixed", "16-mixed", "32-true"]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}
SYNTHETIC = {"train": 1000, "val": 40, "test": 40}  # scenes
SYNTHETIC_CLASSES = 6


class Float64Precision(DoublePrecision):
    """Float64 throughout: Fabric's own plugin rounds the model's output to float32."""

    def convert_output(self, data: Any) -> Any:
        """Unchanged."""
        return data


@dataclass(frozen=True)
class Data:
    """The three splits; without a test split, val is evaluated at the end."""

    train: Samples
    val: Samples
    test: Samples


@dataclass
class Parts:
    """What a training step changes.

    Args:
        network: the CGRSeg.
        model: the same, wrapped by Fabric (compiled, distributed).
        average: its moving average, if any.
    """

    network: CGRSeg
    model: Any
    optimizer: Any
    loss: SegmentationLoss
    average: AveragedModel | None
    fabric: Fabric

    @property
    def buffers(self) -> list[Tensor]:
        """Running statistics."""
        return list(self.network.buffers())

    @property
    def scored(self) -> CGRSeg:
        """The network that is evaluated and saved: the moving average if there is one."""
        return self.network if self.average is None else cast(CGRSeg, self.average.module)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for `load_state`."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.state_dict(),
            "scaler": scaler and scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` saved."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:
            self.fabric._precision.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]


def with_precision(config: TrainConfig) -> TrainConfig:
    """Replace precision "auto" by the one for this machine."""
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if computes_bf16(usable_device(config.device)) else "fp32")


def make_fabric(config: TrainConfig) -> Fabric:
    """The engine: device, processes, machines, precision, loggers."""
    device = usable_device(config.device)
    loggers: list[Any] = []
    if "tensorboard" in config.loggers:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(config.out, name="tensorboard", version=""))
    if "wandb" in config.loggers:
        from .wandb import WandbLogger

        loggers.append(WandbLogger(Path(config.out).resolve().name, config))
    return Fabric(
        accelerator=device.type,
        devices=config.devices if device.index is None else [device.index],
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=PRECISION.get(config.precision),
        plugins=[Float64Precision()] if config.precision == "fp64" else None,
        loggers=loggers,
    )


def make_data(config: TrainConfig) -> Data:
    """Check the dataset quickly and open its splits.

    Raises:
        FileNotFoundError, ValueError: the dataset does not have `config.format`, or has errors.
    """
    if config.data is not None:
        quick_check(config.data, config.format).refuse_errors(unreadable=config.skip_limit)
    splits: dict[str, Samples] = {}
    for split in ("train", "val", "test"):
        if config.data is None:
            splits[split] = Synthetic(
                classes=SYNTHETIC_CLASSES, size=(256, 256), count=SYNTHETIC[split], seed=config.seed, split=split
            )
        elif split != "test" or _has_test(config):
            splits[split] = open_dataset(config.data, split, format=config.format)
    return Data(splits["train"], splits["val"], splits.get("test", splits["val"]))


def make_parts(config: TrainConfig, data: Data, fabric: Fabric) -> Parts:
    """Model, optimizer and loss on their device, from `config.init` or fresh; determined by the seed."""
    torch.manual_seed(config.seed)
    labels = data.train.labels
    network = create_model(config.model, num_classes=len(labels), **config.spec)
    if config.init is not None:
        report = start_from(network, config.init)
        fabric.print(f"started from {config.init}: {report}")
    resize_to = config.augment.resize_to
    sides = (None, 2048) if resize_to is None else (min(resize_to), max(resize_to))
    network.describe(
        labels=labels,
        preprocessing=replace(network.preprocessing, short_side=sides[0], long_side=sides[1], pad_multiple=32),
    )
    if fabric.world_size > 1:
        synchronise(network, on_cpu=fabric.device.type == "cpu")
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network = network.to(fabric.device).train()
    if config.freeze == "encoder":
        network.encoder.requires_grad_(False).eval()  # including its running statistics
    if config.precision == "fp64":
        network = network.double()
    average = None if config.optim.ema is None else moving_average(network, config.optim.ema)
    optimizer = make_optimizer(network, config, fused=fabric.device.type in ("cpu", "cuda"))
    model: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
    running, stepping = fabric.setup(model, optimizer)
    weights = None
    if config.loss.class_weights == "balanced":
        weights = balanced(class_shares(data.train)).to(fabric.device)
        weights = weights.double() if config.precision == "fp64" else weights
    loss = SegmentationLoss(config.loss, ignore_index=labels.ignore_index, class_weights=weights)
    return Parts(network, running, stepping, loss, average, fabric)


def balanced(shares: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    """Class weights float [K]: 1 / log(1.1 + share of the pixels), scaled to mean 1."""
    weights = 1 / np.log(1.1 + shares)
    return torch.from_numpy(weights / weights.mean()).float()


def load_batches(
    config: TrainConfig, data: Data, preprocessing: Preprocessing, fabric: Fabric, *, first_step: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, list[str]]]:
    """From `first_step` on: images [b, 3, crop, crop], labels [b, crop, crop], teacher probabilities, messages."""
    crops = TrainingCrops(
        samples=data.train,
        augmentation=config.augment,
        preprocessing=preprocessing,
        seed=config.seed,
        teacher=None if config.teacher is None else Path(config.teacher),
    )
    loader = DataLoader(
        crops,
        batch_sampler=StepSampler(
            first_step=first_step,
            steps=config.steps,
            batch=config.batch,
            rank=fabric.global_rank,
            world=fabric.world_size,
        ),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        pin_memory=fabric.device.type == "cuda",
        collate_fn=collate,
        worker_init_fn=partial(_worker, seed=config.seed),
    )
    order = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    for images, labels, teacher, problems in loader:
        moved = images.to(fabric.device, dtype, non_blocking=True, memory_format=order)
        yield moved, labels.to(fabric.device, non_blocking=True), teacher, problems


def _worker(_number: int, *, seed: int) -> None:
    """One thread per data loading process, to leave the cores to the network; the main process handles signals."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to all processes of a terminal
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    """Job managers send SIGTERM to every process of a job; only the trainer's ends its data loading processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _has_test(config: TrainConfig) -> bool:
    """ADE20K and similar datasets have no labelled test split; a folder may have one."""
    return config.format == "folder" and (Path(config.data or "") / "images" / "test").is_dir()
