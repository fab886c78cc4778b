"""The photo in a request: raw bytes or one file of a form, counted while it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .limits import Limits, RefusedError

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
