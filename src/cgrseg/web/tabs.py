"""The tabs of the page: their components and event handlers."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib
import numpy as np

from cgrseg.images.photos import read_photo_bytes
from cgrseg.inference.network import Runtime
from cgrseg.inference.result import Segmentation
from cgrseg.inference.sources import VIDEO_SUFFIXES
from cgrseg.inference.video import segment_video
from cgrseg.server.containers import FORMATS, ContainerError, clean_image

from .choices import Choices
from .viewer import comparison, display_size, new_folder, payload, save_files, save_overlay, source

PHOTOS, VIDEOS = "photos", "videos"  # queues: one photo at a time, and one video that waits for photos
VIDEO_WAIT = 1.0  # seconds that a frame waits for photos at most, so that a camera does not stop a video
SEND_OPACITY = "(value) => { window.dispatchEvent(new CustomEvent('cgrseg-opacity', { detail: value })); return [] }"
Upload = dict[str, Any]  # Gradio's FileData, whose path Gradio has checked to be an upload


def photo_tab(choices: Choices) -> None:
    kept = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            photo = _photo_input("photo")
            example = [str(sample_photo())]
            gr.Examples([example], [photo], label="Example", cache_examples=False, elem_id="examples")
            weights, side, runtime = _settings(choices)
            opacity = gr.Slider(0, 1, value=0.5, step=0.01, label="Opacity of the colours", elem_id="opacity")
        with gr.Column(scale=2, min_width=300):
            viewer = _labels_viewer("photo-viewer")
            with gr.Row():
                buttons = [
                    gr.DownloadButton(f"Download {what}", size="sm", interactive=False, elem_id=f"download-{what}")
                    for what in ("overlay", "mask", "JSON")
                ]

    disabled = gr.update(value=None, interactive=False)
    outdated = (None, disabled, disabled, disabled)  # the result and its files

    def label(upload: Upload | None, name: str, side: float, runtime: Runtime) -> Iterator[tuple[Any, ...]]:
        """First the labels for the viewer, then the files to download, apart from the overlay."""
        if upload is None:
            yield None, *outdated
            return
        with _errors_shown():
            found = choices.label(read_upload(upload), name, side, runtime)
            yield payload(found.result, found.note(), prepared=found.prepared), *outdated
            found.result.release()
            files = save_files(found.result, new_folder() / Path(_name(upload)).stem, found.facts())
        yield gr.skip(), found.result, gr.skip(), *[gr.update(value=str(file), interactive=True) for file in files]

    def draw_overlay(result: Segmentation | None, upload: Upload | None, alpha: float) -> Any:
        if result is None or upload is None:
            return gr.skip()
        with _errors_shown():
            path = save_overlay(result, new_folder() / Path(_name(upload)).stem, alpha)
        return gr.update(value=str(path), interactive=True)

    # Sliders: .release does not fire for keys.
    changes = [photo.change, weights.change, side.change, runtime.change]
    gr.on(changes, lambda: outdated, None, [kept, *buttons], queue=False, show_progress="hidden")
    labelled = gr.on(
        changes,
        label,
        [photo, weights, side, runtime],
        [viewer, kept, *buttons],
        concurrency_id=PHOTOS,
        trigger_mode="always_last",
        show_progress_on=[viewer],
        preprocess=False,
    )
    drawn: dict[str, Any] = {"show_progress": "hidden", "preprocess": False}
    labelled.success(draw_overlay, [kept, photo, opacity], [buttons[0]], **drawn)
    opacity.input(None, [opacity], None, js=SEND_OPACITY)
    opacity.change(draw_overlay, [kept, photo, opacity], [buttons[0]], trigger_mode="always_last", **drawn)


def camera_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            camera = gr.Image(
                sources=["webcam"], streaming=True, label="Camera", elem_id="camera", alt_text="Camera image"
            )
            weights, side, runtime = _settings(choices)
        with gr.Column(scale=2, min_width=300):
            viewer = _labels_viewer("camera-viewer")

    def label(frame: Upload | None, name: str, side: float, runtime: Runtime) -> Any:
        if frame is None:
            return None
        with _errors_shown():
            found = choices.label(read_upload(frame), name, side, runtime)
            return payload(found.result, found.note())

    camera.stream(  # frames that arrive while one is being labelled are dropped (trigger_mode "once")
        label,
        [camera, weights, side, runtime],
        [viewer],
        stream_every=0.2,
        concurrency_id=PHOTOS,
        show_progress="hidden",
        preprocess=False,
    )


def video_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            clip = gr.File(label="Drop a video", file_types=sorted(VIDEO_SUFFIXES), height=140, elem_id="clip")
            weights, side, runtime = _settings(choices)
            with gr.Row():
                start = gr.Button("Label the video", variant="primary")
                stop = gr.Button("Stop", interactive=False, elem_id="stop")
        with gr.Column(scale=2, min_width=300):
            result = gr.Video(label="Labelled video", interactive=False, buttons=["download"])
            legend = gr.Image(
                label="First frame, with the shares of all frames",
                interactive=False,
                buttons=["download", "fullscreen"],
                alt_text="First frame of the video with its classes and their shares",
            )

    def label(
        upload: Upload | None,
        name: str,
        side: float,
        runtime: Runtime,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
    ) -> Iterator[tuple[Any, Any]]:
        if upload is None:
            raise gr.Error("Drop a video first.", print_exception=False)
        with _errors_shown():
            path = Path(upload["path"])
            segmenter = choices.segmenter(name, side, runtime)
            folder = new_folder()
            outputs = {"overlay": folder / f"{Path(_name(upload)).stem}.overlay.mp4", "legend": folder / "legend.jpg"}
            frames, done = _frames(path), 0
            for count in segment_video(segmenter, path, outputs):
                done += count
                progress((done, max(frames, done)), desc="labelling", unit="frames")
                yield gr.skip(), gr.skip()  # Stop ends it here, and segment_video removes its files
                choices.wait_for_photos(VIDEO_WAIT)
        yield str(outputs["overlay"]), str(outputs["legend"])

    def stopped() -> Any:
        gr.Info("Stopped: no part of this video is kept.", duration=10)
        return gr.update(interactive=False)

    start.click(lambda: gr.update(interactive=True), None, [stop], queue=False)
    running = start.click(
        label,
        [clip, weights, side, runtime],
        [result, legend],
        concurrency_id=VIDEOS,
        show_progress_on=[result],
        preprocess=False,
    )
    running.then(lambda: gr.update(interactive=False), None, [stop], queue=False)
    stop.click(stopped, None, [stop], cancels=[running])


def compare_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            photo = _photo_input("compared-photo")
            left = gr.Dropdown(choices.names, value=choices.names[0], label="Weights on the left")
            right = gr.Dropdown(choices.names, value=choices.names[-1], label="Weights on the right")
            side = _short_side()
        with gr.Column(scale=2, min_width=300):
            slider = gr.ImageSlider(
                label="Left and right", interactive=False, max_height=640, buttons=["download", "fullscreen"]
            )
            table = gr.HTML(elem_id="comparison")

    def label(upload: Upload | None, one: str, other: str, side: float) -> tuple[Any, str]:
        if upload is None:
            return None, ""
        results, pictures = [], []
        with _errors_shown():
            pixels = read_upload(upload)
            for name in (one, other):
                result = choices.label(pixels, name, side, "auto").result
                result.release()
                results.append(result)
                pictures.append(result.overlay(legend=False).resize(display_size(result)))
            return tuple(pictures), comparison(one, results[0], other, results[1])

    gr.on(
        [photo.change, left.change, right.change, side.change],
        label,
        [photo, left, right, side],
        [slider, table],
        concurrency_id=PHOTOS,
        trigger_mode="always_last",
        show_progress_on=[slider],
        preprocess=False,
    )


def read_upload(upload: Upload) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An uploaded photo as upright uint8 RGB [H, W, 3]; of the formats that the server accepts.

    Gradio would open any format, and its error messages give no advice: events have preprocess=False.

    Raises:
        ValueError: it is not an image, is damaged, or is no longer on the server.
    """
    name, url = _name(upload), upload.get("url") or ""
    try:
        camera = url.startswith("data:")
        data = base64.b64decode(url.partition(",")[2]) if camera else Path(upload["path"]).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} is no longer on the server: upload it again") from error
    try:
        return read_photo_bytes(clean_image(data), name, formats=FORMATS)
    except ContainerError as error:
        raise ValueError(f"{name} {error}") from error


def sample_photo() -> Path:
    """The photo that comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def _name(upload: Upload) -> str:
    """The name of the visitor's file."""
    return Path(upload.get("orig_name") or upload.get("path") or "image").name


def _photo_input(name: str) -> gr.Image:
    return gr.Image(
        sources=["upload", "clipboard", "webcam"],
        label="Photo",
        show_label=False,  # it would cover the photo
        placeholder="Drop or paste an image here, or click to choose one",
        height=300,
        buttons=["download", "fullscreen"],
        alt_text="Photo",
        elem_id=name,
        elem_classes="cgr-photo",  # for page.js
    )


def _settings(choices: Choices) -> tuple[gr.Dropdown, gr.Slider, gr.Radio]:
    weights = gr.Dropdown(choices.names, value=choices.names[0], label="Weights", elem_id="weights")
    side = _short_side()
    runtime = gr.Radio(choices.runtimes, value="auto", label="Runtime", visible=len(choices.runtimes) > 1)
    return weights, side, runtime


def _short_side() -> gr.Slider:
    info = "pixels of the shorter side of the network's input; 0: as in the weights"
    return gr.Slider(0, 1024, value=0, step=32, label="Short side", info=info, elem_classes="cgr-short-side")


def _labels_viewer(name: str) -> gr.HTML:
    return gr.HTML(
        value=None,
        html_template=source("viewer.html"),
        css_template=source("viewer.css"),
        js_on_load=source("viewer.js"),
        apply_default_css=False,
        elem_id=name,
    )


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Show what is wrong with the visitor's file or choice as a message, without folders of this machine."""
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        text = re.sub(f"{re.escape(os.environ['GRADIO_TEMP_DIR'])}/(?:[^/ ]+/)*", "", text)
        raise gr.Error(html.escape(text, quote=False), duration=20, print_exception=False) from error


def _frames(path: Path) -> int:
    """The number of frames according to the file; 0 if it has none or is not a video."""
    try:
        import av

        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames) if container.streams.video else 0
    except (ImportError, OSError, ValueError):  # segment_video reports the error
        return 0
