"""The engine as one caller has it: its budgets hold in every run, and what runs use is counted.

Here, and not in each endpoint, so that none can forget it.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from adapters.types import EmbeddingRequest
from orchestrator.config import OrchestratorConfig, RequestConfig, TenantWindow
from orchestrator.endpoints.calls import Call, Engine, Service
from orchestrator.events import Event, RunFailed, RunFinished
from orchestrator.responses import EmbeddingsResponse, OrchestratorResponse, Receipt


def on_behalf(service: Service, call: Call) -> Service:
    """What an endpoint stands on for one call."""
    if not call.tenant_windows and call.count is None:
        return service
    engine = _OnBehalf(service.engine, call.tenant_windows, call.count or _nobody_counts)
    return Service(engine, heartbeat_s=service.heartbeat_s, clock=service.clock)


def _nobody_counts(_: int) -> None:
    """No limit of the key depends on it."""


class _OnBehalf:
    def __init__(
        self, engine: Engine, windows: tuple[TenantWindow, ...], count: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._windows = windows
        self._count = count

    @property
    def config(self) -> OrchestratorConfig:
        return self._engine.config

    @property
    def patterns(self) -> Mapping[str, object]:
        return self._engine.patterns

    async def execute_request(self, request: RequestConfig) -> OrchestratorResponse:
        response = await self._engine.execute_request(self._bounded(request))
        self._count(response.receipt.usage.total_tokens)
        return response

    async def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        async with aclosing(self._engine.stream_request(self._bounded(request))) as events:
            async for event in events:
                match event:
                    case RunFinished(response=response):
                        self._count(response.receipt.usage.total_tokens)
                    case RunFailed(receipt=receipt):
                        self._count(receipt.usage.total_tokens)
                    case _:
                        pass
                yield event

    async def embed(self, what: EmbeddingRequest, request: RequestConfig) -> EmbeddingsResponse:
        response = await self._engine.embed(what, self._bounded(request))
        self._count(response.usage.total_tokens)
        return response

    async def receipt(self, run_id: str, *, tenant: str = "") -> Receipt | None:
        return await self._engine.receipt(run_id, tenant=tenant)

    def _bounded(self, request: RequestConfig) -> RequestConfig:
        return request.model_copy(update={"tenant_windows": self._windows})
