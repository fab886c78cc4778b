"""The page: a photo, camera or video goes in at a browser, a labelled picture comes out (extra `app`, Gradio).

Nothing leaves the machine: Gradio's analytics are off, fonts and scripts come from this server alone.
"""

from __future__ import annotations

import html
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which asks at once

import gradio as gr
import matplotlib
import numpy as np

from cgrseg.inference.result import Segmentation
from cgrseg.inference.runtimes import Runtime
from cgrseg.inference.sources import VIDEO_SUFFIXES
from cgrseg.inference.video import label_video

from .choices import Choices
from .viewer import classes, payload, source

NETWORK = "network"  # what uses the network goes one after the other: two at once would each take twice as long
SYSTEM_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
CSS = """
footer { display: none !important }
.cgr-app { max-width: 1280px; margin: 0 auto }
@media (max-width: 640px) { .gradio-container { padding: 6px !important } }
"""
SEND_OPACITY = "(value) => { window.dispatchEvent(new CustomEvent('cgrseg-opacity', { detail: value })); return [] }"
TITLE = "# A photo goes in, a labelled picture comes out"


def make_page(choices: Choices) -> gr.Blocks:
    """The page with its tabs: photo, camera, video, and two weights beside each other.

    Args:
        choices: the weights to choose from.
    """
    page: gr.Blocks = gr.Blocks(title="cgrseg", analytics_enabled=False, delete_cache=(3600, 3600))
    tabs = {"Photo": _photo_tab, "Camera": _camera_tab, "Video": _video_tab, "Compare": _compare_tab}
    with page, gr.Column(elem_classes="cgr-app"):
        gr.Markdown(TITLE)
        with gr.Tabs():
            for title, fill in tabs.items():
                with gr.Tab(title):
                    fill(choices)
    page.queue(api_open=False)
    return page


def launch(page: gr.Blocks, *, host: str, port: int | None, browser: bool = False, block: bool = True) -> str:
    """Serve the page; returns its address, at once where `block` is False.

    Raises:
        OSError: the address can't be listened at, as where the port is taken.
    """
    font, mono = SYSTEM_FONTS
    theme = gr.themes.Base(primary_hue="teal", font=font, font_mono=mono)
    if port is not None:  # Gradio's own message speaks of its settings
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"{host}:{port} can't be listened at ({reason}): choose another") from error
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size="1gb",
        state_session_capacity=100,
        theme=theme,
        css=CSS,
    )
    if block:
        print(f"the page is at {address} (Ctrl-C stops it)", flush=True)
        page.block_thread()
    return str(address)


def _photo_tab(choices: Choices) -> None:
    kept = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photo = _photo_input("photo")
            weights, side, runtime = _settings(choices)
            opacity = gr.Slider(0, 1, value=0.5, step=0.01, label="Opacity of the colours", elem_id="opacity")
            example = [str(sample_photo())]
            gr.Examples([example], [photo], label="A photo to begin with", cache_examples=False, elem_id="examples")
        with gr.Column(scale=2, min_width=300):
            viewer = _viewer("photo-viewer")
            with gr.Row():
                buttons = [
                    gr.DownloadButton(f"Download {what}", size="sm", interactive=False, elem_id=f"download-{what}")
                    for what in ("overlay", "mask", "JSON")
                ]

    def label(path: str | None, name: str, side: float, runtime: Runtime, alpha: float) -> Iterator[tuple[Any, ...]]:
        """First what is shown, then the files to download."""
        nothing = [gr.update(value=None, interactive=False)] * 3
        if path is None:
            yield None, None, *nothing
            return
        with told(path):
            result, note, facts = choices.label(path, name, side, runtime)
            yield payload(result, note), None, *nothing
            result.release()
            folder = Path(tempfile.mkdtemp(prefix="cgrseg-", dir=_cache()))
            files = _downloads(result, folder / Path(path).stem, facts, alpha)
        yield gr.skip(), result, *[gr.update(value=str(file), interactive=True) for file in files]

    def redraw(result: Segmentation | None, path: str | None, alpha: float) -> Any:
        if result is None or path is None:
            return gr.skip()
        folder = Path(tempfile.mkdtemp(prefix="cgrseg-", dir=_cache()))
        return gr.update(value=str(_overlay(result, folder / Path(path).stem, alpha)))

    changes = [photo.change, weights.change, side.release, runtime.change]
    gr.on(
        changes,
        label,
        [photo, weights, side, runtime, opacity],
        [viewer, kept, *buttons],
        concurrency_id=NETWORK,
        trigger_mode="always_last",
        show_progress_on=[viewer],
    )
    opacity.input(None, [opacity], None, js=SEND_OPACITY)
    opacity.release(redraw, [kept, photo, opacity], [buttons[0]], show_progress="hidden")


def _camera_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            camera = gr.Image(sources=["webcam"], streaming=True, type="numpy", label="Camera", elem_id="camera")
            weights, side, runtime = _settings(choices)
        with gr.Column(scale=2, min_width=300):
            viewer = _viewer("camera-viewer")

    def label(frame: np.ndarray[Any, Any] | None, name: str, side: float, runtime: Runtime) -> Any:
        if frame is None:
            return None
        with told():
            result, note, _ = choices.label(frame, name, side, runtime)
            result.release()
            return payload(result, note)

    camera.stream(
        label,
        [camera, weights, side, runtime],
        [viewer],
        stream_every=0.3,
        concurrency_id=NETWORK,
        show_progress="hidden",
        trigger_mode="always_last",
    )


def _video_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            clip = gr.File(label="Drop a video", file_types=sorted(VIDEO_SUFFIXES), height=140, elem_id="clip")
            weights, side, runtime = _settings(choices)
            with gr.Row():
                start, stop = gr.Button("Label the video", variant="primary"), gr.Button("Stop")
        with gr.Column(scale=2, min_width=300):
            result = gr.Video(label="Labelled video", interactive=False)
            legend = gr.Image(label="First frame, with the shares of all frames", interactive=False)

    def label(
        path: str | None,
        name: str,
        side: float,
        runtime: Runtime,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
    ) -> Iterator[tuple[Any, Any]]:
        if path is None:
            raise gr.Error("Drop a video first.", print_exception=False)
        with told(path):
            segmenter = choices.segmenter(name, side, runtime)
            folder = Path(tempfile.mkdtemp(prefix="cgrseg-", dir=_cache()))
            outputs = {"overlay": folder / f"{Path(path).stem}.overlay.mp4", "legend": folder / "legend.jpg"}
            frames, done = _frames(Path(path)), 0
            for count in label_video(segmenter, Path(path), outputs):
                done += count
                progress((done, max(frames, done)), desc="labelling", unit="frames")
                yield gr.skip(), gr.skip()  # here Stop ends it, and label_video clears away what it has written
        yield str(outputs["overlay"]), str(outputs["legend"])

    def stopped() -> None:
        gr.Info("Stopped: of this video nothing is kept.", duration=10)

    running = start.click(
        label, [clip, weights, side, runtime], [result, legend], concurrency_id=NETWORK, show_progress_on=[result]
    )
    stop.click(stopped, cancels=[running])


def _compare_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photo = _photo_input("compared-photo")
            left = gr.Dropdown(choices.names, value=choices.names[0], label="Weights on the left")
            right = gr.Dropdown(choices.names, value=choices.names[-1], label="Weights on the right")
            side = _side()
        with gr.Column(scale=2, min_width=300):
            slider = gr.ImageSlider(label="Left and right", interactive=False, max_height=640)
            table = gr.HTML(elem_id="comparison")

    def label(path: str | None, one: str, other: str, side: float) -> tuple[Any, str]:
        if path is None:
            return None, ""
        with told(path):
            results = [choices.label(path, name, side, "auto")[0] for name in (one, other)]
        pictures = tuple(result.overlay(legend=False) for result in results)
        return pictures, comparison(one, results[0], other, results[1])

    gr.on(
        [photo.change, left.change, right.change, side.release],
        label,
        [photo, left, right, side],
        [slider, table],
        concurrency_id=NETWORK,
        trigger_mode="always_last",
        show_progress_on=[slider],
    )


def comparison(one: str, left: Segmentation, other: str, right: Segmentation) -> str:
    """A table of both shares by class name, and on how much of the photo the two name the same class."""
    first, second = left.areas(), right.areas()
    names = sorted({*first, *second}, key=lambda name: -first.get(name, 0) - second.get(name, 0))
    same = float(np.mean(np.array(left.names)[left.labels] == np.array(right.names)[right.labels]))
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{first.get(name, 0):.1%}</td><td>{second.get(name, 0):.1%}</td></tr>"
        for name in names
    ]
    head = f"<tr><th>class</th><th>{html.escape(one)}</th><th>{html.escape(other)}</th></tr>"
    return f"<p>Both name the same class on {same:.1%} of the photo.</p><table>{head}{''.join(rows)}</table>"


def sample_photo() -> Path:
    """The photo that comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@contextmanager
def told(upload: str | None = None) -> Iterator[None]:
    """What is wrong with the visitor's photo, video or choice appears as a message on the page."""
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        if upload is not None:  # the visitor knows the file's name, not where the server keeps it
            text = text.replace(f"{Path(upload).parent}{os.sep}", "")
        raise gr.Error(html.escape(text, quote=False), duration=20, print_exception=False) from error


def _photo_input(name: str) -> gr.Image:
    photo = gr.Image(
        sources=["upload", "clipboard", "webcam"],
        type="filepath",
        label="Drop, paste or photograph a picture",
        height=300,
        elem_id=name,
    )
    original: Callable[[Any], Any] = photo.preprocess

    def path_of(upload: Any) -> Any:
        """The file as it came. Gradio would open it first, and its message says nothing about the cure."""
        if upload is None or not upload.path or (upload.url or "").startswith("data:"):
            return original(upload)
        return upload.path

    photo.preprocess = path_of  # type: ignore[method-assign, assignment]
    return photo


def _settings(choices: Choices) -> tuple[gr.Dropdown, gr.Slider, gr.Radio]:
    weights = gr.Dropdown(choices.names, value=choices.names[0], label="Weights", elem_id="weights")
    side = _side()
    runtime = gr.Radio(choices.runtimes, value="auto", label="Runtime", visible=len(choices.runtimes) > 1)
    return weights, side, runtime


def _side() -> gr.Slider:
    info = "pixels of the shorter side that the network sees; 0: as the weights say"
    return gr.Slider(0, 1024, value=0, step=32, label="Short side", info=info)


def _viewer(name: str) -> gr.HTML:
    return gr.HTML(
        value=None,
        html_template=source("html"),
        css_template=source("css"),
        js_on_load=source("js"),
        apply_default_css=False,
        elem_id=name,
    )


def _downloads(result: Segmentation, stem: Path, facts: dict[str, Any], alpha: float) -> Sequence[Path]:
    mask, table = stem.with_name(f"{stem.name}.mask.png"), stem.with_name(f"{stem.name}.json")
    result.save(mask)
    height, width = result.labels.shape
    content = {"width": width, "height": height, **facts, "classes": classes(result)}
    table.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return _overlay(result, stem, alpha), mask, table


def _overlay(result: Segmentation, stem: Path, alpha: float) -> Path:
    path = stem.with_name(f"{stem.name}.overlay.jpg")
    result.overlay(alpha=alpha).save(path, quality=92, subsampling=0)
    return path


def _cache() -> Path:
    """Gradio's own folder: it serves files from there, and clears them away after an hour."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _frames(path: Path) -> int:
    """How many frames the file claims to have; 0 where it doesn't say, or is no video."""
    try:
        import av

        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames) if container.streams.video else 0
    except (ImportError, OSError, ValueError):  # label_video says what is wrong
        return 0
