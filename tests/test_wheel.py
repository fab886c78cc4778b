"""The wheel works without the source folder: it labels a photo."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = sorted((ROOT / "src/cgrseg/weights/bundled").glob("*.safetensors"))


def run(*command: str | Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_contains_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    kept = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(source)) for path in kept} == {name for name in names if ".dist-info/" not in name}
    assert {"cgrseg/py.typed", "cgrseg-0.1.0.dist-info/licenses/LICENSE"} <= names


@pytest.mark.skipif(not BUNDLED, reason="there are no bundled weights")
def test_the_installed_wheel_labels_a_photo(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python"]
    run(sys.executable, "-m", *install, python, wheel, folder=tmp_path)
    # Libraries are taken from the running environment by a .pth file. Python does not read the .pth files in that
    # folder, so the editable installation is not used.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    libraries = run(python, "-c", code, folder=tmp_path).strip()
    Path(libraries, "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    where = run(python, "-c", "import cgrseg.cli.main; print(cgrseg.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path)

    photo = Image.linear_gradient("L").resize((203, 131)).convert("RGB")
    ImageDraw.Draw(photo).ellipse((40, 20, 150, 120), fill=(200, 120, 90))
    photo.save(tmp_path / "drawn.png")
    arguments = ["drawn.png", "--weights", BUNDLED[0].stem, "--out", "out", "--device", "cpu"]
    run(python.with_name("cgrseg"), "predict", *arguments, folder=tmp_path)
    with Image.open(tmp_path / "out" / "drawn.mask.png") as mask:
        assert (mask.size, mask.mode) == (photo.size, "P")
    (overlay,) = (tmp_path / "out").glob("drawn.overlay.*")
    with Image.open(overlay) as picture:
        assert picture.convert("RGB").getcolors(maxcolors=2) is None
