"""SenFormer (Bousselham et al., BMVC 2022) on ResNet-50 and ResNet-101: one transformer decoder per scale.

The logits are the logarithm of the decoders' summed probabilities, at stride 4. Each decoder applies one block six
times, as in the smaller variants of the method that Table 3 lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformerBlock  # type: ignore[import-untyped]

from cgrseg.nn.reconstruction import resize

from .layers import Attention

WIDTH, HEADS, PASSES, WINDOW = 512, 8, 6, 7
TINY = 1e-15


def build(name: str, num_classes: int) -> SenFormer:
    """Build "senformer_r50" or "senformer_r101" with random weights."""
    return SenFormer(backbone=name.replace("senformer_r", "resnet"), num_classes=num_classes)


class SenFormer(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]; `backbone` is a ResNet of timm."""

    def __init__(self, *, backbone: str, num_classes: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"stem_type": "deep", "stem_width": 32, "out_indices": (1, 2, 3, 4)}
        maps: Any = timm.create_model(backbone, pretrained=False, features_only=True, **options)
        self.backbone = maps
        self.pyramid = Pyramid(channels=maps.feature_info.channels())
        self.learners = nn.ModuleList(Learner(num_classes=num_classes) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pyramid(self.backbone(images))
        logits = [learner(x) for learner, x in zip(self.learners, maps, strict=True)]
        shares = torch.stack([resize(each, maps[0].shape[2:]).softmax(1) for each in logits])
        return shares.sum(0).clamp(min=TINY).log()


class Pyramid(nn.Module):
    """[c1, c2, c3, c4] -> four maps of 512 channels: top-down sums, then a window attention block each."""

    def __init__(self, *, channels: Sequence[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(wide, WIDTH, 1) for wide in channels)
        self.blocks = nn.ModuleList(SwinTransformerBlock(WIDTH, HEADS, [WINDOW] * 2, [0, 0]) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [layer(feature) for layer, feature in zip(self.laterals, features, strict=True)]
        for level in (2, 1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], maps[level].shape[2:], mode="nearest")
        return [block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for block, x in zip(self.blocks, maps, strict=True)]


class Learner(nn.Module):
    """Class embeddings attend to a map; their products with its pixels are logits. [B, C, h, w] -> [B, K, h, w]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(num_classes, WIDTH) * 0.02)
        self.norm_features, self.norm_classes = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.cross = Attention(channels=WIDTH, heads=HEADS)
        self.self_attention = Attention(channels=WIDTH, heads=HEADS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        pixels = self.norm_features(features.flatten(2).transpose(1, 2))  # B n C
        x = self.classes.expand(features.shape[0], -1, -1)  # B K C
        for _ in range(PASSES):
            x = x + self.cross(self.norms[0](x), pixels, pixels)
            normed = self.norms[1](x)
            x = x + self.self_attention(normed, normed, normed)
            x = x + self.mlp(self.norms[2](x))
        logits = self.norm_classes(x) @ pixels.transpose(1, 2)
        return torch.unflatten(logits, 2, features.shape[2:])
