"""`cgrseg doctor` tells what is there, what is broken and what to install."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from cgrseg.cli.main import main
from cgrseg.inference.segmenter import Segmenter
from cgrseg.measure import environment as machine

ROOT = Path(__file__).resolve().parents[1]


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for words in (
        "python ",
        f"torch             {torch.__version__.partition('+')[0]}",
        "cpu ",
        "self-test",
        "app ",
        "openvino bf16",
    ):
        assert words in text
    assert text.endswith("all is well\n")


def test_every_extra_for_users_has_its_line() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(machine.EXTRAS) == set(extras) - {"dev", "docs"}


def test_a_missing_part_comes_with_its_command_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    there = metadata.version
    monkeypatch.setattr(metadata, "requires", lambda name: ["av>=14.0; extra == 'video'", "tqdm; extra == 'mat'"])

    def version(name: str) -> str:
        if name in ("av", "openvino"):
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.name: finding for finding in [*machine.extras(), *machine.runtimes()]}
    assert found["video"].state == "without av (labelling videos)"
    assert found["video"].cure == 'pip install "cgrseg[video]"' and found["video"].works
    assert found["mat"].cure == "" and found["mat"].state.startswith("installed")
    assert found["openvino"].cure == 'pip install "cgrseg[openvino]"' and found["openvino"].works


def test_a_broken_runtime_is_broken_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: "1.0")

    def broken(name: str) -> object:
        raise ImportError("libruntime.so: cannot open")

    monkeypatch.setattr(machine, "import_module", broken)
    monkeypatch.setattr(machine, "self_test", lambda device: machine.Finding("self-test", "skipped here"))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "onnxruntime  1.0, broken (ImportError: libruntime.so: cannot open)" in text
    assert text.endswith("broken: onnxruntime, openvino\n")


def test_wrong_arithmetic_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def rough(self: Segmenter, model: object, **options: object) -> None:
        original(self, model, **options)  # type: ignore[arg-type]
        network = self.predictor.network
        if network.dtype == torch.float32:
            self.predictor.network = replace(network, run=network.run.bfloat16(), dtype=torch.bfloat16)

    original = Segmenter.__init__
    monkeypatch.setattr(Segmenter, "__init__", rough)
    found = machine.self_test("cpu")
    assert not found.works and "reduced precision" in found.cure


def test_an_unknown_device_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "gpu"]) == 2
    assert "device 'gpu' cannot be used" in capsys.readouterr().err
