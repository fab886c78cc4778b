"""The methods of Tables 1 to 3 that CGRSeg is compared with, one file each. Nothing is downloaded.

Every model: images float [B, 3, H, W], normalised -> logits float [B, K, h, w] at the stride of the method.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Literal, get_args

from torch import nn

Name = Literal[
    "segformer_b0",
    "segformer_b1",
    "segformer_b2",
    "seaformer_l",
    "feedformer_b0",
    "feedformer_lvt",
    "feedformer_b2",
    "maskformer_swin_t",
    "mask2former_swin_t",
    "deeplabv3plus_mobilenet_v2",
    "deeplabv3plus_mobilenet_v2_d8",
    "deeplabv3plus_r101",
    "deeplabv3plus_r101_d8",
    "encnet_r101",
    "ccnet_r101",
    "danet_r101",
    "emanet_r101",
    "hamnet_r101",
    "pem_stdc1",
    "pem_stdc2",
    "lrformer_t",
    "ocrnet_hr48",
    "hrformer_s",
    "hrformer_b",
    "senformer_r50",
    "senformer_r101",
]

# name -> (file, size). SegNeXt is not here: it is a `ModelSpec` with decoder="segnext".
_SIZES: dict[str, tuple[str, str]] = {
    "segformer_b0": ("segformer", "b0"),
    "segformer_b1": ("segformer", "b1"),
    "segformer_b2": ("segformer", "b2"),
    "seaformer_l": ("seaformer", "l"),
    "feedformer_b0": ("feedformer", "b0"),
    "feedformer_lvt": ("feedformer", "lvt"),
    "feedformer_b2": ("feedformer", "b2"),
    "maskformer_swin_t": ("maskformer", "maskformer"),
    "mask2former_swin_t": ("maskformer", "mask2former"),
    "deeplabv3plus_mobilenet_v2": ("deeplab_smp", "mobilenet_v2"),
    "deeplabv3plus_mobilenet_v2_d8": ("deeplab", "mobilenet_v2"),
    "deeplabv3plus_r101": ("deeplab_smp", "resnet101"),
    "deeplabv3plus_r101_d8": ("deeplab", "r101"),
    "encnet_r101": ("encnet", "r101"),
    "ccnet_r101": ("ccnet", "r101"),
    "danet_r101": ("danet", "r101"),
    "emanet_r101": ("emanet", "r101"),
    "hamnet_r101": ("hamnet", "r101"),
    "pem_stdc1": ("pem", "stdc1"),
    "pem_stdc2": ("pem", "stdc2"),
    "lrformer_t": ("lrformer", "t"),
    "ocrnet_hr48": ("ocrnet", "hr48"),
    "hrformer_s": ("hrformer", "s"),
    "hrformer_b": ("hrformer", "b"),
    "senformer_r50": ("senformer", "r50"),
    "senformer_r101": ("senformer", "r101"),
}
NAMES: tuple[str, ...] = get_args(Name)


def build(name: str, num_classes: int = 150) -> nn.Module:
    """A model with random weights in training mode.

    Args:
        name: of `NAMES`.
        num_classes: K.

    Raises:
        ValueError: an unknown name, or a library that the model needs is not installed.
    """
    network: nn.Module = load_file(name).build(_SIZES[name][1], num_classes)
    return network.train()


def load_file(name: str) -> ModuleType:
    """The Python file of a model.

    Raises:
        ValueError: as in `build`.
    """
    if name not in _SIZES:
        raise ValueError(f"no other model is called {name!r}: choose from {', '.join(NAMES)}")
    try:
        return import_module(f"{__name__}.{_SIZES[name][0]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cgrseg"):
            raise
        raise ValueError(f'{name} needs {error.name}, which is not installed: pip install "cgrseg[peers]"') from error
