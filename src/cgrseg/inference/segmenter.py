"""`Segmenter`: images in, `Segmentation`s out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar, get_args, overload

import torch

from cgrseg.description import Description
from cgrseg.images.bands import as_rgb
from cgrseg.images.palettes import with_distinct_colors
from cgrseg.images.photos import Photo
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing

from .modes import Mode
from .network import Runtime, open_network
from .predictor import Predictor, Prepared
from .result import Segmentation

Palette = Literal["weights", "distinct"]
Key = TypeVar("Key")
OnePhoto = TypeVar("OnePhoto", bound=Photo)


class Segmenter:
    """Segments images with a model.

    Args:
        model: a weights file, the name of bundled weights, "hf:USER/NAME", a file or folder of `cgrseg export`, or a
            model, which is copied and not changed.
        runtime: "auto" for the fastest, "torch", "onnx" or "openvino", see `open_network`.
        device: "auto" for the GPU if there is one; or "cpu", "cuda:1", ….
        mode: "whole", "slide" for large images, "tta" for the best accuracy; all are listed in `Predictor`.
        window: side of the windows of "slide", in pixels of the resized image.
        short_side: resize images for the network so that the shorter side has this many pixels, instead of what
            the weights say; 0 keeps the size of each image. Results always have the image's own size.
        palette: "weights" for the colours that the weights carry, or "distinct" for colours that differ as much as
            possible, also for colour-blind people.
        threshold: pixels with a lower confidence are unknown, see `Segmentation.with_threshold`.
        threads: CPU threads of the runtime; None leaves them unchanged.
        bf16: compute in bfloat16; an error if the device has none.

    Examples:
        >>> segmenter = Segmenter("runs/street/best.safetensors")
        >>> segmenter("street.jpg").overlay().save("street.overlay.png")

    Raises:
        ValueError: an option does not fit the model or the machine.
        OSError: the weights cannot be read, see `cgrseg.load`.
    """

    def __init__(
        self,
        model: CGRSeg | str | os.PathLike[str],
        runtime: Runtime = "auto",
        device: str | torch.device = "auto",
        *,
        mode: Mode = "whole",
        window: int = 512,
        short_side: int | None = None,
        palette: Palette = "weights",
        threshold: float = 0.0,
        threads: int | None = None,
        bf16: bool = False,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}: use a number from 0 to 1")
        if palette not in get_args(Palette):
            raise ValueError(f"no palette is called {palette!r}: choose from {', '.join(get_args(Palette))}")
        network = open_network(model, runtime, device, threads=threads, bf16=bf16)
        preprocessing = network.description.preprocessing
        if short_side is not None:
            preprocessing = dataclasses.replace(preprocessing, short_side=short_side or None)
        self.predictor = Predictor(network, mode=mode, window=window, preprocessing=preprocessing)
        self.threshold = threshold
        labels = network.description.labels
        self._labels = with_distinct_colors(labels) if palette == "distinct" else labels

    @property
    def runtime(self) -> str:
        """What computes: "torch", "onnx" or "openvino"."""
        return self.predictor.network.runtime

    @property
    def description(self) -> Description:
        """The model's spec, labels, preprocessing and card."""
        return self.predictor.network.description

    @property
    def labels(self) -> LabelSpace:
        """Names and colours of the classes."""
        return self._labels

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the network's input."""
        return self.predictor.preprocessing

    @overload
    def __call__(self, photos: Photo, *, batch: int = 8) -> Segmentation: ...

    @overload
    def __call__(self, photos: list[OnePhoto] | tuple[OnePhoto, ...], *, batch: int = 8) -> list[Segmentation]: ...

    def __call__(
        self, photos: Photo | list[OnePhoto] | tuple[OnePhoto, ...], *, batch: int = 8
    ) -> Segmentation | list[Segmentation]:
        """Segment one image or a list of images.

        Args:
            photos: a path, a Pillow image (any mode), uint8 [H, W, 3] RGB or [H, W] grey; or a list of these. EXIF
                orientation is applied, transparent pixels are drawn over white. Of a model with another number of
                channels: grey images for one channel, otherwise TIFFs or uint8 [H, W, C] with that many bands.
            batch: of a list, up to this many images of equal padded size are processed together.

        Returns:
            One `Segmentation`, or a list in the order of the images.

        Raises:
            OSError, ValueError: an image cannot be read, see `cgrseg.images.bands.read_image`.
        """
        if not isinstance(photos, list | tuple):
            return self.run([self.prepare(photos)])[0]
        results: list[Segmentation | None] = [None] * len(photos)
        prepared = ((index, self.prepare(photo)) for index, photo in enumerate(photos))
        for group in batches(prepared, batch):
            for (index, _), result in zip(group, self.run([item for _, item in group]), strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    def prepare(self, photo: Photo, preprocessing: Preprocessing | None = None) -> Prepared:
        """Read, resize, normalise and pad an image; may be called from several threads."""
        return self.predictor.prepare(photo, preprocessing)

    def run(self, group: Sequence[Prepared]) -> list[Segmentation]:
        """Segment prepared images of equal padded size; errors as in `Predictor.predict`."""
        predictions = self.predictor.predict(group)
        return [
            Segmentation(
                labels=found.labels, label_space=self.labels, photo=as_rgb(item.photo), prediction=found
            ).with_threshold(self.threshold)
            for item, found in zip(group, predictions, strict=True)
        ]


def batches(items: Iterable[tuple[Key, Prepared]], batch: int) -> Iterator[list[tuple[Key, Prepared]]]:
    """Group images of equal padded size, up to `batch` together; at most 4 batches of images are held back.

    Raises:
        ValueError: batch is not positive.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}: it must be at least 1")
    waiting: dict[tuple[int, ...], list[tuple[Key, Prepared]]] = {}
    for key, item in items:
        group = waiting.setdefault(tuple(item.image.shape), [])
        group.append((key, item))
        if len(group) == batch:
            yield waiting.pop(tuple(item.image.shape))
        elif sum(map(len, waiting.values())) >= 4 * batch:
            yield waiting.pop(next(iter(waiting)))  # the size that has waited longest
    yield from waiting.values()
