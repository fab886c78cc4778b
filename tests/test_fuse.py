"""`fuse` changes the steps, never the function."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from cgrseg.nn import CGRSeg, build
from cgrseg.nn.backbones import attention as efficient
from cgrseg.nn.fusion import FusedCGRSeg, fuse
from cgrseg.nn.fusion.modules import CachedAttentionBias
from cgrseg.weights import artifact

SLOW = pytest.mark.slow
SIZES = [(64, 96), (33, 47), (100, 131)]  # even, and odd before every halving


def random_model(name: str = "cgrseg_n", **spec: object) -> CGRSeg:
    """A small class count, and every number random: norms with statistics, scales and tables far from their start."""
    torch.manual_seed(0)
    model = build(name, num_classes=5, **spec)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("bases"):  # of a non-negative factorisation
                tensor.uniform_(0.1, 1)
            elif key.endswith(("gamma", "layer_scale_1", "layer_scale_2")):
                tensor.normal_(0, 0.1)
            elif tensor.squeeze().ndim <= 1 and key.endswith("weight"):
                tensor.normal_(1, 0.2)
            elif key.endswith("bias.table") or tensor.squeeze().ndim <= 1:
                tensor.normal_(0, 0.3)
            else:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
    return model.double().eval()


def deviation(model: nn.Module, fused: nn.Module, size: tuple[int, int], batch: int = 2) -> float:
    images = torch.randn(batch, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        return float((model(images) - fused(images)).abs().max())


@pytest.mark.parametrize("mode", ["relative", "official"])
@pytest.mark.parametrize("name", ["cgrseg_n", "cgrseg_t", *(pytest.param(f"cgrseg_{n}", marks=SLOW) for n in "bl")])
def test_the_folded_model_is_the_same_function(name: str, mode: str) -> None:
    model = random_model(name, bias_mode=mode)
    fused = fuse(model)
    for size in SIZES:
        assert deviation(model, fused, size) < 1e-12


@pytest.mark.parametrize("backbone", ["mscan_t", "timm/mobilenetv4_conv_small", "timm/resnet18"])
def test_other_encoders_stay_exact(backbone: str) -> None:
    model = random_model(backbone=backbone)
    assert deviation(model, fuse(model), (65, 96)) < 1e-12


@pytest.mark.parametrize("mode", ["relative", "official"])
def test_blocks_of_queries_give_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(bias_mode=mode)
    fused = fuse(model)
    monkeypatch.setattr(efficient, "SCORE_BYTES", 2000)
    assert deviation(model, fused, (100, 131), batch=1) < 1e-12
    assert all(kept._cached is None for kept in fused.modules() if isinstance(kept, CachedAttentionBias))


def test_nothing_foldable_is_left_of_ours() -> None:
    fused = fuse(random_model())
    left = [type(module).__name__ for module in fused.modules()]
    assert not {"BatchNorm2d", "DropPath", "ConvNorm", "SpatialGather"} & set(left)
    assert not [key for key, _ in fused.named_parameters() if "gamma" in key or "layer_scale" in key]
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_the_model_itself_stays_as_it_is() -> None:
    model = random_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fuse(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_training_mode_is_refused() -> None:
    model = random_model().train()
    with pytest.raises(ValueError, match=r"training mode: call model\.eval\(\)"):
        fuse(model)
    model.eval()
    model.head.gate.train()
    with pytest.raises(ValueError, match="training mode"):
        fuse(model)


def test_a_fused_model_is_neither_trained_nor_saved(tmp_path: object) -> None:
    fused = fuse(random_model())
    assert fuse(fused) is fused
    with pytest.raises(ValueError, match="can't be trained"):
        fused.train()
    assert fused.eval() is fused
    with pytest.raises(ValueError, match="cannot be saved as weights"):
        artifact.save(fused, f"{tmp_path}/fused.safetensors")


def test_labels_preprocessing_and_card_go_along() -> None:
    model = random_model()
    model.describe(card={"miou": 0.5})
    fused = fuse(model)
    assert fused.card == {"miou": 0.5} and fused.description == model.description


def kept_biases(fused: FusedCGRSeg) -> list[CachedAttentionBias]:
    return [module for module in fused.modules() if isinstance(module, CachedAttentionBias)]


def test_the_bias_is_cached_for_one_size_and_rebuilt_when_it_changes() -> None:
    model = random_model()
    fused = fuse(model)
    assert deviation(model, fused, (64, 96)) < 1e-12
    first = [kept._cached[1] for kept in kept_biases(fused)]
    assert deviation(model, fused, (64, 96)) < 1e-12
    assert all(kept._cached[1] is tensor for kept, tensor in zip(kept_biases(fused), first, strict=True))
    assert deviation(model, fused, (96, 64)) < 1e-12  # as many tokens, another grid
    assert not any(kept._cached[1] is tensor for kept, tensor in zip(kept_biases(fused), first, strict=True))
    assert deviation(model, fused, (64, 96)) < 1e-12


def test_the_cached_bias_is_no_state_and_survives_copies() -> None:
    model = random_model()
    fused = fuse(model)
    empty = set(fused.state_dict())
    assert deviation(model, fused, (64, 96)) < 1e-12
    assert set(fused.state_dict()) == empty
    twin = copy.deepcopy(fused)
    assert all(kept._cached is None for kept in kept_biases(twin))
    assert deviation(model, twin, (64, 96)) < 1e-12
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    assert deviation(model, torch.load(buffer, weights_only=False), (64, 96)) < 1e-12


def test_the_cached_bias_never_goes_stale() -> None:
    model, other = random_model(), random_model()
    for key, tensor in other.named_parameters():
        if key.endswith("bias.table"):
            tensor.data.neg_()
    fused = fuse(model)
    assert deviation(model, fused, (64, 96)) < 1e-12
    fused.load_state_dict(fuse(other).state_dict())
    assert deviation(other, fused, (64, 96)) < 1e-12
    fused.load_state_dict(fuse(model).state_dict(), assign=True)
    assert deviation(model, fused, (64, 96)) < 1e-12
    fused.float()
    with torch.inference_mode():
        assert fused(torch.randn(1, 3, 64, 96)).dtype == torch.float32


def test_gradients_reach_the_photo() -> None:
    model = random_model()
    fused = fuse(model)
    photo = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    deviation(model, fused, (64, 64))  # the kept bias comes from inference mode
    gradients = []
    for network in (model, fused):
        images = photo.clone().requires_grad_()
        network(images).square().sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(
    "spec",
    [
        {"context": "conv"}, {"reconstruct": False}, {"key_area": "mul"}, {"local_kernel": None},
        *({"head": head} for head in ("none", "nonlocal", "da", "ham", "gc", "se")),
        *({"mixer": mixer} for mixer in ("self_attention", "convnext", "inceptionnext")),
        *({"mixer": mixer} for mixer in ("coord_attention", "gather_excite")),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_ablations_put_in_place_of_a_part_stays_exact(spec: dict[str, object]) -> None:
    model = random_model(**spec)
    assert deviation(model, fuse(model), (70, 101), batch=1) < 1e-12
