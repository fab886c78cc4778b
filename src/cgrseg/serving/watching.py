"""Around every request: its number, its time, its line in the log, its place in the counters."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

from .logs import LOGGER
from .metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

QUIET = ("/health", "/ready", "/metrics")  # asked every few seconds: counted, but not logged


class Watching:
    """ASGI middleware.

    Args:
        app: what it watches.
        metrics: where it counts.
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
            if route not in QUIET or status >= 500:
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
