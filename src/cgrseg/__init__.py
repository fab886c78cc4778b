"""CGRSeg: a photo goes in at the door, a labelled picture comes out. Importing this module is instant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgrseg._process import keep_memory
    from cgrseg.inference.segmenter import Segmenter
    from cgrseg.labels import LabelSpace
    from cgrseg.weights.load import create_model, list_models, load

    __version__: str

__all__ = ["LabelSpace", "Segmenter", "__version__", "create_model", "keep_memory", "list_models", "load"]

_HOME_OF = {
    "LabelSpace": "cgrseg.labels",
    "Segmenter": "cgrseg.inference.segmenter",
    "create_model": "cgrseg.weights.load",
    "keep_memory": "cgrseg._process",
    "list_models": "cgrseg.weights.load",
    "load": "cgrseg.weights.load",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is first asked for, so that `import cgrseg` does not import torch."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("cgrseg")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'cgrseg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
