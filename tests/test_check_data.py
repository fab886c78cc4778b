"""`cgrseg check-data` prints the report, writes the contact sheet, and fails if there are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.data.contact_sheet import contact_sheet
from cgrseg.data.listing import open_dataset


def test_good_data_exits_0_and_gives_a_sheet(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheets" / "sheet.png"
    assert main(["check-data", str(squares), "--out", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert "nothing wrong found" in printed and str(sheet) in printed
    with Image.open(sheet) as picture:
        assert picture.width > 400


def test_errors_exit_1_and_the_rest_is_still_drawn(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (squares / "masks" / "train" / "0.png").unlink()
    assert main(["check-data", str(squares), "--out", str(tmp_path / "sheet.png")]) == 1
    assert "0.png: has no mask" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_warnings_alone_exit_0(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (squares / "images" / "train" / "0.png").unlink()
    assert main(["check-data", str(squares)]) == 0
    assert "1 warning\n  masks without a photo (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "no folder nowhere"),
        ([".", "--out", "sheet.jpg"], "--out sheet.jpg is not a PNG"),
        ([".", "--limit", "-1"], "--limit is -1"),
        ([".", "--format", "coco"], 'Invalid value "coco" for --format. Choose from: "folder", "ade20k"'),
    ],
)
def test_bad_arguments_exit_2_with_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_the_sheet_shows_photo_and_classes_and_hatches_ignored_pixels(squares: Path) -> None:
    path = squares / "masks" / "train" / "0.png"
    mask = np.array(Image.open(path))
    mask[:32] = 255
    Image.fromarray(mask).save(path)
    samples = open_dataset(squares, "train")
    sheet = np.asarray(contact_sheet([samples], each=1)).astype(int)
    photo, classes = sheet[32:192, :200], sheet[32:192, 200:400]  # below the title, 160 high
    expected = np.asarray(Image.fromarray(samples.read(0)[0]).resize((200, 160), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(photo - expected).max() <= 1
    assert len(np.unique((classes[:70] - 0.4 * photo[:70]).round(-1))) == 2  # black and white stripes
    red = classes[90:] - 0.4 * photo[90:]
    square = np.asarray(Image.fromarray(mask).resize((200, 160), Image.Resampling.NEAREST))[90:] == 1
    assert (red[square][:, 0] > 120).all() and (red[~square][:, 0] < 30).all()


def test_unreadable_pairs_are_replaced_and_none_at_all_is_an_error(squares: Path) -> None:
    samples = open_dataset(squares, "train")
    whole = contact_sheet([samples], each=3).size
    (squares / "images" / "train" / "0.png").write_bytes(b"")
    assert contact_sheet([samples], each=3).size == whole
    for path in (squares / "images" / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="nothing to show"):
        contact_sheet([samples])


def test_a_file_of_the_dataset_is_never_overwritten_by_the_sheet(
    squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = squares / "images" / "train" / "0.png"
    before = photo.read_bytes()
    assert main(["check-data", str(squares), "--out", str(photo)]) == 2
    assert f"--out {photo} is a file of the dataset: use another name" in capsys.readouterr().err
    assert photo.read_bytes() == before
