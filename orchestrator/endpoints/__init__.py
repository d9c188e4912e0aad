"""The HTTP surface without HTTP: a request's bytes to a reply's, over one engine.

The server and the drop-in client both stand on it, so that what goes over a socket and what stays
in the process are one and the same.
"""

from collections.abc import Awaitable, Callable, Mapping

from orchestrator.clock import Clock
from orchestrator.endpoints import (
    chat,
    embeddings,
    messages,
    models,
    older,
    orchestrations,
    responses,
)
from orchestrator.endpoints.behalf import on_behalf
from orchestrator.endpoints.calls import Call, Engine, Reply, Service, fault, refusal
from orchestrator.endpoints.streams import data
from orchestrator.wire.errors import Refused
from orchestrator.wire.messages import as_anthropic

Answering = Callable[[Service, Call], Awaitable[Reply]]

# A path that ends in a slash stands for all below it.
ROUTES: Mapping[tuple[str, str], Answering] = {
    ("POST", "/v1/chat/completions"): chat.answer,
    ("POST", "/v1/responses"): responses.answer,
    ("POST", "/v1/embeddings"): embeddings.answer,
    ("POST", "/v1/messages"): messages.answer,
    ("POST", "/v1/messages/count_tokens"): messages.count,
    ("GET", "/v1/models"): models.answer_all,
    ("GET", "/v1/models/"): models.answer_one,
    ("POST", "/v1/orchestrations"): orchestrations.answer,
    ("GET", "/v1/orchestrations/"): orchestrations.answer_one,
    **older.ROUTES,
}


class Endpoints:
    """Answers requests over an engine.

    Args:
        engine: Who runs what is asked.
        heartbeat_s: How often a stream with nothing to say shows that it is alive, in seconds.
        clock: Where the time comes from.
    """

    def __init__(
        self, engine: Engine, *, heartbeat_s: float = 15.0, clock: Clock | None = None
    ) -> None:
        self._service = Service(engine, heartbeat_s=heartbeat_s, clock=clock)

    async def answer(self, call: Call) -> Reply:
        """The reply to a request; every error is one."""
        try:
            found = _route(call)
            if found is None:
                return unknown(call.path)
            return await found(on_behalf(self._service, call), call)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told
            if models.speaks_anthropic(call):
                return refusal(as_anthropic(fault(error)))
            return refused(call.path, error)


_PATHS = frozenset(path for _, path in ROUTES)


def serves(path: str) -> bool:
    """Whether there is, or could be, an endpoint under this path."""
    return path.startswith("/v1/") or path in _PATHS


def refused(path: str, error: BaseException) -> Reply:
    """An error as the reply to a request for this path, in the words that its callers know."""
    told = fault(error)
    return refusal(as_anthropic(told) if messages.speaks_anthropic(path) else told)


def broken_off(path: str, error: BaseException) -> bytes:
    """An error as the last event of a reply to a request for this path."""
    told = fault(error)
    return messages.failure(told) if messages.speaks_anthropic(path) else data(told.body)


def unknown(path: str) -> Reply:
    """The reply under a path where nothing is, or nothing any more."""
    found = (why for start, why in _NOT_HERE.items() if _is_meant(path, start))
    why = next(found, "")
    missing = Refused(f"There is nothing at {path}{why}", status=404, code="not_found")
    return older.never_again(path) or refused(path, missing)


def _route(call: Call) -> Answering | None:
    for path in (call.path, call.path[: call.path.find("/", len("/v1/")) + 1]):
        found = ROUTES.get((call.method, path))
        if found is not None:
            return found
        allowed = [method for method, known in ROUTES if known == path]
        if allowed:
            raise Refused(
                f"{call.method} is not allowed here{_NOT_DONE.get((call.method, path), '')}",
                status=405,
                code="method_not_allowed",
                headers={"allow": ", ".join(allowed)},
            )
    return None


def _is_meant(path: str, start: str) -> bool:
    """Whether a path is that of a row, which may stand for all below it."""
    return path.startswith(start) and path != start if start.endswith("/") else path == start


_ANSWERS_ARE_NOT_KEPT = (
    "completions are not stored, whatever 'store' says. What became of a run is at "
    "/v1/orchestrations/{run_id}"
)
# What OpenAI has under such paths, and the gateway has not: above all what is kept for those who
# come for it later. The first that fits counts.
_NOT_HERE: Mapping[str, str] = {
    "/v1/completions": ": send messages to /v1/chat/completions",
    "/v1/responses/compact": ": what was said is not made shorter here; send what is still wanted "
    "of it in 'input' to /v1/responses",
    "/v1/responses/input_tokens": ": /v1/messages/count_tokens counts the tokens of messages",
    "/v1/responses/": ": responses are not stored, whatever 'store' says; send what was said "
    "before in 'input'. What became of a run is at /v1/orchestrations/{run_id}",
    "/v1/chat/completions/": f": {_ANSWERS_ARE_NOT_KEPT}",
}
# The same of what OpenAI does at a path where the gateway does something else.
_NOT_DONE: Mapping[tuple[str, str], str] = {
    ("GET", "/v1/chat/completions"): f": {_ANSWERS_ARE_NOT_KEPT}",
    ("DELETE", "/v1/models/"): ": which models there are is said in the configuration",
}
