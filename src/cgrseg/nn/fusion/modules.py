"""The modules of a fused model whose steps differ from those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones.attention import query_block_size
from ..backbones.attention_bias import AttentionBias, Grid
from ..prototype import PrototypeGate
from ..reconstruction import resize


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Sum(nn.Module):
    """first(x) + second(x)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x) + self.second(x)
        return out


class CachedAttentionBias(nn.Module):
    """The attention bias with the first talking-head map applied, cached for one grid of tokens.

    That map is linear over the heads, and resizing a bias leaves constants unchanged, so it is applied to the table.
    The cache is not part of the state: copies and loaded weights start without it.

    Args:
        bias: the bias; its table is replaced.
        mix: the talking-head map, or None.
    """

    def __init__(self, *, bias: AttentionBias, mix: nn.Conv2d | None) -> None:
        super().__init__()
        self.bias = bias
        if mix is not None:
            table = mix.weight.double()[:, :, 0, 0] @ bias.table.double()
            if mix.bias is not None:
                table = table + mix.bias.double()[:, None]
            bias.table.data = table.to(bias.table.dtype)
        self._cached: tuple[Any, Tensor] | None = None

    def forward(self, queries: Grid, keys: Grid) -> Tensor:
        """bias [heads, queries, keys]; a traced graph computes it."""
        if torch.compiler.is_compiling() or self.bias.table.is_meta:
            bias: Tensor = self.bias(queries, keys)
            return bias
        table = self.bias.table
        changes = 0 if table.is_inference() else table._version
        key = (queries, keys, table.dtype, table.device, table.data_ptr(), changes)
        cached = self._cached  # read once: another thread may replace it
        if cached is None or cached[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                cached = key, self.bias(queries, keys).contiguous()
            self._cached = cached
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


class FusedAttention(nn.Module):
    """`Attention` and `HalvingAttention` with folded convolutions, the scale in the query, and a cached bias.

    Args:
        heads: number of heads.
        reduce, query, key, value, local, project: the folded steps; the last follows a GELU.
        bias: the unfolded bias.
        talk: both talking-head maps, or None.
        enlarge: upsample bilinearly to the size of the input.

    Shape: [B, C, H, W] -> [B, C', H, W], or the query's grid where that is halved.
    """

    def __init__(
        self,
        *,
        heads: int,
        reduce: nn.Module,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        local: nn.Module,
        bias: AttentionBias,
        talk: tuple[nn.Conv2d, nn.Conv2d] | None,
        project: nn.Conv2d,
        enlarge: bool,
    ) -> None:
        super().__init__()
        self.heads, self.enlarge = heads, enlarge
        self.reduce, self.query, self.key, self.value, self.local = reduce, query, key, value, local
        _scale_last(query, heads)
        self.bias = CachedAttentionBias(bias=bias, mix=talk[0] if talk else None)
        # Convolutions: as matrix products with a bias, OpenVINO's int8 computes them wrongly.
        self.mix = _unbiased(talk[0]) if talk else None
        self.talk = talk[1] if talk else None
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.reduce(x)
        query, value = self.query(x), self.value(x)
        mixed = self.attend(query, self.key(x), value) + self.local(value)
        if self.enlarge:
            mixed = resize(mixed, size)
        out: Tensor = self.project(F.gelu(mixed))
        return out

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(q·k + bias)·v -> [B, heads·dv, hq, wq], in exact blocks of queries where the scores are large."""
        queries, keys = (query.shape[2], query.shape[3]), (key.shape[2], key.shape[3])
        q, k, v = (self._split(x) for x in (query, key, value))  # B·heads Nq d, B·heads Nk d, B·heads Nk dv
        total = queries[0] * queries[1]
        tracing = torch.compiler.is_compiling() or query.is_meta
        step = total if tracing else query_block_size(q, k.transpose(1, 2))
        if step >= total:
            mixed = self._block(q, k, v, self.bias(queries, keys))
        else:  # a bias of this size is not cached either
            bias = self.bias.bias
            prepared = bias.prepare(keys)
            parts = []
            for start in range(0, total, step):
                stop = min(start + step, total)
                rows = bias.rows(prepared, start, stop, queries, keys)
                parts.append(self._block(q[:, start:stop], k, v, rows))
            mixed = torch.cat(parts, dim=1)
        mixed = mixed.view(query.shape[0], self.heads, total, -1).transpose(1, 2)  # B Nq heads dv
        mixed = mixed.reshape(query.shape[0], *queries, -1).permute(0, 3, 1, 2)
        # Channels-last strides would fix a traced graph to batches of more than one.
        return mixed.clone(memory_format=torch.contiguous_format) if tracing else mixed

    def _split(self, x: Tensor) -> Tensor:
        """[B, heads·d, h, w] -> [B·heads, h·w, d]: a copy of whole rows where images are channels-last.

        Three axes for bmm: `@` with four axes would add copies to a graph.
        """
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch, height * width, self.heads, channels // self.heads)
        return rows.transpose(1, 2).flatten(0, 1)

    def _block(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """q [B·heads, b, d], k, v [B·heads, Nk, d or dv], bias [heads, b, Nk] -> [B·heads, b, dv]."""
        scores = q.bmm(k.transpose(1, 2)).view(-1, *bias.shape)  # B heads b Nk
        if self.mix is not None:
            scores = self.mix(scores)
        attention = (scores + bias).softmax(dim=3)
        if self.talk is not None:
            attention = self.talk(attention)
        return attention.flatten(0, 1).bmm(v)


class FusedContextFusion(nn.Module):
    """`ContextFusion` with relu6(z + 3)/6 as a clamp; `context` computes (z + 3)/6."""

    def __init__(self, *, local: nn.Conv2d, context: nn.Conv2d) -> None:
        super().__init__()
        self.local, self.context = local, context

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        gate = self.context(context).clamp(0, 1)  # B D h' w'
        fused: Tensor = self.local(local) * resize(gate, local.shape[2:])
        return fused


class FusedReconstruction(nn.Module):
    """`SpatialFeatureReconstruction` with each 1×1 before its upsampling, as bilinear weights sum to 1."""

    def __init__(self, *, lateral: nn.Module, calibrate: nn.Module, fuse: nn.Module) -> None:
        super().__init__()
        self.lateral, self.calibrate, self.fuse = lateral, calibrate, fuse

    def forward(self, pyramid: Sequence[Tensor], context: Sequence[Tensor]) -> Tensor:
        steps: Any = (self.lateral, self.calibrate, self.fuse)
        lateral, calibrate, fuse = steps
        fused: Tensor | None = None
        for scale in reversed(range(len(pyramid))):
            local = pyramid[scale]  # B C h w
            if fused is not None:
                local = local + resize(lateral[scale](fused), local.shape[2:])
            fused = fuse[scale](calibrate[scale](local), context[scale])  # B D h w
        assert fused is not None
        return fused


class FusedHead(nn.Module):
    """`DynamicPrototypeGuidedHead` without prototypes: the class embedding is applied to the pixels first.

    Constants that cancel in a softmax are left out, and x ∘ g + x becomes a classifier scaled by 1 + g.

    Shape: [B, D, h, w] -> [B, K, h, w].
    """

    def __init__(self, *, scale: nn.Conv2d, classifier: nn.Conv2d, gate: PrototypeGate) -> None:
        super().__init__()
        assert scale.bias is not None and classifier.bias is not None
        self.scale, self.shift = nn.Parameter(scale.weight[:, 0, 0]), nn.Parameter(scale.bias[:, None])
        self.weight, self.bias = nn.Parameter(classifier.weight[:, :, 0, 0]), nn.Parameter(classifier.bias[:, None])
        self.embedding = nn.Parameter(gate.conv_mask.weight[:, :, 0, 0])
        self.gate = gate.channel_mul_conv

    def forward(self, features: Tensor) -> Tensor:
        x = features.flatten(2)  # B D h·w
        copies = (x.shape[0], -1, -1)
        weight, embedding = self.weight.expand(copies), self.embedding.expand(copies)  # B K D, B 1 D
        share = weight.bmm(torch.relu(x * self.scale + self.shift)).softmax(dim=2)  # B K h·w, 1 over the pixels
        classes = share.bmm(embedding.bmm(x).transpose(1, 2)).softmax(dim=1)  # B K 1
        pixels = classes.transpose(1, 2).bmm(share)  # B 1 h·w, the weight of each pixel
        scene = x.bmm(pixels.transpose(1, 2))  # B D 1
        gate = self.gate(scene[..., None]).sigmoid()[..., 0]  # B D 1
        logits: Tensor = (weight * (1 + gate).transpose(1, 2)).bmm(x) + self.bias  # B K h·w
        return logits.view(*logits.shape[:2], *features.shape[2:])


def _unbiased(conv: nn.Conv2d) -> nn.Conv2d:
    with torch.device("meta"):
        other = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
    other.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
    return other


def _scale_last(query: nn.Module, heads: int) -> None:
    """Put 1/√d into the last convolution of the query, in place."""
    conv = [module for module in query.modules() if isinstance(module, nn.Conv2d)][-1]
    scale = (conv.out_channels // heads) ** -0.5
    for parameter in conv.parameters():
        parameter.data = (parameter.double() * scale).to(parameter.dtype)
