"""DeepLabV3+ (Chen et al., ECCV 2018) as Table 1 counts it: stride 8, a pyramid and decoder of 512 channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cgrseg.nn.reconstruction import resize

from .layers import classifier, conv_norm
from .resnet101 import CHANNELS, OnResNet101

WIDTH, DETAIL = 512, 48
RATES = (12, 24, 36)  # dilations of the pyramid


def build(name: str, num_classes: int) -> nn.Module:
    """Build "deeplabv3plus_mobilenet_v2_d8" or "deeplabv3plus_r101_d8" with random weights."""
    if "r101" in name:
        return OnResNet101(DeepLabHead(channels=CHANNELS, num_classes=num_classes))
    return OnMobileNet(num_classes=num_classes)


class OnMobileNet(nn.Module):
    """MobileNetV2 with outputs at stride 8: images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        maps: Any = timm.create_model("mobilenetv2_100", pretrained=False, features_only=True, output_stride=8)
        self.backbone = maps
        self.head = DeepLabHead(channels=maps.feature_info.channels()[1:], num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images)[1:])
        return logits


class DeepLabHead(nn.Module):
    """[c1, c2, c3, c4] at strides 4, 8, 8, 8, with these channels -> logits at stride 4; c2 and c3 are not used."""

    def __init__(self, *, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(channels[-1])
        self.detail = conv_norm(channels[0], DETAIL)
        self.fuse = nn.Sequential(separable(WIDTH + DETAIL), separable(WIDTH))
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        detail = self.detail(features[0])
        context = resize(self.pyramid(features[-1]), detail.shape[2:])
        logits: Tensor = self.classifier(self.fuse(torch.cat([context, detail], dim=1)))
        return logits


class PyramidPooling(nn.Module):
    """Global mean, 1×1 and separable atrous convolutions, concatenated, then 3×3: [B, C, h, w] -> [B, 512, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = conv_norm(channels, WIDTH)
        self.branches = nn.ModuleList([conv_norm(channels, WIDTH)])
        self.branches.extend(separable(channels, dilation=rate) for rate in RATES)
        self.project = conv_norm((2 + len(RATES)) * WIDTH, WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = resize(self.pooled(x.mean((2, 3), keepdim=True)), x.shape[2:])
        out: Tensor = self.project(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        return out


def separable(channels: int, *, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3×3, then 1×1 to 512 channels, each with BatchNorm and ReLU."""
    depthwise = conv_norm(channels, channels, 3, dilation=dilation, groups=channels)
    return nn.Sequential(*depthwise, *conv_norm(channels, WIDTH))
