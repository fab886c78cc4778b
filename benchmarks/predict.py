"""The default way to predict, against PyTorch: `python benchmarks/predict.py PHOTOS --weights NAME`.

Images per second of a folder through `cgrseg predict`'s pipeline (decoding, network, label map, overlay, encoding) in
PyTorch and in the default runtime, and of the bare network in the default runtime over inputs that are prepared
already; then the seconds of new processes: `import torch`, and `cgrseg predict ONE.jpg` up to the written files. All
run in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from claims import store, times_as_fast

from cgrseg._process import keep_memory
from cgrseg.inference.pipeline import parallel_images, segment_files
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.sources import find_sources
from cgrseg.measure.interleave import clocked


def folder(segmenter: Segmenter, photos: list[str], out: Path) -> None:
    jobs = [(source, source.outputs(["overlay", "mask"])) for source in find_sources(photos, out=out)]
    problems = [problem for _, problem in segment_files(segmenter, jobs) if problem]
    assert not problems, problems[0]


def bare(segmenter: Segmenter, inputs: list[torch.Tensor]) -> None:
    parallel, network = parallel_images(segmenter), segmenter.predictor.network
    with ThreadPoolExecutor(parallel, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(network, inputs):
            pass


def process(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", help="files, folders or globs")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=240, help="of the photos, the first so many")
    parser.add_argument("--name", default="predict")
    options = parser.parse_args()
    keep_memory()
    photos = [str(source.path) for source in find_sources(options.photos, out=Path("out"))][: options.images]
    default, reference = Segmenter(options.weights), Segmenter(options.weights, runtime="torch")
    assert default.runtime == "openvino"
    prepared = [default.prepare(photo).image[None] for photo in photos]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        predict = ("-m", "cgrseg", "predict", photos[0], "--weights", options.weights, "--out", str(out / "one"))
        bare_segmenter = Segmenter(options.weights)
        bare_segmenter.predictor.network.set_streams(parallel_images(bare_segmenter))
        ways: dict[str, Callable[[], None]] = {
            "predict in torch": lambda: folder(reference, photos, out / "torch"),
            "predict": lambda: folder(default, photos, out / "default"),
            "bare network": lambda: bare(bare_segmenter, prepared),
            "import torch": lambda: process("-c", "import torch"),
            "predict one image": lambda: process(*predict),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.rounds + 1):
            for way, task in ways.items():
                taken = clocked(task)
                if turn:  # the first one fills caches
                    seconds[way].append(taken)
                    print(f"{way}: {taken:.2f} s", flush=True)
    rates = {
        f"{way} images/s": round(len(photos) / statistics.median(seconds[way]), 1)
        for way in ("predict in torch", "predict", "bare network")
    }
    starts = {f"{way} s": round(statistics.median(seconds[way]), 2) for way in ("import torch", "predict one image")}
    results = {
        "weights": options.weights,
        "images": len(photos),
        **rates,
        "predict, times as fast as in torch": times_as_fast(seconds["predict in torch"], seconds["predict"]),
        "predict, share of the bare network": times_as_fast(seconds["bare network"], seconds["predict"]),
        **starts,
        "predict one image, in units of import torch": times_as_fast(
            seconds["predict one image"], seconds["import torch"]
        ),
    }
    print(results)
    store(options.name, results)


if __name__ == "__main__":
    main()
