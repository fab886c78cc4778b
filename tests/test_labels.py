"""A class list is read strictly: each wrong value is one line that names the file and the key."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgrseg.labels import LabelSpace


def write(folder: Path, **changes: Any) -> Path:
    """classes.json with two classes; `entry` changes the second class."""
    entry = {"id": 1, "name": "road", "color": [1, 2, 3], **changes.pop("entry", {})}
    path = folder / "classes.json"
    path.write_text(json.dumps({"classes": [{"id": 0, "name": "sky"}, entry], **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("value", [-100, -1, 70000, "255", None, 255.0, True, [255], 1])
def test_an_ignore_index_that_no_mask_can_hold_is_refused(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, ignore_index=value)
    with pytest.raises(ValueError, match="ignore_index") as error:
        LabelSpace.from_classes_json(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"color": 5}, "'road' has the \"color\" 5"),
        ({"color": "#ff0000"}, "color"),
        ({"color": [1, 2]}, "use three integers from 0 to 255"),
        ({"color": [1, 2, 256]}, "use three integers from 0 to 255"),
        ({"color": [1, 2, 3.0]}, "use three integers from 0 to 255"),
        ({"color": [1, 2, True]}, "use three integers from 0 to 255"),
        ({"colour": [1, 2, 3]}, 'the key "colour": use "color"'),
        ({"id": "1"}, "\"id\" is '1'"),
        ({"id": 1.0}, '"id" is 1.0'),
        ({"id": True}, '"id" is True'),
        ({"id": 2}, r"must be 0 to 1, each once"),
        ({"name": 7}, '"name" is 7'),
        ({"name": None}, '"name" is None'),
        ({"name": " "}, "a text that is not empty"),
        ({"name": "sky"}, "two classes have the \"name\" 'sky'"),
        ({"name": "\x1b[31mred"}, r"control characters in its name '\\x1b\[31mred'"),
        ({"name": "two\nlines"}, "control characters"),
        ({"name": "\ud800"}, "control characters"),
        ({"name": "road\u202eyks"}, "control characters"),
    ],
)
def test_a_wrong_value_of_a_class_names_file_and_key(entry: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    path = write(tmp_path, entry=entry)
    with pytest.raises(ValueError, match=complaint) as error:
        LabelSpace.from_classes_json(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is not a class list"),
        ("[]", "is not a class list"),
        ("{}", "is not a class list"),
        ('{"classes": []}', "is not a class list"),
        ('{"classes": [1]}', "is not a class list"),
        ('{"classes": [{"id": 0}]}', 'has no "name"'),
        ('{"classes": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}', "must be 0 to 1.*--one-based"),
        ('{"classes": [{"id": 0, "name": "a"}], "ignore_label": 0}', '"ignore_label" is not a key'),
        ('{"classes": [{"id": 0, "name": "a"}], "ignore_index": 254, "ignore_index": 255}', "stands twice"),
        ("[" * 100_000, "is not a class list"),
        (b"\xff\xfe{}", "is not a class list"),
    ],
)
def test_what_is_not_a_class_list_is_one_line(content: str | bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=complaint) as error:
        LabelSpace.from_classes_json(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_and_any_language_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    classes = [{"id": 0, "name": "Straße"}, {"id": 1, "name": "cafe\u0301", "color": None}, {"id": 2, "name": "道路"}]
    path.write_text(json.dumps({"classes": classes}, ensure_ascii=False), encoding="utf-8-sig")
    labels = LabelSpace.from_classes_json(path)
    assert labels.names == ("Straße", "café", "道路") and labels.ignore_index == 255


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"names": "ab"}, "list of names"),
        ({"names": ["a", 1]}, "class 1 has the name 1"),
        ({"names": ["a", "\x1b[2J"]}, "control characters"),
        ({"colors": [[1, 2, 3], 5]}, "has the color 5"),
        ({"ignore_index": None}, "ignore_index is None"),
        ({"raw_ids": {"7": 2}}, "raw_ids maps 7 to 2"),
    ],
)
def test_the_classes_in_a_weights_file_are_read_as_strictly(changes: dict[str, Any], complaint: str) -> None:
    labels = LabelSpace(names=("a", "b"), colors=((0, 0, 0), (9, 9, 9)), raw_ids={7: 0, 8: 1, 255: 255})
    assert LabelSpace.from_dict(labels.to_dict()) == labels
    with pytest.raises(ValueError, match=complaint):
        LabelSpace.from_dict({**labels.to_dict(), **changes})


def test_one_class_can_be_named_without_a_list() -> None:
    labels = LabelSpace(names=("road", "car"), colors=((0, 0, 0), (1, 1, 1)))
    assert labels.find("car") == labels.find(1) == labels.find(["car"]) == [1]
    assert labels.find(np.uint8(1)) == labels.find([np.int64(1)]) == [1]
    cafe = LabelSpace(names=("caf\u00e9",), colors=((0, 0, 0),))
    assert cafe.find(unicodedata.normalize("NFD", "caf\u00e9")) == [0]
    with pytest.raises(ValueError, match="no class is called 'cat'"):
        labels.find("cat")
