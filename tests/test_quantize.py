"""Int8 files label as the model does, say as much about themselves, and appear only where they are good."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.deploy import quantize as quantizing
from cgrseg.deploy import quantizers
from cgrseg.deploy.export import write_program
from cgrseg.deploy.quantize import find_photos, quantize
from cgrseg.deploy.quantizers import Images, groups_of, quantize_openvino
from cgrseg.deploy.verify import smooth_photos
from cgrseg.inference import network as networks
from cgrseg.inference.network import Network, find_exported
from cgrseg.inference.predictor import Predictor
from cgrseg.inference.runtimes import openvino_core
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.trace import metadata, trace
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, build
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact
from cgrseg.weights.load import load

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

NAMES = ("sky", "road", "tree", "car", "person")
FILES = ("street.int8.onnx", "street.int8.xml")
PARTS = [*(f"encoder stage {stage}" for stage in (1, 2, 3, 4)), "context", "reconstruction", "head"]

MAY_CHANGE = 0.02  # labels of random weights change more easily than those of trained ones


@pytest.fixture(scope="session")
def model() -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=5, context_blocks=1).eval()
    with torch.no_grad():
        model.head.classifier.weight.normal_()
    model.describe(labels=LabelSpace(names=NAMES, colors=tuple((i, i, 9) for i in range(5))))
    model.describe(preprocessing=Preprocessing(short_side=64, long_side=None))
    model.describe(card={"miou": 0.5})
    return model


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset's folder with ten training photos of two sizes."""
    root = tmp_path_factory.mktemp("photos")
    folder = root / "images" / "train"
    folder.mkdir(parents=True)
    for index in range(10):
        pixels = np.roll(smooth_photos(1, (64, 96) if index % 2 else (96, 64))[0], 7 * index, axis=(0, 1))
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def weights(model: CGRSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "street.safetensors"
    artifact.save(model, path)
    return path


@pytest.fixture(scope="session")
def program(model: CGRSeg) -> Any:
    return trace(fuse(model), preprocessing=model.preprocessing)


@pytest.fixture(scope="session")
def folder(model: CGRSeg, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        take_one_part(patch)
        quantize(model, find_photos(photos), folder, name="street")
    return folder


def take_one_part(patch: pytest.MonkeyPatch) -> None:
    """One trial, for time's sake, and nothing stays in float."""
    patch.setattr(quantizing, "groups_of", lambda program: ["all"] * len(groups_of(program)))
    patch.setattr(quantizing, "MAY_CHANGE", 1.0)


def test_the_files_appear_with_a_report_and_nothing_else(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*FILES, "street.int8.bin", *(f"{name}.json" for name in FILES)}
    for name in FILES:
        report = json.loads((folder / f"{name}.json").read_text())
        assert report["path"] == name and report["photos"] == [8, 2]
        assert list(report["alone"]) == ["all"] and report["kept_float"] == []
        assert all(0 < effect["error"] < 0.5 for effect in report["alone"].values())
        assert report["total"]["changed"] < 1 - report["must_keep"]


@pytest.mark.parametrize("name", FILES)
def test_an_int8_file_labels_as_the_model_at_odd_sizes_and_in_batches(folder: Path, model: CGRSeg, name: str) -> None:
    segmenter, reference = Segmenter(folder / name, threads=1), Segmenter(model)
    assert segmenter.labels == reference.labels and segmenter.preprocessing == reference.preprocessing
    assert segmenter.description == model.description
    pictures = [smooth_photos(1, size)[0] for size in ((80, 100), (100, 80), (80, 100))]
    for ours, theirs in zip(segmenter(pictures), reference(pictures), strict=True):
        assert ours.labels.shape == theirs.labels.shape and ours.names == NAMES
        assert np.mean(ours.labels != theirs.labels) < 0.1
    image = torch.randn(1, 3, 65, 47)
    with torch.inference_mode():
        found, expected = segmenter.predictor.network(image), fuse(model)(image)
    assert found.shape == expected.shape
    assert 0 < float((found - expected).std() / expected.std()) < 0.3  # 0 would be float


def test_openvino_runs_the_attention_of_trained_weights_in_int8(tmp_path: Path) -> None:
    """Where talking heads have biases, its low-precision passes got one way of writing them wrong: 0.17, not 0.05."""
    model = load(Path(__file__).resolve().parents[1] / "zoo" / "cgrseg_t-ccp12.safetensors").eval()
    picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        picture.crop((100 * index, 100, 100 * index + 320, 400)).save(path)
    how = Preprocessing(short_side=160, long_side=None)
    model.describe(preprocessing=how)
    network = fuse(model)
    float_file, int8_file = tmp_path / "a.xml", tmp_path / "b.xml"
    text = metadata(model.description)
    write_program("openvino", trace(network, preprocessing=how), float_file, text)
    quantize_openvino(float_file, int8_file, Images(paths, how), [], text)
    reference = Predictor(Network.of(network))
    prepared = [reference.prepare(path) for path in paths]
    answers = [(item, reference.predict([item])[0]) for item in prepared]
    assert 0.01 < quantizing._effect(int8_file, answers).error < 0.1


@pytest.mark.parametrize("name", FILES)
def test_convolutions_of_an_int8_file_have_int8_weights(folder: Path, weights: Path, name: str) -> None:
    path = (folder / name).with_suffix(".bin" if name.endswith(".xml") else ".onnx")
    assert path.stat().st_size < 0.6 * weights.stat().st_size


def test_relu6_becomes_a_part_of_an_int8_convolution_in_onnx(tmp_path: Path, photos: Path) -> None:
    onnx = pytest.importorskip("onnx")
    arrays = {"w": np.ones((4, 3, 3, 3)), "v": np.ones((2, 4, 1, 1)), "low": np.array(0), "high": np.array(6)}
    constants = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], name="first"),
        onnx.helper.make_node("Clip", ["a", "low", "high"], ["b"], name="clip"),
        onnx.helper.make_node("Conv", ["b", "v"], ["c"], name="second"),
    ]
    ends = (("images", ["n", 3, "h", "w"]), ("c", ["n", 2, "y", "x"]))
    inputs, outputs = ([onnx.helper.make_tensor_value_info(name, 1, shape)] for name, shape in ends)
    graph = onnx.helper.make_graph(nodes, "relu6", inputs, outputs, constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), tmp_path / "float.onnx")
    images = Images(find_photos(photos)[:2], Preprocessing(short_side=64, long_side=None))
    quantizers.quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", images, [], "text")
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("Conv") == 2 and "Clip" not in kinds


def test_openvino_has_a_hard_swish_for_each_gelu_but_those_of_float_convolutions(
    model: CGRSeg, program: Any, tmp_path: Path
) -> None:
    write_program("openvino", program, tmp_path / "a.xml", "")
    graph = openvino_core().read_model(tmp_path / "a.xml")
    gelus = operations(graph, "Gelu")
    one = next(port.get_node() for port in gelus[0].output(0).get_target_inputs())  # the convolution after it
    quantizers._harden(graph, [one.get_friendly_name()])
    assert operations(graph, "Gelu") == gelus[:1]
    assert len(operations(graph, "HSwish")) == len(gelus) - 1 > 20
    images = torch.randn(1, 3, 64, 96)
    found = torch.tensor(openvino_core().compile_model(graph, "CPU")([images.numpy()])[0])
    with torch.inference_mode():
        expected = fuse(model)(images)
    assert 0 < float((found - expected).std() / expected.std()) < 0.1  # 0 would be GELU


def test_products_by_numbers_that_no_photo_changes_stay_in_float(folder: Path) -> None:
    graph = openvino_core().read_model(folder / "street.int8.xml")
    names = quantizers._by_constants(graph)
    assert len(names) == 5 * 2 + 3 * 2 + 2, (
        "two for each attention bias and for each pooled scale, two of the embedding"
    )
    assert len(names) < len(operations(graph, "MatMul"))
    for product in operations(graph, "MatMul"):
        if product.get_friendly_name() in names:
            sources = [port.get_source_output().get_node().get_type_name() for port in product.inputs()]
            assert "FakeQuantize" not in sources


def test_a_folder_of_int8_files_is_none_of_float_ones(folder: Path) -> None:
    assert find_exported(folder) is None  # int8 is never taken unasked


def test_every_convolution_belongs_to_a_part(model: CGRSeg, program: Any) -> None:
    groups = groups_of(program)
    assert list(dict.fromkeys(groups)) == PARTS
    convolutions = [m for m in fuse(model).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(groups) >= len(convolutions) > 50


def test_the_parts_of_other_encoders_have_names_too() -> None:
    model = build("cgrseg_n", num_classes=2, context_blocks=1, backbone="mscan_t").eval()
    assert set(groups_of(trace(fuse(model), preprocessing=Preprocessing()))) == {
        "encoder",
        "context",
        "reconstruction",
        "head",
    }


def test_val_scores_an_int8_file_nearly_as_the_float_one(
    folder: Path, weights: Path, model: CGRSeg, photos: Path, tmp_path: Path
) -> None:
    """The truth is what the model says, but for a row of one class in each photo."""
    truth = photos / "masks" / "train"
    truth.mkdir(parents=True)
    for path, said in zip(find_photos(photos), Segmenter(model)(find_photos(photos)), strict=True):
        said.labels[:8] = 0
        Image.fromarray(said.labels).save(truth / f"{path.stem}.png")
    classes = [{"id": index, "name": name, "color": [index, index, 9]} for index, name in enumerate(NAMES)]
    (photos / "classes.json").write_text(json.dumps({"classes": classes}))

    def miou(path: Path) -> float:
        flags = ["--data", str(photos), "--split", "train", "--out", str(tmp_path / path.name)]
        assert main(["val", "--weights", str(path), *flags]) == 0
        score: float = json.loads((tmp_path / path.name / "scores.json").read_text())["miou"]
        return score

    expected = miou(weights)
    assert 0.5 < expected < 1
    for name in FILES:
        assert 0 < abs(miou(folder / name) - expected) < 0.1  # 0 would be float


@pytest.mark.slow
def test_a_part_that_int8_ruins_stays_in_float(
    model: CGRSeg, program: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel is a thousand times the others, for nothing: its range leaves them a single number."""
    wild = copy.deepcopy(model)
    block: Any = wild.reconstruction.calibrate[0]
    with torch.no_grad():
        block.gamma.fill_(1)
        block.mlp.fc2.weight.mul_(10)
        block.mlp.fc1.weight[0] *= 1000
        block.mlp.fc1.bias[0] = 1000
        block.mlp.fc2.weight[:, 0] = 0
    groups = ["reconstruction" if group == "reconstruction" else "rest" for group in groups_of(program)]
    monkeypatch.setattr(quantizing, "groups_of", lambda program: groups)
    monkeypatch.setattr(quantizing, "MAY_CHANGE", MAY_CHANGE)
    results = quantize(wild, find_photos(photos), tmp_path, name="street")
    for result, name in zip(results, FILES, strict=True):
        assert result.kept_float == ("reconstruction",)
        assert json.loads((tmp_path / f"{name}.json").read_text())["kept_float"] == ["reconstruction"]
        assert count_int8(tmp_path / name) == groups.count("rest")
        photo = find_photos(photos)[0]
        assert np.mean(Segmenter(tmp_path / name)(photo).labels != Segmenter(wild)(photo).labels) < MAY_CHANGE
        assert result.alone["reconstruction"].changed > 5 * MAY_CHANGE


def operations(graph: Any, kind: str) -> list[Any]:
    """Operations of a kind in an OpenVINO graph, in its order."""
    return [operation for operation in graph.get_ordered_ops() if operation.get_type_name() == kind]


def count_int8(path: Path) -> int:
    """How many convolutions have int8 weights."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        kinds = {output: node.op_type for node in graph.node for output in node.output}
        return sum(node.op_type == "Conv" and kinds.get(node.input[1]) == "DequantizeLinear" for node in graph.node)
    import openvino

    count = 0
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            weights = node.input_value(1).get_node()
            while weights.get_type_name() != "Constant":
                weights = weights.input_value(0).get_node()
            count += weights.get_element_type() == openvino.Type.i8
    return count


def test_a_bad_file_is_not_written(
    folder: Path, model: CGRSeg, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantiser hands over a file that is there; more is asked of it than any file can give."""
    (tmp_path / "street.int8.onnx").write_text("what was there before")
    monkeypatch.setattr(quantizing, "MUST_KEEP", 1.1)
    monkeypatch.setattr(quantizing, "MAY_CHANGE", 1.0)
    monkeypatch.setattr(quantizing, "trace", lambda *_, **__: None)
    monkeypatch.setattr(quantizing, "groups_of", lambda program: ["all"])
    monkeypatch.setattr(quantizing, "write_program", lambda *_: None)
    copied = {"onnx": lambda source, target, *_: target.write_bytes((folder / "street.int8.onnx").read_bytes())}
    monkeypatch.setattr(quantizing, "QUANTIZERS", copied)
    with pytest.raises(ValueError, match=r"street\.int8\.onnx keeps the label of \d.* nothing was written"):
        quantize(model, find_photos(photos), tmp_path, name="street", formats=["onnx"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_what_cannot_be_quantised_is_refused_in_one_line(
    model: CGRSeg, weights: Path, photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, none = tmp_path / "few", tmp_path / "none"
    few.mkdir(), none.mkdir()
    for index in range(7):
        Image.new("RGB", (64, 64)).save(few / f"{index}.png")
    artifact.save(build("cgrseg_n", num_classes=2, bias_mode="official"), tmp_path / "official.safetensors")

    def refused(*flags: str, weights: Path = weights) -> str:
        assert main(["export", "--weights", str(weights), "--out", str(tmp_path / "out"), *flags]) == 2
        error: str = capsys.readouterr().err
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        return error

    here = ("--int8", "--data", str(photos))
    assert "add --data FOLDER" in refused("--int8")
    assert "add --int8" in refused("--data", str(photos))
    assert "leave out --format torch" in refused(*here, "--format", "torch")
    assert "leave out --io image" in refused(*here, "--io", "image")
    assert "leave out --size 64x96" in refused(*here, "--size", "64x96")
    assert "few has 7 images" in refused("--int8", "--data", str(few))
    assert "none has no images" in refused("--int8", "--data", str(none))
    assert "no folder" in refused("--int8", "--data", str(tmp_path / "gone"))
    assert 'bias mode "official"' in refused(*here, weights=tmp_path / "official.safetensors")
    monkeypatch.setattr(quantizing, "installed", lambda name: name != "nncf")
    assert 'nncf is not installed: pip install "cgrseg[openvino]"' in refused(*here, "--format", "openvino")
    monkeypatch.setattr(networks, "installed", lambda name: name != "onnx")
    assert 'pip install "cgrseg[onnx]"' in refused(*here, "--format", "onnx")
