"""A video becomes its overlay: same rate, size and length, upright, complete or not at all."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.video import segment_video
from cgrseg.labels import LabelSpace
from cgrseg.nn import build

av = pytest.importorskip("av", reason="videos need PyAV: the extra `video`")

RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(build("cgrseg_n", num_classes=3))


@pytest.fixture
def one_class() -> Segmenter:
    """Every pixel is class 0, which is drawn in pure red, so that the overlay of black is half red."""
    space = LabelSpace(names=("a", "b", "c"), colors=((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    model = build("cgrseg_n", num_classes=3)
    model.describe(labels=space)
    torch.nn.init.zeros_(model.head.classifier.weight)
    model.head.classifier.bias.data = torch.tensor([1.0, 0.0, 0.0])
    return Segmenter(model)


def draw_clip(
    path: Path,
    *,
    frames: int = 8,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    aspect: Fraction | None = None,
) -> Path:
    """A white bar moves over a black picture."""
    width, height = size
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "bgr0"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for i in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, 4 * i : 4 * i + 8] = 255
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        sink.mux(stream.encode(None))
    return path


def outputs(folder: Path) -> dict[str, Path]:
    return {"overlay": folder / "clip.overlay.mp4", "legend": folder / "clip.legend.jpg"}


def read_clip(path: Path) -> tuple[Fraction, list[Fraction], list[np.ndarray]]:
    with av.open(str(path)) as clip:
        frames = list(clip.decode(video=0))
        rate = clip.streams.video[0].average_rate
        return (
            rate,
            [frame.pts * frame.time_base for frame in frames],
            [f.to_ndarray(format="rgb24") for f in frames],
        )


@pytest.mark.parametrize("batch", [1, 3])
def test_overlay_keeps_frame_rate_time_stamps_and_size(segmenter: Segmenter, tmp_path: Path, batch: int) -> None:
    clip = draw_clip(tmp_path / "clip.mp4")
    counts = list(segment_video(segmenter, clip, outputs(tmp_path), batch=batch))
    assert sum(counts) == 8
    rate, times, frames = read_clip(outputs(tmp_path)["overlay"])
    assert rate == RATE
    assert times == read_clip(clip)[1]
    assert {frame.shape for frame in frames} == {(64, 96, 3)}


def test_frames_are_in_order_with_the_class_colours_over_them(one_class: Segmenter, tmp_path: Path) -> None:
    list(segment_video(one_class, draw_clip(tmp_path / "clip.mp4"), outputs(tmp_path), batch=3))
    _, _, frames = read_clip(outputs(tmp_path)["overlay"])
    for i, frame in enumerate(frames):
        assert np.abs(frame[32, 4 * i + 4].astype(int) - (255, 128, 128)).max() < 12  # white under red
        assert np.abs(frame[32, 70].astype(int) - (128, 0, 0)).max() < 12  # black under red


def test_odd_sides_grow_by_one_repeated_pixel(segmenter: Segmenter, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "clip.avi", size=(75, 51), codec="ffv1", frames=3)
    list(segment_video(segmenter, clip, outputs(tmp_path)))
    assert {frame.shape for frame in read_clip(outputs(tmp_path)["overlay"])[2]} == {(52, 76, 3)}


def test_a_rotated_recording_is_rotated_upright(one_class: Segmenter, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=1)
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    clip.write_bytes(data)
    list(segment_video(one_class, clip, outputs(tmp_path)))
    frame = read_clip(outputs(tmp_path)["overlay"])[2][0]
    assert frame.shape == (96, 64, 3)
    assert frame[4, :, 1].min() > 100 and frame[30:, :, 1].max() < 30  # turned right, the left bar is the top bar


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square_stay_so(segmenter: Segmenter, tmp_path: Path, turned: bool) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=2, aspect=Fraction(16, 11))
    if turned:
        data = bytearray(clip.read_bytes())
        matrix = data.index(b"tkhd") + 4 + 40
        data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
        clip.write_bytes(data)
    list(segment_video(segmenter, clip, outputs(tmp_path)))
    with av.open(str(outputs(tmp_path)["overlay"])) as overlay:
        assert overlay.streams.video[0].sample_aspect_ratio == (Fraction(11, 16) if turned else Fraction(16, 11))


def test_the_legend_names_the_classes_of_the_whole_video(one_class: Segmenter, tmp_path: Path) -> None:
    from PIL import Image

    list(segment_video(one_class, draw_clip(tmp_path / "clip.mp4", frames=2), outputs(tmp_path)))
    with Image.open(outputs(tmp_path)["legend"]) as legend:
        assert legend.height > 64
        colors = np.asarray(legend)[64:].reshape(-1, 3)
    assert (np.abs(colors.astype(int) - (255, 0, 0)).max(axis=1) < 40).any()
    assert not (np.abs(colors.astype(int) - (0, 255, 0)).max(axis=1) < 40).any()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "scrambled"])
def test_a_broken_video_is_one_line_and_leaves_no_file(segmenter: Segmenter, tmp_path: Path, damage: str) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=30)
    data = bytearray(clip.read_bytes())
    if damage == "scrambled":
        data[48 : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 52)
    clip.write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "empty": b""}.get(damage, bytes(data)))
    (tmp_path / "out").mkdir()
    with pytest.raises((ValueError, OSError), match=r"clip\.mp4"):
        list(segment_video(segmenter, clip, outputs(tmp_path / "out")))
    assert not list((tmp_path / "out").iterdir())


def noise_clip(path: Path, frames: int = 60, codec: str = "libx264", **options: str) -> Path:
    """Frames of noise at 25 per second: about 3 kB each, so that damage hits them."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as sink:
        stream = sink.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(frames):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(random.integers(0, 256, (64, 96, 3), dtype=np.uint8))))
        sink.mux(stream.encode(None))
    return path


def test_a_cut_video_with_its_index_in_front_is_an_error(segmenter: Segmenter, tmp_path: Path) -> None:
    clip = noise_clip(tmp_path / "clip.mp4", movflags="+faststart")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"clip\.mp4 is damaged near 1\.\d s"):
        list(segment_video(segmenter, clip, outputs(tmp_path / "out"), batch=4))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damage", ["cut", "zeros", "noise"])
def test_a_matroska_video_that_ends_early_is_an_error(segmenter: Segmenter, tmp_path: Path, damage: str) -> None:
    clip = noise_clip(tmp_path / "clip.mkv")
    data = bytearray(clip.read_bytes())
    third = len(data) // 3
    if damage == "cut":
        data = data[: 2 * third]
    else:
        noise = np.random.default_rng(1).integers(0, 256, third, dtype=np.uint8).tobytes()
        data[third : 2 * third] = bytes(third) if damage == "zeros" else noise
    clip.write_bytes(data)
    with pytest.raises(ValueError, match=r"of 2\.4 s can be decoded"):
        list(segment_video(segmenter, clip, outputs(tmp_path)))


def test_frames_missing_in_the_middle_are_said_and_the_others_are_labelled(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    clip = noise_clip(tmp_path / "clip.mkv", cluster_time_limit="200")
    data = bytearray(clip.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    clip.write_bytes(data)
    with pytest.raises(ValueError, match=r"may be damaged: no frames for 1\.\d s after 0\.\d s; the others are"):
        list(segment_video(segmenter, clip, outputs(tmp_path)))
    _, times, frames = read_clip(outputs(tmp_path)["overlay"])
    assert 20 < len(frames) < 60 and times[-1] > 2 and outputs(tmp_path)["legend"].exists()


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "mpeg4"), (".wmv", "wmv2")])
def test_a_frame_that_the_decoder_repaired_is_said_and_the_others_are_labelled(
    segmenter: Segmenter, tmp_path: Path, suffix: str, codec: str
) -> None:
    clip = noise_clip(tmp_path / f"clip{suffix}", codec=codec)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])  # ends within a frame
    with pytest.raises(ValueError, match=r"may be damaged: a damaged frame at 1\.\d s; the others are labelled"):
        list(segment_video(segmenter, clip, outputs(tmp_path)))
    assert 25 < len(read_clip(outputs(tmp_path)["overlay"])[2]) < 40 and outputs(tmp_path)["legend"].exists()


def test_joined_recordings_whose_packets_do_not_fit_are_labelled(segmenter: Segmenter, tmp_path: Path) -> None:
    clip = noise_clip(tmp_path / "clip.ts", codec="mpeg2video")
    clip.write_bytes(2 * clip.read_bytes())
    with pytest.raises(ValueError, match=r"may be damaged: a damaged frame at 2\.\d s; the others are labelled"):
        list(segment_video(segmenter, clip, outputs(tmp_path)))
    assert len(read_clip(outputs(tmp_path)["overlay"])[2]) > 110


def test_time_stamps_that_jump_back_continue_after_the_last_one(segmenter: Segmenter, tmp_path: Path) -> None:
    clip = noise_clip(tmp_path / "clip.mpg", codec="mpeg1video")
    clip.write_bytes(2 * clip.read_bytes())  # as `cat` joins recordings
    assert sum(segment_video(segmenter, clip, outputs(tmp_path), batch=7)) == 120
    _, times, _ = read_clip(outputs(tmp_path)["overlay"])
    assert len(times) == 120 and all(later > earlier for earlier, later in itertools.pairwise(times))
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < Fraction(1, 10)


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile 'other.mp4'\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nother.mp4\n"]
)
def test_a_playlist_that_names_another_video_is_not_read(
    segmenter: Segmenter, tmp_path: Path, name: str, text: str
) -> None:
    draw_clip(tmp_path / "other.mp4")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} is not a video that can be read"):
        list(segment_video(segmenter, tmp_path / name, outputs(tmp_path)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.mpg", "a.ts", "a.wmv"])
def test_usual_containers_are_read(segmenter: Segmenter, tmp_path: Path, name: str) -> None:
    codec = {"a.mpg": "mpeg2video", "a.wmv": "wmv2", "a.avi": "mpeg4"}.get(name, "libx264")
    path = noise_clip(tmp_path / name, 8, codec)
    assert sum(segment_video(segmenter, path, outputs(tmp_path))) == 8


def test_an_error_of_the_output_is_not_blamed_on_the_video(segmenter: Segmenter, tmp_path: Path) -> None:
    from test_file_faults import disk_of

    clip = noise_clip(tmp_path / "clip.mp4")
    (tmp_path / "out").mkdir()
    for size in (0, 10_000, 100_000):
        with disk_of(size), pytest.raises(OSError, match=r"clip\.overlay\.mp4 cannot be written \(File too large\)"):
            list(segment_video(segmenter, clip, outputs(tmp_path / "out"), batch=4))
        assert not list((tmp_path / "out").iterdir())


def test_without_pyav_the_error_says_what_to_install(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r'pip install "cgrseg\[video\]"'):
        list(segment_video(segmenter, tmp_path / "clip.mp4", outputs(tmp_path)))
