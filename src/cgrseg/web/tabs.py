"""The tabs of the page: what each holds, and what happens in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from cgrseg.inference.result import Segmentation
from cgrseg.inference.runtimes import Runtime
from cgrseg.inference.sources import VIDEO_SUFFIXES
from cgrseg.inference.video import label_video

from .choices import Choices
from .parts import labels_viewer, photo_input, sample_photo, settings, short_side, told
from .viewer import comparison, fresh_folder, payload, save_files, save_overlay

NETWORK = "network"  # what uses the network goes one after the other: two at once would each take twice as long
SEND_OPACITY = "(value) => { window.dispatchEvent(new CustomEvent('cgrseg-opacity', { detail: value })); return [] }"


def photo_tab(choices: Choices) -> None:
    kept = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            photo = photo_input("photo")
            example = [str(sample_photo())]
            gr.Examples([example], [photo], label="A photo to begin with", cache_examples=False, elem_id="examples")
            weights, side, runtime = settings(choices)
            opacity = gr.Slider(0, 1, value=0.5, step=0.01, label="Opacity of the colours", elem_id="opacity")
        with gr.Column(scale=2, min_width=300):
            viewer = labels_viewer("photo-viewer")
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
            folder = fresh_folder()
            files = save_files(result, folder / Path(path).stem, facts, alpha)
        yield gr.skip(), result, *[gr.update(value=str(file), interactive=True) for file in files]

    def redraw(result: Segmentation | None, path: str | None, alpha: float) -> Any:
        if result is None or path is None:
            return gr.skip()
        folder = fresh_folder()
        return gr.update(value=str(save_overlay(result, folder / Path(path).stem, alpha)))

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


def camera_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            camera = gr.Image(sources=["webcam"], streaming=True, type="numpy", label="Camera", elem_id="camera")
            weights, side, runtime = settings(choices)
        with gr.Column(scale=2, min_width=300):
            viewer = labels_viewer("camera-viewer")

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


def video_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            clip = gr.File(label="Drop a video", file_types=sorted(VIDEO_SUFFIXES), height=140, elem_id="clip")
            weights, side, runtime = settings(choices)
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
            folder = fresh_folder()
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


def compare_tab(choices: Choices) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="cgr-inputs"):
            photo = photo_input("compared-photo")
            left = gr.Dropdown(choices.names, value=choices.names[0], label="Weights on the left")
            right = gr.Dropdown(choices.names, value=choices.names[-1], label="Weights on the right")
            side = short_side()
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


def _frames(path: Path) -> int:
    """How many frames the file claims to have; 0 where it doesn't say, or is no video."""
    try:
        import av

        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames) if container.streams.video else 0
    except (ImportError, OSError, ValueError):  # label_video says what is wrong
        return 0
