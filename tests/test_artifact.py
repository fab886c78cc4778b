"""A weights file gives back the model that was saved, and a bad one says in one line what it is and what to do."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import cgrseg
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, build
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact
from cgrseg.weights import hub as hub_client
from cgrseg.weights import load as create
from cgrseg.weights.pretrained import load_imagenet

LABELS = LabelSpace(
    names=("sky", "Straße", "人"), colors=((1, 2, 3), (4, 5, 6), (7, 8, 9)), ignore_index=254, raw_ids={7: 0, 11: 2}
)
PREPROCESSING = Preprocessing(
    mean=(1.5, 2.0, 3.0), std=(4.0, 5.0, 6.0), short_side=384, long_side=None, pad_multiple=64
)
CARD = {"miou": 48.9, "data": "drawn", "class_iou": {"sky": 90.0}, "date": None}
TINY = {"backbone": "timm/test_efficientnet", "width": 8, "context_blocks": 1, "strip_kernel": 3}


def randomized(model: CGRSeg, seed: int = 0) -> CGRSeg:
    """Values under which every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(123456789012)
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(1 + 0.2 * noise.abs())
        else:
            tensor.copy_(noise / math.sqrt(tensor[0].numel()) if tensor.ndim == 4 else 0.2 * noise)
    return model.eval()


def equal(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    state = first.state_dict()
    return list(state) == list(theirs) and all(torch.equal(tensor, theirs[key]) for key, tensor in state.items())


@pytest.fixture(scope="module")
def nano() -> CGRSeg:
    return randomized(build("cgrseg_n", num_classes=3))


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    artifact.save(randomized(build("cgrseg_n", num_classes=3, **TINY)), path, labels=LABELS, card=CARD)
    return path


def edited(source: Path, target: Path, *, drop: str = "", tensors: Any = None, **changes: Any) -> Path:
    """The file again, with entries of its description changed, tensors replaced or one dropped."""
    with safe_open(source, framework="pt") as file:
        description = json.loads(file.metadata()[artifact.METADATA_KEY])
    for key, change in changes.items():
        description[key] = {**description[key], **change} if isinstance(change, dict) else change
    state = {key: tensor for key, tensor in load_file(source).items() if key != drop} | (tensors or {})
    save_file(state, target, metadata={artifact.METADATA_KEY: json.dumps(description)})
    return target


# --- round trips ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"bias_mode": "relative"},
        {"bias_mode": "official", "strip_kernel": 9, "context_blocks": 2},
        {"backbone": "mscan_t", "width": 64, "dropout": 0.3, "drop_path": 0.05},
        TINY,
        {"backbone": "timm/resnetblur18", "width": 8},  # its blur kernels are computed, not stored
    ],
    ids=["relative", "official", "mscan", "timm", "computed-buffers"],
)
@torch.inference_mode()
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    model = randomized(build("cgrseg_n", num_classes=3, **options))
    path = tmp_path / "new" / "a.safetensors"
    artifact.save(model, path, labels=LABELS, preprocessing=PREPROCESSING, card=CARD)
    loaded = artifact.load(path)
    assert (loaded.spec, loaded.labels, loaded.preprocessing, loaded.card) == (model.spec, LABELS, PREPROCESSING, CARD)
    assert not loaded.training and equal(loaded, model)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(1, 3, 64, 72)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(copy.deepcopy(loaded)(images), model(images))


def test_half_precision_halves_the_file_and_hardly_moves_the_logits(nano: CGRSeg, tmp_path: Path) -> None:
    artifact.save(nano, tmp_path / "full.safetensors")
    artifact.save(nano, tmp_path / "half.safetensors", half=True)
    sizes = {name: (tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")}
    assert sizes["half"] < 0.54 * sizes["full"]
    loaded = artifact.load(tmp_path / "half.safetensors")
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        logits, expected = loaded(images), nano(images)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert 0 < (logits - expected).abs().max() < 0.02 * (expected.max() - expected.min())
    state = loaded.state_dict()
    for key, tensor in nano.state_dict().items():  # what is one number a channel is not rounded
        assert torch.equal(state[key], tensor) == (tensor.squeeze().ndim < 2), key
    again = tmp_path / "again.safetensors"
    artifact.save(loaded, again, half=True)
    assert equal(artifact.load(again), loaded)  # rounding twice is rounding once


def test_half_precision_keeps_what_it_would_distort(nano: CGRSeg, tmp_path: Path) -> None:
    model = copy.deepcopy(nano)
    model.encoder.stem[1].running_var.fill_(1e8)  # past float16's range
    model.encoder.stem[4].running_var.fill_(1e-9)
    model.head.gate.channel_mul_conv[0].weight.data.fill_(1e6)
    model.context.blocks[0].mlp.fc1.weight.data.mul_(1e-9)  # below its smallest number
    model.context.blocks[0].gamma.data.fill_(1.1e-6)
    artifact.save(model, tmp_path / "a.safetensors", half=True)
    loaded = artifact.load(tmp_path / "a.safetensors").state_dict()
    state = model.state_dict()
    for key in (
        *("encoder.stem.1.running_var", "encoder.stem.4.running_var", "head.gate.channel_mul_conv.0.weight"),
        *("context.blocks.0.mlp.fc1.weight", "context.blocks.0.gamma", "encoder.stem.1.num_batches_tracked"),
    ):
        assert torch.equal(loaded[key], state[key]), key


class Wrapper(nn.Module):
    """As DistributedDataParallel and Fabric wrap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_mode_type_layout_and_wrappers_make_no_difference_to_the_file(tmp_path: Path) -> None:
    model = randomized(build("cgrseg_n", num_classes=3, **TINY))
    artifact.save(model, tmp_path / "plain.safetensors")
    expected = (tmp_path / "plain.safetensors").read_bytes()
    with_grad = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    variants: list[nn.Module] = [model, with_grad, copy.deepcopy(model).double(), Wrapper(Wrapper(model))]
    variants.append(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    variants.append(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)))
    for number, variant in enumerate(variants):
        mode = variant.training
        artifact.save(variant, tmp_path / "variant.safetensors")
        assert (tmp_path / "variant.safetensors").read_bytes() == expected, number
        assert variant.training == mode


def test_what_a_model_carries_is_saved_unless_something_else_is_given(nano: CGRSeg, tmp_path: Path) -> None:
    model, path = copy.deepcopy(nano), tmp_path / "a.safetensors"
    artifact.save(model, path)
    plain = artifact.describe(path)
    assert (plain.labels, plain.preprocessing, plain.card) == (LabelSpace.numbered(3), Preprocessing(), {})
    model.describe(labels=LABELS, preprocessing=PREPROCESSING, card=CARD)
    artifact.save(model, path)
    assert artifact.describe(path) == artifact.Description(model.spec, LABELS, PREPROCESSING, CARD)
    artifact.save(model, path, labels=LabelSpace.numbered(3), card={})
    assert (artifact.describe(path).labels, artifact.describe(path).card) == (LabelSpace.numbered(3), {})


def test_a_weights_file_is_as_readable_as_any_other_file(tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert tiny_file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_class_list_of_another_length_or_a_foreign_model_is_not_saved(nano: CGRSeg, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("precious")
    with pytest.raises(ValueError, match="class list has 4 classes, the model 3"):
        artifact.save(nano, path, labels=LabelSpace.numbered(4))
    with pytest.raises(ValueError, match="a Linear cannot be saved"):
        artifact.save(nn.Linear(2, 2), path)
    with pytest.raises(TypeError, match="JSON"):
        artifact.save(nano, path, card={"when": object()})
    assert path.read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_loading_leaves_the_random_state_and_the_file_alone(tiny_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(tiny_file.read_bytes())
    before = torch.get_rng_state()
    model = artifact.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    path.write_bytes(bytes(path.stat().st_size))  # in place: a model that still maps the file would change
    assert equal(model, artifact.load(tiny_file))


@torch.inference_mode()
def test_no_order_of_loading_moving_copying_and_switching_leaves_anything_stale(tmp_path: Path, nano: CGRSeg) -> None:
    other = randomized(build("cgrseg_n", num_classes=3), seed=1)
    artifact.save(nano, tmp_path / "a.safetensors")
    artifact.save(other, tmp_path / "b.safetensors")
    second = artifact.load(tmp_path / "b.safetensors").state_dict()
    images = [torch.randn(1, 3, 32, 48), torch.randn(1, 3, 40, 32)]
    expected = [other(image) for image in images]
    steps = {
        "load": lambda model: model.load_state_dict(second) and model,
        "to": lambda model: model.double().float(),
        "copy": copy.deepcopy,
        "switch": lambda model: model.train().eval(),
    }
    for order in list(itertools.permutations(steps))[::3]:
        model = artifact.load(tmp_path / "a.safetensors")
        for step in order:
            model(images[0])  # fill whatever a cache might hold
            model = steps[step](model) or model
        for image, logits in zip(images, expected, strict=True):
            assert torch.equal(model(image), logits), order


# --- bad files ---------------------------------------------------------------------------------------------------


def complaint(path: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        artifact.load(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message
    return message


def test_a_file_that_is_no_weights_file_says_what_it_is_and_what_to_do(tiny_file: Path, tmp_path: Path) -> None:
    content, path = tiny_file.read_bytes(), tmp_path / "a.safetensors"
    assert "no weights file at" in complaint(path)
    assert "is a folder" in complaint(tmp_path)
    for content_, message in [
        (b"", "is empty (0 bytes): copy or download it again"),
        (content[:-1000], "is damaged or incomplete"),
        (content[:500], "is damaged or incomplete"),
        (content[:5], "is not a weights file"),
        (b"hello world, I am a text", "is not a weights file: give a .safetensors file"),
        (bytes(1000), "is not a weights file"),
        (content + b"more", "is damaged or incomplete"),
    ]:
        path.write_bytes(content_)
        assert message in complaint(path)
    for zipped in (True, False):
        torch.save({"a": torch.zeros(3)}, path.with_suffix(".pth"), _use_new_zipfile_serialization=zipped)
        message = complaint(path.with_suffix(".pth"))
        assert (
            f"is a pickled PyTorch file; convert it first: cgrseg convert {path.with_suffix('.pth')} --out" in message
        )
    save_file(timm.create_model("test_resnet").state_dict(), path, metadata={"format": "pt"})
    assert "belongs to another project" in complaint(path)
    save_file({"a": torch.zeros(2)}, path)
    assert "belongs to another project" in complaint(path)


KEY = "head.classifier.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "a newer cgrseg wrote it (format 2, this one reads 1): upgrade"),
        ({"format": "1"}, "its format is '1'"),
        ({"spec": {"heads": 4}}, "does not know the model option 'heads': upgrade"),
        ({"spec": {"width": "8"}}, "its model option width is '8'"),
        ({"spec": {"width": True}}, "its model option width is True"),
        ({"spec": {"width": 0}}, "width is 0: it must be from 1"),
        ({"spec": {"width": 10**30}}, "it must be from 1 to"),
        (
            {"spec": {"width": 16}},
            "reconstruction.lateral.0.weight has shape (32, 8, 1, 1), the model needs (32, 16, 1, 1)",
        ),
        ({"spec": {"context_blocks": 10**4}}, "too few for 10000 context blocks"),
        ({"spec": {"context_blocks": 2}}, "lacks 21 of 241 tensors, first context.blocks.1.gamma"),
        ({"spec": {"backbone": "timm/hf-hub:someone/something"}}, "timm has no model"),
        ({"spec": {"backbone": "resnet"}}, "no backbone is called 'resnet'"),
        ({"spec": {"bias_mode": "absolute"}}, "use relative or official"),
        ({"spec": []}, "its spec is"),
        ({"labels": LabelSpace.numbered(4).to_dict()}, "class list has 4 classes, the model 3"),
        ({"labels": {"colors": [[1, 2]]}}, "a.safetensors: "),
        ({"labels": None}, "a.safetensors: "),
        ({"preprocessing": {"mean": None}}, "a.safetensors: "),
        ({"preprocessing": {"zoom": 3}}, "zoom"),
        ({"card": 5}, "a.safetensors: "),
        ({"drop": KEY}, "lacks 1 of 220 tensors, first head.classifier.weight"),
        ({"tensors": {"more": torch.zeros(2)}}, "has 1 unknown tensors, first more"),
        ({"tensors": {KEY: torch.zeros(3, 9, 1, 1)}}, f"{KEY} has shape (3, 9, 1, 1), the model needs (3, 8, 1, 1)"),
        ({"tensors": {KEY: torch.zeros(3, 8, 1, 1, dtype=torch.int8)}}, f"{KEY} has type I8"),
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused_in_one_line(
    tiny_file: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in complaint(edited(tiny_file, tmp_path / "a.safetensors", **changes))


def test_a_description_that_is_no_json_is_refused(tmp_path: Path) -> None:
    for text in ("", "{", "[]", "null", '{"format": 1}', "[" * 100_000, "1e999"):
        save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={artifact.METADATA_KEY: text})
        complaint(tmp_path / "a.safetensors")


@given(
    cut=st.one_of(st.none(), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
    header=st.booleans(),
)
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_file_never_raises_anything_but_a_value_error(
    tiny_file: Path, tmp_path: Path, cut: float | None, flips: list[tuple[float, int]], header: bool
) -> None:
    content = bytearray(tiny_file.read_bytes())
    start = int.from_bytes(content[:8], "little")
    description = content.index(b"}}") if header else len(content)
    for place, mask in flips:
        content[int(place * min(start, description, len(content) - 1))] ^= mask
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content if cut is None else content[: int(cut * (len(content) - 1))])
    try:
        artifact.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert cut is None


# --- models by name ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_weights_saved_in_one_bias_mode_load_in_the_other(nano: CGRSeg, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    artifact.save(nano, path, labels=LABELS)
    images = torch.randn(1, 3, 64, 160)
    official = cgrseg.create_model("cgrseg_n", 3, weights=path, bias_mode="official")
    assert official.training and official.labels == LABELS and official.spec.bias_mode == "official"
    assert equal(official, nano) and not torch.equal(official.eval()(images), nano(images))
    artifact.save(official, path)
    assert artifact.load(path).spec.bias_mode == "official"
    assert cgrseg.create_model("cgrseg_n", 3, weights=path).spec.bias_mode == "official"
    back = cgrseg.create_model("cgrseg_n", 3, weights=str(path), bias_mode="relative").eval()
    assert torch.equal(back(images), nano(images))


def test_create_model_says_how_to_ask_for_what_the_file_holds(tiny_file: Path) -> None:
    for arguments, options, message in [
        (("cgrseg_t", 3), {}, "holds a cgrseg_n, not a cgrseg_t"),
        (("cgrseg_n", 3), {"width": 16}, "is it another variant?"),
        (("cgrseg_m", 3), {}, "no model is called 'cgrseg_m'"),
        (("cgrseg_n", 3), {"wdith": 16}, "did you mean 'width'"),
    ]:
        with pytest.raises(ValueError) as raised:
            cgrseg.create_model(*arguments, weights=tiny_file, **options)
        assert message in str(raised.value)
    model = cgrseg.create_model("cgrseg_n", weights=tiny_file, dropout=0.4)
    assert model.head.dropout.p == 0.4 and model.spec.width == 8 and model.spec.num_classes == 3


def test_create_model_keeps_everything_but_a_classifier_of_another_size(
    tiny_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = cgrseg.create_model("cgrseg_n", num_classes=5, weights=tiny_file)
    donor = cgrseg.load(tiny_file, device="cpu").state_dict()
    different = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, donor[key])]
    assert set(different) <= {"head.classifier.weight", "head.classifier.bias"}
    assert (
        model.spec.num_classes == 5
        and len(model.labels) == 5
        and model.preprocessing == cgrseg.load(tiny_file).preprocessing
    )
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "the classifier starts fresh: 3 -> 5 classes"
    ]


def test_the_names_of_all_models_are_listed() -> None:
    assert cgrseg.list_models() == [
        "cgrseg_t",
        "cgrseg_b",
        "cgrseg_l",
        "cgrseg_n",
        "cgrseg_lite",
        "segnext_t",
        "segnext_s",
        "segnext_b",
    ]


def test_load_finds_files_and_bundled_names_and_guesses_what_was_meant(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundled"
    folder.mkdir()
    (folder / "street-v1.safetensors").write_bytes(tiny_file.read_bytes())
    (folder / "street-v1.md").write_text("card")
    monkeypatch.setattr(create.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street-v1").mkdir()  # a folder of that name does not hide the bundled weights
    (tmp_path / "plain").write_bytes(tiny_file.read_bytes())
    assert create.list_weights() == ["street-v1"]
    for source in ("street-v1", "plain", tiny_file, str(tiny_file)):
        model = cgrseg.load(source, device="cpu")
        assert not model.training and model.card == CARD and model.labels == LABELS
    with pytest.raises(ValueError, match=r"no weights are called 'street-v2', .* did you mean 'street-v1'"):
        cgrseg.load("street-v2")
    with pytest.raises(ValueError, match="choose from street-v1"):
        cgrseg.load("zzz")
    for absent in ("zzz.safetensors", "runs/zzz"):
        with pytest.raises(FileNotFoundError, match=f"no weights file at {absent}"):
            cgrseg.load(absent)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
            cgrseg.load("street-v1", device=device)


def test_every_bundled_name_loads_and_has_its_card() -> None:
    for name in create.list_weights():
        model = cgrseg.load(name, device="cpu")
        assert len(model.labels) == model.spec.num_classes and model.card
        assert (Path(create.__file__).parent / "bundled" / f"{name}.md").is_file()


# --- the hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that hands out what lies in this folder as USER--NAME.safetensors."""

    def download(repository: str, filename: str) -> str:
        path = tmp_path / f"{repository.replace('/', '--')}.safetensors"
        assert filename == "model.safetensors"
        if not path.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("no such entry\nand more")
        return str(path)

    monkeypatch.setattr(hub_client, "hf_hub_download", download)
    monkeypatch.setattr(hub_client, "_check_online", lambda: None)
    return tmp_path


def test_weights_come_from_the_hub(hub: Path, tiny_file: Path) -> None:
    (hub / "someone--street.safetensors").write_bytes(tiny_file.read_bytes())
    assert cgrseg.load("hf:someone/street", device="cpu").labels == LABELS
    assert cgrseg.create_model("cgrseg_n", 3, weights="hf:someone/street").card == CARD
    with pytest.raises(OSError, match=r"^model.safetensors of someone/else cannot be downloaded .*\(no such entry\)"):
        cgrseg.load("hf:someone/else")


def test_imagenet_weights_fill_the_encoder(hub: Path) -> None:
    donor = timm.create_model("efficientformerv2_s0").eval()
    save_file(donor.state_dict(), hub / "timm--efficientformerv2_s0.snap_dist_in1k.safetensors")
    model = cgrseg.create_model("cgrseg_n", num_classes=2, weights="imagenet").eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        maps, expected = model.encoder(images), donor.forward_intermediates(images, intermediates_only=True)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    report = load_imagenet(model)
    ours = {f"encoder.{key}" for key in model.encoder.state_dict()}
    assert set(report.loaded) | set(report.missing) == ours and not set(report.loaded) & set(report.missing)
    state = donor.state_dict()
    dropped = "stages.0.blocks.0.mlp.fc1.conv.bias"
    del state[dropped]
    save_file(state, hub / "timm--efficientformerv2_s0.snap_dist_in1k.safetensors")
    (missing,) = set(load_imagenet(model).missing) - set(report.missing)  # only what the file contains counts as loaded
    assert missing.startswith("encoder.stages.0")
    with pytest.raises(ValueError, match="no ImageNet weights for mscan_t"):
        cgrseg.create_model("cgrseg_n", weights="imagenet", backbone="mscan_t")


def test_imagenet_weights_of_a_timm_encoder_come_through_timm(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    made = []

    def pretend(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        assert pretrained
        made.append(real(name, pretrained=False, **options))
        return made[-1]

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: (pretend if o.get("pretrained") else real)(name, **o))
    model = cgrseg.create_model("cgrseg_n", weights="imagenet", **TINY)
    assert len(made) == 1 and equal(model.encoder.features, made[0])
    with pytest.raises(ValueError, match="timm has no ImageNet weights for resnetblur18"):
        cgrseg.create_model("cgrseg_n", weights="imagenet", backbone="timm/resnetblur18")


@pytest.mark.parametrize("backbone", ["efficientformerv2_s0", "timm/test_efficientnet"])
def test_without_a_network_one_clear_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub_client.socket, "create_connection", refuse)
    monkeypatch.setattr(hub_client, "getproxies", dict)
    monkeypatch.setattr(hub_client, "try_to_load_from_cache", lambda *arguments: None)
    with pytest.raises(
        OSError, match=r"cannot be downloaded from the Hugging Face hub .*Name or service not known.*online"
    ):
        cgrseg.create_model("cgrseg_n", weights="imagenet", backbone=backbone)


def test_the_hubs_own_offline_switch_gives_the_same_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for make in (
        lambda: cgrseg.create_model("cgrseg_n", weights="imagenet"),
        lambda: cgrseg.load("hf:someone/nothing"),
    ):
        with pytest.raises(OSError, match="cannot be downloaded from the Hugging Face hub") as raised:
            make()
        assert "\n" not in str(raised.value)
