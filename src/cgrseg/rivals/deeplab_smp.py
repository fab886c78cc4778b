"""DeepLabV3+ as segmentation_models_pytorch has it, at stride 16: smaller than the one of Table 1."""

from __future__ import annotations

import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
from torch import nn


def build(name: str, num_classes: int) -> nn.Module:
    """Build "deeplabv3plus_mobilenet_v2" or "deeplabv3plus_r101" with random weights.

    Shape: images [B, 3, H, W] with sides that are multiples of 16 -> logits [B, K, H/4, W/4].
    """
    encoder = "resnet101" if "r101" in name else "mobilenet_v2"
    model = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=num_classes)
    model.segmentation_head[1] = nn.Identity()  # upsampling is part of the label map
    network: nn.Module = model
    return network
