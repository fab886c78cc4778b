"""Pictures show what the label map says, at any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cgrseg.images import render
from cgrseg.labels import LabelSpace

SPACE = LabelSpace(names=("sky", "road"), colors=((0, 0, 255), (255, 0, 0)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("alpha", "left", "right"),
    [(0, 100, 100), (0.5, (50, 50, 178), (178, 50, 50)), (1, (0, 0, 255), (255, 0, 0))],
)
def test_overlay_mixes_photo_and_class_colour(dtype: type, alpha: float, left: object, right: object) -> None:
    photo = np.full((4, 6, 3), 100, np.uint8)
    labels = np.zeros((4, 6), dtype)
    labels[:, 3:] = 1
    pixels = np.asarray(render.overlay(photo, labels, SPACE, alpha=alpha)).astype(int)
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels[:, :3] - left).max() <= 1 and np.abs(pixels[:, 3:] - right).max() <= 1
    assert (photo == 100).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is"):
        render.overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), SPACE, alpha=alpha)


def test_confidence_becomes_grey() -> None:
    picture = render.confidence_picture(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert picture.mode == "L" and np.asarray(picture).tolist() == [[0, 128, 255]]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
    names=st.lists(st.text(max_size=60), max_size=40),
)
@example(width=9, height=9, names=["two\nlines", "", "\0", "日本"])
def test_the_legend_leaves_the_photo_whole_and_never_fails(width: int, height: int, names: list[str]) -> None:
    photo = Image.new("RGB", (width, height), (1, 2, 3))
    page = render.with_legend(photo, [(name, (255, 0, 0), 0.01) for name in names])
    assert page.width >= width and page.height >= height
    np.testing.assert_array_equal(np.asarray(page)[:height, :width], np.asarray(photo))


@pytest.mark.parametrize("size", [(32, 32), (640, 480), (480, 640), (2000, 40), (40, 2000), (4000, 3000)])
def test_every_class_has_its_swatch_in_the_legend_at_any_size(size: tuple[int, int]) -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    page = np.asarray(render.with_legend(Image.new("RGB", size), [(f"c{c}", c, 0.3) for c in colors]))
    smallest = max(12, int((size[0] * size[1]) ** 0.5 / 42)) ** 2 // 2
    for color in colors:
        assert (page == color).all(axis=2).sum() >= smallest


@pytest.mark.parametrize("size", [(32, 32), (640, 480), (480, 640)])
def test_classes_that_do_not_fit_are_counted_with_their_share(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    text = render.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        render.ImageDraw.ImageDraw,
        "text",
        lambda self, xy, line, *args, **options: (
            written.append(line),
            text(self, xy, line, *args, **options),
        )[1],
    )
    render.with_legend(Image.new("RGB", size), [(f"class {i}", (9, 9, 9), 0.01) for i in range(100)])
    shown = len(written) - 1
    assert 3 <= shown < 100
    assert written[:2] == ["class 0  1.0%", "class 1  1.0%"]
    assert written[-1] == f"{100 - shown} more  {(100 - shown) / 100:.1%}"


def test_long_names_are_cut_and_tiny_shares_are_not_called_zero() -> None:
    assert render._text(("x" * 60, None, 0.25)) == "x" * 27 + "…  25.0%"
    assert render._text(("pole", None, 0.0004)) == "pole  < 0.1%"
