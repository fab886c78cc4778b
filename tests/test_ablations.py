"""Every row of the paper's ablations can be built by name, has the paper's size, runs, trains, exports, is saved."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from torch import nn

from cgrseg.description import Head, Mixer
from cgrseg.measure.complexity import complexity
from cgrseg.nn import RCA, CGRSeg, ModelSpec, build
from cgrseg.nn.ablations import make_block, make_head
from cgrseg.nn.segnext import MatrixFactorisation
from cgrseg.weights import artifact

# fields of the spec -> G by the paper's counter and M, as measured on the released blocks
SIZES: list[tuple[dict[str, object], str, str]] = [
    ({"context": "conv", "reconstruct": False, "head": "none"}, "3.5611", "6.0791"),
    ({"context": "conv", "reconstruct": False}, "3.6404", "6.0791"),
    ({"reconstruct": False}, "3.8328", "9.0807"),
    ({"head": "none"}, "3.9182", "9.3646"),
    ({}, "3.9975", "9.3646"),
    ({"mixer": "convnext"}, "4.0030", "9.3976"),
    ({"mixer": "inceptionnext"}, "3.9800", "9.2900"),
    ({"mixer": "coord_attention"}, "3.9865", "9.9128"),
    ({"mixer": "gather_excite"}, "3.9801", "10.9551"),
    ({"key_area": "mul"}, "3.9975", "9.3646"),
    ({"strip_kernel": 3}, "3.9894", "9.3270"),
    ({"strip_kernel": 13}, "3.9995", "9.3741"),
    ({"local_kernel": 5}, "4.0055", "9.4023"),
]
# where only the paper's printed digits identify the block
PRINTED: list[tuple[dict[str, object], str, str | None]] = [
    ({"mixer": "self_attention"}, "4.1", "9.6"),
    ({"key_area": "none"}, "4.00", "9.4"),
    ({"head": "nonlocal"}, "4.05", None),
    ({"head": "da"}, "4.05", None),
    ({"head": "gc"}, "3.92", None),
    ({"head": "se"}, "3.92", None),
]
ARMS: list[dict[str, object]] = [
    {"context": "conv", "reconstruct": False, "head": "none"},
    *({"head": head} for head in ("none", "nonlocal", "da", "ham", "gc", "se")),
    *(
        {"mixer": mixer}
        for mixer in ("self_attention", "convnext", "inceptionnext", "coord_attention", "gather_excite")
    ),
    *({"key_area": area} for area in ("mul", "none")),
    {"strip_kernel": None, "local_kernel": None},
    {"strip_kernel": 3, "local_kernel": 7},
    {"backbone": "mscan_t", "width": 256},
]
RECIPES = sorted((Path(__file__).parents[1] / "recipes" / "ablations").glob("*.yaml"))


def name_of(arm: dict[str, object]) -> str:
    return "-".join(f"{field}={value}" for field, value in arm.items()) or "standard"


def size_of(name: str, **spec: object) -> tuple[float, float]:
    with torch.device("meta"):
        total = complexity(build(name, **spec)).total
    return total.paper_flops / 1e9, total.parameters / 1e6


@pytest.mark.parametrize(("arm", "flops", "parameters"), SIZES, ids=[name_of(arm) for arm, _, _ in SIZES])
def test_sizes_are_those_of_the_released_blocks(arm: dict[str, object], flops: str, parameters: str) -> None:
    g, m = size_of("cgrseg_t", **arm)
    assert (f"{g:.4f}", f"{m:.4f}") == (flops, parameters)


@pytest.mark.parametrize(("arm", "flops", "parameters"), PRINTED, ids=[name_of(arm) for arm, _, _ in PRINTED])
def test_sizes_are_the_papers_to_every_printed_digit(
    arm: dict[str, object], flops: str, parameters: str | None
) -> None:
    g, m = size_of("cgrseg_t", **arm)
    assert f"{g:.{len(flops.partition('.')[2])}f}" == flops
    assert parameters is None or f"{m:.1f}" == parameters


def test_hamburger_costs_two_1x1_convolutions_more_than_no_head() -> None:
    """The paper prints 4.05, which is these alone; our norm after them, which it may not have, makes it 4.055."""
    ham, none = size_of("cgrseg_t", head="ham")[0], size_of("cgrseg_t", head="none")[0]
    convolutions = 2 * 64 * 64 * 128 * 128 / 1e9
    assert f"{none + convolutions:.2f}" == "4.05"
    assert ham - none == pytest.approx(convolutions, abs=0.003)


def test_segnext_has_its_published_parameters() -> None:
    assert f"{size_of('segnext_t')[1]:.1f}" == "4.3"
    assert f"{size_of('segnext_s')[1]:.1f}" == "13.9"


@pytest.fixture(params=ARMS, ids=name_of)
def model(request: pytest.FixtureRequest) -> CGRSeg:
    torch.manual_seed(0)
    return build("cgrseg_n", num_classes=5, **({"context_blocks": 1} | request.param))


def test_it_runs_at_an_odd_size_and_learns_in_one_step(model: CGRSeg) -> None:
    images, labels = torch.randn(2, 3, 39, 50), torch.randint(0, 5, (2, 5, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    logits = model.train()(images)
    assert logits.shape == (2, 5, 5, 7)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer.step()
    torch.manual_seed(0)
    assert model.eval()(images).isfinite().all()
    assert nn.functional.cross_entropy(model.train()(images), labels) != loss.detach()


PARTS = {
    **{f"block-{name}": (make_block(name)(channels=32), 32) for name in get_args(Mixer) if name != "rca"},
    **{f"head-{name}": (make_head(name, channels=64, num_classes=5, dropout=0.1), 64) for name in get_args(Head)},
    **{f"rca-{area}": (RCA(channels=8, strip_kernel=3, key_area=area), 8) for area in ("add", "mul", "none")},
    "rca-bare": (RCA(channels=8, strip_kernel=None, local_kernel=None), 8),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_exports_at_any_size_to_the_same_numbers(part: str) -> None:
    module, channels = PARTS[part]
    module.eval()
    h, w = torch.export.Dim("h", min=3, max=64), torch.export.Dim("w", min=3, max=64)
    program = torch.export.export(module, (torch.randn(2, channels, 6, 9),), dynamic_shapes=({2: h, 3: w},))
    other = torch.randn(2, channels, 7, 5)
    torch.testing.assert_close(program.module()(other), module(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [ARMS[0], {"head": "ham"}, {"strip_kernel": None, "key_area": "mul"}], indirect=True)
def test_it_survives_a_weights_file(model: CGRSeg, tmp_path: Path) -> None:
    artifact.save(model, tmp_path / "arm.safetensors")
    again = artifact.load(tmp_path / "arm.safetensors")
    photo = torch.randn(1, 3, 64, 64)
    assert again.spec == model.spec
    assert torch.equal(again(photo), model.eval()(photo))


def test_segnext_trains_runs_is_saved_and_its_head_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=5)
    model(torch.randn(2, 3, 39, 50)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    photo = torch.randn(1, 3, 39, 50)
    logits = model.eval()(photo)
    assert logits.shape == (1, 5, 5, 7)
    decoder = torch.nn.Sequential(model.head.hamburger, model.head.align, model.head.classifier)  # type: ignore[arg-type]
    fused = torch.randn(1, 256, 5, 7)
    exported = torch.export.export(
        decoder, (torch.randn(2, 256, 5, 7),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    for photos in (fused, torch.randn(3, 256, 5, 7)):
        torch.testing.assert_close(exported(photos), decoder(photos), rtol=1e-4, atol=1e-5)
    artifact.save(model, tmp_path / "segnext.safetensors")
    assert torch.equal(artifact.load(tmp_path / "segnext.safetensors")(photo), logits)


def test_the_factorisation_finds_a_map_of_low_rank() -> None:
    torch.manual_seed(0)
    ham = MatrixFactorisation(channels=32, rank=8).eval()
    seen = torch.rand(1, 32, 2) @ torch.rand(1, 2, 100)
    error = (ham(seen) - seen).norm() / seen.norm()
    flat = (seen.mean(1, keepdim=True) - seen).norm() / seen.norm()  # what rank 1 without factors would give
    assert error < 0.15 < 0.3 < flat


@pytest.mark.parametrize(("area", "corner"), [("add", 5.0), ("mul", 6.0), ("none", 2.0)])
def test_the_key_area_is_what_table_8_says(area: str, corner: float) -> None:
    rca = RCA(channels=1, key_area=area)  # type: ignore[arg-type]
    x = torch.tensor([[[[2.0, 2.0], [4.0, 4.0]]]])  # mean of the first row 2, of the first column 3
    assert rca.area(x)[0, 0, 0, 0] == corner


def test_without_strips_and_local_convolution_rca_is_the_sigmoid_of_the_area_times_x() -> None:
    x = torch.randn(2, 3, 4, 5)
    rca = RCA(channels=3, strip_kernel=None, local_kernel=None)
    assert not list(rca.parameters())
    torch.testing.assert_close(rca(x), (x.mean(3, keepdim=True) + x.mean(2, keepdim=True)).sigmoid() * x)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mixer": "conv"}, "mixer is 'conv': use rca or"),
        ({"head": "dpgh"}, "head is 'dpgh': use dpg or"),
        ({"context": "none"}, "context is 'none'"),
        (
            {"mixer": "convnext", "strip_kernel": 7},
            "strip_kernel is 7, but mixer 'convnext' has no such part: remove it",
        ),
        ({"decoder": "segnext", "head": "se"}, "head is 'se', but decoder 'segnext' has no such part: remove it"),
        ({"local_kernel": 4}, "local_kernel is 4: it must be odd, or null for none"),
    ],
)
def test_what_does_not_fit_together_is_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("cgrseg_t", **spec)


def test_every_recipe_names_an_arm_of_its_own_and_else_the_papers_settings() -> None:
    paper = yaml.safe_load((RECIPES[0].parents[1] / "ade20k-t.yaml").read_text())
    specs = []
    for path in RECIPES:
        recipe = yaml.safe_load(path.read_text())
        specs.append(ModelSpec(**recipe["spec"]))
        assert {**recipe, "spec": paper["spec"], "init": "imagenet"} == paper, path
    assert len(set(specs)) == len(specs) == 25
    assert ModelSpec(**paper["spec"]) not in specs
