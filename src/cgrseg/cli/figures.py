"""The figures of the paper: `cgrseg figures`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg._text import printable

from ._common import Weights, check_same_classes, check_weights, make_folder, parse_size
from .paper import read_measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgrseg.data.dataset import Samples


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
    shape = parse_size(size)
    for photo in photos:
        if not Path(photo).is_file():
            raise FileNotFoundError(f"no image at {photo}")
    make_folder(out)

    from cgrseg.paper import figures as draw

    if figure == "frontier":
        from cgrseg.paper.frontier import frontier

        drawn, stem = frontier(read_measured(scores, speed)), "frontier"
    elif figure == "architecture":
        drawn, stem = _architecture(photos, weights, model, shape, device)
    elif figure == "predictions":
        drawn, stem = _predictions(photos, [str(peer), str(weights)], device), "predictions"
    elif figure == "attention":
        drawn = _attention(photos[0], str(weights), layer, channel, device)
        stem = f"attention.{Path(photos[0]).stem}.{layer}"
    else:
        drawn, stem = _classes(photos[0], str(weights), device), f"classes.{Path(photos[0]).stem}"
    for path in draw.save(drawn, out, stem):
        print(printable(path))


def _architecture(
    photos: tuple[str, ...], weights: str | None, model: str, size: Sequence[int], device: str
) -> tuple[Figure, str]:
    import cgrseg
    from cgrseg.images.photos import read_photo
    from cgrseg.inference.network import Network
    from cgrseg.inference.predictor import Predictor
    from cgrseg.nn import build
    from cgrseg.paper.architecture import architecture

    network = build(model) if weights is None else cgrseg.load(weights, device)
    if photos:
        _, *size = Predictor(Network.of(network)).prepare(read_photo(photos[0])).image.shape
    name = model if weights is None else Path(weights).stem
    return architecture(network, (size[0], size[1])), f"architecture.{name}.{size[0]}x{size[1]}"


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
    samples = open_dataset(folders[2], folders[0].name, "folder")
    names = [samples.name(index) for index in range(len(samples))]
    return samples, names.index(photo.name)
