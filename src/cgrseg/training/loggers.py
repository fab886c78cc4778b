"""TensorBoard (extra `[tensorboard]`) and Weights & Biases (extra `[wandb]`): numbers and pictures of a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from PIL import Image

from .config import TrainConfig


class PictureLogger(Protocol):
    """What both loggers can do besides what Fabric asks for."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Send an RGB picture."""


class TensorBoard(TensorBoardLogger):
    """Writes to `out`/tensorboard.

    Raises:
        ValueError: tensorboard is not installed.
    """

    def __init__(self, config: TrainConfig) -> None:
        try:
            super().__init__(config.out, name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise ValueError(_missing("tensorboard")) from error

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Write an RGB picture."""
        self.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


class Wandb(Logger):
    """Sends to a W&B run; with WANDB_MODE=offline everything is kept in `out`/wandb.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, config: TrainConfig) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ValueError(_missing("wandb")) from error
        self._image, name = wandb.Image, Path(config.out).resolve().name
        self._run = wandb.init(project="cgrseg", name=name, dir=config.out, config=config.to_dict(), resume="allow")

    @property
    def name(self) -> str | None:
        """The project."""
        return "cgrseg"

    @property
    def version(self) -> str | None:
        """W&B's id of the run."""
        return str(self._run.id)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send numbers of one step."""
        self._run.log(metrics, step=step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Send an RGB picture."""
        self._run.log({name: self._image(picture)}, step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """The configuration was sent at the start."""

    def finalize(self, status: str) -> None:
        """Close the run."""
        self._run.finish(exit_code=0 if status == "success" else 1)


def _missing(name: str) -> str:
    return f'--loggers {name} needs {name}: pip install "cgrseg[{name}]"'
