"""Foreign keys -> ours: released CGRSeg, and EfficientFormerV2 in timm's spelling or the original one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cgrseg.nn import VARIANTS, CGRSeg, ModelSpec
from cgrseg.nn.backbones.attention_bias import AttentionBias, table_fits
from cgrseg.nn.backbones.efficientformerv2 import SIZES, EfficientFormerV2

from .checkpoint_reader import Source, read_state, source_name

ENOUGH = 0.95  # of our tensors must be filled
CLASSIFIER = ("head.classifier.weight", "head.classifier.bias")

# (ours, released): how the keys start. Within the blocks the names are the released ones, but for the table.
ENCODER_PREFIXES = (
    ("stem.", "patch_embed."),
    *((f"stages.{i}.", f"network.{2 * i}.") for i in range(4)),
    *((f"downsamples.{i}.", f"network.{2 * i + 1}.") for i in range(3)),
)
PREFIXES = (
    *((f"encoder.{ours}", f"backbone.{released}") for ours, released in ENCODER_PREFIXES),
    ("context.blocks.", "decode_head.trans.transformer_blocks."),
    ("reconstruction.calibrate.", "decode_head.meta."),
    ("reconstruction.fuse.", "decode_head.SIM."),
    ("reconstruction.lateral.", "decode_head.conv."),
    ("head.linear_fuse.0.", "decode_head.linear_fuse."),
    ("head.classifier.", "decode_head.conv_seg."),
    ("head.gate.", "decode_head.lgc."),
)
TABLE, OFFICIAL_TABLE, IMAGENET_TABLE = "bias.table", "attention_biases_seg", "attention_biases"

# timm's key -> ours, one rule after the other; timm's feature extractors write "stages_0" for "stages.0".
TIMM_RULES = (
    *((rf"^stem[._]conv{n}\.conv\.", f"stem.{i}.") for n, i in ((1, 0), (2, 3))),
    *((rf"^stem[._]conv{n}\.bn\.", f"stem.{i}.") for n, i in ((1, 1), (2, 4))),
    *((rf"^stages[._]{i + 1}\.downsample\.", f"downsamples.{i}.") for i in range(3)),
    (r"^stages[._](\d)\.blocks\.", r"stages.\1."),
    (r"^(downsamples\.[01])\.conv\.conv\.", r"\1.proj."),
    (r"^(downsamples\.[01])\.conv\.bn\.", r"\1.norm."),
    (r"^downsamples\.2\.conv\.(conv|bn)\.", r"downsamples.2.\1."),
    (r"\.mlp\.(fc1|mid|fc2)\.conv\.", r".mlp.\1."),
    (r"\.mlp\.mid\.bn\.", ".mlp.mid_norm."),
    (r"\.mlp\.fc([12])\.bn\.", r".mlp.norm\1."),
    (r"\.ls([12])\.gamma$", r".layer_scale_\1"),
    (r"\.q\.local\.", ".q.local.0."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.conv\.", r".\1.0."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.bn\.", r".\1.1."),
    (r"\.proj\.conv\.", ".proj.1."),
    (r"\.proj\.bn\.", ".proj.2."),
    (rf"\.{IMAGENET_TABLE}$", f".{TABLE}"),
)
DEAD_OFFICIAL = re.compile(r"\.(attention_biases|attention_bias_idxs(_seg)?)$")  # ImageNet's, out of use
DEAD_ENCODER = re.compile(r"^(norm|head|head_dist|dist_head)\.|\.attention_bias_idxs$")  # the classifier


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint.

    Args:
        loaded: our tensors that the checkpoint filled.
        missing: our tensors that keep the values they had.
        unexpected: the checkpoint's keys that nothing here takes (its known dead ones are not counted).
        reshaped: those of `loaded` that had another shape: scales, attention tables of another resolution.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"{len(getattr(self, f.name))} {f.name}" for f in dataclasses.fields(self))


def official_key(key: str) -> str:
    """Our key -> the released one: "head.classifier.bias" -> "decode_head.conv_seg.bias"."""
    key = _swap(key, PREFIXES)
    return key.removesuffix(TABLE) + OFFICIAL_TABLE if key.endswith(TABLE) else key


def our_key(key: str) -> str:
    """The released key -> ours; the inverse of `official_key`."""
    key = _swap(key, [(released, ours) for ours, released in PREFIXES])
    return key.removesuffix(OFFICIAL_TABLE) + TABLE if key.endswith(OFFICIAL_TABLE) else key


def load_official(model: CGRSeg, source: Source, *, strict_classes: bool = True) -> LoadReport:
    """Load a released CGRSeg checkpoint and set the model to its arithmetic, bias_mode "official".

    Args:
        model: of the checkpoint's variant; unchanged if this fails.
        source: a state dict or a file (.pth, .safetensors); wrappers ("state_dict", "model") and "module." in
            front of the keys are taken off.
        strict_classes: False keeps the model's own classifier where the checkpoint's has another size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file can't be read safely, is of another variant or number of classes, or fills less
            than 95 % of the model's tensors.
    """
    state, name = read_state(source), source_name(source)
    kept: tuple[str, ...] = ()
    for field, theirs in released_sizes(state).items():
        ours = getattr(model.spec, field)
        if theirs == ours:
            continue
        if field != "num_classes":
            cure = f"create the model with {field}={theirs!r}"
            raise ValueError(f"{name} has {field} {theirs}, the model {ours}: {cure}")
        if strict_classes:
            raise ValueError(
                f"{name} has a classifier of {theirs} classes, the model of {ours}: create the model with "
                f"num_classes={theirs}, or keep the model's own classifier with strict_classes=False"
            )
        kept = CLASSIFIER

    def translate(key: str) -> str | None:
        return None if DEAD_OFFICIAL.search(key) else our_key(key)

    report = _load(model, state, name, translate, kept=kept)
    for module in model.modules():
        if isinstance(module, AttentionBias):
            module.mode = "official"
    model.spec = dataclasses.replace(model.spec, bias_mode="official")
    return report


def load_encoder(encoder: nn.Module, source: Source) -> LoadReport:
    """Load ImageNet weights of EfficientFormerV2, in timm's or the original spelling, into `model.encoder`.

    In relative mode the attention tables for 224x224 (7x7, 14x14) are taken as they are and resampled to each
    photo's size. In official mode they are left out, as the released code does, and ours keep their values.

    Args:
        encoder: an EfficientFormerV2 of the checkpoint's size; unchanged if this fails.
        source: as in `load_official`. ImageNet's classifier in it is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file can't be read safely, is of another network or size, or fills less than 95 % of
            the encoder's tensors.
    """
    if not isinstance(encoder, EfficientFormerV2):
        raise ValueError(f"a {type(encoder).__name__} takes no EfficientFormerV2 weights: choose that backbone")
    state, name = read_state(source), source_name(source)
    biases = [module for module in encoder.modules() if isinstance(module, AttentionBias)]
    official = any(bias.mode == "official" for bias in biases)
    kept = tuple(key for key in encoder.state_dict() if key.endswith(TABLE)) if official else ()
    released = [(theirs, ours) for ours, theirs in ENCODER_PREFIXES]

    def translate(key: str) -> str | None:
        if DEAD_ENCODER.search(key) or (official and key.endswith(IMAGENET_TABLE)):
            return None
        if key.startswith(("stem", "stages")):
            for pattern, replacement in TIMM_RULES:
                key = re.sub(pattern, replacement, key)
            return key
        return _swap(re.sub(rf"\.{IMAGENET_TABLE}$", f".{TABLE}", key), released)

    report = _load(encoder, state, name, translate, kept=kept)
    return dataclasses.replace(report, missing=tuple(key for key in report.missing if key not in kept))


def released_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The six fields of `ModelSpec` that the shapes of a released state dict tell, if its keys are there."""

    def size(key: str, axis: int) -> int | None:
        return state[key].shape[axis] if key in state and state[key].ndim > axis else None

    block = "decode_head.trans.transformer_blocks"
    gamma = re.compile(rf"{re.escape(block)}\.\d+\.gamma")
    encoders = {spec.widths[-1]: f"efficientformerv2_{size}" for size, spec in SIZES.items()}
    sizes = {
        "backbone": encoders.get(size("backbone.network.6.0.layer_scale_2", 0) or 0),
        "width": size("decode_head.conv_seg.weight", 1),
        "context_blocks": sum(map(bool, map(gamma.fullmatch, state))) or None,
        "strip_kernel": size(f"{block}.0.token_mixer.excite.0.weight", 3),
        "local_kernel": size(f"{block}.0.token_mixer.dwconv_hw.weight", 3),
        "num_classes": size("decode_head.conv_seg.weight", 0),
    }
    return {field: value for field, value in sizes.items() if value is not None}


def released_spec(state: Mapping[str, Tensor]) -> ModelSpec:
    """The model that a released state dict is of.

    Raises:
        ValueError: it is not one of a released CGRSeg.
    """
    sizes = released_sizes(state)
    variant = next((spec for spec in VARIANTS.values() if spec.backbone == sizes.get("backbone")), None)
    if variant is None or len(sizes) < 6:
        raise ValueError(f"no released CGRSeg checkpoint: its keys are such as {', '.join(list(state)[:2])}")
    return dataclasses.replace(variant, bias_mode="official", **sizes)


def _swap(key: str, prefixes: Any) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return str(new) + key.removeprefix(old)
    return key


def _load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    translate: Callable[[str], str | None],
    *,
    kept: tuple[str, ...],
) -> LoadReport:
    """Fill `module`, all but `kept`, with what `translate` gives our name to; None is a dead key."""
    ours = module.state_dict()
    found: dict[str, Tensor] = {}
    unexpected, reshaped = [], []
    for theirs, tensor in state.items():
        key = translate(theirs)
        if key is None or key in kept:
            continue
        if key not in ours:
            unexpected.append(theirs)
            continue
        shape = ours[key].shape
        if tensor.shape != shape:
            reshaped.append(key)
            if not (key.endswith(TABLE) and table_fits(tensor.shape, shape[0])):
                if tensor.squeeze().shape != ours[key].squeeze().shape:
                    raise ValueError(
                        f"{name}: {theirs} has shape {tuple(tensor.shape)}, our {key} {tuple(shape)}: "
                        "is it of another variant?"
                    )
                tensor = tensor.reshape(shape)
        found[key] = tensor
    missing = tuple(key for key in ours if key not in found)
    scope = [key for key in ours if key not in kept]
    if len(found) < ENOUGH * len(scope):
        empty = [key for key in missing if key not in kept]
        raise ValueError(
            f"{name} fills {len(found)} of our {len(scope)} tensors, not {', '.join(empty[:3])}"
            f"{', …' if len(empty) > 3 else ''}: it is incomplete or of another network"
        )
    module.load_state_dict(found, strict=False)
    return LoadReport(tuple(found), missing, tuple(unexpected), tuple(reshaped))
