"""Distinct palettes can be told apart with any colour vision; our own weights have one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgrseg.images.palettes import VISIONS, distinct_colors, oklab, with_distinct_colors
from cgrseg.labels import LabelSpace
from cgrseg.weights import artifact

ROOT = Path(__file__).resolve().parents[1]
OURS = [*ROOT.glob("src/cgrseg/weights/bundled/*.safetensors"), *ROOT.glob("zoo/*.safetensors")]


def smallest_difference(colors: object, vision: str) -> float:
    """100 times the smallest distance in Oklab; about 2 is a just noticeable difference."""
    seen = oklab(np.array(colors), vision)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    return float(100 * distances[np.triu_indices(len(seen), 1)].min())


def test_oklab_has_the_published_values() -> None:
    red, white, grey = oklab(np.array([[255, 0, 0], [255, 255, 255], [128, 128, 128]]))
    np.testing.assert_allclose(red, [0.6280, 0.2249, 0.1258], atol=2e-4)
    np.testing.assert_allclose(white, [1, 0, 0], atol=2e-4)
    np.testing.assert_allclose(grey[1:], 0, atol=2e-4)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("count", "least"), [(2, 50), (11, 12), (21, 8), (150, 2)])
def test_distinct_colours_differ_for_every_vision(vision: str, count: int, least: float) -> None:
    assert len(distinct_colors(count)) == count
    assert smallest_difference(distinct_colors(count), vision) > least


def test_one_class_and_no_class_have_colours_too() -> None:
    assert len(distinct_colors(1)) == 1 and distinct_colors(0) == ()


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_classes_of_our_weights_can_be_told_apart(path: Path, vision: str) -> None:
    labels = artifact.describe(path).labels
    colors = [color for label, color in enumerate(labels.colors) if label != labels.background]
    assert smallest_difference(colors, vision) > (12 if len(colors) <= 12 else 8)


def test_recoloured_classes_keep_names_and_background_and_stay_near_their_colours() -> None:
    space = LabelSpace(names=("Background", "sun", "sea"), colors=((1, 2, 3), (255, 220, 0), (0, 0, 255)))
    changed = with_distinct_colors(space)
    assert changed.names == space.names and changed.colors[0] == (1, 2, 3)
    (sun_red, _, sun_blue), (sea_red, _, sea_blue) = changed.colors[1:]
    assert sun_red > sun_blue and sea_blue > sea_red
