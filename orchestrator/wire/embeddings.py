"""OpenAI's embeddings: a request to what is asked, vectors to a reply."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from adapters.types import EmbeddingRequest
from orchestrator.config import Count, Money, RequestConfig, Seconds, Tag
from orchestrator.responses import EmbeddingsResponse
from orchestrator.wire import orchestration
from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import Body

MOST_INPUTS = 2048
MOST_DIMENSIONS = 65_536  # beyond any model
MOST_TOKEN = 2**31 - 1

Json = dict[str, Any]

_TOKENS: Json = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": MOST_TOKEN},
}
_TEXT: Json = {"type": "string", "minLength": 1}
_INPUT: Json = {
    "anyOf": [
        _TEXT,
        {"type": "array", "minItems": 1, "maxItems": MOST_INPUTS, "items": _TEXT},
        _TOKENS,
        {"type": "array", "minItems": 1, "maxItems": MOST_INPUTS, "items": _TOKENS},
    ]
}


class Bounds(Body):
    """How a run that embeds is to go, beside what OpenAI's own fields say."""

    max_cost_usd: Money | None = None
    max_run_tokens: Count | None = None
    max_calls: Count | None = None
    time_s: Seconds | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] = ()


class EmbeddingsBody(Body):
    """OpenAI's body of `POST /v1/embeddings`, and `orchestration` beside it."""

    # What it holds is looked at in `_inputs`, which says better what is wrong with it.
    input: Annotated[str | list[Any], WithJsonSchema(_INPUT)]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    dimensions: Annotated[int, Field(gt=0, le=MOST_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    orchestration: Bounds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        model: Of whom, in the caller's words.
        what: What is to be embedded.
        request: By whom, on whose behalf and within which budgets.
    """

    model: str
    what: EmbeddingRequest
    request: RequestConfig


def asked_of(body: EmbeddingsBody, *, tenant: str = "") -> Asked:
    """What a body asks for.

    Raises:
        Refused: there is nothing to embed in it, or too much, or of more than one kind.
    """
    bounds = (body.orchestration or Bounds()).model_dump(exclude_unset=True)
    return Asked(
        model=body.model,
        what=EmbeddingRequest(
            inputs=_inputs(body.input),
            dimensions=body.dimensions,
            encoding_format=body.encoding_format or "float",
            user=body.user,
        ),
        request=RequestConfig.model_validate({**bounds, "model": body.model, "tenant": tenant}),
    )


def embeddings_json(asked: Asked, response: EmbeddingsResponse) -> Json:
    """The vectors in OpenAI's shape, with what the run came to beside them."""
    usage = response.usage
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(response.vectors)
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
        "orchestration": orchestration.record([response]),
    }


def _inputs(given: str | list[Any]) -> tuple[str, ...] | tuple[tuple[int, ...], ...]:
    """A text, a list of tokens, or a list of either, as a list of one kind."""
    if isinstance(given, str):
        return (_text(given, "input"),)
    if not given:
        raise _invalid("input", "there is nothing to embed in an empty array")
    if type(given[0]) is int:
        return (_tokens(given, "input"),)
    if len(given) > MOST_INPUTS:
        raise _invalid("input", f"{len(given)} inputs are more than {MOST_INPUTS}; ask in parts")
    read: Callable[[Any, str], Any] = _text if isinstance(given[0], str) else _tokens
    return tuple(read(one, f"input[{place}]") for place, one in enumerate(given))


def _text(given: Any, at: str) -> str:
    if not isinstance(given, str):
        raise _invalid(at, "wanted a string, as the first of the inputs is one")
    if not given:
        raise _invalid(at, "there is nothing to embed in an empty string")
    return given


def _tokens(given: Any, at: str) -> tuple[int, ...]:
    if not isinstance(given, list):
        raise _invalid(at, "wanted a string, or an array of tokens, as the others are")
    if not given:
        raise _invalid(at, "there is nothing to embed in an empty array")
    for place, one in enumerate(given):
        if type(one) is not int or not 0 <= one <= MOST_TOKEN:
            raise _invalid(f"{at}[{place}]", "wanted a token: a whole number that is not negative")
    return tuple(given)


def _invalid(param: str, why: str) -> Refused:
    return Refused(f"Invalid '{param}': {why}", param=param, code="invalid_value")
