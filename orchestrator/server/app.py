"""The gateway as an ASGI application: endpoints behind the gate, and a few pages of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response

from orchestrator.clock import Clock, SystemClock
from orchestrator.endpoints import Endpoints
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from orchestrator.server.metrics import CONTENT_TYPE, Metrics

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(
    engine: EnhancedOrchestrator,
    *,
    keys: KeyFile | None = None,
    hosts: frozenset[str] = frozenset(LOOPBACK),
    clock: Clock | None = None,
) -> Gate:
    """The gateway over an engine, which it closes when it ends.

    Args:
        engine: Who runs what is asked.
        keys: Whose keys are let in; None: everybody, which is for the loopback only.
        hosts: The names it is asked under, beside `server.hosts`; none: any.
        clock: Where the time comes from.
    """
    metrics, time = Metrics(), clock or SystemClock()
    config = engine.config.server
    named = frozenset(name.lower() for name in config.hosts)
    gate = Gate(
        _pages(engine, metrics),
        Endpoints(engine, heartbeat_s=config.heartbeat_s, clock=time),
        config,
        hosts=hosts | named if hosts else hosts,
        keys=keys,
        watch=metrics,
        clock=time,
    )
    metrics.in_flight.set_function(lambda: gate.in_flight)
    return gate


def _pages(engine: EnhancedOrchestrator, metrics: Metrics) -> FastAPI:
    """What is not for callers of models: whether it is alive, what it counts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await engine.aclose()

    app = FastAPI(title="LLM orchestration gateway", lifespan=lifespan, docs_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def shown() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app
