"""`cgrseg export`: weights become files for ONNX Runtime, OpenVINO and torch.export, proved equal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cgrseg.deploy.quantize import Quantized
    from cgrseg.nn import CGRSeg


def export(
    *,
    weights: str,
    out: str,
    format: Literal["onnx", "openvino", "torch", "aoti", "all"] = "all",
    io: Literal["tensor", "image"] = "tensor",
    size: str | None = None,
    int8: bool = False,
    data: Path | None = None,
) -> int:
    """Write weights as files for other runtimes, each compared with PyTorch before it appears.

    NAME.onnx, NAME.xml with NAME.bin (OpenVINO) and NAME.pt2 (torch.export) take any batch, height and width;
    classes, colours and preprocessing are inside, so `cgrseg predict --weights NAME.onnx` works. The comparison,
    at five sizes and two batches in each file's own runtime, is printed and saved beside the file. If a file
    deviates, nothing is written and the exit code is 2. NAME.aoti.pt2, of --format aoti alone, is machine code for
    this kind of CPU and one --size; making it needs a C++ compiler.

    With --int8 they are NAME.int8.onnx and NAME.int8.xml with its .bin, smaller and faster and nearly equal: about
    100 photos of --data give the ranges of the numbers, parts of the model that would change the labels too much
    stay in float, and a file that gives fewer than 90 % of the pixels their label is not written.

    Args:
        weights: a weights file, or the name of weights that come with cgrseg
        out: folder for the files
        format: onnx, openvino, torch, all (these three) or aoti
        io: tensor (normalised image in, logits at an eighth of the size out) or image (uint8 photos in, label
            maps out, for callers without cgrseg; the photo is not resized); the latter are NAME.image.*
        size: the only HEIGHTxWIDTH that the files shall take: needed by aoti and by weights in bias mode official
        int8: write 8-bit files instead (onnx and openvino)
        data: with --int8: a dataset's folder (its training photos are used) or a folder of photos, at least 8
    """
    _refuse_mixed(format, io, size, int8, data)
    import os

    fixed = None if size is None else parse_size(size)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {out} can't be made ({error.strerror}): name another folder") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--out {out} can't be written to: name another folder")

    from cgrseg.deploy.export import FORMATS
    from cgrseg.deploy.export import export as write
    from cgrseg.weights.load import find_weights, load

    path = find_weights(weights)
    if data is not None:
        from cgrseg.deploy.quantize import find_photos

        photos = find_photos(data)
    model = load(weights, device="cpu")
    if data is not None:
        return _quantize(model, photos, folder, path.stem, format)
    formats = FORMATS if format == "all" else (format,)
    for each in write(model, folder, name=path.stem, formats=formats, io=io, size=fixed):
        print(f"{each.path}\n{'size':>12}{'batch':>7}{'deviation':>12}{'equal labels':>15}")
        for check in each.checks:
            deviation = "" if check.deviation is None else f"{check.deviation:.1e}"
            place = f"{check.size[0]}x{check.size[1]}"
            print(f"{place:>12}{check.batch:>7}{deviation:>12}{check.equal_labels:>15.6%}")
    print("deviation: largest difference of a logit from PyTorch's, in standard deviations of the logits")
    return 0


def _refuse_mixed(format: str, io: str, size: str | None, int8: bool, data: Path | None) -> None:
    if not int8:
        if data is not None:
            raise ValueError(f"--data {data} gives the photos of --int8: add --int8, or leave out --data")
        return
    if data is None:
        raise ValueError("--int8 is calibrated on photos: add --data FOLDER")
    if format in ("torch", "aoti"):
        raise ValueError(f"--int8 makes onnx and openvino files, not {format}: leave out --format {format}")
    if io == "image":
        raise ValueError("--int8 makes files of --io tensor only: leave out --io image")
    if size is not None:
        raise ValueError(f"--int8 makes files of any size, which run as fast: leave out --size {size}")


def _quantize(model: CGRSeg, photos: list[Path], out: Path, name: str, format: str) -> int:
    from cgrseg.deploy.quantize import FORMATS, MAY_CHANGE, quantize

    formats = FORMATS if format == "all" else [kind for kind in FORMATS if kind == format]
    for each in quantize(model, photos, out, name=name, formats=formats):
        _print_effects(each)
    print(
        "error: change of the logits (root mean square) over their standard deviation; changed: share of pixels with\n"
        f"another label than in float; a part that changes more than {MAY_CHANGE:.2%} alone stays in float"
    )
    return 0


def _print_effects(result: Quantized) -> None:
    print(f"{result.path}, calibrated on {result.photos[0]} photos, compared on {result.photos[1]} others")
    print(f"{'int8':<18}{'error':>8}{'changed':>10}")
    for part, effect in result.alone.items():
        kept = "  stays in float" if part in result.kept_float else ""
        print(f"{part:<18}{effect.error:>8.4f}{effect.changed:>10.3%}{kept}")
    print(f"{'the file':<18}{result.total.error:>8.4f}{result.total.changed:>10.3%}")


def parse_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as two numbers from 32 on; ValueError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 32):
        raise ValueError(f"--size {text}: write HEIGHTxWIDTH in pixels from 32 on, such as 512x512")
    return int(height), int(width)
