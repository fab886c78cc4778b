"""Weights & Biases as a Fabric logger (extra `[wandb]`)."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning_fabric.loggers.logger import Logger

from .config import TrainConfig


class WandbLogger(Logger):
    """Sends losses and scores to a W&B run; with WANDB_MODE=offline they are kept in `out`/wandb.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, name: str, config: TrainConfig) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ValueError('--loggers wandb needs wandb: pip install "cgrseg[wandb]"') from error
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

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """The configuration was sent at the start."""

    def finalize(self, status: str) -> None:
        """Close the run."""
        self._run.finish(exit_code=0 if status == "success" else 1)
