"""A photo goes in, a `Segmentation` comes out: the whole way from file to label map on one object."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args, overload

import numpy as np
import torch
from torch import Tensor

from cgrseg.images.photos import Photo, read_photo
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing, Size
from cgrseg.weights.load import computes_bf16, load

from .labelmap import label_map
from .result import Segmentation
from .runtimes import Runtime, find_exported, open_exported

Key = TypeVar("Key")
OnePhoto = TypeVar("OnePhoto", bound=Photo)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo on its way into the network.

    Args:
        photo: uint8 RGB [H, W, 3], upright.
        image: float32 [3, Hp, Wp], resized, normalised and padded.
        valid: (height, width) of the part of `image` that is photo.
    """

    photo: np.ndarray[Any, np.dtype[np.uint8]]
    image: Tensor
    valid: Size


class Segmenter:
    """Labels photos with a model.

    Args:
        model: a weights file, the name of bundled weights, a file or folder of `cgrseg export`, or a model. That
            one is set to evaluation mode and a folded copy of it is used (`cgrseg.nn.fusion`), so later changes
            to it are not followed; one that was never saved gets numbered classes and the default
            preprocessing.
        runtime: of a file or folder of `cgrseg export`: "torch" (.pt2), "onnx" or "openvino"; "auto" takes a
            file's own, or of a folder the fastest that is installed (`segmenter.runtime` says which). Weights
            and models run in "torch".
        device: "auto" takes a GPU where there is one for a file or name, and leaves a model where it is;
            else "cpu", "cuda", "cuda:1", ….
        short_side: resize photos for the network so that the shorter side has this many pixels, instead of
            what the weights say; 0 keeps each photo's own size. Results always have the photo's own size.
        threads: CPU threads of the runtime; of "torch", of the whole process. None leaves them as they are.
        bf16: the network computes in bfloat16, with three digits, where the device has it: faster, and labels
            change where two classes are nearly equal. For "openvino", and "torch" but for its exported files.

    Example:
        >>> segmenter = Segmenter("runs/street/best.safetensors")
        >>> segmenter("street.jpg").overlay().save("street.overlay.png")

    Raises:
        ValueError: a runtime that doesn't fit the file or is missing, a device without bfloat16, a negative side,
            or a model whose class list has another length.
        OSError: the weights can't be read, see `cgrseg.load`.
    """

    def __init__(
        self,
        model: CGRSeg | str | os.PathLike[str],
        runtime: Runtime = "auto",
        device: str | torch.device = "auto",
        *,
        short_side: int | None = None,
        threads: int | None = None,
        bf16: bool = False,
    ) -> None:
        if runtime not in get_args(Runtime):
            raise ValueError(f"no runtime is called {runtime!r}: choose from {', '.join(get_args(Runtime))}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}: it must be at least 1")
        self._layout = torch.contiguous_format
        exported = None if isinstance(model, CGRSeg) else find_exported(model, runtime)
        if exported is not None:
            network = open_exported(exported, device, threads=threads, bf16=bf16)
            self.runtime = network.runtime
            model = cast(CGRSeg, network)  # is called as one, and knows as much about itself
        else:
            if runtime not in ("auto", "torch"):
                raise ValueError(
                    f'runtime "{runtime}" opens exported files, and this is a model of torch: '
                    f"cgrseg export --weights FILE --format {runtime} --out DIR makes one"
                )
            if not isinstance(model, CGRSeg):
                model = load(model, device)
            elif device != "auto":
                model = model.to(torch.device(device))
            if threads is not None:
                torch.set_num_threads(threads)
            self.runtime = "torch"
            self._layout = torch.channels_last  # about a seventh faster on CPUs
            model = fuse(model.eval()).to(memory_format=self._layout)
            if bf16:
                device = next(model.parameters()).device
                if not computes_bf16(device):
                    raise ValueError(f"device {str(device)!r} does not compute in bf16: leave it out")
                model = model.to(torch.bfloat16)
        self.model = model
        classes = model.spec.num_classes
        self.labels: LabelSpace = getattr(model, "labels", None) or LabelSpace.numbered(classes)
        if len(self.labels) != classes:
            raise ValueError(
                f"the model tells {classes} classes apart but its class list has {len(self.labels)}: "
                "give it the list it was trained with"
            )
        self.preprocessing: Preprocessing = getattr(model, "preprocessing", None) or Preprocessing()
        if short_side is not None:
            self.preprocessing = dataclasses.replace(self.preprocessing, short_side=short_side or None)

    @overload
    def __call__(self, photos: Photo, *, batch: int = 8) -> Segmentation: ...

    @overload
    def __call__(self, photos: list[OnePhoto] | tuple[OnePhoto, ...], *, batch: int = 8) -> list[Segmentation]: ...

    def __call__(
        self, photos: Photo | list[OnePhoto] | tuple[OnePhoto, ...], *, batch: int = 8
    ) -> Segmentation | list[Segmentation]:
        """Label one photo, or a list of them.

        Args:
            photos: a path, a Pillow picture (any mode), uint8 [H, W, 3] RGB or [H, W] grey; or a list of
                these. EXIF rotation is honoured, transparent pixels are laid over white.
            batch: of a list, up to this many photos of equal padded size go through the network together.

        Returns:
            One `Segmentation`, or a list of them in the order of the photos.

        Raises:
            OSError, ValueError: a photo can't be read, see `cgrseg.images.photos.read_photo`.
        """
        if not isinstance(photos, list | tuple):
            return self.run([self.prepare(photos)])[0]
        results: list[Segmentation | None] = [None] * len(photos)
        prepared = ((index, self.prepare(photo)) for index, photo in enumerate(photos))
        for group in batches(prepared, batch):
            for (index, _), result in zip(group, self.run([item for _, item in group]), strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    def prepare(self, photo: Photo) -> Prepared:
        """Read, resize, normalise and pad a photo; safe to call from several threads."""
        pixels = read_photo(photo)
        image, valid = self.preprocessing.prepare(pixels)
        return Prepared(photo=pixels, image=image, valid=valid)

    def run(self, group: Sequence[Prepared]) -> list[Segmentation]:
        """Label prepared photos of equal padded size in one pass of the network.

        Raises:
            MemoryError: the device has too little memory; the message says what to lower.
        """
        try:
            return self._run(group)
        except RuntimeError as error:  # torch has a type of its own only for GPUs
            if "memory" not in str(error):
                raise
            height, width = group[0].image.shape[1:]
            raise MemoryError(
                f"{len(group)} x {width} x {height} pixels need more memory than there is: lower short_side or batch"
            ) from error

    @torch.inference_mode()
    def _run(self, group: Sequence[Prepared]) -> list[Segmentation]:
        weight = next(self.model.parameters())
        images = torch.stack([item.image for item in group]) if len(group) > 1 else group[0].image[None]
        input_size = (images.shape[2], images.shape[3])
        images = images.to(weight.device, weight.dtype, memory_format=self._layout)
        logits = self.model(images).float().contiguous()  # B K H/8 W/8
        results = []
        for index, item in enumerate(group):
            own = logits[index : index + 1]
            own = own.clone() if len(group) > 1 else own  # not the batch's memory
            size = (item.photo.shape[0], item.photo.shape[1])
            labels = label_map(own, size, input_size=input_size, valid=item.valid)[0].cpu().numpy()
            results.append(
                Segmentation(
                    labels=labels if labels.dtype == np.uint8 else labels.astype(np.uint16),
                    label_space=self.labels,
                    photo=item.photo,
                    logits=own,
                    input_size=input_size,
                    valid=item.valid,
                )
            )
        return results


def batches(items: Iterable[tuple[Key, Prepared]], batch: int) -> Iterator[list[tuple[Key, Prepared]]]:
    """Group photos of equal padded size, up to `batch` together, while holding no more than 4 batches back.

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
