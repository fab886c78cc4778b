"""`Segmenter` takes a photo in any shape and gives its label map at the photo's own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from cgrseg.images.photos import read_photo
from cgrseg.inference.segmenter import Prepared, Segmenter, batches
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, build
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
MODES += ("I", "I;16", "I;16B")
NAMES = ("sky", "road", "tree", "car", "person")
COLORS = ((70, 130, 180), (128, 64, 128), (107, 142, 35), (0, 0, 142), (220, 20, 60))


def make_model(classes: int = 5) -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=classes)
    torch.nn.init.normal_(model.head.classifier.weight)  # so that all classes win somewhere
    return model


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(make_model())


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coarse coloured blocks with noise."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)
    return (blocks[:height, :width] * 0.8 + generator.integers(0, 50, (height, width, 3))).astype(np.uint8)


def test_labels_are_the_argmax_of_the_paper_s_two_step_resize() -> None:
    photo = draw(90, 133)
    model = make_model().eval()
    result = Segmenter(model, short_side=64)(photo)
    image, valid = Preprocessing(short_side=64).prepare(photo)
    assert valid == (64, 95) and image.shape == (3, 64, 96)
    with torch.inference_mode():
        logits = model(image[None])
    padded = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
    full = F.interpolate(padded[..., :64, :95], (90, 133), mode="bilinear", align_corners=False)[0]
    best = full.topk(2, dim=0).values
    certain = (best[0] - best[1] > 1e-4).numpy()
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(result.labels[certain], full.argmax(0).numpy()[certain])
    assert len(np.unique(result.labels)) > 1
    np.testing.assert_allclose(result.confidence(), full.softmax(0).amax(0), atol=1e-5)


shared_segmenter = Segmenter(make_model())


@settings(deadline=None, max_examples=25, derandomize=True)
@given(height=st.integers(1, 110), width=st.integers(1, 110), mode=st.sampled_from(["RGB", "L", "RGBA", "CMYK"]))
def test_any_size_and_mode_gives_labels_of_the_photo_s_size(height: int, width: int, mode: str) -> None:
    photo = Image.fromarray(draw(height, width)).convert(mode)
    result = shared_segmenter(photo)
    assert result.labels.shape == (height, width)
    assert result.labels.dtype == np.uint8
    assert result.labels.max() < 5
    assert sum(result.areas().values()) == pytest.approx(1)
    assert result.overlay(legend=False).size == (width, height)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    mode=st.sampled_from(MODES),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_every_pillow_mode_becomes_uint8_rgb(mode: str, height: int, width: int) -> None:
    pixels = read_photo(Image.new(mode, (width, height)))
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    dtype=st.sampled_from(["uint8", "bool", "int8", "uint16", "int64", "float16", "float32", "complex64", "<U1"]),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4),
)
def test_an_array_is_taken_or_refused_with_the_cure(dtype: str, shape: list[int]) -> None:
    array = np.zeros(shape, dtype)
    good = dtype == "uint8" and 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))
    if good:
        assert read_photo(array).shape == (*shape[:2], 3)
    else:
        with pytest.raises(ValueError, match=r"the image is an array of .*: give"):
            read_photo(array)


def test_integers_of_32_bits_are_read_by_the_range_they_use() -> None:
    for values, expected in (([0, 255], [0, 255]), ([0, 77 * 256], [0, 77])):
        pixels = read_photo(Image.fromarray(np.array([values], np.int32)))
        assert pixels[0, :, 0].tolist() == expected
    for wrong in ([-1, 5], [0, 70000]):
        with pytest.raises(ValueError, match=r"has values from .*: save it with 8 or 16 bits"):
            read_photo(Image.fromarray(np.array([wrong], np.int32)))


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 255.0], [float("nan"), 1.0]])
def test_floating_point_images_are_refused_with_the_cure(values: list[float], tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([values], np.float32))
    picture.save(tmp_path / "float.tif")
    for photo in (picture, tmp_path / "float.tif"):
        with pytest.raises(ValueError, match=r"floating-point values \(mode F\).*save it with 8 or 16 bits"):
            read_photo(photo)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (1, 1), 77), (77, 77, 77)),
        (Image.new("1", (1, 1), 1), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("LA", (1, 1), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("I;16", (1, 1), 0x4D11), (77, 77, 77)),
        (Image.new("I", (1, 1), 0x4D11), (77, 77, 77)),
        (Image.fromarray(np.array([[0x4D11]], ">u2")), (77, 77, 77)),
    ],
)
def test_colours_survive_the_way_to_rgb(picture: Image.Image, expected: tuple[int, int, int]) -> None:
    assert tuple(read_photo(picture)[0, 0]) == expected


def test_palette_pictures_keep_their_colours_and_their_transparency() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    assert read_photo(picture)[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    picture.info["transparency"] = 0
    assert read_photo(picture)[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured(segmenter: Segmenter, tmp_path: Path, orientation: int) -> None:
    upright = draw(48, 80)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    result = segmenter(tmp_path / "photo.png")
    np.testing.assert_array_equal(result.photo, upright)
    assert result.labels.shape == (48, 80)


def test_a_good_photo_with_broken_exif_is_read(tmp_path: Path) -> None:
    Image.fromarray(draw(8, 8)).save(tmp_path / "photo.jpg", exif=b"Exif\0\0nonsense")
    assert read_photo(tmp_path / "photo.jpg").shape == (8, 8, 3)


def test_all_ways_to_hand_over_a_photo_agree(segmenter: Segmenter, tmp_path: Path) -> None:
    photo = draw(64, 96)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = segmenter(photo).labels
    frozen = photo.copy()
    frozen.flags.writeable = False
    for same in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        Image.fromarray(photo),
        frozen,
        photo[:, ::-1][:, ::-1],
    ):
        np.testing.assert_array_equal(segmenter(same).labels, expected)


def test_a_list_gives_the_single_results_in_its_order(segmenter: Segmenter) -> None:
    photos = [draw(*size, seed=i) for i, size in enumerate([(64, 64), (64, 96), (60, 50), (33, 70), (64, 64)])]
    for batch in (1, 2, 8):
        for photo, result in zip(photos, segmenter(photos, batch=batch), strict=True):
            alone = segmenter(photo)
            assert np.mean(result.labels != alone.labels) < 1e-3  # another batch size, another order of sums
            np.testing.assert_allclose(result.confidence(), alone.confidence(), atol=1e-4)
    assert segmenter([]) == []


@settings(deadline=None, max_examples=50, derandomize=True)
@given(widths=st.lists(st.integers(1, 4), max_size=30), batch=st.integers(1, 4))
def test_batches_hold_equal_sizes_lose_nothing_and_hold_little_back(widths: list[int], batch: int) -> None:
    read = 0

    def items():
        nonlocal read
        for i, width in enumerate(widths):
            read += 1
            yield (
                i,
                Prepared(photo=np.zeros((1, 1, 3), np.uint8), image=torch.zeros(3, 1, width), valid=(1, 1)),
            )

    seen: list[int] = []
    for group in batches(items(), batch):
        assert 1 <= len(group) <= batch
        assert len({item.image.shape for _, item in group}) == 1
        seen += [key for key, _ in group]
        assert read - len(seen) <= 4 * batch
    assert sorted(seen) == list(range(len(widths)))


def test_names_colours_and_preprocessing_come_from_the_weights_file(tmp_path: Path) -> None:
    labels = LabelSpace(names=NAMES, colors=COLORS)
    path = tmp_path / "street.safetensors"
    artifact.save(make_model(), path, labels=labels, preprocessing=Preprocessing(short_side=64))
    segmenter = Segmenter(path, device="cpu")
    result = segmenter(draw(100, 128))
    assert result.names == NAMES
    assert segmenter.prepare(draw(100, 128)).valid == (64, 82) and result.labels.shape == (100, 128)
    assert set(result.areas()) <= set(NAMES)
    assert Segmenter(path, device="cpu", short_side=0).prepare(draw(100, 128)).valid == (100, 128)
    assert Segmenter(path, device="cpu", short_side=32).prepare(draw(100, 128)).valid == (32, 41)


def test_a_fresh_model_has_numbered_classes_and_is_not_changed() -> None:
    model = make_model().train()
    segmenter = Segmenter(model)
    assert all(part.training for part in model.modules())
    assert segmenter(draw(32, 32)).names == LabelSpace.numbered(5).names
    assert segmenter.preprocessing == Preprocessing()


def test_beyond_256_classes_labels_are_uint16_and_the_file_16_bit(tmp_path: Path) -> None:
    model = make_model(300)
    torch.nn.init.constant_(model.head.classifier.bias[256:], 10)
    result = Segmenter(model)(draw(40, 56))
    assert result.labels.dtype == np.uint16 and result.labels.max() > 255
    result.overlay()
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(mask), result.labels)


def test_the_saved_mask_is_a_palette_png_of_the_ids(segmenter: Segmenter, tmp_path: Path) -> None:
    result = segmenter(draw(40, 56))
    result.save(tmp_path / "new" / "mask.png")
    with Image.open(tmp_path / "new" / "mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
        colors = np.array(segmenter.labels.colors)[result.labels]
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), colors)
    with pytest.raises(ValueError, match=r"mask\.jpg: .*\.png"):
        result.save(tmp_path / "mask.jpg")


def test_a_failed_save_leaves_the_old_file(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mask.png").write_bytes(b"old")

    write_bytes = Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        segmenter(draw(40, 56)).save(tmp_path / "mask.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_areas_are_shares_of_the_classes_present_the_largest_first(segmenter: Segmenter) -> None:
    result = segmenter(draw(40, 50))
    result.labels = np.repeat(np.array([3, 1, 1, 0], np.uint8), 500).reshape(40, 50)
    assert result.areas() == {"class 1": 0.5, "class 0": 0.25, "class 3": 0.25}
    assert list(result.areas()) == ["class 1", "class 0", "class 3"]


def test_confidence_lies_between_chance_and_one_until_released(segmenter: Segmenter) -> None:
    result = segmenter(draw(45, 50))
    confidence = result.confidence()
    assert confidence.shape == (45, 50) and confidence.dtype == np.float32
    assert confidence.min() >= 1 / 5 - 1e-6 and confidence.max() <= 1 + 1e-6
    result.release()
    assert result.prediction is None and result.areas()
    with pytest.raises(ValueError, match="before release"):
        result.confidence()


def test_a_photo_of_a_batch_does_not_keep_the_batch_alive(segmenter: Segmenter) -> None:
    first, _ = segmenter([draw(64, 64), draw(64, 64, seed=1)])
    assert first.prediction.logits.untyped_storage().nbytes() == first.prediction.logits.nbytes


def test_a_class_list_of_another_length_is_refused() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="class list has 4 classes, the model 5"):
        model.describe(labels=LabelSpace(names=NAMES[:4], colors=COLORS[:4]))


def test_a_negative_short_side_or_batch_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="short_side is -1"):
        Segmenter(make_model(), short_side=-1)
    with pytest.raises(ValueError, match="batch is 0"):
        segmenter([draw(32, 32)], batch=0)


def test_a_photo_too_small_without_padding_says_the_cure() -> None:
    model = make_model()
    model.describe(preprocessing=Preprocessing(pad_multiple=1))
    with pytest.raises(ValueError, match="at least 32"):
        Segmenter(model)(draw(20, 50))
