"""Affine steps a channel become part of the convolution beside them (computed in float64, stored in its own type)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold_output(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """norm(conv(x)) as one convolution, norm with its running statistics."""
    scale, shift = _affine(norm)
    return _replaced(conv, conv.weight.double() * _rows(scale, conv), _bias(conv) * scale + shift)


def fold_scale(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """scale ∘ conv(x) as one convolution, scale holding one number a channel."""
    scale = scale.detach().double().flatten()
    return _replaced(conv, conv.weight.double() * _rows(scale, conv), _bias(conv) * scale)


def fold_input(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """conv(norm(x)) as one convolution; only for 1×1 without groups, where no zero padding comes between."""
    assert conv.kernel_size == (1, 1) and conv.groups == 1
    scale, shift = _affine(norm)
    weight = conv.weight.double()
    return _replaced(conv, weight * scale[None, :, None, None], _bias(conv) + weight[:, :, 0, 0] @ shift)


def fold_neighbours(layers: nn.Sequential) -> None:
    """Fold every Conv2d, BatchNorm2d pair; an identity takes the place of the BatchNorm, so numbers stay."""
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        # Exact types: a subclass may do more than its name says. Without running statistics a norm isn't affine.
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            layers[index], layers[index + 1] = fold_output(conv, norm), nn.Identity()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """scale and shift of a BatchNorm with its running statistics."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return scale, shift


def _rows(scale: Tensor, conv: nn.Conv2d) -> Tensor:
    return scale.view(-1, *[1] * (conv.weight.ndim - 1))


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.double()


def _replaced(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The same convolution with other numbers."""
    with torch.device("meta"):
        other = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            padding_mode=conv.padding_mode,
        )
    other.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    other.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return other.eval()
