"""Blocks of others in the RCM's place (Table 6). All but one put a token mixer in RCA's seat and keep the rest.

The sizes that the paper prints identify these readings, to every digit.
"""

from __future__ import annotations

from collections.abc import Callable

from timm.layers.coord_attn import CoordAttn
from timm.layers.squeeze_excite import SEModule
from timm.models.inception_next import InceptionDWConv2d
from torch import Tensor, nn

from ..rcm import RectangularSelfCalibrationModule


class TransformerBlock(nn.Module):
    """x + attention(x), then x + MLP(x), the MLP with a depthwise 3×3 in its middle: TopFormer's block.

    The paper takes its self-attention from TopFormer and says that blocks, not mixers, are replaced. With 4 heads
    of 8 channels this gives its 4.1 G and 9.6 M; in RCA's seat, before RCM's own MLP, it would give 4.0 G.

    Args:
        channels: C.
        heads, key_channels: of the attention.
        mlp_ratio: hidden width of the MLP over C.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, channels: int, heads: int = 4, key_channels: int = 8, mlp_ratio: int = 2) -> None:
        super().__init__()
        hidden = channels * mlp_ratio
        self.attention = SelfAttention(channels=channels, heads=heads, key_channels=key_channels)
        self.mlp = nn.Sequential(
            _pointwise(channels, hidden),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.ReLU6(inplace=True),
            _pointwise(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out


class SelfAttention(nn.Module):
    """1×1(ReLU(v·softmax(qᵀk/√d))) over all pixels, every 1×1 with BatchNorm.

    Args:
        channels: C.
        heads, key_channels: number of heads and d, the width of q, k and v of each.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, channels: int, heads: int, key_channels: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * key_channels
        self.query = _pointwise(channels, inner)
        self.key = _pointwise(channels, inner)
        self.value = _pointwise(channels, inner)
        self.project = nn.Sequential(nn.ReLU(), _pointwise(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(part(x)) for part in (self.query, self.key, self.value))  # B heads d H·W
        scores = q.transpose(2, 3) @ k * q.shape[2] ** -0.5  # B heads H·W H·W
        mixed = v @ scores.softmax(dim=3).transpose(2, 3)  # B heads d H·W
        out: Tensor = self.project(mixed.reshape(x.shape[0], mixed.shape[1] * mixed.shape[2], *x.shape[2:]))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[B, heads·d, H, W] -> [B, heads, d, H·W]."""
        return x.reshape(x.shape[0], self.heads, x.shape[1] // self.heads, x.shape[2] * x.shape[3])


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def convnext(channels: int) -> nn.Module:
    """ConvNeXt's mixer, a depthwise 7×7."""
    return nn.Conv2d(channels, channels, 7, padding=3, groups=channels)


def inceptionnext(channels: int) -> nn.Module:
    """InceptionNeXt's mixer: depthwise 3×3, 1×11 and 11×1, each on an eighth of the channels."""
    return InceptionDWConv2d(channels)


def coord_attention(channels: int) -> nn.Module:
    """Coordinate attention: one gate a row and one a column, through a quarter of the channels."""
    return CoordAttn(channels, rd_channels=channels // 4, bias=True)


def gather_excite(channels: int) -> nn.Module:
    """Gather-excite over the whole map: one gate a channel, an MLP of full width on its means.

    With this extent it is squeeze-and-excitation without a squeeze, so that block of timm's is taken
    (timm's own gather-excite can't be built with an MLP in 1.0.31).
    """
    return SEModule(channels, rd_channels=channels)


def _rcm(make_mixer: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """channels -> an RCM with this mixer in RCA's seat."""
    return lambda channels: RectangularSelfCalibrationModule(channels=channels, token_mixer=make_mixer(channels))


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "self_attention": lambda channels: TransformerBlock(channels=channels),
    "convnext": _rcm(convnext),
    "inceptionnext": _rcm(inceptionnext),
    "coord_attention": _rcm(coord_attention),
    "gather_excite": _rcm(gather_excite),
}
