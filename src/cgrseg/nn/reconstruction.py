"""Spatial feature reconstruction: from stride 32 to 8, calibrate each scale and gate it by its context (Fig. 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from .rcm import RectangularSelfCalibrationModule


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned: [B, C, h, w] -> [B, C, *size]."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm. The released keys are `conv` and `bn`."""

    conv_norm_pairs = (("conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, *, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


def init_classifier(pointwise: nn.Conv2d) -> None:
    """Initial values of the 1×1 to logits: weights of standard deviation 0.01, biases 0."""
    nn.init.normal_(pointwise.weight, std=0.01)
    nn.init.zeros_(pointwise.get_parameter("bias"))


class ContextFusion(nn.Module):
    """fused = embed(local) ∘ resize(hard_sigmoid(embed(context))): the context gates the local features.

    Shape: local [B, C, h, w], context [B, C, h', w'] -> [B, D, h, w]; the hard sigmoid comes *before* the resize.
    """

    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__()
        self.fuse1 = ConvNorm(channels, width)  # of the local features
        self.fuse2 = ConvNorm(channels, width)  # of the context

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        gate = F.relu6(self.fuse2(context) + 3) / 6  # B D h' w', in 0 … 1
        fused: Tensor = self.fuse1(local) * resize(gate, local.shape[2:])
        return fused


class SpatialFeatureReconstruction(nn.Module):
    """From the coarsest scale to the finest: add the upsampled coarser map, calibrate with an RCM, fuse with context.

    Args:
        channels: (C2, C3, C4) of pyramid and context.
        width: D, the number of channels of every fused map.
        strip_kernel: of the three RCMs.
        make_block: channels -> a module [B, C, h, w] -> [B, C, h, w] that replaces each RCM; None builds RCMs.

    Shape: pyramid [c2, c3, c4], context [p2, p3, p4] -> fused_2 [B, D, h2, w2] at stride 8.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        width: int = 128,
        strip_kernel: int = 11,
        make_block: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, c, 1) for c in channels[:-1])  # D -> C2, C3
        make = make_block or partial(RectangularSelfCalibrationModule, strip_kernel=strip_kernel)
        self.calibrate = nn.ModuleList(make(channels=c) for c in channels)
        self.fuse = nn.ModuleList(ContextFusion(channels=c, width=width) for c in channels)

    def forward(self, pyramid: Sequence[Tensor], context: Sequence[Tensor]) -> Tensor:
        fused: Tensor | None = None
        for scale in reversed(range(len(pyramid))):
            local = pyramid[scale]  # B C h w
            if fused is not None:
                local = local + self.lateral[scale](resize(fused, local.shape[2:]))
            fused = self.fuse[scale](self.calibrate[scale](local), context[scale])  # B D h w
        assert fused is not None
        return fused
