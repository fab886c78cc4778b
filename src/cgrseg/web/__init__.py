"""The page of `cgrseg app`: static files in `static/`, and what they need besides the routes of the server."""

from __future__ import annotations

import signal
import socket
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from cgrseg.inference.network import SUFFIXES, Runtime, installed
from cgrseg.server.app import Server, ServerConfig, listen, uvicorn_config
from cgrseg.server.models import Models, Opener, rgb_segmenter
from cgrseg.server.observability import log_to_stderr
from cgrseg.server.routes import make_app
from cgrseg.server.uploads import Limits, RefusedError
from cgrseg.weights.load import find_weights

from .video import GRACE, video_route

# `read_seconds` is also for a video from a slow network. A page has few visitors: no batches.
LIMITS = Limits(batch=1, seconds=60.0, read_seconds=600.0)
PORTS = range(7860, 7960)
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# caption -> package and file, of packages in the extra "app"
EXAMPLES = {
    "Grace Hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "Cat": ("skimage", "data/chelsea.png"),
    "Motorcycle": ("skimage", "data/motorcycle_left.png"),
    "Astronaut": ("skimage", "data/astronaut.png"),
    "Cameraman": ("skimage", "data/camera.png"),
}


class _Static(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(SECURITY)
        return response


def make_page(weights: Sequence[str], *, device: str = "auto", short_side: int | None = None) -> FastAPI:
    """The server's application with the page at "/".

    Args:
        weights: weights files, bundled names, "hf:USER/NAME", or folders of `cgrseg export`. All must exist; the first
            is loaded now.
        device: as for `cgrseg.load`.
        short_side: of the network's input, if the visitor chooses none; None for that of the weights.

    Raises:
        ValueError, OSError: weights do not exist or can't be loaded, or two have the same name.
    """
    named = {_public_name(name): name for name in weights}
    if len(named) < len(weights):
        raise ValueError(f"two of the weights {', '.join(weights)} have the same name: rename one")
    for name in weights:
        if not Path(name).is_dir() and not find_weights(name).exists():  # a folder may hold exported files
            raise FileNotFoundError(f"{name} does not exist: check the path")
    openers: dict[str, Opener] = {
        name: partial(rgb_segmenter, path, device=device, short_side=short_side) for name, path in named.items()
    }
    first, opener = next(iter(openers.items()))
    segmenter = opener("auto")  # reports wrong weights before the address is opened
    openers[first] = lambda runtime: segmenter if runtime == "auto" else opener(runtime)
    runtimes: list[Runtime] = ["auto"]
    if any(Path(path).is_dir() for path in weights):  # a folder of exported files, which several runtimes may open
        runtimes += [name for name in SUFFIXES if installed(name)]  # type: ignore[misc]
    app = make_app(openers, ServerConfig(limits=LIMITS), runtimes=runtimes)
    examples = {name: path for name in EXAMPLES if (path := _example(name)) is not None}

    @app.get("/page/settings", include_in_schema=False)
    async def settings(request: Request) -> dict[str, Any]:
        models: Models = request.app.state.models
        return {"weights": models.names, "runtimes": models.runtimes, "examples": list(examples)}

    @app.get("/page/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        if name not in examples:
            raise RefusedError(404, "no example has this name")
        return FileResponse(examples[name])

    app.post("/page/video", include_in_schema=False)(video_route)
    app.mount("/", _Static(directory=Path(__file__).parent / "static", html=True))
    return app


def launch(app: FastAPI, *, host: str, port: int | None, browser: bool = False) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        app: from `make_page`.
        host, port: the address to listen on; None takes the first free port from 7860.
        browser: open the page in the browser.

    Raises:
        ValueError: the host is not an address of this machine.
        OSError: can't listen on the address, for example because the port is in use.
    """
    listener = listen(host, port) if port is not None else _listen_anywhere(host)
    config = uvicorn_config(lambda: app, ServerConfig(limits=LIMITS))
    config.timeout_graceful_shutdown = GRACE
    server = Server(config)
    log_to_stderr("WARNING")
    for signum in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again after it has stopped
        signal.signal(signum, lambda *_: None)
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    threading.Thread(target=_announce, args=(server, address, browser), daemon=True).start()
    server.run(sockets=[listener])


def _listen_anywhere(host: str) -> socket.socket:
    for number in PORTS[:-1]:
        with suppress(OSError):
            return listen(host, number)
    return listen(host, PORTS[-1])


def _announce(server: Server, address: str, browser: bool) -> None:
    while not server.started:
        time.sleep(0.05)
    print(f"the page is at {address} (Ctrl-C stops it)", flush=True)
    if browser:
        webbrowser.open(address)


def _public_name(weights: str) -> str:
    """Without the folders of this machine."""
    path = Path(weights)
    return path.stem if path.is_file() else path.resolve().name if path.is_dir() else weights


def _example(caption: str) -> Path | None:
    package, name = EXAMPLES[caption]
    found = find_spec(package)
    path = Path((found.submodule_search_locations or [""])[0], name) if found is not None else Path()
    return path if path.is_file() else None
