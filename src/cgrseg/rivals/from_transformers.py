"""Models of the library transformers: SegFormer B0, B1, B2; MaskFormer and Mask2Former on Swin-T. Stride 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
    SwinConfig,
)

from .layers import semantic_scores

# depths and widths of the Mix Transformer, width of SegFormer's decoder
SIZES = {
    "b0": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
    "b1": ([2, 2, 2, 2], [64, 128, 320, 512], 256),
    "b2": ([3, 4, 6, 3], [64, 128, 320, 512], 768),
}
SWIN: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
SWIN |= {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def build(name: str, num_classes: int) -> nn.Module:
    """Build "segformer_b0", _b1 or _b2, "maskformer_swin_t" or "mask2former_swin_t" with random weights."""
    method, _, size = name.partition("_")
    if method == "segformer":
        return SegFormer(size=size, num_classes=num_classes)
    network: Any = MaskFormerForInstanceSegmentation if method == "maskformer" else Mask2FormerForUniversalSegmentation
    configuration: Any = MaskFormerConfig if method == "maskformer" else Mask2FormerConfig
    with torch.device("cpu"):  # Swin computes its drop rates when it is built, which the meta device cannot
        return MaskClassification(network(configuration(backbone_config=SwinConfig(**SWIN), num_labels=num_classes)))


class SegFormer(nn.Module):
    """SegFormer (Xie et al., NeurIPS 2021): images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, *, size: str, num_classes: int) -> None:
        super().__init__()
        depths, widths, width = SIZES[size]
        options: dict[str, Any] = {"depths": depths, "hidden_sizes": widths, "num_labels": num_classes}
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**options, decoder_hidden_size=width))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


class MixTransformer(nn.Module):
    """SegFormer's encoder: images [B, 3, H, W] -> maps at strides 4, 8, 16, 32."""

    def __init__(self, *, size: str) -> None:
        super().__init__()
        depths, self.channels, _ = SIZES[size]
        options: dict[str, Any] = {"depths": depths, "hidden_sizes": self.channels}
        self.network = SegformerModel(SegformerConfig(**options))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.network(pixel_values=images, output_hidden_states=True).hidden_states
        return maps


class MaskClassification(nn.Module):
    """MaskFormer (Cheng et al., NeurIPS 2021) and Mask2Former (CVPR 2022).

    Shape: images [B, 3, H, W] -> semantic scores [B, K, ⌈H/4⌉, ⌈W/4⌉], the sum over queries of class probability
    times mask, as in both papers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found = self.network(pixel_values=images)
        return semantic_scores(found.class_queries_logits, found.masks_queries_logits)
