"""`cgrseg.train`: a training from Python, with settings by name, callbacks, datasets and augmentation of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrseg._yaml import read_yaml
from cgrseg.data.custom import check_transform
from cgrseg.data.torch_dataset import TorchSamples
from cgrseg.labels import LabelSpace
from cgrseg.typed import merged

from .config import CONFIG, PYTHON, TrainConfig
from .loop import run_training
from .pictures import PICTURES
from .progress import Callbacks, Step
from .setup import Data, resolved

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True)
class Run:
    """A finished training.

    Args:
        folder: the run folder.
        scores: of the last weights on the test split (or val), in %: "miou", "mean_accuracy", "accuracy" and
            "class_iou" {class name: IoU or None}; also "split", its number of "images", the "step" and the "date".
        stopped: whether `patience` or a callback ended the run before its last step.
    """

    folder: Path
    scores: dict[str, Any]
    stopped: bool

    @property
    def weights(self) -> dict[str, Path]:
        """The weights files: "best", with the highest mIoU on the val split, and "last"."""
        return {name: self.folder / f"{name}.safetensors" for name in ("best", "last")}

    @property
    def pictures(self) -> dict[str, Path]:
        """The PNG files: "curves" of loss and score, "classes" with their IoU, and "samples" beside their masks."""
        return {name: self.folder / f"{name}.png" for name in PICTURES}


def train(
    config: TrainConfig | str | Path | None = None,
    *,
    resume: bool = False,
    epochs: float | None = None,
    val: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    labels: LabelSpace | Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
    on_step: Callable[[Step], object] | None = None,
    on_score: Callable[[dict[str, Any]], object] | None = None,
    **settings: Any,
) -> Run:
    """Train; score the val split during the run and the test split (or val) at the end.

    Args:
        config: a `TrainConfig` or a recipe (YAML); `settings` take precedence.
        resume: continue the run in the folder `out`, if there is one, with its own settings unless others are given;
            more steps than it had extend it.
        epochs: passes over the training images, in place of `steps`.
        val: a dataset like `data`, if that is a dataset of one's own.
        test: another one; without it, val is scored at the end.
        labels: the classes of such a dataset: their names in the order of the ids, or a LabelSpace.
        transform: a function that changes each training crop: (image uint8 [h, w, 3], mask uint8 or uint16 [h, w]) ->
            the same, as a pair or a dict; transforms of albumentations fit.
        on_step: called after each step with a `Step`. If it returns False, the run ends with this step.
        on_score: called after each evaluation with scores of the val split, like those of `Run`. If it returns False,
            the run ends here. A run that ends early saves its state, scores its weights, and can be resumed.
        settings: fields of `TrainConfig` by name; `out` is required. `optim`, `loss` and `augment` are dicts of what
            differs from their defaults. `data` is a folder, or a dataset whose items are pairs of an image (uint8
            [H, W, C] or PIL; C is 3 unless `spec` has in_channels) and a mask (whole numbers [H, W] or PIL): a
            `torch.utils.data.Dataset`, or a list.

    Raises:
        FileNotFoundError, ValueError: the dataset or an option is wrong; nothing has been written then. Later:
            ten steps in a row had no finite gradient, too many pairs cannot be read, or the run folder is in use,
            damaged or of another run.
        OSError: the run folder cannot be written; the last state is kept.
        MemoryError: the device, or the shared memory of data loading processes, is too small; the message says what
            to change.
        Stopped: by Ctrl-C or SIGTERM, after saving the state.

    Example:
        ```python
        run = cgrseg.train(data="mydata", out="runs/first", model="cgrseg_n", steps=2, batch=2, optim={"lr": 1e-4})
        print(run.scores["miou"], run.weights["best"])
        ```
    """
    if epochs is not None and ("steps" in settings or not epochs > 0):
        raise ValueError(f"epochs is {epochs}: give a positive number, and no steps")
    dataset = settings.get("data")
    own = None if isinstance(dataset, str | os.PathLike) else dataset
    if own is not None:
        settings["data"] = f"{PYTHON}{type(dataset).__name__}"
    elif any(given is not None for given in (val, test, labels)):
        raise ValueError("val, test and labels go with a dataset of your own as data: a folder has them itself")
    if transform is not None:
        check_transform(transform)
        settings["transform"] = getattr(transform, "__name__", type(transform).__name__)
    chosen = resolved(_configuration(config, settings, resume=resume))
    if chosen.transform is not None and transform is None:
        raise ValueError(
            f"{chosen.out} is a run with the Python function {chosen.transform} as transform: resume it with "
            "cgrseg.train(..., transform=...)"
        )
    if transform is not None and chosen.teacher is not None:
        raise ValueError("transform and teacher exclude each other: the teacher's logits do not follow the transform")
    channels = chosen.spec.get("in_channels", 3)
    datasets = None if own is None else _datasets(own, val, test, labels, channels)
    chosen, card = run_training(
        chosen,
        resume=resume,
        epochs=epochs,
        data=datasets,
        transform=transform,
        callbacks=Callbacks(on_step, on_score),
    )
    scores = {name: value for name, value in card.items() if name not in ("recipe", "init")}
    return Run(Path(chosen.out), scores, stopped=card["step"] < chosen.steps)


def _configuration(config: TrainConfig | str | Path | None, settings: dict[str, Any], *, resume: bool) -> TrainConfig:
    """The configuration, or that of a recipe or of the resumed run, with `settings` in it.

    Raises:
        OSError, ValueError: the recipe or a setting is wrong.
    """
    if isinstance(config, TrainConfig):
        if not settings:
            return config
        base = config.to_dict()
    else:
        path = config
        if config is None and resume and "out" in settings:
            own = Path(settings["out"], CONFIG)
            if own.is_file():
                path = own
            elif settings.get("data") is None:
                raise FileNotFoundError(f"no run in {own.parent}: check out, or give data for a new run")
        base = {} if path is None else read_yaml(Path(path))
    paths = {name: os.fspath(value) for name, value in settings.items() if isinstance(value, os.PathLike)}
    return TrainConfig.from_dict(merged(base, settings | paths))


def _datasets(
    train: Dataset[Any],
    val: Dataset[Any] | None,
    test: Dataset[Any] | None,
    labels: LabelSpace | Sequence[str] | None,
    channels: int,
) -> Data:
    """Raises ValueError if one is missing or has no pairs of image and mask."""
    if val is None or labels is None:
        missing = "val" if val is None else "labels"
        cure = "a dataset to score, such as a torch.utils.data.Subset" if val is None else "the class names"
        raise ValueError(f"{missing} is missing: with a dataset as data, give {missing}=, {cure}")
    splits = {"train": train, "val": val} | ({} if test is None else {"test": test})
    samples = {name: TorchSamples(dataset, labels, name, channels=channels) for name, dataset in splits.items()}
    return Data(samples["train"], samples["val"], samples.get("test", samples["val"]))
