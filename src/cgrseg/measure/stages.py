"""From a photo's file to the file of its label map, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cgrseg.images.photos import read_photo_bytes
from cgrseg.images.render import mask_picture
from cgrseg.inference.labelmap import label_map
from cgrseg.inference.result import RUN_LENGTHS
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Preprocessing, Size

from .candidates import Contender

STAGES = ("decode", "resize", "normalise", "network", "label map", "encode")
PHOTO_TO_LABELS = STAGES[:-1]  # what "photo to label map" sums up
QUALITY = 90  # of the sample photo's JPEG
REGIONS = 4  # natural logits have about this many regions a side
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def sample_photo(size: Size) -> bytes:
    """A JPEG of (height, width), cut from the photo that comes with matplotlib."""
    import matplotlib

    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        height, width = size
        scale = min(picture.width / width, picture.height / height)
        box = (0, 0, round(width * scale), round(height * scale))
        photo = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=box)
    file = BytesIO()
    photo.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def natural_logits(classes: int, size: Size, *, regions: int = REGIONS, seed: int = 0) -> Tensor:
    """Logits [1, classes, *size] whose winners form about `regions` x `regions` regions with smooth borders.

    As those of a trained network on a photo; the time of a label map depends on them. An untrained network's
    logits have borders everywhere, or nowhere.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, regions, regions, generator=generator)
    fine = torch.randn(1, classes, *size, generator=generator)
    return F.interpolate(coarse, size, mode="bicubic") * 3 + fine * 0.05


@torch.inference_mode()
def staged(contender: Contender, photo: bytes, size: Size) -> dict[str, float]:
    """Seconds of each of `STAGES`, for one photo that goes the whole way once.

    The photo is resized to `size` (height, width), whatever its aspect, and its label map has its own size. The
    network's result is let go, and the label map is made of natural logits of the same shape, type and device.
    """
    seconds: dict[str, float] = {}

    def timed(stage: str, task: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = task()
        contender.wait()
        seconds[stage] = time.perf_counter() - start
        return result

    pixels: Pixels = timed("decode", lambda: read_photo_bytes(photo, "the photo"))
    own = (pixels.shape[0], pixels.shape[1])
    resized = timed("resize", lambda: _resized(pixels, size))
    images = timed("normalise", lambda: _normalised(contender, resized))
    logits = timed("network", lambda: contender.network(images))
    natural = _natural_like(tuple(logits.shape), logits.dtype, logits.device)
    labels = timed("label map", lambda: _labels(contender, natural, own, size))
    timed("encode", lambda: _encoded(labels, logits.shape[1]))
    return seconds


def _resized(pixels: Pixels, size: Size) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    return resized.contiguous().numpy()


def _normalised(contender: Contender, pixels: Pixels) -> Tensor:
    image, _ = Preprocessing(pad_multiple=1).prepare(pixels)
    return contender.place(image[None])


def _labels(contender: Contender, logits: Tensor, own: Size, size: Size) -> Pixels:
    if contender.naive:
        full = F.interpolate(logits, own, mode="bilinear", align_corners=False)
        labels = full.softmax(1).argmax(1)[0]
    else:
        labels = label_map(logits.float(), own, input_size=size)[0]
    return labels.cpu().numpy()


def _encoded(labels: Any, classes: int) -> bytes:
    file = BytesIO()
    ids = labels.astype(np.uint8 if classes <= 256 else np.uint16)
    mask_picture(ids, LabelSpace.numbered(classes)).save(file, "PNG", compress_type=RUN_LENGTHS)
    return file.getvalue()


@cache
def _natural_like(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return natural_logits(shape[1], (shape[2], shape[3])).to(device, dtype)
