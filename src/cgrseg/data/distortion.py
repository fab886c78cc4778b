"""The released photometric distortion of training crops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
SIXTHS = torch.tensor([0, 1, 2, 3, 4, 5.0])[:, None, None]


def distort(image: Tensor, random: np.random.Generator) -> Tensor:
    """The released photometric distortion of float32 [C, h, w], 0 to 255; each step has probability 0.5.

    Brightness ±32; contrast × U(0.5, 1.5), before or after saturation × U(0.5, 1.5) and hue ±18 of 180, which only
    RGB has.
    """
    brightness, early, late, saturation, hue = random.uniform(size=5) < 0.5
    contrast_first = random.random() < 0.5
    shift, contrast, factor, turn = random.uniform(-32, 32), *random.uniform(0.5, 1.5, 2), random.uniform(-0.1, 0.1)
    if brightness:
        image = (image + shift).clamp_(0, 255)
    if early and contrast_first:
        image = (image * contrast).clamp_(0, 255)
    if saturation and len(image) == 3:
        image = saturate(image, factor)
    if hue and len(image) == 3:
        image = turn_hue(image, turn)
    if late and not contrast_first:
        image = (image * contrast).clamp_(0, 255)
    return image


def saturate(image: Tensor, factor: float) -> Tensor:
    """Multiply the HSV saturation, limited to 1: c' = v - (v - c)·min(factor, v/(v - min))."""
    value, lowest = _extremes(image)
    limit = value / (value - lowest).clamp_(min=1e-6)
    return value - (value - image).mul_(limit.clamp_(max=factor))


def turn_hue(image: Tensor, turn: float) -> Tensor:
    """Add `turn` circles to the HSV hue of float32 [3, h, w], 0 to 255.

    The same bits as torchvision's `adjust_hue` in a quarter of the time: where a case of HSV chooses a value, this adds
    all values times 0.0 or 1.0, because `torch.where` takes 30 times as long as a product.
    """
    image = image / 255
    red, green, _ = image
    value, lowest = _extremes(image)
    span = value - lowest
    saturation = span / value.clamp(min=TINY)
    to_red, to_green, to_blue = (value - image).div_(span + _equal(span, 0))
    is_red, is_green = _equal(value, red), _equal(value, green)
    is_green.mul_(1 - is_red)
    hue = (to_blue - to_green).mul_(is_red)
    hue.add_((to_red + 2).sub_(to_blue).mul_(is_green))
    hue.add_((to_green + 4).sub_(to_red).mul_((1 - is_red).sub_(is_green)))
    hue.mul_(1 / 6).add_(1).frac_().add_(turn)
    sixths = hue.sub_(hue.floor()).mul_(6)
    sixth = sixths.floor()
    ramp = sixths.sub_(sixth).mul_(saturation)
    grey = 1 - saturation
    falling = (1 - ramp).mul_(value).clamp_(0, 1)
    rising = ramp.add_(grey).mul_(value).clamp_(0, 1)
    low = grey.mul_(value).clamp_(0, 1)
    first, second, third, fourth, fifth, last = _equal(sixth, SIXTHS)
    first.add_(_equal(sixth, 6))  # rounded up to a whole circle
    turned = torch.empty_like(image)
    for channel, high, down, bottom, up in (
        (0, first + last, second, third + fourth, fifth),
        (1, second + third, fourth, fifth + last, first),
        (2, fourth + fifth, last, first + second, third),
    ):
        torch.mul(high, value, out=turned[channel]).add_(falling * down).add_(low * bottom).add_(rising * up)
    return turned.mul_(255)


def _extremes(image: Tensor) -> tuple[Tensor, Tensor]:
    """The highest and the lowest of three channels; on the first axis, torch's reductions are slower."""
    red, green, blue = image
    return torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)


def _equal(one: Tensor, other: Tensor | float) -> Tensor:
    """1.0 where two tensors are equal, else 0.0, without a tensor of bools."""
    return torch.eq(one, other, out=torch.empty(0))
