"""The page of `cgrseg app`: labels photos, the camera and videos in a browser (extra `app`, Gradio).

No data leaves the machine: Gradio's analytics are off, fonts and scripts come from this server alone.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

# Gradio reads these two settings from the environment only, the first when it is imported, the second at each upload.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from .choices import Choices
from .tabs import camera_tab, compare_tab, photo_tab, video_tab
from .viewer import source

FOLDER_SETTING = "GRADIO_TEMP_DIR"
SYSTEM_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
TITLE = "# Label every pixel of an image"
MAX_AGE = 3600  # seconds that uploads and results are kept


def make_page(choices: Choices) -> gr.Blocks:
    """The page with its tabs: photo, camera, video, and a comparison of two weights.

    Args:
        choices: the weights to choose from.
    """
    os.environ[FOLDER_SETTING] = str(_temporary_folder())
    page: gr.Blocks = gr.Blocks(title="cgrseg", analytics_enabled=False, fill_width=True)
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
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        page: from `make_page`.
        host, port: the address to listen on; None takes the first free port from 7860.
        browser: open the page in the browser.
        block: False returns at once.

    Returns:
        The page's address.

    Raises:
        OSError: can't listen on the address, for example because the port is in use.
    """
    font, mono = SYSTEM_FONTS
    theme = gr.themes.Base(primary_hue="teal", font=font, font_mono=mono)
    theme.set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_400")  # contrast
    if port is not None:  # Gradio's own message names its settings
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"can't listen on {host}:{port} ({reason}): choose another port") from error
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=False,  # messages of ours are shown; other errors could name folders of this machine
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
        js=source("page.js"),
    )
    if block:
        stop = threading.Event()
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        print(f"the page is at {address} (Ctrl-C stops it)", flush=True)
        stop.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        page.close(verbose=False)
    return str(address)


@cache
def _temporary_folder() -> Path:
    """The folder of uploads and results: its files are deleted after an hour, and the folder when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="cgrseg-page-", dir=os.environ.get(FOLDER_SETTING)))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    threading.Thread(target=_delete_old_files_forever, args=(folder,), daemon=True).start()
    return folder


def _delete_old_files_forever(folder: Path) -> None:
    while True:
        time.sleep(MAX_AGE / 10)
        delete_old_files(folder, MAX_AGE)


def delete_old_files(folder: Path, age: float) -> None:
    """Delete files older than `age` seconds, also those of uploads that were cut off, which Gradio does not know."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > age:
                path.unlink()
        except OSError:  # deleted meanwhile
            continue
