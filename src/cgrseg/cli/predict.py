"""`cgrseg predict`: photos, folders, globs and videos in, overlays, masks and confidence pictures out."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal


def predict(
    sources: list[str],
    *,
    weights: str,
    out: str,
    save: str = "overlay,mask",
    batch: int = 1,
    short_side: int | None = None,
    device: str = "auto",
    bf16: bool = False,
    resume: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
) -> int:
    """Label photos and videos with trained weights.

    For photo.jpg it writes photo.overlay.jpg (the classes drawn over the photo, with a legend) and
    photo.mask.png (the class ids, with the class colours as palette); for clip.mp4 it writes
    clip.overlay.mp4 and clip.legend.jpg. Sub-folders are mirrored. Files appear whole or not at all. A file
    that can't be labelled is reported at the end and makes the exit code 1.

    Args:
        sources: photos, videos, folders (with their sub-folders) or quoted globs
        weights: a weights file, or the name of weights that come with cgrseg
        out: folder for the pictures
        save: what to write for each photo, joined by commas: overlay, mask, confidence (white is certain); with
            --engine ray also parquet, a table of masks, shares and confidence
        batch: photos of equal size that go through the network together; more suits a GPU
        short_side: resize photos for the network so that the shorter side has this many pixels, 0 for no
            resizing; default: what the weights say. What is written has the photo's own size
        device: auto, cpu, cuda or cuda:N
        bf16: let the network compute in bfloat16, where the device has it: faster, a few labels change
        resume: leave outputs that are already there, and label only what is missing
        engine: local, or ray for the machines of a Ray cluster; it takes photos, folders, globs, Parquet tables
            with a column path, or with name and bytes, and WebDataset tars, also by URL
        workers: models that --engine ray runs at once, each on a core or a GPU; default: as many as there is room
    """
    from cgrseg.inference.sources import find_sources

    if engine == "ray":
        kinds = _kinds(save, more=("parquet",))
        if bf16:
            raise ValueError("--bf16 belongs to --engine local: leave one of them out")
        return _predict_on_cluster(sources, weights, out, kinds, batch, short_side, device, resume, workers)
    if workers is not None:
        raise ValueError(f"--workers {workers} belongs to --engine ray: leave it out, or add that")
    kinds = _kinds(save)
    if batch < 1:
        raise ValueError(f"--batch is {batch}: it must be at least 1")
    found = find_sources(sources, out=Path(out))
    videos = [source for source in found if source.is_video]
    if videos and "overlay" not in kinds:
        raise ValueError(f"{videos[0].path} is a video, which gives only an overlay: add overlay to --save")
    _make_folder(Path(out))

    from tqdm import tqdm

    from cgrseg.inference.pipeline import label_all
    from cgrseg.inference.segmenter import Segmenter
    from cgrseg.inference.video import require_pyav

    if videos:
        require_pyav()
    segmenter = Segmenter(weights, device=device, short_side=short_side, bf16=bf16)
    jobs = [(source, source.outputs(kinds)) for source in found]
    if resume:
        jobs = [
            (source, {kind: path for kind, path in outputs.items() if not path.exists()}) for source, outputs in jobs
        ]
        jobs = [(source, outputs) for source, outputs in jobs if outputs]

    images, problems, start = 0, [], time.perf_counter()
    with tqdm(total=None if videos else len(jobs), unit="images", disable=not jobs) as progress:
        for done, problem in label_all(segmenter, jobs, batch=batch):
            images += done
            progress.update(done)
            if problem is not None:
                problems.append(problem)
    seconds = max(time.perf_counter() - start, 1e-9)

    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    there = f", {len(found) - len(jobs)} of {len(found)} sources were there already" if resume else ""
    print(f"{images} images in {seconds:.1f} s ({images / seconds:.1f} images/s) -> {out}{there}")
    return 1 if problems else 0


def _predict_on_cluster(
    sources: list[str],
    weights: str,
    out: str,
    kinds: list[str],
    batch: int,
    short_side: int | None,
    device: str,
    resume: bool,
    workers: int | None,
) -> int:
    for flag, value in (("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} is {value}: it must be at least 1")
    try:
        from cgrseg.cluster import label_on_cluster
    except ImportError as error:
        raise ValueError(f'--engine ray needs {error.name}: pip install "cgrseg[cluster]"') from error
    from tqdm import tqdm

    start = time.perf_counter()
    with tqdm(unit="images") as progress:
        summary = label_on_cluster(
            sources,
            weights=weights,
            out=out,
            kinds=kinds,
            batch=batch,
            short_side=short_side,
            device=device,
            workers=workers,
            resume=resume,
            progress=progress.update,
        )
    seconds = max(time.perf_counter() - start, 1e-9)
    for problem in summary.errors:
        print(f"failed: {problem}", file=sys.stderr)
    more = summary.failed - len(summary.errors)
    if more:
        print(f"failed: {more} more, see {out}/manifest", file=sys.stderr)
    there = f", {summary.there} were there already" if resume else ""
    rate = summary.photos / seconds
    print(f"{summary.photos} images in {seconds:.1f} s ({rate:.1f} images/s) -> {out}{there}")
    return 1 if summary.failed else 0


def _kinds(save: str, more: tuple[str, ...] = ()) -> list[str]:
    from cgrseg.inference.sources import PHOTO_OUTPUTS

    kinds = [kind.strip() for kind in save.split(",")]
    for kind in kinds:
        if kind not in (*PHOTO_OUTPUTS, *more):
            raise ValueError(f"--save {save}: {kind!r} can't be saved: choose from {','.join((*PHOTO_OUTPUTS, *more))}")
    return kinds


def _make_folder(out: Path) -> None:
    """Make sure now that outputs can be written, not after an hour of work."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"--out {out} can't be written to ({error.strerror}): name another folder") from error
