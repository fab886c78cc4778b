"""Fill the tensors of a module from a state dict, and report what was filled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cgrseg.nn.backbones.attention_bias import table_fits

ENOUGH = 0.95  # share of our tensors that must be filled
CLASSIFIER = ("head.classifier.weight", "head.classifier.bias")
TABLE = "bias.table"


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint.

    Args:
        loaded: our tensors that the checkpoint filled.
        missing: our tensors that keep their values.
        unexpected: keys of the checkpoint that the model does not have (known unused ones are not listed).
        reshaped: those of `loaded` with another shape: scales, attention tables of another resolution, kernels of RGB
            for another number of channels.
        source: where the weights come from, if not from a given file.
        note: one line about what was not filled on purpose, or "".
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    source: str = ""
    note: str = ""

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("loaded", "missing", "unexpected", "reshaped")}
        text = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "loaded")
        return f"{text} tensors" + (f" from {self.source}" if self.source else "") + f"; {self.note}" * bool(self.note)

    def prefixed(self, prefix: str) -> LoadReport:
        """The report with `prefix` before the names of our tensors."""
        names = ("loaded", "missing", "reshaped")
        longer: dict[str, Any] = {name: tuple(prefix + key for key in getattr(self, name)) for name in names}
        return dataclasses.replace(self, **longer)


def load_keys(
    module: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    translate: Callable[[str], str | None] = str,
    *,
    kept: tuple[str, ...] = (),
) -> LoadReport:
    """Fill the tensors of `module` except `kept`.

    Args:
        module: unchanged if this fails.
        state: the tensors.
        name: the source in error messages.
        translate: key of the state -> ours, or None for an unused key.
        kept: our tensors that keep their values.

    Raises:
        ValueError: a tensor has another shape, or less than 95 % are filled.
    """
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
            if len(shape) == 4 and tensor.shape == (shape[0], 3, *shape[2:]):
                from timm.models import adapt_input_conv  # importing timm takes seconds

                tensor = adapt_input_conv(shape[1], tensor)  # summed for 1 channel, else repeated and scaled
            elif not (key.endswith(TABLE) and table_fits(tensor.shape, shape[0])):
                if tensor.squeeze().shape != ours[key].squeeze().shape:
                    raise ValueError(
                        f"{name}: {theirs} has shape {tuple(tensor.shape)}, our {key} {tuple(shape)}: "
                        "is it another variant?"
                    )
                tensor = tensor.reshape(shape)
        found[key] = tensor
    missing = tuple(key for key in ours if key not in found)
    scope = [key for key in ours if key not in kept]
    if len(found) < ENOUGH * len(scope):
        empty = [key for key in missing if key not in kept]
        raise ValueError(
            f"{name} fills {len(found)} of our {len(scope)} tensors, not {', '.join(empty[:3])}"
            f"{', …' if len(empty) > 3 else ''}: it is incomplete or another network"
        )
    module.load_state_dict(found, strict=False)
    return LoadReport(tuple(found), missing, tuple(unexpected), tuple(reshaped))
