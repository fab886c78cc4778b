"""What a server accepts: limits on bytes, pixels and seconds, checked before they cost anything."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields, replace

import h11
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from cgrseg.images.photos import NotAPhotoError, TooLargeError, photo_size
from cgrseg.preprocessing import Preprocessing, Size

from .containers import FORMATS, ContainerError, clean_image

NAME = "the photo"  # uploaded file names are neither logged nor repeated
LARGEST_SHORT_SIDE = 4096  # of a request
FORM_OVERHEAD = 2**14  # bytes of boundaries and part headers
MAX_HELD = 8  # bodies of the largest size in memory at once


@dataclass(frozen=True)
class Limits:
    """The limits of a server, which bound its memory and time.

    Args:
        bytes: of one request's body; all requests together hold at most eight times as many.
        pixels: of one photo, and of all photos of a batch together.
        network_pixels: height x width of the network's padded input, and of all inputs of a batch together; 0: as
            many as this machine labels in a quarter of `seconds`, measured when the server starts.
        queue: photos that wait; further ones are refused with 503.
        batch: photos of equal padded size that go through the network together.
        seconds: from the queue to the response; then 504.
        read_seconds: for receiving a request, headers and body; then 408.

    Raises:
        ValueError: a limit is not positive.
    """

    bytes: int = 2**25
    pixels: int = 2**25
    network_pixels: int = 0
    queue: int = 64
    batch: int = 8
    seconds: float = 30.0
    read_seconds: float = 20.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 and (field.name, value) != ("network_pixels", 0):
                raise ValueError(f"the limit {field.name} is {value}: it must be positive")


class RefusedError(Exception):
    """A request without a label map.

    Args:
        status: the HTTP status.
        message: one line that says why.
        retry_after: seconds until a retry makes sense.
        short_side: the largest one, up to the photo's own, with which the photo would be accepted.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: int | None = None, short_side: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.short_side = status, message, retry_after, short_side


def check_photo(data: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[bytes, Size, Size]:
    """Check a photo's header without decoding a pixel.

    Returns:
        The photo's bytes without metadata, its upright (height, width), and those of the network's padded input.

    Raises:
        RefusedError: 415 for another format, 422 for a damaged file, 413 for too many pixels.
    """
    try:
        data = clean_image(data)
        size = photo_size(data, NAME, formats=FORMATS)
    except ContainerError as error:
        raise RefusedError(422, f"{NAME} {error}") from error
    except NotAPhotoError as error:
        raise RefusedError(415, str(error)) from error
    except TooLargeError as error:
        raise RefusedError(413, f"{NAME} has more than {limits.pixels} pixels, the limit: make it smaller") from error
    except (ValueError, OSError) as error:
        raise RefusedError(422, str(error)) from error
    if min(size) < 1:
        raise RefusedError(422, f"{NAME} has no pixels: export it again")
    if size[0] * size[1] > limits.pixels:
        raise RefusedError(413, f"{NAME} has {size[0] * size[1]} pixels, the limit is {limits.pixels}: make it smaller")
    padded = _network_input(preprocessing, size)
    if padded[0] * padded[1] > limits.network_pixels:
        fitting = _largest_short_side(preprocessing, size, limits.network_pixels)
        cure = f"send short_side={fitting} or less, or crop the photo" if fitting else "crop the photo"
        height, width = padded
        message = f"the network's input would have {width} x {height} pixels, the limit is {limits.network_pixels}"
        raise RefusedError(413, f"{message}: {cure}", short_side=fitting or None)
    return data, size, padded


def _network_input(preprocessing: Preprocessing, size: Size) -> Size:
    return preprocessing.padded_size(preprocessing.resized_size(size))


def _largest_short_side(preprocessing: Preprocessing, size: Size, limit: int) -> int:
    """The largest short side, up to the photo's own, whose padded input has at most `limit` pixels; 0 if none has."""

    def pixels(short_side: int) -> int:
        height, width = _network_input(replace(preprocessing, short_side=short_side), size)
        return height * width

    return bisect_right(range(1, min(*size, LARGEST_SHORT_SIDE) + 1), limit, key=pixels)


class BodyReader:
    """Reads request bodies within the limits of one request, of one client address, and of all requests together.

    Args:
        limits: bytes and seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._held: Counter[str] = Counter()  # client address -> bytes

    async def read(self, request: Request, *, retry_after: int) -> bytes:
        """The body; its bytes count as held until `release`.

        A client address may hold half of the bytes that the other addresses leave, so that no client can hold all.

        Raises:
            RefusedError: 400 for a wrong length or a closed connection, 408 for a slow one, 413 for too many bytes, 415
                for a compressed body, 503 if too many bytes are held.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "the body is compressed (Content-Encoding): send the photo as it is")
        most = self.limits.bytes + FORM_OVERHEAD
        announced = request.headers.get("content-length")
        if announced is not None and (not announced.isdecimal() or int(announced) > most):
            raise RefusedError(413, f"the body has {announced[:20]} bytes, the limit is {self.limits.bytes}")
        client, body, complete = _address(request), bytearray(), False
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most:
                        raise RefusedError(413, f"the body has more than {self.limits.bytes} bytes, the limit")
                    others = self._held.total() - self._held[client]
                    if self._held[client] + len(chunk) > (MAX_HELD * self.limits.bytes - others) / 2:
                        raise RefusedError(
                            503, "too many bytes are being received: retry later", retry_after=retry_after
                        )
                    self._held[client] += len(chunk)
                    body += chunk
            complete = True
            return bytes(body)
        except TimeoutError as error:
            raise RefusedError(408, f"the request took more than {self.limits.read_seconds:g} s to arrive") from error
        except ClientDisconnect as error:
            raise RefusedError(400, "the client closed the connection") from error
        finally:
            if not complete:
                self.release(request, len(body))

    def release(self, request: Request, size: int) -> None:
        """Count `size` bytes of a body as no longer held."""
        client = _address(request)
        self._held[client] -= size
        if self._held[client] <= 0:
            del self._held[client]


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


async def photo_in(request: Request, body: bytes, limits: Limits) -> bytes:
    """The photo in a body: the body itself, or the file of a form.

    Raises:
        RefusedError: 400 for a broken form or one without exactly one file, 413 for too many bytes, 415 for a
            type that is neither a form nor an image.
    """
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        body = await _file_of_form(request, body)
    elif not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise RefusedError(
            415,
            f"the body has the type {media_type[:100]}: send a photo as image/* or application/octet-stream (curl: -H "
            "'Content-Type: image/jpeg'), or a form with one file",
        )
    if len(body) > limits.bytes:
        raise RefusedError(413, f"the photo has {len(body)} bytes, the limit is {limits.bytes}")
    if not body:
        raise RefusedError(400, "the request has no photo: send its bytes as the body, or a form with one file")
    return body


class _InMemoryParser(MultiPartParser):
    """Never writes to the disk; the size of the body is limited already."""

    spool_max_size = 2**62


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await _InMemoryParser(request.headers, once(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise RefusedError(400, f"the form can't be read ({error.message[:100]}): it must have one file") from error
    except (KeyError, ValueError, LookupError) as error:  # no boundary, or part headers in an unknown encoding
        raise RefusedError(400, "the form can't be read: it must have one file") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise RefusedError(400, f"the form has {len(files)} files: send exactly one")
        return await files[0].read()
    finally:
        await form.close()


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 that closes connections which send or receive too slowly.

    uvicorn limits the size of headers and the idle time between requests, but not the duration of a request. It
    constructs protocols itself, so the seconds come with the application's lifespan state.
    """

    _receiving: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    @property
    def timeout(self) -> float:
        """Seconds; the application itself answers slow bodies with 408 a little earlier."""
        return float(self.app_state["read_seconds"]) + 1

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read its response: it gets as long as for sending a request."""
        super().pause_writing()
        self._sending = self.loop.call_later(self.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def _update_timer(self) -> None:
        """Run the timer from the first byte of a request (or the connection) to its last."""
        idle = self.conn.their_state is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]
        if idle or self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
            self._stop_timer()
        elif self._receiving is None:
            self._receiving = self.loop.call_later(self.timeout, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
