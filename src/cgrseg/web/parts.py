"""Parts that the tabs share: the photo's input, the settings, the viewer, and how a mistake is told."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib

from .choices import Choices
from .viewer import source


def photo_input(name: str) -> gr.Image:
    photo = gr.Image(
        sources=["upload", "clipboard", "webcam"],
        type="filepath",
        label="Photo",
        show_label=False,  # it would cover the picture
        placeholder="Drop or paste a picture here, or click to choose one",
        height=300,
        elem_id=name,
        elem_classes="cgr-photo",  # where paste.js looks
    )
    original: Callable[[Any], Any] = photo.preprocess

    def path_of(upload: Any) -> Any:
        """The file as it came. Gradio would open it first, and its message says nothing about the cure."""
        if upload is None or not upload.path or (upload.url or "").startswith("data:"):
            return original(upload)
        return upload.path

    photo.preprocess = path_of  # type: ignore[method-assign, assignment]
    return photo


def settings(choices: Choices) -> tuple[gr.Dropdown, gr.Slider, gr.Radio]:
    weights = gr.Dropdown(choices.names, value=choices.names[0], label="Weights", elem_id="weights")
    side = short_side()
    runtime = gr.Radio(choices.runtimes, value="auto", label="Runtime", visible=len(choices.runtimes) > 1)
    return weights, side, runtime


def short_side() -> gr.Slider:
    info = "pixels of the shorter side that the network sees; 0: as the weights say"
    return gr.Slider(0, 1024, value=0, step=32, label="Short side", info=info)


def labels_viewer(name: str) -> gr.HTML:
    return gr.HTML(
        value=None,
        html_template=source("viewer.html"),
        css_template=source("viewer.css"),
        js_on_load=source("viewer.js"),
        apply_default_css=False,
        elem_id=name,
    )


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


def sample_photo() -> Path:
    """The photo that comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
