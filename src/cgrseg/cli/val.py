"""`cgrseg val`: how good a weights file is on labelled photos, as table, files and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg.data.settings import Format

if TYPE_CHECKING:
    from cgrseg.labels import LabelSpace


def val(
    *,
    weights: str,
    data: Path,
    format: Format = "folder",
    split: Literal["train", "val", "test"] | None = None,
    mode: Literal["whole", "slide", "slide-cosine", "tta"] = "whole",
    tta: bool = False,
    window: int = 512,
    out: Path | None = None,
    device: str = "auto",
    bf16: bool = False,
) -> int:
    """Score trained weights on labelled photos, at each photo's own size.

    Prints IoU, accuracy, precision and boundary IoU of each class, and mIoU. With --out it also writes the
    table, CSV and JSON files, the confusion matrix, a bar a class and the 20 worst photos beside their truth.

    Args:
        weights: a weights file, the name of weights that come with cgrseg, or a file that `cgrseg export` wrote
        data: the dataset's folder; its classes must be those of the weights
        format: how the folder is laid out
        split: train, val or test; default: test where there is one, else val
        mode: whole, slide (overlapping windows), slide-cosine (windows that count less towards their edges) or tta
            (six scales from 0.5 to 1.75, each with its mirror image)
        tta: the same as --mode tta
        window: side of the sliding windows in pixels
        out: folder for the report
        device: auto, cpu, cuda or cuda:N
        bf16: let the network compute in bfloat16, where the device has it: faster, a few labels change
    """
    if tta and mode not in ("whole", "tta"):
        raise ValueError(f"--tta is a mode of its own: leave out --tta or --mode {mode}")
    mode = "tta" if tta else mode
    if window < 32:
        raise ValueError(f"--window is {window}: it must be at least 32 pixels")
    if out is not None:
        from .predict import _make_folder

        _make_folder(out)

    from dataclasses import asdict
    from time import perf_counter

    import cgrseg
    from cgrseg.data.listing import open_dataset
    from cgrseg.evaluation import evaluate, label_photo
    from cgrseg.evaluation.processes import launched, rank
    from cgrseg.evaluation.report import text_table, write_report

    has_test = format == "folder" and (data / "images" / "test").is_dir()
    samples = open_dataset(data, split or ("test" if has_test else "val"), format)
    with launched(device) as own_device:
        segmenter = cgrseg.Segmenter(weights, device=own_device, bf16=bf16)
        refuse_other_classes(segmenter.labels, samples.labels, weights=weights, data=data)
        model, preprocessing = segmenter.model, segmenter.preprocessing

        start = perf_counter()
        scores = evaluate(model, samples, preprocessing, mode=mode, window=window)
        seconds = perf_counter() - start
        if rank() > 0:  # the first of several processes speaks for all
            return 0
    how = f"{mode}, window {window}" if mode.startswith("slide") else mode
    place = f"{len(samples)} photos of {samples.split} in {data}"
    print(f"{Path(weights).name} on {place}, {how}, {seconds:.1f} s\n\n{text_table(scores)}")
    if out is not None:
        about: dict[str, object] = {
            "weights": Path(weights).name,
            "data": data.resolve().name,
            "split": samples.split,
            "mode": how,
        }
        about |= {"format": format, "spec": asdict(model.spec)}  # by which `cgrseg tables` knows the row
        write_report(
            out,
            scores,
            samples,
            lambda photo: label_photo(model, photo, preprocessing, mode=mode, window=window).cpu().numpy(),
            about,
        )
        print(f"\nreport in {out}")
    return 0


def refuse_other_classes(ours: LabelSpace, theirs: LabelSpace, *, weights: str, data: Path) -> None:
    """Raise ValueError unless the weights' classes are the data's: the same names in the same order.

    Where one side only has numbers for names ("class 3"), their count must agree.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"{weights} tells {len(ours)} classes apart, but {data} has {len(theirs)}: "
            "use the weights or the class list that belong together"
        )
    if any(all(re.fullmatch(r"class \d+", name) for name in side.names) for side in (ours, theirs)):
        return
    for label, (name, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if name != other:
            raise ValueError(
                f"class {label} is {name!r} in {weights}, but {other!r} in {data}: "
                "use the weights or the class list that belong together"
            )
