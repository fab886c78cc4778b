"""MSCAN and timm's extractors as encoders: maps at strides 8, 16, 32, every halving rounded up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn import build
from cgrseg.nn.backbones.mscan import MSCAN, SIZES
from cgrseg.nn.backbones.timm import TimmEncoder

SMALL = ((8, 16, 24, 32), (1, 2, 1, 1))
sides = st.integers(32, 200)


def ceil_sizes(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def randomise(module: nn.Module) -> None:
    """Numbers without structure everywhere, so that no term hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else 0.3 * noise)


@pytest.mark.parametrize(("size", "published"), [("t", "4.2"), ("s", "14.0"), ("b", "26.8")])
def test_mscan_has_the_published_parameters_of_the_classifier(size: str, published: str) -> None:
    with torch.device("meta"):
        encoder = MSCAN(size=size)
    classifier = encoder.channels[-1] * 1000 + 1000
    total = sum(parameter.numel() for parameter in encoder.parameters()) + classifier
    assert f"{total / 1e6:.1f}" == published


def released_mscan_shapes(size: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of a released MSCAN file, without its classifier and BatchNorm's counters."""

    def conv(key: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{key}.weight", shape
        yield f"{key}.bias", shape[:1]

    def norm(key: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{key}.{name}", (width,)

    before = 3
    for stage, (c, depth, ratio) in enumerate(zip(*SIZES[size], (8, 8, 4, 4), strict=True), start=1):
        if stage == 1:
            yield from conv("patch_embed1.proj.0", c // 2, 3, 3, 3)
            yield from norm("patch_embed1.proj.1", c // 2)
            yield from conv("patch_embed1.proj.3", c, c // 2, 3, 3)
            yield from norm("patch_embed1.proj.4", c)
        else:
            yield from conv(f"patch_embed{stage}.proj", c, before, 3, 3)
            yield from norm(f"patch_embed{stage}.norm", c)
        for j in range(depth):
            block = f"block{stage}.{j}"
            yield f"{block}.layer_scale_1", (c,)
            yield f"{block}.layer_scale_2", (c,)
            yield from norm(f"{block}.norm1", c)
            yield from norm(f"{block}.norm2", c)
            yield from conv(f"{block}.attn.proj_1", c, c, 1, 1)
            yield from conv(f"{block}.attn.proj_2", c, c, 1, 1)
            gate = f"{block}.attn.spatial_gating_unit"
            yield from conv(f"{gate}.conv0", c, 1, 5, 5)
            for branch, k in enumerate((7, 11, 21)):
                yield from conv(f"{gate}.conv{branch}_1", c, 1, 1, k)
                yield from conv(f"{gate}.conv{branch}_2", c, 1, k, 1)
            yield from conv(f"{gate}.conv3", c, c, 1, 1)
            yield from conv(f"{block}.mlp.fc1", ratio * c, c, 1, 1)
            yield from conv(f"{block}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
            yield from conv(f"{block}.mlp.fc2", c, ratio * c, 1, 1)
        yield f"norm{stage}.weight", (c,)
        yield f"norm{stage}.bias", (c,)
        before = c


def test_mscan_takes_the_released_files() -> None:
    encoder = MSCAN(size="t")
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items() if value.ndim}
    assert shapes == dict(released_mscan_shapes("t"))


def reference_mscan(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """MSCAN with the depths of SMALL, written from its published description upon the released keys."""

    def conv(key: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    def norm(key: str, x: Tensor) -> Tensor:
        w, b, m, v = (state[f"{key}.{n}"][:, None, None] for n in ("weight", "bias", "running_mean", "running_var"))
        return (x - m) / (v + 1e-5).sqrt() * w + b

    def attention(key: str, x: Tensor) -> Tensor:
        u = F.gelu(conv(f"{key}.proj_1", x))
        gate = f"{key}.spatial_gating_unit"
        d = conv(f"{gate}.conv0", u)
        strips = [conv(f"{gate}.conv{i}_2", conv(f"{gate}.conv{i}_1", d)) for i in range(3)]
        return x + conv(f"{key}.proj_2", u * conv(f"{gate}.conv3", d + sum(strips)))

    def mlp(key: str, x: Tensor) -> Tensor:
        return conv(f"{key}.fc2", F.gelu(conv(f"{key}.dwconv.dwconv", conv(f"{key}.fc1", x))))

    maps: list[Tensor] = []
    for stage, depth in enumerate(SMALL[1], start=1):
        if stage == 1:
            x = F.gelu(norm("patch_embed1.proj.1", conv("patch_embed1.proj.0", images, 2)))
            x = norm("patch_embed1.proj.4", conv("patch_embed1.proj.3", x, 2))
        else:
            x = norm(f"patch_embed{stage}.norm", conv(f"patch_embed{stage}.proj", maps[-1], 2))
        for key in (f"block{stage}.{j}" for j in range(depth)):
            scale1, scale2 = state[f"{key}.layer_scale_1"], state[f"{key}.layer_scale_2"]
            x = x + scale1[:, None, None] * attention(f"{key}.attn", norm(f"{key}.norm1", x))
            x = x + scale2[:, None, None] * mlp(f"{key}.mlp", norm(f"{key}.norm2", x))
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        maps.append(x * state[f"norm{stage}.weight"][:, None, None] + state[f"norm{stage}.bias"][:, None, None])
    return maps


def test_mscan_computes_the_published_design(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "small", SMALL)
    encoder = MSCAN(size="small").double().eval()
    randomise(encoder)
    images = torch.randn(2, 3, 45, 70, dtype=torch.float64)
    expected = reference_mscan(encoder.state_dict(), images)
    for ours, theirs in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_mscan_starts_as_released() -> None:
    torch.manual_seed(0)
    encoder = MSCAN(size="t")
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels / module.groups
            if module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
            assert not module.bias.any(), name
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
    scales = [value for name, value in encoder.named_parameters() if "layer_scale" in name]
    assert len(scales) == 2 * 13
    assert all((scale == 1e-2).all() for scale in scales)


def test_mscan_drop_path_grows_linearly() -> None:
    rates = [m.rate for m in MSCAN(size="t", drop_path=0.12).modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.01 * j for j in range(13)])


def test_mscan_trains_every_parameter() -> None:
    encoder = MSCAN(size="t", drop_path=0.0)
    sum(x.square().mean() for x in encoder(torch.randn(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@cache
def shapes_only(make: Callable[..., nn.Module], **named: str) -> nn.Module:
    with torch.device("meta"):
        return make(**named).eval()


@pytest.mark.parametrize("size", ["t", "s", "b"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(height=sides, width=sides)
def test_mscan_rounds_every_halving_up(size: str, height: int, width: int) -> None:
    encoder = shapes_only(MSCAN, size=size)
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, height, width, device="meta"))
    assert [tuple(x.shape[2:]) for x in maps] == ceil_sizes(height, width, (4, 8, 16, 32))
    assert tuple(x.shape[1] for x in maps) == encoder.channels


# timm's own miniatures: one that rounds up, one that rounds down, one with the channels last
@pytest.mark.parametrize(("name", "pads"), [("test_resnet", False), ("test_convnext", True), ("test_mambaout", False)])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(height=sides, width=sides)
def test_timm_maps_round_up_at_any_size(name: str, pads: bool, height: int, width: int) -> None:
    encoder = shapes_only(TimmEncoder, name=name)
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, height, width, device="meta"))
    assert encoder.pads is pads
    assert [tuple(x.shape[2:]) for x in maps] == ceil_sizes(height, width, (8, 16, 32))
    assert tuple(x.shape[1] for x in maps) == encoder.channels


def test_timm_maps_are_those_of_timm() -> None:
    encoder = TimmEncoder(name="test_resnet").eval()
    images = torch.randn(2, 3, 45, 70)
    everything = timm.create_model("test_resnet", features_only=True, pretrained=False).eval()
    everything.load_state_dict(encoder.features.state_dict())  # nothing more, nothing less
    for ours, theirs in zip(encoder(images), everything(images)[-3:], strict=True):
        assert torch.equal(ours, theirs)


def test_timm_extractor_that_rounds_down_sees_zeros_beyond_the_photo() -> None:
    encoder = TimmEncoder(name="test_convnext").eval()
    images = torch.randn(1, 3, 45, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[:, :, :45, :70] = images
    for ours, theirs in zip(encoder(images), encoder.features(padded), strict=True):
        assert torch.equal(ours, theirs[:, :, : ours.shape[2], : ours.shape[3]])


@pytest.mark.slow
def test_encoders_export_with_dynamic_height_and_width() -> None:
    height, width = torch.export.Dim("height", min=2, max=16), torch.export.Dim("width", min=2, max=16)
    for encoder in (MSCAN(size="t").eval(), TimmEncoder(name="test_convnext").eval()):
        sizes = ({2: 32 * height, 3: 32 * width},)
        program = torch.export.export(encoder, (torch.randn(1, 3, 96, 160),), dynamic_shapes=sizes)
        images = torch.randn(1, 3, 128, 64)
        for exported, eager in zip(program.module()(images), encoder(images), strict=True):
            torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mobilenetv4_conv_smal",
            "timm has no model 'mobilenetv4_conv_smal': did you mean mobilenetv4_conv_small",
        ),
        ("qqqq", "timm has no model 'qqqq'"),
        ("hf-hub:someone/something", "timm has no model"),
        ("test_vit", "timm/test_vit has maps at strides 16, none at 8, 32: choose"),
        ("test_coatnet", "timm/test_coatnet needs a fixed input size"),
        (
            "swin_tiny_patch4_window7_224",
            "timm/swin_tiny_patch4_window7_224 needs a fixed input size",
        ),
        ("test_resnet.nonsense", "timm/test_resnet.nonsense: Invalid pretrained tag"),
    ],
)
def test_unfit_timm_model_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message) as caught:
        TimmEncoder(name=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "backbone", ["mscan_t", "mscan_s", "mscan_b", "timm/mobilenetv4_conv_small", "timm/convnext_atto"]
)
@pytest.mark.parametrize("size", [(32, 32), (33, 1000), (333, 500), (512, 683)])
def test_cgrseg_runs_on_every_encoder_at_any_size(backbone: str, size: tuple[int, int]) -> None:
    with torch.device("meta"), torch.no_grad():
        model = build("cgrseg_t", num_classes=7, backbone=backbone).eval()
        logits = model(torch.zeros(2, 3, *size))
    assert logits.shape == (2, 7, *ceil_sizes(*size, (8,))[0])


def test_cgrseg_learns_through_a_timm_encoder() -> None:
    model = build("cgrseg_t", num_classes=3, backbone="timm/test_convnext", context_blocks=1, width=16)
    model(torch.randn(2, 3, 45, 70)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())
