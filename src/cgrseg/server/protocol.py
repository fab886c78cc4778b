"""HTTP/1.1 that doesn't wait for ever: who sends or fetches too slowly is cut off."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class ImpatientProtocol(H11Protocol):
    """uvicorn bounds the size of headers and the idle time between requests, but not the time of a request.

    The seconds come with the application's lifespan state, as uvicorn builds protocols by itself.
    """

    _arriving: asyncio.TimerHandle | None = None
    _fetching: asyncio.TimerHandle | None = None

    @property
    def patience(self) -> float:
        """Seconds; the application itself answers slow bodies with 408 a little earlier."""
        return float(self.app_state["read_seconds"]) + 1

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The other side doesn't fetch its answer: give it as long as for sending."""
        super().pause_writing()
        self._fetching = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._fetching is not None:
            self._fetching.cancel()
            self._fetching = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Run the clock from a request's first byte (or the connection) to its last."""
        idle = self.conn.their_state is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]
        if idle or self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
            self._stop_watching()
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self.patience, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
