"""The one way from images to logits and label maps: whole images, sliding windows, averaged scales and flips.

Logits are resized bilinearly to the padded input's size, cropped to the image and resized bilinearly to the image's
own size, as in the paper's evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from cgrseg.images.bands import read_image
from cgrseg.images.photos import Photo
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import LARGEST, Pixels, Preprocessing, Size

from .bilinear import Resized, Window, blended, resized
from .labelmap import label_map
from .modes import Mode
from .network import Network

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's, on Pascal Context


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image ready for the network.

    Args:
        photo: uint8 [H, W, C], upright, with the channels of the preprocessing.
        image: float32 [C, Hp, Wp], resized, normalised and padded.
        valid: (height, width) of the part of `image` that is not padding.
    """

    photo: Pixels
    image: Tensor
    valid: Size

    @property
    def size(self) -> Size:
        """(height, width) of the photo."""
        return self.photo.shape[0], self.photo.shape[1]


@dataclass(frozen=True, eq=False)
class Averaged:
    """Class probabilities at full size, averaged over passes; computed band by band.

    Args:
        passes: full-size logits [1, K, H, W] of each pass, and whether its image was flipped.
    """

    passes: Sequence[tuple[Resized, bool]]

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, probabilities float32 [1, K, rows, W]) from top to bottom."""
        largest = max((full for full, _ in self.passes), key=lambda full: full.shape[2] * full.shape[3])
        for rows, _ in largest.bands():
            total: Tensor | None = None
            for full, flipped in self.passes:
                shares = _softmax(full.rows(rows))
                shares = shares.flip(3) if flipped else shares
                total = shares if total is None else total.add_(shares)
            assert total is not None
            yield rows, total.div_(len(self.passes))


@dataclass(eq=False)
class Prediction:
    """The prediction for one image.

    Args:
        labels: class ids [H, W] at the image's own size; uint8 up to 256 classes, otherwise uint16.
        scores: full-size logits, or averaged probabilities.
        logits: [1, K, h, w] of the network in mode "whole"; None in the other modes.
    """

    labels: np.ndarray[Any, np.dtype[Any]]
    scores: Resized | Averaged
    logits: Tensor | None = None

    @torch.inference_mode()
    def confidence(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [H, W], 0 … 1: the probability of the winning class, computed band by band."""
        result = np.empty(self.labels.shape, np.float32)
        for rows, values in self.scores.bands():
            shares = values if isinstance(self.scores, Averaged) else _softmax(values)
            result[rows] = shares.amax(1)[0].cpu().numpy()
        return result

    @torch.inference_mode()
    def membership(self, classes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [H, W], 0 … 1: how much likelier the likeliest of some classes is than the likeliest of the others.

        It is a / (a + b) of the two probabilities: at least 0.5 where the label is one of the classes.
        """
        result = np.empty(self.labels.shape, np.float32)
        for rows, values in self.scores.bands():
            inside = torch.zeros(values.shape[1], dtype=torch.bool)
            inside[list(classes)] = True
            ours, others = (values[:, which].amax(1)[0] if which.any() else None for which in (inside, ~inside))
            if ours is None or others is None:
                result[rows] = float(others is None)
            elif isinstance(self.scores, Averaged):
                result[rows] = (ours / (ours + others)).cpu().numpy()
            else:
                result[rows] = torch.sigmoid(ours - others).cpu().numpy()
        return result

    @property
    def spacing(self) -> float:
        """Distance in pixels of the image between neighbouring scores of the network, as far as they are known."""
        scores = self.scores.passes[0][0] if isinstance(self.scores, Averaged) else self.scores
        return scores.size[0] / scores.shape[2]


class Predictor:
    """Predicts images with a network.

    Args:
        network: see `open_network`.
        mode: "whole" image; "slide", overlapping windows whose logits are averaged; "slide-cosine", windows that count
            less towards their edges; "scales", six scales from 0.5 to 1.75 averaged; "tta", these and their flips.
        window: side of the square windows in pixels of the resized image; the stride is 2/3 of it.
        preprocessing: None uses the network's.

    Raises:
        ValueError: an unknown mode, or a window below 32 pixels.
    """

    def __init__(
        self, network: Network, *, mode: Mode = "whole", window: int = 512, preprocessing: Preprocessing | None = None
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"no mode is called {mode!r}: choose from {', '.join(get_args(Mode))}")
        if window < 32:
            raise ValueError(f"window is {window}: it must be at least 32 pixels")
        self.network, self.mode, self.window = network, mode, window
        self.preprocessing = preprocessing or network.description.preprocessing

    @property
    def labels(self) -> LabelSpace:
        """Names and colours of the classes."""
        return self.network.description.labels

    def prepare(self, photo: Photo, preprocessing: Preprocessing | None = None) -> Prepared:
        """Read, resize, normalise and pad an image; may be called from several threads."""
        preprocessing = preprocessing or self.preprocessing
        pixels = read_image(photo, preprocessing.channels)
        image, valid = preprocessing.prepare(pixels)
        return Prepared(photo=pixels, image=image, valid=valid)

    def predict(self, group: Sequence[Prepared]) -> list[Prediction]:
        """Predict prepared images of equal padded size, in mode "whole" in one pass.

        Raises:
            MemoryError: the device has too little memory; the message says what to lower.
            ValueError: the network's outputs are not finite.
        """
        try:
            with torch.inference_mode():
                if self.mode == "whole":
                    return self._whole(group)
                windows = self.mode.startswith("slide")
                return [self._slide(item) if windows else self._averaged(item) for item in group]
        except RuntimeError as error:  # torch has an out-of-memory type only for GPUs
            if "memory" not in str(error):
                raise
            height, width = group[0].image.shape[1:]
            raise MemoryError(
                f"{len(group)} x {width} x {height} pixels need more memory than there is: lower short_side or batch"
            ) from error

    def _whole(self, group: Sequence[Prepared]) -> list[Prediction]:
        images = torch.stack([item.image for item in group]) if len(group) > 1 else group[0].image[None]
        input_size = (images.shape[2], images.shape[3])
        logits = self._logits(images)
        found = []
        for index, item in enumerate(group):
            own = logits[index : index + 1]
            own = own.clone() if len(group) > 1 else own  # does not keep the whole batch in memory
            labels = label_map(own, item.size, input_size=input_size, valid=item.valid)
            full = resized(own, item.size, input_size=input_size, valid=item.valid)
            found.append(Prediction(_ids(labels), full, own))
        return found

    def _slide(self, item: Prepared) -> Prediction:
        """Stride-8 logits of all windows are kept, never full-size logits."""
        images, window, stride = item.image[None], self.window, self.window * 2 // 3
        height, width = images.shape[2:]
        windows = []
        for top in _starts(height, window, stride):
            for left in _starts(width, window, stride):
                crop = images[:, :, top : top + window, left : left + window]
                logits = resized(self._logits(crop), (crop.shape[2], crop.shape[3]))
                windows.append(Window(top, left, logits))
        cosine = self.mode == "slide-cosine"
        full = blended(windows, (height, width), valid=item.valid, size=item.size, cosine=cosine)
        return Prediction(_winners(full, item.size), full)

    def _averaged(self, item: Prepared) -> Prediction:
        passes = []
        for image, valid, flipped in views(item.photo, self.preprocessing, flip=self.mode == "tta"):
            logits = self._logits(image[None])
            full = resized(logits, item.size, input_size=(image.shape[1], image.shape[2]), valid=valid)
            passes.append((full, flipped))
        scores = Averaged(passes)
        return Prediction(_winners(scores, item.size), scores)

    def _logits(self, images: Tensor) -> Tensor:
        """float32 [B, K, h, w], checked to be finite."""
        logits = self.network(images).float().contiguous()
        if not logits.isfinite().all():
            source = self.network.path or self.network.description.spec.name
            raise ValueError(
                f"the outputs of {source} are not finite (NaN or infinity): its weights are damaged or diverged, or "
                "they overflow in reduced precision"
            )
        return logits


def views(
    photo: Pixels, preprocessing: Preprocessing, *, scales: Sequence[float] = SCALES, flip: bool = True
) -> Iterator[tuple[Tensor, Size, bool]]:
    """The image at each scale and, with `flip`, its mirror image, which is flipped before padding.

    A scale multiplies the short and long side of the preprocessing, or the image's own size if there is none.

    Yields:
        (float32 [C, Hp, Wp], (height, width) of the part that is not padding, whether it is flipped).
    """
    for scale in scales:
        image, valid = _scaled(preprocessing, scale, (photo.shape[0], photo.shape[1])).prepare(photo)
        yield image, valid, False
        if flip:
            mirrored = torch.zeros_like(image)
            mirrored[:, : valid[0], : valid[1]] = image[:, : valid[0], : valid[1]].flip(2)
            yield mirrored, valid, True


def _scaled(preprocessing: Preprocessing, scale: float, size: Size) -> Preprocessing:
    short, long = preprocessing.short_side, preprocessing.long_side
    if short is None:
        if scale == 1:
            return preprocessing
        short, long = min(size), None
        if short * scale > LARGEST["short_side"]:
            most = int(LARGEST["short_side"] / scale)
            raise ValueError(
                f"an image of {size[0]}x{size[1]} pixels is too large for the scale {scale:g}: use mode slide, or a "
                f"short side of {most} or less"
            )
    return dataclasses.replace(
        preprocessing,
        short_side=max(int(short * scale + 0.5), 1),
        long_side=None if long is None else max(int(long * scale + 0.5), 1),
    )


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover 0 … length; the last window is shifted inward to end at `length`."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _winners(scores: Resized | Averaged, size: Size) -> np.ndarray[Any, np.dtype[Any]]:
    """The class with the largest value at every pixel, [H, W], computed band by band."""
    labels: np.ndarray[Any, np.dtype[Any]] | None = None
    for rows, values in scores.bands():
        some = _ids(label_map(values, (values.shape[2], values.shape[3])))
        labels = np.empty(size, some.dtype) if labels is None else labels
        labels[rows] = some
    assert labels is not None
    return labels


def _ids(labels: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """[1, H, W] -> uint8 or uint16 [H, W]."""
    array = labels[0].cpu().numpy()
    return array if array.dtype == np.uint8 else array.astype(np.uint16)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over classes, in place."""
    shares = logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return shares.div_(shares.sum(1, keepdim=True))
