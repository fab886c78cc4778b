"""Any image - file, Pillow image of any mode, array - as upright uint8 RGB."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Photo = str | os.PathLike[str] | Image.Image | np.ndarray[Any, np.dtype[Any]]

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".avif")
)
LARGEST_PHOTO = 2**28  # pixels
# Pillow refuses half of that by default. This is the only place that changes its limit.
Image.MAX_IMAGE_PIXELS = LARGEST_PHOTO
# What Pillow's decoders raise on damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
STARTS_PROGRAMS = ("EPS",)  # Pillow reads it with Ghostscript
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class NotAPhotoError(ValueError):
    """Not an image of a known format."""


class TooLargeError(ValueError):
    """More pixels than allowed."""


def read_photo(photo: Photo) -> Pixels:
    """uint8 RGB [H, W, 3], writable, rotated as its EXIF orientation says.

    Transparent pixels are drawn over white; of 16-bit values the upper 8 bits are used; of an animation the first
    frame.

    Args:
        photo: the path of a file, a Pillow image of any mode, or uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
        FileNotFoundError, OSError: there is no such file, it is a folder, or it cannot be read.
        ValueError: it is not an image, is damaged or incomplete, has floating-point values, has more than 2^28 pixels
            (checked before decoding), or the array has another shape or type.
    """
    if isinstance(photo, np.ndarray):
        return _from_array(photo)
    if isinstance(photo, Image.Image):
        check_size(photo.size, "the image")
        return _from_image(photo, "the image")
    path = file_path(photo)
    with opened(path, str(path)) as image:
        return _from_image(image, str(path))


def file_path(photo: str | os.PathLike[str]) -> Path:
    """The path, which may not exist; errors as in `read_photo` if it is no path, a folder, or not a regular file."""
    if not isinstance(photo, str | os.PathLike):
        raise ValueError(f"{type(photo).__name__} is not an image: give a path, a Pillow image or a uint8 array")
    path = Path(photo)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name an image in it, or use `cgrseg predict` for all of them")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file: give an image file")
    return path


def read_photo_bytes(data: bytes, name: str, *, formats: Sequence[str] | None = None) -> Pixels:
    """As `read_photo`, from the content of a file.

    Args:
        data: the content.
        name: used in error messages.
        formats: accepted formats in Pillow's names ("JPEG", "PNG", …); None for all.

    Raises:
        NotAPhotoError, TooLargeError: it has none of these formats, or more than 2^28 pixels.
        ValueError: it is damaged or incomplete. The errors above are ValueErrors as well.
    """
    with opened(BytesIO(data), name, formats) as image:
        return _from_image(image, name)


def photo_size(data: bytes, name: str, *, formats: Sequence[str] | None = None) -> tuple[int, int]:
    """(height, width) of the upright image, from the header; no pixel is decoded. Arguments and errors as above."""
    with opened(BytesIO(data), name, formats) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in range(5, 9) else (height, width)


@contextmanager
def opened(source: Path | BytesIO, name: str, formats: Sequence[str] | None = None) -> Iterator[Image.Image]:
    """The image after its header is read. Errors here and in the block are worded for the user."""
    try:
        with Image.open(source, formats=None if formats is None else list(formats)) as image:
            if image.format in STARTS_PROGRAMS:
                raise NotAPhotoError(f"{name} is not an image that can be read: convert it to JPEG or PNG")
            check_size(image.size, name)
            yield image
    except (TooLargeError, NotAPhotoError):
        raise
    except TOO_LARGE as error:
        raise TooLargeError(f"{name} has too many pixels; the limit is {LARGEST_PHOTO / 1e6:.0f} megapixels") from error
    except UnidentifiedImageError as error:
        size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
        if size == 0:
            raise NotAPhotoError(f"{name} is empty (0 bytes): copy the image again") from error
        raise NotAPhotoError(f"{name} is not an image that can be read: convert it to JPEG or PNG") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} does not exist: check the path") from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"{name} cannot be read ({error.strerror}): check its permissions and the disk") from error
        if isinstance(error, UnsupportedValuesError):
            raise
        if "too large" in str(error).lower() or "MAX_TEXT" in str(error):
            raise ValueError(f"{name} has metadata that is too large (text or ICC profile): save it without") from error
        raise ValueError(f"{name} is damaged or incomplete ({error}): copy or export it again") from error


class UnsupportedValuesError(ValueError):
    """Pixel values outside 0 … 255 and 0 … 65535."""


def check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > LARGEST_PHOTO:
        raise TooLargeError(
            f"{name} is {width} x {height}, {width * height / 1e6:.0f} megapixels; the limit is "
            f"{LARGEST_PHOTO / 1e6:.0f}: make it smaller or cut it into tiles"
        )


def _from_array(array: np.ndarray[Any, np.dtype[Any]]) -> Pixels:
    if array.dtype != np.uint8:
        raise ValueError(f"the image is an array of {array.dtype}: give uint8 values from 0 to 255")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"the image is an array of shape {array.shape}: give [H, W, 3] RGB or [H, W] grey")
    check_size((array.shape[1], array.shape[0]), "the image")
    return np.require(array, requirements=["C", "W"])


def _from_image(image: Image.Image, name: str) -> Pixels:
    upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    if upright.mode == "F":
        raise UnsupportedValuesError(
            f"{name} has floating-point values (mode F), whose range is not defined: save it with 8 or 16 bits"
        )
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        return _from_integers(np.asarray(upright), upright.mode, name)
    if upright.mode == "La":  # premultiplied grey, which Pillow cannot convert to RGB directly
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return np.array(upright.convert("RGB"))


def _from_integers(values: np.ndarray[Any, Any], mode: str, name: str) -> Pixels:
    """16-bit values by their upper 8 bits; 32-bit values as 8-bit or 16-bit ones if they all fit."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise UnsupportedValuesError(
            f"{name} has values from {low} to {high} (mode {mode}): save it with 8 or 16 bits per channel"
        )
    grey = values if mode == "I" and high <= 255 else values.astype(np.int32) >> 8
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation) or 1)
    except DAMAGE:  # broken EXIF data in a good image
        return 1
