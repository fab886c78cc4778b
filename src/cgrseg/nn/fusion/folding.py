"""Fold per-channel affine steps into the neighbouring convolution, in place; computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold_output(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """norm(conv(x)) as one convolution, with the running statistics of norm."""
    scale, shift = _affine(norm)
    return _replaced(conv, conv.weight.double() * _rows(scale, conv), _bias(conv) * scale + shift)


def fold_scale(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """scale ∘ conv(x) as one convolution, with one scale per output channel."""
    scale = scale.detach().double().flatten()
    return _replaced(conv, conv.weight.double() * _rows(scale, conv), _bias(conv) * scale)


def fold_input(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """conv(norm(x)) as one convolution; only for 1×1 without groups, which have no zero padding."""
    assert conv.kernel_size == (1, 1) and conv.groups == 1
    scale, shift = _affine(norm)
    weight = conv.weight.double()
    return _replaced(conv, weight * scale[None, :, None, None], _bias(conv) + weight[:, :, 0, 0] @ shift)


def fold_neighbours(layers: nn.Sequential) -> None:
    """Fold every Conv2d, BatchNorm2d pair; an identity replaces the BatchNorm, so indices stay."""
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        # Exact types: a subclass may do more. Without running statistics a norm is not affine.
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            layers[index], layers[index + 1] = fold_output(conv, norm), nn.Identity()


def fold_pairs(module: nn.Module) -> None:
    """Fold the (convolution, BatchNorm) attributes that a module lists in `conv_norm_pairs`."""
    pairs: tuple[tuple[str, str], ...] = getattr(module, "conv_norm_pairs", ())
    for conv, norm in pairs:
        fold_output(getattr(module, conv), getattr(module, norm))
        setattr(module, norm, nn.Identity())


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
    """Set weight and bias of a convolution, in place."""
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return conv
