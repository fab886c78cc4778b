"""Export a model to ONNX, OpenVINO and torch.export. Each file is compared with PyTorch before it appears."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.export import ExportedProgram

from cgrseg._process import quiet
from cgrseg.images.files import write_together
from cgrseg.inference.network import DIGEST_KEY, SUFFIXES, require, weights_digest
from cgrseg.inference.runtimes import METADATA_KEY
from cgrseg.inference.trace import Io, metadata, save_graph, to_openvino, trace
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Size

from .verify import BATCHES, SIZES, Check, verify

OPSET = 20  # the first with a Gelu operator; ONNX Runtime does not fuse the five operations used before
Format = Literal["onnx", "openvino", "torch"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[str, str] = {**SUFFIXES, "torch": ".pt2"}


@dataclass(frozen=True)
class Export:
    """A written file and its comparison with PyTorch."""

    path: Path
    checks: list[Check]


def export(
    model: CGRSeg,
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    formats: Sequence[Format] = FORMATS,
    io: Io = "tensor",
    size: Size | None = None,
    sizes: Sequence[Size] = SIZES,
    batches: Sequence[int] = BATCHES,
) -> list[Export]:
    """Write a model for other runtimes, after comparing each file with PyTorch in its own runtime.

    Writes NAME.onnx, NAME.xml with NAME.bin (OpenVINO) and NAME.pt2 (torch.export) with classes, preprocessing and
    card inside, or NAME.image.* with images as input, and a report (.json) for each. All files appear, or none.

    Args:
        model: in evaluation mode, float32, on the CPU.
        out: folder, created if missing.
        name: of the files.
        formats: of "onnx" (opset 20), "openvino" and "torch".
        io: "tensor": normalised images -> stride-8 logits; "image": uint8 [B, H, W, C] -> label map [B, H, W].
        size: the only (height, width) that the files accept; None for any.
        sizes: (height, width) of the compared inputs; with `size`, only that size.
        batches: numbers of images in them.

    Raises:
        ValueError: a runtime is missing, a size is needed (bias mode "official"), or a file deviates.
        OSError: the folder cannot be written to.
    """
    if not isinstance(model, CGRSeg):
        raise TypeError(f"export takes a model, not {type(model).__name__}: give cgrseg.load(FILE)")
    for kind in formats:
        require_format(kind)
    network = fuse(model)
    program = trace(network, io=io, preprocessing=model.preprocessing, size=size)
    text = metadata(model.description, io=io, size=size)
    stem = f"{name}.image" if io == "image" else name
    with write_together(Path(out)) as folder:
        paths = [folder / f"{stem}{ENDINGS[kind]}" for kind in formats]
        for kind, path in zip(formats, paths, strict=True):
            write_program(kind, program, path, text)
        checks = verify(paths, model, io=io, sizes=[size] if size else sizes, batches=batches)
        for path in paths:
            table = [dataclasses.asdict(check) for check in checks[path]]
            write_report(path, {"file": path.name, "torch": torch.__version__, "checks": table})
    return [Export(Path(out) / path.name, checks[path]) for path in paths]


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON beside its file."""
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def require_format(kind: str) -> None:
    """Raise ValueError with the cure if a format is unknown or a package that writes it is not installed."""
    if kind not in FORMATS:
        raise ValueError(f"no format is called {kind!r}: choose from {', '.join(FORMATS)}")
    require(kind)
    if kind == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ValueError(f'{error.name} is not installed: pip install "cgrseg[onnx]"') from error


def write_program(kind: str, program: ExportedProgram, path: Path, text: str) -> None:
    """Write a traced network in one of `FORMATS`, with `text` as metadata."""
    if kind == "torch":
        with quiet():
            torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": text})
    elif kind == "openvino":
        save_openvino(to_openvino(program, text), path)
    else:
        output = next(iter(program.graph_signature.user_outputs))
        node = next(node for node in program.graph.nodes if node.name == output)
        names = (["photos"], ["labels"]) if node.meta["val"].ndim == 3 else (["images"], ["logits"])
        with quiet(), torch.no_grad():
            onnx = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False, input_names=names[0], output_names=names[1]
            )
        assert onnx is not None
        onnx.model.metadata_props[METADATA_KEY] = text
        onnx.save(path)


def save_openvino(model: Any, path: Path) -> None:
    """Write an OpenVINO model as .xml, with a digest of its weights, and .bin."""
    save_graph(model, path)
    digest = weights_digest(path)
    model.set_rt_info(digest, DIGEST_KEY)
    save_graph(model, path)
    assert weights_digest(path) == digest
