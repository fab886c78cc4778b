"""Encoders: images [B, C, H, W] -> feature maps, the last three at strides 8, 16 and 32. Every halving rounds up."""

from __future__ import annotations

from torch import Tensor, nn

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
