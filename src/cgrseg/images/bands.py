"""Images with the channels that a model takes: RGB, grey, or the bands of a TIFF."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .photos import (
    NotAPhotoError,
    Photo,
    Pixels,
    TooLargeError,
    UnsupportedValuesError,
    check_size,
    file_path,
    opened,
    read_photo,
)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ChannelsError(ValueError):
    """Not the channels that the model takes, or no package that can read them."""


def read_image(photo: Photo, channels: int = 3) -> Pixels:
    """uint8 [H, W, channels], writable; of 16-bit values the upper 8 bits are used.

    Args:
        photo: 3 channels: as in `read_photo`. 1: the same, but only images that are grey. Otherwise: a TIFF with that
            many bands, another file or a Pillow image with that many (RGBA, CMYK, grey with alpha), or uint8
            [H, W, channels].
        channels: what the model takes.

    Raises:
        FileNotFoundError, OSError: as in `read_photo`.
        ChannelsError: the image has another number of channels.
        ValueError: as in `read_photo`. The error above is a ValueError as well.
    """
    name = "the image" if isinstance(photo, np.ndarray | Image.Image) else str(photo)
    if channels == 1 and isinstance(photo, np.ndarray) and photo.shape[2:] == (1,):
        photo = photo[:, :, 0]
    if channels in (1, 3):
        try:
            pixels = read_photo(photo)
        except NotAPhotoError:
            if isinstance(photo, np.ndarray | Image.Image) or not _is_tiff(Path(photo)):
                raise
            pixels = _tiff_bands(Path(photo), name, channels)
        if channels == 3 or pixels.shape[2] == 1:
            return pixels
        if not (pixels == pixels[:, :, :1]).all():
            raise _wrong_number(name, 3, channels)
        return np.ascontiguousarray(pixels[:, :, :1])
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8:
            raise ValueError(f"the image is an array of {photo.dtype}: give uint8 values from 0 to 255")
        if photo.ndim != 3 or photo.shape[2] != channels or photo.size == 0:
            raise ValueError(f"the image is an array of shape {photo.shape}: the model takes [H, W, {channels}]")
        check_size((photo.shape[1], photo.shape[0]), name)
        return np.require(photo, requirements=["C", "W"])
    if isinstance(photo, Image.Image):
        return _from_image(photo, name, channels)
    path = file_path(photo)
    if _is_tiff(path):
        return _tiff_bands(path, name, channels)
    with opened(path, name) as image:
        return _from_image(image, name, channels)


def as_rgb(photo: Image.Image | Pixels) -> Pixels:
    """uint8 RGB [H, W, 3] for display: of several bands the first three, otherwise grey from the first."""
    pixels = np.asarray(photo)
    if pixels.shape[2] == 3:
        return pixels
    if pixels.shape[2] > 3:
        return np.ascontiguousarray(pixels[:, :, :3])
    return np.repeat(pixels[:, :, :1], 3, axis=2)


def _from_image(image: Image.Image, name: str, channels: int) -> Pixels:
    if len(image.getbands()) != channels:
        raise _wrong_number(name, len(image.getbands()), channels)
    return np.array(ImageOps.exif_transpose(image))


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in TIFF_STARTS
    except OSError:  # `opened` says why
        return False


def _tiff_bands(path: Path, name: str, channels: int) -> Pixels:
    """uint8 [H, W, channels] of the first image in a TIFF: bands interleaved, one after the other, or one per page."""
    try:
        import tifffile
    except ImportError as error:
        raise ChannelsError(f'{name} is a TIFF of several bands: pip install "cgrseg[multiband]" to read it') from error
    try:
        # The metadata of microscopes can name other files with further bands: read this one alone.
        with tifffile.TiffFile(BytesIO(path.read_bytes()), is_ome=False, is_mmstack=False) as file:
            series = file.series[0]
            sides = [
                (axis, side) for axis, side in zip(series.axes, series.shape, strict=True) if axis in "YX" or side > 1
            ]
            axes = [axis for axis, _ in sides]
            width, height = (dict(sides)[axis] for axis in "XY")
            orientation = file.pages.first.tags.valueof("Orientation", 1)
            found = math.prod(side for axis, side in sides if axis not in "YX")
            if found == channels and len(axes) < 4 and orientation == 1 and series.dtype in (np.uint8, np.uint16):
                check_size((width, height), name)
                values = series.asarray().reshape([side for _, side in sides])
                values = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
                upright = np.moveaxis(values, [axes.index("Y"), axes.index("X")], [0, 1])
                return np.ascontiguousarray(upright).reshape(height, width, channels)
    except (TooLargeError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs have many types of errors
        line = " ".join(str(error).split())[:120]
        if "imagecodecs" in line:
            raise ValueError(f'{name} is compressed ({line}): pip install "cgrseg[multiband]" to read it') from error
        raise ValueError(f"{name} is damaged or incomplete ({line}): copy or export it again") from error
    if found != channels:
        raise _wrong_number(name, found, channels)
    if orientation != 1:
        raise ValueError(f"{name} is stored rotated (orientation {orientation}): save it upright")
    raise UnsupportedValuesError(f"{name} has values of type {series.dtype}: save it with 8 or 16 bits per channel")


def _wrong_number(name: str, found: int, channels: int) -> ChannelsError:
    colors = " (red, green and blue that differ)" if (found, channels) == (3, 1) else ""
    return ChannelsError(
        f"{name} has {found} channels{colors}, the model takes {channels}: use images with {channels}, or a model with "
        f"in_channels {found}"
    )
