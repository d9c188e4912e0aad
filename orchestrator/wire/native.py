"""The orchestrator's own requests and events as JSON."""

import re
from typing import Any

from pydantic import StrictBool, ValidationError, create_model

from orchestrator.config import RequestConfig
from orchestrator.events import Event, RunFinished
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import Body, path, read_body
from orchestrator.wire.writing import dump

# What is asked is what a Python caller asks; on whose behalf, the key says.
_FIELDS: dict[str, Any] = {
    name: (field.annotation, field)
    for name, field in RequestConfig.model_fields.items()
    if name != "tenant"
}
RunBody: type[Body] = create_model("RunBody", __base__=Body, stream=(StrictBool, False), **_FIELDS)


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
        param = path(problem["loc"])
        raise Refused(
            f"Invalid '{param}': {problem['msg']}", param=param, code="invalid_value"
        ) from None
    return request, bool(getattr(read, "stream", False))


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
