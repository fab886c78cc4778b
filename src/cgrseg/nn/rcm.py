"""Rectangular self-calibration: the attention (RCA, eq. 2-3) and the module that contains it (RCM, eq. 4; Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgrseg.description import KeyArea


class RectangularSelfCalibrationAttention(nn.Module):
    """RCA: models a rectangular key area with one horizontal and one vertical strip convolution.

    attention = σ(conv_{K×1}(ReLU(BN(conv_{1×K}(mean_W(x) ⊕ mean_H(x)))))) and out = attention ∘ conv_{3×3}(x),
    with depthwise convolutions only (paper, eq. 2-3). Submodule names are those of the released code.

    Args:
        channels: C of the input and the output.
        strip_kernel: K, the length of both strips; odd. None removes the strips: attention = σ(area).
        local_kernel: side of the square depthwise convolution on x; odd. None removes it.
        key_area: how the two means are combined: "add" (the paper), "mul", or "none", which applies the strips to
            x itself (Table 8).

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(
        self,
        *,
        channels: int,
        strip_kernel: int | None = 11,
        local_kernel: int | None = 3,
        key_area: KeyArea = "add",
    ) -> None:
        super().__init__()
        strip, local = strip_kernel, local_kernel
        self.key_area = key_area
        self.dwconv_hw = (
            nn.Identity()
            if local is None
            else nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels)
        )
        self.excite = nn.Sequential(nn.Sigmoid())
        if strip is not None:
            self.excite = nn.Sequential(  # shape self-calibration: horizontal strip first
                nn.Conv2d(channels, channels, (1, strip), padding=(0, strip // 2), groups=channels),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, (strip, 1), padding=(strip // 2, 0), groups=channels),
                nn.Sigmoid(),
            )

    def area(self, x: Tensor) -> Tensor:
        """Input of the strips, [B, C, H, W]: the means over W and over H combined, one rectangle per channel."""
        if self.key_area == "none":
            return x
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)  # B C H 1, B C 1 W
        return rows * columns if self.key_area == "mul" else rows + columns

    def forward(self, x: Tensor) -> Tensor:
        attention: Tensor = self.excite(self.area(x))  # B C H W, in 0 … 1
        local: Tensor = self.dwconv_hw(x)
        return attention * local


class RectangularSelfCalibrationModule(nn.Module):
    """RCM: x + γ ∘ MLP(BN(RCA(x))), the block of context extraction and reconstruction (paper, eq. 4).

    Args:
        channels: C of the input and the output.
        strip_kernel: as in `RectangularSelfCalibrationAttention`.
        local_kernel: the same.
        key_area: the same.
        mlp_ratio: hidden width of the MLP divided by C.
        scale_init: initial value of γ, one value per channel.
        token_mixer: [B, C, H, W] -> [B, C, H, W], replaces RCA (Table 6); None uses RCA.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(
        self,
        *,
        channels: int,
        strip_kernel: int | None = 11,
        local_kernel: int | None = 3,
        mlp_ratio: int = 2,
        scale_init: float = 1e-6,
        key_area: KeyArea = "add",
        token_mixer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.token_mixer = token_mixer or RectangularSelfCalibrationAttention(
            channels=channels, strip_kernel=strip_kernel, local_kernel=local_kernel, key_area=key_area
        )
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = PointwiseMlp(channels=channels, hidden=channels * mlp_ratio)
        self.gamma = nn.Parameter(torch.full((channels,), scale_init))

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.mlp(self.norm(self.token_mixer(x)))
        return x + self.gamma[:, None, None] * update


class PointwiseMlp(nn.Module):
    """1×1 (C -> hidden), GELU, 1×1 (-> C)."""

    def __init__(self, *, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out
