"""Segment a video: its overlay as MP4, frame by frame in bounded memory (needs PyAV: `cgrseg[video]`)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cgrseg.images import render
from cgrseg.images.files import atomic_write, save_image
from cgrseg.labels import Color

from .result import Segmentation
from .segmenter import Segmenter

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

X264 = {"crf": "20", "preset": "veryfast"}
BT709 = 1  # the colour matrix that players expect, and its code in the stream


def require_pyav() -> None:
    """Raise ValueError with the cure if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ValueError('videos need PyAV: pip install "cgrseg[video]"') from error


def segment_video(segmenter: Segmenter, path: Path, outputs: Mapping[str, Path], *, batch: int = 1) -> Iterator[int]:
    """Write the overlay of a video as MP4 (H.264) and its legend as a picture; yields numbers of finished frames.

    Frame rate, time stamps and size are kept (an odd side is padded by one pixel, since the format needs even sides;
    a rotated recording is turned upright). Sound is left out. The legend is drawn on the first frame, with the shares
    of all frames. Both files are written atomically.

    Args:
        segmenter: the model.
        path: the video.
        outputs: paths of the "overlay" (.mp4) and the "legend".
        batch: frames that are processed together.

    Raises:
        ValueError: PyAV is missing, or the file is not a video, has no frames or is damaged.
        OSError: the file cannot be read or the outputs cannot be written.
    """
    require_pyav()
    import av

    shares: defaultdict[tuple[str, Color | None], float] = defaultdict(float)
    first: Image.Image | None = None
    done = 0
    with atomic_write(outputs["overlay"]) as temporary:
        try:
            with (
                av.open(str(path)) as source,
                av.open(str(temporary), "w", options={"movflags": "+faststart"}) as sink,
                ThreadPoolExecutor(1) as writer,
            ):
                stream = None
                writing: deque[Future[None]] = deque()
                frames = _frames(source)
                while group := list(islice(frames, batch)):
                    pictures = [_upright(frame) for frame in group]
                    for frame, result in zip(group, segmenter(pictures, batch=batch), strict=True):
                        if stream is None:
                            first = result.overlay(legend=False)
                            stream = _output_stream(sink, source.streams.video[0], first.size)
                        for name, color, share in result.legend():
                            shares[name, color] += share
                        writing.append(writer.submit(_encode, sink, stream, result, frame))
                    while len(writing) > 2 * batch:
                        writing.popleft().result()
                    done += len(group)
                    yield len(group)
                for future in writing:
                    future.result()
                if stream is not None:
                    sink.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise ValueError(f"{path} is not a video that can be read, or is damaged ({error.strerror})") from error
        if first is None:
            raise ValueError(f"{path} has no frames: export the video again")
    entries = [(name, color, share / done) for (name, color), share in shares.items()]
    entries.sort(key=lambda entry: -entry[2])
    save_image(render.with_legend(first, entries), outputs["legend"])


def _frames(source: InputContainer) -> Iterator[VideoFrame]:
    if source.streams.video:
        source.streams.video[0].thread_type = "AUTO"
        yield from source.decode(video=0)


def _upright(frame: VideoFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))


def _output_stream(sink: OutputContainer, original: VideoStream, size: tuple[int, int]) -> VideoStream:
    rate = original.average_rate or original.guessed_rate or Fraction(25)
    stream: VideoStream = sink.add_stream("libx264", rate=rate, options=X264)
    stream.width, stream.height = (side + side % 2 for side in size)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = BT709
    if original.time_base:
        context.time_base = original.time_base
    return stream


def _encode(sink: OutputContainer, stream: VideoStream, result: Segmentation, original: VideoFrame) -> None:
    import av

    picture = np.asarray(result.overlay(legend=False))
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    frame = av.VideoFrame.from_ndarray(even).reformat(format="yuv420p", dst_colorspace=BT709)
    frame.pts, frame.time_base = original.pts, original.time_base
    sink.mux(stream.encode(frame))
