"""`cgrseg export`: files for ONNX Runtime, OpenVINO and torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg._text import printable, table

from ._common import Weights, check_folder, check_weights, parse_size

if TYPE_CHECKING:
    from cgrseg.nn import CGRSeg


def export(
    *,
    weights: Weights,
    out: Path,
    format: Literal["onnx", "openvino", "torch", "all"] = "all",
    io: Literal["tensor", "image"] = "tensor",
    size: str | None = None,
    int8: bool = False,
    data: Path | None = None,
) -> None:
    """Export weights to ONNX, OpenVINO and torch.export.

    NAME.onnx, NAME.xml with NAME.bin (OpenVINO) and NAME.pt2 (torch.export) accept any batch, height and width.
    Classes, colours and preprocessing are stored inside: `cgrseg predict --weights NAME.onnx` works. Each file is
    compared with PyTorch in its own runtime at five sizes and two batches, and the result is printed and saved
    beside it. If a file deviates, nothing is written and the exit code is 2.

    --int8 writes smaller and faster files NAME.int8.onnx and NAME.int8.xml with nearly equal results. They are
    calibrated on about 100 images of --data; sensitive parts of the model stay in float, and a file that gives fewer
    than 90 % of the pixels their label is not written.

    Example: `cgrseg export --weights runs/mine/best.safetensors --out exported --format onnx`

    Args:
        weights: a weights file, the name of bundled weights, or hf:USER/NAME
        out: output folder
        format: onnx, openvino, torch or all of them
        io: tensor (normalised images to logits at 1/8 of the size) or image (uint8 images to label maps, without
            resizing, for programs that do not use cgrseg; files are called NAME.image.*)
        size: the only HEIGHTxWIDTH that the files accept; needed for weights in bias mode official
        int8: write 8-bit files (onnx and openvino)
        data: with --int8: a dataset's folder, of which the training images are used, or a folder of at least 8 images
    """
    _check_int8(format, io, size, int8, data)
    fixed = None if size is None else parse_size(size)
    check_weights(weights)
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"no folder {data}: --data names a dataset's folder or a folder of images")

    from cgrseg.images.files import refuse_not_utf8

    refuse_not_utf8(out / Path(weights).name, "an exporter")
    check_folder(out)

    from cgrseg.deploy.export import FORMATS
    from cgrseg.deploy.export import export as write
    from cgrseg.weights.load import find_weights, load

    stem = find_weights(weights).stem
    if data is not None:
        from cgrseg.deploy.quantize import find_photos

        photos = find_photos(data)
        return _quantize(load(weights, device="cpu"), photos, out, stem, format)
    formats = FORMATS if format == "all" else (format,)
    for each in write(load(weights, device="cpu"), out, name=stem, formats=formats, io=io, size=fixed):
        rows = [("size", "batch", "deviation", "equal labels")]
        for check in each.checks:
            deviation = "" if check.deviation is None else f"{check.deviation:.1e}"
            rows.append((f"{check.size[0]}x{check.size[1]}", str(check.batch), deviation, f"{check.equal_labels:.6%}"))
        print(printable(each.path), f"{table(rows)}\n", sep="\n")
    print("deviation: largest difference of a logit from PyTorch's, in standard deviations of the logits")
    return None


def _check_int8(format: str, io: str, size: str | None, int8: bool, data: Path | None) -> None:
    if not int8:
        if data is not None:
            raise ValueError(f"--data {data} has the images of --int8: add --int8, or leave out --data")
        return
    if data is None:
        raise ValueError("--int8 is calibrated on images: add --data FOLDER")
    if format == "torch":
        raise ValueError(f"--int8 writes onnx and openvino files, not {format}: leave out --format {format}")
    if io == "image":
        raise ValueError("--int8 writes files of --io tensor only: leave out --io image")
    if size is not None:
        raise ValueError(f"--int8 writes files of any size, which run as fast: leave out --size {size}")


def _quantize(model: CGRSeg, photos: list[Path], out: Path, name: str, format: str) -> None:
    from cgrseg.deploy.quantize import FORMATS, MAY_CHANGE, quantize

    formats = FORMATS if format == "all" else [kind for kind in FORMATS if kind == format]
    for each in quantize(model, photos, out, name=name, formats=formats):
        calibrated, compared = each.photos
        print(f"{printable(each.path)}, calibrated on {calibrated} images, compared on {compared} others")
        rows = [("int8", "error", "changed", "")]
        for part, effect in each.alone.items():
            kept = "stays in float" if part in each.kept_float else ""
            rows.append((part, f"{effect.error:.4f}", f"{effect.changed:.3%}", kept))
        rows.append(("the file", f"{each.total.error:.4f}", f"{each.total.changed:.3%}", ""))
        print(f"{table(rows)}\n")
    print(
        "error: root mean square of the logits' change, divided by their standard deviation; changed: share of pixels\n"
        f"whose label changes; a part that alone changes more than {MAY_CHANGE:.2%} stays in float"
    )
