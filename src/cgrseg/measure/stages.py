"""The time of each stage from an image file to a label map file."""

from __future__ import annotations

import dataclasses
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
from cgrseg.preprocessing import Pixels, Preprocessing, Size

from .candidates import Candidate

QUALITY = 90  # of the sample image's JPEG
REGIONS = 4  # natural logits have about this many regions per side


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


@cache
def natural_logits(classes: int, size: Size) -> Tensor:
    """Logits [1, classes, *size] whose winners form about 4x4 regions with smooth borders; always the same.

    They are like those of a trained network on a photo, on which the time of a label map depends. Logits of an
    untrained network have borders everywhere, or nowhere.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, classes, REGIONS, REGIONS, generator=generator)
    fine = torch.randn(1, classes, *size, generator=generator)
    return F.interpolate(coarse, size, mode="bicubic") * 3 + fine * 0.05


@torch.inference_mode()
def run_stages(candidate: Candidate, photo: bytes, size: Size) -> dict[str, float]:
    """Seconds of each of `report.STAGES` for one image.

    The image is resized to `size` (height, width) whatever its aspect ratio; the label map has the image's own size.
    The label map is computed from natural logits of the network's shape, type and device.
    """
    seconds: dict[str, float] = {}

    def timed(stage: str, task: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = task()
        candidate.wait()
        seconds[stage] = time.perf_counter() - start
        return result

    pixels: Pixels = timed("decode", lambda: read_photo_bytes(photo, "the photo"))
    own = (pixels.shape[0], pixels.shape[1])
    image = timed("resize", lambda: _resize(pixels, size))
    preprocessing = dataclasses.replace(Preprocessing(), pad_multiple=1)
    images = timed("normalise", lambda: candidate.place(preprocessing.normalise(image)[None]))
    logits = timed("network", lambda: candidate.network(images))
    natural = natural_logits(logits.shape[1], (logits.shape[2], logits.shape[3])).to(logits)
    labels = timed("label map", lambda: _labels(candidate, natural, own, size))
    timed("encode", lambda: _encode(labels, logits.shape[1]))
    return seconds


def _resize(pixels: Pixels, size: Size) -> Tensor:
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if pixels.shape[:2] == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def _labels(candidate: Candidate, logits: Tensor, own: Size, size: Size) -> np.ndarray[Any, Any]:
    if candidate.naive:
        full = F.interpolate(logits, own, mode="bilinear", align_corners=False)
        labels = full.softmax(1).argmax(1)[0]
    else:
        labels = label_map(logits.float(), own, input_size=size)[0]
    return labels.cpu().numpy()


def _encode(labels: Any, classes: int) -> bytes:
    file = BytesIO()
    ids = labels.astype(np.uint8 if classes <= 256 else np.uint16)
    mask_picture(ids, LabelSpace.numbered(classes)).save(file, "PNG", compress_type=RUN_LENGTHS)
    return file.getvalue()
