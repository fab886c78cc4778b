"""Logs as one JSON object per line, and metrics; neither contains image content or file names."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGGER = logging.getLogger("cgrseg.server")


class JsonLines(logging.Formatter):
    """Time, level and message, the fields of `extra={"fields": …}`, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_to_stderr(level: str = "INFO") -> None:
    """Log to standard error, uvicorn's messages included, from a level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = True  # the lines of RequestMiddleware replace them


SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Requests per route and status, seconds, batch sizes, pixels, and the number of photos that wait."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("cgrseg_requests", "Requests", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "cgrseg_request_seconds", "From the request's headers to its response", buckets=SECONDS, registry=registry
        )
        self.batch = Histogram(
            "cgrseg_batch_photos", "Photos per pass of the network", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.pixels = Counter("cgrseg_pixels", "Pixels labelled", registry=registry)
        self.waiting = Gauge("cgrseg_waiting", "Photos that wait", registry=registry, multiprocess_mode="livesum")

    def text(self) -> bytes:
        """All metrics in the Prometheus exposition format."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


UNLOGGED = ("/health", "/ready", "/metrics")  # requested every few seconds: counted, but not logged


class RequestMiddleware:
    """Logs and counts each request, and adds its ID and security headers to the response.

    Args:
        app: the application.
        metrics: its counters.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, number, status, sent = time.perf_counter(), secrets.token_hex(8), 500, 0

        async def numbered(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {"x-request-id": number, "cache-control": "no-store", "x-content-type-options": "nosniff"}
                headers = [(name.encode(), value.encode()) for name, value in more.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, numbered)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            if route == "/v1/segment":
                self.metrics.seconds.observe(seconds)
            if route not in UNLOGGED or status >= 500:
                fields = {
                    "id": number,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                    "sent": sent,
                    **scope.get("cgrseg", {}),
                }
                level = logging.ERROR if status == 500 else logging.INFO
                LOGGER.log(level, "request", extra={"fields": fields})
