"""DeepLabV3+ (Chen et al., ECCV 2018) as Table 1 counts it: stride 8, a pyramid and decoder of 512 channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cgrseg.nn.reconstruction import resize

from .layers import conv_norm
from .resnet101 import CHANNELS, OnResNet101, PyramidPooling, classifier, separable

WIDTH, DETAIL = 512, 48


def build(size: str, num_classes: int) -> nn.Module:
    """Build "mobilenet_v2" or "r101" with random weights: images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""
    if size == "r101":
        return OnResNet101(DeepLabHead(channels=CHANNELS, num_classes=num_classes))
    return OnMobileNet(num_classes=num_classes)


class OnMobileNet(nn.Module):
    """MobileNetV2 with outputs at stride 8, then the head."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        maps: Any = timm.create_model("mobilenetv2_100", pretrained=False, features_only=True, output_stride=8)
        self.backbone = maps
        self.head = DeepLabHead(channels=maps.feature_info.channels()[1:], num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images)[1:])
        return logits


class DeepLabHead(nn.Module):
    """[c1, c2, c3, c4] at strides 4, 8, 8, 8 -> logits at stride 4; c2 and c3 are not used.

    Args:
        channels: of the four maps.
        num_classes: K.
    """

    def __init__(self, *, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(channels=channels[-1], width=WIDTH)
        self.detail = conv_norm(channels[0], DETAIL)
        self.fuse = nn.Sequential(separable(WIDTH + DETAIL, WIDTH), separable(WIDTH, WIDTH))
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        detail = self.detail(features[0])
        context = resize(self.pyramid(features[-1]), detail.shape[2:])
        logits: Tensor = self.classifier(self.fuse(torch.cat([context, detail], dim=1)))
        return logits
