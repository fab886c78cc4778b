"""Keys of other projects -> ours: released CGRSeg, EfficientFormerV2 and EfficientNet-Lite."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgrseg.nn import VARIANTS, CGRSeg, ModelSpec, build
from cgrseg.nn.backbones.attention_bias import AttentionBias
from cgrseg.nn.backbones.efficientformerv2 import SIZES, EfficientFormerV2
from cgrseg.nn.backbones.efficientnet_lite import EfficientNetLite
from cgrseg.nn.backbones.mscan import MSCAN

from .checkpoint_reader import CLASSIFIER, TABLE, LoadReport, Source, load_keys, read_state, source_name

# (ours, released) prefixes. Within the blocks the names are the released ones, except for the bias table.
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
OFFICIAL_TABLE, IMAGENET_TABLE = "attention_biases_seg", "attention_biases"

# timm's key -> ours, rules applied in order; timm's feature extractors write "stages_0" for "stages.0".
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
DEAD_OFFICIAL = re.compile(r"\.(attention_biases|attention_bias_idxs(_seg)?)$")  # of ImageNet, unused
DEAD_ENCODER = re.compile(r"^(norm|head|head_dist|dist_head)\.|\.attention_bias_idxs$")  # the classifier


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
        source: a state dict or a file (.pth, .safetensors); wrappers ("state_dict", "model") and the prefix "module."
            are removed.
        strict_classes: False keeps the model's own classifier if the checkpoint's has another size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read safely, is of another variant or number of classes, or fills less
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

    report = load_keys(model, state, name, translate, kept=kept)
    for module in model.modules():
        if isinstance(module, AttentionBias):
            module.mode = "official"
    model.describe(spec=dataclasses.replace(model.spec, bias_mode="official"))
    if kept:
        theirs, ours = state["decode_head.conv_seg.weight"].shape[0], model.spec.num_classes
        return dataclasses.replace(report, note=f"the classifier starts fresh: {theirs} -> {ours} classes")
    return report


def load_encoder(encoder: nn.Module, source: Source) -> LoadReport:
    """Load ImageNet weights in timm's or the original keys into `model.encoder`.

    EfficientFormerV2: in relative mode the attention tables for 224x224 (7x7, 14x14) are loaded as they are and
    resampled to each image size. In official mode they are ignored, as in the released code.

    Args:
        encoder: an EfficientFormerV2 or EfficientNet-Lite of the checkpoint's size; unchanged if this fails.
        source: as in `load_official`. The ImageNet classifier in it is ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read safely, is of another network or size, or fills less than 95 % of
            the encoder's tensors.
    """
    state, name = read_state(source), source_name(source)
    if isinstance(encoder, EfficientNetLite):
        return load_keys(encoder, lite_state(state, blocks=[len(stage) for stage in encoder.blocks]), name)  # type: ignore[arg-type]
    if isinstance(encoder, MSCAN):  # has the released names
        return load_keys(encoder, state, name, lambda key: None if DEAD_ENCODER.search(key) else key)
    if not isinstance(encoder, EfficientFormerV2):
        raise ValueError(
            f"a {type(encoder).__name__} takes no ImageNet file: use EfficientFormerV2 or EfficientNet-Lite"
        )
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

    report = load_keys(encoder, state, name, translate, kept=kept)
    return dataclasses.replace(report, missing=tuple(key for key in report.missing if key not in kept))


def lite_state(state: Mapping[str, Tensor], *, blocks: Sequence[int]) -> dict[str, Tensor]:
    """EfficientNet-Lite's encoder tensors under our keys, which are timm's; the classifier is left out.

    Args:
        state: with timm's keys ("blocks.2.0.bn2.bias") or those of the PyPI packages ("_blocks.3._bn1.bias").
        blocks: number of blocks in each stage.
    """
    places = [(stage, index) for stage, count in enumerate(blocks) for index in range(count)]
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # no expansion
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    found = {}
    for key, tensor in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block and int(block[1]) < len(places):
            stage, index = places[int(block[1])]
            key = f"blocks.{stage}.{index}.{(other if stage else first).get(block[2], block[2])}.{block[3]}"
        key = re.sub(r"^_conv_stem\.", "conv_stem.", re.sub(r"^_bn0\.", "bn1.", key))
        if not key.startswith(("_conv_head.", "_bn1.", "_fc.", "conv_head.", "bn2.", "classifier.")):
            found[key] = tensor
    return found


def released_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The six fields of `ModelSpec` that follow from the shapes of a released state dict, if it has the keys."""

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
    """The spec of a released state dict.

    Raises:
        ValueError: it is not a released CGRSeg.
    """
    sizes = released_sizes(state)
    variant = next((spec for spec in VARIANTS.values() if spec.backbone == sizes.get("backbone")), None)
    if variant is None or len(sizes) < 6:
        raise ValueError(f"not a released CGRSeg checkpoint: its first keys are {', '.join(list(state)[:2])}")
    return dataclasses.replace(variant, bias_mode="official", **sizes)


def own_spec(state: Mapping[str, Tensor], name: str | None = None) -> ModelSpec:
    """The spec of a plain state dict of one of our models.

    Args:
        state: with our keys.
        name: the variant; None tries all.

    Raises:
        ValueError: no variant, or not this one, has these tensors.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for variant in VARIANTS if name is None else [name]:
        with torch.device("meta"):
            model = build(variant, num_classes=shapes[CLASSIFIER[0]][0])
        if {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == shapes:
            return model.spec
    which = "none of our variants in their default form" if name is None else f"not of {name}"
    raise ValueError(
        f"its tensors are {which}: save the model itself with cgrseg.save(model, FILE), which also stores its spec"
    )


def _swap(key: str, prefixes: Any) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return str(new) + key.removeprefix(old)
    return key
