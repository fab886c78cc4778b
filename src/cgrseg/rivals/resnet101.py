"""EncNet, CCNet, DANet, EMANet and HamNet: five heads on ResNet-101 with outputs at stride 8.

mmsegmentation's version: three 3×3 convolutions in the stem; strides of the last two stages replaced by dilation.
Every head: [c1, c2, c3, c4] -> logits at stride 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.segnext import Hamburger

from .layers import classifier, conv_norm

CHANNELS = (256, 512, 1024, 2048)  # at strides 4, 8, 8, 8
WIDTH = 512


def build(name: str, num_classes: int) -> OnResNet101:
    """Build "encnet_r101", "ccnet_r101", "danet_r101", "emanet_r101" or "hamnet_r101" with random weights."""
    heads = {"encnet": EncHead, "ccnet": CCHead, "danet": DAHead, "emanet": EMAHead, "hamnet": HamHead}
    return OnResNet101(heads[name.removesuffix("_r101")](num_classes=num_classes))


class OnResNet101(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, h, w] by a head for the four feature maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            "resnet101",
            pretrained=False,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            output_stride=8,
            stem_type="deep",
            stem_width=32,
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


class EncHead(nn.Module):
    """EncNet (Zhang et al., CVPR 2018): channels weighted by an encoding of the whole image.

    `presence` predicts which classes an image has; only the method's second loss uses it.
    """

    def __init__(self, *, num_classes: int, codes: int = 32) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.project = conv_norm(WIDTH, WIDTH)
        self.encoding = Encoding(channels=WIDTH, codes=codes)
        self.norm = nn.Sequential(nn.BatchNorm1d(codes), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid())
        self.presence = nn.Linear(WIDTH, num_classes)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[3])
        encoded = self.norm(self.encoding(self.project(x))).mean(1)  # B D
        logits: Tensor = self.classifier(torch.relu(x + x * self.gate(encoded)[..., None, None]))
        return logits


class Encoding(nn.Module):
    """Residuals to N codewords, summed over the pixels with soft assignments: [B, D, h, w] -> [B, N, D]."""

    def __init__(self, *, channels: int, codes: int) -> None:
        super().__init__()
        limit = 1 / (codes * channels) ** 0.5
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-limit, limit))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)  # B n D
        products = pixels @ self.codewords.T  # B n N
        distances = pixels.square().sum(2, keepdim=True) + self.codewords.square().sum(1) - 2 * products
        shares = (self.scale * distances).softmax(2)
        return shares.transpose(1, 2) @ pixels - shares.sum(1)[..., None] * self.codewords


class CCHead(nn.Module):
    """CCNet (Huang et al., ICCV 2019): each pixel attends to its row and column, twice."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.attention = CrissCrossAttention(WIDTH, keys=WIDTH // 8)
        self.smooth = conv_norm(WIDTH, WIDTH, 3)
        self.fuse = conv_norm(CHANNELS[3] + WIDTH, WIDTH, 3)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.attention(self.attention(self.reduce(features[3])))
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], self.smooth(x)], dim=1)))
        return logits


class PixelAttention(nn.Module):
    """x + γ · attention over all pixels. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, channels: int, *, keys: int = 64) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, keys, 1)
        self.key = nn.Conv2d(channels, keys, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.attend(self.query(x), self.key(x), self.value(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = (q.flatten(2).transpose(1, 2) @ k.flatten(2)).softmax(2)  # B n n
        return torch.unflatten(v.flatten(2) @ shares.transpose(1, 2), 2, v.shape[2:])


class CrissCrossAttention(PixelAttention):
    """x + γ · attention over the row and the column of each pixel. [B, C, h, w] -> [B, C, h, w]."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        by_row, by_column = (0, 2, 3, 1), (0, 3, 2, 1)
        row = q.permute(by_row) @ k.permute(0, 2, 1, 3)  # B h w w
        column = q.permute(by_column) @ k.permute(0, 3, 1, 2)  # B w h h
        # The pixel itself is in its row already.
        column = column - 1e4 * torch.eye(v.shape[2], dtype=v.dtype, device=v.device)
        shares = torch.cat([row, column.transpose(1, 2)], dim=3).softmax(3)  # B h w (w + h)
        row, column = shares[..., : v.shape[3]], shares[..., v.shape[3] :]
        from_row = (row @ v.permute(by_row)).permute(0, 3, 1, 2)
        return from_row + (column.transpose(1, 2) @ v.permute(by_column)).permute(0, 3, 2, 1)


class DAHead(nn.Module):
    """DANet (Fu et al., CVPR 2019): attention over all pixels and over all channels."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.pixels, self.channels = (
            nn.Sequential(conv_norm(CHANNELS[3], WIDTH, 3), attention, conv_norm(WIDTH, WIDTH, 3))
            for attention in (PixelAttention(WIDTH), ChannelAttention())
        )
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.pixels(features[3]) + self.channels(features[3]))
        return logits


class ChannelAttention(nn.Module):
    """x + γ · attention over all channels, to the least similar ones. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        shares = (-(flat @ flat.transpose(1, 2))).softmax(2)  # B C C
        return x + self.gamma * torch.unflatten(shares @ flat, 2, x.shape[2:])


class EMAHead(nn.Module):
    """EMANet (Li et al., ICCV 2019): features rebuilt from few bases by EM steps."""

    def __init__(self, *, num_classes: int, fused: int = 256) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.enter = nn.Conv2d(WIDTH, WIDTH, 1).requires_grad_(False)  # fixed in the method, too
        self.attention = EMAttention(WIDTH)
        self.leave = conv_norm(WIDTH, WIDTH, activation=None)
        self.smooth = conv_norm(WIDTH, fused, 3)
        self.fuse = conv_norm(CHANNELS[3] + fused, fused, 3)
        self.classifier = classifier(fused, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[3])
        x = torch.relu(x + self.leave(torch.relu(self.attention(self.enter(x)))))
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], self.smooth(x)], dim=1)))
        return logits


class EMAttention(nn.Module):
    """[B, C, h, w] -> the same from M bases; in training the initial bases follow the found ones."""

    bases: Tensor

    def __init__(self, channels: int, *, bases: int = 64, steps: int = 3, momentum: float = 0.1) -> None:
        super().__init__()
        self.steps, self.momentum = steps, momentum
        self.register_buffer("bases", F.normalize(torch.randn(1, channels, bases), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # B C n
        with torch.no_grad():
            bases = self.bases.expand(x.shape[0], -1, -1)  # B C M
            for _ in range(self.steps):
                shares = (flat.transpose(1, 2) @ bases).softmax(2)  # B n M
                bases = F.normalize(flat @ F.normalize(shares, p=1.0, dim=1), dim=1)
            if self.training:
                self.bases.lerp_(F.normalize(bases.mean(0, keepdim=True), dim=1), self.momentum)
        return torch.unflatten(bases @ shares.transpose(1, 2), 2, x.shape[2:])


class HamHead(nn.Module):
    """HamNet (Geng et al., ICLR 2021): global context by matrix factorisation."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = conv_group_norm(CHANNELS[3], WIDTH)
        self.hamburger = Hamburger(channels=WIDTH, rank=64)
        self.smooth = conv_group_norm(WIDTH, WIDTH)
        self.fuse = conv_group_norm(CHANNELS[3] + WIDTH, WIDTH)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.smooth(self.hamburger(self.reduce(features[3])))
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], x], dim=1)))
        return logits


def conv_group_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 without bias, GroupNorm of 32 groups, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(32, out_channels), nn.ReLU())
