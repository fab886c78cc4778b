"""Sliding windows and averaged views give what full-size logits would, in a memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.inference import predictor as modes
from cgrseg.inference.bilinear import resized
from cgrseg.preprocessing import Preprocessing


class Net(nn.Module):
    """Stride-8 logits that differ everywhere, at the cost of almost nothing; `shape` keeps odd sizes odd."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.mix(F.avg_pool2d(images, 8, ceil_mode=True))


def drawn(height: int, width: int) -> np.ndarray:
    blocks = np.random.default_rng(1).integers(0, 256, (-(-height // 7), -(-width // 7), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(7, 0).repeat(7, 1)[:height, :width])


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def assert_winners(labels: Tensor, scores: Tensor) -> None:
    """`labels` has the class with the largest of `scores` [K, H, W], but for near ties, and not all one class."""
    missing = scores.amax(0) - scores.gather(0, labels[None].long())[0]
    assert float(missing.max()) <= 1e-5 * float(scores.amax() - scores.amin())
    assert len(labels.unique()) > 1


def naive_slide(net: Net, images: Tensor, window: int, stride: int, cosine: bool) -> Tensor:
    height, width = images.shape[2:]
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


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("photo_size", "short_side", "window", "stride"),
    [
        ((61, 97), None, 48, 32),
        ((97, 61), 83, 37, 20),  # padded 160 x 96, odd windows
        ((120, 77), 45, 64, 64),  # smaller than the photo: rows are read that none of the result's would
        ((40, 90), None, 512, 341),  # one window over all, not square
    ],
)
@pytest.mark.parametrize("band", [1 << 11, 1 << 23])  # a row or two at a time, and all at once
def test_windows_give_the_mean_of_their_full_size_logits(
    photo_size: tuple[int, int],
    short_side: int | None,
    window: int,
    stride: int,
    cosine: bool,
    band: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modes, "BAND_VALUES", band)
    net, photo = Net(), drawn(*photo_size)
    image, valid = Preprocessing(short_side=short_side).prepare(photo)
    options = {"valid": valid, "size": photo_size, "window": window, "stride": stride, "cosine": cosine}
    labels = modes.slide(net, image[None], **options)
    with torch.inference_mode():
        total = naive_slide(net, image[None], window, stride, cosine)
    assert labels.shape == (1, *photo_size) and labels.dtype == torch.uint8
    assert_winners(labels[0], resize(total[..., : valid[0], : valid[1]], photo_size)[0])


def test_a_batch_of_photos_slides_as_each_alone() -> None:
    net, images = Net(300), torch.randn(2, 3, 64, 96)
    options = {"valid": (60, 90), "size": (60, 90), "window": 48, "stride": 32}
    both = modes.slide(net, images, **options)
    assert both.dtype == torch.int32 and len(both.unique()) > 2
    assert torch.equal(both, torch.cat([modes.slide(net, image[None], **options) for image in images]))


def test_models_in_float64_and_bfloat16_slide_and_average() -> None:
    photo = drawn(64, 96)
    image, valid = Preprocessing().prepare(photo)
    whole = modes.whole(Net(), image[None], valid=valid, size=(64, 96))[0]
    for dtype, wrong in ((torch.float64, 0.001), (torch.bfloat16, 0.05)):
        net = Net().to(dtype)
        slid = modes.slide(net, image[None].to(dtype), valid=valid, size=(64, 96))[0]
        seen = modes.averaged(net, modes.views(photo, Preprocessing(), flip=False), size=(64, 96))
        assert (slid != whole).float().mean() < wrong and (seen != whole).float().mean() < wrong


def test_any_rows_can_be_made_alone() -> None:
    logits = torch.randn(2, 3, 5, 7)
    full = resize(resize(logits, (40, 56))[..., :37, :51], (29, 83))
    lazy = resized(logits, (29, 83), input_size=(40, 56), valid=(37, 51))
    for rows in (slice(0, 29), slice(0, 1), slice(28, 29), slice(11, 17)):
        torch.testing.assert_close(lazy.rows(rows), full[:, :, rows], atol=1e-5, rtol=1e-5)


# A fresh process, so that its peak is this work's own; VmHWM, as ru_maxrss starts at the parent's.
MEMORY = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_windows import Net, drawn
from cgrseg.inference import predictor as modes
from cgrseg.preprocessing import Preprocessing
modes.BAND_VALUES = 1 << 20

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

def label(side, classes):
    net, photo, size = Net(classes), drawn(side, side), (side, side)
    modes.averaged(net, modes.views(photo, Preprocessing(), scales=(1.0,)), size=size)
    image, valid = Preprocessing().prepare(photo)
    modes.slide(net, image[None], valid=valid, size=size, window=256, stride=170, cosine=True)

label(96, 2)  # what torch loads on first use is not counted
before = peak()
label({side}, 150)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_below_one_map_of_full_size_logits() -> None:
    side = 576  # 150 x 576 x 576 floats are 190 MiB; a view's own logits are a 64th of that
    code = MEMORY.format(tests=str(Path(__file__).parent), side=side)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 80
