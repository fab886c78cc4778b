"""Any timm feature extractor with maps at strides 8, 16 and 32 as an encoder (`backbone="timm/NAME"`)."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from . import crop_maps, pad_to_32

STRIDES = (8, 16, 32)


class TimmEncoder(nn.Module):
    """images [B, C, H, W] -> [c2, c3, c4] at strides 8, 16, 32, every map ⌈H/stride⌉ × ⌈W/stride⌉.

    For extractors that round a halving down (ConvNeXt, DenseNet, VGG) the image is padded with zeros at the right and
    bottom to a multiple of 32, and the maps are cropped.

    Args:
        name: timm's name of the model, such as "mobilenetv4_conv_small". Fresh weights, nothing is downloaded.
        in_channels: C.

    Raises:
        ValueError: timm has no such model, it lacks a stride, or it needs a fixed input size.
    """

    def __init__(self, *, name: str, in_channels: int = 3) -> None:
        super().__init__()
        with torch.device("meta"):  # computes shapes only
            indices = _map_indices(name, _extractor(name).feature_info.info)
            probe = _extractor(name, out_indices=indices).eval()
        self.pads = _must_pad(name, probe)
        self.channels = tuple(probe.feature_info.channels())
        pretrained: Any = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
        self.pixel_mean = tuple(255 * value for value in pretrained.mean)
        self.pixel_std = tuple(255 * value for value in pretrained.std)
        self.features: nn.Module = _extractor(name, out_indices=indices, in_chans=in_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        if not self.pads:
            return _maps(self.features, images)
        return crop_maps(_maps(self.features, pad_to_32(images)), images)


def _extractor(name: str, **options: Any) -> Any:
    if not timm.is_model(name):
        base = name.partition(".")[0]
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        close = close or timm.list_models(f"*{base.partition('_')[0]}*")[:3]
        cure = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        raise ValueError(f"timm has no model {name!r}: {cure}")
    try:
        return timm.create_model(name, pretrained=False, features_only=True, **options)
    except RuntimeError as error:
        raise ValueError(f"timm/{name}: {error}") from error


def _map_indices(name: str, info: list[dict[str, Any]]) -> tuple[int, ...]:
    """The positions of strides 8, 16 and 32 in timm's list of maps: of each the last, which is the deepest."""
    index_of = {entry["reduction"]: index for index, entry in enumerate(info)}
    missing = [str(stride) for stride in STRIDES if stride not in index_of]
    if missing:
        raise ValueError(
            f"timm/{name} has maps at strides {', '.join(map(str, index_of))}, none at {', '.join(missing)}: "
            "choose a model with strides 8, 16 and 32, such as timm/mobilenetv4_conv_small"
        )
    return tuple(index_of[stride] for stride in STRIDES)


def _must_pad(name: str, probe: nn.Module) -> bool:
    """False if a model (on the meta device) rounds every halving up, True if it needs multiples of 32."""
    try:
        if _sizes(probe, 64, 64) != [(8, 8), (4, 4), (2, 2)]:
            raise ValueError("the sizes of its maps differ from its strides")
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"timm/{name} needs a fixed input size ({reason}): "
            "choose a model without a fixed input size, such as timm/mobilenetv4_conv_small"
        ) from error
    try:  # 33 is odd before every halving, 95 only before the first
        return _sizes(probe, 33, 95) != [(5, 12), (3, 6), (2, 3)]
    except (AssertionError, RuntimeError):
        return True


def _sizes(probe: nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(x.shape[2:]) for x in _maps(probe, torch.zeros(1, 3, height, width, device="meta"))]


def _maps(features: nn.Module, images: Tensor) -> list[Tensor]:
    """timm's maps as [B, C, h, w], also from models with channels last."""
    maps: list[Tensor] = features(images)
    if getattr(features, "output_fmt", "NCHW") == "NHWC":
        return [x.permute(0, 3, 1, 2) for x in maps]
    return maps
