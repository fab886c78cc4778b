"""The released model's numbers come out, block by block, end to end and through a training step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import parity_fill as rule
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg import nn as cg
from cgrseg.nn.backbones import attention
from cgrseg.nn.backbones import efficientformerv2 as effnet
from cgrseg.nn.reconstruction import ContextFusion
from cgrseg.weights.adapters import load_official, official_key

VARIANTS = {"T": ("cgrseg_t", {}), "B": ("cgrseg_b", {"context_blocks": 6}), "L": ("cgrseg_l", {})}
FORWARD = ["fwd_T_1x512x512", "fwd_T_1x512x672", "fwd_T_2x64x96", "fwd_B_1x512x512", "fwd_L_1x512x512"]


def released_model(variant: str, dtype: torch.dtype = torch.float64, **spec: float) -> cg.CGRSeg:
    name, options = VARIANTS[variant]
    model = cg.build(name, **options, **spec).eval()
    report = load_official(model, rule.released_state(variant))
    assert not report.missing and not report.unexpected
    return model.to(dtype)


@contextmanager
def intermediates(model: cg.CGRSeg) -> Iterator[dict[str, Tensor]]:
    """Collect what every named part puts out, under the released names."""
    seen: dict[str, Tensor] = {}
    encoder, context, head = model.encoder, model.context, model.head
    modules: dict[str, nn.Module] = {
        "patch_embed": encoder.stem,
        "ppa": context.pool,
        "trans": context.blocks,
    }
    for stage, blocks in enumerate(encoder.stages):
        modules |= {f"network.{2 * stage}.{j}": block for j, block in enumerate(blocks)}
    modules |= {f"network.{2 * i + 1}": module for i, module in enumerate(encoder.downsamples)}
    modules |= {f"c{i + 1}": blocks for i, blocks in enumerate(encoder.stages)}
    modules |= {f"trans.{i}": block for i, block in enumerate(context.blocks)}
    modules |= {f"meta.{i}": block for i, block in enumerate(model.reconstruction.calibrate)}
    modules |= {f"SIM.{i}": block for i, block in enumerate(model.reconstruction.fuse)}
    modules |= {f"conv.{i}": block for i, block in enumerate(model.reconstruction.lateral)}
    modules |= {"linear_fuse": head.linear_fuse, "context": head.gather, "lgc": head.gate}
    modules |= {"dpg_mask": head.gate.conv_mask, "dpg_mul": head.gate.channel_mul_conv}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, out: seen.__setitem__(name, out.detach().clone())

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    calls = iter(["prev_output", "final"])
    handles.append(head.classifier.register_forward_hook(lambda m, a, out: seen.__setitem__(next(calls), out)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("case", FORWARD)
@torch.inference_mode()
def test_float64_forward_equals_the_release_with_every_intermediate(case: str) -> None:
    golden = np.load(rule.GOLDENS / f"{case}.npz")
    shape = tuple(golden["input_shape"])
    model = released_model(case.split("_")[1])
    with intermediates(model) as seen:
        logits = model(rule.make_input("x", shape).double())
    full = F.interpolate(logits, shape[2:], mode="bilinear", align_corners=False)

    names = sorted(key.removeprefix("stats/") for key in golden.files if key.startswith("stats/"))
    names.remove("full")  # its 39 million probe values take longer than the network; checked by samples below
    assert set(names) == set(seen)
    for name in names:
        out = seen[name].numpy()
        expected = golden[f"stats/{name}"]
        scale = np.abs(expected).clip(min=1)
        np.testing.assert_allclose(rule.statistics(out, name) / scale, expected / scale, atol=1e-9, err_msg=name)
        if f"sub/{name}" in golden.files:
            np.testing.assert_allclose(
                rule.subsample(out, (6, 8, 8)), golden[f"sub/{name}"], rtol=1e-9, atol=1e-9, err_msg=name
            )
    channels = golden["channels"]
    np.testing.assert_allclose(logits[:, channels, ::4, ::4], golden["logits_sub"], atol=1e-9)
    np.testing.assert_allclose(logits.mean((2, 3)), golden["logits_chan_mean"], atol=1e-9)
    np.testing.assert_allclose(full[:, channels, 5::37, 3::41], golden["full_sub"], atol=1e-9)
    np.testing.assert_array_equal(logits.argmax(1), golden["logits_argmax"])
    np.testing.assert_array_equal(np.bincount(full.argmax(1).flatten(), minlength=150), golden["full_argmax_hist"])


@pytest.mark.parametrize("case", FORWARD)
@torch.inference_mode()
def test_float32_logits_stay_within_1e_4_of_the_release(case: str) -> None:
    golden = np.load(rule.GOLDENS / f"{case}.npz")
    model = released_model(case.split("_")[1], torch.float32)
    logits = model(rule.make_input("x", tuple(golden["input_shape"])))
    np.testing.assert_allclose(logits[:, golden["channels"], ::4, ::4], golden["logits_sub"], atol=1e-4)
    certain = ~golden["argmax_margin_lt_1e-3"]
    np.testing.assert_array_equal(logits.argmax(1).numpy()[certain], golden["logits_argmax"][certain])


MODULES: dict[str, Callable[[], nn.Module]] = {
    "RCA11": lambda: cg.RCA(channels=24, strip_kernel=11),
    "RCA9": lambda: cg.RCA(channels=16, strip_kernel=9),
    "RCM11": lambda: cg.RCM(channels=24, strip_kernel=11),
    "RCM9": lambda: cg.RCM(channels=16, strip_kernel=9),
    "DPG": lambda: cg.DynamicPrototypeGuidedHead(channels=32, num_classes=10).gate,
    "Gather": lambda: cg.DynamicPrototypeGuidedHead(channels=32, num_classes=10).gather,
    "Fuse": lambda: ContextFusion(channels=16, width=32),
    "PPA": lambda: cg.PyramidContextExtraction(channels=[4, 6, 8]).pool,
    "Next": lambda: cg.PyramidContextExtraction(channels=[4, 6, 10], blocks=2).blocks,
    "Attn4": lambda: effnet.Attention(channels=24, halve=False, bias_mode="official"),
    "Attn3": lambda: effnet.Attention(channels=24, halve=True, bias_mode="official"),
    "AttnDown": lambda: effnet.HalvingAttention(in_channels=24, out_channels=40, bias_mode="official"),
    "LGQuery": lambda: attention.LocalQuery(in_channels=24, out_channels=40),
    "Stem": lambda: effnet.EfficientFormerV2(size="s1").stem,
    "Embed": lambda: effnet.Downsample(in_channels=12, out_channels=20),
    "EmbedSub": lambda: effnet.AttentionDownsample(in_channels=24, out_channels=40, bias_mode="official"),
    "Mlp": lambda: effnet.ConvMlp(channels=16, ratio=4),
    "FFN": lambda: effnet.FeedForwardBlock(channels=16, ratio=4, drop_path=0.0),
    "AttnFFN3": lambda: effnet.AttentionBlock(channels=24, ratio=3, drop_path=0.0, halve=True, bias_mode="official"),
}
SPEC = json.loads((rule.GOLDENS / "modules_spec.json").read_text())


@pytest.mark.parametrize("case", SPEC)
@torch.inference_mode()
def test_each_block_equals_the_release(case: str) -> None:
    golden, name = np.load(rule.GOLDENS / "modules.npz"), case.split("#")[0]
    module = MODULES[name]().eval()
    state = {}
    for key, tensor in module.state_dict().items():
        released = official_key(key) if not name.startswith("Next") else f"transformer_blocks.{key}"
        assert released in SPEC[case]["keys"], released
        if tensor.is_floating_point():
            state[key] = rule.value(released, tuple(tensor.shape), text=f"{name}.{released}")
    module.load_state_dict(state, strict=False)
    shapes = SPEC[case]["shapes"]
    inputs = [
        torch.from_numpy(rule.noise(f"input:{case}:{i}", tuple(s))).float().double() for i, s in enumerate(shapes)
    ]
    out = module.double()(inputs) if name == "PPA" else module.double()(*inputs)
    assert list(out.shape) == SPEC[case]["out_shape"]
    np.testing.assert_allclose(
        rule.statistics(out.numpy(), f"mod:{case}"), golden[f"{case}/stats"], rtol=1e-9, atol=1e-9
    )
    if f"{case}/out" in golden.files:
        np.testing.assert_allclose(out, golden[f"{case}/out"], rtol=1e-9, atol=1e-9)
    else:
        np.testing.assert_allclose(rule.subsample(out.numpy(), (12, 8, 8)), golden[f"{case}/sub"], rtol=1e-9, atol=1e-9)


def test_a_training_step_has_the_releases_loss_gradients_and_running_statistics() -> None:
    golden = np.load(rule.GOLDENS / "train_T_bn_batch_128x128.npz")
    model = released_model("T", dropout=0.0, drop_path=0.0).train()
    images, labels = rule.make_input("train", (2, 3, 128, 128)).double(), rule.make_labels(2, 128, 128)
    logits = F.interpolate(model(images), (128, 128), mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits, labels, ignore_index=255, reduction="none").mean()  # over ALL pixels
    loss.backward()

    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-9)
    parameters = {official_key(name): parameter for name, parameter in model.named_parameters()}
    assert all(parameter.grad is not None for parameter in parameters.values())
    for name, norm, projection in zip(golden["grad_names"], golden["grad_l2"], golden["grad_proj"], strict=True):
        gradient = parameters[str(name)].grad.numpy()
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-6), name
        probe = (gradient * rule.noise(f"probe:grad:{name}", gradient.shape)).sum()
        assert probe == pytest.approx(projection, rel=1e-6, abs=1e-9), name
    buffers = {official_key(name): buffer for name, buffer in model.named_buffers()}
    for key in (key for key in golden.files if key.startswith("buf/")):
        np.testing.assert_allclose(buffers[key.removeprefix("buf/")], golden[key], rtol=1e-9, err_msg=key)


def test_float32_gradient_norms_stay_within_1e_3_of_the_release() -> None:
    golden = np.load(rule.GOLDENS / "train_T_bn_batch_128x128.npz")
    model = released_model("T", torch.float32, dropout=0.0, drop_path=0.0).train()
    logits = F.interpolate(model(rule.make_input("train", (2, 3, 128, 128))), (128, 128), mode="bilinear")
    F.cross_entropy(logits, rule.make_labels(2, 128, 128), ignore_index=255, reduction="none").mean().backward()
    parameters = {official_key(name): parameter for name, parameter in model.named_parameters()}
    for name, norm in zip(golden["grad_names"], golden["grad_l2"], strict=True):
        assert parameters[str(name)].grad.norm().item() == pytest.approx(norm, rel=1e-3), name
