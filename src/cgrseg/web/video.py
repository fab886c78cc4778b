"""Videos on the page: the request has the file, the response progress, then the labelled file; nothing is kept."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from cgrseg.inference.network import Runtime
from cgrseg.inference.predictor import Predictor
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.video import open_video, segment_video
from cgrseg.server.batching import Batcher
from cgrseg.server.uploads import RefusedError

MAX_BYTES = 2**30
CHUNK = 2**20
GRACE = 5  # seconds that a running video has at the end of the server
PHOTOS_FIRST = 1.0  # seconds that a frame waits for photos at most, so that a camera does not stop a video
NAME = "the video"
THREAD = ThreadPoolExecutor(1, "video")  # one video at a time


async def video_route(
    request: Request,
    weights: str | None = None,
    runtime: Runtime | None = None,
    short_side: Annotated[int | None, Query(ge=0, le=4096)] = None,
) -> StreamingResponse:
    """Label a video, sent as the body.

    The response is one JSON object per line: {"done", "frames"} after each frame (frames is 0 if the file does not
    say), at last {"error"} or {"legend", "bytes", "note"}: a picture with the shares of all frames as data URL, the
    number of bytes of the MP4 file that follows, and what is missing in it, or "". A client that closes the connection
    ends the work.
    """
    batcher = await request.app.state.models.batcher(weights, runtime)
    segmenter = batcher.segmenter
    if short_side is not None:
        segmenter = copy(segmenter)  # the same network
        preprocessing = replace(segmenter.preprocessing, short_side=short_side or None)
        segmenter.predictor = Predictor(segmenter.predictor.network, preprocessing=preprocessing)
    folder = tempfile.TemporaryDirectory(prefix="cgrseg-video-", ignore_cleanup_errors=True)
    try:
        path = Path(folder.name, "video")
        await _receive(request, path)
    except BaseException:
        folder.cleanup()
        raise
    return StreamingResponse(_label(segmenter, batcher, path, folder), media_type="application/octet-stream")


async def _receive(request: Request, path: Path) -> None:
    size = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BYTES:
                    raise RefusedError(413, f"{NAME} has more than {MAX_BYTES} bytes, the limit: cut it")
                file.write(chunk)
    except ClientDisconnect as error:
        raise RefusedError(400, "the client closed the connection") from error


async def _label(
    segmenter: Segmenter, batcher: Batcher, path: Path, folder: tempfile.TemporaryDirectory[str]
) -> AsyncIterator[bytes]:
    outputs = {"overlay": path.with_name("overlay.mp4"), "legend": path.with_name("legend.jpg")}
    counts = segment_video(segmenter, path, outputs)
    loop = asyncio.get_running_loop()
    note = ""
    try:
        done, frames = 0, await loop.run_in_executor(THREAD, _frames, path)
        try:
            while (count := await loop.run_in_executor(THREAD, next, counts, None)) is not None:
                done += count
                yield _line({"done": done, "frames": max(frames, done)})
                start = time.monotonic()
                while batcher.busy and time.monotonic() - start < PHOTOS_FIRST:
                    await asyncio.sleep(0.01)
        except ValueError as error:
            if not outputs["legend"].exists():
                raise
            note = _message(error, path)  # some frames are damaged; the others are labelled
        legend = base64.b64encode(outputs["legend"].read_bytes()).decode()
        size = outputs["overlay"].stat().st_size
        yield _line({"legend": f"data:image/jpeg;base64,{legend}", "bytes": size, "note": note})
        with outputs["overlay"].open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (OSError, ValueError, MemoryError) as error:
        yield _line({"error": _message(error, path)})
    finally:  # on the thread, where a frame may still be in the network
        THREAD.submit(_end, counts, folder)


def _end(counts: Any, folder: tempfile.TemporaryDirectory[str]) -> None:
    counts.close()
    folder.cleanup()


def _message(error: Exception, path: Path) -> str:
    text = str(error).replace(str(path), NAME).replace(f"{path.parent}/", "")
    return " ".join(text.split())


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _frames(path: Path) -> int:
    """The number of frames according to the file; 0 if it has none or is not a video."""
    try:
        with open_video(path) as container:
            return int(container.streams.video[0].frames) if container.streams.video else 0
    except (ImportError, OSError, ValueError):  # segment_video reports the error
        return 0
