"""The released training augmentation. Crops are cut before they are resized, so only the pixels needed are touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from cgrseg.preprocessing import Preprocessing, Size

from .custom import CustomTransform, seeded
from .dataset import Samples
from .distortion import distort
from .masks import Ids
from .sampling import generator, sample_index
from .settings import Augmentation
from .torch_dataset import TorchSamples

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Sample = tuple[Tensor, Tensor, Tensor | None, tuple[str, ...]]
Batch = tuple[Tensor, Tensor, Tensor | None, list[str]]
Region = tuple[int, int, int, int]  # top, left, height, width in the resized photo
STRIDE = 8  # pixels of a crop per cell of the network's logits
CROP_TRIES = 10  # further crops while one class fills too much
READ_TRIES = 20  # consecutive samples that may be unreadable
SHIFT = 128  # a crop may be off by 1/SHIFT of a photo pixel: two grey levels at a black and white edge


class TrainingCrops(Dataset[Sample]):
    """Sample `number` of the run, a function of (seed, number): independent of the process that reads it.

    Args:
        samples: the labelled photos.
        augmentation: how crops are drawn from them.
        preprocessing: gives mean and std.
        seed: of the run.
        teacher: for distillation, a folder with NAME.npy for each photo NAME.jpg: the logits float [K, h, w] of
            another network for the whole photo, at any resolution. None for training without a teacher.
        transform: a function of one's own that changes each crop; see `CustomTransform`. Not with a teacher.
    """

    def __init__(
        self,
        *,
        samples: Samples,
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        seed: int,
        teacher: Path | None = None,
        transform: Callable[..., Any] | None = None,
    ) -> None:
        self.samples, self.augmentation, self.seed, self.teacher = samples, augmentation, seed, teacher
        self.transform = None if transform is None else CustomTransform(transform, samples.labels, seed)
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))

    def __getitem__(self, number: int) -> Sample:
        """The crop float32 [C, crop, crop], normalised; its labels uint8 or uint16 [crop, crop]; the teacher's
        probabilities float32 [K, crop/8, crop/8], 0 outside the photo, or None; the errors of samples that it replaces.

        An unreadable sample is replaced by the next one of its epoch.

        Raises:
            ValueError: 20 consecutive samples are unreadable, the teacher's logits of this one are, or the transform
                returned no such crop.
        """
        own = isinstance(self.samples, TorchSamples)  # a dataset that may draw random numbers itself
        with seeded(self.seed, number) if own else nullcontext():
            photo, mask, name, problems = self._read(number)
        random, augmentation = generator(self.seed, number), self.augmentation
        crop, ignore = augmentation.crop, self.samples.labels.ignore_index
        size = resized_size(mask.shape, augmentation, random)
        region = draw_region(mask, size, augmentation, ignore, random)
        labels = crop_mask(mask, size, region)
        image = crop_photo(photo, size, region)
        if self.transform is not None:
            image, labels = self.transform(image, labels, number)
        flipped = random.random() < augmentation.flip
        if flipped:
            image, labels = image.flip(-1), labels[:, ::-1]
        if augmentation.photometric:
            image = distort(image, random)
        height, width = labels.shape
        padded = torch.zeros(len(image), crop, crop)
        torch.sub(image, self.mean, out=padded[:, :height, :width]).div_(self.std)
        target = np.full((crop, crop), ignore, np.promote_types(mask.dtype, np.min_scalar_type(ignore)))
        target[:height, :width] = labels
        if self.teacher is None:
            return padded, torch.from_numpy(target), None, problems
        logits = read_teacher(teacher_file(self.teacher, name), classes=len(self.samples.labels))
        teacher = crop_teacher(logits, size, region, crop=crop, flipped=flipped)
        return padded, torch.from_numpy(target), teacher, problems

    def _read(self, number: int) -> tuple[Pixels, Ids, str, tuple[str, ...]]:
        length = len(self.samples)
        epoch, place = divmod(number, length)
        problems: list[str] = []
        for further in range(min(READ_TRIES, length)):
            index = sample_index(self.seed, epoch * length + (place + further) % length, length)
            try:
                photo, mask = self.samples.read(index)
            except ValueError as error:
                problems.append(str(error))
                continue
            return (
                np.require(photo, requirements=["C", "W"]),
                np.asarray(mask),
                self.samples.name(index),
                tuple(problems),
            )
        raise ValueError(f"{len(problems)} consecutive samples can't be read, the last: {problems[-1]}")


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch for `DataLoader(collate_fn=…)`: images [B, C, crop, crop], labels int64 [B, crop, crop], the teacher's
    probabilities [B, K, crop/8, crop/8] or None, and all errors."""
    images, labels, teacher, problems = stacked(samples, torch.stack)
    return images, labels.long(), teacher, problems


def stacked(samples: Sequence[Sample], stack: Callable[[tuple[Tensor, ...]], Tensor]) -> Batch:
    """The same with labels as in the samples; `stack` makes one tensor of many."""
    images, labels, teachers, problems = zip(*samples, strict=True)
    teacher = None if teachers[0] is None else stack(teachers)
    return stack(images), stack(labels), teacher, [problem for found in problems for problem in found]


def teacher_file(folder: Path, name: str) -> Path:
    """The stored logits of the image `name`."""
    return folder / Path(name).with_suffix(".npy")


def read_teacher(path: Path, *, classes: int) -> Tensor:
    """Stored logits as float32 [K, h, w] for K `classes`.

    Raises:
        ValueError: the file is missing, damaged, or not such an array.
    """
    try:
        logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: no teacher logits can be read ({error}): store them again") from error
    if getattr(logits, "ndim", 0) != 3 or logits.dtype.kind != "f":
        raise ValueError(f"{path}: is not an array [K, h, w] of floats: store the teacher's logits")
    if len(logits) != classes:
        raise ValueError(f"{path}: has logits of {len(logits)} classes, the dataset has {classes}: store others")
    return torch.from_numpy(logits).float()


def crop_teacher(logits: Tensor, size: Size, region: Region, *, crop: int, flipped: bool) -> Tensor:
    """The teacher's probabilities float32 [K, crop/8, crop/8] at the cells of a crop; 0 outside the photo.

    Cell i of the network has its centre at pixel 8·(i + 0.5) of the crop it sees, which is the flipped one if
    `flipped`. Cells that reach past the photo's end have no teacher.

    Args:
        logits: float32 [K, h, w] of the whole photo.
        size: (height, width) of the resized photo.
        region: top, left, height, width of the crop in it, before flipping.
        crop: side of the padded crop.
        flipped: whether the crop is mirrored left and right.
    """
    top, left, height, width = region
    rows = top + STRIDE * (torch.arange(height // STRIDE) + 0.5)
    columns = STRIDE * (torch.arange(width // STRIDE) + 0.5)
    columns = left + (width - columns if flipped else columns)
    y, x = (2 * places / side - 1 for places, side in ((rows, size[0]), (columns, size[1])))  # -1 … 1 over the photo
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # h w 2
    sampled = F.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=False)[0]
    whole = torch.zeros(len(logits), -(-crop // STRIDE), -(-crop // STRIDE))
    whole[:, : len(rows), : len(columns)] = sampled.softmax(0)
    return whole


def resized_size(size: tuple[int, ...], augmentation: Augmentation, random: np.random.Generator) -> Size:
    """(height, width) of the resized photo: fitted into `resize_to`, times the random scale."""
    height, width = size
    scale = random.uniform(*augmentation.scale)
    if augmentation.resize_to is not None:
        long, short = max(augmentation.resize_to), min(augmentation.resize_to)
        scale *= min(long / max(size), short / min(size))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def draw_region(
    mask: Ids, size: Size, augmentation: Augmentation, ignore_index: int, random: np.random.Generator
) -> Region:
    """A random crop of the resized photo, drawn again while one class fills too much of it."""
    height, width = (min(augmentation.crop, side) for side in size)
    region = (0, 0, height, width)
    for attempt in range(CROP_TRIES + 1):
        top, left = (int(random.integers(side - part + 1)) for side, part in zip(size, (height, width), strict=True))
        region = (top, left, height, width)
        if augmentation.max_class_share == 1 or attempt == CROP_TRIES:
            break
        counts = _histogram(crop_mask(mask, size, region), ignore_index)
        if counts.max() < augmentation.max_class_share * counts.sum():
            break
    return region


def _histogram(ids: Ids, ignore_index: int) -> Ids:
    """Pixels per class, without ignored ones. On 8-bit masks Pillow counts four times as fast as numpy."""
    if ids.dtype == np.uint8:
        counts = np.array(Image.fromarray(ids).histogram())
    else:
        counts = np.bincount(ids.ravel(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    return counts


def crop_mask(mask: Ids, size: Size, region: Region) -> Ids:
    """The region of the mask resized to `size`: the id at each pixel's centre, never interpolated."""
    rows, columns = (
        (2 * np.arange(start, start + count) + 1) * side // (2 * target)
        for start, count, side, target in zip(region[:2], region[2:], mask.shape, size, strict=True)
    )
    nearest: Ids = mask[rows].take(columns, axis=1)
    return nearest


def crop_photo(photo: Pixels, size: Size, region: Region) -> Tensor:
    """The region of the photo resized bilinearly to `size`: float32 [C, h, w], whole values from 0 to 255.

    Only the part of the photo under the region is resized. torch starts a resize at a pixel's edge, so the part
    begins where the edges of a photo pixel and a resized pixel coincide, at or slightly before the region.

    Args:
        photo: uint8 [H, W, C].
        size: (height, width) of the whole resized photo.
        region: top, left, height, width in it.
    """
    top, left, height, width = region
    (y, from_y, to_y), (x, from_x, to_x) = (
        _part(side, target, start, count)
        for side, target, start, count in zip(photo.shape[:2], size, region[:2], region[2:], strict=True)
    )
    part = torch.from_numpy(photo)[from_y:to_y, from_x:to_x].permute(2, 0, 1)[None]
    rows, columns = top - y + height, left - x + width
    # torch copies an axis whose input and output have the same length, whatever the scale: ask for one more.
    rows += part.shape[2] == rows and size[0] != photo.shape[0]
    columns += part.shape[3] == columns and size[1] != photo.shape[1]
    resized = torch.ops.aten.upsample_bilinear2d(
        part.contiguous(memory_format=torch.channels_last),  # twice as fast as from a view
        [rows, columns],
        False,  # align_corners
        size[0] / photo.shape[0],
        size[1] / photo.shape[1],
    )
    cropped: Tensor = resized[0, :, top - y : top - y + height, left - x : left - x + width]
    return cropped.contiguous().float()


def _part(side: int, target: int, start: int, count: int) -> tuple[int, int, int]:
    """Along one axis: (first resized pixel, first and last + 1 photo pixel) for pixels start … start + count - 1.

    The centre of resized pixel i is at (i + 0.5)·side/target - 0.5 in the photo.
    """
    begins = np.arange(start + 1)
    offset = (begins * side + target // 2) % target - target // 2  # of the pixel edges, in 1/target photo pixels
    inside = (start - begins + 0.5) * side >= 0.5 * target  # the first pixel needs nothing before the part
    begin = int(begins[(np.abs(offset) * SHIFT <= target) & (inside | (begins == 0))][-1])
    first = (begin * side + target // 2) // target
    last = math.floor((start + count - 0.5) * side / target - 0.5) + 3
    return begin, first, min(last, side)
