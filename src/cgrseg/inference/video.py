"""Segment a video: its overlay as MP4, frame by frame in bounded memory (needs PyAV: `cgrseg[video]`)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
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

CONTAINERS = "mov,matroska,webm,avi,asf,mpeg,mpegts,mpegvideo"  # FFmpeg's names; "mov" is also MP4, "asf" WMV
X264 = {"crf": "20", "preset": "veryfast"}
BT709 = 1  # the colour matrix that players expect, and its code in the stream
MISSING = 0.5, 0.02  # seconds, or share of the duration, that may be missing


def require_pyav() -> None:
    """Raise ValueError with the cure if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ValueError('videos need PyAV: pip install "cgrseg[video]"') from error


def open_video(path: Path) -> InputContainer:
    """Open a video. Playlists, which name other files or addresses, are not read, whatever the file is called.

    Raises:
        av.FFmpegError: it is not a video of a known container, or cannot be read.
    """
    import av

    return av.open(str(path), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})


def segment_video(segmenter: Segmenter, path: Path, outputs: Mapping[str, Path], *, batch: int = 1) -> Iterator[int]:
    """Write the overlay of a video as MP4 (H.264) and its legend as a picture; yields numbers of finished frames.

    Frame rate, time stamps and size are kept (an odd side is padded by one pixel, since the format needs even sides;
    a rotated recording is turned upright). Time stamps that jump back, as in joined recordings, continue after the
    last one. Sound is left out. The legend is drawn on the first frame, with the shares of all frames. Both files are
    written atomically.

    Args:
        segmenter: the model.
        path: the video.
        outputs: paths of the "overlay" (.mp4) and the "legend".
        batch: frames that are processed together.

    Raises:
        ValueError: PyAV is missing, or the file is not a video, has no frames, or is damaged or cut short. If only
            some frames are missing or damaged, the outputs are written first.
        OSError: the file cannot be read or the outputs cannot be written.
    """
    require_pyav()
    shares: defaultdict[tuple[str, Color | None], float] = defaultdict(float)
    first: Image.Image | None = None
    gaps: list[str] = []
    done = 0
    with atomic_write(outputs["overlay"]) as temporary, _Writer(temporary, outputs["overlay"]) as writer:
        frames = read_frames(path, gaps)
        while group := list(islice(frames, batch)):
            pictures = [_upright(frame) for frame, _, _ in group]
            for (frame, stamp, stream), result in zip(group, segmenter(pictures, batch=batch), strict=True):
                first = first or result.overlay(legend=False, names=False)
                for name, color, share in result.legend():
                    shares[name, color] += share
                writer.add(result, frame, stamp, stream)
            writer.wait(most=2 * batch)
            done += len(group)
            yield len(group)
        if first is None:
            raise ValueError(f"{path} has no frames: export the video again")
    entries = [(name, color, share / done) for (name, color), share in shares.items()]
    entries.sort(key=lambda entry: -entry[2])
    save_image(render.with_legend(first, entries), outputs["legend"])
    if gaps:
        raise ValueError(f"{path} may be damaged: {gaps[0]}; the others are labelled")


def read_frames(path: Path, gaps: list[str]) -> Iterator[tuple[VideoFrame, int, VideoStream]]:
    """The frames of a video, each with its time stamp, which increases, and its stream.

    Args:
        path: the video.
        gaps: gets "a damaged frame at 0.8 s" for each frame with errors, and "no frames for 1.3 s after 0.8 s" for
            each long gap between frames, if the file has no index of them: FFmpeg continues after such damage.

    Raises:
        ValueError: the file is not a video, is damaged, or ends before its duration.
        OSError: it cannot be read.
    """
    import av

    end = Fraction(0)
    try:
        with open_video(path) as source:
            if not source.streams.video:
                return
            stream = source.streams.video[0]
            stream.thread_type = "SLICE"  # with threads per frame, errors in the last frames are lost
            base = stream.time_base or Fraction(1, 1000)
            step = max(round(1 / (_rate(stream) * base)), 1)
            longest = max(float(MISSING[0] / base), 10 * step)  # between two frames
            offset, last, indexed = 0, None, "mp4" in source.format.name
            for packet in source.demux(stream):
                if packet.is_corrupt and not indexed:  # also where recordings were joined
                    gaps.append(f"a damaged frame at {float(end):.1f} s")
                elif packet.is_corrupt:
                    raise ValueError(f"{path} is damaged near {float(end):.1f} s: export or copy it again")
                for frame in packet.decode():
                    stamp = (last or 0) + step if frame.pts is None else frame.pts + offset
                    if last is not None and stamp <= last:
                        offset += last + step - stamp
                        stamp = last + step
                    if last is not None and not indexed and stamp - last > longest:
                        gaps.append(f"no frames for {float((stamp - last) * base):.1f} s after {float(end):.1f} s")
                    if frame.is_corrupt:
                        gaps.append(f"a damaged frame at {float(end):.1f} s")
                    last = stamp
                    end = max(end, (stamp - (stream.start_time or 0) + step) * base)
                    yield frame, stamp, stream
            duration = _duration(stream, alone=len(source.streams) == 1, whole=source.duration)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} is not a video that can be read, or is damaged ({error.strerror})") from error
    if duration - end > max(MISSING[0], MISSING[1] * duration):
        raise ValueError(
            f"{path} is damaged or incomplete: {float(end):.1f} of {float(duration):.1f} s can be decoded: copy or "
            "export it again"
        )


def _duration(stream: VideoStream, *, alone: bool, whole: int | None) -> Fraction:
    """Seconds of video that the file announces; 0 if unknown. Sound may be longer than the video."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    try:  # in Matroska and WebM
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return Fraction(timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds)).total_seconds())
    except (KeyError, ValueError):
        return Fraction(whole, 10**6) if alone and whole else Fraction(0)


def _rate(stream: VideoStream) -> Fraction:
    """Frames per second."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _upright(frame: VideoFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))


class _Writer:
    """Encodes overlays on a thread of its own.

    Args:
        path: the MP4 file to write.
        name: its name in error messages.

    Raises:
        OSError: when adding, waiting or leaving the block, if it cannot be written.
    """

    def __init__(self, path: Path, name: Path) -> None:
        self._path, self._name = path, name
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._waiting: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._failed = False  # FFmpeg may crash if it is called after an error

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.wait(most=0)
        finally:
            self._thread.shutdown(cancel_futures=True)  # a container must not be closed while a thread writes to it
            if self._container is not None:
                self._close(self._container, finish=kind is None)

    def _close(self, container: OutputContainer, *, finish: bool) -> None:
        import av

        try:
            with self._explained():
                if finish and self._stream is not None:
                    container.mux(self._stream.encode(None))
                container.close()
        except (OSError, av.FFmpegError):
            if finish:
                raise

    def add(self, result: Segmentation, original: VideoFrame, stamp: int, source: VideoStream) -> None:
        """Encode the overlay of a frame."""
        self._waiting.append(self._thread.submit(self._encode, result, original, stamp, source))

    def wait(self, *, most: int) -> None:
        """Wait until at most `most` frames are not encoded yet."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _encode(self, result: Segmentation, original: VideoFrame, stamp: int, source: VideoStream) -> None:
        import av

        if self._failed:
            return
        picture = np.asarray(result.overlay(legend=False, names=False))
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(even).reformat(format="yuv420p", dst_colorspace=BT709)
        frame.pts, frame.time_base = stamp, original.time_base
        with self._explained():
            if self._container is None:
                self._container = av.open(str(self._path), "w", options={"movflags": "+faststart"})
            if self._stream is None:
                self._stream = _output_stream(self._container, source, original, even.shape[:2])
            self._container.mux(self._stream.encode(frame))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.FFmpegError as error:
            self._failed = True
            raise OSError(f"{self._name} cannot be written ({error.strerror})") from error


def _output_stream(sink: OutputContainer, source: VideoStream, first: VideoFrame, size: tuple[int, ...]) -> VideoStream:
    stream: VideoStream = sink.add_stream("libx264", rate=_rate(source), options=X264)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = BT709
    if first.time_base:
        context.time_base = first.time_base
    if aspect := source.sample_aspect_ratio:  # width of a pixel divided by its height
        context.sample_aspect_ratio = 1 / aspect if first.rotation % 180 else aspect
    return stream
