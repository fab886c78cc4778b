"""The page in a real browser."""

from __future__ import annotations

import base64
import gc
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
import tracemalloc
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

pytest.importorskip("gradio", reason="needs the extra app")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from cgrseg.inference.result import Segmentation  # noqa: E402
from cgrseg.web import delete_old_files, launch, make_page  # noqa: E402
from cgrseg.web.choices import Choices  # noqa: E402
from cgrseg.web.tabs import read_upload  # noqa: E402
from cgrseg.web.viewer import agreement, comparison, payload, source  # noqa: E402

# Gradio and its dependencies use deprecated functions, and leave files for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::PendingDeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

CHROMIUM = Path("/usr/bin/chromium")
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PATIENCE = 60_000  # milliseconds: a busy machine is slow


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """Collect what Gradio left open here, where its warnings are ignored, not in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with other classes, one of them called <b>sky</b>, which must not become markup."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    labels = LabelSpace(names=("<b>sky</b>", "tree"), colors=((70, 130, 180), (0, 100, 0)))
    artifact.save(build("cgrseg_n", num_classes=2), path, labels=labels)
    return path


@pytest.fixture(scope="module")
def address(other: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    page = make_page(Choices(["cgrseg_lite-voc21", str(other)], device="cpu", short_side=96))
    yield launch(page, host="127.0.0.1", port=None, block=False)
    page.close()
    del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The open page; at the end, no script has failed and no other host was contacted."""
    page = browser.new_page(viewport={"width": 1200, "height": 850})
    page.set_default_timeout(PATIENCE)
    failures: list[str] = []
    asked: set[str] = set()
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/")[2] if "//" in request.url[:8] else ""))
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.wait_for_selector("img[alt='Example photo']", state="attached")  # page.js has run
    yield page
    page.close()
    assert failures == []
    assert asked - {""} == {address.split("/")[2]}


def upload(page: Any, path: Path, viewer: str = "#photo-viewer") -> None:
    page.set_input_files("#photo input[type=file]", str(path))
    page.wait_for_selector(f"{viewer} .cgr-legend button")


def pixels(page: Any) -> str:
    return str(page.eval_on_selector("#photo-viewer canvas", "canvas => canvas.toDataURL()"))


def legend(page: Any) -> dict[str, str]:
    rows = page.query_selector_all("#photo-viewer .cgr-legend tr")
    return dict(row.inner_text().strip().replace("\n", "\t").split("\t", 1) for row in rows)


def test_a_photo_shows_its_classes_and_each_can_be_shown_alone(page: Any) -> None:
    upload(page, PHOTO)
    result = Segmenter("cgrseg_lite-voc21", device="cpu", short_side=96)(PHOTO)
    expected = {name: f"{100 * share:.1f} %" for name, share in result.areas().items() if share >= 0.001}
    shown = legend(page)
    assert {name: value.strip() for name, value in shown.items() if value.strip() != "< 0.1 %"} == expected
    assert "512 x 600 pixels, network input 96 x 113" in page.inner_text("#photo-viewer .cgr-note")

    everything = pixels(page)
    first = page.locator("#photo-viewer .cgr-legend button").first
    first.focus()
    page.keyboard.press("Enter")
    assert first.get_attribute("aria-pressed") == "true" and pixels(page) != everything
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the next class, by keyboard alone
    assert first.get_attribute("aria-pressed") == "false"
    page.click("#photo-viewer .cgr-all")
    assert pixels(page) == everything

    canvas = page.locator("#photo-viewer canvas")
    canvas.hover(position={"x": 5, "y": 5})
    name = result.names[result.labels[8, 8]]
    assert page.inner_text("#photo-viewer .cgr-here") == f"{name}, {expected[name]}"
    canvas.click(position={"x": 5, "y": 5})
    assert page.inner_text("#photo-viewer .cgr-legend button[aria-pressed=true]") == name


def test_opacity_slider_and_views_redraw_at_once(page: Any) -> None:
    upload(page, PHOTO)
    labels = pixels(page)
    page.fill("#opacity input[type=number]", "1")
    page.wait_for_function(
        "before => document.querySelector('#photo-viewer canvas').toDataURL() !== before", arg=labels
    )
    opaque = pixels(page)
    sky = page.eval_on_selector(
        "#photo-viewer canvas", "canvas => [...canvas.getContext('2d').getImageData(470, 60, 1, 1).data]"
    )
    assert sky[2] > 100, "the class background has no colour"
    page.click("#photo-viewer [data-view=split]")
    split = pixels(page)
    page.fill("#photo-viewer .cgr-split", "0")
    assert len({labels, opaque, split}) == 3
    page.click("#photo-viewer [data-view=confidence]")
    red, green, blue = page.eval_on_selector(
        "#photo-viewer canvas", "canvas => [...canvas.getContext('2d').getImageData(99, 99, 1, 1).data].slice(0, 3)"
    )
    assert red == green == blue > 0


def test_overlay_mask_and_json_can_be_downloaded(page: Any, tmp_path: Path) -> None:
    upload(page, PHOTO)
    result, files = Segmenter("cgrseg_lite-voc21", device="cpu", short_side=96)(PHOTO), {}
    for what in ("overlay", "mask", "JSON"):
        page.wait_for_selector(f"#download-{what}:not([disabled])")
        with page.expect_download() as download:
            page.click(f"#download-{what}")
        files[what] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[what])
    assert [path.name for path in files.values()] == [
        "grace_hopper.overlay.jpg",
        "grace_hopper.mask.png",
        "grace_hopper.json",
    ]
    with Image.open(files["mask"]) as mask, Image.open(files["overlay"]) as overlay:
        assert np.array_equal(np.asarray(mask), result.labels)
        assert overlay.height == 600 and overlay.width > 512  # with the legend beside the photo
    table = json.loads(files["JSON"].read_text(encoding="utf-8"))
    assert (table["width"], table["height"], table["weights"]) == (512, 600, "cgrseg_lite-voc21")
    assert {each["name"]: each["share"] for each in table["classes"]} == pytest.approx(result.areas())


def test_wrong_files_show_a_message_that_says_what_to_do(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "notes.txt"))
    page.wait_for_selector(".toast-body:has-text('Invalid file type: notes.txt')")
    (tmp_path / "notes.png").write_text("no photo")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "notes.png"))
    page.wait_for_selector(".toast-body:has-text('notes.png is not an image that can be read: convert it')")
    assert str(tmp_path.parent) not in page.inner_text(".toast-body")


def test_the_example_and_other_weights_and_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.click("#examples .gallery-item")
    page.wait_for_selector("#photo-viewer .cgr-legend button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#photo-viewer").bounding_box()["y"] < page.locator("#weights").bounding_box()["y"]
    page.click("#weights input")
    page.click("[role=option]:has-text('other')")
    page.wait_for_function("!document.querySelector('#photo-viewer .cgr-legend').innerText.includes('background')")
    assert set(legend(page)) <= {"<b>sky</b>", "tree"}


def test_a_video_comes_back_labelled(page: Any, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", frames=3)
    page.click("role=tab[name=Video]")
    page.click("text=Label the video")
    page.wait_for_selector(".toast-body:has-text('Drop a video first')")
    page.set_input_files("#clip input[type=file]", str(clip))
    page.wait_for_selector("#clip :text('KB')")
    page.click("text=Label the video")
    found = page.wait_for_selector("video[src*='clip.overlay.mp4']", state="attached")
    assert found is not None


def test_a_video_tells_how_far_it_is_and_stop_leaves_nothing(page: Any, tmp_path: Path) -> None:
    clip = film(tmp_path / "long.mp4", frames=900)
    page.click("role=tab[name=Video]")
    page.set_input_files("#clip input[type=file]", str(clip))
    page.wait_for_selector("#clip :text('KB')")
    page.click("text=Label the video")
    page.wait_for_selector("text=/[0-9]+.900 frames/")
    page.click("button:has-text('Stop')")
    page.wait_for_selector(".toast-body:has-text('Stopped: no part of this video is kept')")
    left = Path(os.environ["GRADIO_TEMP_DIR"])
    deadline = time.monotonic() + PATIENCE / 1000
    while found := [path for path in left.rglob("*.mp4") if path.name != "long.mp4" and "clip" not in path.name]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def film(path: Path, *, frames: int) -> Path:
    """A clip of 96 x 64 pixels that changes its shade."""
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            frame = np.full((64, 96, 3), 40 + 50 * number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path


def test_a_picture_can_be_pasted_with_the_button(page: Any) -> None:
    copy(page, (256, 300))
    page.click("#photo button[aria-label*='clipboard' i]")
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('256 x 300 pixels')")


def test_ctrl_v_anywhere_takes_a_picture_to_the_open_tab(page: Any) -> None:
    copy(page, (256, 300))
    page.keyboard.press("Control+V")
    page.wait_for_selector("#photo-viewer .cgr-legend button")
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('256 x 300 pixels')")
    copy(page, (128, 150))
    page.keyboard.press("Control+V")  # over the first
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('128 x 150 pixels')")

    copy(page, (64, 75))
    page.click("role=tab[name=Video]")
    page.keyboard.press("Control+V")
    page.click("role=tab[name=Compare]")
    page.keyboard.press("Control+V")
    page.wait_for_selector("#comparison table")
    assert "128 x 150 pixels" in (page.text_content("#photo-viewer .cgr-note") or "")


def test_ctrl_v_in_a_text_field_is_left_to_text(page: Any) -> None:
    field = page.locator("#opacity input[type=number]")
    copy(page, (256, 300), text="0.25")  # as a spreadsheet does: text, and a picture of it
    field.select_text()
    page.keyboard.press("Control+V")
    assert field.input_value() == "0.25"
    copy(page, (128, 150))
    page.keyboard.press("Control+V")
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('128 x 150 pixels')")
    assert field.input_value() == "0.25"


def copy(page: Any, size: tuple[int, int], text: str | None = None) -> None:
    """Put the photo on the clipboard, resized, with a text if given."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    file = io.BytesIO()
    with Image.open(PHOTO) as photo:
        photo.resize(size).save(file, "png")
    page.evaluate(
        """async ([picture, text]) => {
            const blob = await (await fetch(`data:image/png;base64,${picture}`)).blob()
            const content = text === null ? {} : { 'text/plain': text }
            await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob, ...content })])
        }""",
        [base64.b64encode(file.getvalue()).decode(), text],
    )


def test_an_exported_folder_lets_the_visitor_choose_the_runtime(browser: Any, tmp_path: Path) -> None:
    export = pytest.importorskip("cgrseg.deploy.export").export
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    torch.manual_seed(0)
    export(build("cgrseg_n", num_classes=2).eval(), tmp_path, formats=["onnx"], sizes=[(64, 96)], batches=[1])
    served = make_page(Choices([str(tmp_path)], device="cpu", short_side=96))
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    try:
        tab.goto(launch(served, host="127.0.0.1", port=None, block=False))
        tab.wait_for_selector("#photo input[type=file]", state="attached")
        tab.check("label:has-text('onnx') input[type=radio] >> nth=0")
        upload(tab, PHOTO)
        tab.wait_for_selector("#download-JSON:not([disabled])")
        with tab.expect_download() as download:
            tab.click("#download-JSON")
        assert json.loads(Path(download.value.path()).read_text())["runtime"] == "onnx"
    finally:
        tab.close()
        served.close()


def test_the_camera_is_labelled_live(page: Any) -> None:
    page.click("role=tab[name=Camera]")
    page.click("#camera button:has-text('Click to Access Webcam')")
    page.click("#camera button[aria-label*='start' i], #camera button:has-text('Record')")
    page.wait_for_selector("#camera-viewer .cgr-legend button")


def test_two_weights_stand_beside_each_other(page: Any) -> None:
    page.click("role=tab[name=Compare]")
    page.set_input_files("#compared-photo input[type=file]", str(PHOTO))
    text = page.wait_for_selector("#comparison table").inner_text()
    assert "<b>sky</b>" in text or "tree" in text
    assert "The two class lists have no names in common" in page.inner_text("#comparison")
    assert page.locator("#comparison .cgr-swatch").count() >= 2


def test_a_comparison_counts_agreement_by_name() -> None:
    model = build("cgrseg_n", num_classes=2)
    labels = LabelSpace(names=("<b>sky</b>", "tree"), colors=((70, 130, 180), (0, 100, 0)))
    model.description = replace(model.description, labels=labels)
    photo = np.zeros((64, 64, 3), np.uint8)
    left = Segmenter(model)(photo)
    right = Segmenter(model)(photo)
    left.labels[:], right.labels[:32], right.labels[32:] = 0, 0, 1
    text = comparison("one", left, "a<i>b", right)
    assert "same class on 50.0% of the photo" in text
    assert (
        "<td>&lt;b&gt;sky&lt;/b&gt;</td><td><span" in text
        and "</span>100.0%</td>" in text
        and "</span>50.0%</td>" in text
        and "<i>" not in text
    )


@pytest.mark.parametrize("count", [256, 300])
def test_the_browser_reads_every_class_id_exactly(page: Any, count: int) -> None:
    result = Segmenter(build("cgrseg_n", num_classes=count), short_side=64)(np.zeros((64, count, 3), np.uint8))
    result.labels[:] = np.arange(count)
    read = page.evaluate(
        """async ([code, markup, value]) => {
            const element = document.createElement("div")
            element.innerHTML = markup
            const viewer = new Function("element", "props", "watch", `${code}; return { load, readIds }`)
            const { load, readIds } = viewer(element, { value }, () => {})
            return [...readIds(await load(value.mask))]
        }""",
        [source("viewer.js"), source("viewer.html"), payload(result, "note")],
    )
    assert read == result.labels.ravel().tolist()


def test_the_viewer_gets_ids_beyond_256_and_a_size_that_a_screen_can_show() -> None:
    model = build("cgrseg_n", num_classes=300)
    result = Segmenter(model, short_side=64)(np.zeros((64, 2000, 3), np.uint8))
    result.labels[:] = 299
    shown = payload(result, "note")
    assert [each["id"] for each in shown["classes"]] == [299]

    with Image.open(io.BytesIO(base64.b64decode(shown["mask"].partition(",")[2]))) as mask:
        assert mask.size == (1280, 41)
        assert mask.getpixel((600, 20)) == (299 - 256, 1, 0)


def test_wrong_weights_are_one_line_before_the_page_opens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--weights", "cgrseg_t-ccp13"]) == 2
    assert "did you mean 'cgrseg_lite-voc21'?" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--weights", str(other), "--device", "cpu", "--port", str(port)]) == 2
    assert f"can't listen on 127.0.0.1:{port} (Address already in use): choose another port" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(other: Path, tmp_path: Path) -> None:
    (tmp_path / other.name).write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="have the same name"):
        Choices([str(other), str(tmp_path / other.name)])


def test_a_large_comparison_needs_little_memory() -> None:
    space = LabelSpace.numbered(150)
    labels = np.zeros((2000, 2000), np.uint8)
    left, right = (Segmentation(labels=each, label_space=space, photo=labels) for each in (labels, labels + 1))
    tracemalloc.start()
    assert agreement(left, right) == 0 and agreement(left, left) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < labels.nbytes


def test_only_formats_of_the_server_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(ValueError, match="is not an image"):
        read_upload({"path": str(path)})
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_upload({"path": str(path)})
    with pytest.raises(ValueError, match="is no longer on the server: upload it again"):
        read_upload({"path": str(tmp_path / "gone" / "a.png")})


def test_a_photo_is_labelled_while_a_video_runs(page: Any, tmp_path: Path) -> None:
    page.click("role=tab[name=Video]")
    assert page.is_disabled("#stop")  # nothing is running
    page.set_input_files("#clip input[type=file]", str(film(tmp_path / "long.mp4", frames=900)))
    page.wait_for_selector("#clip :text('KB')")
    page.click("text=Label the video")
    page.wait_for_selector("text=/[0-9]+.900 frames/")
    page.click("role=tab[name=Photo]")
    upload(page, PHOTO)
    page.click("role=tab[name=Video]")
    assert page.is_enabled("#stop")
    page.click("#stop")
    page.wait_for_selector(".toast-body:has-text('Stopped')")
    page.wait_for_selector("#stop[disabled]")


def test_old_files_of_cut_uploads_are_deleted(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old", tmp_path / "a" / "new"
    old.parent.mkdir()
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    delete_old_files(tmp_path, 3600)
    assert not old.exists() and new.exists()


def test_uploads_are_deleted_on_sigterm(other: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cgrseg", "app", "--weights", str(other), "--device", "cpu"]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
            post(f"{address[0]}gradio_api/upload", body, "multipart/form-data; boundary=x")
            assert [path.read_bytes() for path in tmp_path.rglob("*.png")] == [b"abc"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("cgrseg")]


def post(address: str, body: bytes, kind: str) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
    return content


def test_missing_weights_are_one_line_before_the_page_opens(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--weights", f"{other},nowhere.safetensors"]) == 2
    assert "no weights file nowhere.safetensors: check the path" in capsys.readouterr().err


def test_forged_calls_are_not_told_folders(address: str) -> None:
    with urllib.request.urlopen(f"{address}config", timeout=60) as response:
        config = json.loads(response.read())
    inputs = {each["id"] for each in config["components"] if each["type"] in ("image", "file")}
    for number, function in enumerate(config["dependencies"]):
        if not function["inputs"] or function["inputs"][0] not in inputs:
            continue
        upload = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        data = [upload, "cgrseg_lite-voc21", 0, "auto"][: len(function["inputs"])]
        call = {"fn_index": function.get("id", number), "data": data, "session_hash": f"s{number}"}
        post(f"{address}gradio_api/queue/join", json.dumps(call).encode(), "application/json")
        with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=s{number}", timeout=60) as events:
            told = ""
            for line in events:
                told += line.decode()
                if "process_completed" in told:
                    break
        assert '"success":false' in told.replace(" ", "") and "/etc" not in told and "folder" not in told, told


def test_camera_frames_are_labelled_one_after_the_other(page: Any) -> None:
    page.click("role=tab[name=Camera]")
    page.evaluate(
        """() => {
            window.updates = 0
            const note = document.querySelector('#camera-viewer .cgr-note')
            const what = { childList: true, characterData: true, subtree: true }
            new MutationObserver(() => window.updates++).observe(note, what)
        }"""
    )
    page.click("#camera button:has-text('Click to Access Webcam')")
    page.click("#camera button[aria-label*='start' i], #camera button:has-text('Record')")
    page.wait_for_function("window.updates >= 8", timeout=30_000)


def test_sliders_work_with_keys(page: Any, tmp_path: Path) -> None:
    upload(page, PHOTO)
    page.locator(".cgr-short-side input[type=range]").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('network input 64 x 75')")
    page.locator("#opacity input[type=range]").focus()
    page.keyboard.press("End")
    result = Segmenter("cgrseg_lite-voc21", device="cpu", short_side=64)(PHOTO)
    expected = np.asarray(result.overlay(alpha=1)).astype(int)
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        page.wait_for_selector("#download-overlay:not([disabled])")
        with page.expect_download() as download:
            page.click("#download-overlay")
        with Image.open(download.value.path()) as overlay:
            difference = np.abs(np.asarray(overlay).astype(int) - expected).mean()
        if difference < 4:
            return
        assert time.monotonic() < deadline, difference
        time.sleep(0.2)


def test_downloads_are_disabled_while_other_weights_are_loaded(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(page, PHOTO)
    page.wait_for_selector("#download-mask:not([disabled])")
    label, gate = Choices.label, threading.Event()
    monkeypatch.setattr(Choices, "label", lambda *arguments: gate.wait(60) and label(*arguments))
    page.click("#weights input")
    page.click("[role=option]:has-text('other')")
    try:
        for what in ("overlay", "mask", "JSON"):
            page.wait_for_selector(f"#download-{what}[disabled]", timeout=10_000)
    finally:
        gate.set()
    page.wait_for_selector("#download-overlay:not([disabled])")


def test_all_images_have_names(page: Any) -> None:
    upload(page, PHOTO)
    page.click("role=tab[name=Compare]")
    page.set_input_files("#compared-photo input[type=file]", str(PHOTO))
    page.wait_for_selector("#comparison table")
    unnamed = page.evaluate("[...document.images].filter((each) => !each.alt.trim()).map((each) => each.outerHTML)")
    assert unnamed == []


def test_a_photo_can_be_dropped_on_the_result(page: Any) -> None:
    file = io.BytesIO()
    with Image.open(PHOTO) as photo:
        photo.resize((128, 150)).save(file, "png")
    page.evaluate(
        """async (content) => {
            const blob = await (await fetch(`data:image/png;base64,${content}`)).blob()
            const transfer = new DataTransfer()
            transfer.items.add(new File([blob], "dropped.png", { type: "image/png" }))
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true }
            document.querySelector("#photo-viewer .cgr-hint").dispatchEvent(new DragEvent("drop", options))
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )
    page.wait_for_selector("#photo-viewer .cgr-note:has-text('128 x 150 pixels')")


def test_after_a_damaged_photo_nothing_of_the_last_one_can_be_downloaded(page: Any, tmp_path: Path) -> None:
    upload(page, PHOTO)
    page.wait_for_selector("#download-overlay:not([disabled])")
    (tmp_path / "notes.png").write_text("no photo")
    page.click("#photo button[aria-label='Clear'], #photo button[aria-label='Remove Image']")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "notes.png"))
    page.wait_for_selector(".toast-body:has-text('notes.png')")
    page.locator("#opacity input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(1000)
    assert all(page.is_disabled(f"#download-{what}") for what in ("overlay", "mask", "JSON"))
