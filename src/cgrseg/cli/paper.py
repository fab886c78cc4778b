"""The paper: `cgrseg tables`, `figures` and `study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg._text import printable

from ._common import Weights, check_same_classes, check_weights, make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgrseg.data.dataset import Samples
    from cgrseg.paper.measured import Measured


def tables(
    *,
    table: int | None = None,
    format: Literal["md", "csv", "html"] = "md",
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print the paper's tables beside our own numbers.

    Parameters, operations by the paper's counter, and multiply-adds are counted at 512x512 and 150 classes. Speeds and
    mIoU are printed if they were measured with `cgrseg benchmark` and `cgrseg val`. A score counts for a row only if
    architecture, dataset, split, number of images and classes, mode and size are those of the row; other scores are
    listed at the end, with what differs.

    Example: `cgrseg tables --table 1`

    Args:
        table: number of one table, 1 to 10; default: all
        format: md, csv or html
        scores: a folder with reports of `cgrseg val --out`, or one scores.json
        speed: a benchmark.json of `cgrseg benchmark`
        out: a file to write to instead of printing
    """
    from cgrseg.images.files import write_file
    from cgrseg.paper.published import published
    from cgrseg.paper.tables import render, render_not_comparable

    chosen = [one for one in published() if table in (None, one.number)]
    if not chosen:
        raise ValueError(f"--table {table}: the paper has tables 1 to 10")
    measured = _measured(scores, speed)
    text = "\n".join(render(one, measured, format) for one in chosen) + render_not_comparable(chosen, measured, format)
    if out is None:
        print(text, end="")
    else:
        write_file(out, text)


def _measured(scores: Path | None, speed: Path | None) -> Measured:
    from cgrseg.paper.measured import Measured, read_scores, read_speeds

    return Measured(read_scores(scores) if scores else [], read_speeds(speed) if speed else [])


def figures(
    figure: Literal["frontier", "attention", "classes", "predictions"],
    /,
    *photos: str,
    weights: Weights | None = None,
    peer: Weights | None = None,
    layer: str = "context.2",
    channel: int | None = None,
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path = Path("outputs/figures"),
    device: str = "auto",
) -> None:
    """Draw a figure of the paper as PNG and SVG.

    frontier is Figure 1: mIoU over operations as published, and the measurements of --scores and --speed. attention
    is Figure 3: the stages of one RCA for an image. classes belongs to Figure 4: the class embedding of an image as
    bars. predictions is Figure 5: image, mask, --weights and --peer; its images are in images/SPLIT of a dataset
    folder, so that their masks are found.

    Example: `cgrseg figures attention street.jpg --weights cgrseg_t-ccp12`

    Args:
        figure: the figure
        photos: its images
        weights: a weights file, or the name of bundled weights
        peer: the second weights of Figure 5
        layer: for Figure 3: context.0, context.1, … (coarse), reconstruction.0, .1 or .2 (strides 8, 16, 32)
        channel: for Figure 3: one channel; default: the mean over all
        scores: a folder with reports of `cgrseg val --out`
        speed: a benchmark.json of `cgrseg benchmark`
        out: output folder
        device: auto, cpu, cuda or cuda:N
    """
    if figure == "frontier" and photos:
        raise ValueError(f"frontier takes no image: leave out {photos[0]}")
    if figure != "frontier" and (weights is None or not photos):
        raise ValueError(f"{figure} needs an image and weights: cgrseg figures {figure} PHOTO --weights FILE")
    if figure in ("attention", "classes") and len(photos) > 1:
        raise ValueError(f"{figure} draws one image: leave out {photos[1]}")
    if figure == "predictions" and peer is None:
        raise ValueError("predictions compares two models: add --peer FILE")
    check_weights(weights, peer)
    for photo in photos:
        if not Path(photo).is_file():
            raise FileNotFoundError(f"no image at {photo}")
    make_folder(out)

    from cgrseg.paper import figures as draw

    if figure == "frontier":
        drawn, stem = draw.frontier(_measured(scores, speed)), "frontier"
    elif figure == "predictions":
        drawn, stem = _predictions(photos, [str(weights), str(peer)], device), "predictions"
    elif figure == "attention":
        drawn = _attention(photos[0], str(weights), layer, channel, device)
        stem = f"attention.{Path(photos[0]).stem}.{layer}"
    else:
        drawn, stem = _classes(photos[0], str(weights), device), f"classes.{Path(photos[0]).stem}"
    for path in draw.save(drawn, out, stem):
        print(printable(path))


def _attention(photo: str, weights: str, layer: str, channel: int | None, device: str) -> Figure:
    import cgrseg
    from cgrseg.images.photos import read_photo
    from cgrseg.paper import figures as draw
    from cgrseg.paper.attention_maps import attention_stages

    pixels = read_photo(photo)
    return draw.attention(pixels, attention_stages(cgrseg.load(weights, device), pixels, layer, channel=channel), layer)


def _classes(photo: str, weights: str, device: str) -> Figure:
    import cgrseg
    from cgrseg.images.photos import read_photo
    from cgrseg.paper import figures as draw
    from cgrseg.paper.attention_maps import class_embedding

    pixels, model = read_photo(photo), cgrseg.load(weights, device)
    segmentation = cgrseg.Segmenter(model)(pixels)
    return draw.classes(class_embedding(model, pixels), segmentation.label_space, segmentation.areas())


def _predictions(photos: tuple[str, ...], weights: list[str], device: str) -> Figure:
    import numpy as np

    import cgrseg
    from cgrseg.paper import figures as draw

    segmenters = [cgrseg.Segmenter(one, device=device) for one in weights]
    labels, rows = segmenters[0].labels, []
    check_same_classes(labels, segmenters[1].labels, weights=weights[0], data=Path(weights[1]))
    for photo in photos:
        samples, index = _find_sample(Path(photo))
        check_same_classes(labels, samples.labels, weights=weights[0], data=Path(photo).parent)
        picture, mask = samples.read(index)
        first, second = (segmenter(picture).labels for segmenter in segmenters)
        rows.append((np.asarray(picture), np.asarray(mask), first, second))
    return draw.predictions(rows, labels, [Path(one).stem for one in weights])


def _find_sample(photo: Path) -> tuple[Samples, int]:
    """The split of a dataset folder that an image belongs to, and its index there."""
    from cgrseg.data.listing import open_dataset

    folders = photo.resolve().parents
    if len(folders) < 3 or folders[1].name != "images":
        raise ValueError(f"{photo} is not in images/SPLIT of a dataset folder: its mask cannot be found")
    samples = open_dataset(folders[2], folders[0].name, "folder")
    names = [samples.name(index) for index in range(len(samples))]
    return samples, names.index(photo.name)


def study(
    study: Path, /, *, out: Path, data: str | None = None, device: str | None = None, workers: int | None = None
) -> int:
    """Train arms with several seeds and test claims.

    Trains every arm of a study with every seed, and prints for each claim: holds, does not hold, suggested, or
    undecided. A study file has one training configuration, the arms (what each changes in it), seeds and claims; see
    recipes/studies. Arms are compared seed by seed; p-values are corrected for the number of claims (Holm), and
    "suggested" means that only the uncorrected interval leaves 0 out. The same command continues a study that was
    stopped. --out gets study.md, study.csv, study.png, study.svg, and a run folder per arm and seed.

    Example: `cgrseg study recipes/studies/camvid-small.yaml --out runs/study`

    Args:
        study: the study file (YAML)
        out: output folder
        data: the dataset's folder; default: as in the file
        device: auto, cpu, cuda or cuda:N; default: as in the file
        workers: data loading processes; default: as in the file
    """
    if not study.is_file():
        raise FileNotFoundError(f"no study file {study}: check the path")

    from cgrseg.paper.study import read_study, run, text_report
    from cgrseg.training.progress import Stopped

    given = {"data": data, "device": device, "workers": workers}
    plan = read_study(study, **{name: value for name, value in given.items() if value is not None})
    try:
        scores = run(plan, out, print)
    except Stopped as stop:
        print(printable(f"cgrseg: {stop}; the same command continues"), file=sys.stderr)
        return stop.exit_code
    print(f"\n{text_report(plan, scores)}", printable(f"in {out}"), sep="\n")
    return 0
