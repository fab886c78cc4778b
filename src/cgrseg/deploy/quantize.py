"""A model becomes int8 files, calibrated on photos: parts that hurt stay in float, a bad result is not written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cgrseg.data.listing import photo_files, split_folders
from cgrseg.images.files import together
from cgrseg.images.photos import read_photo
from cgrseg.inference.labelmap import label_map
from cgrseg.inference.runtimes import SUFFIXES, installed, open_exported, require
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing, Size
from cgrseg.weights.artifact import describe_model

from .export import WRITERS, require_exporter, write_report
from .quantizers import Images, groups_of, quantize_onnx, quantize_openvino
from .trace import trace

Int8Format = Literal["onnx", "openvino"]
FORMATS: tuple[Int8Format, ...] = ("onnx", "openvino")
QUANTIZERS = {"onnx": quantize_onnx, "openvino": quantize_openvino}
LEAST, MOST = 8, 100  # photos for the ranges and the comparison; for the ranges
HELD_OUT = 8  # photos that are compared and give no ranges; of few photos a quarter
TRIAL = 8  # photos that give the ranges while one part alone is quantised
# Share of pixels whose label a part may change alone; one that changes more stays in float. On CamVid, OpenVINO's worst
# part changed 0.66 % and its file lost 0.1 mIoU, ONNX's changed 0.91 % and its file lost 0.5: between the two.
MAY_CHANGE = 0.0075
MUST_KEEP = 0.9  # share of pixels that must keep their label in the end


@dataclass(frozen=True)
class Effect:
    """What quantising did on the held-out photos.

    Args:
        error: root mean square of the logits' change, over the standard deviation of the float logits.
        changed: share of pixels with another label, 0 … 1.
    """

    error: float
    changed: float


@dataclass(frozen=True)
class Quantized:
    """A file that was written.

    Args:
        path: the file.
        alone: part of the model -> effect of quantising it alone.
        kept_float: the parts that stayed in float.
        total: effect of all that is quantised.
        photos: how many gave the ranges, and how many were compared.
    """

    path: Path
    alone: dict[str, Effect]
    kept_float: tuple[str, ...]
    total: Effect
    photos: tuple[int, int]


@dataclass(frozen=True)
class _Answer:
    """What PyTorch says of a held-out photo: image [1, 3, Hp, Wp], logits [1, K, h, w], labels [H, W]."""

    image: Tensor
    valid: Size
    size: Size
    logits: Tensor
    labels: Tensor


def quantize(
    model: CGRSeg,
    photos: Sequence[Path],
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    formats: Sequence[Int8Format] = FORMATS,
) -> list[Quantized]:
    """Write a model as int8 files, NAME.int8.onnx, NAME.int8.xml and .bin, with a report beside each, .json.

    Each part of the model (encoder stages, context, reconstruction, head) is quantised alone first and compared
    with PyTorch; those that change more than MAY_CHANGE of the labels stay in float. In OpenVINO's int8 parts a hard
    swish stands in for GELU. All files appear, or none.

    Args:
        model: in evaluation mode, float32, on the CPU.
        photos: like those that the files will see; some give the ranges, others are compared.
        out: folder; it is made if need be.

    Raises:
        ValueError: a package is missing, the photos are too few, the bias mode is official, or a file
            gives fewer than MUST_KEEP of the pixels the label that PyTorch gives.
        OSError: a photo can't be read, or the folder can't be written to.
    """
    for kind in formats:
        _require(kind)
    if model.spec.bias_mode == "official":
        raise ValueError('--int8 needs files of any size, which bias mode "official" can\'t be: export it in float')
    _refuse_few(photos, "the list")
    description = describe_model(model)
    network = fuse(model)
    program = trace(network, preprocessing=description.preprocessing)
    groups = groups_of(program)
    about = {"model": json.loads(description.to_json()), "io": "tensor", "size": None}
    ranges, compared = _share_out(photos)
    answers = _answers(network, compared, description.preprocessing)
    done = []
    with together(Path(out)) as aside:
        scratch = aside / "scratch"
        scratch.mkdir()
        for kind in formats:
            source = scratch / f"{name}{SUFFIXES[kind]}"
            WRITERS[kind](program, source, json.dumps({**about, "precision": "float32"}), "tensor")
            text = json.dumps({**about, "precision": "int8"}, ensure_ascii=False)
            target = aside / f"{name}.int8{SUFFIXES[kind]}"
            result = _quantize_one(kind, source, target, groups, ranges, answers, description.preprocessing, text)
            report = {**asdict(result), "path": target.name, "may_change": MAY_CHANGE, "must_keep": MUST_KEEP}
            write_report(target, report)
            done.append(replace(result, path=Path(out) / target.name))
    return done


def quantize_unproved(model: CGRSeg, photo: Path, out: Path, *, name: str) -> Path:
    """Write NAME.int8.xml with all in int8 that can be: for the clock, and nothing else.

    The ranges are those of one photo, and the file is compared with nothing.
    """
    _require("openvino")
    description = describe_model(model)
    about = {"model": json.loads(description.to_json()), "io": "tensor", "size": None, "precision": "int8"}
    program = trace(fuse(model), preprocessing=description.preprocessing)
    with together(out) as aside:
        scratch = aside / "scratch"
        scratch.mkdir()
        WRITERS["openvino"](program, scratch / "float.xml", "", "tensor")
        photos = Images([photo], description.preprocessing)
        text = json.dumps(about, ensure_ascii=False)
        quantize_openvino(scratch / "float.xml", aside / f"{name}.int8.xml", photos, [], text)
    return out / f"{name}.int8.xml"


def _quantize_one(
    kind: Int8Format,
    source: Path,
    target: Path,
    groups: Sequence[str],
    ranges: Sequence[Path],
    answers: Sequence[_Answer],
    preprocessing: Preprocessing,
    text: str,
) -> Quantized:
    """Try each part, then quantise all that may be; groups: the part of each convolution."""
    trial = source.with_name(f"trial{SUFFIXES[kind]}")
    few = Images(spread(ranges, TRIAL), preprocessing)
    alone = {}
    for group in tqdm(dict.fromkeys(groups), desc=f"{kind}: one part", unit="part", leave=False, disable=None):
        others = [index for index, each in enumerate(groups) if each != group]
        QUANTIZERS[kind](source, trial, few, others, text)
        alone[group] = _effect(open_exported(trial, "cpu"), answers)
    # So that not a number stays in float, too.
    kept = tuple(group for group, effect in alone.items() if not effect.changed <= MAY_CHANGE)
    if len(kept) == len(alone):
        raise ValueError(f"{target.name}: every part changes more than {MAY_CHANGE:.2%} of the labels: use float")
    stay = [index for index, each in enumerate(groups) if each in kept]
    QUANTIZERS[kind](source, target, Images(ranges, preprocessing), stay, text)
    total = _effect(open_exported(target, "cpu"), answers)
    if not 1 - total.changed >= MUST_KEEP:
        raise ValueError(
            f"{target.name} gives {1 - total.changed:.1%} of the pixels the label that PyTorch gives, fewer than "
            f"{MUST_KEEP:.0%}: nothing was written; calibrate with photos like those of the training"
        )
    return Quantized(target, alone, kept, total, (len(ranges), len(answers)))


@torch.inference_mode()
def _answers(network: Callable[[Tensor], Tensor], paths: Sequence[Path], how: Preprocessing) -> list[_Answer]:
    answers = []
    for path in paths:
        photo = read_photo(path)
        image, valid = how.prepare(photo)
        logits, size = network(image[None]), (photo.shape[0], photo.shape[1])
        labels = label_map(logits, size, input_size=(image.shape[1], image.shape[2]), valid=valid)[0]
        answers.append(_Answer(image[None], valid, size, logits, labels))
    return answers


@torch.inference_mode()
def _effect(network: Callable[[Tensor], Tensor], answers: Sequence[_Answer]) -> Effect:
    squares, spreads, changed, pixels = 0.0, 0.0, 0, 0
    for answer in answers:
        logits = network(answer.image).float()
        height, width = answer.image.shape[2:]
        labels = label_map(logits, answer.size, input_size=(height, width), valid=answer.valid)[0]
        squares += float((logits - answer.logits).square().mean())
        spreads += float(answer.logits.var())
        changed += int((labels != answer.labels).sum())
        pixels += labels.numel()
    return Effect(error=(squares / spreads) ** 0.5, changed=changed / pixels)


def find_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """The photos to calibrate with: of a dataset's folder those of its train split, else those right in the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds fewer than LEAST photos.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: --data names a dataset's folder or a folder of photos")
    place = split_folders(root, "train")[0] if (root / "images").is_dir() else root
    photos = photo_files(place) if place.is_dir() else []
    _refuse_few(photos, str(place))
    return photos


def _refuse_few(photos: Sequence[Path], place: str) -> None:
    if not photos:
        raise ValueError(f"{place} holds no photos: int8 is calibrated on photos like those of the training")
    if len(photos) < LEAST:
        raise ValueError(f"{place} holds {len(photos)} photos: calibrating int8 takes at least {LEAST}, better {MOST}")


def _share_out(photos: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Photos for the ranges and photos to compare, both from the whole list."""
    chosen = spread(photos, MOST + HELD_OUT)
    compared = spread(chosen, min(HELD_OUT, len(chosen) // 4))
    return [photo for photo in chosen if photo not in compared], compared


def spread(photos: Sequence[Path], count: int) -> list[Path]:
    """`count` photos at even distances, or all if they are fewer."""
    if len(photos) <= count:
        return list(photos)
    return [photos[index] for index in np.linspace(0, len(photos) - 1, count).astype(int)]


def _require(kind: Any) -> None:
    if kind not in FORMATS:
        raise ValueError(f"no int8 format is called {kind!r}: choose from {', '.join(FORMATS)}")
    require(kind)
    if kind == "onnx":
        require_exporter()
    elif not installed("nncf"):
        raise ValueError('nncf is not installed: pip install "cgrseg[openvino]"')
