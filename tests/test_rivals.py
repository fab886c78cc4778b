"""The rivals have the sizes that the paper prints, train, take any image size, and run in OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cgrseg
from cgrseg import rivals
from cgrseg.inference.runtimes import OpenVINONetwork
from cgrseg.measure.candidates import to_openvino
from cgrseg.measure.complexity import Complexity, PaperCounter, complexity
from cgrseg.nn import build
from cgrseg.paper.measured import model_of
from cgrseg.paper.published import Row, published
from cgrseg.paper.tables import cost_of

ROWS = [row for table in published()[:3] for row in table.rows if row.ours is not None]
AUXILIARY = 1024 * 256 * 9 + 2 * 256 + (256 + 1) * 150  # mmsegmentation's head for training, on the third stage
ON_RESNET101 = ("encnet_r101", "ccnet_r101", "danet_r101", "emanet_r101", "hamnet_r101", "deeplabv3plus_r101_d8")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.method))
def test_sizes_are_the_printed_ones_or_a_note_says_why_not(row: Row) -> None:
    model = model_of(row)
    assert model is not None
    cost = cost_of(model)
    parameters = row.params_m is None or abs(cost.parameters / 1e6 - row.params_m) < 0.1
    counts = (cost.paper_flops / 1e9, cost.macs / 1e9)
    operations = row.flops_g is None or any(abs(count - row.flops_g) < 0.1 for count in counts)
    noted = row.note or any(row.method == other.method and other.note for other in ROWS)
    assert noted or (parameters and operations), (row.method, cost)


def count(name: str, **choices: bool) -> float:
    with torch.device("meta"):
        model = rivals.build(name) if name in rivals.NAMES else build(name)
    return reading(model, **choices)


def reading(model: nn.Module, *, products: bool = False, resizes: bool = False) -> float:
    """Operations in 1e9 by a counter of other authors.

    mmcv's, without BatchNorms, which are synchronised there; with the products of attention; or torchprofile's, which
    also counts 4 for each resized value.
    """

    class Counter(PaperCounter):
        def _count(self, name: str, *args: Any, **named: Any) -> int:
            if resizes:
                values = 4 * args[0].numel() if name == "interpolate" else 0
                return values + (2 * args[0].numel() if name.endswith("_norm") else 0)
            return 0 if name == "batch_norm" else super()._count(name, *args, **named)

    cost: Complexity = complexity(model)
    model = model.to("meta").eval()
    with torch.no_grad(), Counter(model) as counter:
        logits = model(torch.zeros(1, 3, 512, 512, device="meta"))
        if resizes:
            F.interpolate(logits, (512, 512), mode="bilinear")
    if resizes:
        return (cost.total.macs + counter.flops.total()) / 1e9
    matrix = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    operations: list[int] = []
    for module in matrix:
        module.register_forward_hook(lambda layer, inputs, out: operations.append(_products(layer, inputs, out)))
    with torch.no_grad():
        model(torch.zeros(1, 3, 512, 512, device="meta"))
    return (counter.flops.total() + products * (cost.total.macs - sum(operations))) / 1e9


def _products(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> int:
    weight: Any = layer.weight
    source = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else out
    return int(source.numel() * weight[0].numel())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices", "printed"),
    [
        ("segformer_b0", {"products": True}, "8.4"),
        ("segformer_b1", {"products": True}, "15.9"),
        ("segformer_b2", {"products": True}, "62.4"),
        ("feedformer_b0", {"products": True}, "7.8"),
        ("feedformer_b2", {"products": True}, "42.7"),
        ("segnext_t", {"resizes": True}, "6.6"),
        ("segnext_s", {"resizes": True}, "15.9"),
        ("segnext_b", {"resizes": True}, "34.9"),
        ("deeplabv3plus_r101_d8", {}, "255.1"),
        ("encnet_r101", {}, "218.8"),
        ("ccnet_r101", {}, "278.4"),
        ("hamnet_r101", {}, "277.9"),
    ],
)
def test_the_counters_of_other_authors_give_the_printed_operations(
    name: str, choices: dict[str, bool], printed: str
) -> None:
    assert f"{count(name, **choices):.1f}" == printed
    assert printed in {str(row.flops_g) for row in ROWS}


@pytest.mark.parametrize(
    ("name", "extra", "printed"),
    [
        ("deeplabv3plus_r101_d8", AUXILIARY, "62.7"),
        ("encnet_r101", AUXILIARY, "55.1"),  # the paper prints the 68.6 of FCN
        ("ccnet_r101", AUXILIARY, "68.9"),
        ("danet_r101", AUXILIARY + 2 * (512 + 1) * 150, "69.1"),  # and a classifier for each attention
        ("hamnet_r101", AUXILIARY, "69.1"),
        ("seaformer_l", 0, "14.0"),
        ("feedformer_lvt", 0, "4.6"),
        ("feedformer_b2", 0, "29.1"),
        ("pem_stdc1", 0, "17.0"),
        ("pem_stdc2", 0, "21.0"),
        ("hrformer_s", -2 * (150 - 19) * (512 + 1), "13.5"),  # with the 19 classes of Cityscapes
        ("hrformer_b", -2 * (150 - 19) * (512 + 1), "56.2"),
        ("ocrnet_hr48", 720 * (9 * 512 - 720) + 2 * (512 - 720) + (512 - 720) * 150, "73.3"),  # printed: 74.5
        ("senformer_r101", 1024 * 512 * 9 + 2 * 512 + (512 + 1) * 150, "79.0"),
    ],
)
def test_parameters_are_the_printed_ones_with_the_heads_for_training(name: str, extra: int, printed: str) -> None:
    assert f"{(cost_of(name).parameters + extra) / 1e6:.1f}" == printed


class Maps(nn.Module):
    """In place of ResNet-101: its four maps at strides 4, 8, 8, 8."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        strides = (4, 8, 8, 8)
        self.layers = nn.ModuleList(
            nn.Conv2d(3, wide, 3, stride, 1) for wide, stride in zip(channels, strides, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return [layer(images) for layer in self.layers]


def small(name: str) -> nn.Module:
    """A rival with 5 classes; the heads on ResNet-101 get maps of fewer layers."""
    torch.manual_seed(0)
    model = rivals.build(name, 5)
    if name in ON_RESNET101:
        model.backbone = Maps((256, 512, 1024, 2048))
    return model


# One size of each method but those that only put a library's model together.
TESTED = (
    *("segformer_b0", "seaformer_l", "feedformer_b0", "feedformer_lvt", "deeplabv3plus_mobilenet_v2_d8"),
    *("pem_stdc1", "lrformer_t", "ocrnet_hr48", "hrformer_s", "senformer_r50", *ON_RESNET101),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_a_rival_trains_a_step_takes_any_size_and_exports(name: str, tmp_path: Path) -> None:
    model = small(name)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0  # statistics of these images, or deep networks amplify rounding errors
    images, truth = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    logits = F.interpolate(model(images), (64, 96), mode="bilinear")
    F.cross_entropy(logits, truth).backward()
    learned = [(key, value) for key, value in model.named_parameters() if value.requires_grad]
    unused = [key for key, value in learned if value.grad is None and not key.startswith("backbone.layers")]
    assert unused == (["head.presence.weight", "head.presence.bias"] if name == "encnet_r101" else [])
    torch.optim.SGD(model.parameters(), 1e-4).step()

    model.eval().requires_grad_(False)
    with torch.inference_mode():
        for height, width in ((75, 101), (100, 64)):
            stride = round(height / model(torch.zeros(1, 3, height, width)).shape[2])
            expected = (1, 5, -(-height // stride), -(-width // stride))
            assert model(torch.zeros(1, 3, height, width)).shape == expected

    if name == "hamnet_r101":  # OpenVINO 2026.4 crashes when it compiles this network for smaller images
        images = torch.randn(1, 3, 256, 256)
    to_openvino(model, tmp_path / "rival.xml", (images.shape[2], images.shape[3]))
    exported = OpenVINONetwork(tmp_path / "rival.xml", "cpu", 1)
    with torch.inference_mode():
        expected_logits = model(images)
        error = (exported(images) - expected_logits).abs().max() / expected_logits.abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("name", ["maskformer_swin_t", "mask2former_swin_t", "deeplabv3plus_mobilenet_v2"])
def test_rivals_of_libraries_give_scores_at_stride_4(name: str) -> None:
    with torch.inference_mode():
        assert rivals.build(name, 5).eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 16, 24)


def test_create_model_builds_rivals_without_options() -> None:
    assert cgrseg.create_model("segformer_b0", num_classes=5).training
    with pytest.raises(ValueError, match="segformer_b0 is a compared method: it takes num_classes only"):
        cgrseg.create_model("segformer_b0", head="se")  # type: ignore[call-overload]


def test_an_unknown_rival_and_a_missing_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no other model is called 'seaformer_x': choose from segformer_b0"):
        rivals.build("seaformer_x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "cgrseg.rivals.from_transformers", raising=False)
    with pytest.raises(ValueError, match=r'segformer_b0 needs transformers.*pip install "cgrseg\[peers\]"'):
        rivals.build("segformer_b0")
