"""The page: a photo, camera or video goes in at a browser, a labelled picture comes out (extra `app`, Gradio).

Nothing leaves the machine: Gradio's analytics are off, fonts and scripts come from this server alone.
"""

from __future__ import annotations

import os
import socket

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which asks at once

import gradio as gr

from .choices import Choices
from .tabs import camera_tab, compare_tab, photo_tab, video_tab
from .viewer import source

SYSTEM_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
TITLE = "# A photo goes in, a labelled picture comes out"


def make_page(choices: Choices) -> gr.Blocks:
    """The page with its tabs: photo, camera, video, and two weights beside each other.

    Args:
        choices: the weights to choose from.
    """
    page: gr.Blocks = gr.Blocks(title="cgrseg", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600))
    tabs = {"Photo": photo_tab, "Camera": camera_tab, "Video": video_tab, "Compare": compare_tab}
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
    theme.set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_400")  # readable
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
        css=source("page.css"),
        js=source("paste.js"),
    )
    if block:
        print(f"the page is at {address} (Ctrl-C stops it)", flush=True)
        page.block_thread()
    return str(address)
