"""The examples with loops of one's own train weights that every command takes, and torch.hub finds the models."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import cgrseg

ROOT = Path(__file__).resolve().parents[1]


def test_the_plain_loop_trains_weights_that_every_command_takes(squares: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    train = runpy.run_path(str(ROOT / "examples" / "plain_loop.py"))["train"]
    first = train(str(squares), str(tmp_path / "a.safetensors"), steps=1, batch=2, crop=64, workers=0)
    torch.manual_seed(0)
    last = train(str(squares), str(tmp_path / "b.safetensors"), steps=12, batch=2, crop=64, workers=0)
    assert last < first
    segmentation = cgrseg.Segmenter(tmp_path / "b.safetensors")(squares / "images" / "test" / "0.png")
    assert segmentation.names == ("ground", "square") and segmentation.labels.shape == (64, 80)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.skipif(find_spec("lightning") is None, reason="needs lightning, which is no dependency of this project")
def test_the_lightning_module_trains_weights_that_every_command_takes(squares: Path, tmp_path: Path) -> None:
    train = runpy.run_path(str(ROOT / "examples" / "lightning_module.py"))["train"]
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    out = tmp_path / "own.safetensors"
    train(str(squares), str(out), steps=2, batch=2, crop=64, default_root_dir=tmp_path, **options)
    assert cgrseg.load(out).labels.names == ("ground", "square")


def test_torch_hub_loads_the_models_of_a_clone_without_an_installation() -> None:
    code = f"""
import sys
from pathlib import Path
sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "cgrseg").is_dir()]
import torch
model = torch.hub.load({str(ROOT)!r}, "create_model", "cgrseg_n", num_classes=3, source="local").eval()
assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 8, 8)
segmenter = torch.hub.load({str(ROOT)!r}, "segmenter", "cgrseg_lite-voc21", source="local")
assert len(segmenter.labels) == 21
assert torch.hub.load({str(ROOT)!r}, "load", "cgrseg_lite-voc21", source="local").labels == segmenter.labels
import cgrseg
assert Path(cgrseg.__file__).is_relative_to({str(ROOT)!r})
assert sys.path.count({str(ROOT / "src")!r}) == 0
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
