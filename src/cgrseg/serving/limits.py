"""What a server takes: bytes, pixels, places and seconds, checked before they cost anything."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cgrseg.inference.photos import NotAPhotoError, TooLargeError, photo_size
from cgrseg.preprocessing import Preprocessing, Size

# Of all that Pillow reads, what photos come in. Some of its other readers start programs or unpack archives.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NAME = "the photo"  # file names are the sender's, and may say more than a log should keep


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; memory and time stay within what they say.

    Args:
        bytes: of one request's body; eight times as many are held at once by all requests together.
        pixels: of one photo, and of all photos of a batch together.
        network_pixels: height x width of the network's padded input, and of all inputs of a batch together.
        queue: photos that wait; one more is refused with 503.
        batch: photos of equal padded size that go through the network together.
        seconds: from a place in the queue to the answer; then 504.
        read_seconds: for sending a request, headers and body; then 408.

    Raises:
        ValueError: one is not positive.
    """

    bytes: int = 2**25
    pixels: int = 2**25
    network_pixels: int = 2**22
    queue: int = 64
    batch: int = 8
    seconds: float = 30.0
    read_seconds: float = 20.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"the limit {field.name} is {value}: it must be positive")


class RefusedError(Exception):
    """A request that gets no label map: the HTTP status, one line that says why, and when to come again."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def check_photo(data: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[Size, Size]:
    """Read a photo's header: its upright size, and the size of the network's input for it.

    Raises:
        RefusedError: 415 for what is no photo, 422 for a damaged one, 413 for too many pixels.
    """
    try:
        size = photo_size(data, NAME, formats=FORMATS)
    except NotAPhotoError as error:
        raise RefusedError(415, str(error)) from error
    except TooLargeError as error:
        raise RefusedError(413, str(error)) from error
    except (ValueError, OSError) as error:
        raise RefusedError(422, str(error)) from error
    if min(size) < 1:
        raise RefusedError(422, f"{NAME} has no pixels: export it again")
    if size[0] * size[1] > limits.pixels:
        raise RefusedError(413, f"{NAME} has {size[0] * size[1]} pixels, the limit is {limits.pixels}: make it smaller")
    padded = preprocessing.padded_size(preprocessing.resized_size(size))
    if padded[0] * padded[1] > limits.network_pixels:
        raise RefusedError(
            413,
            f"{NAME} would go through the network with {padded[1]} x {padded[0]} pixels, the limit is "
            f"{limits.network_pixels}: send a smaller short_side, or a photo with squarer sides",
        )
    return size, padded
