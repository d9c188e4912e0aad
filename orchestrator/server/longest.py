"""How long an answer may be asked for over the wire: an engine that refuses what is longer."""

from collections.abc import AsyncGenerator, Mapping

from adapters.types import EmbeddingRequest
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.endpoints.calls import Engine
from orchestrator.events import Event
from orchestrator.responses import EmbeddingsResponse, OrchestratorResponse, Receipt
from orchestrator.wire.errors import Refused


class Bounded:
    """Passes on to an engine whatever is not too long, before anything is reserved for it.

    Args:
        engine: Who runs what is asked.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def config(self) -> OrchestratorConfig:
        return self._engine.config

    @property
    def patterns(self) -> Mapping[str, object]:
        return self._engine.patterns

    async def execute_request(self, request: RequestConfig) -> OrchestratorResponse:
        """The run, if its answer may be as long as is asked for."""
        self._check(request)
        return await self._engine.execute_request(request)

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        """Its events, likewise."""
        self._check(request)
        return self._engine.stream_request(request)

    async def embed(self, what: EmbeddingRequest, request: RequestConfig) -> EmbeddingsResponse:
        """The vectors, which have no length to be asked for."""
        return await self._engine.embed(what, request)

    async def receipt(self, run_id: str, *, tenant: str = "") -> Receipt | None:
        return await self._engine.receipt(run_id, tenant=tenant)

    def _check(self, request: RequestConfig) -> None:
        most = self.config.server.max_tokens
        if request.max_tokens is not None and request.max_tokens > most:
            raise Refused(
                f"Invalid 'max_tokens': {request.max_tokens} is more than the {most} that "
                "`server.max_tokens` allows",
                param="max_tokens",
                code="invalid_value",
            )
