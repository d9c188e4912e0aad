"""How much may be asked for over the wire: an engine that refuses what is more."""

from collections.abc import AsyncGenerator, Mapping

from adapters.types import EmbeddingRequest, Message
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.endpoints.calls import Engine
from orchestrator.events import Event
from orchestrator.responses import EmbeddingsResponse, OrchestratorResponse, Receipt
from orchestrator.wire.chat import MOST_MESSAGES
from orchestrator.wire.errors import Refused

MOST_MEDIA = 500  # pictures, recordings and files of one request


class Bounded:
    """Passes on to an engine whatever is not too much, before anything is reserved for it.

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
        """The run, if so much may be asked for."""
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
        messages = request.messages or ()
        _check_count("messages", len(messages), MOST_MESSAGES)
        _check_count("pictures, recordings and files", sum(map(_media, messages)), MOST_MEDIA)


def _check_count(what: str, found: int, most: int) -> None:
    if found > most:
        raise Refused(
            f"Invalid 'messages': {found:,} {what} are more than the {most:,} of one request; "
            "send fewer",
            param="messages",
            code="invalid_value",
        )


def _media(message: Message) -> int:
    """How much there is in a message to be looked at or listened to."""
    content = message.get("content")
    if not isinstance(content, list):
        return 0
    return sum(part.get("type") not in ("text", "refusal") for part in content)
