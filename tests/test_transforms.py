"""The released augmentation, cropping first: the same distribution with fewer pixels touched; teacher logits follow."""

from __future__ import annotations

import colorsys
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from cgrseg.data.distortion import distort, saturate, turn_hue
from cgrseg.data.settings import Augmentation
from cgrseg.data.synthetic import Synthetic
from cgrseg.data.transforms import (
    TrainingCrops,
    collate,
    crop_mask,
    crop_photo,
    crop_teacher,
    draw_region,
    resized_size,
)
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Preprocessing

PLAIN = Augmentation(crop=64, resize_to=None, scale=(1, 1), max_class_share=1, flip=0, photometric=False)


class Fixed:
    """A split of one given pair."""

    split = "train"

    def __init__(self, photo: np.ndarray, mask: np.ndarray, *, broken: int = 0, count: int = 1) -> None:
        self.photo, self.mask, self.broken, self.count = photo, mask, broken, count
        self.labels = LabelSpace.numbered(8)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        if index < self.broken:
            raise ValueError(f"can't read {index}.png")
        return Image.fromarray(self.photo), Image.fromarray(self.mask)


def crops(samples: Any, augmentation: Augmentation, seed: int = 0) -> TrainingCrops:
    return TrainingCrops(samples=samples, augmentation=augmentation, preprocessing=Preprocessing(), seed=seed)


def smooth_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft and sharp parts, so that a shift by a fraction of a pixel shows."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (max(height // 6, 2), max(width // 6, 2), 3), np.uint8))
    photo = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    photo[::7] = random.integers(0, 255, (len(photo[::7]), width, 3))
    return photo


def resize_everything(photo: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """The released order: the whole photo in float, bilinear without antialiasing."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].double()
    return F.interpolate(image, size, mode="bilinear", align_corners=False)[0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(33, 200), st.integers(33, 200), st.floats(0.3, 3.5), st.integers(16, 96), st.integers(0, 10**6))
def test_crop_first_equals_resize_everything_then_crop(
    height: int, width: int, scale: float, crop: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    photo = smooth_photo(height, width, seed)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    h, w = min(crop, size[0]), min(crop, size[1])
    top, left = int(random.integers(size[0] - h + 1)), int(random.integers(size[1] - w + 1))
    ours = crop_photo(photo, size, (top, left, h, w))
    whole = resize_everything(photo, size)[:, top : top + h, left : left + w]
    # rounding to whole levels, and a shift by at most 1/128 of a photo pixel on each axis
    assert ours.shape == whole.shape and (ours - whole).abs().max() <= 0.5 + 2 * 255 / 128 + 0.01


def test_a_part_as_long_as_its_crop_is_still_resized() -> None:
    """torch copies where input and output have one size, whatever the scale."""
    photo = smooth_photo(125, 85)
    for region in ((10, 8, 73, 73), (10, 8, 73, 60), (10, 8, 60, 73)):
        top, left, h, w = region
        whole = resize_everything(photo, (127, 87))[:, top : top + h, left : left + w]
        assert (crop_photo(photo, (127, 87), region) - whole).abs().max() <= 4.5


@pytest.mark.parametrize(
    ("photo_size", "resize_to"),
    [((512, 683), (2048, 512)), ((375, 500), (2048, 512)), ((360, 480), None), ((1024, 2048), (2048, 512))],
)
def test_both_orders_agree_for_fixed_draws_at_real_sizes(
    photo_size: tuple[int, int], resize_to: tuple[int, int] | None
) -> None:
    photo = smooth_photo(*photo_size)
    mask = np.asarray(Image.fromarray(photo[..., 0]).resize(photo_size[::-1])) // 32
    augmentation = Augmentation(crop=256, resize_to=resize_to)
    for seed in range(3):
        random = np.random.default_rng(seed)
        size = resized_size(photo_size, augmentation, random)
        region = draw_region(mask, size, augmentation, 255, random)
        top, left, h, w = region
        whole = resize_everything(photo, size)[:, top : top + h, left : left + w]
        difference = (crop_photo(photo, size, region) - whole).abs()
        assert difference.max() <= 4.5 and difference.mean() < 0.5
        nearest = mask[(np.arange(size[0]) * 2 + 1) * photo_size[0] // (2 * size[0])]
        nearest = nearest[:, (np.arange(size[1]) * 2 + 1) * photo_size[1] // (2 * size[1])]
        assert (crop_mask(mask, size, region) == nearest[top : top + h, left : left + w]).all()


def test_a_photo_at_its_own_size_is_cut_out_unchanged() -> None:
    photo = smooth_photo(90, 120)
    assert (crop_photo(photo, (90, 120), (13, 29, 40, 50)).numpy() == photo[13:53, 29:79].transpose(2, 0, 1)).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 150), st.integers(1, 150))
def test_masks_are_never_interpolated_and_stay_where_the_photo_is(h: int, w: int, to_h: int, to_w: int) -> None:
    mask = np.random.default_rng(h * w).choice([0, 7, 200, 255], (h, w)).astype(np.uint8)
    resized = crop_mask(mask, (to_h, to_w), (0, 0, to_h, to_w))
    assert set(np.unique(resized)) <= set(np.unique(mask))
    # each pixel has the id of the photo pixel under its centre
    for y in {0, to_h // 2, to_h - 1}:
        for x in {0, to_w // 3, to_w - 1}:
            assert resized[y, x] == mask[int((y + 0.5) * h / to_h), int((x + 0.5) * w / to_w)]


def test_the_scale_is_uniform_and_fits_the_photo_into_the_given_sides() -> None:
    augmentation = Augmentation()
    random = np.random.default_rng(0)
    for height, width in ((512, 683), (683, 512), (300, 1800)):
        fit = min(2048 / max(height, width), 512 / min(height, width))
        sizes = np.array([resized_size((height, width), augmentation, random) for _ in range(2000)])
        scales = sizes[:, 0] / (height * fit)
        assert 0.49 < scales.min() < 0.51 and 1.99 < scales.max() < 2.01
        assert np.histogram(scales, 4, (0.5, 2))[0] / 2000 == pytest.approx([0.25] * 4, abs=0.04)
        assert np.abs(sizes[:, 1] - sizes[:, 0] * width / height).max() <= 1 + width / height
    own = dataclasses.replace(augmentation, resize_to=None, scale=(1, 1))
    assert resized_size((300, 1800), own, random) == (300, 1800)


def test_crops_lie_everywhere_with_equal_probability() -> None:
    random, mask = np.random.default_rng(0), np.zeros((70, 66), np.uint8)
    places = [draw_region(mask, (70, 66), PLAIN, 255, random) for _ in range(3000)]
    tops, lefts = np.bincount([p[0] for p in places]), np.bincount([p[1] for p in places])
    assert len(tops) == 7 and len(lefts) == 3
    assert tops / 3000 == pytest.approx([1 / 7] * 7, abs=0.03) and lefts / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_crop_is_drawn_again_while_one_class_fills_three_quarters_of_its_labelled_pixels() -> None:
    augmentation = dataclasses.replace(PLAIN, crop=32, max_class_share=0.75)
    mask = np.zeros((32, 320), np.uint8)
    mask[:, 140:180] = 1  # a mixed crop is rare: about one in five
    mask[:16] = 255  # ignored pixels don't count

    def share(region: tuple[int, int, int, int]) -> float:
        return float(np.bincount(crop_mask(mask, (32, 320), region)[16:].ravel(), minlength=2).max() / 512)

    random = np.random.default_rng(0)
    drawn = np.array([share(draw_region(mask, mask.shape, augmentation, 255, random)) for _ in range(400)])
    first = np.array([share(draw_region(mask, mask.shape, PLAIN_32, 255, random)) for _ in range(400)])
    good = (first < 0.75).mean()
    assert 0.05 < good < 0.4
    assert (drawn < 0.75).mean() == pytest.approx(1 - (1 - good) ** 11, abs=0.08)  # the first and ten more


PLAIN_32 = dataclasses.replace(PLAIN, crop=32)


def test_small_photos_are_padded_right_and_below_with_black_after_normalisation_and_255() -> None:
    photo, mask = smooth_photo(40, 50), np.full((40, 50), 3, np.uint8)
    image, labels, teacher, problems = crops(Fixed(photo, mask), PLAIN)[0]
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32 and labels.dtype == torch.uint8
    assert (labels[:40, :50] == 3).all() and (labels[40:] == 255).all() and (labels[:, 50:] == 255).all()
    assert (image[:, 40:] == 0).all() and (image[:, :, 50:] == 0).all() and problems == () and teacher is None
    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    restored = image[:, :40, :50] * std + mean
    assert torch.allclose(restored, torch.from_numpy(photo).permute(2, 0, 1).float(), atol=1e-3)


def test_half_of_the_crops_are_mirrored_together_with_their_masks() -> None:
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, :20] = 255
    mask = (photo[..., 0] > 0).astype(np.uint8)
    dataset = crops(Fixed(photo, mask), dataclasses.replace(PLAIN, flip=0.5))
    mirrored = 0
    for number in range(300):
        image, labels, _, _ = dataset[number]
        assert ((image[0] > 0) == (labels == 1)).all()
        mirrored += int(labels[0, -1] == 1)
    assert 0.4 < mirrored / 300 < 0.6


class Draws:
    """Stands in for the generator: what `distort` draws, in its order."""

    def __init__(self, steps: str, *, first: bool = True, values: tuple[float, ...] = (0, 1, 1, 0)) -> None:
        shift, contrast, factor, turn = values
        coins = [
            0.1 if name in steps.split() else 0.9 for name in ("brightness", "contrast", "late", "saturation", "hue")
        ]
        self.answers = [np.array(coins), shift, np.array([contrast, factor]), turn]
        self.asked: list[tuple[Any, ...]] = []
        self.first = first

    def uniform(self, *arguments: float, size: int | None = None) -> Any:
        self.asked.append(arguments)
        return self.answers.pop(0)

    def random(self) -> float:
        return 0.1 if self.first else 0.9


def colors(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 20, 20))).float()


def test_photometric_ranges_are_the_released_ones() -> None:
    draws = Draws("", values=(0, 1, 1, 0))
    assert (distort(colors(), draws) == colors()).all()  # type: ignore[arg-type]
    assert draws.asked[1:] == [(-32, 32), (0.5, 1.5, 2), (-0.1, 0.1)]  # hue ±18 of 180


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (Draws("brightness", values=(20, 1, 1, 0)), lambda x: (x + 20).clamp(0, 255)),
        (Draws("contrast", values=(0, 1.4, 1, 0)), lambda x: (x * 1.4).clamp(0, 255)),
        (Draws("late", first=False, values=(0, 0.6, 1, 0)), lambda x: x * 0.6),
        (Draws("late", first=True, values=(0, 0.6, 1, 0)), lambda x: x),
        (Draws("contrast", first=False, values=(0, 0.6, 1, 0)), lambda x: x),
        (Draws("saturation", values=(0, 1, 0.0, 0)), lambda x: x.amax(0, keepdim=True).expand(3, -1, -1)),
        (
            Draws("brightness late saturation", first=False, values=(-30, 1.3, 0.0, 0)),
            lambda x: (((x - 30).clamp(0, 255)).amax(0, keepdim=True) * 1.3).clamp(0, 255).expand(3, -1, -1),
        ),
    ],
)
def test_each_photometric_step_does_what_it_is_called(
    draws: Draws, expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    assert torch.allclose(distort(colors(), draws), expected(colors()), atol=1e-3)  # type: ignore[arg-type]


def test_hue_and_saturation_agree_with_the_colour_model_of_the_standard_library() -> None:
    image = colors(1)
    turned = distort(image.clone(), Draws("hue", values=(0, 1, 1, 0.08)))  # type: ignore[arg-type]
    saturated = saturate(image.clone(), 1.4)
    for y, x in np.ndindex(20, 20):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, y, x] / 255).tolist())
        expected = colorsys.hsv_to_rgb((hue + 0.08) % 1, saturation, value)
        assert turned[:, y, x].tolist() == pytest.approx([255 * c for c in expected], abs=0.05)
        expected = colorsys.hsv_to_rgb(hue, min(1.4 * saturation, 1), value)
        assert saturated[:, y, x].tolist() == pytest.approx([255 * c for c in expected], abs=0.05)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(-0.1, 0.1), st.sampled_from([1, 64, 85, 255]))
def test_hue_and_saturation_are_torchvisions_and_the_released_ones_to_the_last_bit(
    seed: int, turn: float, levels: int
) -> None:
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.integers(0, 256, (3, 16, 24)) // levels * levels).float()  # greys and ties
    image = (image * random.uniform(0.5, 1.5)).clamp(0, 255)
    assert torch.equal(turn_hue(image, turn), V.adjust_hue(image / 255, turn) * 255)
    value, lowest = image.amax(0), image.amin(0)
    limit = (value / (value - lowest).clamp(min=1e-6)).clamp(max=1.3)
    assert torch.equal(saturate(image, 1.3), value - (value - image) * limit)


def test_each_photometric_step_happens_half_of_the_time_and_values_stay_in_range() -> None:
    grey, random, kept = torch.full((3, 4, 4), 100.0), np.random.default_rng(0), 0
    for _ in range(600):
        changed = distort(grey.clone(), random)
        assert changed.min() >= 0 and changed.max() <= 255
        kept += int(torch.allclose(changed, grey, atol=1e-3))
    # grey has neither hue nor saturation: brightness stays out half of the time, and so does contrast
    assert kept / 600 == pytest.approx(0.25, abs=0.06)


def test_unreadable_samples_are_replaced_by_the_next_and_named() -> None:
    photo, mask = smooth_photo(64, 64), np.ones((64, 64), np.uint8)
    dataset = crops(Fixed(photo, mask, broken=3, count=5), PLAIN)
    problems = [problem for number in range(5) for problem in dataset[number][3]]
    assert set(problems) == {f"can't read {index}.png" for index in range(3)}
    assert all((dataset[number][1] == 1).all() for number in range(5))
    with pytest.raises(ValueError, match="5 consecutive samples can't be read, the last: can't read"):
        crops(Fixed(photo, mask, broken=5, count=5), PLAIN)[0]


def test_batches_stack_samples_and_gather_their_problems() -> None:
    dataset = crops(Synthetic(size=(70, 80), count=3), Augmentation(crop=64, resize_to=None))
    images, labels, teacher, problems = collate([dataset[0], (*dataset[1][:3], ("one is broken",))])
    assert (
        teacher is None
        and images.shape == (2, 3, 64, 64)
        and labels.shape == (2, 64, 64)
        and labels.dtype == torch.int64
        and problems == ["one is broken"]
    )


def stored_teacher(folder: Path, photo: np.ndarray) -> Path:
    """Logits whose probabilities are the photo's red channel: p(class 1) = red / 256."""
    share = torch.from_numpy(photo[..., 0].copy()).float().add(0.5) / 256
    np.save(folder / "0.npy", torch.stack([(1 - share).log(), share.log()]).numpy())
    return folder


def ramp(height: int, width: int) -> np.ndarray:
    """A photo that is smooth and has no symmetry, so that wrong places show."""
    y, x = np.mgrid[:height, :width]
    return np.repeat((20 + 150 * x / width + 80 * y / height).astype(np.uint8)[..., None], 3, 2)


def test_a_teacher_fits_crops_of_any_size() -> None:
    logits = torch.zeros(2, 4, 4)
    assert crop_teacher(logits, (90, 90), (0, 0, 70, 70), crop=70, flipped=False).shape == (2, 9, 9)


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(("size", "scale"), [((64, 64), (1, 1)), ((90, 120), (0.8, 1.6)), ((40, 53), (1, 1))])
def test_the_teachers_crop_lines_up_with_the_images_crop_also_when_it_is_flipped(
    flip: int, size: tuple[int, int], scale: tuple[float, float], tmp_path: Path
) -> None:
    photo = ramp(*size)
    samples = Fixed(photo, np.zeros(size, np.uint8))
    samples.labels = LabelSpace.numbered(2)
    dataset = TrainingCrops(
        samples=samples,
        augmentation=dataclasses.replace(PLAIN, flip=flip, scale=scale),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)),
        seed=0,
        teacher=stored_teacher(tmp_path, photo),
    )
    for number in range(8):
        image, labels, teacher, _ = dataset[number]
        assert teacher is not None and teacher.shape == (2, 8, 8)
        cells = F.avg_pool2d(image[None, :1], 8)[0, 0]  # the image at the cells' centres
        inside = F.max_pool2d((labels[None].float() == 255).float(), 8)[0] == 0  # wholly in the photo
        assert inside.sum() >= 5 * 6
        assert (256 * teacher[1] - cells).abs()[inside].max() < 2.5
        assert torch.allclose(teacher.sum(0)[inside], torch.ones(()))
        assert (teacher[:, ~inside] == 0).all()


def test_a_flipped_teacher_is_not_the_unflipped_one() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 8))).float()
    plain, flipped = (crop_teacher(logits, (64, 64), (0, 0, 64, 64), crop=64, flipped=flip) for flip in (False, True))
    assert torch.allclose(plain, logits.softmax(0), atol=1e-6)
    assert torch.allclose(flipped, plain.flip(-1), atol=1e-6) and not torch.allclose(flipped, plain, atol=0.1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no teacher logits"),
        (b"", "no teacher logits"),
        (np.zeros((8, 8)), "is not an array"),
        (np.zeros((2, 8, 8), int), "floats"),
        (np.zeros((2, 8, 8)), "has logits of 2 classes, the dataset has 8"),
    ],
)
def test_a_missing_or_damaged_teacher_file_is_named(content: Any, complaint: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "0.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "0.npy", content)
    dataset = crops(Fixed(ramp(64, 64), np.zeros((64, 64), np.uint8)), PLAIN)
    dataset.teacher = tmp_path
    with pytest.raises(ValueError, match=rf"0\.npy: .*{complaint}"):
        dataset[0]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"crop": 8}, "augment.crop is 8"),
        ({"resize_to": (0, 512)}, r"augment.resize_to is \[0, 512\]"),
        ({"scale": (2, 1)}, r"augment.scale is \[2, 1\]"),
        ({"scale": (0, 1)}, r"augment.scale is \[0, 1\]"),
        ({"max_class_share": 0}, "augment.max_class_share is 0"),
        ({"flip": math.inf}, "augment.flip is inf"),
    ],
)
def test_impossible_augmentations_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Augmentation(**wrong)
