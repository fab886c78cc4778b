"""CGRSeg: encoder, context, reconstruction, head (Fig. 2). Its variants are data in `cgrseg.description`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

from torch import Tensor, nn

from cgrseg.description import Description, ModelSpec, SpecOptions, did_you_mean, find_spec
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Preprocessing

from .backbones import efficientformerv2, efficientnet_lite, mscan
from .backbones.efficientformerv2 import EfficientFormerV2
from .context import PyramidContextExtraction
from .prototype import DynamicPrototypeGuidedHead
from .rcm import RectangularSelfCalibrationModule
from .reconstruction import SpatialFeatureReconstruction
from .segnext import Concatenation, HamburgerHead, NoContext

MINIMUM_SIDE = 32


class CGRSeg(nn.Module):
    """The network of Fig. 2.

    Args:
        spec: the architecture, see `ModelSpec`.

    Attributes:
        description: the spec, with labels, preprocessing and card; numbered classes and the encoder's preprocessing
            in a fresh model.

    Shape: images float [B, C, H, W], normalised, C = `spec.in_channels`, any H, W >= 32 -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉].

    Raises:
        ValueError: images smaller than 32 pixels on a side, or not [B, C, H, W].
    """

    def __init__(self, *, spec: ModelSpec) -> None:
        super().__init__()
        self.encoder = build_encoder(spec)
        self.context, self.reconstruction, self.head = build_decoder(spec, self.encoder.channels[-3:])
        preprocessing = Preprocessing(mean=self.encoder.pixel_mean, std=self.encoder.pixel_std)
        preprocessing = preprocessing.with_channels(spec.in_channels)
        self.description = Description(spec, LabelSpace.numbered(spec.num_classes), preprocessing)

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        return self.description.spec

    @property
    def labels(self) -> LabelSpace:
        """Names and colours of the classes."""
        return self.description.labels

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        return self.description.preprocessing

    @property
    def card(self) -> dict[str, Any]:
        """Where the weights come from."""
        return self.description.card

    def describe(self, **parts: Any) -> None:
        """Replace parts of the description: labels, preprocessing, card or spec."""
        self.description = dataclasses.replace(self.description, **parts)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.spec.in_channels)
        pyramid = self.encoder(images)[-3:]  # c2 c3 c4 at strides 8, 16, 32
        context = self.context(pyramid)  # p2 p3 p4 at stride 64
        fused = self.reconstruction(pyramid, context)  # B D H/8 W/8
        logits: Tensor = self.head(fused)
        return logits


def check_images(images: Tensor, channels: int) -> None:
    """Raise ValueError unless images are [B, channels, H, W] with H, W >= 32."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"images have shape {tuple(images.shape)}: the network takes [B, {channels}, H, W]")
    height, width = images.shape[2:]
    if height < MINIMUM_SIDE or width < MINIMUM_SIDE:
        raise ValueError(
            f"images are {height}x{width}: the network needs at least {MINIMUM_SIDE} pixels per side; "
            "enlarge them, or pad them with zeros after normalisation"
        )


def build(name: str, *, num_classes: int = 150, **spec: Unpack[SpecOptions]) -> CGRSeg:
    """Build a variant with fresh weights; keywords override fields of its `ModelSpec`.

    Raises:
        ValueError: an unknown variant, field or value; the message names the closest known one.
    """
    return CGRSeg(spec=find_spec(name, num_classes=num_classes, **spec))


def build_encoder(spec: ModelSpec) -> Any:
    """The encoder that `spec.backbone` names: images -> maps, with `channels`, and `pixel_mean` and `pixel_std` of RGB.

    Raises:
        ValueError: an unknown backbone.
    """
    if spec.backbone.startswith("timm/"):
        from .backbones.timm import TimmEncoder  # importing timm takes seconds

        return TimmEncoder(name=spec.backbone.removeprefix("timm/"), in_channels=spec.in_channels)
    family, size = spec.backbone[:-1].rstrip("_"), spec.backbone.rpartition("_")[2]
    channels = spec.in_channels
    if spec.backbone.startswith("efficientformerv2_") and size in efficientformerv2.SIZES:
        return EfficientFormerV2(size=size, bias_mode=spec.bias_mode, drop_path=spec.drop_path, in_channels=channels)
    if family == "efficientnet_lite" and spec.backbone[-1] in efficientnet_lite.SIZES:
        return efficientnet_lite.EfficientNetLite(size=spec.backbone[-1], in_channels=channels)
    if family == "mscan" and size in mscan.SIZES:
        return mscan.MSCAN(size=size, drop_path=spec.drop_path or 0.0, in_channels=channels)
    known = [f"efficientformerv2_{size}" for size in efficientformerv2.SIZES]
    known += [f"efficientnet_lite{size}" for size in efficientnet_lite.SIZES]
    known += [*(f"mscan_{size}" for size in mscan.SIZES), "timm/NAME"]
    raise ValueError(f"no backbone is called {spec.backbone!r}{did_you_mean(spec.backbone, known)}")


def build_decoder(spec: ModelSpec, channels: Sequence[int]) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Context, reconstruction and head for a pyramid with these channels."""
    head: dict[str, Any] = {"channels": spec.width, "num_classes": spec.num_classes, "dropout": spec.dropout}
    if spec.decoder == "segnext":
        return NoContext(), Concatenation(channels=channels, width=spec.width), HamburgerHead(**head)
    block: Any = partial(
        RectangularSelfCalibrationModule,
        strip_kernel=spec.strip_kernel,
        local_kernel=spec.local_kernel,
        key_area=spec.key_area,
    )
    classifier: nn.Module
    if spec.mixer == "rca" and spec.head == "dpg":
        classifier = DynamicPrototypeGuidedHead(**head)
    else:
        from . import ablations

        block = block if spec.mixer == "rca" else ablations.make_block(spec.mixer)
        classifier = ablations.make_head(spec.head, **head)
    if spec.context == "rcm":
        context = PyramidContextExtraction(channels=channels, blocks=spec.context_blocks, make_block=block)
    else:
        context = PyramidContextExtraction(channels=channels, blocks=1, make_block=_pointwise)
    calibrate = block if spec.reconstruct else lambda *, channels: nn.Identity()
    reconstruction = SpatialFeatureReconstruction(channels=channels, width=spec.width, make_block=calibrate)
    return context, reconstruction, classifier


def _pointwise(*, channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1)
