"""The documentation site: `make docs` fails on warnings, pages open without a server and are not too long."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TALLEST = 6000  # pixels at a width of 1280

pytestmark = pytest.mark.slow
pytest.importorskip("material", reason="needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")


def make_docs(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the target `docs` in the Makefile."""
    recipe = re.search(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    command = recipe[1].replace("$(BIN)", str(Path(sys.executable).parent))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, shell=True, cwd=root, env=environment, text=True, capture_output=True)


def project(folder: Path) -> Path:
    """A copy of what the site is made of."""
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = project(tmp_path_factory.mktemp("site"))
    done = make_docs(root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nowhere](nowhere.md)", "nowhere.md"),
        ("[part](start.md#no-such-part)", "no-such-part"),
        ("::: cgrseg.nothing", "nothing"),
    ],
)
def test_make_docs_fails_on_dead_links_and_names(text: str, message: str, tmp_path: Path) -> None:
    root = project(tmp_path)
    with (root / "docs" / "hub.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{text}\n")
    done = make_docs(root)
    assert done.returncode != 0 and message in done.stderr


def test_no_page_is_too_long_or_wider_than_a_phone(site: Path, browser: Any) -> None:
    wide, phone = (browser.new_page(viewport={"width": width, "height": 900}) for width in (1280, 390))
    (site / "404.html").unlink(missing_ok=True)  # has styles only on a server
    for path in sorted(site.rglob("*.html")):
        wide.goto(path.as_uri())
        height = wide.evaluate("document.documentElement.scrollHeight")
        assert height <= TALLEST, f"{path.name}: {height} pixels"
        phone.goto(path.as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, path.name


def test_the_home_page_works_from_a_folder(site: Path, browser: Any) -> None:
    page, failed = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("request", lambda request: None if request.url.startswith("file:") else failed.append(request.url))
    page.goto((site / "index.html").as_uri())
    assert page.locator(".grid.cards li").count() == 3
    for tab in page.locator(".tabbed-labels").first.locator("label").all():
        tab.click()
        assert page.locator(".tabbed-block:visible").first.inner_text().strip()
    page.locator("a.md-footer__link--next").click()
    assert page.url.endswith("start.html")
    page.locator("input.md-search__input").click()
    page.keyboard.type("tolerance")
    page.wait_for_selector("li.md-search-result__item")
    assert failed == []
