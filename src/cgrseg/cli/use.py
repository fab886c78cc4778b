"""Using a model: `cgrseg predict` and `cgrseg info`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from cgrseg._text import printable, table
from cgrseg.inference.modes import Mode

from ._common import Weights, check_folder, check_weights, parse_size, split_commas

if TYPE_CHECKING:
    from cgrseg.description import Description
    from cgrseg.inference.pipeline import Job
    from cgrseg.labels import LabelSpace
    from cgrseg.measure.complexity import Cost


def predict(
    sources: list[str],
    /,
    *,
    weights: Weights,
    out: Annotated[str, Parameter(metavar="FOLDER")],
    save: Annotated[list[str] | None, Parameter(metavar="KIND...")] = None,
    mode: Mode = "whole",
    window: int = 512,
    batch: PositiveInt = 1,
    short_side: int | None = None,
    threshold: float = 0.0,
    classes: Annotated[list[str] | None, Parameter(metavar="CLASS...")] = None,
    tolerance: float = 1.0,
    palette: Literal["weights", "distinct"] = "weights",
    device: str = "auto",
    bf16: bool = False,
    resume: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: PositiveInt | None = None,
) -> int:
    """Label images and videos.

    For photo.jpg it writes photo.overlay.jpg (the classes over the image, with a legend) and photo.mask.png (class
    ids, with the class colours as palette); for clip.mp4 it writes clip.overlay.mp4 and clip.legend.jpg. Sub-folders
    are kept. Files are written atomically. Files that cannot be labelled are listed at the end, and the exit code is
    then 1.

    Example: `cgrseg predict photos/ --weights cgrseg_lite-voc21 --out labelled`

    Example: `cgrseg predict photos/ --weights cgrseg_lite-voc21 --out out --save cutout --classes person`

    Example: `cgrseg predict photos/ --weights cgrseg_lite-voc21 --out out --save coco,csv --threshold 0.6`

    Args:
        sources: images, videos, folders (with sub-folders) or quoted globs; with --engine ray also URLs, Parquet
            tables with a column path, or name and bytes, and WebDataset tars
        weights: a weights file, the name of bundled weights, hf:USER/NAME, or a file of `cgrseg export`
        out: output folder
        save: outputs of an image: overlay, mask, outline (lines around the classes), cutout (some classes on a
            transparent background), geojson (polygons), confidence (white is certain); one file per folder: coco
            (annotations.coco.json), csv (shares.csv, a row per image); with --engine ray parquet (a table of masks,
            shares and confidence); default: overlay mask
        mode: whole image; slide (overlapping windows, for large images), slide-cosine (windows weighted towards
            their centre), scales (average over six scales) or tta (scales and flips: most accurate, slowest)
        window: side of the windows in pixels
        batch: images of equal size that are processed together; more than 1 helps on a GPU
        short_side: shorter side in pixels that images are resized to for the network, 0 for no resizing; default:
            as stored in the weights. Outputs have the size of the image
        threshold: pixels with a lower confidence, 0 to 1, are unknown: in masks they get the ignored value (255)
        classes: names or ids of the classes for cutout, geojson and coco; default: all, for cutout all but background
        tolerance: how many pixels polygons may differ from the mask, so that they have fewer corners; 0: exact
        palette: colours as stored in the weights, or distinct ones, also for colour-blind people
        device: auto, cpu, cuda or cuda:N
        bf16: compute in bfloat16: faster, a few labels change; an error if the device has none
        resume: keep existing outputs and make those that are missing or damaged
        engine: local, or ray for the machines of a Ray cluster
        workers: number of models of --engine ray, each on a core or a GPU; default: as many as fit
    """
    kinds = split_commas(["overlay", "mask"] if save is None else save)
    check_weights(weights)
    if engine == "ray":
        _check_kinds(kinds, more=("parquet",))
        given = {"--bf16": bf16, f"--mode {mode}": mode != "whole", "--threshold": threshold, "--classes": classes}
        given |= {"--tolerance": tolerance != 1, "--palette": palette != "weights"}
        if local := next((option for option, value in given.items() if value), None):
            raise ValueError(f"{local} needs --engine local")
        return _predict_on_cluster(sources, weights, out, kinds, batch, short_side, device, resume, workers)
    if workers is not None:
        raise ValueError(f"--workers {workers} belongs to --engine ray: add it, or leave out --workers")
    from cgrseg.inference.sources import FOLDER_OUTPUTS, find_sources

    _check_kinds(kinds, more=tuple(FOLDER_OUTPUTS))

    check_folder(Path(out))
    found = find_sources(sources, out=Path(out), on_skipped=_say)
    videos = [source for source in found if source.is_video]
    if videos and "overlay" not in kinds:
        raise ValueError(f"{videos[0].path} is a video, which only has an overlay: add overlay to --save")
    jobs: list[Job] = [(source, source.outputs(kinds)) for source in found]

    from cgrseg._process import busy, fast_imports
    from cgrseg._progress import progress_bar

    with fast_imports():
        from cgrseg.images.cutout import cutout_classes
        from cgrseg.inference.collected import CollectedFiles, check_owned
        from cgrseg.inference.outputs import OutputOptions
        from cgrseg.inference.pipeline import collected_paths, segment_files, unfinished
        from cgrseg.inference.segmenter import Segmenter
        from cgrseg.inference.video import require_pyav

    if videos:
        require_pyav()
    check_owned(collected_paths(jobs))
    settings: dict[str, Any] = {"mode": mode, "window": window, "short_side": short_side, "bf16": bf16}
    segmenter = Segmenter(weights, device=device, threshold=threshold, palette=palette, **settings)
    options = OutputOptions(classes and _class_ids(classes, segmenter.labels), tolerance)
    if "cutout" in kinds:
        cutout_classes(segmenter.labels, options.classes)
    collected = CollectedFiles(collected_paths(jobs), segmenter.labels, keep=resume)
    if resume:
        jobs = unfinished(jobs)

    images, problems, start = 0, [], time.perf_counter()
    progress = progress_bar(total=None if videos else len(jobs), unit="image", disable=not jobs)
    with collected, progress as progress:
        for done, problem in segment_files(segmenter, jobs, batch=batch, options=options, collected=collected):
            images += done
            progress.set_postfix_str(busy(), refresh=False)
            progress.update(done if problem is None else 1)
            if problem is not None:
                problems.append(problem)
    kept = f", {len(found) - len(jobs)} of {len(found)} sources were already done" if resume else ""
    return _report(images, time.perf_counter() - start, problems, f"{out}{kept}")


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _report(images: int, seconds: float, problems: list[str], where: str) -> int:
    """Print what failed and how fast it was; returns the exit code."""
    for problem in problems:
        print(f"failed: {printable(problem)}", file=sys.stderr)
    seconds = max(seconds, 1e-9)
    count = f"{images} image{'s' * (images != 1)}"
    rate = f" ({images / seconds:.1f} images/s) -> {where}" if images or not problems else ""
    print(printable(f"{count} in {seconds:.1f} s{rate}"))
    return 1 if problems else 0


def _predict_on_cluster(
    sources: list[str],
    weights: Weights,
    out: str,
    kinds: list[str],
    batch: int,
    short_side: int | None,
    device: str,
    resume: bool,
    workers: int | None,
) -> int:
    try:
        from cgrseg.cluster import label_on_cluster
    except ModuleNotFoundError as error:
        raise ValueError(f'--engine ray needs {error.name}: pip install "cgrseg[cluster]"') from error
    from cgrseg._progress import progress_bar

    start = time.perf_counter()
    with progress_bar(unit="image") as progress:
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
            on_skipped=_say,
        )
    problems = list(summary.errors)
    if more := summary.failed - len(problems):
        problems.append(f"{more} more, see {out}/manifest")
    kept = f", {summary.there} were already done" if resume else ""
    return _report(summary.photos, time.perf_counter() - start, problems, f"{out}{kept}")


def _class_ids(classes: list[str], labels: LabelSpace) -> list[int]:
    """Classes joined by commas, or names that contain commas."""
    return labels.find(
        [part for name in classes for part in ([name] if name in labels.names else split_commas([name]))]
    )


def _check_kinds(kinds: list[str], more: tuple[str, ...] = ()) -> None:
    from cgrseg.inference.sources import PHOTO_OUTPUTS

    known = (*PHOTO_OUTPUTS, *more)
    for kind in kinds or [""]:
        if kind not in known:
            raise ValueError(f"--save: {kind!r} is not an output: choose from {', '.join(known)}")


def info(name: str, /, *, size: str = "512x512", num_classes: PositiveInt = 150) -> None:
    """Print the size, cost and content of a model.

    Prints parameters, operations as counted in the paper (its "FLOPs") and true multiply-adds of each part, beside
    the paper's numbers; of a weights file also its classes, preprocessing and card.

    Example: `cgrseg info cgrseg_lite-voc21`

    Args:
        name: a model such as cgrseg_t, a weights file (.safetensors), or the name of bundled weights
        size: height and width of the image that operations are counted for
        num_classes: number of classes of a model given by name
    """
    shape = parse_size(size)
    check_weights(name)

    import torch

    from cgrseg.measure.complexity import complexity
    from cgrseg.nn import VARIANTS, build
    from cgrseg.weights.load import list_weights, load

    stored = name not in VARIANTS and (Path(name).suffix != "" or Path(name).exists() or name in list_weights())
    if stored:
        model = load(name, device="cpu")
    else:
        with torch.device("meta"):  # shapes without values
            model = build(name, num_classes=num_classes)
    cost = complexity(model, shape)
    spec = model.spec
    print(f"{printable(name)}: {spec.name} on {spec.backbone}, {spec.num_classes} classes, image of {size}\n")
    rows = [("part", "parameters M", "paper's counter G", "true MACs G")]
    rows += [_cost_row(part, each) for part, each in cost.parts.items()] + [_cost_row("total", cost.total)]
    paper, note = _paper_row(model.description)
    print(table([*rows, *paper]), note, sep="\n\n")
    if stored:
        print(f"\n{_contents(model.description)}")


def _cost_row(part: str, cost: Cost) -> tuple[str, str, str, str]:
    return part, f"{cost.parameters / 1e6:.4f}", f"{cost.paper_flops / 1e9:.4f}", f"{cost.macs / 1e9:.4f}"


def _paper_row(description: Description) -> tuple[list[tuple[str, str, str, str]], str]:
    """The paper's own numbers of an architecture, if it has any, and a line about them."""
    from dataclasses import replace

    from cgrseg.nn import VARIANTS
    from cgrseg.paper.published import published

    spec = description.spec
    row = next((row for row in published()[0].rows if row.ours == {"model": spec.name}), None)
    if row is None:
        return [], f"{spec.name} is not in the paper"
    variant = VARIANTS[spec.name]
    free = ("num_classes", "dropout", "drop_path", "bias_mode")  # these do not change the architecture
    if replace(spec, **{field: getattr(variant, field) for field in free}) != variant:
        return [], f"its architecture differs from the paper's {spec.name}"
    return [("paper", str(row.params_m), str(row.flops_g), "")], "paper: its Table 1, for 512x512 and 150 classes"


def _contents(description: Description) -> str:
    """Classes with their colours, preprocessing and card of a weights file."""
    labels = description.labels
    digits, longest = len(str(len(labels) - 1)), max(map(len, labels.names))
    lines = [f"classes: {len(labels)}, {labels.ignore_index} is ignored"]
    for index, (name, (red, green, blue)) in enumerate(zip(labels.names, labels.colors, strict=True)):
        lines.append(f"  {index:>{digits}}  {name:<{longest}}  #{red:02x}{green:02x}{blue:02x}")
    lines += ["", "preprocessing:", *_lines(description.preprocessing.to_dict())]
    lines += ["", "card:", *_lines(description.card)]
    return "\n".join(map(printable, lines))


def _lines(values: dict[str, Any], indent: str = "  ") -> list[str]:
    """Nested values as indented lines of at most 100 characters."""
    from textwrap import wrap

    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, f"{indent}  ")]
        else:
            lines += wrap(f"{key}: {value}", 100, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return lines
