"""The paper: `cgrseg tables`, `figures` and `study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg._text import printable

from ._common import Weights, check_folder, check_same_classes, check_weights, parse_size

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
    listed at the end, with what differs. With --speed, the latencies follow Table 1, and how far the order of speed is
    the paper's.

    Example: `cgrseg tables --table 1`

    Args:
        table: number of one table, 1 to 10; default: all
        format: md, csv or html
        scores: a folder with reports of `cgrseg val --out`, or one scores.json
        speed: a benchmark.json of `cgrseg benchmark`
        out: a file to write to instead of printing
    """
    from cgrseg.images.files import write_file
    from cgrseg.paper.measured import read_512
    from cgrseg.paper.order import render as render_speed
    from cgrseg.paper.published import published
    from cgrseg.paper.tables import render, render_not_comparable

    chosen = [one for one in published() if table in (None, one.number)]
    if not chosen:
        raise ValueError(f"--table {table}: the paper has tables 1 to 10")
    measured = read_measured(scores, speed)
    texts = [render(one, measured, format) for one in chosen]
    if speed is not None and chosen[0].number == 1:
        texts.insert(1, render_speed(chosen[0], read_512(speed), format))
    text = "\n".join(texts) + render_not_comparable(chosen, measured, format)
    if out is None:
        print(text, end="")
    else:
        write_file(out, text)


def read_measured(scores: Path | None, speed: Path | None) -> Measured:
    from cgrseg.paper.measured import Measured, read_scores, read_speeds

    return Measured(read_scores(scores) if scores else [], read_speeds(speed) if speed else [])


def figures(
    figure: Literal["frontier", "architecture", "attention", "classes", "predictions"],
    /,
    *photos: str,
    weights: Weights | None = None,
    peer: Weights | None = None,
    model: str = "cgrseg_t",
    size: str = "512x512",
    layer: str = "context.2",
    channel: int | None = None,
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path = Path("outputs/figures"),
    device: str = "auto",
) -> None:
    """Draw a figure of the paper as PNG and SVG.

    frontier is Figure 1: mIoU over operations as published, and the measurements of --scores and --speed.
    architecture is Figure 2: the modules of --model or --weights, with names, channels and sizes for an image or
    --size. attention is Figure 3: the stages of one RCA for an image. classes belongs to Figure 4: the class embedding
    of an image, beside the shares of the label map. predictions is Figure 5: image, mask, --peer, --weights, and where
    the two differ; its images are in images/SPLIT of a dataset folder, so that their masks are found.

    Example: `cgrseg figures attention street.jpg --weights cgrseg_lite-voc21`

    Args:
        figure: the figure
        photos: its images
        weights: a weights file, or the name of bundled weights
        peer: the second weights of Figure 5
        model: for Figure 2: a model such as cgrseg_b or segnext_t, if there are no --weights
        size: for Figure 2: height and width of the image, if none is given
        layer: for Figure 3: context.0, context.1, … (coarse), reconstruction.0, .1 or .2 (strides 8, 16, 32)
        channel: for Figure 3: one channel; default: the mean over all
        scores: a folder with reports of `cgrseg val --out`
        speed: a benchmark.json of `cgrseg benchmark`
        out: output folder
        device: auto, cpu, cuda or cuda:N
    """
    if figure == "frontier" and photos:
        raise ValueError(f"frontier takes no image: leave out {photos[0]}")
    if figure in ("attention", "classes", "predictions") and (weights is None or not photos):
        raise ValueError(f"{figure} needs an image and weights: cgrseg figures {figure} PHOTO --weights FILE")
    if figure != "predictions" and len(photos) > 1:
        raise ValueError(f"{figure} draws one image: leave out {photos[1]}")
    if figure == "predictions" and peer is None:
        raise ValueError("predictions compares two models: add --peer FILE")
    check_weights(weights, peer)
    shape = list(parse_size(size))
    for photo in photos:
        if not Path(photo).is_file():
            raise FileNotFoundError(f"no image at {photo}")
    check_folder(out)

    import cgrseg
    from cgrseg.images.photos import read_photo
    from cgrseg.inference.network import Network
    from cgrseg.inference.predictor import Predictor
    from cgrseg.nn import build
    from cgrseg.paper import figures as draw
    from cgrseg.paper.architecture import architecture
    from cgrseg.paper.attention_maps import attention_stages, class_embedding
    from cgrseg.paper.frontier import frontier

    stem: str = figure
    if figure == "frontier":
        drawn = frontier(read_measured(scores, speed))
    elif figure == "predictions":
        drawn = _predictions(photos, [str(peer), str(weights)], device)
    elif figure == "architecture":
        network = build(model) if weights is None else cgrseg.load(weights, device)
        if photos:
            _, *shape = Predictor(Network.of(network)).prepare(read_photo(photos[0])).image.shape
        drawn = architecture(network, (shape[0], shape[1]))
        stem += f".{model if weights is None else Path(weights).stem}.{shape[0]}x{shape[1]}"
    else:
        network, pixels = cgrseg.load(str(weights), device), read_photo(photos[0])
        stem += f".{Path(photos[0]).stem}"
        if figure == "attention":
            drawn = draw.attention(pixels, attention_stages(network, pixels, layer, channel=channel), layer)
            stem += f".{layer}"
        else:
            segmentation = cgrseg.Segmenter(network)(pixels)
            drawn = draw.classes(class_embedding(network, pixels), segmentation.label_space, segmentation.areas())
    for path in draw.save(drawn, out, stem):
        print(printable(path))


def _predictions(photos: tuple[str, ...], weights: list[str], device: str) -> Figure:
    import numpy as np

    import cgrseg
    from cgrseg.images.bands import as_rgb
    from cgrseg.paper import figures as draw

    segmenters = [cgrseg.Segmenter(one, device=device) for one in weights]
    labels, rows = segmenters[0].labels, []
    check_same_classes(labels, segmenters[1].labels, weights=weights[0], data=Path(weights[1]))
    for photo in photos:
        samples, index = _find_sample(Path(photo))
        check_same_classes(labels, samples.labels, weights=weights[0], data=Path(photo).parent)
        picture, mask = samples.read(index)
        theirs, ours = (segmenter(picture).labels for segmenter in segmenters)
        rows.append((as_rgb(picture), np.asarray(mask), theirs, ours))
    return draw.predictions(rows, labels, [Path(one).stem for one in weights])


def _find_sample(photo: Path) -> tuple[Samples, int]:
    """The split of a dataset folder that an image belongs to, and its index there."""
    from cgrseg.data.listing import open_dataset

    folders = photo.resolve().parents
    if len(folders) < 3 or folders[1].name != "images":
        raise ValueError(f"{photo} is not in images/SPLIT of a dataset folder: its mask cannot be found")
    for split in dict.fromkeys((folders[0].name, "val")):  # a part of train may serve as val
        samples = open_dataset(folders[2], split, "folder")
        for index in range(len(samples)):
            if Path(samples.name(index)).name == photo.name:
                return samples, index
    raise ValueError(f"{photo} is in no pair of image and mask of {folders[2]}: name another image")


def study(
    study: Path, /, *, out: Path, data: str | None = None, device: str | None = None, workers: int | None = None
) -> int:
    """Train arms with several seeds and test claims.

    Trains every arm of a study with every seed, and prints for each claim: holds, does not hold, suggested, or
    undecided. A study file has one training configuration, the arms (what each changes in it), seeds and claims; see
    recipes/studies. Arms are compared seed by seed; p-values are corrected for the number of claims (Holm), and
    "suggested" means that only the uncorrected interval leaves 0 out. The same command continues a study that was
    stopped. --out gets study.md, study.csv, study.png, study.svg, and a run folder per arm and seed.

    Example: `cgrseg study recipes/studies/camvid-small.yaml --data camvid --out runs/study`

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
    if any(config.data is None for config in plan.arms.values()):
        raise ValueError(f"{study} names no dataset: add --data FOLDER")
    try:
        scores = run(plan, out, print)
    except Stopped as stop:
        print(printable(f"cgrseg: {stop}; the same command continues"), file=sys.stderr)
        return stop.exit_code
    print(f"\n{text_report(plan, scores)}", printable(f"in {out}"), sep="\n")
    return 0
