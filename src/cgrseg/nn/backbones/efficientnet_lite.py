"""EfficientNet-Lite, the encoder of `cgrseg_lite`: MBConv blocks with ReLU6, without squeeze-excite or attention.

Convolutions use TensorFlow's "SAME" padding, whose amount depends on whether a side is even. The encoder pads
the image with zeros to a multiple of 32, so the padding is a constant and a traced graph is valid at every size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from . import crop_maps, init_by_fan_out, pad_to_32

NORM_EPS = 1e-3
STEM = 32  # channels; not scaled with the width
# (repeats, kernel, stride, expansion, channels) of each stage of Lite0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MAPS = (2, 4, 6)  # stages whose outputs are c2, c3, c4, at strides 8, 16, 32


SIZES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2)}  # multipliers of the channels and of the repeats


class SamePadConv(nn.Conv2d):
    """A bias-free convolution with TensorFlow's "SAME" padding for inputs whose sides are multiples of its stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        total = kernel - stride  # even sides: ceil(n/s) outputs need (n/s - 1)·s + kernel - n = kernel - s zeros
        symmetric = total // 2 if total % 2 == 0 else 0
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=symmetric, groups=groups, bias=False)
        before = total // 2
        self.extra = (before, total - before, before, total - before) if total % 2 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.extra is None else F.pad(x, self.extra))


class SeparableBlock(nn.Module):
    """Depthwise convolution, then 1×1: [B, C, H, W] -> [B, C', H, W]. Attribute names are timm's."""

    conv_norm_pairs = (("conv_dw", "bn1"), ("conv_pw", "bn2"))

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.conv_dw = SamePadConv(in_channels, in_channels, kernel, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels, eps=NORM_EPS)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)))
        out: Tensor = self.bn2(self.conv_pw(x))
        return out


class InvertedResidual(nn.Module):
    """1×1 (C -> e·C), depthwise, 1×1 (-> C'); a residual where shapes allow it. Attribute names are timm's.

    Shape: [B, C, H, W] -> [B, C', H/stride, W/stride].
    """

    conv_norm_pairs = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.conv_pw = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, eps=NORM_EPS)
        self.conv_dw = SamePadConv(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden, eps=NORM_EPS)
        self.conv_pwl = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu6(self.bn1(self.conv_pw(x)))
        out = F.relu6(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier.

    Args:
        size: of `SIZES`.
        in_channels: C.

    Shape: images [B, C, H, W], normalised with mean 127 and std 128 -> [c2, c3, c4] at strides 8, 16, 32; each map
    has ⌈H/stride⌉ × ⌈W/stride⌉ pixels. Lite0 has 40, 112 and 320 channels.
    """

    pixel_mean, pixel_std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)

    conv_norm_pairs = (("conv_stem", "bn1"),)

    def __init__(self, *, size: str, in_channels: int = 3) -> None:
        super().__init__()
        wider, deeper = SIZES[size]
        self.conv_stem = SamePadConv(in_channels, STEM, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM, eps=NORM_EPS)
        self.blocks = nn.ModuleList()
        channels, maps = STEM, []
        for number, (repeats, kernel, stride, expansion, width) in enumerate(STAGES):
            out_channels = _round_to_8(width * wider)
            last = number in (0, len(STAGES) - 1)  # the first and the last stage are not scaled in depth
            stage = nn.Sequential()
            for index in range(repeats if last else -int(-repeats * deeper // 1)):
                stage.append(
                    SeparableBlock(channels, out_channels, kernel=kernel)
                    if expansion == 1
                    else InvertedResidual(
                        channels, out_channels, kernel=kernel, stride=1 if index else stride, expansion=expansion
                    )
                )
                channels = out_channels
            self.blocks.append(stage)
            maps.append(out_channels)
        self.channels = tuple(maps[number] for number in MAPS)
        self.apply(init_by_fan_out)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.bn1(self.conv_stem(pad_to_32(images))))  # B 32 H/2 W/2
        outputs = []
        for stage in self.blocks:
            x = stage(x)
            outputs.append(x)
        return crop_maps([outputs[number] for number in MAPS], images)


def _round_to_8(channels: float) -> int:
    """The nearest multiple of 8 that is at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
