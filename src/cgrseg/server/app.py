"""The HTTP server: FastAPI says what there is, `Batcher` does it, uvicorn carries it."""

from __future__ import annotations

import hashlib
import hmac
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from uvicorn.supervisors import Multiprocess

import cgrseg
from cgrseg._process import keep_memory
from cgrseg.inference.segmenter import Segmenter

from .batching import Batcher, Job
from .observability import LOGGER, Metrics, Watching, log_to_stderr
from .protocol import ImpatientProtocol
from .responses import Output, make_answer
from .uploads import Bodies, Limits, RefusedError, photo_in

STARTING = 120  # seconds that a worker process may be silent: importing torch alone can take twenty
BACKLOG = 1024  # connections that the kernel may hold for us
BEARER = HTTPBearer(auto_error=False)
PHOTO = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": PHOTO}, "required": ["file"]}},
            "image/*": {"schema": PHOTO},
            "application/octet-stream": {"schema": PHOTO},
        },
    }
}
REFUSALS = {
    400: "a body that holds no photo, or a broken form",
    401: "the key is missing or wrong",
    408: "the request arrived too slowly",
    413: "too many bytes or pixels",
    415: "no photo in a known format",
    422: "a damaged photo, or a query that makes no sense",
    503: "too many photos are waiting: see Retry-After",
    504: "no answer in time",
}


@dataclass(frozen=True)
class ServerConfig:
    """How a server listens and what it takes.

    Args:
        host, port: where it listens; port 0 takes a free one.
        workers: processes, each with a model of its own.
        limits: see there.
        key: what `Authorization: Bearer KEY` must hold for /v1; None lets everyone in.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    key: str | None = field(default=None, repr=False)


def make_app(segmenter: Segmenter | Callable[[], Segmenter], config: ServerConfig, *, name: str = "cgrseg") -> FastAPI:
    """The application.

    Args:
        segmenter: does the work, or makes the one that does when the server starts.
        config: its limits and key.
        name: what /v1/model calls the weights.
    """
    limits, metrics = config.limits, Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        ready = segmenter if isinstance(segmenter, Segmenter) else segmenter()
        app.state.batcher = Batcher(ready, limits, note_batch=metrics.batch.observe)
        yield {"read_seconds": limits.read_seconds}  # where the protocol finds it
        await app.state.batcher.close()

    app = FastAPIOffline(  # the page at /docs loads nothing from elsewhere
        title="cgrseg",
        version=cgrseg.__version__,
        summary="A photo goes in, a labelled picture comes out",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.limits, app.state.metrics, app.state.name = limits, metrics, name
    app.state.bodies = Bodies(limits)
    app.add_middleware(Watching, metrics=metrics)
    app.add_exception_handler(RefusedError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_query)
    locked = [Depends(_lock(config.key))] if config.key else []
    described: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in REFUSALS.items()}
    pictures: dict[str, Any] = {"image/png": {}, "image/jpeg": {}, "application/json": {}}
    described[200] = {"description": "what `output` asks for", "content": pictures}
    app.post("/v1/segment", dependencies=locked, openapi_extra=BODY, responses=described, response_class=Response)(
        segment
    )
    app.get("/v1/model", dependencies=locked)(model)
    app.get("/health")(health)
    app.get("/ready", responses={503: {"description": "not ready"}})(ready)
    app.get("/metrics", response_class=Response)(metrics_text)
    return app


async def segment(
    request: Request,
    output: Annotated[Output, Query(description="PNG, JPEG, shares, or shares with run lengths")] = "mask",
    short_side: Annotated[
        int | None, Query(ge=0, le=4096, description="the network's shorter side in pixels; 0: the photo's own")
    ] = None,
    confidence: Annotated[bool, Query(description="add the mean confidence (pictures: in X-Confidence)")] = False,
) -> Response:
    """Label one photo, sent as the body or as the one file of a form. The answer has the photo's own size."""
    state = request.app.state
    batcher: Batcher = state.batcher
    bodies: Bodies = state.bodies
    batcher.require_room()  # before the body is read
    body = await bodies.read(request, retry_after=batcher.retry_after())
    try:
        data = await photo_in(request, body, state.limits)
        preprocessing = batcher.segmenter.preprocessing
        if short_side is not None:
            preprocessing = replace(preprocessing, short_side=short_side or None)
        size, padded = await batcher.look(data, preprocessing)
        job = Job(data, preprocessing, size, padded, partial(make_answer, output=output, confidence=confidence))
        answer = await batcher.label(job)
    finally:
        bodies.release(body)
    state.metrics.pixels.inc(size[0] * size[1])
    request.scope["cgrseg"] = {"output": output, "height": size[0], "width": size[1]}
    headers = {} if answer.confidence is None else {"X-Confidence": f"{answer.confidence:.4f}"}
    return Response(answer.content, media_type=answer.media_type, headers=headers)


async def model(request: Request) -> dict[str, Any]:
    """The classes, how photos are resized, and what is too large."""
    state = request.app.state
    segmenter: Segmenter = state.batcher.segmenter
    labels, preprocessing = segmenter.labels, segmenter.preprocessing
    classes = zip(labels.names, labels.colors, strict=True)
    return {
        "name": state.name,
        "architecture": segmenter.model.spec.name,
        "classes": [{"id": i, "name": name, "color": color} for i, (name, color) in enumerate(classes)],
        "ignore_index": labels.ignore_index,
        "sizes": {side: getattr(preprocessing, side) for side in ("short_side", "long_side", "pad_multiple")},
        "limits": asdict(state.limits),
    }


async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def ready(request: Request) -> Response:
    """The model is loaded, its queue is worked on and has room."""
    batcher: Batcher = request.app.state.batcher
    if not batcher.alive:
        raise RefusedError(503, "the queue is not worked on any more: start the server again")
    batcher.require_room()
    return JSONResponse({"status": "ready"})


async def metrics_text(request: Request) -> Response:
    """Counters for Prometheus."""
    metrics: Metrics = request.app.state.metrics
    metrics.waiting.set(request.app.state.batcher.waiting)
    return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _lock(key: str) -> Callable[..., None]:
    digest = hashlib.sha256(key.encode()).digest()

    def require_key(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        given = "" if credentials is None else credentials.credentials
        if not hmac.compare_digest(hashlib.sha256(given.encode()).digest(), digest):
            raise RefusedError(401, "the key is missing or wrong: send it as Authorization: Bearer KEY")

    return require_key


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": error.message}, error.status, headers)


async def _refuse_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def serve(
    weights: str, config: ServerConfig, *, device: str = "auto", short_side: int | None = None, bf16: bool = False
) -> None:
    """Load the weights and answer until SIGTERM or Ctrl-C; then finish what was taken and return.

    Raises:
        OSError, ValueError: the weights can't be read, or the address is taken.
    """
    load: Segmenter | Callable[[], Segmenter]
    load = partial(Segmenter, weights, device=device, short_side=short_side, bf16=bf16)
    if config.workers == 1:
        load = load()  # what is wrong with it shows here
    try:
        listener = socket.create_server((config.host, config.port), backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"{config.host}:{config.port} can't be listened at ({error.strerror}): choose another") from error
    log_to_stderr()
    carrier = make_carrier(partial(_make_worker, load, config, Path(weights).stem), config)
    host, port = listener.getsockname()[:2]
    LOGGER.info("listening", extra={"fields": {"host": host, "port": port, "workers": config.workers}})
    if config.workers > 1:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            Multiprocess(carrier, sockets=[listener]).run()
        return
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it has stopped in peace
        signal.signal(number, lambda *_: None)
    uvicorn.Server(carrier).run(sockets=[listener])


def make_carrier(app: Callable[[], FastAPI], config: ServerConfig) -> uvicorn.Config:
    """What uvicorn needs to know; `app` is called in the process that serves."""
    return uvicorn.Config(
        app,
        factory=True,
        workers=config.workers,
        http=ImpatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_worker_healthcheck=STARTING,
        timeout_graceful_shutdown=int(config.limits.seconds + config.limits.read_seconds + 5),
    )


def _make_worker(segmenter: Segmenter | Callable[[], Segmenter], config: ServerConfig, name: str) -> FastAPI:
    """In a process of its own: logs, its share of the cores, the application."""
    log_to_stderr()
    keep_memory()
    torch.set_num_threads(max(torch.get_num_threads() // config.workers, 1))
    return make_app(segmenter, config, name=name)
