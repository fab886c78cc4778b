"""Build the parts of a run from its configuration: Fabric, data, model, optimizer, loss."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.precision import DoublePrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cgrseg._text import printable
from cgrseg.data.check import class_shares, quick_check
from cgrseg.data.dataset import Samples
from cgrseg.data.listing import open_dataset
from cgrseg.data.synthetic import Synthetic
from cgrseg.description import VARIANTS, ModelSpec, SpecOptions
from cgrseg.nn import CGRSeg
from cgrseg.weights import artifact
from cgrseg.weights.load import computes_bf16, create_model, find_weights, usable_device
from cgrseg.weights.pretrained import start_from

from .config import DEFAULT_MODEL, PYTHON, TrainConfig
from .loggers import TensorBoard, Wandb
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
    """The three splits; without a test split, val is evaluated at the end.

    Args:
        train, val, test: the splits.
        warnings: what is probably not intended in the dataset, one line each.
        transform: a function of one's own that changes each training crop.
    """

    train: Samples
    val: Samples
    test: Samples
    warnings: tuple[str, ...] = ()
    transform: Callable[..., Any] | None = None


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


def resolved(config: TrainConfig) -> TrainConfig:
    """Replace model "auto" by that of the initial weights, and precision "auto" by the one for this machine.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: there is no such device, or it cannot compute in this precision.
    """
    if config.model == "auto":
        spec = _spec_of(config.init) or VARIANTS[DEFAULT_MODEL]
        usual = VARIANTS[spec.name]
        changed = {name: getattr(spec, name) for name in SpecOptions.__annotations__}
        changed = {name: value for name, value in changed.items() if value != getattr(usual, name)}
        config = replace(config, model=spec.name, spec={**changed, **config.spec})
    device = usable_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if computes_bf16(device) else "fp32")


def _spec_of(init: str | None) -> ModelSpec | None:
    """The spec in a weights file of this package; None for other weights."""
    if init is None or init == "imagenet":
        return None
    path = find_weights(init)
    return artifact.describe(path).spec if artifact.has_description(path) else None


def make_fabric(config: TrainConfig) -> Fabric:
    """The engine: device, processes, machines, precision, loggers.

    Raises:
        ValueError: a logger is not installed, or the other machines cannot be found.
    """
    device = usable_device(config.device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # each process would announce itself
    kinds: dict[str, Callable[[TrainConfig], Any]] = {"tensorboard": TensorBoard, "wandb": Wandb}
    fabric = Fabric(
        accelerator=device.type,
        devices=config.devices if device.index is None else [device.index],
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=PRECISION.get(config.precision),
        plugins=[Float64Precision()] if config.precision == "fp64" else None,
        loggers=[kinds[name](config) for name in config.loggers],
    )
    environment = getattr(fabric.strategy, "cluster_environment", None)
    if config.nodes > 1 and isinstance(environment, LightningEnvironment):  # no launcher that says where they are
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
        if missing:
            raise ValueError(
                f"--nodes {config.nodes} needs {', '.join(missing)} in the environment: set MASTER_ADDR and "
                "MASTER_PORT to the first machine's address and a free port of it, and NODE_RANK to 0, 1, … on "
                "each"
            )
        if "LOCAL_RANK" not in os.environ:  # the first process of this machine
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            print(f"waiting for {config.nodes} machines at {place}", file=sys.stderr, flush=True)
    return fabric


def make_data(config: TrainConfig) -> Data:
    """Check the dataset quickly and open its splits.

    Raises:
        FileNotFoundError, ValueError: the dataset does not have `config.format`, or has errors.
    """
    warnings: tuple[str, ...] = ()
    channels = config.spec.get("in_channels", 3)
    if config.data is None and channels != 3:
        raise ValueError(f"in_channels is {channels}, but generated scenes are RGB: give --data")
    if config.data is not None:
        if config.data.startswith(PYTHON):
            raise ValueError(f"{config.out} is a run on a {config.data}: resume it with cgrseg.train(..., data=...)")
        report = quick_check(config.data, config.format, channels=channels)
        report.refuse_errors(unreadable=config.skip_limit)
        scored = ("val", "test") if _has_test(config) else ("val",)  # in which no image is replaced by another one
        quick_check(config.data, config.format, splits=scored, channels=channels).refuse_errors()
        warnings = report.warnings
    splits: dict[str, Samples] = {}
    for split in ("train", "val", "test"):
        if config.data is None:
            splits[split] = Synthetic(
                classes=SYNTHETIC_CLASSES, size=(256, 256), count=SYNTHETIC[split], seed=config.seed, split=split
            )
        elif split != "test" or _has_test(config):
            splits[split] = open_dataset(config.data, split, format=config.format, channels=channels)
    return Data(splits["train"], splits["val"], splits.get("test", splits["val"]), warnings)


def make_parts(config: TrainConfig, data: Data, fabric: Fabric) -> Parts:
    """Model, optimizer and loss on their device, from `config.init` or fresh; determined by the seed."""
    torch.manual_seed(config.seed)
    labels = data.train.labels
    network = create_model(config.model, num_classes=len(labels), **config.spec)
    filled: tuple[str, ...] = ()
    if config.init is not None:
        report = start_from(network, config.init)
        filled = report.loaded
        fabric.print(printable(f"started from {config.init}: {report}"))
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
    for name, module in network.named_modules() if config.freeze == "norm" else ():
        if f"{name}.running_mean" in filled:
            module.eval()
    if config.precision == "fp64":
        network = network.double()
    average = None if config.optim.ema is None else moving_average(network, config.optim.ema)
    optimizer = make_optimizer(network, config, fused=fabric.device.type in ("cpu", "cuda"))
    model: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
    running, stepping = fabric.setup(model, optimizer)
    loss = SegmentationLoss(
        kind=config.loss.kind,
        dice=config.loss.dice,
        mean=config.loss.mean,
        label_smoothing=config.loss.label_smoothing,
        class_weights=class_weights(config, data.train),
        ignore_index=labels.ignore_index,
    ).to(fabric.device)
    return Parts(network, running, stepping, loss, average, fabric)


def class_weights(config: TrainConfig, samples: Samples) -> Tensor | None:
    """The class weights float [K] that the loss is configured with; None for equal ones.

    Raises:
        ValueError: their number is not that of the classes.
    """
    chosen, names = config.loss.class_weights, samples.labels.names
    if chosen == "none":
        return None
    if isinstance(chosen, str):
        return balanced(class_shares(samples))
    if len(chosen) != len(names):
        raise ValueError(
            f"loss.class_weights has {len(chosen)} numbers, but there are {len(names)} classes: give one per class, "
            f"in the order {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        )
    return torch.tensor(chosen)


def balanced(shares: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    """Class weights float [K]: 1 / log(1.1 + share of the pixels), scaled to mean 1."""
    weights = 1 / np.log(1.1 + shares)
    return torch.from_numpy(weights / weights.mean()).float()


def _has_test(config: TrainConfig) -> bool:
    """ADE20K and similar datasets have no labelled test split; a folder may have one."""
    return config.format == "folder" and (Path(config.data or "") / "images" / "test").is_dir()
