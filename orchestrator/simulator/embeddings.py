"""The embeddings of the providers that have them; errors and headers are those of their chats."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from struct import pack
from typing import Any

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.ask import Answer, Ask, BadAsk, Embedding, Turn
from orchestrator.simulator.cohere import CohereFormat
from orchestrator.simulator.google import GoogleFormat
from orchestrator.simulator.mistral import MistralFormat
from orchestrator.simulator.openai import CustomFormat, OpenAIFormat
from orchestrator.simulator.wire_format import (
    WireFormat,
    count,
    mapping,
    refuse_unknown,
    sequence,
    strings,
    text_of,
)

DIMENSIONS = 256  # of a vector, where nobody says
KNOWN = frozenset(("dimensions", "encoding_format", "input", "model", "user"))
KNOWN_TO_MISTRAL = frozenset(
    ("encoding_format", "input", "metadata", "model", "output_dimension", "output_dtype")
)
KNOWN_TO_GOOGLE = frozenset(("content", "model", "outputDimensionality", "taskType", "title"))
KINDS = ("search_document", "search_query", "classification", "clustering", "image")


class OpenAIEmbeddings(OpenAIFormat):
    """What https://api.openai.com/v1/embeddings speaks."""

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        if self.strict_fields:
            refuse_unknown(body, KNOWN, "Unrecognized request argument supplied: {}")
        return _read_openai(body, self.provider)

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        return _write_openai(ask, answer)


class CustomEmbeddings(CustomFormat):
    """The same of another host, which takes unknown fields."""

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        return _read_openai(body, self.provider)

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        return _write_openai(ask, answer)


class MistralEmbeddings(MistralFormat):
    """What https://api.mistral.ai/v1/embeddings speaks."""

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        refuse_unknown(body, KNOWN_TO_MISTRAL, "Extra inputs are not permitted: {}")
        texts = strings(body.get("input"), "input")
        return _ask(self.provider, _model(body), texts, _embedding(body, "output_dimension"))

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        return _write_openai(ask, answer)


class GoogleEmbeddings(GoogleFormat):
    """What Gemini's batchEmbedContents speaks."""

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        texts, wanted = [], set()
        for index, request in enumerate(sequence(body.get("requests"), "requests")):
            where = f"requests[{index}]"
            words = f"Invalid JSON payload received. Unknown name \"{{}}\" at '{where}'"
            refuse_unknown(mapping(request, where), KNOWN_TO_GOOGLE, words)
            content = mapping(request.get("content"), f"{where}.content")
            texts.append(text_of(content.get("parts"), f"{where}.content.parts")[0])
            wanted.add(count(request, "outputDimensionality") or DIMENSIONS)
        if len(wanted) > 1:
            raise BadAsk("The simulator gives vectors of one length in an answer.")
        dimensions = next(iter(wanted), DIMENSIONS)
        return _ask(self.provider, path["model"], texts, Embedding(dimensions), path["version"])

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        body: dict[str, Any] = {"embeddings": [{"values": one} for one in _vectors(answer)]}
        if answer.tokens is not None:
            body["usageMetadata"] = {"promptTokenCount": answer.tokens.prompt}
        return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


class CohereEmbeddings(CohereFormat):
    """What https://api.cohere.com/v2/embed speaks."""

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        if body.get("input_type") not in KINDS:
            raise BadAsk("invalid request: input_type is required.", param="input_type")
        if strings(body.get("embedding_types"), "embedding_types") not in ((), ("float",)):
            raise BadAsk("The simulator gives 'float' embeddings.", param="embedding_types")
        texts = strings(body.get("texts"), "texts")
        return _ask(self.provider, _model(body), texts, _embedding(body, "output_dimension"))

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        meta: dict[str, Any] = {"api_version": {"version": "2"}}
        if answer.tokens is not None:
            meta["billed_units"] = {"input_tokens": answer.tokens.prompt}
        return orjson.dumps(
            {
                "id": answer.nonce[:32],
                "embeddings": {"float": _vectors(answer)},
                "texts": [turn.text for turn in ask.turns],
                "meta": meta,
                "response_type": "embeddings_by_type",
            }
        )


EMBEDDINGS: Mapping[LLMProvider, WireFormat] = {
    LLMProvider.OPENAI: OpenAIEmbeddings(),
    LLMProvider.CUSTOM: CustomEmbeddings(),
    LLMProvider.MISTRAL: MistralEmbeddings(),
    LLMProvider.GOOGLE: GoogleEmbeddings(),
    LLMProvider.COHERE: CohereEmbeddings(),
}


def _ask(
    provider: LLMProvider,
    model: str,
    texts: Sequence[str],
    embeds: Embedding,
    version: str = "",
) -> Ask:
    if not texts:
        raise BadAsk("input cannot be an empty array", param="input")
    if not all(texts):
        raise BadAsk("input cannot be an empty string", param="input")
    turns = tuple(Turn("user", text) for text in texts)
    return Ask(provider=provider, model=model, turns=turns, embeds=embeds, api_version=version)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadAsk("you must provide a model parameter", param="model")
    return model


def _embedding(body: Mapping[str, Any], dimensions: str, *, tokens: int = 0) -> Embedding:
    wanted = body.get("encoding_format") or "float"
    if wanted not in ("float", "base64"):
        raise BadAsk(f"Invalid value for 'encoding_format': {wanted!r}.", param="encoding_format")
    return Embedding(count(body, dimensions) or DIMENSIONS, wanted == "base64", tokens)


def _read_openai(body: Mapping[str, Any], provider: LLMProvider) -> Ask:
    given = body.get("input")
    is_one = isinstance(given, str) or _is_tokens(given)
    found: list[Any] = [given] if is_one else list(sequence(given, "input"))
    tokens = 0
    if found and all(map(_is_tokens, found)):
        tokens = sum(map(len, found))
        found = [" ".join(map(str, one)) for one in found]
    texts = strings(found, "input")
    return _ask(provider, _model(body), texts, _embedding(body, "dimensions", tokens=tokens))


def _is_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(one) is int for one in given)


def _write_openai(ask: Ask, answer: Answer) -> bytes:
    assert ask.embeds is not None, "it was read as such"
    write: Callable[[tuple[float, ...]], Any] = _packed if ask.embeds.packed else list
    data = [
        {"object": "embedding", "index": index, "embedding": write(vector)}
        for index, vector in enumerate(_vectors(answer))
    ]
    body: dict[str, Any] = {"object": "list", "data": data, "model": answer.model}
    if answer.tokens is not None:
        body["usage"] = {
            "prompt_tokens": answer.tokens.prompt,
            "total_tokens": answer.tokens.total,
        }
    return orjson.dumps(body)


def _vectors(answer: Answer) -> tuple[tuple[float, ...], ...]:
    return () if answer.no_content else answer.vectors


def _packed(vector: tuple[float, ...]) -> str:
    return b64encode(pack(f"<{len(vector)}f", *vector)).decode()
