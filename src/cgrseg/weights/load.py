"""Models by name: fresh, or with weights from a file, from the bundled weights or from the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import logging
import os
from importlib import resources
from pathlib import Path
from typing import Any, Unpack, overload

import torch
from torch import nn

from cgrseg import rivals
from cgrseg._text import printable
from cgrseg.description import SpecOptions, did_you_mean, find_spec
from cgrseg.nn import VARIANTS, CGRSeg

from . import artifact
from .artifact import Pathlike

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
LOGGER = logging.getLogger("cgrseg")


@overload
def create_model(name: rivals.Name, num_classes: int | None = None) -> nn.Module: ...  # type: ignore[overload-overlap]
@overload
def create_model(
    name: str, num_classes: int | None = None, weights: Pathlike | None = None, **spec: Unpack[SpecOptions]
) -> CGRSeg: ...
def create_model(
    name: str, num_classes: int | None = None, weights: Pathlike | None = None, **spec: Unpack[SpecOptions]
) -> nn.Module:
    """Build a model for training. Use `load` for a model that is ready to use.

    Args:
        name: a name of `list_models`, such as "cgrseg_t", or a method that the paper compares with, such as
            "seaformer_l" (`cgrseg.rivals.NAMES`). The latter start from random weights and have no spec.
        num_classes: K; None uses that of the weights, or 150.
        weights: None for fresh weights; "imagenet" for ImageNet weights of the encoder; or a weights file, the name of
            bundled weights, "hf:USER/NAME", or a checkpoint that `start_from` reads. A classifier with another number
            of classes keeps its initial values, which is logged in one line.
        spec: other fields of `ModelSpec`, such as in_channels=4 or bias_mode="official". Fields that are not given are
            taken from the weights file. With `in_channels` other than 3, the first kernels of weights for RGB are
            summed (1) or repeated and scaled, so that activations keep their size.

    Returns:
        The model in training mode: images float [B, C, H, W] -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉]; compared methods
        have strides of their own.

    Raises:
        ValueError: an unknown name or option, or weights that do not fit.
        OSError: there is no such file, or the hub cannot be reached.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: it must be at least 1")
    if name in rivals.NAMES:
        if weights is not None or spec:
            raise ValueError(f"{name} is a compared method: it takes num_classes only, no weights or other options")
        return rivals.build(name, num_classes or 150)
    built = find_spec(name, num_classes=num_classes or VARIANTS[name].num_classes if name in VARIANTS else 1, **spec)
    if weights is None:
        return CGRSeg(spec=built)
    from .pretrained import start_from

    path = "imagenet" if weights == "imagenet" else find_weights(weights)
    if isinstance(path, Path) and artifact.has_description(path):
        stored = artifact.describe(path).spec
        if stored.name != name:
            raise ValueError(f"{path} holds a {stored.name}, not a {name}: call create_model({stored.name!r}, …)")
        options: dict[str, Any] = {"num_classes": num_classes or stored.num_classes, **spec}
        built = dataclasses.replace(stored, **options)
    model = CGRSeg(spec=built)
    report = start_from(model, path)
    if report.note:
        LOGGER.warning("%s", printable(f"{os.fspath(weights)}: {report.note}"))
    return model


def list_models() -> list[str]:
    """The names that `create_model` knows: the paper's, our own cgrseg_n and cgrseg_lite, and SegNeXt."""
    return list(VARIANTS)


def list_weights() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(_bundled_files())


def load(weights: Pathlike, device: str | torch.device = "auto") -> CGRSeg:
    """Load a model that is ready to use: evaluation mode, with its labels, preprocessing and card.

    Args:
        weights: a weights file, the name of bundled weights, or "hf:USER/NAME".
        device: "auto" uses the GPU if CUDA has one, otherwise the CPU; or "cpu", "cuda:1", "mps", ….

    Raises:
        ValueError: there are no weights or device of that name, or the file is not usable.
        OSError: there is no such file, or the hub cannot be reached.
    """
    return artifact.load(find_weights(weights), usable_device(device))


def find_weights(weights: Pathlike) -> Path:
    """The file that a path, a bundled name or "hf:USER/NAME" stands for. A path need not exist.

    Raises:
        ValueError: no weights have that name.
        OSError: the hub cannot be reached.
    """
    name, path = os.fspath(weights), Path(weights)
    if name.startswith("hf:"):
        from .hub import HUB_FILE, fetch

        return fetch(name.removeprefix("hf:"), cure=f"download its {HUB_FILE} on another machine and give its path")
    files = _bundled_files()
    if name in files and not path.is_file():
        return files[name]
    if path.is_dir():
        run = path / "best.safetensors"
        raise IsADirectoryError(f"{path} is a folder: name a weights file" + f", such as {run}" * run.is_file())
    if path.exists() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return path
    if name in VARIANTS:
        raise ValueError(f"{name} is a model without weights: train it, or choose from {', '.join(sorted(files))}")
    raise ValueError(f"no weights are called {name!r}, and there is no such file{did_you_mean(name, sorted(files))}")


def _bundled_files() -> dict[str, Path]:
    folder = resources.files("cgrseg.weights") / "bundled"
    paths = [Path(str(entry)) for entry in folder.iterdir()]
    return {path.stem: path for path in paths if path.suffix == ".safetensors"}


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU if CUDA has one, otherwise the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used ({reason}): use auto") from error
    return torch.device(device)


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic; emulating it takes ten times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
