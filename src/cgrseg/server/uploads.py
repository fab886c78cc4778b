"""What a server takes: bytes, pixels, places and seconds, checked before they cost anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cgrseg.images.photos import NotAPhotoError, TooLargeError, photo_size
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


FORM_OVERHEAD = 2**14  # bytes of boundaries and part headers
HELD = 8  # bodies of the largest size that may be in memory at once


class Bodies:
    """Reads bodies within the limits of one, and of all that are held together.

    Args:
        limits: bytes and seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes

    async def read(self, request: Request, *, retry_after: int) -> bytes:
        """The body; its bytes count as held until `release`.

        Raises:
            RefusedError: 400 for a broken length or a sender that went away, 408 for a slow one, 413 for too
                many bytes, 415 for a packed body, 503 where all requests together hold too much.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "the body is packed (Content-Encoding): send the photo as it is")
        most = self.limits.bytes + FORM_OVERHEAD
        announced = request.headers.get("content-length")
        if announced is not None and (not announced.isdecimal() or int(announced) > most):
            raise RefusedError(413, f"the body has {announced[:20]} bytes, the limit is {self.limits.bytes}")
        body, complete = bytearray(), False
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most:
                        raise RefusedError(413, f"the body has more than {self.limits.bytes} bytes, the limit")
                    if self.held + len(chunk) > HELD * self.limits.bytes:
                        raise RefusedError(503, "too much is being sent: come again later", retry_after=retry_after)
                    self.held += len(chunk)
                    body += chunk
            complete = True
            return bytes(body)
        except TimeoutError as error:
            raise RefusedError(408, f"the request took more than {self.limits.read_seconds:g} s to arrive") from error
        except ClientDisconnect as error:
            raise RefusedError(400, "the sender went away") from error
        finally:
            if not complete:
                self.held -= len(body)

    def release(self, body: bytes) -> None:
        self.held -= len(body)


async def photo_in(request: Request, body: bytes, limits: Limits) -> bytes:
    """The photo's own bytes.

    Raises:
        RefusedError: 400 for a broken form or one without exactly one file, 413 for too many bytes, 415 for a
            type that is neither form nor picture.
    """
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        body = await _file_of_form(request, body)
    elif not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise RefusedError(415, "send a photo as image/* or application/octet-stream, or a form with one file")
    if len(body) > limits.bytes:
        raise RefusedError(413, f"the photo has {len(body)} bytes, the limit is {limits.bytes}")
    if not body:
        raise RefusedError(400, "the request holds no photo: send its bytes as the body, or a form with one file")
    return body


class _InMemory(MultiPartParser):
    """A parser that never writes what was sent to the disk; the body's size is bounded already."""

    spool_max_size = 2**62


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await _InMemory(request.headers, once(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise RefusedError(400, f"the form can't be read ({error.message[:100]}): it must hold one file") from error
    except (KeyError, ValueError, LookupError) as error:  # no boundary, or part headers in no known alphabet
        raise RefusedError(400, "the form can't be read: it must hold one file") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise RefusedError(400, f"the form holds {len(files)} files: send exactly one")
        return await files[0].read()
    finally:
        await form.close()
