"""Exact folding for inference: `fuse` gives the same function with fewer steps, up to rounding.

Every BatchNorm and every per-channel scale is folded into the neighbouring convolution; the first talking-head map
into the attention bias, which is cached for the last size; the query's strided identity into the centre tap of its
3×3. A 1×1 is applied before bilinear upsampling instead of after it, and the head works without prototypes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from cgrseg.description import Description

from ..backbones import efficientformerv2 as efficient
from ..model import CGRSeg
from ..prototype import DynamicPrototypeGuidedHead, PrototypeGate, SpatialGather
from ..rcm import RectangularSelfCalibrationModule
from ..reconstruction import ContextFusion, ConvNorm, SpatialFeatureReconstruction
from .modules import FusedAttention, FusedContextFusion, FusedHead, FusedReconstruction, Residual, Sum


class FusedCGRSeg(CGRSeg):
    """The result of `fuse`: called like a `CGRSeg`, but cannot be trained or saved as weights.

    Args:
        description: of the original model.
        parts: encoder, context, reconstruction and head, folded.
    """

    def __init__(self, *, description: Description, parts: dict[str, nn.Module]) -> None:
        nn.Module.__init__(self)
        self.description = description
        for name, part in parts.items():
            self.add_module(name, part)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FusedCGRSeg:
        """Only evaluation mode exists: folded parameters cannot be trained.

        Raises:
            ValueError: mode is True.
        """
        if mode:
            raise ValueError("a fused model can't be trained: train the model, then fuse it")
        super().train(False)
        return self


@torch.no_grad()
def fuse(model: CGRSeg) -> FusedCGRSeg:
    """A folded copy of a model for inference. The model itself is not changed.

    Parts without a rule of their own (timm encoders, ablations) are copied; of these, convolution and BatchNorm pairs
    in an `nn.Sequential` are folded.

    Args:
        model: in evaluation mode, any floating type, any device. A fused model is returned as it is.

    Returns:
        The inference model with the same description. In float64 its logits deviate by less than 1e-12.

    Raises:
        ValueError: the model or a part of it is in training mode.
    """
    if isinstance(model, FusedCGRSeg):
        return model
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before fuse(model)")
    parts = {name: _fused(copy.deepcopy(part)) for name, part in model.named_children()}
    return FusedCGRSeg(description=model.description, parts=parts)


def _fused(module: nn.Module) -> nn.Module:
    """The folded form of a module; the module itself may be changed."""
    if type(module) in REWRITES:
        return REWRITES[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    if type(module) is nn.Sequential:
        fold_neighbours(module)
    fold_pairs(module)
    return module


def _conv_mlp(mlp: efficient.ConvMlp, scale: Tensor | None = None) -> nn.Sequential:
    last = fold_output(mlp.fc2, mlp.norm2)
    return nn.Sequential(
        fold_output(mlp.fc1, mlp.norm1),
        nn.GELU(),
        fold_output(mlp.mid, mlp.mid_norm),
        nn.GELU(),
        last if scale is None else fold_scale(last, scale),
    )


def _attention_block(block: efficient.AttentionBlock) -> nn.Module:
    mixer = block.token_mixer
    attention = FusedAttention(
        heads=mixer.heads,
        reduce=_fused(mixer.stride_conv),
        query=_fused(mixer.q),
        key=_fused(mixer.k),
        value=_fused(mixer.v),
        local=_fused(mixer.v_local),
        bias=mixer.bias,
        talk=(mixer.talking_head1, mixer.talking_head2),
        project=fold_scale(_last_conv(mixer.proj), block.layer_scale_1),
        enlarge=mixer.halve,
    )
    return nn.Sequential(Residual(attention), Residual(_conv_mlp(block.mlp, block.layer_scale_2)))


def _attention_downsample(downsample: efficient.AttentionDownsample) -> nn.Module:
    mixer = downsample.attn
    tap = cast(nn.Conv2d, mixer.q.local[0])
    tap.weight[:, 0, 1, 1] += 1  # x[::2, ::2] is the centre tap of a 3×3 of stride 2
    attention = FusedAttention(
        heads=mixer.heads,
        reduce=nn.Identity(),
        query=nn.Sequential(tap, _fused(mixer.q.proj)),
        key=_fused(mixer.k),
        value=_fused(mixer.v),
        local=_fused(mixer.v_local),
        bias=mixer.bias,
        talk=None,
        project=_last_conv(mixer.proj),
        enlarge=False,
    )
    return Sum(attention, fold_output(downsample.conv, downsample.bn))


def _last_conv(projection: nn.Sequential) -> nn.Conv2d:
    """The 1×1 of [GELU, 1×1, BatchNorm], folded; the GELU is part of `FusedAttention`."""
    return fold_output(cast(nn.Conv2d, projection[1]), cast(nn.BatchNorm2d, projection[2]))


def _calibration(module: RectangularSelfCalibrationModule) -> nn.Module:
    mlp = module.mlp
    first, last = fold_input(module.norm, mlp.fc1), fold_scale(mlp.fc2, module.gamma)
    return Residual(nn.Sequential(_fused(module.token_mixer), first, mlp.act, last))


def _context_fusion(module: ContextFusion) -> nn.Module:
    context = _conv(module.fuse2)
    assert context.bias is not None
    sixth = torch.full((context.out_channels,), 1 / 6, dtype=torch.float64, device=context.weight.device)
    context.bias += 3
    return FusedContextFusion(local=_conv(module.fuse1), context=fold_scale(context, sixth))


def _head(head: DynamicPrototypeGuidedHead) -> nn.Module:
    if type(head.gather) is not SpatialGather or type(head.gate) is not PrototypeGate:
        return head  # changed by an ablation
    scale = _conv(cast(ConvNorm, head.linear_fuse[0]))
    return FusedHead(scale=scale, classifier=head.classifier, gate=head.gate)


def _conv(pair: ConvNorm) -> nn.Conv2d:
    return fold_output(pair.conv, pair.bn)


REWRITES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    efficient.FeedForwardBlock: lambda block: Residual(_conv_mlp(block.mlp, block.layer_scale_2)),
    efficient.AttentionBlock: _attention_block,
    efficient.AttentionDownsample: _attention_downsample,
    RectangularSelfCalibrationModule: _calibration,
    ContextFusion: _context_fusion,
    SpatialFeatureReconstruction: lambda module: FusedReconstruction(
        lateral=_fused(module.lateral), calibrate=_fused(module.calibrate), fuse=_fused(module.fuse)
    ),
    DynamicPrototypeGuidedHead: _head,
}


# Per-channel affine steps are folded into the neighbouring convolution, in place, and computed in float64.


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
