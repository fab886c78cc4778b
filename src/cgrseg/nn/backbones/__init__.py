"""Encoders: images [B, C, H, W] -> feature maps, the last three at strides 8, 16 and 32. Every halving rounds up."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.preprocessing import Preprocessing

# What most encoders were trained with. Each encoder names its own in `pixel_mean` and `pixel_std`.
IMAGENET_MEAN, IMAGENET_STD = Preprocessing.mean, Preprocessing.std


class DropPath(nn.Module):
    """Stochastic depth: during training, zero a residual branch of each image with probability `rate`.

    The remaining branches are divided by 1 - rate. Shape: [B, ...] -> [B, ...].
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class Downsample(nn.Module):
    """Convolution 3×3 of stride 2, BatchNorm: [B, in, H, W] -> [B, out, ⌈H/2⌉, ⌈W/2⌉]."""

    conv_norm_pairs = (("proj", "norm"),)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x))
        return out


def init_by_fan_out(module: nn.Module) -> None:
    """Initial values of a convolution: normal with the fan-out of the whole layer, biases 0; for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pad_to_32(images: Tensor) -> Tensor:
    """Zeros at the right and bottom, to a multiple of 32."""
    height, width = images.shape[2:]
    return F.pad(images, (0, (width + 31) // 32 * 32 - width, 0, (height + 31) // 32 * 32 - height))


def crop_maps(maps: Iterable[Tensor], images: Tensor) -> list[Tensor]:
    """Maps of padded images, at strides 8, 16, 32, without the padding: ⌈H/stride⌉ × ⌈W/stride⌉."""
    height, width = images.shape[2:]
    # narrow, not a slice: a traced slice contains a minimum that OpenVINO cannot convert
    return [
        x.narrow(2, 0, (height + stride - 1) // stride).narrow(3, 0, (width + stride - 1) // stride)
        for x, stride in zip(maps, (8, 16, 32), strict=True)
    ]
