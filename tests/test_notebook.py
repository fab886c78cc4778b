"""The notebook runs, and is stored with the outputs of its code, which are small and name no folder of a machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 300_000  # characters of all pictures


def printed(notebook: Any) -> list[str]:
    """What the cells print, without numbers, which differ a little between machines."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [re.sub(r"[\d.]+", "0", output["text"]) for output in outputs if output["output_type"] == "stream"]


# Of Jupyter itself: deprecations, and sockets that only the garbage collector closes.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs_and_shows_its_figures(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook, stored = nbformat.read(path, as_version=4), nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert printed(notebook) == printed(stored), "run the notebook and store it again"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_is_stored_with_small_outputs_of_one_run(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    data = [(kind, value) for output in outputs for kind, value in output.get("data", {}).items()]
    pictures = [len(value) for kind, value in data if kind.startswith("image/")]
    assert len(pictures) >= 4 and sum(pictures) < LARGEST
    text = "".join([output.get("text", "") for output in outputs] + [v for kind, v in data if kind == "text/plain"])
    assert not re.search(r"/(home|root|tmp|work|Users)\b", text)
