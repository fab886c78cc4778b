"""The network as a graph of torch.export, for any batch, height and width, with tensors or pictures as inputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic
from torch.nn import functional as F

from cgrseg._process import quiet
from cgrseg.nn.fusion import FusedCGRSeg
from cgrseg.preprocessing import Preprocessing, Size

Io = Literal["tensor", "image"]
TRACED = (2, 96, 160)  # batch and size of the example; no two of the numbers that follow from them are equal


class PictureNetwork(nn.Module):
    """Photos in, label maps out: all of the way that needs no resizing of the photo.

    Args:
        network: images -> stride-8 logits.
        preprocessing: its mean, std and padding are used; its resizing is left to the caller.

    Shape: photos uint8 [B, H, W, 3] RGB -> class ids [B, H, W], uint8 to 256 classes, else int32.
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
        # Contiguous, or torch.export traces channels last and ties the graph to more than one photo.
        images = (photos.permute(0, 3, 1, 2).contiguous().float() - self.mean) / self.std  # B 3 H W
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
        io: "tensor": images -> logits, as the network; "image": see `PictureNetwork`.
        preprocessing: of "image".
        size: the only (height, width) of the graph; None for any from 32 on ("image": from 1, where it pads).

    Raises:
        ValueError: any size is asked of a network in official bias mode.
    """
    if size is None and network.spec.bias_mode == "official":
        raise ValueError(
            'bias mode "official" depends on the size in a way that graphs can\'t follow: give --size HEIGHTxWIDTH'
        )
    batch, height, width = (TRACED[0], *(size or TRACED[1:]))
    free = None if size else Dim.DYNAMIC
    with quiet(), torch.no_grad(), symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        if io == "image":
            model: nn.Module = PictureNetwork(network=network, preprocessing=preprocessing).eval()
            example = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
            shapes = {0: Dim.DYNAMIC, 1: free, 2: free}
        else:
            model, example = network, torch.zeros(batch, 3, height, width)
            shapes = {0: Dim.DYNAMIC, 2: free, 3: free}
        return torch.export.export(model, (example,), dynamic_shapes=(shapes,), strict=False)
