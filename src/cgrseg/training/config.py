"""What decides a training run, as typed plain data: a recipe is this in YAML, and every field is a flag."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cgrseg.data.settings import Augmentation, Format

# These may differ between a run and its resumption: none of them changes a number.
FREE_TO_CHANGE = ("out", "workers", "loggers", "log_every")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule. The defaults suit training from scratch; recipes/ has the paper's.

    Args:
        lr: peak learning rate of the encoder.
        head_lr: what is multiplied onto it for context, reconstruction and head.
        weight_decay: of kernels.
        warmup: steps up to the peak; null for a twentieth of the run, at most 1500.
        power: of the decay to zero, (1 - step/steps)^power.
        groups: "clean" frees norms, biases and scales from decay; "official" chooses by substrings of the
            released keys, as the paper's training did.
        clip: largest norm of the gradient; null for no limit.
        ema: decay of the exponential moving average that is scored and saved; null for none.
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
            raise ValueError(f"optim.ema is {self.ema}: it must lie between 0 and 1, such as 0.999, or be null")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised, at full crop size.

    Args:
        kind: "cross_entropy"; "ohem", cross-entropy on the hardest pixels; "focal", (1 - p)^2 · cross-entropy.
        dice: weight of the dice loss that is added.
        mean: over the "valid" pixels, or over "all" with the ignored ones counted, as in the paper's training.
        class_weights: "balanced" is 1 / log(1.1 + share of the pixels), scaled to mean 1.
        label_smoothing: share of the target that is spread over all classes.
        teacher: weight of the cross-entropy against the stored predictions of another network (`teacher` of the run).
    """

    kind: Literal["cross_entropy", "ohem", "focal"] = "cross_entropy"
    dice: float = 0.0
    mean: Literal["valid", "all"] = "valid"
    class_weights: Literal["none", "balanced"] = "balanced"
    label_smoothing: float = 0.0
    teacher: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing is {self.label_smoothing}: it must lie in 0 … 1")
        if self.dice < 0:
            raise ValueError(f"loss.dice is {self.dice}: it must be 0 or more")
        if self.kind != "cross_entropy" and self.label_smoothing:
            raise ValueError(f"loss.label_smoothing goes with cross_entropy, not with {self.kind}")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Args:
        out: the run folder.
        data: the dataset's folder; null draws synthetic scenes.
        format: how the dataset is laid out.
        teacher: a folder with one NAME.npy per training image, the logits [K, h, w] of another network.
        model: cgrseg_t, cgrseg_b, cgrseg_l or cgrseg_n.
        spec: any other field of the model's spec, such as `bias_mode: official`.
        init: weights to start from: a weights file or bundled name, a released checkpoint, ImageNet encoder
            weights, or "imagenet" (through the hub); a classifier of another size starts fresh.
        freeze: "encoder" trains the rest alone.
        steps: optimizer steps.
        batch: crops a step, over all processes.
        accumulate: passes that a step is split into, for less memory.
        augment: how a photo becomes a crop.
        optim: the optimizer.
        loss: the loss.
        precision: of the arithmetic; weights stay float32 ("fp64": all in float64, for checks). "auto" is bf16 on
            devices that compute in it, else fp32: a CPU that must imitate bf16 is ten times slower with it.
        channels_last: memory order of the maps.
        compile: with torch.compile.
        val_every: steps between scores on the val split; null for a tenth of the run.
        save_every: steps between resumable states.
        log_every: steps between lines of the log.
        skip_limit: unreadable pairs that are replaced before the run stops.
        loggers: more places for the log: tensorboard, wandb.
        seed: every sample, start value and dropout mask is a function of it.
        workers: processes a trainer that read and crop.
        device: auto, cpu or cuda.
        devices: processes on this machine, one a GPU.
        nodes: machines; each is started with the same command and MASTER_ADDR, MASTER_PORT and NODE_RANK.
    """

    out: str
    data: str | None = None
    format: Format = "folder"
    teacher: str | None = None
    model: str = "cgrseg_t"
    spec: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    freeze: Literal["none", "encoder"] = "none"
    steps: int = 4000
    batch: int = 16
    accumulate: int = 1
    augment: Augmentation = field(default_factory=lambda: Augmentation(crop=256))
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp64"] = "auto"
    channels_last: bool = True
    compile: bool = False
    val_every: int | None = None
    save_every: int = 500
    log_every: int = 20
    skip_limit: int = 10
    loggers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    seed: int = 0
    workers: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "accumulate": 1, "save_every": 1, "log_every": 1, "skip_limit": 0}
        least |= {"workers": 0, "devices": 1, "nodes": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {value}")
        if self.val_every is not None and self.val_every < 1:
            raise ValueError(f"val_every is {self.val_every}: it must be at least 1, or null for a tenth of the run")
        world = self.devices * self.nodes
        share, rest = divmod(self.batch, world * self.accumulate)
        if rest:
            raise ValueError(
                f"batch {self.batch} can't be split over {world} processes x {self.accumulate} passes: "
                "choose a multiple"
            )
        if share * world == 1 and self.augment.crop <= 64:
            raise ValueError(f"a batch of one crop of {self.augment.crop} gives BatchNorm one value: use batch 2")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 needs a GPU: use bf16 or fp32 on the CPU")

    @property
    def scores_every(self) -> int:
        """Steps between scores on the val split."""
        return self.val_every or max(self.steps // 10, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for YAML."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def card(self) -> dict[str, Any]:
        """The recipe as a weights file tells it: nobody's folders."""
        paths = {name: value and Path(value).resolve().name for name, value in self._paths().items()}
        return {name: value for name, value in self.to_dict().items() if name not in FREE_TO_CHANGE} | paths

    def _paths(self) -> dict[str, str | None]:
        return {"data": self.data, "init": self.init}

    def refuse_other(self, written: dict[str, Any], folder: Path) -> None:
        """Raise ValueError where the run that `written` describes is not this one."""
        for name, value in self.to_dict().items():
            if name not in FREE_TO_CHANGE and written.get(name) != value:
                raise ValueError(
                    f"{folder} holds a run with {name} {written.get(name)!r}, not {value!r}: "
                    "resume it with its own settings, or choose another --out"
                )


def _plain(value: Any) -> Any:
    return (
        list(value)
        if isinstance(value, tuple)
        else ({key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value)
    )
