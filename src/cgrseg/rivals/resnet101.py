"""ResNet-101 with outputs at stride 8, which DeepLabV3+, EncNet, CCNet, DANet, EMANet and HamNet share.

mmsegmentation's version: three 3×3 convolutions in the stem; strides of the last two stages replaced by dilation.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from cgrseg.nn.reconstruction import resize

from .layers import conv_norm

CHANNELS = (256, 512, 1024, 2048)  # at strides 4, 8, 8, 8
DROPOUT = 0.1


class OnResNet101(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, h, w] by a head for the four feature maps.

    Args:
        head: [c1, c2, c3, c4] at strides 4, 8, 8, 8 -> logits.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            "resnet101",
            pretrained=False,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            output_stride=8,
            stem_type="deep",
            stem_width=32,
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Dropout of channels, then 1×1."""
    return nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(channels, num_classes, 1))


class PyramidPooling(nn.Module):
    """DeepLabV3+'s separable atrous pyramid: [B, C, h, w] -> [B, D, h, w].

    Args:
        channels: C.
        width: D, also of every branch.
        rates: dilations; a 1×1 and a global mean are added to these branches.
    """

    def __init__(self, *, channels: int, width: int, rates: tuple[int, ...] = (12, 24, 36)) -> None:
        super().__init__()
        self.pooled = conv_norm(channels, width)
        self.branches = nn.ModuleList([conv_norm(channels, width)])
        self.branches.extend(separable(channels, width, dilation=rate) for rate in rates)
        self.project = conv_norm((2 + len(rates)) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = resize(self.pooled(x.mean((2, 3), keepdim=True)), x.shape[2:])
        out: Tensor = self.project(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        return out


def separable(in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3×3, then 1×1, each with BatchNorm and ReLU."""
    depthwise = conv_norm(in_channels, in_channels, 3, dilation=dilation, groups=in_channels)
    return nn.Sequential(*depthwise, *conv_norm(in_channels, out_channels))
