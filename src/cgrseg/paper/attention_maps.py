"""What the network sees in a photo: the stages of one RCA's attention (Fig. 3), and the class embedding (Fig. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgrseg.nn import CGRSeg, RectangularSelfCalibrationAttention
from cgrseg.nn.prototype import PrototypeGate
from cgrseg.nn.reconstruction import resize
from cgrseg.preprocessing import Preprocessing

Photo = np.ndarray[Any, np.dtype[np.uint8]]
Heat = np.ndarray[Any, np.dtype[np.float32]]
SEATS = "context.0 … context.N-1 (coarse, stride 64), reconstruction.0, .1, .2 (strides 8, 16, 32)"


@dataclass(frozen=True)
class Stages:
    """One RCA's way from a photo to its attention, each [H, W] at the photo's size.

    Args:
        area: the axial sum, the rectangle that the strips see.
        horizontal, vertical: after the first strip convolution (before its BatchNorm), and after the second.
        attention: the sigmoid of that, 0 … 1.
    """

    area: Heat
    horizontal: Heat
    vertical: Heat
    attention: Heat


def find_attention(model: CGRSeg, layer: str) -> RectangularSelfCalibrationAttention:
    """The RCA at "context.2" or "reconstruction.0" (its stride-8 one).

    Raises:
        ValueError: there is none at that place.
    """
    part, _, number = layer.partition(".")
    rows: Any = {
        "context": getattr(model.context, "blocks", ()),
        "reconstruction": getattr(model.reconstruction, "calibrate", ()),
    }.get(part, ())
    if not number.isdecimal() or int(number) >= len(rows):
        raise ValueError(f"--layer {layer}: this model has no such block; there are {SEATS}")
    rca = getattr(rows[int(number)], "token_mixer", None)
    if not isinstance(rca, RectangularSelfCalibrationAttention) or len(rca.excite) == 1:
        raise ValueError(
            f"--layer {layer}: this model has no strip convolutions there: use weights with the paper's RCA"
        )
    return rca


@torch.inference_mode()
def attention_stages(model: CGRSeg, photo: Photo, layer: str, *, channel: int | None = None) -> Stages:
    """The stages of the attention at `layer` for a photo.

    Args:
        model: in evaluation mode, with its .preprocessing.
        photo: uint8 RGB [H, W, 3].
        layer: see `find_attention`.
        channel: one channel; None is the mean over all.

    Raises:
        ValueError: no such layer or channel.
    """
    rca = find_attention(model, layer)
    seen: list[Tensor] = []
    handle = rca.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with handle:
        valid, size = _run(model, photo)
    (x,) = seen
    if channel is not None and not 0 <= channel < x.shape[1]:
        raise ValueError(f"--channel {channel}: {layer} has channels 0 to {x.shape[1] - 1}")
    area = rca.area(x)
    horizontal = rca.excite[0](area)
    vertical = rca.excite[:-1](area)
    chosen = slice(None) if channel is None else slice(channel, channel + 1)

    def heat(map_: Tensor) -> Heat:
        mean = map_[:, chosen].mean(1, keepdim=True).float()  # 1 1 h w
        on_photo = resize(resize(mean, size)[..., : valid[0], : valid[1]], photo.shape[:2])
        return on_photo[0, 0].cpu().numpy()

    return Stages(heat(area), heat(horizontal), heat(vertical), heat(vertical.sigmoid()))


@torch.inference_mode()
def class_embedding(model: CGRSeg, photo: Photo) -> Heat:
    """How much each class counts in the DPG head's view of a photo (eq. 6): float [K], its sum 1.

    Raises:
        ValueError: the model has another head.
    """
    gate: nn.Module | None = getattr(model.head, "gate", None)
    if not isinstance(gate, PrototypeGate):
        raise ValueError("this model has no DPG head: use weights with the paper's head")
    seen: list[Tensor] = []
    with gate.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[1])):
        _run(model, photo)
    return gate.class_embedding(seen[0])[0].float().cpu().numpy()


def _run(model: CGRSeg, photo: Photo) -> tuple[tuple[int, int], tuple[int, int]]:
    """Run the model on a photo: (height, width) of the photo within its input, and of the input."""
    preprocessing: Preprocessing = getattr(model, "preprocessing", None) or Preprocessing()
    image, valid = preprocessing.prepare(photo)
    weight = next(model.parameters())
    model.eval()(image[None].to(weight.device, weight.dtype))
    return valid, (image.shape[1], image.shape[2])
