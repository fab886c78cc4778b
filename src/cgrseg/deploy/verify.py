"""Compare exported files with PyTorch: every size and batch, in the runtime of each file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cgrseg.inference.network import open_exported
from cgrseg.inference.runtimes import OpenVINONetwork, onnx_session
from cgrseg.inference.trace import Io
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Pixels, Size

SIZES: tuple[Size, ...] = ((512, 512), (512, 683), (333, 500), (720, 1280), (64, 96))
BATCHES = (1, 3)
TOLERANCE = 1e-3  # in standard deviations of the logits


@dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        size, batch: of the input.
        deviation: largest difference of a logit divided by the standard deviation of PyTorch's logits; None for
            image files.
        equal_labels: share of pixels with the same winner.
        wrong_labels: pixels with another winner although PyTorch's winner leads by more than the tolerance.
    """

    size: Size
    batch: int
    deviation: float | None
    equal_labels: float
    wrong_labels: int


@torch.inference_mode()
def verify(
    paths: Sequence[Path],
    model: CGRSeg,
    *,
    io: Io = "tensor",
    sizes: Sequence[Size] = SIZES,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
) -> dict[Path, list[Check]]:
    """Compare files with the unfolded model in PyTorch, which runs once per input.

    Args:
        paths: exported files.
        model: in evaluation mode, float32, on the CPU.
        io: the input of the files, see `export`.
        sizes: (height, width) of the inputs.
        batches: images in them.
        tolerance: largest deviation of a logit, in standard deviations of the logits.

    Raises:
        ValueError: a logit deviates by more, or a label differs where PyTorch's winner leads by more.
    """
    openers: dict[str, Callable[[Path], Callable[[Any], Any]]]
    openers = {"image": open_image_file, "tensor": open_tensor_file}
    runs = {path: openers[io](path) for path in paths}
    checks: dict[Path, list[Check]] = {path: [] for path in paths}
    multiple = model.preprocessing.pad_multiple if io == "image" else 1
    preprocessing = replace(model.preprocessing, pad_multiple=multiple)
    for size, batch in tqdm(list(product(sizes, batches)), desc="compare", unit="input", leave=False, disable=None):
        photos = smooth_photos(batch, size, model.spec.in_channels)
        images = preprocessing.normalise(torch.from_numpy(photos).permute(0, 3, 1, 2))
        expected = model(images)
        scale = float(expected.std())
        if io == "image":
            expected = F.interpolate(expected, images.shape[2:], mode="bilinear")[:, :, : size[0], : size[1]]
        for path, run in runs.items():
            found = torch.as_tensor(run(photos if io == "image" else images))
            check = compare(found, expected, size, scale=scale, tolerance=tolerance)
            checks[path].append(check)
            off = check.deviation is not None and not check.deviation <= tolerance  # NaN fails as well
            if off or check.wrong_labels:
                what = f"{check.wrong_labels} pixels have another label"
                if off:
                    what = f"logits deviate by {check.deviation:.1e} standard deviations"
                raise ValueError(
                    f"{path.name} at {size[0]}x{size[1]}, batch {batch}: {what} than in PyTorch. Nothing was written; "
                    "try other versions of torch and of the runtime"
                )
    return checks


def compare(found: Tensor, expected: Tensor, size: Size, *, scale: float, tolerance: float) -> Check:
    """Logits [B, K, h, w] or labels [B, h, w] of a file against PyTorch's logits [B, K, h, w].

    Args:
        found, expected: to be compared.
        size: of the input, for the report.
        scale: standard deviation of PyTorch's logits at stride 8.
        tolerance: largest deviation of a logit, in units of `scale`.
    """
    labels_only = found.ndim < 4
    shape = expected[:, 0].shape if labels_only else expected.shape
    if found.shape != shape:
        raise ValueError(f"the exported file returns {tuple(found.shape)}, PyTorch {tuple(shape)}")
    deviation = None if labels_only else float((found.float() - expected).abs().max()) / scale
    labels = found.long() if labels_only else found.argmax(1)
    lead = expected.amax(1) - expected.gather(1, labels[:, None])[:, 0]  # of PyTorch's winner over the file's
    equal = float((expected.argmax(1) == labels).double().mean())
    return Check(size, len(expected), deviation, equal, int((lead > tolerance * scale).sum()))


def open_tensor_file(path: Path) -> Callable[[Any], Tensor]:
    """A file of `--io tensor` as a function: images float [B, C, H, W] -> logits."""
    return _program(path) if path.suffix == ".pt2" else open_exported(path, "cpu")


def open_image_file(path: Path) -> Callable[[Any], Any]:
    """A file of `--io image` as a function: uint8 [B, H, W, C] -> labels [B, H, W]."""
    if path.suffix == ".onnx":
        session = onnx_session(path)
        return lambda photos: np.asarray(session.run(None, {"photos": photos})[0])
    network = OpenVINONetwork(path) if path.suffix == ".xml" else _program(path)
    return lambda photos: np.asarray(network(torch.from_numpy(photos)))


def _program(path: Path) -> Callable[[Tensor], Tensor]:
    """A .pt2 that this process has just written. Files of others are never loaded: they can run code."""
    module: Callable[[Tensor], Tensor] = torch.export.load(path).module(check_guards=False)
    return module


def smooth_photos(batch: int, size: Size, channels: int = 3) -> Pixels:
    """uint8 [B, H, W, C] with structure at 4 and 32 pixels; the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(batch, channels, *size)
    for side, weight in ((4, 40), (32, 60)):
        coarse = torch.randn(batch, channels, -(-size[0] // side), -(-size[1] // side), generator=generator)
        total += weight * F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return (total + 120).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
