"""Exact folding for inference: the same function with fewer steps (`fuse`), up to rounding.

What is folded: every BatchNorm and every scale a channel into the convolution beside it; the first talking-head
map into the attention bias, which is kept for the last size seen; the query's strided identity into the centre
tap of its 3×3; 1×1 before bilinear upsampling instead of after it; the head without prototypes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..backbones import efficientformerv2 as efficient
from ..model import CGRSeg, ModelSpec
from ..prototype import DynamicPrototypeGuidedHead, PrototypeGate, SpatialGather
from ..rcm import RectangularSelfCalibrationModule
from ..reconstruction import ContextFusion, ConvNorm, SpatialFeatureReconstruction
from .folding import fold_input, fold_neighbours, fold_output, fold_scale
from .modules import (
    FusedAttention,
    FusedContextFusion,
    FusedHead,
    FusedReconstruction,
    Residual,
    Sum,
)


class FusedCGRSeg(CGRSeg):
    """What `fuse` makes: called as a `CGRSeg`, but it can be neither trained nor saved as weights.

    Args:
        spec: of the model that it was.
        parts: encoder, context, reconstruction and head, folded.
    """

    def __init__(self, *, spec: ModelSpec, parts: dict[str, nn.Module]) -> None:
        nn.Module.__init__(self)
        self.spec = spec
        for name, part in parts.items():
            self.add_module(name, part)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FusedCGRSeg:
        """Refuse training: what training updates is folded away.

        Raises:
            ValueError: mode is True.
        """
        if mode:
            raise ValueError("a fused model can't be trained: train the model, then fuse it")
        super().train(False)
        return self


@torch.no_grad()
def fuse(model: CGRSeg) -> FusedCGRSeg:
    """Fold a model for inference; the model itself stays as it is, and later changes to it are not followed.

    Parts that are not known here (encoders of timm, parts that an ablation put in) are copied, with the
    convolution and BatchNorm pairs of their `nn.Sequential`s folded.

    Args:
        model: in evaluation mode, of any floating type and on any device. A fused one is returned as it is.

    Returns:
        The inference model, with the same .spec, .labels, .preprocessing and .card. In float64 its logits
        deviate from the model's by less than 1e-12.

    Raises:
        ValueError: the model, or a part of it, is in training mode.
    """
    if isinstance(model, FusedCGRSeg):
        return model
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before fuse(model)")
    parts = {name: _fused(copy.deepcopy(part)) for name, part in model.named_children()}
    fused = FusedCGRSeg(spec=model.spec, parts=parts)
    for name in ("labels", "preprocessing", "card"):
        if hasattr(model, name):
            setattr(fused, name, copy.copy(getattr(model, name)))
    return fused


def _fused(module: nn.Module) -> nn.Module:
    """The folded form of a module, which may be taken apart for it."""
    if type(module) in REWRITES:
        return REWRITES[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    if type(module) is nn.Sequential:
        fold_neighbours(module)
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


def _feed_forward_block(block: efficient.FeedForwardBlock) -> nn.Module:
    return Residual(_conv_mlp(block.mlp, block.layer_scale_2))


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
    tap.weight[:, 0, 1, 1] += 1  # x[::2, ::2] is the centre of a 3×3 of stride 2
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
    return FusedContextFusion(local=_pair(module.fuse1), context=_pair(module.fuse2))


def _reconstruction(module: SpatialFeatureReconstruction) -> nn.Module:
    return FusedReconstruction(
        lateral=_fused(module.lateral), calibrate=_fused(module.calibrate), fuse=_fused(module.fuse)
    )


def _head(head: DynamicPrototypeGuidedHead) -> nn.Module:
    if type(head.gather) is not SpatialGather or type(head.gate) is not PrototypeGate:
        return head  # an ablation's
    scale = _pair(cast(ConvNorm, head.linear_fuse[0]))
    return FusedHead(scale=scale, classifier=head.classifier, gate=head.gate)


def _pair(pair: ConvNorm) -> nn.Conv2d:
    return fold_output(pair.conv, pair.bn)


def _downsample(downsample: efficient.Downsample) -> nn.Module:
    return fold_output(downsample.proj, downsample.norm)


REWRITES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    efficient.FeedForwardBlock: _feed_forward_block,
    efficient.AttentionBlock: _attention_block,
    efficient.AttentionDownsample: _attention_downsample,
    efficient.Downsample: _downsample,
    RectangularSelfCalibrationModule: _calibration,
    ContextFusion: _context_fusion,
    ConvNorm: _pair,
    SpatialFeatureReconstruction: _reconstruction,
    DynamicPrototypeGuidedHead: _head,
}
