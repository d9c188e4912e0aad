"""Read the JSON of a request into a checked value, or say what is wrong as OpenAI would."""

from collections.abc import Sequence
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.wire.bounds import check_bounds
from orchestrator.wire.errors import Refused
from orchestrator.yaml_source import suggestion

MOST_PROBLEMS = 1000  # of a body: of more, to name one takes longer than to read it

TokenLimit = Annotated[int, Field(gt=0, le=10**8)]  # beyond any model, within what is counted
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]

Checked = TypeVar("Checked", bound="Body")


class Body(BaseModel):
    """A JSON object with the fields that are listed, and no others; a text is no number here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_body(kind: type[Checked], body: bytes) -> Checked:
    """The value that a body holds.

    Raises:
        Refused: it is no JSON, too deep, or not what is wanted; nothing of it is repeated but the
            names of fields.
    """
    check_bounds(body)
    try:
        checked = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(kind, error) from None
    if not _is_finite(checked):
        raise Refused(
            "The body is not the JSON object that is wanted (NaN, Infinity and what lies beyond "
            "1.8e308 are no numbers)",
            code="invalid_json",
        )
    return checked


def _is_finite(body: BaseModel) -> bool:
    """Whether all its numbers are; in fields of any kind, pydantic takes `NaN` and `1e999` too."""
    todo: list[object] = [body]
    while todo:
        match todo.pop():
            case float() as number:
                if not isfinite(number):
                    return False
            case dict() as fields:
                todo.extend(fields.values())
            case list() | tuple() as values:
                todo.extend(values)
            case BaseModel() as part:
                todo.extend(getattr(part, name) for name in part.model_fields_set)
    return True


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
    if (count := error.error_count()) > MOST_PROBLEMS:
        return Refused(
            f"The body is not what is wanted in {count:,} places; /openapi.json says what is",
            param=within or None,
            code="invalid_value",
        )
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # Of what is said of one field, each of its kinds in turn, the last and deepest tells most.
    own = [one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]]
    first = own[0]
    if _is_of_many_kinds(kind, first["loc"]):
        first = max(reversed(own), key=lambda one: len(one["loc"]))
    place = first["loc"]
    if first["type"] == "json_invalid" or not (place or within):
        return Refused(
            f"The body is not the JSON object that is wanted ({first['msg']})", code="invalid_json"
        )
    param = _joined(within, path(kind, place))
    if first["type"] == "extra_forbidden":
        known = suggestion(str(place[-1]), kind.model_fields) if len(place) == 1 else ""
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


def path(kind: type[BaseModel], place: Sequence[int | str]) -> str:
    """Where in a body something is: `messages[0].role`.

    Of a field that may be of several kinds, pydantic names the kind it tried as well.
    """
    steps = list(place)
    if len(steps) > 1 and _is_of_many_kinds(kind, steps):
        del steps[1]
    said = ""
    for step in steps:
        said += f"[{step}]" if isinstance(step, int) else f".{step}" if said else step
    return said


def _joined(within: str, param: str) -> str:
    """The path of something whose own path is within another."""
    return within + (f".{param}" if within and param and param[0] != "[" else param)


def _is_of_many_kinds(kind: type[BaseModel], place: Sequence[int | str]) -> bool:
    field = kind.model_fields.get(str(place[0])) if place else None
    if field is None or get_origin(field.annotation) not in (Union, UnionType):
        return False
    return len([one for one in get_args(field.annotation) if one is not NoneType]) > 1
