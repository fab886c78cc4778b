"""`cgrseg predict` labels all it is given, mirrors folders, survives broken files and keeps memory flat."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.inference import pipeline
from cgrseg.inference.pipeline import Job, segment_files
from cgrseg.inference.predictor import Prediction, Predictor, Prepared
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.sources import Source, find_sources
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=3)
    torch.nn.init.normal_(model.head.classifier.weight)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    artifact.save(model, path, labels=LabelSpace(names=("sky", "road", "tree"), colors=COLORS))
    return path


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter(weights, device="cpu")


@pytest.fixture
def predict(weights: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the command with output folder `out`."""

    def run(*arguments: object, out: Path = tmp_path / "out") -> int:
        options = ["--weights", str(weights), "--out", str(out), "--device", "cpu"]
        return main(["predict", *map(str, arguments), *options])

    return run


def draw(path: Path, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    blocks = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs(*names: str) -> set[str]:
    return {f"{name}.{kind}" for name in names for kind in ("overlay.jpg", "mask.png")}


def test_a_folder_is_mirrored_with_an_overlay_and_a_mask_a_photo(
    tmp_path: Path, predict: Callable[..., int], segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [draw(tmp_path / "in" / name) for name in ("a.png", "x/b.PNG", "x/y/c.tif")]
    (tmp_path / "in" / "notes.txt").write_text("not a photo")
    draw(tmp_path / "in" / ".hidden.png")
    assert predict(tmp_path / "in") == 0
    assert files(tmp_path / "out") == outputs("a", "x/b", "x/y/c")
    assert "3 images in" in capsys.readouterr().out
    for photo, name in zip(photos, ("a", "x/b", "x/y/c"), strict=True):
        expected = segmenter(photo)
        with Image.open(tmp_path / "out" / f"{name}.mask.png") as mask:
            assert mask.mode == "P" and mask.getpalette()[:9] == [channel for color in COLORS for channel in color]
            np.testing.assert_array_equal(np.asarray(mask), expected.labels)
        with Image.open(tmp_path / "out" / f"{name}.overlay.jpg") as overlay:
            difference = np.asarray(overlay).astype(int) - np.asarray(expected.overlay())
            assert overlay.height > 40 and np.abs(difference).mean() < 6


def test_save_chooses_what_is_written(tmp_path: Path, predict: Callable[..., int], segmenter: Segmenter) -> None:
    photo = draw(tmp_path / "a.png")
    assert predict(photo, "--save", "confidence,mask") == 0
    assert files(tmp_path / "out") == {"a.confidence.png", "a.mask.png"}
    with Image.open(tmp_path / "out" / "a.confidence.png") as picture:
        assert np.abs(np.asarray(picture) / 255 - segmenter(photo).confidence()).max() < 0.01


def test_batches_of_mixed_sizes_give_each_photo_its_own_mask(tmp_path: Path, predict: Callable[..., int]) -> None:
    sizes = [(48, 40), (96, 40), (40, 96)]
    for i in range(9):
        draw(tmp_path / "in" / f"{i}.png", sizes[i % 3])
    assert predict(tmp_path / "in", "--batch", 2, "--save", "mask", "--short-side", 32) == 0
    for i in range(9):
        with Image.open(tmp_path / "out" / f"{i}.mask.png") as mask:
            assert mask.size == sizes[i % 3]


def test_names_that_would_fall_together_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg", "B.png", "sub/a.jpg"):
        draw(tmp_path / name)
    found = find_sources([str(tmp_path)], out=tmp_path / "out")
    names = [source.output.relative_to(tmp_path / "out").as_posix() for source in found]
    assert sorted(names) == ["B.png", "a.jpg", "a.jpg.png", "a.png", "b.jpg", "sub/a"]


def test_several_sources_are_mirrored_below_what_they_share_and_each_file_counts_once(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "two/a.jpg", "two/deep/b.jpg"):
        draw(tmp_path / name)
    patterns = [tmp_path / "two", tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg"]
    found = find_sources([str(pattern) for pattern in patterns], out=tmp_path / "out")
    assert [source.output.relative_to(tmp_path / "out").as_posix() for source in found] == [
        "one/a",
        "two/a",
        "two/deep/b",
    ]


def test_a_glob_is_mirrored_below_its_first_wildcard(tmp_path: Path) -> None:
    for name in ("day/1/a.jpg", "day/2/a.jpg", "day/2/a.txt", "night/1/a.jpg"):
        draw(tmp_path / name) if name.endswith("jpg") else (tmp_path / name).write_text("")
    found = find_sources([str(tmp_path / "day" / "*" / "a.*")], out=tmp_path / "out")
    assert [source.output.relative_to(tmp_path / "out").as_posix() for source in found] == ["1/a", "2/a"]


@pytest.mark.parametrize("out", ["in/out", "in", "."])
def test_its_own_outputs_are_never_sources(tmp_path: Path, predict: Callable[..., int], out: str) -> None:
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "in" / "b.png")
    for _ in range(2):
        assert predict(tmp_path / "in", out=tmp_path / out) == 0
    assert files(tmp_path) - {"in/a.png", "in/in/b.png"} == {
        (Path(out) / name).as_posix() for name in outputs("a", "in/b")
    }


def test_resume_writes_what_is_missing_or_damaged_and_leaves_the_rest(
    tmp_path: Path, predict: Callable[..., int]
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / "in" / name)
    assert predict(tmp_path / "in") == 0
    out = tmp_path / "out"
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "a.mask.png").write_bytes(b"")
    (out / "a.overlay.jpg").write_bytes(whole["a.overlay.jpg"][:-200])  # of a full disk
    (out / "b.mask.png").unlink()
    Image.new("RGB", (8, 8)).save(out / "b.overlay.jpg")
    mine, stamp = (out / "b.overlay.jpg").read_bytes(), (out / "c.mask.png").stat().st_mtime_ns
    assert predict(tmp_path / "in", "--resume") == 0
    assert (out / "b.overlay.jpg").read_bytes() == mine
    assert (out / "c.mask.png").stat().st_mtime_ns == stamp
    for name in ("a.mask.png", "a.overlay.jpg", "b.mask.png"):
        assert (out / name).read_bytes() == whole[name]
    assert predict(tmp_path / "in") == 0
    assert (out / "b.overlay.jpg").read_bytes() == whole["b.overlay.jpg"]  # without --resume all is written again


def test_resume_with_nothing_left_to_do_succeeds(tmp_path: Path, predict: Callable[..., int]) -> None:
    draw(tmp_path / "a.png")
    assert predict(tmp_path / "a.png") == 0
    assert predict(tmp_path / "a.png", "--resume") == 0


def test_broken_files_are_reported_at_the_end_and_do_not_stop_the_rest(
    tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "d.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    (tmp_path / "in" / "c.jpg").write_bytes(draw(tmp_path / "whole.jpg").read_bytes()[:500])
    assert predict(tmp_path / "in", "--batch", 2) == 1
    assert files(tmp_path / "out") == outputs("a", "d")
    printed = capsys.readouterr()
    reports = [line for line in printed.err.splitlines() if "failed" in line]
    assert len(reports) == 2 and "b.jpg is empty" in reports[0] and "c.jpg is damaged" in reports[1]
    assert "2 images in" in printed.out


def test_a_write_that_fails_leaves_no_half_file_and_the_old_one(
    tmp_path: Path,
    predict: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw(tmp_path / "in" / "a.png", (64, 64))
    draw(tmp_path / "in" / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.mask.png").write_bytes(b"old")
    write, write_bytes, of_a = pipeline._write, Path.write_bytes, threading.local()  # b may be written meanwhile

    def fails_for_a(result: Segmentation, job: Job, **options: Any) -> None:
        of_a.now = job[0].path.name == "a.png"
        write(result, job, **options)

    def disk_full(self: Path, data: bytes) -> int:
        if not of_a.now:
            return write_bytes(self, data)
        with open(self, "wb") as file:
            file.write(data[:20])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    monkeypatch.setattr(pipeline, "_write", fails_for_a)
    assert predict(tmp_path / "in", "--save", "mask") == 1
    assert files(tmp_path / "out") == {"a.mask.png", "b.mask.png"}
    assert (tmp_path / "out" / "a.mask.png").read_bytes() == b"old"
    error = capsys.readouterr().err
    assert "a.png" in error and "No space left on device" in error


def test_a_photo_too_large_for_the_memory_stops_nothing(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / "in" / name)
    whole = Predictor._whole

    def once(self: Predictor, group: Sequence[Prepared]) -> list[Prediction]:
        monkeypatch.setattr(Predictor, "_whole", whole)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")

    monkeypatch.setattr(Predictor, "_whole", once)
    jobs = [(source, source.outputs()) for source in find_sources([str(tmp_path / "in")], out=tmp_path / "out")]
    outcomes = list(segment_files(segmenter, jobs))
    assert sum(done for done, _ in outcomes) == 1
    (problem,) = [problem for _, problem in outcomes if problem]
    assert problem.startswith(f"{tmp_path / 'in' / 'a.png'}: 1 x 64 x 64 pixels need more memory")


def test_reading_and_writing_go_on_while_the_network_runs(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [draw(tmp_path / "in" / f"{i}.png") for i in range(60)]
    second_read, second_run, reads = threading.Event(), threading.Event(), []
    prepare, run, write = Segmenter.prepare, Segmenter.run, pipeline._write

    def watched_prepare(self: Segmenter, photo: Path) -> Prepared:
        reads.append(photo)
        if photo == photos[1]:
            second_read.set()
        return prepare(self, photo)

    def watched_run(self: Segmenter, group: Sequence[Prepared]) -> list[Segmentation]:
        assert second_read.wait(20), "the second photo is not read while the first is in the network"
        if len(runs) == 1:
            second_run.set()
        runs.append(len(reads))
        return run(self, group)

    def watched_write(*arguments: Any, **options: Any) -> None:
        assert second_run.wait(20), "the network waits until the first photo is written"
        write(*arguments, **options)

    runs: list[int] = []
    monkeypatch.setattr(Segmenter, "prepare", watched_prepare)
    monkeypatch.setattr(Segmenter, "run", watched_run)
    monkeypatch.setattr(pipeline, "_write", watched_write)
    jobs = [(source, source.outputs(["mask"])) for source in find_sources([str(tmp_path / "in")], out=tmp_path / "out")]
    assert all(problem is None for _, problem in segment_files(segmenter, jobs))
    assert runs[0] < 30  # but it does not read all of a folder at once


def test_on_a_cpu_photos_go_through_the_network_abreast_and_get_the_same_masks(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        draw(tmp_path / "in" / f"{number}.png", (70 + 9 * number, 64))
    jobs = [(source, source.outputs(["mask"])) for source in find_sources([str(tmp_path / "in")], out=tmp_path / "out")]
    alone = {source.path.name: segmenter(source.path).labels for source, _ in jobs}
    run, both = Segmenter.run, threading.Barrier(2)

    def together(self: Segmenter, group: Sequence[Prepared]) -> list[Segmentation]:
        if len(started) < 2:
            started.append(torch.get_num_threads())
            both.wait(20)  # breaks, and fails the photo, if the second one waits for the first
        return run(self, group)

    started: list[int] = []
    monkeypatch.setattr(Segmenter, "run", together)
    torch.set_num_threads(2)
    try:
        assert [problem for _, problem in segment_files(segmenter, jobs) if problem] == []
        assert started == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for source, outputs in jobs:
        assert np.array_equal(np.asarray(Image.open(outputs["mask"])), alone[source.path.name])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory use from /proc")
def test_memory_is_flat_over_1000_photos(tmp_path: Path, weights: Path) -> None:
    photo = draw(tmp_path / "a.png", (256, 192))  # held on to, 800 of them are 170 MB
    jobs = []
    for i in range(1000):
        source = Source(path=photo, output=tmp_path / "out" / str(i % 20))
        jobs.append((source, source.outputs()))

    def megabytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    early = 0.0
    for done, outcome in enumerate(segment_files(Segmenter(weights, device="cpu", short_side=32), jobs, batch=16)):
        assert outcome == (1, None)
        if done == 200:
            early = megabytes()
    assert megabytes() - early < 50


def test_a_folder_may_hold_videos_too(
    tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    av = pytest.importorskip("av", reason="videos need PyAV: the extra `video`")
    draw(tmp_path / "in" / "a.png")
    with av.open(str(tmp_path / "in" / "clip.mp4"), "w") as sink:
        stream = sink.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8))
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    assert predict(tmp_path / "in") == 1
    assert files(tmp_path / "out") == outputs("a") | {"clip.overlay.mp4", "clip.legend.jpg"}
    printed = capsys.readouterr()
    assert "4 images in" in printed.out and "broken.mp4" in printed.err
    assert predict(tmp_path / "in" / "clip.mp4", "--save", "mask") == 2
    (tmp_path / "in" / "broken.mp4").unlink()
    stamp = (tmp_path / "out" / "clip.overlay.mp4").stat().st_mtime_ns
    assert predict(tmp_path / "in", "--resume") == 0
    assert (tmp_path / "out" / "clip.overlay.mp4").stat().st_mtime_ns == stamp


def test_a_video_without_pyav_says_what_to_install_before_anything_runs(
    tmp_path: Path,
    predict: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "clip.mp4").write_bytes(b"")
    assert predict(tmp_path / "in") == 2
    assert 'pip install "cgrseg[video]"' in capsys.readouterr().err
    assert not files(tmp_path / "out")
