"""OpenVINO networks for one shape and for any shape give the same numbers and are compiled when it pays."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from cgrseg.inference.runtimes import OpenVINONetwork

openvino = pytest.importorskip("openvino")

SHAPES = [(1, 3, 9, 7), (2, 3, 5, 8), (1, 3, 4, 4), (3, 3, 11, 6)]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return F.gelu(self.conv(images)).mean(dim=(2, 3), keepdim=True) + images[:, :1]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def path(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.xml"
    any_shape = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(model, (torch.zeros(2, 3, 8, 9),), dynamic_shapes=(any_shape,))
    openvino.save_model(openvino.convert_model(program), path, compress_to_fp16=False)
    return path


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Gets the shape of each network as it is compiled; -1 stands for any."""
    shapes: list[list[int]] = []
    compile_model = openvino.Core.compile_model

    def noting(core: Any, graph: Any, *arguments: Any) -> Any:
        shapes.append([side.get_length() if side.is_static else -1 for side in graph.inputs[0].partial_shape])
        return compile_model(core, graph, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", noting)
    return shapes


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def agrees(network: OpenVINONetwork, model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> bool:
    given = images(shape, seed)
    return torch.allclose(network(given), model(given), atol=1e-5)


def test_the_first_shapes_have_their_own_network_and_others_share_one(
    path: Path, model: nn.Module, compiled: list[list[int]]
) -> None:
    network = OpenVINONetwork(path, shapes=2)
    assert compiled == []
    first = network(images(SHAPES[0]))
    kept = first.clone()
    for shape in SHAPES * 3:
        assert agrees(network, model, shape, seed=1)
    assert torch.equal(first, kept), "a result belongs to the caller"
    assert compiled == [list(SHAPES[0]), list(SHAPES[1]), [-1, 3, -1, -1]]


def test_a_frequent_shape_replaces_the_least_recently_used_one(
    path: Path, model: nn.Module, compiled: list[list[int]]
) -> None:
    network = OpenVINONetwork(path, shapes=2, frequent=3)
    first, second, third, fourth = SHAPES
    for shape in (second, first, third, third, second):  # the first was last used before the second
        assert agrees(network, model, shape)
    assert len(compiled) == 3
    for shape in (third, fourth, fourth, third, second, first, first):
        assert agrees(network, model, shape)
    assert compiled == [list(second), list(first), [-1, 3, -1, -1], list(third)]
    assert agrees(network, model, first)  # its third time since the third took its place
    assert compiled[4:] == [list(first)]


def test_a_network_for_one_shape_equals_that_for_any(path: Path) -> None:
    own, shared = OpenVINONetwork(path, shapes=2), OpenVINONetwork(path, shapes=0, frequent=99)
    for shape in SHAPES[:2]:
        torch.testing.assert_close(own(images(shape)), shared(images(shape)), rtol=0, atol=1e-5)


def test_threads_share_a_network(path: Path, model: nn.Module) -> None:
    network = OpenVINONetwork(path, shapes=2, frequent=5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda turn: agrees(network, model, SHAPES[turn % 4], turn), range(80)))
    assert all(answers)


def test_a_failed_compilation_is_one_line(path: Path) -> None:
    network = OpenVINONetwork(path, "cpu.5")
    with pytest.raises(ValueError, match=r"OpenVINO cannot run .*small\.xml on CPU\.5 \(.*\): choose another device"):
        network(images(SHAPES[0]))
    with pytest.raises(ValueError, match="runtime openvino has no device 'npu7x': use cpu"):
        OpenVINONetwork(path, "npu7x")


def test_an_exported_network_survives_pickling(path: Path, model: nn.Module) -> None:
    network = pickle.loads(pickle.dumps(OpenVINONetwork(path)))
    assert agrees(network, model, SHAPES[0])


def test_the_first_calls_of_a_process_may_come_from_many_threads_at_once(path: Path) -> None:
    """OpenVINO itself waits for ever in most such processes."""
    program = f"""
import threading, time, torch
from cgrseg.inference.runtimes import OpenVINONetwork
network, images, ready = OpenVINONetwork({str(path)!r}), torch.zeros(1, 3, 8, 8), threading.Event()
network._network(images.shape)  # compiles

def call():
    while not ready.is_set():
        time.sleep(0)
    network(images)

threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads:
    thread.start()
ready.set()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
