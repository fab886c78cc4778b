"""The rivals in OpenVINO, for the benchmark."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cgrseg._process import quiet
from cgrseg.inference.runtimes import import_openvino
from cgrseg.preprocessing import Size


def to_openvino(model: nn.Module, path: Path, size: Size) -> None:
    """Write a rival as OpenVINO IR in float32, for any batch of images of `size` (height, width).

    Raises:
        ValueError: OpenVINO cannot convert it.
    """
    openvino = import_openvino()
    example = torch.zeros(1, 3, *size)
    try:
        with quiet(), torch.no_grad():
            converted = openvino.convert_model(model.eval(), example_input=example, input=[-1, 3, *size])
    except Exception as error:  # the converter has its own error types
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"OpenVINO cannot convert {type(model).__name__} ({line}): run it as eager") from error
    openvino.save_model(converted, path, compress_to_fp16=False)
