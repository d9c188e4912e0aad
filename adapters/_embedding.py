"""How each provider is asked for embeddings, and what of its answer are vectors.

Our own words go over the wire: litellm would take some texts for the addresses of files, fetch
those, and guess what kind of text it has. It still addresses a request and signs it.
"""

import math
import struct
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters import _formats
from adapters._formats import Json, WireFormat
from adapters.types import EmbeddingRequest, Usage, Vector

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFormat:
    """One provider's protocol of embeddings.

    Attributes:
        prefix: litellm's name for the provider.
        path: What litellm wants behind the base.
        wire: How to judge an answer.
        write: The body of a request to a model.
        found: What stands where the vectors of an answer belong, in their order.
        takes_tokens: Whether an input may be a list of tokens.
    """

    prefix: str
    path: str = ""
    wire: WireFormat
    write: Callable[[str, EmbeddingRequest], Json]
    found: Callable[[Json], Sequence[Any]]
    takes_tokens: bool = False


def read_vectors(found: Sequence[Any], request: EmbeddingRequest) -> tuple[Vector, ...]:
    """The vectors of an answer, as they were asked for.

    Raises:
        ValueError: they are not one for each input, all of one length, of numbers that are finite.
    """
    if len(found) != len(request.inputs):
        raise ValueError(f"{len(found)} vectors for {len(request.inputs)} inputs")
    is_packed = request.encoding_format == "base64"
    vectors: list[Vector] = []
    lengths = set()
    for one in found:
        numbers = _numbers(one)
        lengths.add(len(numbers))
        vectors.append(_as_base64(one, numbers) if is_packed else tuple(numbers))
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"vectors of {_listed(lengths)} numbers, which are not of one length")
    if request.dimensions is not None and lengths != {request.dimensions}:
        raise ValueError(
            f"vectors of {_listed(lengths)} numbers where {request.dimensions} were asked for"
        )
    return tuple(vectors)


def _as_base64(one: Any, numbers: Sequence[float]) -> str:
    """As it came, if it came so."""
    return one if isinstance(one, str) else packed(numbers)


def _listed(lengths: set[int]) -> str:
    return " and ".join(str(length) for length in sorted(lengths))


def _numbers(one: Any) -> Sequence[float]:
    """A vector that stands there as a list of numbers, or as the base64 of 32-bit floats."""
    try:
        numbers = unpacked(one) if isinstance(one, str) else array("d", one)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("something else than numbers in a vector") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number in a vector that is not finite")
    return numbers


def unpacked(text: str) -> tuple[float, ...]:
    """The numbers in the base64 of a vector.

    Raises:
        ValueError: it is none, or not of whole numbers.
    """
    raw = b64decode(text, validate=True)
    if len(raw) % FLOAT_BYTES:
        raise ValueError("half a number")
    return struct.unpack(f"<{len(raw) // FLOAT_BYTES}f", raw)


def packed(numbers: Sequence[float]) -> str:
    """The base64 of numbers as little-endian 32-bit floats, as OpenAI sends vectors.

    Raises:
        ValueError: a number is too large for that.
    """
    try:
        return b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    except OverflowError:
        raise ValueError("a number that no 32-bit float can hold") from None


def believable_usage(usage: Usage | None, count: Callable[[], int]) -> Usage:
    """The tokens the provider reports, or our count of the inputs. Nothing is written."""
    prompt = usage.prompt_tokens if usage else 0
    if usage is None or not prompt:
        return Usage(prompt_tokens=count(), estimated=True)
    billed = usage.billed_prompt_tokens
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=min(usage.cached_tokens, prompt),
        billed_prompt_tokens=billed,
        billed_completion_tokens=None if billed is None else 0,
    )


# OpenAI, and who speaks its protocol.


def _write_openai(model: str, request: EmbeddingRequest) -> Json:
    return {
        **_write_custom(model, request),
        "encoding_format": request.encoding_format,
    }


def _write_custom(model: str, request: EmbeddingRequest) -> Json:
    """Without a format: some hosts refuse the field, and all send numbers where it is missing."""
    asked = {"dimensions": request.dimensions, "user": request.user}
    given = {name: value for name, value in asked.items() if value is not None}
    return {"model": model, "input": list(request.inputs), **given}


def _write_mistral(model: str, request: EmbeddingRequest) -> Json:
    wanted = {} if request.dimensions is None else {"output_dimension": request.dimensions}
    return {"model": model, "input": list(request.inputs), **wanted}


def _openai_found(body: Json) -> Sequence[Any]:
    """In the order of their index, which some hosts leave out."""
    entries = dict(_indexed(body["data"]))
    if sorted(entries) != list(range(len(body["data"]))):
        raise ValueError("vectors whose indices are not each there once")
    return [entries[index] for index in sorted(entries)]


def _indexed(data: Sequence[Mapping[str, Any]]) -> Sequence[tuple[int, Any]]:
    return [(int(one.get("index", place)), one["embedding"]) for place, one in enumerate(data)]


def _has_list(key: str) -> Callable[[Json], bool]:
    return lambda body: isinstance(body.get(key), list)


_OPENAI_WIRE = replace(
    _formats.OPENAI, finish=lambda _: None, has_answer=_has_list("data"), fault=lambda _: None
)
OPENAI = EmbeddingFormat(
    prefix="openai",
    wire=_OPENAI_WIRE,
    write=_write_openai,
    found=_openai_found,
    takes_tokens=True,
)
CUSTOM = replace(OPENAI, write=_write_custom, takes_tokens=False)
MISTRAL = replace(CUSTOM, write=_write_mistral)


# Google.


def _write_google(model: str, request: EmbeddingRequest) -> Json:
    named = f"models/{model.removeprefix('models/')}"
    wanted = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
    return {
        "requests": [
            {"model": named, "content": {"parts": [{"text": text}]}, **wanted}
            for text in request.inputs
        ]
    }


GOOGLE = EmbeddingFormat(
    prefix="gemini",
    path="/v1beta",
    wire=replace(_formats.GOOGLE, finish=lambda _: None, has_answer=_has_list("embeddings")),
    write=_write_google,
    found=lambda body: [one["values"] for one in body["embeddings"]],
)


# Cohere.


def _write_cohere(model: str, request: EmbeddingRequest) -> Json:
    """Cohere asks what a text is for; OpenAI's API cannot say, and most are kept to be searched."""
    wanted = {} if request.dimensions is None else {"output_dimension": request.dimensions}
    return {
        "model": model,
        "texts": list(request.inputs),
        "input_type": "search_document",
        "embedding_types": ["float"],
        **wanted,
    }


def _cohere_usage_holder(body: Json) -> tuple[Json, str] | None:
    return (body, "meta") if body.get("meta") is not None else None


COHERE = EmbeddingFormat(
    prefix="cohere",
    path="/v2/embed",
    wire=replace(
        _formats.COHERE,
        finish=lambda _: None,
        usage_holder=_cohere_usage_holder,
        has_answer=lambda body: isinstance(body.get("embeddings"), dict),
    ),
    write=_write_cohere,
    found=lambda body: body["embeddings"]["float"],
)
