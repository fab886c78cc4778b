"""DeepLabV3+ (Chen et al., ECCV 2018) from segmentation_models_pytorch: the library's, and as Table 1 counts it."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
from segmentation_models_pytorch.decoders.deeplabv3.decoder import (  # type: ignore[import-untyped]
    DeepLabV3PlusDecoder,
)
from torch import nn


def build(size: str, num_classes: int) -> nn.Module:
    """Build "mobilenet_v2_d16", "r101_d16" (the library's models) or "mobilenet_v2_d8" (Table 1).

    Shape: images [B, 3, H, W] with sides that are multiples of 16 (8) -> logits [B, K, H/4, W/4].
    """
    if size == "mobilenet_v2_d8":
        return _stride_8(num_classes)
    encoder = {"mobilenet_v2_d16": "mobilenet_v2", "r101_d16": "resnet101"}[size]
    return _without_upsampling(smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=num_classes))


def _stride_8(num_classes: int) -> nn.Module:
    """MobileNetV2 as Table 1 counts it: features at stride 8, a decoder of 512 channels.

    Differences from the library's model: no 1280 channels at the end of the encoder, a 3x3 convolution after the
    pyramid, and both separable convolutions after the concatenation with stride 4.
    """
    sizes: dict[str, Any] = {"atrous_rates": (12, 24, 36), "output_stride": 8}
    model = smp.DeepLabV3Plus(
        "mobilenet_v2", encoder_weights=None, classes=num_classes, encoder_output_stride=8, decoder_channels=512
    )
    channels = (*model.encoder.out_channels[:-1], 320)
    model.encoder.features[-1] = nn.Identity()
    decoder = DeepLabV3PlusDecoder(channels, 5, 512, aspp_separable=True, aspp_dropout=0.1, **sizes)
    pyramid, *separable = decoder.aspp
    pyramid.project[0] = nn.Conv2d(5 * 512, 512, 3, padding=1, bias=False)
    decoder.aspp = nn.Sequential(pyramid)
    decoder.block2.extend(separable)
    model.decoder = decoder
    return _without_upsampling(model)


def _without_upsampling(model: Any) -> nn.Module:
    model.segmentation_head[1] = nn.Identity()  # upsampling is part of the label map
    network: nn.Module = model
    return network
