"""SeaFormer-L (Wan et al., ICLR 2023): squeezed axial attention on a mobile backbone. Logits at stride 8."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.backbones import DropPath
from cgrseg.nn.reconstruction import resize

from .layers import classifier, conv_norm

STEM = 32
# Per stage: the inverted residuals (kernel, expansion, channels, stride) before its attention blocks.
CONVOLUTIONS = (
    ((3, 3, 32, 1), (3, 4, 64, 2), (3, 4, 64, 1)),
    ((5, 4, 128, 2), (5, 4, 128, 1)),
    ((3, 4, 192, 2), (3, 4, 192, 1)),
    ((5, 4, 256, 2),),
    ((3, 6, 320, 2),),
)
ATTENTION = ((192, 16, 2), (256, 20, 4), (320, 24, 6))  # channels, key channels, MLP ratio of the last three stages
BLOCKS, HEADS, VALUE_RATIO = 3, 8, 2
POSITIONS = 16  # length of the learned position embeddings
FUSED = (128, 160, 192)  # channels of the three fusions
DROP_PATH = 0.1


def build(name: str, num_classes: int) -> SeaFormer:
    """Build "seaformer_l" with random weights."""
    return SeaFormer(num_classes=num_classes)


class SeaFormer(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.stem, channels = conv_norm(3, STEM, 3, stride=2), STEM
        self.stages = nn.ModuleList()
        for blocks in CONVOLUTIONS:
            layers = nn.Sequential()
            for kernel, expansion, width, stride in blocks:
                layers.append(InvertedResidual(channels, width, kernel=kernel, expansion=expansion, stride=stride))
                channels = width
            self.stages.append(layers)
        for stage, (width, key, ratio) in zip(self.stages[-3:], ATTENTION, strict=True):
            rates = [DROP_PATH * number / (BLOCKS - 1) for number in range(BLOCKS)]
            stage.extend(  # type: ignore[operator]
                Block(channels=width, key_channels=key, mlp_ratio=ratio, drop_path=rate) for rate in rates
            )
        details = (CONVOLUTIONS[1][-1][2], *FUSED[:-1])
        self.fusions = nn.ModuleList(
            Fusion(detail=detail, context=context, channels=width)
            for detail, (context, _, _), width in zip(details, ATTENTION, FUSED, strict=True)
        )
        self.smooth = conv_norm(FUSED[-1], FUSED[-1], groups=FUSED[-1])
        self.classifier = classifier(FUSED[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages[0](self.stem(images))
        x = fused = self.stages[1](x)  # stride 8
        for stage, fusion in zip(self.stages[2:], self.fusions, strict=True):
            x = stage(x)  # strides 16, 32, 64
            fused = fusion(fused, x)
        logits: Tensor = self.classifier(self.smooth(fused))
        return logits


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection; with a residual where the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            conv_norm(in_channels, hidden),
            conv_norm(hidden, hidden, kernel, stride=stride, groups=hidden),
            conv_norm(hidden, out_channels, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class Block(nn.Module):
    """x + attention(x), then x + MLP(x) with a depthwise 3×3 between its two 1×1. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, *, channels: int, key_channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        hidden = channels * mlp_ratio
        self.attention = AxialAttention(channels=channels, key_channels=key_channels)
        self.mlp = nn.Sequential(
            conv_norm(channels, hidden, activation=None),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.ReLU6(),
            conv_norm(hidden, channels, activation=None),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(x))
        out: Tensor = x + self.drop_path(self.mlp(x))
        return out


class AxialAttention(nn.Module):
    """Attention among row means and among column means, gating a convolution of queries, keys and values.

    Args:
        channels: C.
        key_channels: per head, of queries and keys; values have twice as many.
    """

    def __init__(self, *, channels: int, key_channels: int) -> None:
        super().__init__()
        keys, values = HEADS * key_channels, HEADS * key_channels * VALUE_RATIO
        self.scale = key_channels**-0.5
        self.query = conv_norm(channels, keys, activation=None)
        self.key = conv_norm(channels, keys, activation=None)
        self.value = conv_norm(channels, values, activation=None)
        self.positions = nn.ParameterDict(
            {f"{axis}_{side}": torch.randn(1, keys, POSITIONS) for axis in ("row", "column") for side in "qk"}
        )
        self.encode = nn.ModuleDict({axis: _gate(values, values) for axis in ("row", "column")})
        self.project = _gate(values, channels)
        joined = 2 * keys + values
        self.detail = nn.Sequential(
            conv_norm(joined, joined, 3, groups=joined, activation=nn.ReLU6),
            conv_norm(joined, channels, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        detail = self.detail(torch.cat([q, k, v], dim=1))
        rows = self._attend("row", q.mean(3), k.mean(3), v.mean(3))[..., None]  # B C h 1
        columns = self._attend("column", q.mean(2), k.mean(2), v.mean(2))[:, :, None]  # B C 1 w
        gate = self.project(v + self.encode["row"](rows) + self.encode["column"](columns))
        out: Tensor = F.hardsigmoid(gate) * detail
        return out

    def _attend(self, axis: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys, values [B, C, n] -> [B, C, n]."""
        q = q + F.interpolate(self.positions[f"{axis}_q"], size=q.shape[2], mode="linear", align_corners=False)
        k = k + F.interpolate(self.positions[f"{axis}_k"], size=k.shape[2], mode="linear", align_corners=False)
        q, k, v = (torch.unflatten(part, 1, (HEADS, -1)) for part in (q, k, v))  # B heads c n
        attention = (q.transpose(2, 3) @ k * self.scale).softmax(3)
        out: Tensor = (v @ attention.transpose(2, 3)).flatten(1, 2)
        return out


def _gate(in_channels: int, out_channels: int) -> nn.Sequential:
    """ReLU6, 1×1, and a BatchNorm that starts at 0."""
    norm = nn.BatchNorm2d(out_channels)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.ReLU6(), nn.Conv2d(in_channels, out_channels, 1, bias=False), norm)


class Fusion(nn.Module):
    """1×1(detail) times the hard sigmoid of 1×1(context), resized to the detail's size."""

    def __init__(self, *, detail: int, context: int, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(detail, channels, activation=None)
        self.gate = conv_norm(context, channels, activation=None)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.detail(detail) * resize(F.hardsigmoid(self.gate(context)), detail.shape[2:])
        return out
