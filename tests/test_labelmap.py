"""The label map is what interpolate and argmax give, pixel for pixel, without their memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cgrseg.inference.bilinear import resized as lazily_resized
from cgrseg.inference.labelmap import confidence, label_map

sides = st.integers(1, 90)
sizes = st.tuples(sides, sides)


def resized(logits: Tensor, size: Any, input_size: Any = None, valid: Any = None) -> Tensor:
    """The expression that the label map stands for, before its argmax."""
    logits = logits.float()
    if input_size is not None:
        logits = F.interpolate(logits, input_size, mode="bilinear", align_corners=False)
        if valid is not None:
            logits = logits[..., : valid[0], : valid[1]]
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def assert_same_labels(logits: Tensor, size: Any, **steps: Any) -> None:
    """Equal to the expression, but for pixels whose two best logits are equal up to rounding."""
    before = logits.clone()
    labels = label_map(logits, size, **steps)
    assert torch.equal(logits, before)
    full = resized(logits, size, **steps)
    assert labels.dtype == (torch.uint8 if logits.shape[1] <= 256 else torch.int32)
    assert labels.shape == (logits.shape[0], *size)
    assert int(labels.max()) < logits.shape[1]
    missing = full.amax(1) - full.gather(1, labels.long()[:, None])[:, 0]
    assert float(missing.max()) <= 1e-5 * float(logits.float().amax() - logits.float().amin())


def drawn(shape: tuple[int, int, int, int], kind: str, seed: int = 0) -> Tensor:
    """Logits: white noise, blobs as a network gives them, or whole numbers with many ties."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "blobs":
        coarse = torch.randn(*shape[:2], 4, 4, generator=generator)
        return F.interpolate(coarse, shape[2:], mode="bicubic", align_corners=False) * 5
    noise = torch.randn(*shape, generator=generator)
    return noise.round() if kind == "ties" else noise


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, tuple[int, int], dict[str, Any]]:
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 3, 21, 150, 260])), *draw(sizes))
    shape = (*shape[:2], min(shape[2], 12), min(shape[3], 12))
    logits = drawn(shape, draw(st.sampled_from(["noise", "blobs", "ties"])), draw(st.integers(0, 99)))
    logits = logits.to(draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])))
    layout = draw(st.sampled_from(["plain", "channels last", "cropped", "transposed"]))
    if layout == "channels last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    elif layout == "cropped":
        logits = F.pad(logits, (1, 2, 3, 1), value=100.0)[..., 3:-1, 1:-2]
    elif layout == "transposed":
        logits = logits.mT.contiguous().mT
    steps: dict[str, Any] = {}
    if draw(st.booleans()):
        steps["input_size"] = draw(sizes)
        if draw(st.booleans()):
            steps["valid"] = tuple(draw(st.integers(1, side)) for side in steps["input_size"])
    return logits, draw(sizes), steps


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_any_size_layout_and_type_gives_the_expressions_labels(case: Any) -> None:
    logits, size, steps = case
    assert_same_labels(logits, size, **steps)


@pytest.mark.parametrize("kind", ["noise", "blobs"])
@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ((256, 320), {}),
        ((256, 320), {"input_size": (256, 320), "valid": (256, 320)}),
        ((375, 425), {"input_size": (256, 320), "valid": (251, 283)}),  # a cell is cut in its middle
        ((100, 113), {"input_size": (256, 320), "valid": (251, 283)}),
        ((20, 17), {}),
    ],
)
def test_a_photos_steps_give_the_expressions_labels(size: Any, steps: Any, kind: str) -> None:
    logits = drawn((1, 30, 32, 40), kind)
    assert_same_labels(logits, size, **steps)
    if kind == "noise":  # no near-ties in this draw: nothing may differ
        share = (label_map(logits, size, **steps) != resized(logits, size, **steps).argmax(1)).float().mean()
        assert float(share) < 1e-4


@pytest.mark.parametrize("target", [4003, 5000, 2999])
def test_far_from_the_origin_weights_are_those_of_interpolate(target: int) -> None:
    logits = drawn((1, 2, 1, 3001), "noise")
    assert torch.equal(label_map(logits, (1, target)).long(), resized(logits, (1, target)).argmax(1))


@pytest.mark.parametrize("steps", [{}, {"input_size": (64, 64), "valid": (40, 52)}])
def test_true_ties_go_to_the_lowest_class(steps: dict[str, Any]) -> None:
    # Whole numbers and a factor of 8: every weight is a multiple of 1/16, so both sides compute without rounding.
    logits = drawn((2, 6, 8, 8), "ties", seed=3)
    size = steps.get("valid", (64, 64))
    full = resized(logits, size, **steps)
    assert int((full == full.amax(1, keepdim=True)).sum(1).gt(1).sum()) > 200
    assert torch.equal(label_map(logits, size, **steps).long(), full.argmax(1))


def test_constant_logits_and_twin_classes_give_the_lowest_class() -> None:
    assert int(label_map(torch.full((1, 7, 5, 5), 0.3), (33, 41)).max()) == 0
    twins = drawn((1, 5, 9, 9), "noise").repeat(1, 3, 1, 1)
    assert int(label_map(twins, (61, 67)).max()) < 5


def test_a_class_that_wins_at_no_corner_wins_between_them() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]])[None, :, None]  # 1 K=3 1 2
    assert label_map(logits, (1, 16))[0, 0].unique_consecutive().tolist() == [0, 2, 1]


def test_lower_precision_asked_for_elsewhere_changes_nothing() -> None:
    logits = drawn((1, 40, 12, 12), "noise")
    expected = label_map(logits, (96, 96)), confidence(logits, (96, 96))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(label_map(logits, (96, 96)), expected[0])
            assert torch.equal(confidence(logits, (96, 96)), expected[1])
    finally:
        torch.set_float32_matmul_precision(before)


def test_logits_without_a_batch_axis_give_a_map_without_one() -> None:
    logits = drawn((1, 9, 6, 7), "noise")
    assert torch.equal(label_map(logits[0], (40, 30)), label_map(logits, (40, 30))[0])
    assert torch.equal(confidence(logits[0], (40, 30)), confidence(logits, (40, 30))[0])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cases())
def test_confidence_is_the_largest_softmax_of_the_resized_logits(case: Any) -> None:
    logits, size, steps = case
    expected = resized(logits, size, **steps).softmax(1).amax(1)
    torch.testing.assert_close(confidence(logits, size, **steps), expected, atol=1e-5, rtol=1e-5)


MEASURE = """
import sys, torch
from cgrseg.inference.labelmap import label_map

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

torch.set_num_threads(2)
classes, h, w, height, width = map(int, sys.argv[1:6])
steps = {"input_size": (8 * h, 8 * w), "valid": (8 * h - 5, 8 * w - 9)} if sys.argv[6] == "two" else {}
label_map(torch.randn(1, 3, 8, 8), (64, 64))
logits = torch.randn(1, classes, h, w).contiguous(memory_format=torch.channels_last)
before = status("VmRSS:")
with open("/proc/self/clear_refs", "w") as file:  # the peak starts again from here
    file.write("5")
label_map(logits, (height, width), **steps)
print(status("VmHWM:") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not reset peak memory")
@pytest.mark.parametrize(
    ("classes", "h", "w", "height", "width", "form"),
    [(150, 64, 64, 512, 512, "one"), (150, 96, 128, 1000, 1300, "two"), (2, 64, 64, 800, 700, "one")],
)
def test_peak_memory_is_below_three_maps_and_the_logits(
    classes: int, h: int, w: int, height: int, width: int, form: str
) -> None:
    arguments = [str(value) for value in (classes, h, w, height, width, form)]
    allocation = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        env={**os.environ, **allocation},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 3 * 4 * height * width + 4 * classes * h * w


@pytest.mark.parametrize("compute", [label_map, confidence, lazily_resized])
@pytest.mark.parametrize(
    ("shape", "size", "steps", "complaint"),
    [
        ((1, 3, 4, 4), (0, 8), {}, r"size=\(0, 8\): give \(height, width\), both at least 1"),
        ((1, 3, 4, 4), (8, 8), {"input_size": (8, -1)}, r"input_size=\(8, -1\)"),
        ((1, 3, 4, 4), (8, 8), {"input_size": (8, 8), "valid": (0, 8)}, r"valid=\(0, 8\)"),
        ((1, 3, 4, 4), (8, 8), {"valid": (4, 4)}, r"valid=\(4, 4\) is a part of input_size"),
        ((1, 3, 4, 4), (8, 8), {"input_size": (8, 8), "valid": (8, 9)}, r"valid=\(8, 9\) does not fit"),
        ((4, 4), (8, 8), {}, r"logits are torch.float32 \[4, 4\]"),
        ((1, 0, 4, 4), (8, 8), {}, r"logits are torch.float32 \[1, 0, 4, 4\]"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(
    compute: Any, shape: Any, size: Any, steps: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        compute(torch.zeros(shape), size, **steps)


def test_class_ids_instead_of_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64 .*: give floating point"):
        label_map(torch.zeros(1, 3, 4, 4, dtype=torch.int64), (8, 8))


def test_matrix_products_are_never_rounded_below_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 products may be rounded to TF32 or bfloat16 they are float64; autocast doesn't reach them."""
    logits = drawn((1, 60, 40, 40), "noise")
    expected = label_map(logits, (320, 320))
    used: set[torch.dtype] = set()
    product = torch.bmm

    def watched(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        product(left, right, out=out)
        used.update((left.dtype, right.dtype, out.dtype))
        return out

    monkeypatch.setattr(torch, "bmm", watched)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(label_map(logits, (320, 320)), expected)
    assert used == {torch.float32}
    used.clear()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (label_map(logits, (320, 320)) != expected).float().mean() < 1e-4
    finally:
        torch.set_float32_matmul_precision("highest")
    assert used == {torch.float64}
