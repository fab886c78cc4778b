"""HRNet-W48 with OCR (Wang et al., TPAMI 2019; Yuan et al., ECCV 2020), and HRFormer S and B with OCR (Yuan et al.,
NeurIPS 2021), whose blocks attend within windows. OCR: pixels attend to regions. Stride 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.backbones import DropPath
from cgrseg.nn.reconstruction import resize

from .layers import attend, classifier, conv_norm

WIDTH, KEYS = 512, 256  # of OCR
SIZES = {  # of HRFormer: widths and heads of the branches at strides 4, 8, 16, 32; side of a window; drop path
    "s": ((32, 64, 128, 256), (1, 2, 4, 8), 7, 0.0),
    "b": ((78, 156, 312, 624), (2, 4, 8, 16), 15, 0.2),
}
BLOCKS = 2  # in each branch of a module
MODULES = (1, 4, 2)  # with 2, 3 and 4 branches


def build(name: str, num_classes: int) -> nn.Module:
    """Build "ocrnet_hr48", "hrformer_s" or "hrformer_b" with random weights."""
    if name == "ocrnet_hr48":
        return OCRNet(num_classes=num_classes)
    return HRFormer(size=name.removeprefix("hrformer_"), num_classes=num_classes)


class OCRNet(nn.Module):
    """HRNet-W48 with OCR: images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        maps: Any = timm.create_model(
            "hrnet_w48", pretrained=False, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
        self.backbone = maps
        self.head = OCRHead(channels=sum(maps.feature_info.channels()), num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        maps = self.backbone(F.pad(images, (0, -width % 32, 0, -height % 32)))  # its branches need equal halvings
        size = maps[0].shape[2:]
        logits: Tensor = self.head(torch.cat([resize(each, size) for each in maps], dim=1))
        return logits[..., : (height + 3) // 4, : (width + 3) // 4]


class OCRHead(nn.Module):
    """[B, C, h, w] -> logits [B, K, h, w].

    A first classifier gives the regions; each region's mean feature is what the pixels attend to. `first` is the width
    of a 3×3 before that classifier, as in HRFormer; None has a 1×1 of width C.
    """

    def __init__(self, *, channels: int, num_classes: int, first: int | None = None) -> None:
        super().__init__()
        before = conv_norm(channels, channels) if first is None else conv_norm(channels, first, 3)
        self.regions = nn.Sequential(before, nn.Conv2d(first or channels, num_classes, 1))
        self.reduce = conv_norm(channels, WIDTH, 3)
        self.query = nn.Sequential(conv_norm(WIDTH, KEYS), conv_norm(KEYS, KEYS))
        self.key = nn.Sequential(conv_norm(WIDTH, KEYS), conv_norm(KEYS, KEYS))
        self.value, self.project = conv_norm(WIDTH, KEYS), conv_norm(KEYS, WIDTH)
        self.fuse = conv_norm(2 * WIDTH, WIDTH)
        self.classifier = classifier(WIDTH, num_classes, dropout=0.05)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.regions(x).flatten(2).softmax(2)  # B K n
        x = self.reduce(x)
        regions = (x.flatten(2) @ shares.transpose(1, 2))[..., None]  # B C K 1
        q, k, v = (part.flatten(2).transpose(1, 2) for part in (self.query(x), self.key(regions), self.value(regions)))
        context = torch.unflatten(attend(q, k, v, heads=1).transpose(1, 2), 2, x.shape[2:])
        logits: Tensor = self.classifier(self.fuse(torch.cat([self.project(context), x], dim=1)))
        return logits


class HRFormer(nn.Module):
    """HRFormer with OCR: images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, *, size: str, num_classes: int) -> None:
        super().__init__()
        widths, heads, window, drop_path = SIZES[size]
        self.stem = nn.Sequential(conv_norm(3, 64, 3, stride=2), conv_norm(64, 64, 3, stride=2))
        self.bottlenecks = nn.Sequential(Bottleneck(channels=64), Bottleneck(channels=256))
        self.first = conv_norm(256, widths[0], 3)
        sources = (256, *widths[1:-1])  # the first new branch starts from the bottlenecks, others from the last branch
        self.starts = nn.ModuleList(
            conv_norm(source, width, 3, stride=2) for source, width in zip(sources, widths[1:], strict=True)
        )
        total = BLOCKS * sum(MODULES)
        rates = iter(drop_path * block / (total - 1) for block in range(total))  # grows linearly from 0
        self.stages = nn.ModuleList()
        for branches, count in enumerate(MODULES, 2):
            stage = nn.Sequential()
            for _ in range(count):
                drop_paths = [next(rates) for _ in range(BLOCKS)]
                stage.append(Exchange(widths[:branches], heads[:branches], window, drop_paths))
            self.stages.append(stage)
        self.head = OCRHead(channels=sum(widths), num_classes=num_classes, first=512)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bottlenecks(self.stem(images))  # B 256 ⌈H/4⌉ ⌈W/4⌉
        maps = [self.first(x)]
        for start, stage in zip(self.starts, self.stages, strict=True):
            maps = stage([*maps, start(x)])
            x = maps[-1]
        size = maps[0].shape[2:]
        logits: Tensor = self.head(torch.cat([resize(each, size) for each in maps], dim=1))
        return logits


class Bottleneck(nn.Module):
    """ResNet's block with 64 inner and 256 outer channels: [B, C, h, w] -> [B, 256, h, w]."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm(channels, 64), conv_norm(64, 64, 3), conv_norm(64, 256, activation=None))
        self.shortcut = nn.Identity() if channels == 256 else conv_norm(channels, 256, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class Exchange(nn.Module):
    """Blocks in each branch, then each branch gets the sum of all: [maps] -> [maps] of the same shapes."""

    def __init__(self, widths: Sequence[int], heads: Sequence[int], window: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Block(channels=width, heads=count, window=window, drop_path=rate) for rate in drop_paths))
            for width, count in zip(widths, heads, strict=True)
        )
        self.exchange = nn.ModuleList(
            nn.ModuleList(_between(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        out = []
        for target, row in zip(maps, self.exchange, strict=True):
            parts = [resize(layer(x), target.shape[2:]) for layer, x in zip(row.children(), maps, strict=True)]
            out.append(F.relu(sum(parts[1:], parts[0])))
        return out


def _between(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch to another: 1×1, or a depthwise 3×3 of stride 2 and 1×1 for each halving."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm(widths[source], widths[target], activation=None)
    layers: list[nn.Module] = []
    for step in range(source + 1, target + 1):
        width, last = widths[source], step == target
        layers.append(conv_norm(width, width, 3, stride=2, groups=width, activation=None))
        layers.append(conv_norm(width, widths[target] if last else width, activation=None if last else nn.ReLU))
    return nn.Sequential(*layers)


class Block(nn.Module):
    """x + attention(x) within windows, then x + MLP(x) with a depthwise 3×3: [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, *, channels: int, heads: int, window: int, drop_path: float) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attention = WindowAttention(channels=channels, heads=heads, window=window)
        hidden = 4 * channels
        self.mlp = nn.Sequential(
            *_biased(channels, hidden, 1), *_biased(hidden, hidden, 3, groups=hidden), *_biased(hidden, channels, 1)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2))
        out: Tensor = x + self.drop_path(self.mlp(self.norm_mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
        return out


def _biased(in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups)
    return [convolution, nn.BatchNorm2d(out_channels), nn.GELU()]


class WindowAttention(nn.Module):
    """Attention within square windows, padded around the centre, with a bias per head and offset.

    Shape: [B, h, w, C] -> [B, h, w, C].
    """

    offsets: Tensor

    def __init__(self, *, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        side = 2 * window - 1
        self.bias = nn.Parameter(torch.zeros(side * side, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        place = torch.arange(window * window)
        rows, columns = place // window, place % window
        index = (rows[:, None] - rows + window - 1) * side + columns[:, None] - columns + window - 1
        self.register_buffer("offsets", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        side = self.window
        height, width = x.shape[1:3]
        below, right = -height % side, -width % side
        top, left = below // 2, right // 2
        x = F.pad(x, (0, 0, left, right - left, top, below - top))
        rows, columns = (height + below) // side, (width + right) // side
        x = torch.unflatten(torch.unflatten(x, 2, (columns, side)), 1, (rows, side))  # B r side c side C
        windows = x.transpose(2, 3).flatten(0, 2).flatten(1, 2)  # B·r·c n C
        q, k, v = torch.unflatten(self.qkv(windows), 2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.offsets].permute(2, 0, 1)  # heads n n
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        out = torch.unflatten(torch.unflatten(self.project(attended), 1, (side, side)), 0, (-1, rows, columns))
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # B h w C, padded
        return out[:, top : top + height, left : left + width]
