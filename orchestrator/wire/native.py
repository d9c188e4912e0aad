"""The orchestrator's own requests and events as JSON."""

import re
from typing import Annotated, Any

from pydantic import Field, StrictBool, ValidationError, create_model

from orchestrator.config import RequestConfig
from orchestrator.events import Event, RunFinished
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import Body, Seed, TokenLimit, path, read_body
from orchestrator.wire.shapes import check_choice, check_format, check_messages, check_tools
from orchestrator.wire.writing import dump

# What is asked is what a Python caller asks; on whose behalf and with which budget, the key says.
_OF_THE_KEY = frozenset(("tenant", "tenant_windows"))
_FIELDS: dict[str, Any] = {
    name: (field.annotation, field)
    for name, field in RequestConfig.model_fields.items()
    if name not in _OF_THE_KEY
}
_FIELDS |= {
    "max_tokens": (TokenLimit | None, None),
    "messages": (Annotated[list[dict[str, Any]], Field(min_length=1)] | None, None),
    "seed": (Seed | None, None),
    "stream": (StrictBool, False),
}
RunBody: type[Body] = create_model("RunBody", __base__=Body, **_FIELDS)


def asked_of(body: bytes, *, tenant: str) -> tuple[RequestConfig, bool]:
    """The run that is asked for, and whether its events are wanted as they happen.

    Raises:
        Refused: it is not what is wanted.
    """
    read = read_body(RunBody, body)
    given = {name: getattr(read, name) for name in read.model_fields_set - {"stream"}}
    try:
        request = RequestConfig.model_validate({**given, "tenant": tenant})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = path(RequestConfig, problem["loc"])
        raise Refused(
            f"Invalid '{param}': {problem['msg']}", param=param, code="invalid_value"
        ) from None
    _check(request)
    return request, bool(getattr(read, "stream", False))


def _check(request: RequestConfig) -> None:
    """Raise `Refused` for what has not the shape that OpenAI gives it."""
    if request.messages is not None:
        check_messages(request.messages)
    if request.tools is not None:
        check_tools(request.tools)
    if request.tool_choice is not None:
        check_choice(request.tool_choice, request.tools or ())
    if request.response_format is not None:
        check_format(request.response_format)


def response_json(response: OrchestratorResponse) -> bytes:
    """A finished run: its answer and its receipt."""
    return dump(response)


def event_json(event: Event) -> tuple[str, bytes]:
    """An event's name, `attempt_started`, and what it says."""
    if isinstance(event, RunFinished):
        return "run_finished", response_json(event.response)
    return _NAMES.setdefault(type(event), _snake(type(event).__name__)), dump(event)


_NAMES: dict[type, str] = {}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
