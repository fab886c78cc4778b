"""Other models for the benchmark, with random weights from their published configurations (Table 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgrseg._process import quiet
from cgrseg.inference.runtimes import OpenVINONetwork as OpenVINONetwork
from cgrseg.preprocessing import Size

SEGFORMER = {  # depths, widths, decoder's width
    "b0": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
    "b1": ([2, 2, 2, 2], [64, 128, 320, 512], 256),
    "b2": ([3, 4, 6, 3], [64, 128, 320, 512], 768),
}


class Peer(nn.Module):
    """A model of another library with the interface of ours.

    Args:
        network: the model.
        scores: (network, images) -> the scores whose argmax is the label map.

    Shape: images float [B, 3, H, W] -> [B, K, h, w], at a fourth of the size.
    """

    def __init__(self, network: nn.Module, scores: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self._scores = network, scores
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self._scores(self.network, images)


def build_peer(name: str, num_classes: int = 150) -> Peer:
    """A model with random weights, in evaluation mode, on the CPU. Nothing is downloaded.

    Args:
        name: of `PEERS`.
        num_classes: K.

    Raises:
        ValueError: an unknown name, or its library is not installed.
    """
    if name not in PEERS:
        raise ValueError(f"no other model is called {name!r}: choose from {', '.join(PEERS)}")
    require_peer(name)
    torch.manual_seed(0)
    with quiet():
        return PEERS[name](num_classes)


def require_peer(name: str) -> None:
    """Raise ValueError with the cure if the library of a model is not installed."""
    library = "segmentation_models_pytorch" if name.startswith("deeplab") else "transformers"
    if find_spec(library) is None:
        raise ValueError(f'{name} needs {library}, which is not installed: pip install "cgrseg[peers]"')


def _segformer(kind: str, num_classes: int) -> Peer:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    depths, widths, width = SEGFORMER[kind]
    options: dict[str, Any] = {"depths": depths, "hidden_sizes": widths, "num_labels": num_classes}
    config = SegformerConfig(**options, decoder_hidden_size=width)
    return Peer(SegformerForSemanticSegmentation(config), lambda network, images: network(pixel_values=images).logits)


def _maskformer(num_classes: int) -> Peer:
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

    options: dict[str, Any] = {"backbone_config": _swin_t(), "num_labels": num_classes}
    config = MaskFormerConfig(**options)
    return Peer(MaskFormerForInstanceSegmentation(config), _mask_scores)


def _mask2former(num_classes: int) -> Peer:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    options: dict[str, Any] = {"backbone_config": _swin_t(), "num_labels": num_classes}
    config = Mask2FormerConfig(**options)
    return Peer(Mask2FormerForUniversalSegmentation(config), _mask_scores)


def _swin_t() -> Any:
    from transformers import SwinConfig

    options: dict[str, Any] = {
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": [f"stage{number}" for number in (1, 2, 3, 4)],
    }
    return SwinConfig(**options)


def _mask_scores(network: Any, images: Tensor) -> Tensor:
    """Semantic scores as in both papers: the sum over queries of class probability times mask."""
    found = network(pixel_values=images)
    classes: Tensor = found.class_queries_logits.softmax(-1)[..., :-1]  # B Q K
    masks: Tensor = found.masks_queries_logits.sigmoid()  # B Q h w
    batch, _, height, width = masks.shape
    return (classes.transpose(1, 2) @ masks.flatten(2)).view(batch, -1, height, width)


def _deeplab(encoder: str, num_classes: int) -> Peer:
    import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

    return _without_upsampling(smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=num_classes))


def _deeplab_d8(num_classes: int) -> Peer:
    """DeepLabV3+ with MobileNetV2 as Table 1 counts it: features at stride 8, a decoder of 512 channels.

    Differences from the library's model: no 1280 channels at the end of the encoder, a 3x3 convolution after the
    pyramid, and both separable convolutions after the concatenation with stride 4.
    """
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import (  # type: ignore[import-untyped]
        DeepLabV3PlusDecoder,
    )

    sizes: dict[str, Any] = {"atrous_rates": (12, 24, 36), "output_stride": 8}
    model = smp.DeepLabV3Plus(
        "mobilenet_v2", encoder_weights=None, classes=num_classes, encoder_output_stride=8, decoder_channels=512
    )
    channels = (*model.encoder.out_channels[:-1], 320)
    model.encoder.features[-1] = nn.Identity()
    decoder = DeepLabV3PlusDecoder(channels, 5, 512, aspp_separable=True, aspp_dropout=0.1, **sizes)
    pyramid, *separable = decoder.aspp
    pyramid.project[0] = nn.Conv2d(5 * 512, 512, 3, padding=1, bias=False)
    decoder.aspp = nn.Sequential(pyramid)
    decoder.block2.extend(separable)
    model.decoder = decoder
    return _without_upsampling(model)


def _without_upsampling(model: Any) -> Peer:
    model.segmentation_head[1] = nn.Identity()  # upsampling is part of the label map
    return Peer(model, lambda network, images: network(images))


PEERS: dict[str, Callable[[int], Peer]] = {
    "segformer_b0": partial(_segformer, "b0"),
    "segformer_b1": partial(_segformer, "b1"),
    "segformer_b2": partial(_segformer, "b2"),
    "maskformer_swin_t": _maskformer,
    "mask2former_swin_t": _mask2former,
    "deeplabv3plus_mobilenet_v2": partial(_deeplab, "mobilenet_v2"),
    "deeplabv3plus_mobilenet_v2_d8": _deeplab_d8,
    "deeplabv3plus_r101": partial(_deeplab, "resnet101"),
}


def to_openvino(peer: Peer, path: Path, size: Size) -> None:
    """Write a model as OpenVINO IR in float32, for any batch of images of `size` (height, width).

    Raises:
        ValueError: OpenVINO cannot convert it.
    """
    import openvino  # type: ignore[import-untyped]

    example = torch.zeros(1, 3, *size)
    try:
        with quiet(), torch.no_grad():
            model = openvino.convert_model(peer, example_input=example, input=[-1, 3, *size])
    except Exception as error:  # the converter has its own error types
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"OpenVINO cannot convert {type(peer.network).__name__} ({line}): run it as eager") from error
    openvino.save_model(model, path, compress_to_fp16=False)
