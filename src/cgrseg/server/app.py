"""The processes of `cgrseg serve`: uvicorn in this one, or one worker process per model under a supervisor."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from .models import Opener, rgb_segmenter
from .observability import LOGGER, log_to_stderr
from .routes import ServerConfig, make_app
from .uploads import TimeoutProtocol

__all__ = ["Server", "ServerConfig", "listen", "serve", "uvicorn_config"]

BACKLOG = 1024  # connections that the kernel holds for us
FORCED_EXIT = 1  # exit code when accepted requests were not finished


class Server(uvicorn.Server):
    """uvicorn's server, whose end takes no longer than its grace time.

    SIGTERM or Ctrl-C finishes the accepted requests. After the grace time, or at a second Ctrl-C, the process ends at
    once: a thread that decodes a photo can't be interrupted otherwise.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os._exit(FORCED_EXIT)
        if not self.should_exit:
            timer = threading.Timer((self.config.timeout_graceful_shutdown or 0) + 2, os._exit, (FORCED_EXIT,))
            timer.daemon = True
            timer.start()
        super().handle_exit(sig, frame)


def serve(
    weights: str, config: ServerConfig, *, device: str = "auto", short_side: int | None = None, bf16: bool = False
) -> None:
    """Load the weights and serve until SIGTERM or Ctrl-C; then finish the accepted requests and return.

    Raises:
        OSError, ValueError: the weights can't be read, or the address is in use.
    """
    opener: Opener = partial(rgb_segmenter, weights, device=device, short_side=short_side, bf16=bf16)
    openers = {Path(weights).stem: opener}
    if config.workers == 1:
        segmenter = opener("auto")  # reports wrong weights before the address is opened
        openers = dict.fromkeys(openers, lambda _: segmenter)
    listener = listen(config.host, config.port)
    log_to_stderr()
    host, port = listener.getsockname()[:2]
    LOGGER.info("listening", extra={"fields": {"host": host, "port": port, "workers": config.workers}})
    run = partial(_run, openers, config, listener)
    if config.workers > 1:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # prometheus_client has no other setting
            _supervise(run, config)
        return
    run()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ValueError: the host is not an address of this machine.
        OSError: can't listen there, for example because the port is in use.
    """
    try:
        socket.getaddrinfo(host, port, socket.AF_INET)
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"--host {host} is not an IPv4 address of this machine: use 127.0.0.1, or 0.0.0.0 to accept other "
                "machines"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"can't listen on {host}:{port} ({reason}): choose another port") from error


def uvicorn_config(app: Callable[[], FastAPI], config: ServerConfig) -> uvicorn.Config:
    """The settings of uvicorn; `app` is called in the process that serves."""
    return uvicorn.Config(
        app,
        factory=True,
        http=TimeoutProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(config.limits.seconds + config.limits.read_seconds + 5),
    )


def _run(openers: Mapping[str, Opener], config: ServerConfig, listener: socket.socket) -> None:
    """In the process that serves."""
    log_to_stderr()
    torch.set_num_threads(max(torch.get_num_threads() // config.workers, 1))
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again after it has stopped
        signal.signal(number, lambda *_: None)
    Server(uvicorn_config(partial(make_app, openers, config), config)).run(sockets=[listener])


def _supervise(run: Callable[[], None], config: ServerConfig) -> None:
    """Keep `config.workers` processes running until a signal, then wait for them, or kill those that do not end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    workers = [_start(run) for _ in range(config.workers)]
    failed = False
    while not stop.wait(0.2):
        for index, worker in enumerate(workers):
            if worker.is_alive():
                continue
            if worker.exitcode == STARTUP_FAILURE:
                failed = True
                stop.set()
                break
            LOGGER.warning("a worker died", extra={"fields": {"pid": worker.pid, "exit_code": worker.exitcode}})
            workers[index] = _start(run)
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + config.limits.seconds + config.limits.read_seconds + 10
    for worker in workers:
        worker.join(max(deadline - time.monotonic(), 0))
        if worker.is_alive():
            worker.kill()
            worker.join()
    if failed:
        raise ValueError("a worker failed to start: see the log above")


def _start(run: Callable[[], None]) -> SpawnProcess:
    worker = multiprocessing.get_context("spawn").Process(target=run, daemon=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: no tracebacks if Ctrl-C comes during its imports
    worker.start()
    signal.signal(signal.SIGINT, before)
    return worker
