"""Foreign checkpoints land where they belong, and nothing in them is ever run."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity_fill import PARITY, released_state, value
from safetensors.torch import save_file
from torch import Tensor, nn

import cgrseg
from cgrseg.cli.main import main
from cgrseg.nn import build
from cgrseg.nn.backbones.attention_bias import AttentionBias
from cgrseg.weights import artifact
from cgrseg.weights.adapters import load_encoder, load_official, official_key, our_key
from cgrseg.weights.checkpoint_reader import read_state

DEAD = ("attention_biases", "attention_bias_idxs", "attention_bias_idxs_seg")
SIZES = {"s0": "cgrseg_n", "s1": "cgrseg_t", "s2": "cgrseg_b", "l": "cgrseg_l"}


def released_nano(num_classes: int = 4) -> dict[str, Tensor]:
    """A released-style checkpoint of a small model, dead ImageNet tensors included."""
    with torch.device("meta"):
        ours = build("cgrseg_n", num_classes=num_classes).state_dict()
    state = {
        official_key(key): value(official_key(key), tuple(tensor.shape))
        if tensor.is_floating_point()
        else torch.tensor(7)
        for key, tensor in ours.items()
    }
    for key in [key for key in state if key.endswith("attention_biases_seg")]:
        stem = key.removesuffix("biases_seg")
        state[f"{stem}biases"] = torch.rand(8, 49)
        state[f"{stem}bias_idxs"] = state[f"{stem}bias_idxs_seg"] = torch.zeros(49, 49, dtype=torch.int64)
    return state


def equal(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


@pytest.fixture(scope="module")
def nano_state() -> dict[str, Tensor]:
    return released_nano()


# --- released CGRSeg ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("letter", "options"), [("T", {}), ("B", {"context_blocks": 6}), ("L", {})])
def test_keys_map_one_to_one_onto_the_released_ones(letter: str, options: dict[str, int]) -> None:
    with torch.device("meta"):
        ours = build(f"cgrseg_{letter.lower()}", **options).state_dict()
    keys = json.loads((PARITY / f"keys_{letter}.json").read_text())
    alive = {key: shape for key, (shape, _) in keys.items() if key.rpartition(".")[2] not in DEAD}
    assert {official_key(key): list(tensor.shape) for key, tensor in ours.items()} == alive
    assert [our_key(official_key(key)) for key in ours] == list(ours)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3, "CLASSES": ["sky"]}},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "both": lambda state: {"model": {"state_dict": state}},
    "module.": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "wrapped module.": lambda state: {"state_dict": {f"module.{key}": t for key, t in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_every_tensor_arrives_out_of_any_wrapper(nano_state: dict[str, Tensor], wrapper: str) -> None:
    model = build("cgrseg_n", num_classes=4)
    report = load_official(model, WRAPPED[wrapper](nano_state))  # type: ignore[arg-type]
    state = model.state_dict()
    assert set(report.loaded) == set(state)
    assert report.missing == report.unexpected == report.reshaped == ()
    for key, tensor in state.items():
        assert torch.equal(tensor, nano_state[official_key(key)].to(tensor.dtype)), key


@torch.inference_mode()
def test_loading_sets_the_released_arithmetic(nano_state: dict[str, Tensor]) -> None:
    relative, official = build("cgrseg_n", num_classes=4), build("cgrseg_n", num_classes=4, bias_mode="official")
    load_official(relative, nano_state)
    load_official(official, nano_state)
    assert relative.spec == official.spec and relative.spec.bias_mode == "official"
    assert {m.mode for m in relative.modules() if isinstance(m, AttentionBias)} == {"official"}
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(relative.eval()(images), official.eval()(images))


def test_what_nothing_takes_is_reported(nano_state: dict[str, Tensor]) -> None:
    state = {**nano_state, "auxiliary_head.conv_seg.weight": torch.zeros(2)}
    del state["decode_head.lgc.conv_mask.bias"]
    report = load_official(build("cgrseg_n", num_classes=4), state)
    assert report.unexpected == ("auxiliary_head.conv_seg.weight",)
    assert report.missing == ("head.gate.conv_mask.bias",)
    assert str(report).endswith(" loaded, 1 missing, 1 unexpected tensors")


def test_a_classifier_of_another_size_is_refused_or_kept(nano_state: dict[str, Tensor]) -> None:
    model = build("cgrseg_n", num_classes=7)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"of 4 classes, the model of 7: .*num_classes=4.*strict_classes=False"):
        load_official(model, nano_state)
    assert equal(model, before) and model.spec == before.spec
    report = load_official(model, nano_state, strict_classes=False)
    assert set(report.missing) == {"head.classifier.weight", "head.classifier.bias"}
    assert report.unexpected == ()
    assert torch.equal(model.head.classifier.weight, before.head.classifier.weight)
    assert torch.equal(model.head.gate.conv_mask.weight, nano_state["decode_head.lgc.conv_mask.weight"])
    same = build("cgrseg_n", num_classes=4)
    assert load_official(same, nano_state, strict_classes=False).missing == ()


def broken(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    state = dict(state)
    if kind == "no encoder":
        return {key: tensor for key, tensor in state.items() if not key.startswith("backbone.")}
    if kind == "other shape":
        state["backbone.network.0.0.mlp.fc1.bias"] = torch.zeros(3)
    elif kind == "more blocks":
        last = "decode_head.trans.transformer_blocks."
        state |= {key.replace(f"{last}2", f"{last}3"): t for key, t in state.items() if f"{last}2" in key}
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no encoder", r"fills \d+ of our \d+ tensors, not encoder\.stem\.0\.weight, .*, …: it is incomplete"),
        ("other shape", r"network\.0\.0\.mlp\.fc1\.bias has shape \(3,\), our encoder\.stages\.0\.0.* \(128,\)"),
        ("more blocks", "context_blocks 4, the model 3: create the model with context_blocks=4"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(nano_state: dict[str, Tensor], kind: str, message: str) -> None:
    model = build("cgrseg_n", num_classes=4)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message) as raised:
        load_official(model, broken(nano_state, kind))
    assert "\n" not in str(raised.value)
    assert equal(model, before) and model.spec == before.spec
    assert {m.mode for m in model.modules() if isinstance(m, AttentionBias)} == {"relative"}


def test_the_released_b_names_its_sixth_block_and_another_variant_is_named() -> None:
    state = released_state("B")
    with pytest.raises(ValueError, match="create the model with context_blocks=6"):
        load_official(build("cgrseg_b"), state)
    with pytest.raises(ValueError, match="backbone efficientformerv2_s2, the model efficientformerv2_s1"):
        load_official(build("cgrseg_t"), state)


# --- EfficientFormerV2 of ImageNet ---------------------------------------------------------------------------


def timm_donor(size: str, *, features: bool = False) -> nn.Module:
    """timm's own module with random weights and running statistics under which every branch matters."""
    model = timm.create_model(f"efficientformerv2_{size}", features_only=features).eval().double()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if key.endswith(("running_var", "bn.weight")):
                tensor.copy_(1 + 0.2 * noise.abs())
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5 if tensor.ndim == 4 else 0.2 * noise)
    return model


def assert_same_maps(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) == 4
    for mine, map_ in zip(ours, theirs, strict=True):
        assert (mine - map_).abs().max() < 1e-9 * map_.abs().max()


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_timm_weights_give_timms_own_feature_maps_at_224(size: str) -> None:
    donor, model = timm_donor(size), build(SIZES[size]).eval().double()
    report = load_encoder(model.encoder, donor.state_dict())
    assert report.missing == report.unexpected == ()
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    assert_same_maps(model.encoder(images), donor.forward_intermediates(images, intermediates_only=True))


@torch.inference_mode()
def test_the_keys_of_timms_feature_extractor_are_known_too() -> None:
    donor, model = timm_donor("s0", features=True), build("cgrseg_n").eval().double()
    report = load_encoder(model.encoder, {"model": donor.state_dict()})
    assert report.missing == report.unexpected == ()
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    assert_same_maps(model.encoder(images), donor(images))


def test_the_original_spelling_fills_the_encoder() -> None:
    keys = json.loads((PARITY / "keys_T.json").read_text())  # its backbone is the original's, plus *_seg
    state = {
        key.removeprefix("backbone."): torch.rand(shape)
        for key, (shape, _) in keys.items()
        if key.startswith("backbone.") and not key.endswith("_seg")
    }
    heads = {"norm.weight": torch.rand(224), "head.weight": torch.rand(9, 224), "dist_head.bias": torch.rand(9)}
    encoder = build("cgrseg_t").encoder
    report = load_encoder(encoder, {"model": {**state, **heads}})
    assert report.missing == report.unexpected == ()
    tables = {m.resolution for m in encoder.modules() if isinstance(m, AttentionBias)}
    assert tables == {7, 14}
    for key, tensor in encoder.state_dict().items():
        name = official_key(f"encoder.{key}").removeprefix("backbone.").replace("biases_seg", "biases")
        assert torch.equal(tensor, state[name].to(tensor.dtype)), key


@torch.inference_mode()
def test_imagenet_tables_travel_with_copies_and_weights_files(tmp_path: Path) -> None:
    model = build("cgrseg_n", num_classes=2).eval()
    load_encoder(model.encoder, timm_donor("s0").state_dict())
    artifact.save(model, tmp_path / "a.safetensors")
    images = torch.randn(1, 3, 96, 160)
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    assert torch.equal(artifact.load(tmp_path / "a.safetensors")(images), expected)
    fresh = build("cgrseg_n", num_classes=2).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), expected)
    official = cgrseg.create_model("cgrseg_n", 2, weights=tmp_path / "a.safetensors", bias_mode="official").eval()
    attention = official.encoder.stages[2][-1].token_mixer.bias
    table = attention.table.view(8, 1, 7, 7)
    resampled = nn.functional.interpolate(table, (16, 16), mode="bilinear", align_corners=True)
    torch.testing.assert_close(attention((16, 16), (16, 16))[:, 0], resampled.flatten(1))
    assert official(images).isfinite().all()


def test_loading_other_tables_keeps_the_parameters_of_an_optimizer() -> None:
    encoder = build("cgrseg_n").encoder
    before = dict(encoder.named_parameters())
    load_encoder(encoder, timm_donor("s0").state_dict())
    assert all(parameter is before[name] for name, parameter in encoder.named_parameters())


def test_official_mode_starts_its_tables_as_the_release_does() -> None:
    encoder = build("cgrseg_n", bias_mode="official").encoder
    report = load_encoder(encoder, timm_donor("s0").state_dict())
    assert report.missing == report.unexpected == ()
    tables = [m.table for m in encoder.modules() if isinstance(m, AttentionBias)]
    assert len(tables) == 5 and not any(table.any() for table in tables)


def test_weights_of_another_size_or_network_change_nothing() -> None:
    encoder = build("cgrseg_n").encoder
    before = copy.deepcopy(encoder)
    with pytest.raises(ValueError, match="another variant"):
        load_encoder(encoder, timm_donor("s1").state_dict())
    with pytest.raises(ValueError, match=r"fills 0 of our \d+ tensors"):
        load_encoder(encoder, timm.create_model("test_resnet").state_dict())
    assert equal(encoder, before)
    with pytest.raises(ValueError, match=r"fills 0 of our \d+ tensors"):
        load_encoder(build("cgrseg_n", backbone="mscan_t").encoder, timm_donor("s0").state_dict())


def test_mscan_starts_from_a_file_with_its_own_names() -> None:
    donor = build("cgrseg_n", backbone="mscan_t").encoder
    encoder = build("cgrseg_n", backbone="mscan_t").encoder
    report = load_encoder(encoder, {**donor.state_dict(), "head.weight": torch.zeros(9, 9)})
    assert equal(encoder, donor) and report.missing == report.unexpected == ()


@pytest.mark.parametrize("prefixes", [["module."], ["_orig_mod.", "module."], ["model."]])
def test_what_wrappers_prepend_to_names_is_left_out(prefixes: list[str]) -> None:
    state = {"encoder.a": torch.zeros(1), "head.b": torch.zeros(1)}
    assert read_state({"model_state_dict": {"".join(prefixes) + key: value for key, value in state.items()}}) == state


# --- files -----------------------------------------------------------------------------------------------


class Trap:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    state = {"state_dict": {"a": torch.zeros(2)}, "meta": Trap(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    for read in (read_state, lambda p: load_official(build("cgrseg_n"), p), artifact.load):
        with pytest.raises(ValueError, match=r"refused|pickled PyTorch file; convert it first"):
            read(path)
    assert main(["convert", str(path), "--out", str(tmp_path / "x.safetensors")]) == 2
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(ValueError, match="refused"):
        read_state(tmp_path / "plain.pkl")
    assert not marker.exists() and not (tmp_path / "x.safetensors").exists()


def test_files_of_each_kind_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    state = {"a": torch.rand(3), "b": torch.rand(2, 2)}
    torch.save({"state_dict": state}, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "x.safetensors")
    for name in ("zip.pth", "old.pt", "x.safetensors"):
        read = read_state(tmp_path / name)
        assert all(torch.equal(read[key], tensor) for key, tensor in state.items()), name
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello world")
    for name, message in [
        ("list.pth", "holds no named tensors"),
        ("empty.pth", "is empty"),
        ("text.pth", "is damaged or not a checkpoint|is not a weights file"),
        ("", "is a folder"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            read_state(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        read_state(tmp_path / "absent.pth")


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, state = tmp_path_factory.mktemp("good"), {"a": torch.rand(3), "b": torch.rand(2, 2).half()}
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "x.safetensors")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_damaged_end_record_is_a_damaged_file(good_files: list[bytes], tmp_path: Path) -> None:
    content = bytearray(next(data for data in good_files if data.startswith(b"PK")))
    content[content.rindex(b"PK\x06\x07") + 4] ^= 1  # the number of the disk in the ZIP64 locator
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.pth is damaged .*multiple disks.*copy or download it again"):
        read_state(path)


@given(
    which=st.integers(0, 2),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4),
)
@settings(
    max_examples=1000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_checkpoints_never_raise_anything_but_a_value_error(
    good_files: list[bytes],
    tmp_path: Path,
    which: int,
    cut: float | None,
    flips: list[tuple[float, int]],
) -> None:
    content = bytearray(good_files[which])
    for place, mask in flips:
        content[int(place * (len(content) - 1))] ^= mask
    path = tmp_path / "damaged.pth"
    path.write_bytes(content if cut is None else content[: int(cut * len(content))])
    try:
        read_state(path)
    except ValueError as error:
        assert "\n" not in str(error)


# --- the verb ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, nano_state: dict[str, Tensor]) -> Path:
    path = tmp_path_factory.mktemp("released") / "nano.pth"
    torch.save({"state_dict": nano_state, "meta": {"epoch": 1}}, path)
    return path


def class_list(path: Path, count: int) -> Path:
    classes = [{"id": i, "name": f"thing {i}", "color": [i, 2 * i, 9]} for i in range(count)]
    path.write_text(json.dumps({"classes": classes, "ignore_index": 255}))
    return path


@torch.inference_mode()
def test_convert_writes_weights_that_give_the_checkpoints_numbers(
    checkpoint: Path, nano_state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, classes = tmp_path / "new" / "nano.safetensors", class_list(tmp_path / "classes.json", 4)
    assert main(["convert", str(checkpoint), "--out", str(out), "--classes", str(classes)]) == 0
    assert " loaded tensors" in capsys.readouterr().out
    converted, direct = cgrseg.load(out, device="cpu"), build("cgrseg_n", num_classes=4).eval()
    load_official(direct, nano_state)
    assert converted.spec == direct.spec and equal(converted, direct)
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(converted(images), direct(images))
    assert converted.labels.names == tuple(f"thing {i}" for i in range(4))
    assert (converted.preprocessing.short_side, converted.preprocessing.long_side) == (512, 2048)
    assert converted.preprocessing.pad_multiple == 32


@pytest.mark.parametrize("letter", ["T", "B"])
def test_convert_tells_the_variant_from_the_shapes(letter: str, tmp_path: Path) -> None:
    torch.save(released_state(letter), tmp_path / "released.pth")
    assert main(["convert", str(tmp_path / "released.pth"), "--out", str(tmp_path / "out.safetensors")]) == 0
    spec = artifact.describe(tmp_path / "out.safetensors").spec
    expected = build(f"cgrseg_{letter.lower()}", context_blocks={"T": 5, "B": 6}[letter]).spec
    assert spec == dataclasses.replace(expected, bias_mode="official")


def test_convert_refuses_with_one_line_and_writes_nothing(
    checkpoint: Path, nano_state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    partial = {key: t for key, t in nano_state.items() if not key.endswith("conv_mask.bias")}
    torch.save(partial, tmp_path / "partial.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    five = class_list(tmp_path / "five.json", 5)
    for arguments, message in [
        ([str(checkpoint), "--classes", str(five)], "five.json lists 5 classes, "),
        ([str(checkpoint), "--classes", str(tmp_path / "none.json")], "no class list at "),
        ([str(checkpoint), "--model", "cgrseg_t"], "backbone efficientformerv2_s0, the model efficientformerv2_s1"),
        ([str(checkpoint), "--model", "cgrseg_x"], "no model is called 'cgrseg_x'"),
        ([str(tmp_path / "other.pth")], "other.pth: not a released CGRSeg checkpoint: its first keys are fc.weight"),
        ([str(tmp_path / "partial.pth")], "lacks 1 tensors, first head.gate.conv_mask.bias"),
        ([str(tmp_path / "absent.pth")], "absent.pth: check the path"),
    ]:
        assert main(["convert", *arguments, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not out.exists()
    out.write_text("precious")
    assert main(["convert", str(checkpoint), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == "precious"
