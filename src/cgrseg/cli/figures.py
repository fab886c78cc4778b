"""`cgrseg figures`: the paper's figures from published numbers, your measurements and your weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FIGURES = ("frontier", "attention", "classes", "predictions")


def figures(
    what: list[str],
    *,
    weights: str | None = None,
    peer: str | None = None,
    layer: str = "context.2",
    channel: int | None = None,
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path = Path("outputs/figures"),
    device: str = "auto",
) -> None:
    """Draw a figure of the paper, as PNG and SVG.

    "frontier" is Figure 1, mIoU over operations as published, with what --scores and --speed measured marked
    apart. "attention PHOTO" is Figure 3: what one RCA sees, stage by stage. "classes PHOTO" goes with Figure 4:
    the class embedding as bars. "predictions PHOTO ..." is Figure 5: photo, truth, --weights and --peer; the
    photos lie in images/SPLIT of a dataset folder, so that their masks are found.

    Args:
        what: frontier, attention, classes or predictions, then its photos
        weights: a weights file, or the name of weights that come with cgrseg
        peer: the other weights of Figure 5
        layer: of Figure 3: context.0, context.1, … (coarse), reconstruction.0, .1 or .2 (strides 8, 16, 32)
        channel: of Figure 3: one channel; default: the mean over all
        scores: a folder with reports of `cgrseg val --out`
        speed: benchmark.json of `cgrseg benchmark`
        out: folder for the pictures
        device: auto, cpu, cuda or cuda:N
    """
    name, photos = what[0], what[1:]
    if name not in FIGURES:
        raise ValueError(f"no figure {name!r}: choose from {', '.join(FIGURES)}")
    if name == "frontier" and photos:
        raise ValueError(f"frontier takes no photo: leave out {photos[0]}")
    if name != "frontier" and (weights is None or not photos):
        raise ValueError(f"{name} needs a photo and weights: cgrseg figures {name} PHOTO --weights FILE")
    if name in ("attention", "classes") and len(photos) > 1:
        raise ValueError(f"{name} draws one photo: leave out {photos[1]}")
    if name == "predictions" and peer is None:
        raise ValueError("predictions compares two models: add --peer FILE")

    from cgrseg.paper import figures as draw

    if name == "frontier":
        from cgrseg.paper.tables import read_scores, read_speeds

        measured = [*(read_scores(scores) if scores else []), *(read_speeds(speed) if speed else [])]
        figure, stem = draw.frontier(measured), "frontier"
    elif name == "predictions":
        figure, stem = _predictions(photos, [str(weights), str(peer)], device), "predictions"
    else:
        figure, stem = _look(name, photos[0], str(weights), layer, channel, device), f"{name}.{Path(photos[0]).stem}"
        stem += f".{layer}" if name == "attention" else ""
    for path in draw.save(figure, out, stem):
        print(path)


def _look(name: str, photo: str, weights: str, layer: str, channel: int | None, device: str) -> Any:
    import cgrseg
    from cgrseg.images.photos import read_photo
    from cgrseg.paper import figures as draw
    from cgrseg.paper.attention_maps import attention_stages, class_embedding

    model = cgrseg.load(weights, device)
    pixels = read_photo(photo)
    if name == "attention":
        return draw.attention(pixels, attention_stages(model, pixels, layer, channel=channel), layer)
    embedding = class_embedding(model, pixels)
    segmentation = cgrseg.Segmenter(model)(pixels)
    return draw.classes(embedding, segmentation.label_space, segmentation.areas())


def _predictions(photos: list[str], weights: list[str], device: str) -> Any:
    import numpy as np

    import cgrseg
    from cgrseg.paper import figures as draw

    from .val import refuse_other_classes

    segmenters = [cgrseg.Segmenter(one, device=device) for one in weights]
    labels, rows = segmenters[0].labels, []
    refuse_other_classes(labels, segmenters[1].labels, weights=weights[0], data=Path(weights[1]))
    for photo in photos:
        samples, index = _labelled(Path(photo))
        refuse_other_classes(labels, samples.labels, weights=weights[0], data=Path(photo).parent)
        picture, mask = samples.read(index)
        rows.append((np.asarray(picture), np.asarray(mask), *(segmenter(picture).labels for segmenter in segmenters)))
    return draw.predictions(rows, labels, [Path(one).stem for one in weights])


def _labelled(photo: Path) -> tuple[Any, int]:
    """The split that a photo of a dataset folder belongs to, and its place there."""
    from cgrseg.data.listing import open_dataset

    if not photo.is_file():
        raise FileNotFoundError(f"no photo at {photo}")
    folders = photo.resolve().parents
    if len(folders) < 3 or folders[1].name != "images":
        raise ValueError(f"{photo} does not lie in images/SPLIT of a dataset folder: its mask can't be found")
    samples = open_dataset(folders[2], folders[0].name, "folder")
    names = [samples.name(index) for index in range(len(samples))]
    return samples, names.index(photo.name)
