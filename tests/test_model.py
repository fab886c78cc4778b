"""The model takes any size, starts as the paper says, and has no state that goes stale."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from cgrseg.nn import RCM, VARIANTS, CGRSeg, DynamicPrototypeGuidedHead, build
from cgrseg.nn.backbones import attention as attention_module
from cgrseg.nn.context import average_pool


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Values under which every branch matters: no zero table, no tiny scale, running statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim in (1, 3)):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif tensor.ndim == 4:
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))
        else:
            tensor.copy_(0.2 * noise)


@pytest.fixture(scope="module")
def nano() -> CGRSeg:
    model = build("cgrseg_n", num_classes=5).eval()
    randomize(model)
    return model


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("bias_mode", ["relative", "official"])
@torch.inference_mode()
def test_every_variant_gives_stride_8_logits_at_an_odd_size(name: str, bias_mode: str) -> None:
    model = build(name, num_classes=7, bias_mode=bias_mode).eval()
    assert model(torch.randn(2, 3, 71, 97)).shape == (2, 7, 9, 13)


@pytest.mark.parametrize(
    "size", [(512, 683), (427, 640), (720, 1280), (333, 500), (33, 1000), (500, 375), (32, 32), (32, 33)]
)
@torch.inference_mode()
def test_any_size_gives_logits_rounded_up(nano: CGRSeg, size: tuple[int, int]) -> None:
    logits = nano(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, -(-size[0] // 8), -(-size[1] // 8))
    assert logits.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 3, 64, 31), (3, 64, 64), (1, 4, 64, 64)])
def test_too_small_or_misshapen_images_raise_with_the_cure(nano: CGRSeg, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least 32 pixels|takes \[B, 3, H, W\]"):
        nano(torch.zeros(shape))


def test_wrong_names_and_options_say_what_was_meant() -> None:
    with pytest.raises(ValueError, match="did you mean 'cgrseg_t'"):
        build("cgrseg-t")
    with pytest.raises(ValueError, match="did you mean 'strip_kernel'"):
        build("cgrseg_t", strip_kernal=7)
    with pytest.raises(ValueError, match="did you mean 'mscan_t'"):
        build("cgrseg_t", backbone="mscant")
    with pytest.raises(ValueError, match="must be odd"):
        build("cgrseg_t", strip_kernel=10)
    with pytest.raises(ValueError, match="relative"):
        build("cgrseg_t", bias_mode="absolute")


def test_start_values_are_the_papers() -> None:
    torch.manual_seed(0)
    model = build("cgrseg_t")
    for name, value in model.named_parameters():
        if name.endswith("gamma"):
            assert (value == 1e-6).all(), name
        elif "layer_scale" in name:
            assert (value == 1e-5).all(), name
        elif name.endswith("bias.table") or "channel_mul_conv.3" in name:
            assert (value == 0).all(), name
        elif ".mlp.fc" in name and name.startswith("encoder") and name.endswith("weight"):
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
        elif ".mlp.fc" in name and name.startswith("encoder"):
            assert (value == 0).all(), name
    assert model.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (model.head.classifier.bias == 0).all()
    fuse = model.reconstruction.fuse[2].fuse1.conv.weight  # D C 1 1, fan-out
    assert fuse.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert model.head.gate.conv_mask.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.25)  # fan-in


def test_drop_path_grows_linearly_and_each_variant_has_its_own() -> None:
    def rates(model: CGRSeg) -> list[float]:
        return [block.drop_path.rate for stage in model.encoder.stages for block in stage]

    large = rates(build("cgrseg_l"))
    assert large == pytest.approx([0.1 * j / 34 for j in range(35)])
    assert set(rates(build("cgrseg_t"))) == {0.0}
    assert rates(build("cgrseg_t", drop_path=0.3))[-1] == pytest.approx(0.3)


def test_dropout_masks_of_the_two_classifier_calls_are_independent() -> None:
    head = DynamicPrototypeGuidedHead(channels=64, num_classes=3, dropout=0.5).train()
    seen: list[torch.Tensor] = []
    head.dropout.register_forward_hook(lambda module, args, out: seen.append((out == 0).all((2, 3))))
    head(torch.rand(2, 64, 4, 4) + 0.5)
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])


@torch.inference_mode()
def test_fresh_blocks_start_as_the_identity_and_the_gate_at_one_half() -> None:
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(RCM(channels=8).eval()(x), x, atol=1e-4, rtol=0)
    head = DynamicPrototypeGuidedHead(channels=8, num_classes=3)
    torch.testing.assert_close(head.gate(x, torch.randn(2, 8, 3, 1)), x / 2)


@pytest.mark.parametrize("bias_mode", ["relative", "official"])
@torch.inference_mode()
def test_query_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, bias_mode: str) -> None:
    model = build("cgrseg_n", num_classes=5, bias_mode=bias_mode).eval().double()
    randomize(model)
    images = torch.randn(2, 3, 150, 333).double()
    whole = model(images)
    monkeypatch.setattr(attention_module, "SCORE_BYTES", 20_000)
    torch.testing.assert_close(model(images), whole, atol=1e-12, rtol=0)


@torch.inference_mode()
def test_attention_never_holds_more_scores_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "SCORE_BYTES", 2**20)
    attention = attention_module.HalvingAttention(in_channels=16, out_channels=16, bias_mode="relative").eval()
    sizes: list[int] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, dim: sizes.append(x.numel() * x.element_size()) or softmax(x, dim)
    )
    attention(torch.randn(1, 16, 30, 40))  # 300 queries, 1,200 keys: 11 MiB in one piece
    assert len(sizes) == 12 and max(sizes) <= 2**20


@pytest.mark.parametrize(
    ("source", "target"), [((15, 13), (2, 2)), ((9, 7), (4, 5)), ((5, 4), (1, 1)), ((3, 3), (3, 3))]
)
def test_traced_pooling_equals_adaptive_pooling(
    monkeypatch: pytest.MonkeyPatch, source: tuple[int, int], target: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *source).double()
    expected = average_pool(x, target)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(average_pool(x, target), expected, atol=1e-12, rtol=0)


@pytest.mark.slow
def test_compile_takes_the_whole_graph(nano: CGRSeg) -> None:
    torch._dynamo.reset()
    images = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(nano, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), nano(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_export_keeps_height_and_width_dynamic_in_relative_mode(nano: CGRSeg) -> None:
    # From 65 up: below, the stride-64 context is one cell wide, and export takes a side of 1 for a constant.
    height, width = torch.export.Dim("height", min=65, max=4096), torch.export.Dim("width", min=65, max=4096)
    exact = copy.deepcopy(nano).double()
    example = torch.randn(1, 3, 96, 160).double()
    program = torch.export.export(exact, (example,), dynamic_shapes=({2: height, 3: width},))
    for size in [(96, 160), (71, 97), (65, 66), (200, 512), (512, 512)]:
        images = torch.randn(1, 3, *size).double()
        torch.testing.assert_close(program.module()(images), exact(images), atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@torch.inference_mode()
def test_export_takes_official_mode_at_a_fixed_size() -> None:
    model = build("cgrseg_n", num_classes=5, bias_mode="official").eval()
    randomize(model)
    images = torch.randn(1, 3, 96, 160)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images), atol=1e-4, rtol=1e-4)
