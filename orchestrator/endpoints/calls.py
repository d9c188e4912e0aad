"""A call and its reply, and what every endpoint needs to get from one to the other."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from adapters.types import EmbeddingRequest
from orchestrator.clock import Clock, SystemClock
from orchestrator.config import OrchestratorConfig, RequestConfig, TenantWindow
from orchestrator.events import Event
from orchestrator.responses import EmbeddingsResponse, OrchestratorResponse, Receipt
from orchestrator.wire.errors import Fault, Refused, fault_of
from orchestrator.wire.writing import dump

_log = logging.getLogger(__name__)

JSON = {"content-type": "application/json"}


class Engine(Protocol):
    """What is needed of an orchestrator."""

    @property
    def config(self) -> OrchestratorConfig: ...

    @property
    def patterns(self) -> Mapping[str, object]: ...

    async def execute_request(self, request: RequestConfig) -> OrchestratorResponse: ...

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]: ...

    async def embed(self, what: EmbeddingRequest, request: RequestConfig) -> EmbeddingsResponse: ...

    async def receipt(self, run_id: str, *, tenant: str = "") -> Receipt | None: ...


class Service:
    """What endpoints stand on.

    Attributes:
        engine: Who runs what is asked.
        heartbeat_s: How often a stream with nothing to say shows that it is alive, in seconds.
        clock: Where the time comes from.
    """

    def __init__(
        self, engine: Engine, *, heartbeat_s: float = 15.0, clock: Clock | None = None
    ) -> None:
        self.engine = engine
        self.heartbeat_s = heartbeat_s
        self.clock = clock or SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, wherever it came from.

    Attributes:
        path: Without the query, as it was written: `/v1/chat/completions`.
        query: The rest of it, names to values.
        headers: By lower-case names.
        tenant: On whose behalf.
        key_id: By which of the tenant's keys, if it has any.
        may_ask: Whether this caller may ask for a model of that name.
        tenant_windows: Budgets of the tenant's own that every run counts in.
        count: Told how many tokens each of its runs has used; not of one that has failed.
    """

    method: str
    path: str
    body: bytes = b""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""
    key_id: str = ""
    may_ask: Callable[[str], bool] = lambda _: True
    tenant_windows: tuple[TenantWindow, ...] = ()
    count: Callable[[int], None] | None = None

    def need_run(self, request: RequestConfig, name: str) -> None:
        """Raise `Refused` for a run that asks somebody for whom this caller may not ask.

        Args:
            request: The run.
            name: What was asked for, or the default that stands in for nothing.
        """
        for one in (name, request.model, request.synthesizer, *(request.members or ())):
            if one is not None:
                self.need_model(one)

    def need_model(self, name: str) -> None:
        """Raise `Refused` for a model that this caller may not ask for."""
        if not self.may_ask(name):
            raise Refused(
                f"This key may not ask for {name!r}",
                status=403,
                kind="permission_error",
                param="model",
                code="model_not_allowed",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back: a body, or the pieces of one as they come.

    Whoever is given pieces closes them, read to their end or not: that ends the run.

    Attributes:
        may_repeat: Whether the same request may for a moment be answered by the same bytes: all
            of it came from the cache.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncGenerator[bytes, None] = b""
    may_repeat: bool = False


def json_reply(
    value: object, headers: Mapping[str, str] | None = None, *, may_repeat: bool = False
) -> Reply:
    """A whole reply of JSON."""
    return Reply(headers={**JSON, **(headers or {})}, body=dump(value), may_repeat=may_repeat)


def refusal(told: Fault) -> Reply:
    """An error as a whole reply."""
    return Reply(status=told.status, headers={**JSON, **told.headers}, body=dump(told.body))


def fault(error: BaseException) -> Fault:
    """What is said of an error; one that nobody foresaw stands in the log with its traceback."""
    told = fault_of(error)
    if told.code == "internal_error":
        _log.error("a request has failed", exc_info=error)
    return told
