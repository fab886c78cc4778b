"""`cgrseg train --find-lr`: the loss at growing learning rates (the range test of Smith, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cgrseg.images.files import save_figure

from .batch_size import find_batch
from .config import TrainConfig
from .loading import check_teacher, load_batches
from .progress import asked_to_stop
from .setup import make_data, make_fabric, make_parts, resolved
from .step import train_step

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 1 / 25  # of the steps: standard deviation of the Gaussian
DIVERGED = 2.0  # times the lowest loss so far


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Args:
        rates: learning rate of each step, rising.
        losses: of each step, smoothed.
        best: the rate at which the loss falls fastest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best: float

    def draw(self, path: Path) -> None:
        """Write a plot of the losses over the rates as PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses)
        axes.axvline(self.best, color="grey", linestyle=":", label=f"fastest fall, {self.best:.2g}")
        axes.set(xscale="log", xlabel="learning rate (optim.lr)", ylabel="loss, smoothed")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        save_figure(figure, path, dpi=120)


def find_lr(config: TrainConfig, *, steps: int = STEPS) -> RangeTest:
    """Train with a learning rate that rises from 1e-6 to 1 until the loss diverges. Nothing of it is kept.

    Args:
        config: of the run that is planned; its schedule, length and moving average are not used.
        steps: optimizer steps from the lowest rate to the highest.

    Raises:
        FileNotFoundError, ValueError: the dataset or an option is wrong, there are several processes, or the loss
            does not fall at any rate.
        KeyboardInterrupt: by Ctrl-C or SIGTERM.
    """
    config = resolved(config)
    if config.devices * config.nodes > 1:
        raise ValueError("the range test runs in one process: leave out --devices and --nodes")
    optim = replace(config.optim, lr=1.0, warmup=0, power=0.0, ema=None)
    config = replace(config, steps=steps, optim=optim, loggers=[], patience=None)
    data, fabric = make_data(config), make_fabric(config)
    check_teacher(config, data.train)
    if config.batch == "auto":
        config = replace(config, batch=find_batch(config, data))
    parts = make_parts(config, data, fabric)
    peaks = [group["peak"] for group in parts.optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    with asked_to_stop() as request:
        batches = load_batches(config, data, parts.network.preprocessing, fabric, first_step=0, stop=request)
        for images, labels, teacher, _ in tqdm(batches, total=steps, unit="step"):
            rates.append(LOWEST * (HIGHEST / LOWEST) ** (len(losses) / (steps - 1)))
            for group, peak in zip(parts.optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak * rates[-1]
            loss, finite = train_step(fabric, config, parts, images, labels, len(losses), teacher)
            losses.append(loss)
            smooth = smoothed(losses, SMOOTHING * steps)
            if request.number or not finite or smooth[-1] > DIVERGED * min(smooth):
                break
    if request.number:
        raise KeyboardInterrupt
    if not math.isfinite(losses[-1]):
        rates, losses = rates[:-1], losses[:-1]
    smooth = smoothed(losses, SMOOTHING * steps)
    return RangeTest(tuple(rates), tuple(smooth), steepest(rates, smooth))


def smoothed(losses: list[float], width: float) -> list[float]:
    """Gaussian averages over neighbouring steps, with standard deviation `width`; the ends have fewer neighbours."""
    places = np.arange(len(losses))
    weights = np.exp(-(((places[:, None] - places[None]) / width) ** 2) / 2)
    averages: list[float] = (weights @ np.array(losses) / weights.sum(1)).tolist()
    return averages


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate before the lowest loss at which it falls fastest over log(rate).

    Raises:
        ValueError: it does not fall.
    """
    lowest = int(np.argmin(losses)) if losses else 0
    if lowest < 1:
        raise ValueError("the loss does not fall at any learning rate: check the data, or use a larger --batch")
    slopes = np.gradient(losses, np.log(rates))
    return rates[int(np.argmin(slopes[:lowest]))]
