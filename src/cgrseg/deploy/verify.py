"""Proof that an exported file does what PyTorch does: every size and batch, in the file's own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cgrseg.inference.openvino import OpenVINONetwork
from cgrseg.inference.programs import PACKAGE, open_package, read_program
from cgrseg.inference.runtimes import onnx_session, open_exported
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Size
from cgrseg.weights.artifact import describe_model

from .trace import Io

SIZES: tuple[Size, ...] = ((512, 512), (512, 683), (333, 500), (720, 1280), (64, 96))
BATCHES = (1, 3)
TOLERANCE = 1e-3  # of the logits' standard deviation


@dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        size, batch: of the input.
        deviation: largest difference of a logit over the standard deviation of PyTorch's; None for pictures.
        equal_labels: share of pixels with the same winner.
        wrong_labels: pixels with another winner although PyTorch's leads by more than the tolerance.
    """

    size: Size
    batch: int
    deviation: float | None
    equal_labels: float
    wrong_labels: int


def verify(
    paths: Sequence[Path],
    model: CGRSeg,
    *,
    io: Io = "tensor",
    sizes: Sequence[Size] = SIZES,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
) -> dict[Path, list[Check]]:
    """Compare files with the model, which runs unfolded in PyTorch, once an input.

    Args:
        paths: of exported files.
        model: in evaluation mode, float32, on the CPU.
        io: what the files take, see `export`.
        sizes: (height, width) of the inputs.
        batches: photos in them.
        tolerance: largest deviation of a logit, in standard deviations of the logits.

    Raises:
        ValueError: a logit deviates by more, or a label differs where PyTorch's winner leads by more.
    """
    runs = {path: open_picture_file(path) if io == "image" else open_exported(path, "cpu") for path in paths}
    checks: dict[Path, list[Check]] = {path: [] for path in paths}
    for size, batch in tqdm(list(product(sizes, batches)), desc="compare", unit="input", leave=False, disable=None):
        photos = smooth_photos(batch, size)
        logits = _logits(model, photos, pad=io == "image")
        for path, run in runs.items():
            compare = _compare_pictures if io == "image" else _compare_logits
            check = compare(run, model, photos, logits, tolerance)
            checks[path].append(check)
            off = check.deviation is not None and not check.deviation <= tolerance  # so that NaN fails, too
            if off or check.wrong_labels:
                what = (
                    f"deviates by {check.deviation:.1e} of the logits' deviation"
                    if off
                    else (f"labels {check.wrong_labels} pixels otherwise")
                )
                raise ValueError(
                    f"{path.name} at {size[0]}x{size[1]}, batch {batch}, {what} than PyTorch: nothing was written; "
                    "try other versions of torch and of the runtime"
                )
    return checks


@torch.inference_mode()
def _logits(model: CGRSeg, photos: np.ndarray[Any, Any], *, pad: bool) -> Tensor:
    """PyTorch's answer to photos [B, H, W, 3]: logits [B, K, h, w], of the padded photos with `pad`."""
    images = _normalised(model, photos)
    if pad:
        height, width = photos.shape[1:3]
        rows, columns = describe_model(model).preprocessing.padded_size((height, width))
        images = F.pad(images, (0, columns - width, 0, rows - height))
    logits: Tensor = model(images)
    return logits


@torch.inference_mode()
def _compare_logits(
    run: Callable[[Any], Any], model: CGRSeg, photos: np.ndarray[Any, Any], expected: Tensor, tolerance: float
) -> Check:
    found = run(_normalised(model, photos)).float()
    if found.shape != expected.shape:
        raise ValueError(f"the exported file gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}")
    scale = float(expected.std())
    deviation = float((found - expected).abs().max()) / scale
    equal, wrong = _agreement(expected, found.argmax(1), tolerance * scale)
    return Check((photos.shape[1], photos.shape[2]), len(photos), deviation, equal, wrong)


@torch.inference_mode()
def _compare_pictures(
    run: Callable[[Any], Any], model: CGRSeg, photos: np.ndarray[Any, Any], logits: Tensor, tolerance: float
) -> Check:
    height, width = photos.shape[1:3]
    padded = describe_model(model).preprocessing.padded_size((height, width))
    full = F.interpolate(logits, padded, mode="bilinear", align_corners=False)[:, :, :height, :width]
    found = torch.from_numpy(run(photos))
    if found.shape != (len(photos), height, width):
        raise ValueError(f"the exported file gives labels {tuple(found.shape)} for {len(photos)}x{height}x{width}")
    equal, wrong = _agreement(full, found.long(), tolerance * float(logits.std()))
    return Check((height, width), len(photos), None, equal, wrong)


def _agreement(expected: Tensor, found: Tensor, margin: float) -> tuple[float, int]:
    """Share of equal labels, and how many are wrong by more than `margin`: expected [B, K, h, w], found [B, h, w]."""
    best = expected.amax(1)
    theirs = expected.gather(1, found[:, None])[:, 0]
    equal = float((expected.argmax(1) == found).double().mean())
    return equal, int((best - theirs > margin).sum())


def open_picture_file(path: Path) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """A file of `--io image` as a function: photos uint8 [B, H, W, 3] -> labels [B, H, W]."""
    if path.suffix == ".onnx":
        session = onnx_session(path)
        return lambda photos: np.asarray(session.run(None, {"photos": photos})[0])
    if path.suffix == ".xml":
        run = OpenVINONetwork(path)
        return lambda photos: run(torch.from_numpy(photos)).numpy()
    package = path.name.endswith(PACKAGE)
    network = open_package(path)[0] if package else read_program(path)[0].module(check_guards=False)
    return lambda photos: np.asarray(network(torch.from_numpy(photos)))


def smooth_photos(batch: int, size: Size) -> np.ndarray[Any, Any]:
    """uint8 [B, H, W, 3] with structure at 4 and 32 pixels; the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(batch, 3, *size)
    for side, weight in ((4, 40), (32, 60)):
        coarse = torch.randn(batch, 3, -(-size[0] // side), -(-size[1] // side), generator=generator)
        total += weight * F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return (total + 120).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _normalised(model: CGRSeg, photos: np.ndarray[Any, Any]) -> Tensor:
    preprocessing = describe_model(model).preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return (torch.from_numpy(photos).permute(0, 3, 1, 2).float() - mean) / std
