"""MaskFormer (Cheng et al., NeurIPS 2021) and Mask2Former (CVPR 2022) on Swin-T, from transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    SwinConfig,
)


def build(size: str, num_classes: int) -> MaskClassification:
    """Build "maskformer" or "mask2former" with random weights."""
    swin: dict[str, Any] = {
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": [f"stage{number}" for number in (1, 2, 3, 4)],
    }
    options: dict[str, Any] = {"backbone_config": SwinConfig(**swin), "num_labels": num_classes}
    with torch.device("cpu"):  # Swin computes its drop rates when it is built, which the meta device cannot
        if size == "maskformer":
            return MaskClassification(MaskFormerForInstanceSegmentation(MaskFormerConfig(**options)))
        return MaskClassification(Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**options)))


class MaskClassification(nn.Module):
    """images [B, 3, H, W] -> semantic scores [B, K, ⌈H/4⌉, ⌈W/4⌉].

    The scores are the sum over queries of class probability times mask, as in both papers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found = self.network(pixel_values=images)
        return semantic_scores(found.class_queries_logits, found.masks_queries_logits)


def semantic_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits of queries [B, Q, K + 1] (the last is "no object") and masks [B, Q, h, w] -> scores [B, K, h, w]."""
    shares = classes.softmax(-1)[..., :-1].transpose(1, 2)  # B K Q
    return torch.unflatten(shares @ masks.sigmoid().flatten(2), 2, masks.shape[2:])
