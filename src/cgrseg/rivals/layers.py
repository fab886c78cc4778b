"""What several rivals are built from."""

from __future__ import annotations

from torch import nn


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation; every halving rounds up."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), *([activation()] if activation else []))
