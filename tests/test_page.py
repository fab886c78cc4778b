"""The page in a real browser."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.inference.outputs import OutputOptions, encode
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

pytest.importorskip("fastapi", reason="needs the extra app")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

import uvicorn  # noqa: E402

from cgrseg.server.app import ServerConfig, uvicorn_config  # noqa: E402
from cgrseg.server.batching import Batcher  # noqa: E402
from cgrseg.web import EXAMPLES, LIMITS, make_page, video  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PATIENCE = 60_000  # milliseconds: a busy machine is slow
WEIGHTS, SIDE = "cgrseg_lite-voc21", 96


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with other classes, one of them called <b>sky</b>, which must not become markup."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    labels = LabelSpace(names=("<b>sky</b>", "tree"), colors=((70, 130, 180), (0, 100, 0)))
    artifact.save(build("cgrseg_n", num_classes=2), path, labels=labels)
    return path


@contextmanager
def served(weights: list[str]) -> Iterator[str]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    app = make_page(weights, device="cpu", short_side=SIDE)
    server = uvicorn.Server(uvicorn_config(lambda: app, ServerConfig(limits=LIMITS)))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def address(other: Path) -> Iterator[str]:
    with served([WEIGHTS, str(other)]) as address:
        yield address


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The open page; at the end, no script has failed and no other host was contacted."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    failures: list[str] = []
    asked: set[str] = set()
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("request", lambda request: asked.add(request.url.split("/")[2] if "//" in request.url[:8] else ""))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert failures == []
    assert asked - {""} == {address.split("/")[2]}


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def result() -> Any:
    return Segmenter(WEIGHTS, device="cpu", short_side=SIDE)(PHOTO)


def upload(page: Any, *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])
    labelled(page)


def labelled(page: Any) -> None:
    """Wait for the result of the photo on the stage with the present settings."""
    page.wait_for_selector("#export summary[aria-disabled=false]")


def legend(page: Any) -> dict[str, str]:
    rows = page.locator("#legend li").all()
    return {row.locator(".solo span").inner_text(): row.locator(".share").inner_text() for row in rows}


def painted(page: Any) -> str:
    return str(page.eval_on_selector("#labels", "canvas => canvas.toDataURL()"))


def export(page: Any, name: str, folder: Path) -> Path:
    page.click("#export summary")
    with page.expect_download() as download:
        page.click(f"[data-export={name}]")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    with Image.open(PHOTO) as photo:
        photo.resize(size).save(file, "png")
    return file.getvalue()


def drop(page: Any, selector: str, content: bytes, name: str = "dropped.png") -> None:
    """Drop a file on an element; fails if the browser would open it instead."""
    kept = page.evaluate(
        """([selector, content, name]) => {
            const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0))
            const transfer = new DataTransfer()
            transfer.items.add(new File([bytes], name))
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true }
            const target = document.querySelector(selector)
            return ["dragover", "drop"].map((kind) => target.dispatchEvent(new DragEvent(kind, options)))
        }""",
        [selector, base64.b64encode(content).decode(), name],
    )
    assert kept == [False, False]


# The stage and the legend.


def test_a_photo_shows_its_classes_and_each_can_be_hidden_or_shown_alone(page: Any, result: Any) -> None:
    upload(page, PHOTO)
    expected = {name: f"{100 * share:.1f} %" for name, share in result.areas().items() if share >= 0.001}
    assert {name: value for name, value in legend(page).items() if value != "< 0.1 %"} == expected
    assert "512 x 600 pixels, network input 96 x 113" in page.inner_text("#facts")
    widths = page.locator(".bar div").evaluate_all("bars => bars.map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * share for share in result.areas().values()], abs=0.01)

    everything = painted(page)
    page.click("[aria-label='Hide person']")
    assert page.get_attribute("[aria-label='Hide person']", "aria-pressed") == "true" and painted(page) != everything
    page.click("#all")
    assert painted(page) == everything
    page.click("#legend li:has-text('background') .solo")  # which has no colour
    assert page.eval_on_selector("#labels", ALPHAS) == [0]
    page.click("#all")
    inside = np.argwhere(result.labels == result.names.index("person")).mean(0).round().astype(int)
    point = page.evaluate(
        """([row, column]) => {
            const box = document.getElementById("picture").getBoundingClientRect()
            return [box.left + (column + 0.5) / 512 * box.width, box.top + (row + 0.5) / 600 * box.height]
        }""",
        inside.tolist(),
    )
    page.mouse.move(*point)
    assert page.inner_text("#here") == f"person, {expected['person']}"
    assert page.inner_text("#legend .hovered .solo") == "person"
    page.mouse.click(*point)
    assert page.inner_text("#legend .solo[aria-pressed=true]") == "person"


ALPHAS = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return [...new Set(data.filter((_, i) => i % 4 === 3))].sort()
}"""


def test_the_layer_has_the_photo_s_size_and_exact_labels_without_background(page: Any, result: Any) -> None:
    upload(page, PHOTO)
    with Image.open(io.BytesIO(base64.b64decode(painted(page).partition(",")[2]))) as picture:
        layer = np.asarray(picture)
    colors = np.array(result.label_space.colors, np.uint8)[result.labels]
    colored = result.labels != result.label_space.background
    assert layer.shape == (600, 512, 4)
    np.testing.assert_array_equal(layer[..., 3], 255 * colored)
    np.testing.assert_array_equal(layer[colored][:, :3], colors[colored])


def test_opacity_redraws_without_painting_and_the_views_differ(page: Any) -> None:
    upload(page, PHOTO)
    page.evaluate("""() => {
        window.drawn = 0
        for (const name of ["putImageData", "drawImage", "getImageData"]) {
            const before = CanvasRenderingContext2D.prototype[name]
            CanvasRenderingContext2D.prototype[name] = function (...all) {
                window.drawn++
                return before.apply(this, all)
            }
        }
    }""")
    page.focus("#opacity")
    page.keyboard.press("End")
    assert page.eval_on_selector("#labels", "each => getComputedStyle(each).opacity") == "1"
    assert page.evaluate("window.drawn") == 0
    shots = [page.locator("#stage").screenshot()]
    for view in ("split", "confidence", "cutout"):
        page.click(f"[data-view={view}]")
        if view == "confidence":
            page.wait_for_selector("#confidence:not([hidden])")
        shots.append(page.locator("#stage").screenshot())
    assert len(set(shots)) == 4
    page.click("[data-view=split]")
    page.focus("#split")
    page.keyboard.press("Home")
    assert page.eval_on_selector("#labels", "each => each.style.clipPath") == "inset(0px 0px 0px 0%)"


def test_zoom_pan_and_full_screen(page: Any) -> None:
    upload(page, PHOTO)
    share = page.evaluate("document.getElementById('viewer').clientWidth / innerWidth")
    assert 0.65 < share < 0.75
    box = page.locator("#picture").bounding_box
    fitted = box()
    page.click("[data-zoom=one]")
    assert (box()["width"], box()["height"]) == (512, 600)
    page.focus("#stage")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert box()["width"] == pytest.approx(640, abs=0.5)
    page.keyboard.press("0")
    assert box() == fitted
    page.mouse.move(fitted["x"] + 50, fitted["y"] + 60)
    page.mouse.wheel(0, -400)
    assert box()["width"] > 2 * fitted["width"]
    before = box()["x"]
    page.mouse.down()
    page.mouse.move(fitted["x"] + 90, fitted["y"] + 60)
    page.mouse.up()
    assert box()["x"] == pytest.approx(before + 40, abs=1)
    page.click("[data-zoom=full]")
    until(lambda: page.evaluate("document.fullscreenElement?.id") == "viewer")


@pytest.mark.parametrize("count", [256, 300])
def test_the_browser_reads_every_class_id_exactly(page: Any, count: int) -> None:
    from cgrseg.server.responses import encode_result

    result = Segmenter(build("cgrseg_n", num_classes=count), short_side=64)(np.zeros((64, count, 3), np.uint8))
    result.labels[:] = np.random.default_rng(0).permutation(count)[None]
    result.labels[::3] = 7
    answer = json.loads(encode_result(result, "rle").content)
    read = page.evaluate(
        "async (answer) => [...(await import('./labels.js')).decode(answer)].map((id) => answer.classes[id - 1].id)",
        answer,
    )
    assert read == result.labels.ravel().tolist()


# Photos in.


def test_photos_are_dropped_and_pasted_anywhere_and_the_page_stays(page: Any) -> None:
    address = page.url
    for selector, size in (("aside", (64, 75)), ("#stage", (128, 150)), ("header", (192, 225))):
        drop(page, selector, png(size))
        page.wait_for_selector(f"#facts:has-text('{size[0]} x {size[1]} pixels')")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (content) => {
            const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0))
            const picture = new Blob([bytes], { type: "image/png" })
            await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })])
        }""",
        base64.b64encode(png((256, 300))).decode(),
    )
    page.keyboard.press("Control+V")
    page.wait_for_selector("#facts:has-text('256 x 300 pixels')")
    assert page.url == address
    names = page.locator("#strip img").evaluate_all("images => images.map((each) => each.alt)")
    assert names == ["dropped.png", "dropped (2).png", "dropped (3).png", "image.png"]


def test_every_example_works(page: Any) -> None:
    names = page.locator("#examples button").all_inner_texts()
    assert len(names) >= 4 and set(names) <= set(EXAMPLES)
    for number, name in enumerate(names):
        page.locator("#examples button").nth(number).dispatch_event("click")
        page.wait_for_selector(f"#status:has-text('{name}: ')")


def test_several_photos_are_a_strip_and_export_as_zip(page: Any, tmp_path: Path) -> None:
    for name, size in (("é one.png", (64, 75)), ("two.png", (128, 150))):
        (tmp_path / name).write_bytes(png(size))
    upload(page, tmp_path / "é one.png", tmp_path / "two.png")
    page.wait_for_selector("#every:has-text('All 2 photos')", state="attached")
    page.click("#strip button[title='two.png']")
    page.wait_for_selector("#facts:has-text('128 x 150 pixels')")
    page.click("#export summary")
    page.check("#every input")
    page.keyboard.press("Escape")
    with zipfile.ZipFile(export(page, "mask", tmp_path)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["é one.mask.png", "two.mask.png"]
        for name in archive.namelist():
            expected = Segmenter(WEIGHTS, device="cpu", short_side=SIDE)(tmp_path / name.replace(".mask", ""))
            with Image.open(archive.open(name)) as mask:
                np.testing.assert_array_equal(np.asarray(mask), expected.labels)
    (tmp_path / "two.jpg").write_bytes(png((64, 75)))
    upload(page, tmp_path / "two.jpg")
    page.wait_for_selector("#every:has-text('All 3 photos')", state="attached")
    with zipfile.ZipFile(export(page, "mask", tmp_path)) as archive:
        assert archive.namelist() == ["é one.mask.png", "two.png.mask.png", "two.jpg.mask.png"]
    page.click("[aria-label='Remove two.jpg']")
    page.click("[aria-label='Remove two.png']")
    page.wait_for_selector("#facts:has-text('64 x 75 pixels')")
    assert page.locator("#strip li").count() == 1


def test_the_strip_shows_the_photo_on_the_stage(page: Any, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(png((32, 32)))
    upload(page, *(tmp_path / f"{number}.png" for number in range(19)))
    upload(page, tmp_path / "19.png")
    inside = page.locator("#strip [aria-current=true]").bounding_box()
    strip = page.locator("#strip").bounding_box()
    assert strip["x"] <= inside["x"] and inside["x"] + inside["width"] <= strip["x"] + strip["width"]


@pytest.mark.parametrize("kind", ["tiff", "webp"])
def test_photos_that_the_browser_shows_otherwise_come_from_the_server(page: Any, kind: str, tmp_path: Path) -> None:
    """Chromium cannot show TIFF, and ignores the orientation of a WebP."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(PHOTO) as photo:
        photo.resize((64, 80)).save(tmp_path / f"photo.{kind}", exif=exif)
    upload(page, tmp_path / f"photo.{kind}")
    assert "80 x 64 pixels" in page.inner_text("#facts")
    assert page.eval_on_selector("#photo", "image => [image.naturalWidth, image.naturalHeight]") == [80, 64]


def test_wrong_files_show_what_to_do_and_nothing_of_the_last_photo_can_be_exported(page: Any, tmp_path: Path) -> None:
    upload(page, PHOTO)
    (tmp_path / "notes.png").write_text("no photo")
    page.set_input_files("#files", str(tmp_path / "notes.png"))
    page.wait_for_selector("#error:has-text('notes.png: the photo is not an image that can be read: convert it')")
    (tmp_path / "empty.png").touch()
    page.set_input_files("#files", str(tmp_path / "empty.png"))
    page.wait_for_selector("#error:has-text('empty.png: the file is empty: copy the photo again')")
    assert page.get_attribute("#export summary", "aria-disabled") == "true" and not legend(page)
    page.click("#export summary")
    assert not page.locator("[data-export=mask]").is_visible()


def test_a_reload_keeps_photos_and_settings(page: Any) -> None:
    upload(page, PHOTO)
    page.focus("#opacity")
    page.keyboard.press("End")
    page.click("#advanced summary")
    page.select_option("#weights", "other")
    page.wait_for_selector("#status:has-text('grace_hopper.jpg:')")
    labelled(page)
    page.reload()
    labelled(page)
    assert page.input_value("#weights") == "other" and page.input_value("#opacity") == "100"
    assert set(legend(page)) <= {"<b>sky</b>", "tree"}
    assert page.locator("#strip img").get_attribute("alt") == "grace_hopper.jpg"


# Results out.


def test_exports_are_those_of_the_library_with_the_settings_on_the_screen(
    page: Any, result: Any, tmp_path: Path
) -> None:
    upload(page, PHOTO)
    page.focus("#opacity")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    options = OutputOptions(alpha=0.7)
    for name, suffix in (
        *(("overlay", "overlay.jpg"), ("mask", "mask.png"), ("confidence", "confidence.png")),
        *(("outline", "outline.jpg"), ("geojson", "geojson"), ("coco", "coco.json"), ("csv", "csv")),
    ):
        path = export(page, name, tmp_path)
        assert path.name == f"grace_hopper.{suffix}"
        assert path.read_bytes() == encode(result, name, options, file_name="grace_hopper.jpg"), name
    table = json.loads(export(page, "json", tmp_path).read_text(encoding="utf-8"))
    assert (table["width"], table["height"], table["weights"]) == (512, 600, WEIGHTS)
    assert {each["name"]: each["share"] for each in table["classes"]} == pytest.approx(result.areas())

    page.click("#legend li:has-text('person') .solo")
    person = OutputOptions([result.names.index("person")])
    for name in ("cutout", "geojson"):
        assert export(page, name, tmp_path).read_bytes() == encode(result, name, person)
    with Image.open(export(page, "view", tmp_path)) as view:
        assert view.size == (512, 600)


def test_the_picture_is_copied_to_the_clipboard(page: Any) -> None:
    upload(page, PHOTO)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#export summary")
    page.click("[data-export=copy]")
    page.wait_for_selector("#status:has-text('on the clipboard')")
    size = page.evaluate("""async () => {
        const [item] = await navigator.clipboard.read()
        const picture = await createImageBitmap(await item.getType("image/png"))
        return [picture.width, picture.height]
    }""")
    assert size == [512, 600]


def test_exports_wait_for_other_weights(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(page, PHOTO)
    run, gate = Batcher._run, threading.Event()

    async def gated(self: Batcher, items: Any) -> Any:
        await asyncio.to_thread(gate.wait, 60)
        return await run(self, items)

    monkeypatch.setattr(Batcher, "_run", gated)
    page.click("#advanced summary")
    page.select_option("#weights", "other")
    try:
        page.wait_for_selector("#export summary[aria-disabled=true]", timeout=10_000)
        assert page.locator("#export button:enabled").count() == 0 and not legend(page)
    finally:
        gate.set()
    labelled(page)
    assert set(legend(page)) <= {"<b>sky</b>", "tree"}


def test_the_short_side_works_with_keys(page: Any) -> None:
    upload(page, PHOTO)
    page.click("#advanced summary")
    page.focus("#side")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#facts:has-text('network input 64 x 75')")


# Keyboard, phones, accessibility.


def test_a_photo_above_the_limit_is_labelled_with_the_largest_input_below_it_and_the_page_says_so(
    browser: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cgrseg.web.LIMITS", replace(LIMITS, network_pixels=64 * 96))
    with served([WEIGHTS]) as address, opened(browser, address) as page:
        upload(page, PHOTO)
        assert "network input 64 x 75, reduced to the limit of this page" in page.inner_text("#facts")
        mask = np.asarray(Image.open(export(page, "mask", tmp_path)))
    np.testing.assert_array_equal(mask, Segmenter(WEIGHTS, device="cpu", short_side=64)(PHOTO).labels)


def test_everything_works_by_keyboard_with_visible_focus_and_results_are_announced(page: Any) -> None:
    assert page.get_attribute("#status", "role") == "status" and page.get_attribute("#error", "role") == "alert"
    seen: dict[str, Any] = {}

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                """(selector) => {
                    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement)
                    const name = document.activeElement.id || document.activeElement.textContent.trim()
                    return [document.activeElement.matches(selector), name, outlineStyle, parseFloat(outlineWidth)]
                }""",
                selector,
            )
            if not page.evaluate("document.activeElement === document.body"):  # between the last and the first
                seen[found[1]] = found[2:]
            if found[0]:
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('Grace Hopper: person')")
    for selector in ("[data-view=cutout]", "#opacity", "[data-zoom=in]", "#stage", "#strip button", ".solo", ".eye"):
        tab_to(selector)
        page.keyboard.press("ArrowRight" if selector == "#opacity" else "Enter")
    assert page.get_attribute("[data-view=cutout]", "aria-pressed") == "true"
    assert page.input_value("#opacity") == "51"
    assert page.locator(".eye[aria-pressed=true]").count() == 1
    tab_to("#export summary")
    page.keyboard.press("Enter")
    tab_to("[data-export=mask]")
    with page.expect_download():
        page.keyboard.press("Enter")
    assert {name: style for name, style in seen.items() if style[0] == "none" or style[1] < 2} == {}


def test_a_phone_shows_the_result_first_and_opacity_always_in_reach(browser: Any, address: str) -> None:
    screen = {"width": 390, "height": 844}
    with opened(browser, address, viewport=screen, has_touch=True, is_mobile=True) as page:
        page.tap("#examples button >> nth=0")
        labelled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tops = [page.locator(each).bounding_box()["y"] for each in ("#stage", "aside")]
        assert tops[0] < 100 and tops[0] < tops[1]
        for _ in range(2):
            box = page.locator("#opacity").bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 844 and box["width"] > 100
            page.evaluate("scrollTo(0, 9999)")
        page.tap("#advanced summary")
        small = page.evaluate("""() => [...document.querySelectorAll("button, summary, input, select, a")]
            .filter((each) => each.checkVisibility())
            .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect()])
            .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)""")
        assert small == []


def test_two_fingers_zoom_and_one_moves(browser: Any, address: str) -> None:
    screen = {"width": 390, "height": 844}
    with opened(browser, address, viewport=screen, has_touch=True, is_mobile=True) as page:
        page.tap("#examples button >> nth=0")
        labelled(page)
        box = page.locator("#picture").bounding_box
        before, devtools = box(), page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

        touch("touchStart", (150, 300), (250, 300))
        touch("touchMove", (100, 300), (300, 300))
        touch("touchEnd")
        assert box()["width"] == pytest.approx(2 * before["width"], rel=0.05)
        before = box()
        touch("touchStart", (200, 300))
        touch("touchMove", (230, 280))
        page.wait_for_timeout(300)  # otherwise the browser takes the next tap as the end of a fling
        touch("touchMove", (230, 280))
        touch("touchEnd")
        assert (box()["x"] - before["x"], box()["y"] - before["y"]) == pytest.approx((30, -20), abs=1)
        page.tap("[data-zoom=fit]")
        until(lambda: box()["width"] < 390)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, address: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    with opened(browser, address, color_scheme=scheme) as page:

        def check(state: str) -> None:
            found = axe.run(page).response["violations"]
            assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == [], state

        check("empty")
        upload(page, PHOTO)
        check("labelled")
        page.click(".solo >> nth=0")
        page.click("#export summary")
        check("a class alone, and the menu")
        page.click("#advanced summary")
        page.select_option("#compare", "other")
        page.wait_for_selector("#agreement:not([hidden])")
        check("comparison")
        page.click("[data-view=confidence]")
        page.set_input_files("#files", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no photo"})
        page.wait_for_selector("#error:has-text('notes.png')")
        check("error")
        assert page.evaluate("[...document.images].filter((each) => !each.hasAttribute('alt')).length") == 0


# Camera, video, comparison.


def test_the_camera_takes_the_next_frame_after_the_answer_and_stops_at_once(page: Any) -> None:
    pending, most, asked = 0, 0, 0

    def count(change: int) -> None:
        nonlocal pending, most, asked
        pending, asked = pending + change, asked + (change > 0)
        most = max(most, pending)

    page.on("request", lambda request: count(1) if "v1/segment" in request.url else None)
    page.on("requestfinished", lambda request: count(-1) if "v1/segment" in request.url else None)
    page.evaluate("""() => {
        window.updates = 0
        new MutationObserver(() => window.updates++).observe(document.getElementById("facts"), { childList: true })
    }""")
    assert not page.is_visible("#stop")
    page.click("#camera")
    until(lambda: page.evaluate("window.updates") >= 8)
    assert legend(page) and most == 1
    page.click("#stop")
    assert not page.is_visible("#busy")
    labelled(page)  # the last frame can be exported
    before = asked
    page.wait_for_timeout(500)
    assert asked == before and page.locator("#strip img").get_attribute("alt") == "camera.jpg"


def film(path: Path, *, frames: int, codec: str = "libx264") -> Path:
    """A clip of 96 x 64 pixels that changes its shade."""
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            frame = np.full((64, 96, 3), 40 + 50 * number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path


def test_a_video_comes_back_labelled_with_its_legend(page: Any, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs the extra video")
    drop(page, "#stage", film(tmp_path / "clip.mp4", frames=12).read_bytes(), "clip.mp4")
    page.wait_for_selector("#clip:not([hidden])")
    with page.expect_download() as download:
        page.click("#clip-download")
    assert download.value.suggested_filename == "clip.overlay.mp4"
    with av.open(str(download.value.path())) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12
    assert page.eval_on_selector("#clip-legend", "image => image.decode().then(() => image.naturalWidth)") > 96
    assert not page.is_visible("#stop")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png((64, 75)))
    upload(page, tmp_path / "a.png", tmp_path / "b.png")
    assert not page.is_visible("#clip")
    page.set_input_files("#files", [str(tmp_path / "clip.mp4"), str(film(tmp_path / "second.mp4", frames=2))])
    page.wait_for_selector("#clip:not([hidden])")
    page.wait_for_selector("#error:has-text('One video at a time: add second.mp4 again.')")
    page.click("[aria-label='Remove b.png']")
    assert page.is_visible("#clip") and page.locator("#strip li").count() == 1


def test_a_damaged_video_is_labelled_and_the_page_says_what_is_missing(page: Any, tmp_path: Path) -> None:
    path = film(tmp_path / "clip.ts", frames=12, codec="mpeg2video")
    path.write_bytes(2 * path.read_bytes())
    page.set_input_files("#clips", {"name": "clip.ts", "mimeType": "video/mp2t", "buffer": path.read_bytes()})
    page.wait_for_selector("#clip:not([hidden])")
    page.wait_for_selector("#status:has-text('clip.ts: the video may be damaged: a damaged frame at')")


def test_the_view_of_a_photo_never_has_the_confidence_of_another(page: Any, tmp_path: Path) -> None:
    for name, size in (("a.png", (64, 75)), ("b.png", (64, 75))):
        (tmp_path / name).write_bytes(png(size))
    with Image.open(tmp_path / "b.png") as photo:
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    upload(page, tmp_path / "a.png", tmp_path / "b.png")
    page.click("[data-view=confidence]")
    page.wait_for_selector("#confidence:not([hidden])")
    page.route("**/v1/segment*output=confidence*", lambda route: route.abort())
    page.click("#strip button[title='b.png']")
    labelled(page)
    page.wait_for_selector("#error:has-text('b.png')")
    with Image.open(export(page, "view", tmp_path)) as shown, Image.open(tmp_path / "b.png") as photo:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.asarray(photo.convert("RGB")))


def test_a_photo_that_failed_is_tried_again_when_it_is_chosen(page: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png((64, 75)))
    upload(page, PHOTO)
    page.route("**/v1/segment*", lambda route: route.abort())
    page.set_input_files("#files", str(tmp_path / "a.png"))
    page.wait_for_selector("#error:has-text('a.png: the page')")
    page.unroute("**/v1/segment*")
    page.click("#strip button[title='a.png']")
    page.wait_for_selector("#facts:has-text('64 x 75 pixels')")
    assert not page.inner_text("#error")


def test_names_are_sent_only_for_files_that_contain_them(page: Any, tmp_path: Path) -> None:
    upload(page, PHOTO)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    for name in ("mask", "overlay", "geojson", "csv"):
        export(page, name, tmp_path)
    assert [("hopper" in url, url.partition("output=")[2].partition("&")[0]) for url in sent if "output" in url] == [
        (False, "mask"),
        (False, "overlay"),
        (False, "geojson"),
        (True, "csv"),
    ]


def test_a_photo_is_labelled_while_a_video_runs_and_stop_leaves_nothing(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert not page.is_visible("#stop")
    page.set_input_files("#clips", str(film(tmp_path / "long.mp4", frames=2000)))
    page.wait_for_selector("#busy:has-text('of 2000 frames')")
    assert list((tmp_path / "temporary").rglob("video"))
    upload(page, PHOTO)
    assert page.is_visible("#busy:has-text('of 2000 frames')")
    page.click("#stop")
    page.wait_for_selector("#status:has-text('Stopped: no part of this video is kept')")
    until(lambda: not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()])
    assert not page.is_visible("#stop")


def test_frames_of_a_video_wait_for_photos(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PHOTOS_FIRST", 60.0)
    folder: Any = TemporaryDirectory()
    path = film(Path(folder.name, "video.mp4"), frames=3)

    async def run() -> None:
        photos: Any = SimpleNamespace(busy=True)
        lines = video._label(Segmenter(other, device="cpu"), photos, path, folder)
        assert json.loads(await anext(lines)) == {"done": 1, "frames": 3}
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        photos.busy = False
        assert json.loads(await waiting)["done"] == 2
        assert len([line async for line in lines]) > 2

    with ThreadPoolExecutor(1) as thread:  # in this one, Playwright has a loop
        thread.submit(asyncio.run, run()).result()


def test_a_damaged_video_is_one_line_without_folders(page: Any, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra video")
    page.set_input_files("#clips", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video"})
    page.wait_for_selector("#error:has-text('a.mp4: the video is not a video that can be read')")
    assert "/" not in page.inner_text("#error")


def test_two_weights_share_a_legend(page: Any, result: Any) -> None:
    upload(page, PHOTO)
    page.click("#advanced summary")
    page.select_option("#compare", "other")
    page.wait_for_selector("#agreement:not([hidden])")
    assert page.inner_text("#agreement") == "The two results have no classes in common."
    shares = legend(page)
    assert shares["person"] == f"{100 * result.areas()['person']:.1f} % | 0.0 %"
    assert {"<b>sky</b>", "tree"} & set(shares)
    page.click("#legend li:has-text('person') .eye")
    assert page.eval_on_selector("#labels", ALPHAS) in ([0], [0, 255])
    assert page.get_attribute("[data-view=split]", "aria-pressed") == "true" and page.is_visible("#other")
    page.click("#advanced summary")
    page.select_option("#compare", "")
    page.wait_for_selector("#agreement", state="hidden")


def test_agreement_is_counted_by_name(page: Any) -> None:
    def answer(*classes: tuple[str, list[int]]) -> dict[str, Any]:
        entries = [{"name": name, "rle": {"counts": counts}} for name, counts in classes]
        return {"width": 4, "height": 2, "classes": entries}

    one, two = answer(("sky", [0, 4, 4]), ("sea", [4, 4])), answer(("tree", [0, 2, 6]), ("sky", [2, 6]))
    said = page.evaluate(
        """async ([one, two]) => {
            const { agreement, decode } = await import("./labels.js")
            return agreement(one, decode(one), two, decode(two))
        }""",
        [one, two],
    )
    assert said == "Both predict the same class on 25.0 % of the photo."


def test_an_exported_folder_lets_the_visitor_choose_the_runtime(browser: Any, tmp_path: Path) -> None:
    export_files = pytest.importorskip("cgrseg.deploy.export").export
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    torch.manual_seed(0)
    export_files(build("cgrseg_n", num_classes=2).eval(), tmp_path, formats=["onnx"], sizes=[(64, 96)], batches=[1])
    with served([str(tmp_path)]) as address, opened(browser, address) as page:
        upload(page, PHOTO)
        page.click("#advanced summary")
        page.select_option("#runtime", "onnx")
        labelled(page)
        assert json.loads(export(page, "json", tmp_path).read_text())["runtime"] == "onnx"
        page.click("#advanced summary")
        page.select_option("#runtime", "openvino")
        page.wait_for_selector("#error:has-text('can\\'t be loaded: the server\\'s log says why')")
        assert str(tmp_path.parent) not in page.content()


# The server and the command.


def test_the_page_has_security_headers_and_only_its_own_files(address: str) -> None:
    with urllib.request.urlopen(address, timeout=60) as response:
        policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    for path in ("..%2f__init__.py", "page/examples/..%2fsettings", "page/examples/passwd"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{address}{path}", timeout=60)
        assert error.value.code == 404
        error.value.close()


def test_sigterm_stops_a_video_and_leaves_no_files(other: Path, tmp_path: Path) -> None:
    clip = film(tmp_path / "long.mp4", frames=5000).read_bytes()
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "cgrseg", "app", "--weights", str(other), "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            with urllib.request.urlopen(f"{address[0]}page/video", clip, timeout=60) as response:
                assert json.loads(response.readline())["done"] == 1
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
        finally:
            process.kill()
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def test_wrong_weights_are_one_line_before_the_page_opens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--weights", "cgrseg_t-ccp13"]) == 2
    assert "did you mean 'cgrseg_lite-voc21'?" in capsys.readouterr().err


def test_missing_weights_are_one_line_before_the_page_opens(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--weights", f"{other},nowhere.safetensors"]) == 2
    assert "no weights file nowhere.safetensors: check the path" in capsys.readouterr().err


def test_the_path_of_weights_may_have_a_comma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a, b.safetensors").write_text("no weights")
    assert main(["app", "--weights", str(tmp_path / "a, b.safetensors")]) == 2
    assert "a, b.safetensors is not a weights file" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--weights", str(other), "--device", "cpu", "--port", str(port)]) == 2
    assert f"can't listen on 127.0.0.1:{port} (Address already in use): choose another port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "cure"),
    [("--port", "80000", "it must be <= 65535"), ("--host", "no.such.host.invalid", "use 127.0.0.1, or 0.0.0.0 to")],
)
def test_a_wrong_address_is_one_line(
    other: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, cure: str
) -> None:
    assert main(["app", "--weights", str(other), "--device", "cpu", option, value]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"cgrseg: {option}") and value in line and cure in line


def test_two_files_of_one_name_are_refused(other: Path, tmp_path: Path) -> None:
    (tmp_path / other.name).write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="have the same name"):
        make_page([str(other), str(tmp_path / other.name)])
