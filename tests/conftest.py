"""What all tests share: the folder of real data, and modest use of the machine's cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data: `$CGRSEG_SHARED`, else `shared` beside the project's root."""
    folder = Path(os.environ.get("CGRSEG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set CGRSEG_SHARED to one")
    return folder
