"""Entry points for `torch.hub.load`: `create_model`, `load` and `Segmenter` of the package.

torch.hub.load("OWNER/cgrseg", "create_model", "cgrseg_t", num_classes=150)
torch.hub.load("/path/of/a/clone", "segmenter", "cgrseg_lite-voc21", source="local")
"""

import sys
from pathlib import Path

dependencies = ["torch", "torchvision", "timm", "numpy", "PIL", "safetensors", "huggingface_hub", "lightning_fabric"]

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # the package of this clone, also if none is installed
from cgrseg import Segmenter as segmenter  # noqa: E402
from cgrseg import create_model, load  # noqa: E402

sys.path.pop(0)

__all__ = ["create_model", "load", "segmenter"]
