"""What a run is made of, built from its configuration: Fabric, data, model, optimizer, loss."""

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
from cgrseg.weights.load import computes_bf16, create_model, start_from, usable_device

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


class AllDigits(DoublePrecision):
    """Float64 throughout: Fabric's own rounds what the model returns to float32."""

    def convert_output(self, data: Any) -> Any:
        """As it is."""
        return data


@dataclass(frozen=True)
class Data:
    """The three splits; where there is no test split, val is scored at the end, too."""

    train: Samples
    val: Samples
    test: Samples
    preprocessing: Preprocessing


@dataclass
class Parts:
    """What a training step changes.

    Args:
        network: the bare CGRSeg.
        model: the same as Fabric runs it (compiled, distributed).
        average: its moving average, if there is one.
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
        """The network whose weights are scored and saved: the moving average where there is one."""
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
        """Go back to where `state` was taken."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:
            self.fabric._precision.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]


def with_precision(config: TrainConfig) -> TrainConfig:
    """The same run with "auto" made the precision that it means on this machine."""
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if computes_bf16(usable_device(config.device)) else "fp32")


def make_fabric(config: TrainConfig) -> Fabric:
    """The engine: device, processes, machines, precision, loggers."""
    device = usable_device(config.device).type
    loggers: list[Any] = []
    if "tensorboard" in config.loggers:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(config.out, name="tensorboard", version=""))
    if "wandb" in config.loggers:
        from .wandb import WandbLogger

        loggers.append(WandbLogger(Path(config.out).resolve().name, config))
    return Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=PRECISION.get(config.precision),
        plugins=[AllDigits()] if config.precision == "fp64" else None,
        loggers=loggers,
    )


def make_data(config: TrainConfig) -> Data:
    """Check the dataset quickly and open its splits.

    Raises:
        FileNotFoundError, ValueError: the dataset is not what `config.format` says, or would ruin the run.
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
    resize_to = config.augment.resize_to
    lite = "lite" in create_model(config.model, num_classes=2, **config.spec).spec.backbone
    pixels: dict = {"mean": (127.0,) * 3, "std": (128.0,) * 3} if lite else {}
    preprocessing = Preprocessing(
        **pixels, short_side=resize_to and min(resize_to), long_side=resize_to and max(resize_to)
    )
    return Data(splits["train"], splits["val"], splits.get("test", splits["val"]), preprocessing)


def make_parts(config: TrainConfig, data: Data, fabric: Fabric) -> Parts:
    """Model, optimizer and loss on their device, from `config.init` or fresh: a function of the seed."""
    torch.manual_seed(config.seed)
    labels = data.train.labels
    network = create_model(config.model, num_classes=len(labels), **config.spec)
    if config.init is not None:
        report = start_from(network, config.init)
        fabric.print(f"started from {config.init}: {report}")
    if fabric.world_size > 1:
        synchronise(network, on_cpu=fabric.device.type == "cpu")
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network = network.to(fabric.device).train()
    if config.freeze == "encoder":
        network.encoder.requires_grad_(False).eval()  # its running statistics stay, too
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
    """Class weights float [K], 1 / log(1.1 + share of the pixels) scaled to mean 1: rare classes count more."""
    weights = 1 / np.log(1.1 + shares)
    return torch.from_numpy(weights / weights.mean()).float()


def load_batches(
    config: TrainConfig, data: Data, fabric: Fabric, *, first_step: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, list[str]]]:
    """From `first_step` on: images [b, 3, crop, crop], labels [b, crop, crop] on the device, unreadable pairs."""
    crops = TrainingCrops(
        samples=data.train,
        augmentation=config.augment,
        preprocessing=data.preprocessing,
        seed=config.seed,
        teacher=config.teacher and Path(config.teacher),
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
    """One thread a reader: the cores are for the network. How to stop is the main process's to decide."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    """Job managers send SIGTERM to every process of a job; only the trainer's own ends its readers."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _has_test(config: TrainConfig) -> bool:
    """ADE20K and its like have no labelled test split; a folder may have one."""
    return config.format == "folder" and (Path(config.data or "") / "images" / "test").is_dir()
