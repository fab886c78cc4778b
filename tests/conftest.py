"""What all tests share: the folder of real data, small datasets, one thread per process, and the fast tier."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.data
from PIL import Image

# Converting weights to OpenVINO takes seconds; tests of the conversion remove this.
os.environ.setdefault("CGRSEG_RUNTIME", "torch")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# Files that `make test-fast` leaves out: they train, export, start servers or convert models.
SLOW_FILES = {
    *("test_cache", "test_cluster", "test_demo", "test_distributed", "test_export", "test_notebook", "test_page"),
    *("test_quantize", "test_recipes", "test_resume", "test_server", "test_speed", "test_study", "test_wheel"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def reset_the_handler_of_child_processes() -> Iterator[None]:
    """torch's DataLoader installs a SIGCHLD handler for the rest of the process.

    A child process of a later test would call it, which crashes if nncf has deleted OpenVINO cores in the order of
    their creation: see `openvino_core`.
    """
    yield
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        torch.utils.data._utils.signal_handling._SIGCHLD_handler_set = False  # installed again when needed


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data: `$CGRSEG_SHARED`, else `shared` beside the project's root."""
    folder = Path(os.environ.get("CGRSEG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set CGRSEG_SHARED to one")
    return folder


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A small dataset: see make_squares."""
    return make_squares(tmp_path)


def make_squares(folder: Path) -> Path:
    """A dataset of 80x64 photos: a bright square (class 1) on dark ground (class 0), one ignored row."""
    root, random = folder / "squares", np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((64, 80), np.uint8)
            y, x = random.integers(4, 30, 2)
            mask[y : y + 24, x : x + 24] = 1
            photo = np.where(mask[..., None] == 1, 220, 40) + random.integers(-20, 20, (64, 80, 3))
            mask[0] = 255
            Image.fromarray(photo.astype(np.uint8)).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    classes = [{"id": 0, "name": "ground", "color": [0, 0, 0]}, {"id": 1, "name": "square", "color": [255, 0, 0]}]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_index": 255}))
    return root
