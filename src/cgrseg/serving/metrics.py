"""What a server counts, as Prometheus text; with several worker processes, the sum over them."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Requests by route and status, seconds, batch sizes, pixels, and how many photos wait."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("cgrseg_requests", "Requests answered", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "cgrseg_request_seconds", "From the request's headers to its answer", buckets=SECONDS, registry=registry
        )
        self.batch = Histogram(
            "cgrseg_batch_photos", "Photos in a pass of the network", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.pixels = Counter("cgrseg_pixels", "Pixels labelled", registry=registry)
        self.waiting = Gauge("cgrseg_waiting", "Photos that wait", registry=registry, multiprocess_mode="livesum")

    def text(self) -> bytes:
        """All of it, in the exposition format."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
