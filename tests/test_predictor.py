"""One predictor: whole images, windows, scales and flips give what full-size logits give, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import parity_fill as rule
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.description import Description, ModelSpec
from cgrseg.inference import predictor as module
from cgrseg.inference.bilinear import resized
from cgrseg.inference.modes import Mode
from cgrseg.inference.network import Network, open_network
from cgrseg.inference.predictor import Averaged, Prediction, Predictor, Prepared, views
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, build
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights.adapters import load_official

GOLDEN = rule.GOLDENS / "infer_T.npz"
VALID, SIZE = (512, 683), (384, 512)


class Net(nn.Module):
    """Stride-8 logits that differ everywhere, almost without computation."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.mix(F.avg_pool2d(images, 8, ceil_mode=True))


def make_network(net: Net, preprocessing: Preprocessing | None = None) -> Network:
    classes = net.mix.out_channels
    spec = ModelSpec(num_classes=classes)
    description = Description(spec, LabelSpace.numbered(classes), preprocessing or Preprocessing())
    return Network(net, description, dtype=net.mix.weight.dtype)


def predict(predictor: Predictor, photo: np.ndarray) -> Prediction:
    return predictor.predict([predictor.prepare(photo)])[0]


def drawn(height: int, width: int) -> np.ndarray:
    blocks = np.random.default_rng(1).integers(0, 256, (-(-height // 7), -(-width // 7), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(7, 0).repeat(7, 1)[:height, :width])


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def assert_winners(labels: np.ndarray, scores: Tensor) -> None:
    """`labels` has the class with the largest of `scores` [K, H, W], except for near ties, and not all one class."""
    ids = torch.from_numpy(labels.astype(np.int64))
    missing = scores.amax(0) - scores.gather(0, ids[None])[0]
    assert float(missing.max()) <= 1e-5 * float(scores.amax() - scores.amin())
    assert len(ids.unique()) > 1


@pytest.fixture(scope="module")
def released() -> Network:
    model = build("cgrseg_t").eval()
    load_official(model, rule.released_state("T"))
    return Network.of(model)


@pytest.fixture(scope="module")
def padded() -> Prepared:
    image = F.pad(rule.make_input("photo", (1, 3, *VALID)), (0, 21))[0]
    return Prepared(photo=np.zeros((*SIZE, 3), np.uint8), image=image, valid=VALID)


@pytest.mark.parametrize(("mode", "name"), [("whole", "whole_pred"), ("slide", "slide_pred")])
def test_whole_and_sliding_inference_give_the_releases_label_map(
    released: Network, padded: Prepared, mode: Mode, name: str
) -> None:
    (found,) = Predictor(released, mode=mode).predict([padded])
    np.testing.assert_array_equal(found.labels, np.load(GOLDEN)[name])


@torch.inference_mode()
def test_averaging_with_the_flipped_image_gives_the_releases_label_map(released: Network, padded: Prepared) -> None:
    flipped = F.pad(padded.image[..., : VALID[1]].flip(2), (0, 21))
    passes = []
    for image, is_flipped in ((padded.image, False), (flipped, True)):
        full = resized(released(image[None]), SIZE, input_size=(512, 704), valid=VALID)
        passes.append((full, is_flipped))
    labels = module._winners(Averaged(passes), SIZE)
    np.testing.assert_array_equal(labels, np.load(GOLDEN)["flip_pred"])


@pytest.mark.parametrize(("mode", "flips"), [("tta", (False, True)), ("scales", (False,))])
def test_scales_and_flips_average_the_probabilities_at_the_image_s_size(mode: Mode, flips: tuple[bool, ...]) -> None:
    net, picture, size = Net(), drawn(75, 110), (75, 110)
    found = predict(Predictor(make_network(net, Preprocessing(short_side=64)), mode=mode), picture)
    total = torch.zeros(5, *size)
    for scale in module.SCALES:
        for flip in flips:
            given = picture[:, ::-1] if flip else picture  # flipped before anything else
            image, valid = Preprocessing(short_side=round(64 * scale), long_side=round(2048 * scale)).prepare(
                np.ascontiguousarray(given)
            )
            with torch.inference_mode():
                logits = resize(net(image[None]), tuple(image.shape[1:]))[..., : valid[0], : valid[1]]
            share = resize(logits, size).softmax(1)[0]
            total += share.flip(2) if flip else share
    assert_winners(found.labels, total)
    np.testing.assert_allclose(found.confidence(), (total / total.sum(0)).amax(0), atol=1e-5)


def test_scales_multiply_the_image_s_own_size_without_a_short_side() -> None:
    sizes = [valid for _, valid, _ in views(drawn(64, 96), Preprocessing(), scales=(1, 0.5), flip=False)]
    assert sizes == [(64, 96), (32, 48)]


def test_an_image_that_is_too_large_for_a_scale_is_one_line() -> None:
    with pytest.raises(ValueError, match="an image of 1x8192 pixels is too large for the scale 8193: use mode slide"):
        list(views(drawn(1, 8192), Preprocessing(), scales=(8193,), flip=False))


def naive_slide(net: Net, images: Tensor, window: int, cosine: bool) -> Tensor:
    height, width = images.shape[2:]
    stride = window * 2 // 3
    total, count = torch.zeros(1, 5, height, width, dtype=torch.float64), torch.zeros(height, width).double()
    for top in {min(top, max(height - window, 0)) for top in range(0, height, stride)}:
        for left in {min(left, max(width - window, 0)) for left in range(0, width, stride)}:
            crop = images[:, :, top : top + window, left : left + window]
            weight = torch.ones(crop.shape[2:]).double()
            if cosine:
                sides = [torch.from_numpy(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2) for side in weight.shape]
                weight = sides[0][:, None] * sides[1]
            part = slice(top, top + window), slice(left, left + window)
            total[..., part[0], part[1]] += resize(net(crop), tuple(crop.shape[2:])) * weight
            count[part] += weight
    return total / count


@pytest.mark.parametrize("mode", ["slide", "slide-cosine"])
@pytest.mark.parametrize(
    ("photo_size", "short_side", "window"),
    [
        ((61, 97), None, 48),
        ((97, 61), 83, 37),  # padded 160 x 96, odd windows
        ((120, 77), 45, 64),  # smaller than the image: some rows of the logits are read by no pixel
        ((40, 90), None, 512),  # one window over everything, not square
    ],
)
def test_windows_give_the_mean_of_their_full_size_logits(
    photo_size: tuple[int, int], short_side: int | None, window: int, mode: Mode
) -> None:
    net, preprocessing = Net(), Preprocessing(short_side=short_side)
    predictor = Predictor(make_network(net, preprocessing), mode=mode, window=window)
    prepared = predictor.prepare(drawn(*photo_size))
    (found,) = predictor.predict([prepared])
    with torch.inference_mode():
        total = naive_slide(net, prepared.image[None], window, mode == "slide-cosine")
    valid = prepared.valid
    expected = resize(total[..., : valid[0], : valid[1]], photo_size)[0]
    assert found.labels.shape == photo_size and found.labels.dtype == np.uint8
    assert_winners(found.labels, expected)
    np.testing.assert_allclose(found.confidence(), expected.softmax(0).amax(0), atol=1e-5)


def test_a_group_slides_as_each_image_alone() -> None:
    predictor = Predictor(make_network(Net(300)), mode="slide", window=48)
    items = [predictor.prepare(drawn(60, 90)), predictor.prepare(drawn(60, 90)[::-1])]
    both = predictor.predict(items)
    assert both[0].labels.dtype == np.uint16 and len(np.unique(both[0].labels)) > 2
    for found, item in zip(both, items, strict=True):
        np.testing.assert_array_equal(found.labels, predictor.predict([item])[0].labels)


@pytest.mark.parametrize(("dtype", "wrong"), [(torch.float64, 0.001), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("mode", ["whole", "slide", "scales"])
def test_networks_of_any_type_predict_in_all_modes(mode: Mode, dtype: torch.dtype, wrong: float) -> None:
    photo = drawn(64, 96)
    expected = predict(Predictor(make_network(Net()), mode=mode), photo).labels
    found = predict(Predictor(make_network(Net().to(dtype)), mode=mode), photo).labels
    assert (found != expected).mean() < wrong


def test_outputs_that_are_not_finite_are_an_error_not_a_class() -> None:
    net = Net()
    torch.nn.init.constant_(net.mix.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        predict(Predictor(make_network(net)), drawn(64, 64))


def test_unknown_modes_and_small_windows_are_refused() -> None:
    options: Any = {"mode": "sliding"}
    with pytest.raises(ValueError, match="no mode is called 'sliding': choose from whole, slide"):
        Predictor(make_network(Net()), **options)
    with pytest.raises(ValueError, match="window is 31"):
        Predictor(make_network(Net()), window=31)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(length=st.integers(1, 300), window=st.integers(1, 120), share=st.floats(0.01, 1))
def test_windows_cover_every_pixel_and_stay_inside(length: int, window: int, share: float) -> None:
    stride = max(int(window * share), 1)
    starts = module._starts(length, window, stride)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] + window >= length and (length < window or starts[-1] + window == length)
    assert all(after - before <= stride for before, after in pairwise(starts))


def test_any_rows_can_be_computed_alone_and_bands_join_to_the_whole() -> None:
    logits = torch.randn(2, 3, 5, 7)
    full = resize(resize(logits, (40, 56))[..., :37, :51], (29, 83))
    lazy = resized(logits, (29, 83), input_size=(40, 56), valid=(37, 51))
    for rows in (slice(0, 29), slice(0, 1), slice(28, 29), slice(11, 17)):
        torch.testing.assert_close(lazy.rows(rows), full[:, :, rows], atol=1e-5, rtol=1e-5)
    for count in (None, 1, 7, 29, 1000):
        bands = list(lazy.bands(count))
        assert [rows.start for rows, _ in bands] == list(range(0, 29, min(count or 29, 29)))
        torch.testing.assert_close(torch.cat([values for _, values in bands], 2), full, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="add the batch axis"):
        resized(logits[0], (29, 83))


def test_opening_a_model_leaves_it_as_it_was() -> None:
    model = build("cgrseg_n", num_classes=3).train()
    model.encoder.stem.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    flags = [part.training for part in model.modules()]
    network = open_network(model)
    assert [part.training for part in model.modules()] == flags
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert isinstance(network.run, CGRSeg) and network.run is not model and network.description == model.description


# In a new process, so that the peak is this work's own; VmHWM, since ru_maxrss starts at the parent's.
MEMORY = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_predictor import Net, drawn, make_network, predict
from cgrseg.inference.predictor import Predictor

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

def label(side, classes):
    network = make_network(Net(classes))
    predict(Predictor(network, mode="slide-cosine", window=256), drawn(side, side))
    predict(Predictor(network, mode="scales"), drawn(side // 2, side // 2))

label(96, 2)  # what torch loads on first use is not counted
before = peak()
label({side}, 150)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_below_one_map_of_full_size_logits() -> None:
    side = 768  # 150 x 768 x 768 floats are 338 MiB; the network's own logits are a 64th of that
    code = MEMORY.format(tests=str(Path(__file__).parent), side=side)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 150
