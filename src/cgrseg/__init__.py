"""CGRSeg: efficient semantic segmentation. Importing this package is instant; everything is loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgrseg.deploy.export import export
    from cgrseg.evaluation import evaluate
    from cgrseg.inference.result import Segmentation
    from cgrseg.inference.segmenter import Segmenter
    from cgrseg.labels import LabelSpace
    from cgrseg.preprocessing import Preprocessing
    from cgrseg.training.losses import SegmentationLoss
    from cgrseg.training.run import Run, train
    from cgrseg.weights.artifact import save
    from cgrseg.weights.load import create_model, list_models, list_weights, load

    __version__: str

_MODULES = {
    "LabelSpace": "cgrseg.labels",
    "Preprocessing": "cgrseg.preprocessing",
    "Run": "cgrseg.training.run",
    "Segmentation": "cgrseg.inference.result",
    "SegmentationLoss": "cgrseg.training.losses",
    "Segmenter": "cgrseg.inference.segmenter",
    "create_model": "cgrseg.weights.load",
    "evaluate": "cgrseg.evaluation",
    "export": "cgrseg.deploy.export",
    "list_models": "cgrseg.weights.load",
    "list_weights": "cgrseg.weights.load",
    "load": "cgrseg.weights.load",
    "save": "cgrseg.weights.artifact",
    "train": "cgrseg.training.run",
}
__all__ = [
    "LabelSpace",
    "Preprocessing",
    "Run",
    "Segmentation",
    "SegmentationLoss",
    "Segmenter",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "list_weights",
    "load",
    "save",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first used, so that `import cgrseg` does not import torch."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("cgrseg")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'cgrseg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
