"""Trace a network with torch.export for any batch, height and width, with tensors or images as input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic
from torch.nn import functional as F

from cgrseg._process import quiet
from cgrseg.description import Description
from cgrseg.nn.fusion import FusedCGRSeg
from cgrseg.preprocessing import Preprocessing, Size

from .runtimes import METADATA_KEY, import_openvino

Io = Literal["tensor", "image"]
TRACED = (2, 96, 160)  # batch and size of the example; all derived sizes differ


class ImageNetwork(nn.Module):
    """Images to label maps: everything except resizing the image.

    Args:
        network: images -> stride-8 logits.
        preprocessing: mean, std and padding are used; the caller resizes.

    Shape: uint8 [B, H, W, C] -> class ids [B, H, W], uint8 up to 256 classes, otherwise int32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, network: FusedCGRSeg, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.multiple = network, preprocessing.pad_multiple
        self.dtype = torch.uint8 if network.spec.num_classes <= 256 else torch.int32
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, photos: Tensor) -> Tensor:
        # Contiguous, or torch.export traces channels-last strides and fixes the graph to more than one image.
        images = (photos.permute(0, 3, 1, 2).contiguous().float() - self.mean) / self.std  # B C H W
        height, width, multiple = photos.shape[1], photos.shape[2], self.multiple
        below = (height + multiple - 1) // multiple * multiple - height
        right = (width + multiple - 1) // multiple * multiple - width
        logits = self.network(F.pad(images, (0, right, 0, below)))
        padded = F.interpolate(logits, (height + below, width + right), mode="bilinear", align_corners=False)
        return padded[:, :, :height, :width].argmax(1).to(self.dtype)


def trace(
    network: FusedCGRSeg, *, io: Io = "tensor", preprocessing: Preprocessing, size: Size | None = None
) -> ExportedProgram:
    """Trace a folded network.

    Args:
        network: float32, on the CPU.
        io: "tensor": normalised images -> logits; "image": see `ImageNetwork`.
        preprocessing: of "image".
        size: the only (height, width) of the graph; None for any from 32 ("image": from 1, with padding).

    Raises:
        ValueError: no size is given for a network with bias mode "official".
    """
    if size is None and network.spec.bias_mode == "official":
        raise ValueError('bias mode "official" cannot be traced for any size: give --size HEIGHTxWIDTH')
    batch, height, width = (TRACED[0], *(size or TRACED[1:]))
    channels = network.spec.in_channels
    free = None if size else Dim.DYNAMIC
    with quiet(), torch.no_grad(), symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        if io == "image":
            model: nn.Module = ImageNetwork(network=network, preprocessing=preprocessing).eval()
            example = torch.zeros(batch, height, width, channels, dtype=torch.uint8)
            shapes = {0: Dim.DYNAMIC, 1: free, 2: free}
        else:
            model, example = network, torch.zeros(batch, channels, height, width)
            shapes = {0: Dim.DYNAMIC, 2: free, 3: free}
        return torch.export.export(model, (example,), dynamic_shapes=(shapes,), strict=False)


def save_graph(model: Any, path: Path) -> None:
    """Write an OpenVINO model as .xml and .bin.

    Raises:
        OSError: they cannot be written.
    """
    try:
        import_openvino().save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError(f"{path.name} cannot be written: make room on the disk") from error


def to_openvino(program: ExportedProgram, text: str = "") -> Any:
    """Convert a traced network to an OpenVINO model, with `text` as its metadata."""
    with quiet():
        model = import_openvino().convert_model(program)
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    shape = [side if isinstance(side, int) else -1 for side in node.meta["val"].shape]
    model.reshape(shape)  # the converter keeps only the rank; known sides are 1.3 times as fast
    model.outputs[0].get_tensor().set_names({"labels" if len(model.outputs[0].get_partial_shape()) == 3 else "logits"})
    model.set_rt_info(text, METADATA_KEY)
    return model


def metadata(
    description: Description, *, io: Io = "tensor", size: Size | None = None, precision: str = "float32"
) -> str:
    """The text that exported files carry."""
    table = {"model": description.to_dict(), "io": io, "size": size, "precision": precision}
    return json.dumps(table, ensure_ascii=False)
