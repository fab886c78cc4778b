"""Any photo - file, Pillow picture of any mode, array - as upright uint8 RGB."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Photo = str | os.PathLike[str] | Image.Image | np.ndarray[Any, np.dtype[Any]]

LARGEST_PHOTO = 2**28  # pixels
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
    Image.DecompressionBombError,
)
# EXIF orientation -> what turns the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPENING = Lock()


def read_photo(photo: Photo) -> Pixels:
    """uint8 RGB [H, W, 3], writable, turned upright as its EXIF says.

    Transparent pixels are laid over white; 16-bit values keep their upper 8 bits; of an animation the first
    picture counts.

    Args:
        photo: the path of a file, a Pillow picture of any mode, or uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
        FileNotFoundError, OSError: there is no such file, it is a folder, or it can't be read.
        ValueError: it is no photo, is damaged or cut short, has over 2^28 pixels (refused before decoding),
            or the array has another shape or type.
    """
    if isinstance(photo, np.ndarray):
        return _from_array(photo)
    if isinstance(photo, Image.Image):
        _check_size(photo.size, "the picture")
        return _from_picture(photo)
    if not isinstance(photo, str | os.PathLike):
        raise ValueError(f"a {type(photo).__name__} is no photo: give a path, a Pillow picture or a uint8 array")
    path = Path(photo)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a photo in it, or use `cgrseg predict` for all of them")
    with _opened(path, str(path)) as picture:
        return _from_picture(picture)


def read_photo_bytes(data: bytes, name: str, *, formats: Sequence[str] | None = None) -> Pixels:
    """As `read_photo`, of a file's content.

    Args:
        data: the file's bytes.
        name: what messages call it.
        formats: the only ones to accept, as Pillow names them ("JPEG", "PNG", …); None for all it knows.

    Raises:
        NotAPhotoError, TooLargeError: it is none of these formats, or has over 2^28 pixels.
        ValueError: it is damaged or cut short. Both of the above are ValueErrors, too.
    """
    with _opened(BytesIO(data), name, formats) as picture:
        return _from_picture(picture)


def photo_size(data: bytes, name: str, *, formats: Sequence[str] | None = None) -> tuple[int, int]:
    """(height, width) of the upright photo, from the header alone: no pixel is decoded.

    Args, raises: as `read_photo_bytes`.
    """
    with _opened(BytesIO(data), name, formats) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


class NotAPhotoError(ValueError):
    """No picture of a known format."""


class TooLargeError(ValueError):
    """More pixels than allowed."""


@contextmanager
def _opened(source: Path | BytesIO, name: str, formats: Sequence[str] | None = None) -> Iterator[Image.Image]:
    """The picture with its header read; what goes wrong then or in the block is worded for the user."""
    try:
        with _open(source, formats) as picture:
            _check_size(picture.size, name)
            yield picture
    except TooLargeError:
        raise
    except UnidentifiedImageError as error:
        size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
        if size == 0:
            raise NotAPhotoError(f"{name} is empty (0 bytes): copy the photo again") from error
        raise NotAPhotoError(f"{name} is no photo that can be read: convert it to JPEG or PNG") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is not there: check the path") from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"{name} can't be read ({error.strerror}): check its permissions and the disk") from error
        raise ValueError(f"{name} is damaged or cut short ({error}): copy or export it again") from error


def _open(source: Path | BytesIO, formats: Sequence[str] | None) -> Image.Image:
    """Read the header. Pillow's own limit is lifted meanwhile: it would warn where ours allows."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source, formats=None if formats is None else list(formats))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > LARGEST_PHOTO:
        raise TooLargeError(
            f"{name} is {width} x {height}, {width * height / 1e6:.0f} megapixels; the limit is "
            f"{LARGEST_PHOTO / 1e6:.0f}: make it smaller or cut it into tiles"
        )


def _from_array(array: np.ndarray[Any, np.dtype[Any]]) -> Pixels:
    if array.dtype != np.uint8:
        raise ValueError(f"the photo is an array of {array.dtype}: give uint8 values from 0 to 255")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"the photo is an array of shape {array.shape}: give [H, W, 3] RGB or [H, W] grey")
    _check_size((array.shape[1], array.shape[0]), "the photo")
    return np.require(array, requirements=["C", "W"])


def _from_picture(picture: Image.Image) -> Pixels:
    turn = UPRIGHT.get(_orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    if upright.mode == "La":  # premultiplied grey, which has no direct way to RGB
        upright = upright.convert("LA")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        grey = np.asarray(upright).clip(0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return np.array(upright.convert("RGB"))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation) or 1)
    except DAMAGE:  # a good photo with broken EXIF is still a good photo
        return 1
