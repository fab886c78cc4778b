"""`cgrseg export`: weights become files for ONNX Runtime, OpenVINO and torch.export, proved equal."""

from __future__ import annotations

from typing import Literal


def export(
    *,
    weights: str,
    out: str,
    format: Literal["onnx", "openvino", "torch", "all"] = "all",
    io: Literal["tensor", "image"] = "tensor",
    size: str | None = None,
) -> int:
    """Write weights as files for other runtimes, each compared with PyTorch before it appears.

    NAME.onnx, NAME.xml with NAME.bin (OpenVINO) and NAME.pt2 (torch.export) take any batch, height and width;
    classes, colours and preprocessing are inside, so `cgrseg predict --weights NAME.onnx` works. The comparison,
    at five sizes and two batches in each file's own runtime, is printed and saved beside the file. If a file
    deviates, nothing is written and the exit code is 2.

    Args:
        weights: a weights file, or the name of weights that come with cgrseg
        out: folder for the files
        format: onnx, openvino, torch or all
        io: tensor (normalised image in, logits at an eighth of the size out) or image (uint8 photos in, label
            maps out, for callers without cgrseg; the photo is not resized); the latter are NAME.image.*
        size: the only HEIGHTxWIDTH that the files shall take; needed by weights in bias mode official
    """
    import os
    from pathlib import Path

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
    from cgrseg.weights.create import find_weights, load

    path = find_weights(weights)
    model = load(weights, device="cpu")
    formats = FORMATS if format == "all" else (format,)
    for each in write(model, folder, name=path.stem, formats=formats, io=io, size=fixed):
        print(f"{each.path}\n{'size':>12}{'batch':>7}{'deviation':>12}{'equal labels':>15}")
        for check in each.checks:
            deviation = "" if check.deviation is None else f"{check.deviation:.1e}"
            place = f"{check.size[0]}x{check.size[1]}"
            print(f"{place:>12}{check.batch:>7}{deviation:>12}{check.equal_labels:>15.6%}")
    print("deviation: largest difference of a logit from PyTorch's, in standard deviations of the logits")
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as two numbers from 32 on; ValueError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 32):
        raise ValueError(f"--size {text}: write HEIGHTxWIDTH in pixels from 32 on, such as 512x512")
    return int(height), int(width)
