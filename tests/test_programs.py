"""A .pt2 file of a stranger can't run code of its own: whatever torch would unpickle or evaluate is refused unread."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from cgrseg.deploy.export import WRITERS
from cgrseg.deploy.trace import trace
from cgrseg.inference.programs import EXTRA_FILE, read_program
from cgrseg.inference.runtimes import open_exported
from cgrseg.nn import build
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing

GRAPH, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[2] // 8, images.shape[3] // 8)
        return F.interpolate(self.convolution(images), size, mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "small.pt2"
    shapes = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    exported = torch.export.export(Small().eval(), (torch.zeros(1, 3, 40, 56),), dynamic_shapes=shapes)
    torch.export.save(exported, path, extra_files={EXTRA_FILE: "ours"})
    return path


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def changed(source: Path, target: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """The file with other contents of some records; those it doesn't have begin empty."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name in {**records, **changes}:
            content = records.get(name, b"")
            new.writestr(f"{root}/{name}", changes.get(name, lambda same: same)(content))
    return target


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        table = json.loads(content)
        change(table)
        return json.dumps(table).encode()

    return apply


def first(part: Any, key: str) -> dict[str, Any] | None:
    """The first object of a JSON value that has a key."""
    if isinstance(part, dict) and part.get(key) is not None:
        return part
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return next((found for value in inner if (found := first(value, key)) is not None), None)


def put(key: str, value: Any) -> Callable[[bytes], bytes]:
    """A change of the first object with a key."""

    def change(table: dict[str, Any]) -> None:
        found = first(table, key)
        assert found is not None
        found[key] = value

    return edit(change)


def test_a_program_of_ours_is_read_and_runs_at_other_sizes(program: Path, tmp_path: Path) -> None:
    copy = changed(program, tmp_path / "copy.pt2", {})
    for path in (program, copy):
        exported, text = read_program(path)
        assert text == "ours"
        assert exported.module(check_guards=False)(torch.zeros(1, 3, 64, 33)).shape == (1, 2, 8, 4)


@pytest.mark.slow
def test_a_program_of_what_the_ablations_put_in_is_read(tmp_path: Path) -> None:
    model = build("cgrseg_n", num_classes=2, context_blocks=1, mixer="self_attention", head="da").eval()
    exported = trace(fuse(model), preprocessing=Preprocessing(), size=(64, 96))
    WRITERS["torch"](exported, tmp_path / "other.pt2", "ours", "tensor")
    assert read_program(tmp_path / "other.pt2")[1] == "ours"


def malice(kind: str, marker: Path) -> dict[str, Callable[[bytes], bytes]]:
    """Changes that make torch.export.load, or the program it gives, make the marker or load machine code."""
    code = f"__import__('pathlib').Path('{marker}').touch()"
    spec = json.dumps([1, {"type": "collections.defaultdict", "context": "[]", "children_spec": []}])
    return {
        "sample": {SAMPLE: lambda _: pickled(Touch(marker))},
        "weight": {WEIGHTS: put("use_pickle", True), "data/weights/weight_0": lambda _: pickled(Touch(marker))},
        "elsewhere": {WEIGHTS: put("path_name", "../../weight_0")},
        "object": {"data/constants/custom_obj_0": lambda _: pickled(Touch(marker))},
        "old weights": {"data/weights/model.pt": lambda _: pickled(Touch(marker))},
        "machine code": {"data/aotinductor/model/code.so": lambda _: b"\x7fELF"},
        "second program": {"models/other.json": lambda content: content},
        "formula": {GRAPH: put("expr_str", code)},
        "function": {GRAPH: put("target", "torch.hub.load")},
        "file": {GRAPH: put("target", "torch.ops.aten.from_file.default")},
        "text": {GRAPH: put("target", "torch.ops.aten.chr.default")},
        "unchecked memory": {GRAPH: put("target", "torch.ops.aten._convert_indices_from_csr_to_coo.default")},
        "operator": {GRAPH: put("target", "_operator.methodcaller")},
        "name": {GRAPH: put("name", f"x): {code} #")},
        "string": {GRAPH: put("arg", {"as_string": "photo.png"})},
        "string for a number": {GRAPH: put("arg", {"as_int": "photo.png"})},
        "strings for numbers": {GRAPH: put("arg", {"as_ints": [1, "photo.png"]})},
        "graph in an argument": {GRAPH: put("arg", {"as_string_to_argument": {"metadata": {"expr_str": code}}})},
        "formula of a tensor called metadata": {GRAPH: edit(lambda table: rename(table, code))},
        "container": {GRAPH: put("in_spec", spec)},
    }[kind]


def rename(table: dict[str, Any], code: str) -> None:
    tensors = table["graph_module"]["graph"]["tensor_values"]
    tensors["metadata"] = tensors.pop(next(iter(tensors)))
    tensors["metadata"]["sizes"][0] = {"as_expr": {"expr_str": code}}


KINDS = (
    "sample",
    "weight",
    "elsewhere",
    "object",
    "old weights",
    "machine code",
    "second program",
    "formula",
    "function",
    "file",
    "text",
    "unchecked memory",
    "operator",
    "name",
    "string",
    "string for a number",
    "strings for numbers",
    "graph in an argument",
    "formula of a tensor called metadata",
    "container",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_could_run_code_is_refused_and_does_not_run(program: Path, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    path = changed(program, tmp_path / "evil.pt2", malice(kind, marker))
    with pytest.raises(ValueError, match=r"evil\.pt2 can't be opened by runtime torch"):
        open_exported(path, "cpu")
    assert not marker.exists()


def test_guards_are_not_evaluated(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = [f"__import__('pathlib').Path('{marker}').touch() or True"]
    path = changed(program, tmp_path / "guards.pt2", {GRAPH: put("guards_code", code)})
    read_program(path)[0].module(check_guards=False)(torch.zeros(1, 3, 64, 64))
    assert not marker.exists()


def test_the_format_of_older_torch_is_not_tried(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.20")
        for name in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{name}.pt", pickled(Touch(marker)))
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ValueError, match=r"old\.pt2 can't be opened by runtime torch"):
        open_exported(path, "cpu")
    assert not marker.exists()
