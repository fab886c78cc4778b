"""Turn an exported float file into an int8 file: NNCF for OpenVINO, ONNX Runtime's quantiser for ONNX.

Weights of convolutions are quantised per output channel, their inputs per tensor, with ranges from images. If nothing
stays in float, OpenVINO's sums, products and attention are quantised as well: a third of the gain in speed. In
OpenVINO's int8 parts GELU becomes a hard swish: the exact GELU took almost a quarter of the time.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram
from tqdm import tqdm

from cgrseg._process import quiet
from cgrseg.images.bands import read_image
from cgrseg.inference.runtimes import METADATA_KEY, openvino_core
from cgrseg.preprocessing import Preprocessing

from .export import save_openvino

# Of the hard swish. Values from 1.85 to 1.9 change the fewest labels of nine CamVid val images.
SLOPE = 1.875
# OpenVINO's operations that stay in float if any convolution does.
BETWEEN = ("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "ReduceMean", "MatMul")


class Images:
    """Images as network inputs, float32 [1, C, H, W]; each iteration reads them again, so few are in memory.

    Raises:
        OSError, ValueError: during iteration, if an image cannot be read.
    """

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for path in tqdm(self.paths, desc="ranges", unit="image", leave=False, disable=None):
            yield self.preprocessing.prepare(read_image(path, self.preprocessing.channels))[0][None].numpy()


def groups_of(program: ExportedProgram) -> list[str]:
    """The part of the model that each convolution belongs to, in the order of the graph."""
    nodes = [node for node in program.graph.nodes if "conv2d" in str(node.target)]
    return [_group([path for path, _ in node.meta["nn_module_stack"].values()][-1]) for node in nodes]


def _group(module: str) -> str:
    """A module's dotted name -> "context", "reconstruction", "head" or "encoder", with the stage if it has one."""
    part, *rest = module.split(".")
    if part != "encoder":
        return part
    if rest[0] == "stem":  # EfficientFormerV2
        return "encoder stage 1"
    if rest[0] in ("stages", "downsamples"):  # a downsampling belongs to the next stage
        return f"encoder stage {int(rest[1]) + (2 if rest[0] == 'downsamples' else 1)}"
    if rest[0] in ("conv_stem", "blocks"):  # EfficientNet-Lite
        return f"encoder stage {int(rest[1]) + 1 if rest[0] == 'blocks' else 1}"
    return part


def quantize_openvino(source: Path, target: Path, images: Images, float_convolutions: Sequence[int], text: str) -> None:
    """Write an OpenVINO file as int8.

    Args:
        source, target: .xml files, each with its .bin.
        images: for calibration.
        float_convolutions: these stay in float, counted in the order of `groups_of`.
        text: the metadata of the file.
    """
    model = openvino_core().read_model(source)  # before nncf is imported, which otherwise starts its telemetry
    import nncf  # type: ignore[import-untyped]

    convolutions = [op for op in model.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    names = sorted((op.get_friendly_name() for op in convolutions), key=_place)
    floating = [names[index] for index in float_convolutions]
    _harden(model, floating)
    types = {op.get_type_name() for op in model.get_ops()}
    ignored = nncf.IgnoredScope(
        names=[*floating, *_by_constants(model)],
        types=[kind for kind in BETWEEN if kind in types] if float_convolutions else [],
    )
    nncf.set_log_level(logging.ERROR)
    with quiet(), redirect_stdout(io.StringIO()):  # progress bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images.paths),
            ignored_scope=ignored,
        )
    quantized.set_rt_info(text, METADATA_KEY)
    save_openvino(quantized, target)


def _by_constants(model: Any) -> list[str]:
    """The matrix products with constants other than weights: attention biases, pooling, class embedding.

    In int8 they would make everything that reads the same tensors run in float, convolutions as well.
    """
    changing: set[str] = set()
    found = []
    for op in model.get_ordered_ops():
        sources = [port.get_source_output().get_node() for port in op.inputs()]
        inputs = [source.get_friendly_name() for source in sources if source.get_type_name() != "Constant"]
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind == "Parameter" or (kind != "ShapeOf" and not changing.isdisjoint(inputs)):
            changing.add(name)
        if kind == "MatMul" and not changing.issuperset(inputs):
            found.append(name)
    return found


def _harden(model: Any, floating: Sequence[str]) -> None:
    """GELU(x) as h(SLOPE·x)/SLOPE with h(x) = x·relu6(x + 3)/6, unless a float convolution reads it."""
    from openvino import opset13  # type: ignore[import-untyped]

    slope = opset13.constant(np.float32(SLOPE))
    for op in model.get_ordered_ops():
        readers = {port.get_node().get_friendly_name() for port in op.output(0).get_target_inputs()}
        if op.get_type_name() == "Gelu" and readers.isdisjoint(floating):
            hard = opset13.divide(opset13.hswish(opset13.multiply(op.input_value(0), slope)), slope)
            hard.set_friendly_name(op.get_friendly_name())
            op.output(0).replace(hard.output(0))


def _place(name: str) -> int:
    """The number of a convolution in the traced graph: "convolution_12/aten…" -> 12, "convolution/…" -> 0."""
    found = re.match(r"convolution(?:_(\d+))?/", name)
    assert found is not None, f"unexpected name of a convolution in OpenVINO: {name}"
    return int(found[1] or 0)


def quantize_onnx(source: Path, target: Path, images: Images, float_convolutions: Sequence[int], text: str) -> None:
    """Write an ONNX file as int8, with QuantizeLinear and DequantizeLinear; the arguments of `quantize_openvino`."""
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image}

    model = onnx.load(source)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    with quiet():
        quantize_static(
            model,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip", "Relu"],  # ranges are those after ReLU6, which becomes a part of Conv
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[names[index] for index in float_convolutions],
        )
    quantized = onnx.load(target)
    del quantized.metadata_props[:]
    quantized.metadata_props.add(key=METADATA_KEY, value=text)
    onnx.save(quantized, target)
