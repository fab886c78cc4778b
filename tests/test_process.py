"""Memory that is kept comes without new pages; commands keep it, and those that serve share the cores."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import pytest

from cgrseg import _process
from cgrseg._process import fast_imports
from cgrseg.cli.main import main

FAULTS = """
import resource, sys
import numpy as np
from cgrseg._process import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory() and "torch" not in sys.modules
size = 1 << 26
np.ones(size, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(size, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_kept_needs_no_new_pages() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("keep", "leave")
    }
    assert faults["keep"] < 100 < faults["leave"]


def test_commands_keep_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(_process, "keep_memory", lambda: calls.append(1))
    assert main(["info", "cgrseg_n"]) == 0 and calls == [1]


@pytest.mark.parametrize("words", [["app", "--weights"], ["benchmark"], ["serve", "--weights"]])
def test_what_answers_photo_by_photo_shares_the_cores(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert main([*words, "gone"]) == 2
    assert os.environ["GOMP_SPINCOUNT"] == "7", "the user's own stays"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert main([*words, "gone"]) == 2
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


def test_garbage_is_collected_again_after_imports() -> None:
    with fast_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with fast_imports():
            pass
        assert not gc.isenabled()  # as it was before
    finally:
        gc.enable()


def test_nothing_is_reported_as_leaked_when_a_process_ends() -> None:
    pytest.importorskip("triton", reason="PyTorch comes without Triton here")
    code = "from cgrseg._process import fast_imports\nwith fast_imports(): import torch, triton"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("first", "left_out"), [("", True), ("import torch", False)])
def test_only_the_first_import_of_torch_is_left_out_of_collections(first: str, left_out: bool) -> None:
    code = "import gc\nfrom cgrseg._process import fast_imports\n"
    code += f"{first}\nwith fast_imports(): import torch\nprint(gc.get_freeze_count() > 10_000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(left_out)
