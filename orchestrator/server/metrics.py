"""What the gateway counts, in Prometheus' words.

Of several workers, each writes what it counts to files of its own, and any of them adds all up:
prometheus_client's mode for several processes, which `counting_in` turns on.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from orchestrator.config import counting_folder
from orchestrator.endpoints import ROUTES
from orchestrator.server.gate import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Requests by path and status, and how long they took."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "orchestrator_requests",
            "Requests that have ended",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "orchestrator_request_seconds",
            "How long requests took, streams to their end",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "orchestrator_requests_in_flight",
            "Requests that are being answered",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._limits_alone = Gauge(
            "orchestrator_limits_alone",
            "Whether a process counts rates for itself because Redis does not answer",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._is_alone: Callable[[], bool] = lambda: False

    def watch_limits(self, is_alone: Callable[[], bool]) -> None:
        """Tell as well whether this process counts rates for itself."""
        self._is_alone = is_alone

    def ended(self, exchange: Exchange) -> None:
        """A request has ended."""
        known, method = _known(exchange.path), _METHODS.get(exchange.method, "other")
        self._requests.labels(method, known, str(exchange.status)).inc()
        self._seconds.labels(known).observe(exchange.elapsed_s)
        self._limits_alone.set(self._is_alone())

    def text(self) -> bytes:
        """All of it, as Prometheus reads it; that of all workers."""
        self._limits_alone.set(self._is_alone())
        registry, folder = self.registry, counting_folder()
        if folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
        written: bytes = generate_latest(registry)
        return written


_METHODS = {name: name for name in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH")}
_PATHS = frozenset(path for _, path in ROUTES) | {
    "/docs",
    "/health",
    "/metrics",
    "/openapi.json",
    "/ready",
}


def _known(path: str) -> str:
    """The path without what callers make up, of which there may be any number."""
    if path in _PATHS:
        return path
    below = path[: path.rfind("/") + 1]
    return below + "{id}" if below in _PATHS else "other"
