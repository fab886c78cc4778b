"""`--batch auto`: the largest batch that fits on the GPU, found by trying."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from cgrseg.weights.load import usable_device

from .config import TrainConfig
from .loading import load_batches
from .progress import StopRequest
from .setup import Data, make_fabric, make_parts
from .step import train_step

ON_CPU = 16  # larger batches are not faster there
LARGEST = 1024
SHARE = 0.9  # of the GPU's memory, to leave some for the evaluation


def find_batch(config: TrainConfig, data: Data) -> int:
    """The number of crops per step: a multiple of `config.accumulate`, at most one crop of each training image.

    On a GPU, batches of growing size are trained for two steps, on a network of which nothing is kept. On a CPU it is
    16, or the number of images if that is smaller.

    Raises:
        ValueError: there are several processes.
        MemoryError: not even two crops per pass fit.
    """
    if config.devices * config.nodes > 1:
        raise ValueError("batch auto tries one GPU: with several processes, give a number")
    least, most = 2 * config.accumulate, min(len(data.train), LARGEST)
    if usable_device(config.device).type == "cpu":
        return max(min(ON_CPU, most) // config.accumulate * config.accumulate, least)
    if not fits(config, data, least):
        raise MemoryError(f"not even {least} crops of {config.augment.crop} fit: use a smaller --augment.crop")
    best = least
    while 2 * best <= most and fits(config, data, 2 * best):
        best *= 2
    between = best * 3 // 2 // config.accumulate * config.accumulate
    return between if best < between <= most and fits(config, data, between) else best


def fits(config: TrainConfig, data: Data, batch: int) -> bool:
    """Whether two steps with a batch of this size can be trained. Without torch.compile, which needs less memory."""
    loss = replace(config.loss, class_weights="none")
    trial = replace(config, batch=batch, steps=2, workers=0, init=None, compile=False, loggers=[], loss=loss)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(SHARE)
    try:
        train_steps(trial, data)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0)
    return True


def train_steps(config: TrainConfig, data: Data) -> None:
    """Train all steps of a configuration and keep nothing."""
    fabric = make_fabric(config)
    parts = make_parts(config, data, fabric)
    preprocessing = parts.network.preprocessing
    batches = load_batches(config, data, preprocessing, fabric, first_step=0, stop=StopRequest())
    for step, (images, labels, teacher, _) in enumerate(batches):
        train_step(fabric, config, parts, images, labels, step, teacher)
