"""Pictures show what the label map says, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from cgrseg.images import render, text
from cgrseg.images.names import place_names
from cgrseg.images.text import drawable, font
from cgrseg.inference.result import Segmentation
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


@pytest.mark.parametrize("size", [(1, 320), (2, 700), (1000, 3), (1, 1)])
def test_very_long_images_have_an_overlay(size: tuple[int, int]) -> None:
    result = Segmentation(np.ones(size, np.uint8), SPACE, np.zeros((*size, 3), np.uint8))
    assert result.overlay(legend=False).size == result.outline(legend=False).size == size[::-1]


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
    draw = render.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        render.ImageDraw.ImageDraw,
        "text",
        lambda self, xy, line, *args, **options: (
            written.append(line),
            draw(self, xy, line, *args, **options),
        )[1],
    )
    render.with_legend(Image.new("RGB", size), [(f"class {i}", (9, 9, 9), 0.01) for i in range(100)])
    shown = len(written) - 1
    assert 3 <= shown < 100
    assert written[:2] == ["class 0  1.0%", "class 1  1.0%"]
    assert written[-1] == f"{100 - shown} more  {(100 - shown) / 100:.1%}"


def test_long_names_are_cut_in_the_middle_and_tiny_shares_are_not_called_zero() -> None:
    assert render._text(("a" * 30 + "b" * 30, None, 0.25)) == "a" * 14 + "…" + "b" * 13 + "  25.0%"
    assert render._text(("pole", None, 0.0004)) == "pole  < 0.1%"


def test_background_and_unknown_pixels_are_not_coloured() -> None:
    space = LabelSpace(names=("Background", "road"), colors=((0, 0, 0), (255, 0, 0)))
    photo = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 0, 1], [1, 255, 1]], np.uint8)
    pixels = np.asarray(render.overlay(photo, labels, space, alpha=1))
    assert (pixels == 100).all(2).tolist() == [[True, True, False], [False, True, False]]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_the_legend_has_the_colours_that_are_seen_in_the_overlay(alpha: float) -> None:
    photo = np.full((60, 80, 3), (90, 120, 60), np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 50:] = 1
    page = np.asarray(Segmentation(labels, SPACE, photo).overlay(alpha=alpha))
    for column in (30, 70):
        seen = page[3, column]  # away from names and outlines
        assert (page[60:] == seen).all(2).sum() > 50, "no swatch of this colour"


def test_outlines_run_along_the_inner_side_of_each_region() -> None:
    labels = np.zeros((9, 12), np.uint16)
    labels[:, 6:] = 1
    drawn = np.asarray(render.draw_outlines(Image.new("RGB", (12, 9), (7, 7, 7)), labels, SPACE, width=2))
    assert (drawn[:, 4:6] == SPACE.colors[0]).all() and (drawn[:, 6:8] == SPACE.colors[1]).all()
    assert (drawn[:, :4] == 7).all() and (drawn[:, 8:] == 7).all()


def boxes(labels: np.ndarray, names: list[str]) -> list[tuple[str, slice, slice]]:
    """The pixels of each name."""
    found = []
    for place in place_names(labels, names):
        left, top, right, bottom = font(place.letter).getbbox(place.text, anchor="mm")
        rows = slice(int(place.y + top), int(place.y + bottom) + 1)
        found.append((place.text, rows, slice(int(place.x + left), int(place.x + right) + 1)))
    return found


@pytest.mark.parametrize("size", [(480, 640), (640, 400), (1500, 2000), (300, 1200)])
def test_names_stand_on_their_regions_and_do_not_cover_each_other(size: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(size))
    coarse = ndimage.zoom(random.normal(size=(5, 4, 5)), (1, size[0] / 4, size[1] / 5), order=1)
    labels = coarse.argmax(0).astype(np.uint8)
    names = ["sky", "road", "a rather long name", "tree", "Дорога"]
    written = np.zeros(labels.shape, bool)
    placed = boxes(labels, names)
    assert len(placed) >= 4
    for name, rows, columns in placed:
        assert (labels[rows, columns] == names.index(name)).mean() > 0.98
        assert not written[rows, columns].any()
        written[rows, columns] = True


def test_regions_that_are_small_thin_or_without_a_class_have_no_name() -> None:
    labels = np.full((400, 600), 255, np.uint8)
    labels[100:104] = 0  # thin
    labels[200:210, 300:310] = 1  # small
    rows, columns = np.indices(labels.shape)
    labels[(abs(rows - columns + 250) < 6) & (columns > 350)] = 1  # thin and slanted
    assert place_names(labels, ["sky", "road"]) == []
    assert place_names(np.zeros((3, 2), np.uint8), ["sky"]) == []
    assert [place.text for place in place_names(np.zeros((300, 300), np.uint8), ["sky"])] == ["sky"]


@pytest.mark.parametrize("name", ["Straße", "čeština", "ουρανός", "Дорожное покрытие", "việt"])
def test_latin_greek_and_cyrillic_names_are_drawn(name: str) -> None:
    assert drawable(name) == name
    missing = font(40).getmask("\uffff")
    for letter in name.replace(" ", ""):
        assert bytes(font(40, name).getmask(letter)) != bytes(missing)


def test_a_name_that_no_font_has_becomes_the_number_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_system_fonts", list)
    text._path.cache_clear()
    space = LabelSpace(names=("sky", "道路"), colors=((0, 0, 255), (255, 0, 0)))
    result = Segmentation(np.ones((200, 300), np.uint8), space, np.zeros((200, 300, 3), np.uint8))
    written: list[str] = []
    draw = render.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        render.ImageDraw.ImageDraw,
        "text",
        lambda self, xy, line, *args, **options: (written.append(line), draw(self, xy, line, *args, **options)),
    )
    result.overlay()
    assert written == ["class 1", "class 1  100.0%"]
    text._path.cache_clear()


def test_a_font_of_the_system_is_used_for_letters_that_dejavu_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "a.ttf"
    broken.write_bytes(b"no font")
    other = text._dejavu().with_name("STIXGeneral.ttf")
    monkeypatch.setattr(text, "_system_fonts", lambda: [broken, other])
    text._path.cache_clear()
    letter = chr(min(text._codes(other) - text._codes(text._dejavu()) - set(range(0x500))))
    assert Path(str(font(20, letter).path)) == other
    text._path.cache_clear()


def test_a_title_longer_than_its_picture_widens_the_page() -> None:
    picture = Image.new("RGB", (60, 40), (200, 0, 0))
    page = render.with_title(picture, "a long title of a small picture")
    drawn = np.asarray(page.crop((0, 0, page.width, page.height - 40))).min(2) < 128  # ink
    assert page.width > 60 and not drawn[:, -2:].any() and drawn[:, 60:].any()
    assert np.array_equal(np.asarray(page)[-40:, :60], np.asarray(picture))
