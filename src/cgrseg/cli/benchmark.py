"""`cgrseg benchmark`: how fast models are here, in turn under one clock, ours and others'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cgrseg._process import share_cores

if TYPE_CHECKING:
    from cgrseg.measure.candidates import Export, Target
    from cgrseg.nn import CGRSeg


def benchmark(
    contender: str,
    *,
    compare: list[str] | None = None,
    size: str = "512x512",
    rounds: int = 20,
    threads: int | None = None,
    num_classes: int = 150,
    photo: Path | None = None,
    max_batch: int = 16,
    device: str = "auto",
    out: Path = Path("outputs/benchmark"),
) -> int:
    """Measure models and files in turn: latency, throughput, memory, cold start, stages from photo to label map.

    A contender is NAME or NAME:HOW. NAME is a variant (cgrseg_t, segnext_t, …; random weights), a weights file, an
    exported file (.onnx, .xml, .pt2) or a peer (segformer_b0, segformer_b1, segformer_b2, maskformer_swin_t,
    mask2former_swin_t, deeplabv3plus_mobilenet_v2, deeplabv3plus_mobilenet_v2_d8, deeplabv3plus_r101; they need the
    extra "peers"). HOW is channels_last (what a Segmenter does; the default), fused, eager, naive (unfused in official
    bias mode; upsampling, softmax and argmax), compiled, onnx or openvino; peers run as eager, compiled or openvino.
    :bf16 behind it computes in bfloat16, openvino:int8 in 8 bits. Prints tables, and writes benchmark.json and
    benchmark.png.

    Args:
        contender: what the others are compared with
        compare: the others
        size: HEIGHTxWIDTH of the network's input
        rounds: how often each has its turn
        threads: CPU threads; default: as many as there are cores
        num_classes: of models with random weights
        photo: a photo to label, resized to --size; default: a sample of that size
        max_batch: the largest batch that is tried for throughput
        device: auto, cpu, cuda or cuda:N
        out: folder for benchmark.json and benchmark.png
    """
    share_cores()
    from .export import parse_size

    shape = parse_size(size)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    image = None if photo is None else _photo(photo)

    from cgrseg.measure import speed
    from cgrseg.measure.candidates import parse
    from cgrseg.measure.report import render, summary, write_chart, write_report
    from cgrseg.measure.stages import sample_photo
    from cgrseg.paper.published import speeds

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = speed.Settings(shape, rounds, cores if threads is None else threads, num_classes, device, max_batch)
    choices = [parse(text) for text in (contender, *(compare or []))]
    report = speed.benchmark(choices, settings, export=_exporter(shape, image or sample_photo(shape)), photo=image)
    write_report(report, out / "benchmark.json")
    write_chart(report, out / "benchmark.png")
    print(f"{summary(report)}\n\n{render(report, speeds())}\n{out / 'benchmark.json'}\n{out / 'benchmark.png'}")
    return 0


def _photo(path: Path) -> bytes:
    """The file's bytes, once it is known to be a photo."""
    from cgrseg.images.photos import read_photo

    read_photo(path)
    return path.read_bytes()


def _exporter(size: tuple[int, int], photo: bytes) -> Export:
    """How models are exported for this run: for its size alone, and compared with PyTorch at it where float."""
    from cgrseg.deploy.export import export
    from cgrseg.deploy.quantize import quantize_unproved

    def write(model: CGRSeg, runtime: Target, folder: Path, name: str, int8: bool) -> Path:
        if int8:
            (folder / "photo").write_bytes(photo)
            return quantize_unproved(model, folder / "photo", folder, name=name)
        (done,) = export(model, folder, name=name, formats=[runtime], size=size, batches=(1,))
        return done.path

    return write
