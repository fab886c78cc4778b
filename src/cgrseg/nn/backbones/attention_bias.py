"""The learned bias of a query towards a key at a given distance, at any size of the token grid.

A table holds one value per head and distance (|Δrow|, |Δcolumn|), R×R of them, for a 512×512 image. There are two
ways to use it at other sizes (`mode`):

- "relative" resamples the table: on an axis with n key tokens, distance |Δ| reads the table bilinearly at
  |Δ|·(R-1)/(n-1), for each axis separately. Correct at any aspect ratio, also for ImageNet's smaller tables.
- "official" is what the released code does: it gathers the (query × key) matrix of the 512×512 grid and resizes
  *that* bicubically, which mixes neighbouring rows of tokens. Needed for parity with released checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.description import BiasMode

Grid = tuple[int, int]  # rows, columns of tokens


def resample_table(table: Tensor, size: Grid) -> Tensor:
    """[heads, R, R] -> [heads, *size]: distance i of n on an axis reads the table at i·(R-1)/(n-1), or 0 if n = 1.

    In a traced graph it is written as two matrix products, since runtimes differ in how they resize to one row.
    """
    if not torch.compiler.is_compiling():
        return F.interpolate(table[None], size, mode="bilinear", align_corners=True)[0]
    rows, columns = (_bilinear_weights(table.shape[1], n, table) for n in size)
    return rows[None] @ table @ columns.T[None]  # equal ranks, which some converters need


def table_fits(shape: Sequence[int], heads: int) -> bool:
    """Whether a tensor of this shape can be a table of any resolution: [heads, n·n]."""
    return len(shape) == 2 and shape[0] == heads and shape[1] > 0 and math.isqrt(shape[1]) ** 2 == shape[1]


class AttentionBias(nn.Module):
    """bias[head, query, key] for any grid of tokens.

    Args:
        heads: number of attention heads.
        resolution: R, the key tokens on a side of the grid that the table is built for. Loading a state dict
            whose table has another resolution, such as ImageNet's 7x7, replaces the table.
        stride: a query token for every `stride`-th key token, so Δ = stride·query - key.
        mode: "relative" or "official", see above.
    """

    def __init__(self, *, heads: int, resolution: int, stride: int = 1, mode: BiasMode = "relative") -> None:
        super().__init__()
        self.base_resolution, self.stride, self.mode = resolution, stride, mode
        self.table = nn.Parameter(torch.zeros(heads, resolution * resolution))  # row-major over (|Δrow|, |Δcolumn|)

    @property
    def resolution(self) -> int:
        """R of the current table."""
        return math.isqrt(self.table.shape[1])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        table = state_dict.get(prefix + "table")
        ours = self.table
        if table is not None and table.shape != ours.shape and table_fits(table.shape, ours.shape[0]):
            ours.data = ours.data.new_empty(table.shape)  # the same parameter, filled below
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def prepare(self, keys: Grid) -> Tensor:
        """What all queries share: the resampled table, or in official mode the matrix resized along the keys."""
        table = self.table.view(self.table.shape[0], self.resolution, self.resolution)
        if self.mode == "relative":
            return resample_table(table, keys)
        size = self.base_resolution  # fixed in the released code
        table = resample_table(table, (size, size))
        queries = -(-size // self.stride)
        matrix = self._gather(table, torch.arange(queries * queries, device=table.device), queries, (size, size))
        if keys[0] * keys[1] == size * size:
            return matrix
        return _bicubic(matrix, (matrix.shape[1], keys[0] * keys[1]))  # heads R²/stride² N

    def rows(self, prepared: Tensor, start: int, stop: int, queries: Grid, keys: Grid) -> Tensor:
        """bias [heads, stop - start, keys] of the query tokens `start` … `stop - 1` (row-major over the grid)."""
        if self.mode == "relative":
            index = torch.arange(start, stop, device=prepared.device)
            return self._gather(prepared, index, queries[1], keys)
        total = queries[0] * queries[1]
        if prepared.shape[1] == total:
            return prepared[:, start:stop]
        if stop - start == total:
            return _bicubic(prepared, (total, prepared.shape[2]))
        weights = _bicubic_weights(prepared.shape[1], total, prepared)[start:stop]  # b R²/stride²
        return torch.einsum("bq,hqk->hbk", weights, prepared)

    def forward(self, queries: Grid, keys: Grid) -> Tensor:
        """The whole bias: [heads, queries, keys]."""
        prepared, total = self.prepare(keys), queries[0] * queries[1]
        if self.mode == "official":
            return self.rows(prepared, 0, total, queries, keys)
        # One axis after the other copies whole rows. Token numbers are not divided, so a graph is valid for any grid.
        row, column = (
            (self.stride * torch.arange(q, device=prepared.device)[:, None] - torch.arange(k, device=prepared.device))
            for q, k in zip(queries, keys, strict=True)
        )
        wide = prepared.index_select(2, column.abs().flatten())  # heads hk wq·wk
        bias = wide.index_select(1, row.abs().flatten()).view(-1, queries[0], keys[0], queries[1], keys[1])
        return bias.transpose(2, 3).reshape(-1, total, keys[0] * keys[1])

    def _gather(self, table: Tensor, query: Tensor, query_columns: int, keys: Grid) -> Tensor:
        """table [heads, rows, columns], query token numbers [b] -> [heads, b, rows·columns]."""
        key_row = torch.arange(keys[0], device=table.device)
        key_column = torch.arange(keys[1], device=table.device)
        row = (self.stride * (query // query_columns)[:, None] - key_row).abs()  # b rows
        column = (self.stride * (query % query_columns)[:, None] - key_column).abs()  # b columns
        index = row[:, :, None] * keys[1] + column[:, None, :]  # b rows columns
        return table.flatten(1).index_select(1, index.flatten()).view(table.shape[0], *index.flatten(1).shape)


def _bilinear_weights(source: int, target: int, like: Tensor) -> Tensor:
    """[target, source]: row i interpolates at i·(source-1)/(target-1)."""
    place = torch.arange(target, dtype=like.dtype, device=like.device) * (source - 1)
    last = torch.arange(target, dtype=like.dtype, device=like.device).amax(0, keepdim=True).clamp(min=1)
    distance = (place / last)[:, None] - torch.arange(source, dtype=like.dtype, device=like.device)
    return (1 - distance.abs()).clamp(min=0)


def _bicubic(matrix: Tensor, size: Grid) -> Tensor:
    return F.interpolate(matrix[None], size, mode="bicubic", align_corners=False)[0]


def _bicubic_weights(source: int, target: int, like: Tensor) -> Tensor:
    """The bicubic resize of an axis as a matrix [target, source]."""
    identity = torch.eye(source, dtype=like.dtype, device=like.device)
    return _bicubic(identity[None], (target, source))[0]
