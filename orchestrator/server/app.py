"""The gateway as an ASGI application: endpoints behind the gate, and a few pages of its own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from orchestrator.clock import Clock, SystemClock
from orchestrator.endpoints import unknown
from orchestrator.endpoints.calls import Reply, fault, refusal
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.server.admission import Admission, shutting_down
from orchestrator.server.describing import openapi
from orchestrator.server.gate import Gate, Watch
from orchestrator.server.idempotency import Idempotency, replies_file
from orchestrator.server.keyed import Keyed
from orchestrator.server.keys import KeyFile
from orchestrator.server.limits import KeyLimits
from orchestrator.server.metrics import CONTENT_TYPE, Metrics
from orchestrator.server.page import POLICY, page
from orchestrator.server.reload import Source, Switch
from orchestrator.server.repeats import Repeats
from orchestrator.shared_windows import SharedWindows, shared_windows
from orchestrator.wire.errors import Refused

LONGER_S = 60.0  # a stream may outlast its run while it is still read
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(
    engine: EnhancedOrchestrator,
    *,
    keys: KeyFile | None = None,
    is_open: bool = False,
    hosts: frozenset[str] = frozenset(LOOPBACK),
    watch: Sequence[Watch] = (),
    clock: Clock | None = None,
    processes: int = 1,
    source: Source | None = None,
) -> Gate:
    """The gateway over an engine, which it closes when it ends.

    Args:
        engine: Who runs what is asked.
        keys: Whose keys are let in; None: everybody, which is for the loopback only.
        is_open: Whether everybody is let in as long as no key was ever made, for the same.
        hosts: The names it is asked under, beside `server.hosts`; none: any, unless those are
            given.
        watch: Are told of every request that has ended, beside the metrics.
        clock: Where the time comes from.
        processes: How many serve the same keys on this machine.
        source: The files that the engine's configuration is from, to follow their changes.
    """
    metrics, time = Metrics(), clock or SystemClock()
    config = engine.config.server
    admission = Admission(config.requests, metrics.in_flight.set)
    shared = shared_windows(engine.config, time, processes=processes)
    limits = KeyLimits(
        time,
        shared=shared,
        processes=processes,
        longest_s=engine.config.timeouts.run_s + LONGER_S,
    )
    named = frozenset(name.lower() for name in config.hosts)
    if named and not hosts:
        hosts = frozenset(LOOPBACK)
    repeats = Repeats(time)
    switch = Switch(engine, time, repeats.clear)
    once = Idempotency(switch.answer, replies_file(), clock=time)
    return Gate(
        _pages(switch, metrics, admission, once, source, shared),
        Keyed(once.answer, time, limits),
        config,
        admission=admission,
        hosts=hosts | named,
        keys=keys,
        is_open=is_open,
        repeats=repeats,
        watch=(metrics, *watch),
        clock=time,
    )


def _pages(
    switch: Switch,
    metrics: Metrics,
    admission: Admission,
    once: Idempotency,
    source: Source | None,
    shared: SharedWindows | None,
) -> FastAPI:
    """What is not for callers of models: whether it is alive, what it counts, what it offers."""

    def is_alone() -> bool:
        """Whether this process counts rates for itself because Redis does not answer."""
        return switch.engine.counts_alone or (shared is not None and shared.is_down)

    metrics.watch_limits(is_alone)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with nullcontext() if source is None else source.follow(switch, metrics.registry):
                yield
        finally:
            await once.aclose()
            await switch.aclose()
            if shared is not None:
                await shared.aclose()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        if admission.is_draining:
            return _refused(shutting_down())
        alone = {"limits": "Redis does not answer: each process counts its share"}
        return JSONResponse({"status": "ok"} | (alone if is_alone() else {}))

    @app.get("/metrics")
    async def shown() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    async def described() -> Response:
        return JSONResponse(openapi())

    @app.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page(openapi()), headers={"content-security-policy": POLICY})

    @app.exception_handler(404)
    async def nowhere(request: Request, _: Exception) -> Response:
        return _whole(unknown(request.scope["path"]))

    @app.exception_handler(405)
    async def wrong(request: Request, _: Exception) -> Response:
        refused = Refused(
            f"{request.method} is not allowed here",
            status=405,
            code="method_not_allowed",
            headers={"allow": "GET"},
        )
        return _refused(refused)

    return app


def _refused(why: Refused) -> Response:
    return _whole(refusal(fault(why)))


def _whole(reply: Reply) -> Response:
    assert isinstance(reply.body, bytes)
    return Response(reply.body, status_code=reply.status, headers=dict(reply.headers))
