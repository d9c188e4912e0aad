"""Read an answer as the JSON that was asked for, or say what is wrong with it. No calls."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema
import referencing
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from orchestrator.config import RequestConfig
from orchestrator.errors import InvalidRun
from orchestrator.prompts import conversation
from orchestrator.wire.bounds import DEPTH, depth

LEVELS = DEPTH - 8  # of an answer; what is written has some around it, and is to be read again
MOST_CHARACTERS = 300  # of what is said about an answer; it quotes from it

_FENCED = re.compile(r"\s*```\w*\s*\n(.*)\n\s*```\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An answer, read.

    Attributes:
        value: The JSON that it is.
        problem: Why it is not what was wanted; "" where it is.
    """

    value: object = None
    problem: str = ""


class AnswerReader:
    """Reads answers to requests with one `response_format`.

    >>> schema = {"type": "object", "required": ["city"]}
    >>> wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    >>> AnswerReader(wanted).read('{"city": "Ulm"}').value
    {'city': 'Ulm'}
    >>> AnswerReader(wanted).read("{}").problem
    "at $: 'city' is a required property"

    Args:
        response_format: OpenAI's.

    Raises:
        InvalidRun: its schema is none, or would have to be fetched from elsewhere.
    """

    def __init__(self, response_format: Mapping[str, Any]) -> None:
        self._kind = response_format.get("type")
        schema = (response_format.get("json_schema") or {}).get("schema")
        if schema is None:
            schema = {"type": "object"} if self._kind == "json_object" else {}
        self._validator = _validator(schema)

    def read(self, text: str) -> Parsed:
        """What an answer holds: JSON and nothing else, or JSON in a code fence.

        Raises:
            InvalidRun: its schema refers to a part of itself that is not there, or to itself
                without end.
        """
        if self._kind == "text":
            return Parsed()
        fenced = _FENCED.fullmatch(text)
        try:
            value = json.loads(fenced[1] if fenced else text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            return Parsed(problem=_cut(f"it is not JSON: {error}"))
        if depth(value) > LEVELS:
            return Parsed(problem=f"it nests more than {LEVELS} levels deep")
        return self._checked(value)

    def _checked(self, value: object) -> Parsed:
        try:
            worst = best_match(self._validator.iter_errors(value))
        except (Unresolvable, RecursionError) as error:
            raise InvalidRun(
                f"The schema refers to what it does not hold, or to itself without end: {error}"
            ) from error
        if worst is None:
            return Parsed(value=value)
        said = f"at {worst.json_path}: {worst.message}"
        return Parsed(
            problem=said if len(said) <= MOST_CHARACTERS else said[:MOST_CHARACTERS] + "…"
        )


def _cut(said: str) -> str:
    return said if len(said) <= MOST_CHARACTERS else f"{said[:MOST_CHARACTERS]}…"


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")


def _validator(schema: object) -> Any:
    if not isinstance(schema, dict):
        raise InvalidRun("The schema is no JSON object")
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidRun(
                f"The schema refers to {reference!r}, and nothing is fetched; write it into the"
                " schema under $defs, and refer to '#/$defs/...'"
            )
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        said = _cut(f"at {error.json_path}: {error.message}")
        raise InvalidRun(f"The schema is no JSON Schema, {said}") from error
    # The default one would fetch what it does not know.
    return kind(schema, registry=referencing.Registry())


def _references(schema: object) -> Iterator[str]:
    todo = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield from (
                value
                for key in ("$ref", "$dynamicRef", "$recursiveRef")
                if isinstance(value := one.get(key), str)
            )
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)


def asked_again(request: RequestConfig, answer: str, problem: str) -> RequestConfig:
    """The same request with its answer and what is wrong with that, to be asked once more.

    Args:
        request: What was asked.
        answer: What came.
        problem: What `AnswerReader` has said of it.
    """
    told = (
        f"That answer cannot be used: {problem}. Answer once more, with JSON that follows the"
        " schema and nothing else."
    )
    messages = (
        *conversation(request),
        {"role": "assistant", "content": answer},
        {"role": "user", "content": told},
    )
    return request.model_copy(update={"prompt": None, "system": None, "messages": messages})
