"""Where fine-tuning starts from: any weights that this package can read, with a report of what they filled."""

from __future__ import annotations

import os

from cgrseg.nn import CGRSeg

from . import artifact, foreign
from .adapters import CLASSIFIER, LoadReport, load_encoder, load_official
from .create import find_weights, load_imagenet


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
