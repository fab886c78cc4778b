"""Cut-outs keep the chosen classes; only their edge is soft. Pixels below a threshold are unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from cgrseg.images.cutout import cutout
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build

NAMES = ("background", "road", "tree")
COLORS = ((0, 0, 0), (0, 200, 0), (0, 0, 200))


def segmenter(names: tuple[str, ...] = NAMES, ignore_index: int = 255, **options: float) -> Segmenter:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=3)
    classifier = model.eval().head.classifier
    torch.nn.init.normal_(classifier.weight)
    with torch.no_grad():  # logits of mean 0 and deviation 2, so that each class wins somewhere
        logits = model(torch.randn(1, 3, 256, 256))
        scale = 2 / logits.std((2, 3))[0]
        classifier.bias.copy_((classifier.bias - logits.mean((2, 3))[0]) * scale)
        classifier.weight.mul_(scale[:, None, None, None])
    labels = LabelSpace(names=names, colors=COLORS, ignore_index=ignore_index)
    model.description = replace(model.description, labels=labels)
    return Segmenter(model, device="cpu", **options)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    blocks = np.random.default_rng(3).integers(1, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)[:90, :141])


@pytest.fixture(scope="module")
def result(photo: Image.Image) -> Segmentation:
    found = segmenter()(photo)
    assert (found.counts() > 200).all()
    return found


@pytest.mark.parametrize("mode", ["whole", "tta", "slide"])
def test_membership_is_at_least_half_exactly_where_the_label_is_one_of_the_classes(
    photo: Image.Image, mode: str
) -> None:
    found = segmenter(mode=mode)(photo)  # type: ignore[arg-type]
    assert found.prediction is not None
    for classes in ([0], [1, 2], [0, 1, 2], []):
        values = found.prediction.membership(classes)
        inside = np.isin(found.labels, classes)
        assert values.shape == found.labels.shape and values.dtype == np.float32
        assert (values[inside] >= 0.5 - 1e-5).all() and (values[~inside] <= 0.5 + 1e-5).all()


def test_a_hard_cutout_has_the_photo_where_the_labels_are_and_nothing_elsewhere(result: Segmentation) -> None:
    picture = np.asarray(result.cutout(["tree"], soft=False))
    inside = result.labels == 2
    assert (picture[inside] == np.dstack([result.photo, np.full(inside.shape, 255)])[inside]).all()
    assert (picture[~inside] == 0).all()


def test_a_soft_cutout_differs_from_the_hard_one_only_near_its_edge(result: Segmentation) -> None:
    soft, hard = (np.asarray(result.cutout(["tree", 1], soft=soft))[..., 3] for soft in (True, False))
    assert ((soft > 0) & (soft < 255)).any()
    distance = np.maximum(distance_transform_edt(hard > 0), distance_transform_edt(hard == 0))
    assert (soft == hard)[distance > 9].all() and (distance > 9).any()


def test_the_edge_is_as_wide_as_asked() -> None:
    inside = np.zeros((40, 60), bool)
    inside[:, 30:] = True
    membership = np.clip((np.arange(60) - 29.5) / 60 + 0.5, 0, 1)[None].repeat(40, 0)  # unsure everywhere
    alpha = np.asarray(cutout(np.full((40, 60, 3), 9, np.uint8), inside, membership, width=5))[..., 3]
    assert (alpha[:, :24] == 0).all() and (alpha[:, 36:] == 255).all()
    assert ((alpha[:, 26:34] > 0) & (alpha[:, 26:34] < 255)).all()
    assert (np.diff(alpha[20].astype(int)) >= 0).all()


def test_by_default_a_cutout_is_everything_but_the_background(result: Segmentation, photo: Image.Image) -> None:
    assert result.cutout(soft=False).tobytes() == result.cutout(["road", "tree"], soft=False).tobytes()
    with pytest.raises(ValueError, match=r"a cut-out needs classes.*choose from sky, road, tree$"):
        segmenter(names=("sky", "road", "tree"))(photo).cutout()


def test_crop_cuts_transparent_borders_off(photo: Image.Image) -> None:
    labels = np.zeros((90, 141), np.uint8)
    labels[10:20, 30:50] = 1
    found = Segmentation(labels, LabelSpace(names=NAMES, colors=COLORS), np.asarray(photo))
    assert found.cutout(soft=False, crop=True).size == (20, 10)
    assert found.cutout(["tree"], soft=False, crop=True).size == (141, 90)  # nothing to keep: the size of the photo


def test_without_logits_only_hard_cutouts_can_be_made(photo: Image.Image) -> None:
    found = segmenter()(photo)
    found.release()
    with pytest.raises(ValueError, match="before release"):
        found.cutout()
    assert found.cutout(soft=False).mode == "RGBA"


@pytest.mark.parametrize("ignore_index", [255, 65535])
def test_pixels_below_the_threshold_are_unknown(photo: Image.Image, ignore_index: int) -> None:
    plain = segmenter(ignore_index=ignore_index)(photo)
    sure = plain.confidence() >= 0.8
    assert 0.1 < sure.mean() < 0.9
    found = segmenter(ignore_index=ignore_index, threshold=0.8)(photo)
    assert np.array_equal(found.labels, np.where(sure, plain.labels.astype(int), ignore_index))
    assert np.array_equal(found.labels, plain.with_threshold(0.8).labels)
    assert found.counts().sum() == sure.sum()
    assert found.areas()["unknown"] == pytest.approx(1 - sure.mean())
    assert sum(found.areas().values()) == pytest.approx(1)
    assert sum(polygon.area for polygon in found.polygons()) == sure.sum()
    assert (np.asarray(found.cutout([0, 1, 2], soft=False))[..., 3] > 0).sum() == sure.sum()
    assert (np.asarray(found.cutout([0, 1, 2]))[..., 3] > 0).sum() == sure.sum()
    picture = np.asarray(found.overlay(legend=False, names=False))
    assert (picture[~sure] == found.photo[~sure]).all()
    assert plain.with_threshold(0) is plain


def test_a_mask_with_unknown_pixels_has_the_ignored_value(photo: Image.Image, tmp_path: object) -> None:
    found = segmenter(threshold=0.8)(photo)
    found.save(f"{tmp_path}/mask.png")
    with Image.open(f"{tmp_path}/mask.png") as mask:
        assert np.array_equal(np.asarray(mask), found.labels) and (np.asarray(mask) == 255).any()


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_not_a_probability_is_refused(threshold: float, result: Segmentation) -> None:
    with pytest.raises(ValueError, match="threshold is"):
        segmenter(threshold=threshold)
    with pytest.raises(ValueError, match="threshold is"):
        result.with_threshold(threshold)
