"""Whole, sliding-window, flipped and multi-scale inference give the released code's label maps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import parity_fill as rule
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cgrseg.inference import predictor as modes
from cgrseg.nn import CGRSeg, build
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights.adapters import load_official

GOLDEN = rule.GOLDENS / "infer_T.npz"
VALID, SIZE = (512, 683), (384, 512)


@pytest.fixture(scope="module")
def released() -> CGRSeg:
    model = build("cgrseg_t").eval()
    load_official(model, rule.released_state("T"))
    return model


@pytest.fixture(scope="module")
def padded() -> Tensor:
    return F.pad(rule.make_input("photo", (1, 3, *VALID)), (0, 21))


@pytest.fixture(scope="module")
def tiny() -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=5)
    torch.nn.init.normal_(model.head.classifier.weight)  # so that all classes win somewhere
    return model.eval()


def test_whole_inference_gives_the_releases_label_map(released: CGRSeg, padded: Tensor) -> None:
    labels = modes.whole(released, padded, valid=VALID, size=SIZE)
    np.testing.assert_array_equal(labels[0], np.load(GOLDEN)["whole_pred"])


def test_averaging_with_the_mirrored_photo_gives_the_releases_label_map(released: CGRSeg, padded: Tensor) -> None:
    mirrored = F.pad(padded[..., : VALID[1]].flip(3), (0, 21))
    labels = modes.averaged(released, [(padded[0], VALID, False), (mirrored[0], VALID, True)], size=SIZE)
    np.testing.assert_array_equal(labels, np.load(GOLDEN)["flip_pred"])


def test_sliding_gives_the_releases_label_map(released: CGRSeg, padded: Tensor) -> None:
    labels = modes.slide(released, padded, valid=VALID, size=SIZE, window=512, stride=341)
    np.testing.assert_array_equal(labels[0], np.load(GOLDEN)["slide_pred"])


def photo(height: int, width: int) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def assert_winners(labels: Tensor, scores: Tensor) -> None:
    """`labels` is the argmax of `scores` [K, H, W] wherever that is no near tie, and not all one class."""
    best = scores.topk(2, dim=0).values
    certain = (best[0] - best[1]) > 1e-4 * (scores.max() - scores.min())
    assert certain.float().mean() > 0.9 and len(labels.unique()) > 1
    np.testing.assert_array_equal(labels[certain], scores.argmax(0)[certain])


@pytest.mark.parametrize("band", [1, 1 << 24])
def test_scales_and_flips_average_the_probabilities_at_the_photo_s_size(
    tiny: CGRSeg, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "BAND_VALUES", band)
    picture, size = photo(75, 110), (75, 110)
    labels = modes.averaged(tiny, modes.views(picture, Preprocessing(short_side=64), scales=(0.75, 1.25)), size=size)
    total = torch.zeros(5, *size)
    for short_side in (48, 80):
        for flip in (False, True):
            given = picture[:, ::-1] if flip else picture  # the photo is mirrored before anything else
            image, valid = Preprocessing(short_side=short_side).prepare(np.ascontiguousarray(given))
            with torch.inference_mode():
                logits = resize(tiny(image[None]), tuple(image.shape[1:]))[..., : valid[0], : valid[1]]
            share = resize(logits, size).softmax(1)[0]
            total += share.flip(2) if flip else share
    assert_winners(labels, total)
    assert labels.dtype == torch.uint8


def test_scales_multiply_the_photo_s_own_size_where_it_is_not_resized() -> None:
    sizes = [valid for _, valid, _ in modes.views(photo(64, 96), Preprocessing(), scales=(1, 0.5), flip=False)]
    assert sizes == [(64, 96), (32, 48)]


def test_one_view_without_flip_is_whole_inference(tiny: CGRSeg) -> None:
    picture = photo(70, 100)
    image, valid = Preprocessing().prepare(picture)
    expected = modes.whole(tiny, image[None], valid=valid, size=(70, 100))[0]
    labels = modes.averaged(tiny, modes.views(picture, Preprocessing(), flip=False), size=(70, 100))
    assert (labels != expected).float().mean() < 1e-3


def test_windows_are_averaged_where_they_overlap(tiny: CGRSeg) -> None:
    image, valid = Preprocessing().prepare(photo(90, 120))
    labels = modes.slide(tiny, image[None], valid=valid, size=(60, 81), window=64, stride=48)[0]
    total, count = torch.zeros(1, 5, 96, 128), torch.zeros(96, 128)
    for top in (0, 32):  # the last window is shifted inward: 96 - 64
        for left in (0, 48, 64):
            part = slice(top, top + 64), slice(left, left + 64)
            with torch.inference_mode():
                total[:, :, *part] += resize(tiny(image[None, :, *part]), (64, 64))
            count[part] += 1
    assert_winners(labels, resize((total / count)[..., :90, :120], (60, 81))[0])


def test_a_window_over_all_is_whole_inference(tiny: CGRSeg) -> None:
    image, valid = Preprocessing().prepare(photo(90, 120))
    expected = modes.whole(tiny, image[None], valid=valid, size=(90, 120))
    labels = modes.slide(tiny, image[None], valid=valid, size=(90, 120), window=512)
    assert (labels != expected).float().mean() < 1e-3


@settings(deadline=None, max_examples=200, derandomize=True)
@given(length=st.integers(1, 300), window=st.integers(1, 120), share=st.floats(0.01, 1))
def test_windows_cover_every_pixel_and_stay_inside(length: int, window: int, share: float) -> None:
    stride = max(int(window * share), 1)
    starts = modes._starts(length, window, stride)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] + window >= length and (length < window or starts[-1] + window == length)
    assert all(after - before <= stride for before, after in pairwise(starts))


@pytest.mark.parametrize(("window", "stride"), [(64, 65), (64, 0), (0, 0)])
def test_strides_that_leave_gaps_are_refused(tiny: CGRSeg, window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="leave gaps"):
        modes.slide(tiny, torch.zeros(1, 3, 64, 64), valid=(64, 64), size=(64, 64), window=window, stride=stride)
