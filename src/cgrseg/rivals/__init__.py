"""The methods of Tables 1 to 3 that CGRSeg is compared with. Nothing is downloaded.

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

# Start of a name -> its file. SegNeXt is not here: it is a `ModelSpec` with decoder="segnext".
_FILES = {
    "deeplabv3plus": "deeplab_smp",  # those with "_d8" at the end: deeplab
    **dict.fromkeys(("segformer", "maskformer", "mask2former"), "from_transformers"),
    **dict.fromkeys(("ocrnet", "hrformer"), "hrnet"),
    **dict.fromkeys(("encnet", "ccnet", "danet", "emanet", "hamnet"), "resnet101"),
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
    network: nn.Module = load_file(name).build(name, num_classes)
    return network.train()


def load_file(name: str) -> ModuleType:
    """The Python file of a model.

    Raises:
        ValueError: as in `build`.
    """
    if name not in NAMES:
        raise ValueError(f"no other model is called {name!r}: choose from {', '.join(NAMES)}")
    method = name.partition("_")[0]
    file = "deeplab" if name.endswith("_d8") else _FILES.get(method, method)
    try:
        return import_module(f"{__name__}.{file}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cgrseg"):
            raise
        raise ValueError(f'{name} needs {error.name}, which is not installed: pip install "cgrseg[peers]"') from error
