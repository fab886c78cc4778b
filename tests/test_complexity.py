"""Costs are the paper's to every printed digit, and what a pencil says for single layers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.cli.main import main
from cgrseg.labels import LabelSpace
from cgrseg.measure.complexity import Complexity, complexity
from cgrseg.nn import build
from cgrseg.nn.reconstruction import ConvNorm
from cgrseg.preprocessing import Preprocessing


def cost_of(name: str, size: tuple[int, int] = (512, 512), **spec: object) -> Complexity:
    with torch.device("meta"):
        return complexity(build(name, **spec), size)


@pytest.mark.parametrize(
    ("name", "spec", "parameters", "paper", "macs"),
    [
        ("cgrseg_t", {}, "9.3646", "3.99748", "4.527"),
        ("cgrseg_b", {}, "18.1100", "7.60947", "8.525"),
        ("cgrseg_b", {"context_blocks": 6}, "19.1149", "7.67385", "8.589"),
        ("cgrseg_l", {}, "35.6777", "14.91096", "16.120"),
        # the paper's Table 7 has MSCAN-T as encoder; these two widths were measured on the released blocks
        ("cgrseg_t", {"backbone": "mscan_t", "width": 256}, "9.4915", "5.84602", "5.906"),
        ("cgrseg_t", {"backbone": "mscan_t", "width": 320}, "9.6519", "5.98597", "6.085"),
    ],
)
def test_costs_are_those_of_the_release(
    name: str, spec: dict[str, object], parameters: str, paper: str, macs: str
) -> None:
    total = cost_of(name, **spec).total
    assert f"{total.parameters / 1e6:.4f}" == parameters
    assert f"{total.paper_flops / 1e9:.5f}" == paper
    assert f"{total.macs / 1e9:.3f}" == macs


def test_one_reading_gives_both_printed_sizes_of_table_7() -> None:
    with torch.device("meta"):
        model = build("cgrseg_t", backbone="mscan_t", width=256).eval()
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    total, elements = complexity(model).total, list[int]()
    for norm in norms:
        norm.register_forward_hook(lambda _module, _inputs, out: elements.append(2 * out.numel()))
    with torch.no_grad():
        model(torch.zeros(1, 3, 512, 512, device="meta"))
    classifier = 256 * 1000 + 1000  # ImageNet's, which the release keeps in the encoder
    assert f"{(total.paper_flops + sum(elements)) / 1e9:.3f}" == "5.863"  # printed: 5.9
    assert f"{(total.parameters + classifier) / 1e6:.3f}" == "9.749"  # printed: 9.7


def test_parts_of_t_share_as_measured() -> None:
    cost = cost_of("cgrseg_t")
    assert list(cost.parts) == ["encoder", "context", "reconstruction", "head"]
    millions = {name: round(part.parameters / 1e6, 3) for name, part in cost.parts.items()}
    lateral = (128 + 1) * (48 + 120)
    assert millions["encoder"] == 5.748
    assert millions["context"] == 3.156
    assert round((cost.parts["reconstruction"].parameters - lateral) / 1e6, 3) == 0.386  # RCMs 0.284, fusion 0.102
    assert round(cost.parts["context"].paper_flops / 1e9, 2) == 0.20
    classifier_twice = 2 * 64 * 64 * 150 * (128 + 1)
    assert cost.parts["head"].paper_flops == pytest.approx(classifier_twice, rel=0.02)


def test_parts_add_up() -> None:
    cost = cost_of("cgrseg_t", (333, 500))
    for field in ("parameters", "paper_flops", "macs"):
        assert sum(getattr(part, field) for part in cost.parts.values()) == getattr(cost.total, field)


def test_nano_is_nano() -> None:
    total = cost_of("cgrseg_n").total
    assert round(total.parameters / 1e6, 1) == 4.9
    assert total.paper_flops < 2.5e9


def test_counting_leaves_the_model_alone() -> None:
    model = build("cgrseg_n", num_classes=5).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counted = complexity(model, (64, 96))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert counted == cost_of("cgrseg_n", (64, 96), num_classes=5)


def test_a_size_that_the_model_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="31x512"):
        cost_of("cgrseg_n", (31, 512))


class Functional(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x)  # type: ignore[operator]
        return out


C, H, W = 3, 20, 31
HALF = math.ceil(H / 2) * math.ceil(W / 2)


@pytest.mark.parametrize(
    ("layer", "paper", "macs"),
    [
        (nn.Conv2d(3, 6, (1, 5), padding=(0, 2), bias=False), H * W * 6 * 15, H * W * 6 * 15),
        (nn.Conv2d(3, 6, 3, padding=1, stride=2, groups=3), HALF * 6 * (9 + 1), HALF * 6 * 9),
        (nn.Linear(W, 7), C * H * W * 7, C * H * W * 7),
        (nn.ReLU(), C * H * W, 0),
        (Functional(F.relu6), C * H * W, 0),
        (nn.Hardsigmoid(), C * H * W, 0),
        (nn.GELU(), 0, 0),
        (nn.Sigmoid(), 0, 0),
        (nn.Softmax(dim=1), 0, 0),
        (nn.BatchNorm2d(3), 2 * C * H * W, 0),
        (ConvNorm(3, 5), H * W * 5 * 3, H * W * 5 * 3),  # its norm is synchronised in the release
        (nn.LayerNorm([3, H, W]), 2 * C * H * W, 0),
        (Functional(lambda x: x.mean(3, keepdim=True)), C * H * W, 0),
        (Functional(lambda x: x[:, :, ::2, ::2]), C * H * W, 0),
        (Functional(lambda x: x[:, :, 1:5]), 0, 0),
        (Functional(lambda x: F.adaptive_avg_pool2d(x, (1, 1))), 0, 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 0, 0),
        (Functional(lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2)), 0, C * C * H * W),
    ],
)
def test_single_layers_count_as_on_paper(layer: nn.Module, paper: int, macs: int) -> None:
    for model in (nn.Sequential(layer), nn.Sequential(nn.Identity(), layer)):
        model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
        cost = complexity(model, (H, W))
        assert (cost.total.paper_flops, cost.total.macs) == (paper, macs)


def test_in_the_encoder_resizes_count_and_batch_norms_do_not() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.BatchNorm2d(3), nn.Upsample(size=(40, 50)))
            self.head = nn.Sequential(nn.Upsample(size=(60, 70)), nn.BatchNorm2d(3))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.encoder(x))
            return out

    cost = complexity(Model(), (H, W))
    assert cost.parts["encoder"].paper_flops == 3 * 40 * 50
    assert cost.parts["head"].paper_flops == 2 * 3 * 60 * 70


def test_models_of_others_are_counted() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet18", pretrained=False)
    cost = complexity(model, (224, 224))
    assert f"{cost.total.parameters / 1e6:.2f}" == "11.69"  # both as published
    assert f"{cost.total.macs / 1e9:.2f}" == "1.81"


@pytest.mark.parametrize(
    ("name", "total", "paper"),
    [
        ("cgrseg_t", ["9.3646", "3.9975", "4.5272"], ["9.4", "4.0"]),
        ("cgrseg_b", ["18.1100", "7.6095", "8.5254"], ["18.1", "7.6"]),
        ("cgrseg_l", ["35.6777", "14.9110", "16.1204"], ["35.7", "14.9"]),
    ],
)
def test_info_prints_ours_beside_the_papers(
    name: str, total: list[str], paper: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", name]) == 0
    out = capsys.readouterr().out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert table["total"] == total
    assert table["paper"] == paper
    assert "Table 1" in out
    rows = [line for line in out.splitlines() if line.startswith(("encoder", "context", "head", "total"))]
    assert len({len(row) for row in rows}) == 1  # aligned


def test_info_says_that_the_nano_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "cgrseg_n", "--size", "64x96", "--num-classes", "12"]) == 0
    out = capsys.readouterr().out
    assert "12 classes, image of 64x96" in out
    assert "cgrseg_n is not in the paper" in out
    assert not any(line.startswith("paper ") for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cgrseg_tt"], "no model is called 'cgrseg_tt': did you mean 'cgrseg_t'?"),
        (["cgrseg_t", "--size", "512"], "--size 512: write HEIGHTxWIDTH in pixels, such as 512x683"),
        (["cgrseg_t", "--size", "512x-5"], "--size 512x-5: write HEIGHTxWIDTH in pixels, such as 512x683"),
        (["cgrseg_t", "--size", "31x512"], "--size 31x512: each side must be between 32 and 65535 pixels"),
        (
            ["cgrseg_t", "--size", "512x99999"],
            "--size 512x99999: each side must be between 32 and 65535 pixels",
        ),
        (["cgrseg_t", "--num-classes", "0"], "--num-classes is 0: it must be > 0"),
    ],
)
def test_info_words_bad_input_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"cgrseg: {message}\n"
    assert captured.out == ""


def test_info_shows_what_a_weights_file_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cgrseg.weights import artifact

    labels = LabelSpace(names=("sky", "dry road"), colors=((70, 130, 180), (128, 64, 128)), ignore_index=254)
    model = build("cgrseg_n", num_classes=2, context_blocks=1)
    file = tmp_path / "small.safetensors"
    preprocessing = Preprocessing(short_side=360)
    artifact.save(model, file, labels=labels, preprocessing=preprocessing, card={"terms": "free", "miou": 12.5})
    assert main(["info", str(file), "--size", "64x64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.4f}" in next(x for x in lines if x[:5] == "total")
    for line in (
        "classes: 2, 254 is ignored",
        "  0  sky       #4682b4",
        "  1  dry road  #804080",
        "  short_side: 360",
        "  terms: free",
        "  miou: 12.5",
    ):
        assert line in lines


@pytest.mark.parametrize("content", [None, b"", b"not a weights file"])
def test_info_words_a_bad_weights_file_in_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.safetensors"
    if content is not None:
        file.write_bytes(content)
    assert main(["info", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cgrseg: ") and "bad.safetensors" in captured.err
    assert captured.err.count("\n") == 1
