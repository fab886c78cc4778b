"""The stages of the attention of one RCA on an image (Fig. 3), and the class embedding (Fig. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgrseg.inference.network import Network, evaluation_mode
from cgrseg.inference.predictor import Predictor
from cgrseg.nn import CGRSeg, RectangularSelfCalibrationAttention
from cgrseg.nn.prototype import PrototypeGate
from cgrseg.nn.reconstruction import resize

Photo = np.ndarray[Any, np.dtype[np.uint8]]
Heat = np.ndarray[Any, np.dtype[np.float32]]
LAYERS = "context.0 … context.N-1 (coarse, stride 64), reconstruction.0, .1, .2 (strides 8, 16, 32)"


@dataclass(frozen=True)
class Stages:
    """The steps of one RCA, each [H, W] at the size of the image.

    Args:
        area: the axial sum, the input of the strips.
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
        ValueError: there is none.
    """
    part, _, number = layer.partition(".")
    rows: Any = {
        "context": getattr(model.context, "blocks", ()),
        "reconstruction": getattr(model.reconstruction, "calibrate", ()),
    }.get(part, ())
    if not number.isdecimal() or int(number) >= len(rows):
        raise ValueError(f"--layer {layer}: this model has no such block; there are {LAYERS}")
    rca = getattr(rows[int(number)], "token_mixer", None)
    if not isinstance(rca, RectangularSelfCalibrationAttention) or len(rca.excite) == 1:
        raise ValueError(
            f"--layer {layer}: this model has no strip convolutions there: use weights with the paper's RCA"
        )
    return rca


@torch.inference_mode()
def attention_stages(model: CGRSeg, photo: Photo, layer: str, *, channel: int | None = None) -> Stages:
    """The stages of the attention at `layer` for an image.

    Args:
        model: any mode; it is not changed.
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
    """The class weights of the DPG head for an image (eq. 6): float [K], sum 1.

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
    """Run the model on an image: (height, width) of the image within its input, and of the input."""
    predictor = Predictor(Network.of(model))
    prepared = predictor.prepare(photo)
    with evaluation_mode(model):
        predictor.network(prepared.image[None])
    return prepared.valid, (prepared.image.shape[1], prepared.image.shape[2])
