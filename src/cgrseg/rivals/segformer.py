"""SegFormer B0, B1, B2 (Xie et al., NeurIPS 2021), from transformers. Logits at stride 4."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

SIZES = {  # depths, widths, width of the decoder
    "b0": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
    "b1": ([2, 2, 2, 2], [64, 128, 320, 512], 256),
    "b2": ([3, 4, 6, 3], [64, 128, 320, 512], 768),
}


def build(size: str, num_classes: int) -> SegFormer:
    """Build "b0", "b1" or "b2" with random weights."""
    depths, widths, width = SIZES[size]
    options: dict[str, Any] = {"depths": depths, "hidden_sizes": widths, "num_labels": num_classes}
    return SegFormer(SegformerForSemanticSegmentation(SegformerConfig(**options, decoder_hidden_size=width)))


class SegFormer(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, network: SegformerForSemanticSegmentation) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits
