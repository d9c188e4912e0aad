"""Read the JSON of a request into a checked value, or say what is wrong as OpenAI would."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.wire.errors import Refused
from orchestrator.yaml_source import suggestion

_KIND = re.compile(r"str|int|float|bool|(dict|list|tuple)\[.*\]|constrained-.*")

DEPTH = 64  # of objects and lists within each other

Checked = TypeVar("Checked", bound="Body")


class Body(BaseModel):
    """A JSON object with the fields that are listed, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_body(kind: type[Checked], body: bytes) -> Checked:
    """The value that a body holds.

    Raises:
        Refused: it is no JSON, too deep, or not what is wanted; nothing of it is repeated but the
            names of fields.
    """
    try:
        checked = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(kind, error) from None
    # More brackets than that cannot but be there where it is too deep.
    if body.count(b"{") + body.count(b"[") > DEPTH and _depth(checked.model_dump()) > DEPTH:
        raise Refused(f"The body nests more than {DEPTH} levels deep", code="too_deep")
    return checked


def read_part(kind: type[Checked], value: object, *, within: str) -> Checked:
    """The value that a part of a body holds, which has been read as JSON already.

    Raises:
        Refused: it is not what is wanted there.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _refusal(kind, error, within) from None


def _refusal(kind: type[Body], error: ValidationError, within: str = "") -> Refused:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    first = problems[0]
    place = (within, *first["loc"]) if within else first["loc"]
    if first["type"] == "json_invalid" or not place:
        return Refused(
            f"The body is not the JSON object that is wanted ({first['msg']})", code="invalid_json"
        )
    param = path(place)
    if first["type"] == "extra_forbidden":
        known = suggestion(str(place[-1]), kind.model_fields) if len(first["loc"]) == 1 else ""
        return Refused(
            f"Unknown parameter: '{param}'{known}", param=param, code="unknown_parameter"
        )
    if first["type"] == "missing":
        return Refused(
            f"Missing required parameter: '{param}'",
            param=param,
            code="missing_required_parameter",
        )
    return Refused(f"Invalid '{param}': {first['msg']}", param=param, code="invalid_value")


def path(place: Sequence[int | str]) -> str:
    """Where in a body something is: `messages[0].role`."""
    said = ""
    for step in place:
        if isinstance(step, str) and said and _KIND.fullmatch(step):
            continue  # which of the kinds that a field may be of was tried
        said += f"[{step}]" if isinstance(step, int) else f".{step}" if said else step
    return said


def _depth(value: Any) -> int:
    """How deep it nests, counted no further than is needed."""
    deepest, todo = 0, [(value, 1)]
    while todo and deepest <= DEPTH:
        one, depth = todo.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        if inner is not None:
            deepest = max(deepest, depth)
            todo.extend((each, depth + 1) for each in inner)
    return deepest
