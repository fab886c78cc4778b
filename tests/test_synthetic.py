"""Synthetic scenes are reproducible, differ between splits, and have exact masks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cgrseg.data.dataset import Samples, to_class_ids
from cgrseg.data.synthetic import SHAPES, TEXTURES, Synthetic


def pixels(samples: Samples, index: int) -> tuple[bytes, bytes]:
    photo, mask = samples.read(index)
    return photo.tobytes(), mask.tobytes()


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    scenes = Synthetic(size=(64, 96), count=4, seed=3)
    expected = [pixels(scenes, index) for index in range(4)]
    again: Samples = pickle.loads(pickle.dumps(Synthetic(size=(64, 96), count=2000, seed=3)))
    assert [pixels(again, index) for index in (3, 2, 1, 0)] == expected[::-1]


def test_splits_seeds_and_indices_share_no_scene() -> None:
    scenes = [
        pixels(Synthetic(size=(48, 48), count=8, seed=seed, split=split), index)[0]
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for index in range(8)
    ]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize(("classes", "size"), [(2, (16, 16)), (6, (70, 131)), (255, (64, 64)), (300, (96, 64))])
def test_any_number_of_classes_and_any_size(classes: int, size: tuple[int, int]) -> None:
    scenes = Synthetic(classes=classes, size=size, count=40)
    assert len(scenes.labels) == classes == len(set(scenes.labels.names))
    seen: set[int] = set()
    for index in range(40):
        photo, mask = scenes.read(index)
        assert photo.mode == "RGB" and photo.size == mask.size == size[::-1]
        assert mask.mode == ("L" if classes <= 255 else "I;16")
        seen |= set(np.unique(to_class_ids(mask)).tolist())
    assert min(seen) == 0 and max(seen) < classes
    assert len(seen) >= min(classes, 60) if classes > 2 else seen == {0, 1}
    assert classes < 256 or max(seen) > 255


def test_the_mask_fits_what_is_drawn() -> None:
    """The mean colour of an object's pixels is that of its class, nearer than that of any other."""
    scenes, right, total = Synthetic(size=(128, 128), count=30), 0, 0
    colors = np.array(scenes.labels.colors, float)
    for index in range(30):
        photo, mask = (np.asarray(picture).astype(float) for picture in scenes.read(index))
        for label in np.unique(mask[mask > 0]).astype(int):
            if (mask == label).sum() < 50:
                continue
            mean = photo[mask == label].mean(0)
            right += int(np.argmin(((colors[1:] - mean) ** 2).sum(1))) + 1 == label
            total += 1
    assert total > 60 and right / total > 0.95


def test_objects_occlude_each_other_and_the_background_shows() -> None:
    scenes = Synthetic(size=(128, 128), count=60)
    masks = np.stack([np.asarray(scenes.read(index)[1]) for index in range(60)])
    shares = np.bincount(masks.ravel(), minlength=6) / masks.size
    assert 0.4 < shares[0] < 0.8 and (shares[1:] > 0.02).all()
    pairs = set(zip(masks[:, :, 1:].ravel().tolist(), masks[:, :, :-1].ravel().tolist(), strict=True))
    assert all((one, other) in pairs for one in range(6) for other in range(6))


def test_shape_and_texture_repeat_only_after_56_classes() -> None:
    looks = {(place % len(SHAPES), place % len(TEXTURES)) for place in range(56)}
    assert len(looks) == 56


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"classes": 1}, "classes is 1: use 2 to 65535"),
        ({"size": (8, 64)}, r"size is \(8, 64\): use at least 16"),
        ({"count": 0}, "count is 0"),
        ({"split": "dev"}, "no split 'dev': choose from train, val, test"),
    ],
)
def test_impossible_scenes_are_refused(arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Synthetic(**arguments)


def test_an_index_past_the_end_is_refused() -> None:
    with pytest.raises(IndexError, match="no scene 4: the split train has 4"):
        Synthetic(count=4).read(4)
