"""HRNet-W48 with OCR (Wang et al., TPAMI 2019; Yuan et al., ECCV 2020): pixels attend to regions. Stride 4."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.reconstruction import resize

from .layers import attend, conv_norm

WIDTH, KEYS, DROPOUT = 512, 256, 0.05


def build(size: str, num_classes: int) -> OCRNet:
    """Build "hr48" with random weights."""
    return OCRNet(backbone="hrnet_w48", num_classes=num_classes)


class OCRNet(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉].

    Args:
        backbone: name of an HRNet in timm.
        num_classes: K.
    """

    def __init__(self, *, backbone: str, num_classes: int) -> None:
        super().__init__()
        maps: Any = timm.create_model(
            backbone, pretrained=False, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
        self.backbone = maps
        self.head = OCRHead(channels=sum(maps.feature_info.channels()), num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        maps = self.backbone(F.pad(images, (0, -width % 32, 0, -height % 32)))  # its branches need equal halvings
        size = maps[0].shape[2:]
        logits: Tensor = self.head(torch.cat([resize(each, size) for each in maps], dim=1))
        return logits[..., : (height + 3) // 4, : (width + 3) // 4]


class OCRHead(nn.Module):
    """[B, C, h, w] -> logits [B, K, h, w].

    A first classifier gives the regions; each region's mean feature is what the pixels attend to.

    Args:
        channels: C.
        num_classes: K.
        first: width of a 3×3 before the first classifier, as in HRFormer; None has a 1×1 of width C.
    """

    def __init__(self, *, channels: int, num_classes: int, first: int | None = None) -> None:
        super().__init__()
        before = conv_norm(channels, channels) if first is None else conv_norm(channels, first, 3)
        self.regions = nn.Sequential(before, nn.Conv2d(first or channels, num_classes, 1))
        self.reduce = conv_norm(channels, WIDTH, 3)
        self.query = nn.Sequential(conv_norm(WIDTH, KEYS), conv_norm(KEYS, KEYS))
        self.key = nn.Sequential(conv_norm(WIDTH, KEYS), conv_norm(KEYS, KEYS))
        self.value, self.project = conv_norm(WIDTH, KEYS), conv_norm(KEYS, WIDTH)
        self.fuse = conv_norm(2 * WIDTH, WIDTH)
        self.classifier = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(WIDTH, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.regions(x).flatten(2).softmax(2)  # B K n
        x = self.reduce(x)
        regions = (x.flatten(2) @ shares.transpose(1, 2))[..., None]  # B C K 1
        q, k, v = (part.flatten(2).transpose(1, 2) for part in (self.query(x), self.key(regions), self.value(regions)))
        context = torch.unflatten(attend(q, k, v, heads=1).transpose(1, 2), 2, x.shape[2:])
        logits: Tensor = self.classifier(self.fuse(torch.cat([self.project(context), x], dim=1)))
        return logits
