"""Quantise a model to int8, calibrated on images. Sensitive parts stay in float; a bad result is not written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from cgrseg.data.folder import split_folders
from cgrseg.data.listing import photo_files
from cgrseg.images.files import write_together
from cgrseg.inference.network import SUFFIXES, Network, installed, open_exported
from cgrseg.inference.predictor import Prediction, Predictor, Prepared
from cgrseg.inference.trace import metadata, trace
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing

from .export import require_format, write_program, write_report
from .quantizers import Images, groups_of, quantize_onnx, quantize_openvino

Int8Format = Literal["onnx", "openvino"]
Answer = tuple[Prepared, Prediction]  # a held-out image and PyTorch's prediction
FORMATS: tuple[Int8Format, ...] = get_args(Int8Format)
QUANTIZERS = {"onnx": quantize_onnx, "openvino": quantize_openvino}
LEAST, MOST = 8, 100  # images for calibration and comparison; for calibration
HELD_OUT = 8  # images that are compared and not used for calibration; at most a quarter
TRIAL = 8  # calibration images while a single part is quantised
# Share of pixels whose label a part may change by itself; a part that changes more stays in float. On CamVid the
# worst part changed 0.66 % in OpenVINO, whose file lost 0.1 mIoU, and 0.91 % in ONNX Runtime, whose file lost 0.5.
MAY_CHANGE = 0.0075
MUST_KEEP = 0.9  # share of pixels that must keep their label in the end


@dataclass(frozen=True)
class Effect:
    """The effect of quantisation on the held-out images.

    Args:
        error: root mean square of the logits' change, divided by the standard deviation of the float logits.
        changed: share of pixels with another label, 0 … 1.
    """

    error: float
    changed: float


@dataclass(frozen=True)
class Quantized:
    """A written file.

    Args:
        path: the file.
        alone: part of the model -> effect of quantising only that part.
        kept_float: the parts that stayed in float.
        total: effect of the whole file.
        photos: number of calibration images and of compared images.
    """

    path: Path
    alone: dict[str, Effect]
    kept_float: tuple[str, ...]
    total: Effect
    photos: tuple[int, int]


def quantize(
    model: CGRSeg,
    photos: Sequence[Path],
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    formats: Sequence[Int8Format] = FORMATS,
) -> list[Quantized]:
    """Write a model as int8 files, NAME.int8.onnx, NAME.int8.xml and .bin, with a report (.json) for each.

    Each part of the model (encoder stages, context, reconstruction, head) is first quantised alone and compared with
    PyTorch; parts that change more than MAY_CHANGE of the labels stay in float. In OpenVINO's int8 parts a hard swish
    replaces GELU. All files appear, or none.

    Args:
        model: in evaluation mode, float32, on the CPU.
        photos: images like those the files will be used on; some are used for calibration, the others are compared.
        out: folder, created if missing.
        name: of the files.
        formats: of "onnx" and "openvino".

    Raises:
        ValueError: a package is missing, there are too few images, the bias mode is official, or a file keeps the
            label of fewer than MUST_KEEP of the pixels.
        OSError: an image cannot be read, or the folder cannot be written to.
    """
    for kind in formats:
        _require(kind)
    if model.spec.bias_mode == "official":
        raise ValueError('--int8 needs any size, which bias mode "official" does not support: export it in float')
    _check_count(photos, "the list")
    folded = fuse(model)
    program = trace(folded, preprocessing=model.preprocessing)
    groups = groups_of(program)
    ranges, compared = _share_out(photos)
    reference = Predictor(Network.of(folded))
    prepared = [reference.prepare(path) for path in compared]
    answers = [(item, reference.predict([item])[0]) for item in prepared]
    done = []
    with write_together(Path(out)) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        for kind in formats:
            source = scratch / f"{name}{SUFFIXES[kind]}"
            write_program(kind, program, source, metadata(model.description))
            target = folder / f"{name}.int8{SUFFIXES[kind]}"
            text = metadata(model.description, precision="int8")
            result = _quantize_one(kind, source, target, groups, ranges, answers, model.preprocessing, text)
            report = {**asdict(result), "path": target.name, "may_change": MAY_CHANGE, "must_keep": MUST_KEEP}
            write_report(target, report)
            done.append(replace(result, path=Path(out) / target.name))
    return done


def quantize_unverified(model: CGRSeg, photo: Path, out: Path, *, name: str) -> Path:
    """Write NAME.int8.xml with everything quantised, calibrated on one image and not compared: only for benchmarks."""
    _require("openvino")
    program = trace(fuse(model), preprocessing=model.preprocessing)
    with write_together(out) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        write_program("openvino", program, scratch / "float.xml", "")
        images = Images([photo], model.preprocessing)
        text = metadata(model.description, precision="int8")
        quantize_openvino(scratch / "float.xml", folder / f"{name}.int8.xml", images, [], text)
    return out / f"{name}.int8.xml"


def _quantize_one(
    kind: Int8Format,
    source: Path,
    target: Path,
    groups: Sequence[str],
    ranges: Sequence[Path],
    answers: Sequence[Answer],
    preprocessing: Preprocessing,
    text: str,
) -> Quantized:
    """Try each part, then quantise those that are allowed to; groups: the part of each convolution."""
    trial = source.with_name(f"trial{SUFFIXES[kind]}")
    few = Images(spread(ranges, TRIAL), preprocessing)
    alone = {}
    for group in tqdm(dict.fromkeys(groups), desc=f"{kind}: one part", unit="part", leave=False, disable=None):
        others = [index for index, each in enumerate(groups) if each != group]
        QUANTIZERS[kind](source, trial, few, others, text)
        alone[group] = _effect(trial, answers)
    # "not <=" also keeps a part in float whose effect is NaN.
    kept = tuple(group for group, effect in alone.items() if not effect.changed <= MAY_CHANGE)
    if len(kept) == len(alone):
        raise ValueError(f"{target.name}: every part changes more than {MAY_CHANGE:.2%} of the labels: use float")
    stay = [index for index, each in enumerate(groups) if each in kept]
    QUANTIZERS[kind](source, target, Images(ranges, preprocessing), stay, text)
    total = _effect(target, answers)
    if not 1 - total.changed >= MUST_KEEP:
        raise ValueError(
            f"{target.name} keeps the label of {1 - total.changed:.1%} of the pixels, fewer than {MUST_KEEP:.0%}: "
            "nothing was written; calibrate with images like those of the training"
        )
    return Quantized(target, alone, kept, total, (len(ranges), len(answers)))


def _effect(path: Path, answers: Sequence[Answer]) -> Effect:
    """How much the predictions of a file differ from PyTorch's."""
    predictor = Predictor(open_exported(path, "cpu"))
    squares, variances, changed, pixels = 0.0, 0.0, 0, 0
    for item, expected in answers:
        (found,) = predictor.predict([item])
        assert expected.logits is not None and found.logits is not None
        squares += float((found.logits - expected.logits).square().mean())
        variances += float(expected.logits.var())
        changed += int((found.labels != expected.labels).sum())
        pixels += found.labels.size
    return Effect(error=(squares / variances) ** 0.5, changed=changed / pixels)


def find_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """Images for calibration: the train split of a dataset's folder, otherwise the images in the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has fewer than LEAST images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: --data names a dataset's folder or a folder of images")
    place = split_folders(root, "train")[0] if (root / "images").is_dir() else root
    photos = photo_files(place) if place.is_dir() else []
    _check_count(photos, str(place))
    return photos


def _check_count(photos: Sequence[Path], place: str) -> None:
    if not photos:
        raise ValueError(f"{place} has no images: int8 is calibrated on images like those of the training")
    if len(photos) < LEAST:
        raise ValueError(f"{place} has {len(photos)} images: calibrating int8 takes at least {LEAST}, better {MOST}")


def _share_out(photos: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images for calibration and images to compare, both spread over the whole list."""
    chosen = spread(photos, MOST + HELD_OUT)
    compared = spread(chosen, min(HELD_OUT, len(chosen) // 4))
    return [photo for photo in chosen if photo not in compared], compared


def spread(photos: Sequence[Path], count: int) -> list[Path]:
    """`count` evenly spaced images, or all if there are fewer."""
    if len(photos) <= count:
        return list(photos)
    return [photos[index] for index in np.linspace(0, len(photos) - 1, count).astype(int)]


def _require(kind: Any) -> None:
    if kind not in FORMATS:
        raise ValueError(f"no int8 format is called {kind!r}: choose from {', '.join(FORMATS)}")
    require_format(kind)
    if kind == "openvino" and not installed("nncf"):
        raise ValueError('nncf is not installed: pip install "cgrseg[openvino]"')
