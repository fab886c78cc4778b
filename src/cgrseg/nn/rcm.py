"""Rectangular self-calibration: the attention (RCA, eq. 2-3) and the module around it (RCM, eq. 4; Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RectangularSelfCalibrationAttention(nn.Module):
    """RCA: models a rectangular key area with one horizontal and one vertical strip convolution.

    attention = σ(conv_{K×1}(ReLU(BN(conv_{1×K}(mean_W(x) ⊕ mean_H(x)))))) and out = attention ∘ conv_{3×3}(x),
    every convolution depthwise (paper, eq. 2-3). Submodule names are the released ones.

    Args:
        channels: C of the input and the output.
        strip_kernel: K, the length of both strips; odd.
        local_kernel: side of the square depthwise convolution on x itself; odd.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, channels: int, strip_kernel: int = 11, local_kernel: int = 3) -> None:
        super().__init__()
        strip, local = strip_kernel, local_kernel
        self.dwconv_hw = nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels)
        self.excite = nn.Sequential(  # shape self-calibration: horizontal strip first, then the vertical one
            nn.Conv2d(channels, channels, (1, strip), padding=(0, strip // 2), groups=channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (strip, 1), padding=(strip // 2, 0), groups=channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        axial = x.mean(3, keepdim=True) + x.mean(2, keepdim=True)  # B C H 1 + B C 1 W -> B C H W
        attention: Tensor = self.excite(axial)  # B C H W, in 0 … 1
        local: Tensor = self.dwconv_hw(x)
        return attention * local


class RectangularSelfCalibrationModule(nn.Module):
    """RCM: x + γ ∘ MLP(BN(RCA(x))), the block of context extraction and of reconstruction (paper, eq. 4).

    Args:
        channels: C of the input and the output.
        strip_kernel, local_kernel: as in `RectangularSelfCalibrationAttention`.
        mlp_ratio: hidden width of the MLP over C.
        scale_init: start value of γ, one number a channel.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(
        self,
        *,
        channels: int,
        strip_kernel: int = 11,
        local_kernel: int = 3,
        mlp_ratio: int = 2,
        scale_init: float = 1e-6,
    ) -> None:
        super().__init__()
        self.token_mixer = RectangularSelfCalibrationAttention(
            channels=channels, strip_kernel=strip_kernel, local_kernel=local_kernel
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
