"""Around a training: `cgrseg check-data`, `import-data`, `convert-masks` and `val`; `train` itself is in recipe.py."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from cgrseg._text import printable
from cgrseg.data.settings import Format, ImportFormat
from cgrseg.inference.modes import Mode

from ._common import Weights, check_folder, check_same_classes, check_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_data(
    folder: Path,
    /,
    *,
    format: Format = "folder",
    out: Path | None = None,
    limit: NonNegativeInt = 10,
    in_channels: PositiveInt = 3,
) -> int:
    """Find errors in a dataset before training.

    Opens every image and mask; prints counts, sizes, class shares, and each finding with file, value and cure. The
    exit code is 1 for errors that would ruin a training: images without a mask, unreadable files, masks of another
    size or in colours, ids outside the class list, images in several splits. Warnings (unused files, absent classes,
    smoothed masks, duplicates within a split) leave it 0.

    Example: `cgrseg check-data mydata --out mydata.png`

    Args:
        folder: the dataset's folder
        format: the dataset's format
        out: a PNG to write: images of each split beside their masks, with a legend
        limit: number of findings shown of each kind; 0 shows all
        in_channels: channels of the images: 3 for RGB, 1 for grey, or the number of bands
    """
    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} is not a PNG: use a name that ends in .png")

    from dataclasses import replace

    from cgrseg.data.check import inspect
    from cgrseg.data.contact_sheet import contact_sheet
    from cgrseg.data.listing import list_dataset
    from cgrseg.images.files import save_image

    splits = [] if out is None else list_dataset(folder, format).splits
    if out is not None and out.resolve() in {
        path.resolve() for split in splits for pair in split.pairs for path in pair
    }:
        raise ValueError(f"--out {out} is a file of the dataset: use another name")
    report = inspect(folder, format, channels=in_channels)
    print(report.text(limit=limit))
    if out is not None and report.labels is not None and any(split.pixels.any() for split in report.splits):
        save_image(contact_sheet([replace(split, channels=in_channels) for split in splits]), out)
        print(f"\ncontact sheet in {printable(out)}")
    return 1 if report.errors else 0


def convert_masks(
    source: Path,
    /,
    *,
    out: Path,
    classes: Path | None = None,
    unknown: Literal["refuse", "ignore", "nearest"] = "refuse",
    one_based: bool = False,
) -> int:
    """Convert masks in colours, or with ids from 1, to class ids.

    Reads masks that mark classes by colour (or grey level) and writes PNGs of class ids; sub-folders are kept. All
    masks are read before the first is written: if some do not fit, they are listed, nothing is written and the exit
    code is 1. Without a class list, black and white masks get the classes background and object; otherwise each
    colour that fills at least 2x2 pixels somewhere becomes a class. A classes.json to edit is then written beside the
    masks.

    Example: `cgrseg convert-masks colour-masks --out mydata/masks`

    Args:
        source: folder of the masks
        out: another folder; existing files are not overwritten
        classes: a classes.json with the colours; default: the one in the source folder or its parent, if any
        unknown: pixels whose colour is not in the list: refuse the mask, ignore these pixels (255 in the mask), or
            use the class of the nearest colour
        one_based: the masks have ids from 1: subtract 1, and ignore 0
    """
    from cgrseg.data.convert_masks import convert_masks

    done = convert_masks(source, out, classes=classes, unknown=unknown, one_based=one_based)
    if done.problems:
        print("\n".join(map(printable, done.problems)), file=sys.stderr)
        print(f"some of {done.masks} masks do not fit, nothing was written", file=sys.stderr)
        return 1
    share = f"{done.ignored:.2%} of the pixels ignored"
    print(printable(f"{done.masks} masks, {len(done.labels)} classes, {share} -> {out}"))
    if done.note:
        print(printable(done.note))
    if done.class_list is not None:
        print(printable(f"classes in {done.class_list}: edit the names, and put it beside images/ and masks/"))
    return 0


def import_data(
    source: Path,
    /,
    *,
    out: Path,
    from_: Annotated[ImportFormat | None, Parameter(name="--from")] = None,
    unlabeled: Literal["background", "ignore"] | None = None,
    skip_errors: bool = False,
    limit: NonNegativeInt = 10,
) -> int:
    """Turn the annotations of a labelling tool into a dataset.

    Recognises the format, prints what was found (classes, counts, how overlaps are resolved, what becomes of pixels
    without annotation), and writes photos, masks and classes.json to a new folder. If annotations have errors, they
    are listed, nothing is written and the exit code is 1.

    Example: `cgrseg import-data cvat-export --out mydata`

    Args:
        source: the folder that the tool exported, unpacked
        out: a new folder
        from_: the format, if the folder has several
        unlabeled: what pixels without annotation become; default: what is usual in the format
        skip_errors: leave out images whose annotations have errors
        limit: number of findings shown; 0 shows all
    """
    from cgrseg.data.importing.importer import check_out, find_annotations, write_dataset

    check_out(out, source)
    found = find_annotations(source, format=from_, unlabeled=unlabeled, skip_errors=skip_errors)
    print(found.text(), flush=True)
    problems = sorted(found.problems, key=lambda problem: not problem.is_error)
    shown = problems[: limit or None]
    for problem in shown:
        print(f"{'error' if problem.is_error else 'warning'}: {problem}", file=sys.stderr)
    if len(shown) < len(problems):
        print(f"… {len(problems) - len(shown)} more: --limit 0 shows all", file=sys.stderr)
    if found.errors:
        cure = "correct them, or leave these images out with --skip-errors"
        print(f"errors: {len(found.errors)}, nothing was written: {cure}", file=sys.stderr)
        return 1
    write_dataset(found, out)
    print(printable(f"written to {out}; next: cgrseg check-data {shlex.quote(str(out))}"))
    return 0


def val(
    *,
    weights: Weights,
    data: Path,
    format: Format = "folder",
    split: Literal["train", "val", "test"] | None = None,
    mode: Mode = "whole",
    tta: bool = False,
    window: int = 512,
    out: Path | None = None,
    device: str = "auto",
    bf16: bool = False,
) -> int:
    """Evaluate weights on a labelled split: mIoU per class.

    Scores at the size of each image. Prints IoU, accuracy, precision and boundary IoU of each class, and mIoU. With
    --out it also writes tables, JSON, the confusion matrix, a bar chart, and the 20 worst images beside their masks.

    Example: `cgrseg val --weights runs/mine/best.safetensors --data mydata --out report`

    Args:
        weights: a weights file, the name of bundled weights, hf:USER/NAME, or a file of `cgrseg export`
        data: the dataset's folder; its classes must be those of the weights
        format: the dataset's format
        split: default: test if the folder has images/test, otherwise val
        mode: whole image; slide (overlapping windows), slide-cosine (windows weighted towards their centre), scales
            (average over six scales from 0.5 to 1.75) or tta (these and their flips)
        tta: the same as --mode tta
        window: side of the windows in pixels
        out: output folder of the report
        device: auto, cpu, cuda or cuda:N
        bf16: compute in bfloat16: faster, a few labels change; an error if the device has none
    """
    if tta and mode not in ("whole", "tta"):
        raise ValueError(f"--tta is a mode itself: leave out --tta or --mode {mode}")
    mode = "tta" if tta else mode
    if window < 32:
        raise ValueError(f"--window is {window}: it must be at least 32 pixels")
    check_weights(weights)
    if not data.is_dir():
        raise FileNotFoundError(f"no folder {data}: check the path of the dataset")
    if out is not None:
        check_folder(out)

    from dataclasses import asdict
    from time import perf_counter

    import cgrseg
    from cgrseg._process import fast_imports

    with fast_imports():
        from cgrseg.data.check import quick_check
        from cgrseg.data.listing import open_dataset
        from cgrseg.evaluation.report import text_table, write_report
        from cgrseg.inference.segmenter import Segmenter

    has_test = format == "folder" and (data / "images" / "test").is_dir()
    scored = split or ("test" if has_test else "val")
    fabric = _launched(device)
    own_device = device if fabric is None else fabric.device
    segmenter = Segmenter(weights, device=own_device, mode=mode, window=window, bf16=bf16)
    predictor = segmenter.predictor
    channels = predictor.preprocessing.channels
    quick_check(data, format, splits=(scored,), channels=channels).refuse_errors()
    samples = open_dataset(data, scored, format, channels=channels)
    check_same_classes(segmenter.labels, samples.labels, weights=weights, data=data)

    start = perf_counter()
    scores = cgrseg.evaluate(predictor, samples, fabric=fabric)
    seconds = perf_counter() - start
    if fabric is not None and not fabric.is_global_zero:  # only the first process prints
        return 0
    how = f"{mode}, window {window}" if mode.startswith("slide") else mode
    place = f"{len(samples)} images of {samples.split} in {data}"
    print(printable(f"{Path(weights).name} on {place}, {how}, {seconds:.1f} s"), text_table(scores), sep="\n\n")
    if out is not None:
        about: dict[str, object] = {"weights": printable(Path(weights).name), "data": printable(data.resolve().name)}
        about |= {"split": samples.split, "mode": how, "format": format}
        # From these, `cgrseg tables` knows which row of the paper the scores can be compared with.
        about |= {"preprocessing": predictor.preprocessing.to_dict(), "spec": asdict(segmenter.description.spec)}
        write_report(out, scores, samples, lambda photo: segmenter(photo).labels, about)
        print(f"\nreport in {printable(out)}")
    return 0


def _launched(device: str) -> Fabric | None:
    """The engine of the processes that torchrun started; None for a single process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return None
    from lightning_fabric import Fabric

    from cgrseg.weights.load import usable_device

    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    kind = usable_device(device).type
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=world // local, strategy="ddp")
    fabric.launch()
    return fabric
