"""The routes of the HTTP server (FastAPI)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline

import cgrseg
from cgrseg.images.cutout import cutout_classes
from cgrseg.inference.network import Runtime
from cgrseg.inference.outputs import MEDIA_TYPES, OutputOptions
from cgrseg.inference.segmenter import Segmenter

from .batching import PendingPhoto
from .models import Models, Opener
from .observability import Metrics, RequestMiddleware
from .responses import Output, encode_result
from .uploads import LARGEST_SHORT_SIDE, BodyReader, Limits, RefusedError, photo_in

T = TypeVar("T")
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
    400: "a body without a photo, or a broken form",
    401: "a missing or wrong key",
    408: "the request arrived too slowly",
    413: "too many bytes or pixels",
    415: "not an image, or an image of another format",
    422: "a damaged photo, or an invalid query",
    503: "too many photos are waiting: see Retry-After",
    504: "no result in time",
}


@dataclass(frozen=True)
class ServerConfig:
    """The address, processes and limits of a server.

    Args:
        host, port: the address to listen on; port 0 takes a free one.
        workers: processes, each with a model of its own.
        limits: see `Limits`.
        key: what `Authorization: Bearer KEY` must contain for /v1; None for no authentication.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    key: str | None = field(default=None, repr=False)


def make_app(
    openers: Mapping[str, Opener], config: ServerConfig, *, runtimes: Sequence[Runtime] = ("auto",)
) -> FastAPI:
    """The application.

    Args:
        openers: name of weights -> function that loads them. The first, which is the default, is called when the server
            starts, the others at their first use.
        config: its limits and key.
        runtimes: that requests may choose from; the first is the default.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        models = Models(openers, runtimes, config.limits, note_batch=metrics.batch.observe)
        app.state.models, app.state.bodies = models, BodyReader(config.limits)
        yield {"read_seconds": config.limits.read_seconds}  # for TimeoutProtocol
        for batcher in models.all():
            await batcher.close()

    app = FastAPIOffline(  # the page at /docs loads nothing from other hosts
        title="cgrseg",
        version=cgrseg.__version__,
        summary="Labels every pixel of an image",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.metrics = metrics
    app.add_middleware(RequestMiddleware, metrics=metrics)
    app.add_exception_handler(RefusedError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_query)
    authorized = [Depends(_require_key(config.key))] if config.key else []
    responses: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in REFUSALS.items()}
    pictures: dict[str, Any] = {kind: {} for kind in sorted(set(MEDIA_TYPES.values()))}
    responses[200] = {"description": "what `output` asks for", "content": pictures}
    app.post("/v1/segment", dependencies=authorized, openapi_extra=BODY, responses=responses, response_class=Response)(
        segment
    )
    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "not ready"}}
    for method, documented in ((app.get, True), (app.head, False)):
        method("/v1/model", dependencies=authorized, include_in_schema=documented)(model)
        method("/health", include_in_schema=documented)(health)
        method("/ready", responses=not_ready, include_in_schema=documented)(ready)
        method("/metrics", response_class=Response, include_in_schema=documented)(metrics_text)
    return app


async def segment(
    request: Request,
    output: Annotated[Output, Query(description="a picture, shares, or polygons")] = "mask",
    short_side: Annotated[
        int | None,
        Query(ge=0, le=LARGEST_SHORT_SIDE, description="shorter side of the network's input; 0: the photo's own"),
    ] = None,
    confidence: Annotated[bool, Query(description="add the mean confidence (pictures: in X-Confidence)")] = False,
    threshold: Annotated[float, Query(ge=0, le=1, description="pixels of a lower confidence are unknown")] = 0.0,
    classes: Annotated[list[str] | None, Query(description="names or ids, for cutout, geojson and coco")] = None,
    tolerance: Annotated[float, Query(ge=0, description="of polygons, in pixels; 0: exact")] = 1.0,
    alpha: Annotated[float, Query(ge=0, le=1, description="of the colours in an overlay")] = 0.5,
    file_name: Annotated[str, Query(max_length=255, description="in coco and csv")] = "photo",
    weights: Annotated[str | None, Query(description="one of the names in /v1/model; default: the first")] = None,
    runtime: Annotated[Runtime | None, Query(description="one of those in /v1/model; default: the first")] = None,
) -> Response:
    """Label one photo, sent as the body or as the one file of a form. The result has the photo's own size."""
    _refuse_unknown(request)
    bodies: BodyReader = request.app.state.bodies
    batcher = await request.app.state.models.batcher(weights, runtime)
    batcher.require_room()  # before the body is read
    options = _output_options(batcher.segmenter, output, classes, tolerance, alpha)
    body = await bodies.read(request, retry_after=batcher.retry_after())
    held = len(body)
    try:
        body = await photo_in(request, body, bodies.limits)
        preprocessing = batcher.segmenter.preprocessing
        if short_side is not None:
            preprocessing = replace(preprocessing, short_side=short_side or None)
        encode = partial(
            encode_result,
            output=output,
            confidence=confidence,
            threshold=threshold,
            options=options,
            file_name=file_name,
        )

        async def label() -> Response:
            data, size, padded = await batcher.check(body, preprocessing)
            result = await batcher.label(PendingPhoto(data, preprocessing, size, padded, encode))
            request.app.state.metrics.pixels.inc(size[0] * size[1])
            request.scope["cgrseg"] = {"output": output, "height": size[0], "width": size[1]}
            height, width = preprocessing.resized_size(size)
            headers = {"X-Runtime": batcher.segmenter.runtime, "X-Network-Input": f"{width}x{height}"}
            if result.confidence is not None:
                headers["X-Confidence"] = f"{result.confidence:.4f}"
            return Response(result.content, media_type=result.media_type, headers=headers)

        return await _while_connected(request, label())
    finally:
        bodies.release(request, held)


def _refuse_unknown(request: Request) -> None:
    """A mistyped parameter would be ignored, and the answer would be another than the one that was asked for."""
    known = [name for name in signature(segment).parameters if name != "request"]
    for name in request.query_params:
        if name not in known:
            raise RefusedError(422, f"{name[:100]!r} is not a parameter: choose from {', '.join(known)}")


def _output_options(
    segmenter: Segmenter, output: Output, classes: list[str] | None, tolerance: float, alpha: float
) -> OutputOptions:
    try:
        chosen = None if classes is None else segmenter.labels.find(classes)
        if output == "cutout":
            chosen = cutout_classes(segmenter.labels, chosen)
        return OutputOptions(chosen, tolerance, alpha)
    except ValueError as error:
        raise RefusedError(422, f"classes: {error}") from error


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client closes the connection.

    Raises:
        RefusedError: 400 if it was; no client receives it, but the log shows it.
    """
    task = asyncio.create_task(work)
    closed = asyncio.ensure_future(request.receive())  # after the body, the next message says that it was closed
    try:
        await asyncio.wait((task, closed), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RefusedError(400, "the client closed the connection")
        return task.result()
    finally:
        task.cancel()
        closed.cancel()


async def model(request: Request) -> dict[str, Any]:
    """The weights to choose from; of the default ones the classes, the sizes of the network's input, and the limits."""
    models: Models = request.app.state.models
    segmenter = models.default.segmenter
    labels, preprocessing = segmenter.labels, segmenter.preprocessing
    classes = zip(labels.names, labels.colors, strict=True)
    return {
        "name": models.names[0],
        "weights": models.names,
        "runtimes": models.runtimes,
        "architecture": segmenter.description.spec.name,
        "classes": [{"id": i, "name": name, "color": color} for i, (name, color) in enumerate(classes)],
        "ignore_index": labels.ignore_index,
        "sizes": {side: getattr(preprocessing, side) for side in ("short_side", "long_side", "pad_multiple")},
        "limits": asdict(models.default.limits),
    }


async def health() -> dict[str, str]:
    """The process responds."""
    return {"status": "ok"}


async def ready(request: Request) -> dict[str, str]:
    """The models are loaded, their queues make progress and have room."""
    for batcher in request.app.state.models.all():
        batcher.require_progress()
        batcher.require_room()
    return {"status": "ready"}


async def metrics_text(request: Request) -> Response:
    """Metrics for Prometheus."""
    metrics: Metrics = request.app.state.metrics
    metrics.waiting.set(sum(batcher.waiting for batcher in request.app.state.models.all()))
    return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _require_key(key: str) -> Callable[..., None]:
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
    if error.short_side is not None:
        headers["X-Short-Side"] = str(error.short_side)
    return JSONResponse({"detail": error.message}, error.status, headers)


async def _refuse_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)
