"""The attention bias follows the photo's size as its two modes promise."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cgrseg.nn.backbones.attention_bias import AttentionBias, resample_table


def make_bias(*, resolution: int = 16, stride: int = 1, mode: str = "relative") -> AttentionBias:
    bias = AttentionBias(heads=2, resolution=resolution, stride=stride, mode=mode).double()  # type: ignore[arg-type]
    torch.manual_seed(0)
    torch.nn.init.normal_(bias.table)
    return bias


def expected_relative(bias: AttentionBias, queries: tuple[int, int], keys: tuple[int, int]) -> torch.Tensor:
    """The definition, entry by entry, in plain arithmetic."""
    size, table = bias.resolution, bias.table.detach().view(2, bias.resolution, bias.resolution)

    def place(distance: int, count: int) -> float:
        return 0.0 if count == 1 else distance * (size - 1) / (count - 1)

    def read(row: float, column: float) -> torch.Tensor:
        r, c = min(int(row), size - 2), min(int(column), size - 2)
        dr, dc = row - r, column - c
        top = (1 - dc) * table[:, r, c] + dc * table[:, r, c + 1]
        bottom = (1 - dc) * table[:, r + 1, c] + dc * table[:, r + 1, c + 1]
        return (1 - dr) * top + dr * bottom

    out = torch.empty(2, queries[0] * queries[1], keys[0] * keys[1], dtype=torch.float64)
    for q in range(out.shape[1]):
        for k in range(out.shape[2]):
            row = abs(bias.stride * (q // queries[1]) - k // keys[1])
            column = abs(bias.stride * (q % queries[1]) - k % keys[1])
            out[:, q, k] = read(place(row, keys[0]), place(column, keys[1]))
    return out


@pytest.mark.parametrize("keys", [(5, 7), (1, 6), (6, 1), (17, 3), (16, 16)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_relative_mode_is_its_definition(keys: tuple[int, int], stride: int) -> None:
    bias = make_bias(stride=stride)
    queries = (-(-keys[0] // stride), -(-keys[1] // stride))
    torch.testing.assert_close(bias(queries, keys), expected_relative(bias, queries, keys), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("resolution", "stride"), [(16, 1), (32, 2)])
@torch.no_grad()
def test_both_modes_read_the_table_itself_at_512x512(resolution: int, stride: int) -> None:
    keys, queries = (resolution, resolution), (resolution // stride, resolution // stride)
    relative = make_bias(resolution=resolution, stride=stride)
    official = make_bias(resolution=resolution, stride=stride, mode="official")
    torch.testing.assert_close(relative(queries, keys), official(queries, keys), atol=0, rtol=0)
    table = relative.table.view(2, resolution, resolution)
    assert torch.equal(relative(queries, keys)[:, 0].view(2, resolution, resolution), table)


@torch.no_grad()
def test_flipping_queries_and_keys_together_changes_nothing() -> None:
    matrix = make_bias()((6, 9), (6, 9))
    torch.testing.assert_close(matrix.flip(1, 2), matrix, atol=0, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_the_transposed_table_on_the_transposed_grid_gives_the_transposed_bias(stride: int) -> None:
    bias, keys = make_bias(stride=stride), (10, 6)
    queries = (keys[0] // stride, keys[1] // stride)
    transposed = make_bias(stride=stride)
    transposed.table.copy_(bias.table.view(2, 16, 16).transpose(1, 2).reshape(2, 256))
    expected = bias(queries, keys).view(2, *queries, *keys).permute(0, 2, 1, 4, 3)
    out = transposed(queries[::-1], keys[::-1]).view(2, *queries[::-1], *keys[::-1])
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("queries", "keys"), [((15, 15), (15, 15)), ((20, 12), (20, 12)), ((5, 7), (5, 7))])
@torch.no_grad()
def test_official_mode_resizes_the_gathered_matrix_bicubically(queries: tuple[int, int], keys: tuple[int, int]) -> None:
    bias = make_bias(mode="official")
    gathered = bias((16, 16), (16, 16))
    size = (queries[0] * queries[1], keys[0] * keys[1])
    expected = F.interpolate(gathered[None], size, mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(bias(queries, keys), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["relative", "official"])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_rows_are_rows_of_the_whole(mode: str, stride: int) -> None:
    bias, keys = make_bias(stride=stride, mode=mode), (9, 14)
    queries = (-(-keys[0] // stride), -(-keys[1] // stride))
    whole, prepared, total = bias(queries, keys), bias.prepare(keys), queries[0] * queries[1]
    parts = [bias.rows(prepared, start, min(start + 8, total), queries, keys) for start in range(0, total, 8)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)


def test_a_table_keeps_its_corners_when_resampled() -> None:
    table = torch.randn(3, 7, 7)
    resampled = resample_table(table, (16, 16))
    torch.testing.assert_close(resampled[:, ::15, ::15], table[:, ::6, ::6])
