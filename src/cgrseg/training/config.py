"""The configuration of a training run as typed plain data: a recipe is this in YAML, and every field is a flag."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cgrseg._text import printable
from cgrseg.data.settings import Augmentation, Format
from cgrseg.typed import build

CONFIG = "config.yaml"  # in a run folder
PYTHON = "Python dataset "  # in front of its type, in `data`
# These may differ when a run is resumed: none of them changes a number.
FREE_TO_CHANGE = ("out", "workers", "loggers", "log_every")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule. The defaults are for training from scratch; recipes/ has the paper's.

    Args:
        lr: peak learning rate of the encoder.
        head_lr: factor of the rate for context, reconstruction and head.
        weight_decay: of kernels.
        warmup: warm-up steps; null for a twentieth of the run, at most 1500.
        power: of the decay to zero, (1 - step/steps)^power.
        groups: "clean" applies no decay to norms, biases and scales; "official" chooses by substrings of the
            released keys, as in the paper's training.
        clip: maximum norm of the gradient; null for no limit.
        ema: decay of the exponential moving average of the weights, which is evaluated and saved; null for none.
    """

    lr: float = 1e-3
    head_lr: float = 1.0
    weight_decay: float = 0.05
    warmup: int | None = None
    power: float = 1.0
    groups: Literal["clean", "official"] = "clean"
    clip: float | None = 5.0
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr is {self.lr}: it must be positive")
        if self.warmup is not None and self.warmup < 0:
            raise ValueError(f"optim.warmup is {self.warmup}: it must be 0 or more, or null")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"optim.clip is {self.clip}: it must be positive, or null for no limit")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"optim.ema is {self.ema}: it must be between 0 and 1, such as 0.999, or be null")


@dataclass(frozen=True)
class LossConfig:
    """The loss, at full crop size.

    Args:
        kind: "cross_entropy"; "ohem", cross-entropy on the hardest pixels; "focal", (1 - p)^2 · cross-entropy.
        dice: weight of an additional dice loss.
        mean: over the "valid" pixels, or over "all" pixels including ignored ones, as in the paper's training.
        class_weights: "none"; "balanced", 1 / log(1.1 + share of the pixels), scaled to mean 1; or one number per
            class.
        label_smoothing: share of the target that is distributed over all classes.
        teacher: weight of the cross-entropy against the stored logits of another network (`teacher` of the run).
    """

    kind: Literal["cross_entropy", "ohem", "focal"] = "cross_entropy"
    dice: float = 0.0
    mean: Literal["valid", "all"] = "valid"
    class_weights: Annotated[Literal["none", "balanced"] | list[float], Parameter(n_tokens=-1)] = "balanced"
    label_smoothing: float = 0.0
    teacher: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing is {self.label_smoothing}: it must be from 0 to 1")
        for name in ("dice", "teacher"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name} is {getattr(self, name)}: it must be 0 or more")
        weights = self.class_weights
        if isinstance(weights, list) and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(f"loss.class_weights is {weights}: give one number of 0 or more per class")
        if self.kind != "cross_entropy" and self.label_smoothing:
            raise ValueError(f"loss.label_smoothing goes with cross_entropy, not with {self.kind}")


DEFAULT_MODEL = "cgrseg_t"


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        out: the run folder.
        data: the dataset's folder; null generates synthetic scenes. A dataset given in Python is named by its type.
        format: the dataset's format.
        teacher: a folder with one NAME.npy per training image, the logits [K, h, w] of another network.
        model: a name of `cgrseg.list_models()`. "auto" is the model of `init` with its spec, if that is a weights file
            of this package, otherwise cgrseg_t.
        spec: any other field of the model's spec, such as `bias_mode: official`.
        init: initial weights: a weights file, a bundled name, hf:USER/NAME, a released checkpoint, a state dict,
            ImageNet weights of the encoder, or "imagenet"; a classifier with another number of classes gets new random
            weights.
        freeze: "encoder" trains only the other parts. "norm" keeps the means and variances of the BatchNorms that
            `init` fills, and uses them in training: for small batches, whose own statistics are noisy.
        steps: optimizer steps; more than before extend a run that is resumed.
        batch: crops per step, over all processes. "auto" is the most that fit on the GPU, found by trying; on a CPU at
            most 16.
        accumulate: number of passes per step, to save memory.
        augment: how an image becomes a crop.
        transform: the name of the function that changes each crop, if `cgrseg.train` was given one.
        optim: the optimizer.
        loss: the loss.
        precision: of the arithmetic; weights stay float32 ("fp64": everything in float64, for checks). "auto" is bf16
            on devices that have it, otherwise fp32: emulating bf16 takes ten times as long.
        channels_last: memory format of the feature maps.
        compile: use torch.compile.
        val_every: steps between evaluations on the whole val split; null for a tenth of the run, on as many images as
            keep them below a tenth of its time.
        patience: evaluations in a row without a higher mIoU that end the run; null to train all steps.
        save_every: steps between resumable states.
        log_every: steps between log lines.
        skip_limit: number of unreadable pairs that are replaced before the run stops.
        loggers: additional loggers: tensorboard, wandb.
        seed: determines every sample, initial value and dropout mask.
        workers: data loading processes per trainer; on a CPU, they share each batch.
        device: auto, cpu, cuda or cuda:N.
        devices: processes on this machine, one per GPU.
        nodes: machines; start the same command on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
    """

    out: str
    data: str | None = None
    format: Format = "folder"
    teacher: str | None = None
    model: str = "auto"
    spec: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    freeze: Literal["none", "encoder", "norm"] = "none"
    steps: int = 4000
    batch: int | Literal["auto"] = 16
    accumulate: int = 1
    augment: Augmentation = field(default_factory=Augmentation)
    transform: Annotated[str | None, Parameter(parse=False)] = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp64"] = "auto"
    channels_last: bool = True
    compile: bool = False
    val_every: int | None = None
    patience: int | None = None
    save_every: int = 500
    log_every: int = 20
    skip_limit: int = 10
    loggers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    seed: int = 0
    workers: int = 2
    device: str = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("out", "data", "teacher", "init"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        least = {"steps": 1, "batch": 1, "accumulate": 1, "save_every": 1, "log_every": 1, "skip_limit": 0}
        least |= {"workers": 0, "devices": 1, "nodes": 1, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) != "auto" and getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {value}")
        for name, otherwise in (("val_every", "for a tenth of the run"), ("patience", "to train all steps")):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1, or null {otherwise}")
        world = self.devices * self.nodes
        share, rest = (2, 0) if self.batch == "auto" else divmod(self.batch, world * self.accumulate)
        if rest:
            raise ValueError(
                f"batch {self.batch} cannot be split over {world} processes x {self.accumulate} passes: "
                "choose a multiple"
            )
        if fixed := {"name", "num_classes"} & self.spec.keys():
            raise ValueError(
                f"spec.{min(fixed)} cannot be chosen: it follows from the model or the dataset; leave it out"
            )
        if self.freeze == "norm" and self.init is None:
            raise ValueError("freeze norm keeps the statistics of initial weights: give --init")
        if share * world == 1 and self.augment.crop <= 64:
            raise ValueError(f"a batch of one crop of {self.augment.crop} gives BatchNorm a single value: use batch 2")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
        if self.devices > 1 and ":" in self.device:
            raise ValueError(f"device {self.device} is one device, devices {self.devices}: use device cuda")

    @property
    def batch_size(self) -> int:
        """`batch` as a number, once "auto" has been replaced by one."""
        assert self.batch != "auto"
        return self.batch

    @property
    def scores_every(self) -> int:
        """Steps between evaluations on the val split."""
        return self.val_every or max(self.steps // 10, 1)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> TrainConfig:
        """From plain values, as in a recipe.

        Raises:
            ValueError: an unknown field, or a value of another type or out of range.
        """
        return build(cls, table)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for YAML."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def card(self) -> dict[str, Any]:
        """The recipe for the card of a weights file: without folders of this machine."""
        paths = {name: value and printable(Path(value).resolve().name) for name, value in self._paths().items()}
        return {name: value for name, value in self.to_dict().items() if name not in FREE_TO_CHANGE} | paths

    def _paths(self) -> dict[str, str | None]:
        return {"data": self.data, "init": self.init, "teacher": self.teacher}

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run cannot change."""
        free = (*FREE_TO_CHANGE, "steps", "patience")  # the last two only change what follows
        return {name: value for name, value in self.to_dict().items() if name not in free}

    def refuse_other(self, written: Any, place: Path) -> None:
        """Raise ValueError if the settings `written` in a file describe another run."""
        if not isinstance(written, dict):
            raise ValueError(f"{place} is damaged: restore it, or choose another --out")
        for name, value in self.identity().items():
            if written.get(name) != value:
                raise ValueError(
                    f"{place} is of a run with {name} {written.get(name)!r}, not {value!r}: "
                    "resume it with its own settings, or choose another --out"
                )


def require_new_run(out: str | Path) -> None:
    """Raise ValueError if a folder holds a run."""
    if Path(out, CONFIG).is_file():
        raise ValueError(f"{out} holds a run already: add --resume, or choose another --out")


def _plain(value: Any) -> Any:
    return (
        list(value)
        if isinstance(value, tuple)
        else ({key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value)
    )
