"""A model becomes files of other runtimes, each proved equal before it appears (`verify`)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from cgrseg._process import quiet
from cgrseg.images.files import together
from cgrseg.inference.programs import EXTRA_FILE, PACKAGE, processor
from cgrseg.inference.runtimes import METADATA_KEY, SUFFIXES, require
from cgrseg.nn import CGRSeg
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Size
from cgrseg.weights.artifact import describe_model

from .trace import Io, trace
from .verify import BATCHES, SIZES, Check, verify

OPSET = 20  # the first with a Gelu of its own: five operations before, which ONNX Runtime did not join
Format = Literal["onnx", "openvino", "torch", "aoti"]
FORMATS: tuple[Format, ...] = ("onnx", "openvino", "torch")  # what is written unless asked otherwise
ENDINGS: dict[Any, str] = {**SUFFIXES, "aoti": PACKAGE}


@dataclasses.dataclass(frozen=True)
class Export:
    """A file that was written, and how it compares with PyTorch."""

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
    """Write a model for other runtimes, once each file has been compared with PyTorch in its own runtime.

    For NAME it writes NAME.onnx, NAME.xml with NAME.bin (OpenVINO), NAME.pt2 (torch.export) and NAME.aoti.pt2
    (machine code for this CPU, by AOTInductor), with classes, preprocessing and card inside, or NAME.image.* with
    pictures as inputs; and a report beside each, .json. Either all files of the call appear, or none.

    Args:
        model: in evaluation mode, float32, on the CPU.
        out: folder; it is made if need be.
        formats: of "onnx" (opset 20), "openvino", "torch" and, with a `size`, "aoti".
        io: "tensor": normalised images -> stride-8 logits; "image": uint8 [B, H, W, 3] -> label map [B, H, W].
        size: the only (height, width) that the files take; None for any.
        sizes, batches: what is compared; of sizes only `size`, if that is given.

    Raises:
        ValueError: a runtime or a compiler is missing, a size is needed (bias mode "official", "aoti"), or a file
            deviates.
        OSError: the folder can't be written to.
    """
    for kind in formats:
        if kind not in WRITERS:
            raise ValueError(f"no format is called {kind!r}: choose from {', '.join(WRITERS)}")
        if kind == "aoti":
            _require_compiler(size)
        else:
            require(kind)
    if "onnx" in formats:
        require_exporter()
    description = describe_model(model)
    network = fuse(model)
    about = {"model": json.loads(description.to_json()), "io": io, "size": size, "precision": "float32"}
    text = json.dumps(about, ensure_ascii=False)
    program = trace(network, io=io, preprocessing=description.preprocessing, size=size)
    stem = f"{name}.image" if io == "image" else name
    with together(Path(out)) as aside:
        paths = [aside / f"{stem}{ENDINGS[kind]}" for kind in formats]
        for kind, path in zip(formats, paths, strict=True):
            WRITERS[kind](program, path, text, io)
        checks = verify(paths, model, io=io, sizes=[size] if size else sizes, batches=batches)
        for path in paths:
            table = [dataclasses.asdict(check) for check in checks[path]]
            write_report(path, {"file": path.name, "torch": torch.__version__, "checks": table})
    return [Export(Path(out) / path.name, checks[path]) for path in paths]


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON beside the file that it is about."""
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _write_onnx(program: ExportedProgram, path: Path, text: str, io: Io) -> None:
    names = (["photos"], ["labels"]) if io == "image" else (["images"], ["logits"])
    with quiet(), torch.no_grad():
        onnx = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False, input_names=names[0], output_names=names[1]
        )
    assert onnx is not None
    onnx.model.metadata_props[METADATA_KEY] = text
    onnx.save(path)


def _write_openvino(program: ExportedProgram, path: Path, text: str, io: Io) -> None:
    import openvino  # type: ignore[import-untyped]

    with quiet():
        model = openvino.convert_model(program)
    model.reshape(_shape(program))  # of which the converter keeps the rank alone; known sides are 1.3 times as fast
    model.outputs[0].get_tensor().set_names({"labels" if io == "image" else "logits"})
    model.set_rt_info(text, METADATA_KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def _shape(program: ExportedProgram) -> list[int]:
    """Of the graph's input; -1 where it takes any number."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    return [side if isinstance(side, int) else -1 for side in node.meta["val"].shape]


def _write_torch(program: ExportedProgram, path: Path, text: str, io: Io) -> None:
    with quiet():
        torch.export.save(program, path, extra_files={EXTRA_FILE: text})


def _write_aoti(program: ExportedProgram, path: Path, text: str, io: Io) -> None:
    settings = {
        "aot_inductor.metadata": {EXTRA_FILE: text, "processor": processor()},
        "aot_inductor.precompile_headers": False,  # which costs more than one compilation saves
        "cpp_cache_precompile_headers": False,
    }
    with quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=os.fspath(path), inductor_configs=settings)


WRITERS: dict[str, Any] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
    "aoti": _write_aoti,
}


def _require_compiler(size: Size | None) -> None:
    """Raise ValueError with the cure where machine code can't be made: it needs a C++ compiler and one size."""
    from torch._inductor import cpp_builder, exc

    if size is None:
        raise ValueError("format aoti takes images of one size: give --size HEIGHTxWIDTH")
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise ValueError("format aoti needs a C++ compiler: install g++, or name one in CXX") from error


def require_exporter() -> None:
    """Raise ValueError with the cure where a package that writes ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error.name} is not installed: pip install "cgrseg[onnx]"') from error
