"""Embeddings of every adapter: what is asked of the provider, and which answers are believed."""

import json
import struct
from base64 import b64decode, b64encode
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import (
    AuthenticationFailed,
    EmbeddingRequest,
    EmptyAnswer,
    InvalidRequest,
    LLMProvider,
    MalformedResponse,
    MockAdapter,
    ModelConfig,
    ProviderError,
    RateLimited,
    Usage,
)
from adapters._embedding import packed, read_vectors
from adapters.prices import price_of
from tests.adapters.wires import KEY, wire

# Texts that litellm would take for a file of Google's, and for a picture.
TEXTS = ("files/readme", "data:image/png;base64,aGk=")
VECTORS = [[1.0, 2.0], [3.0, 4.5]]


def openai_answer(vectors: list[Any], **fields: Any) -> dict[str, Any]:
    data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": data, "model": "embed-1", "usage": usage, **fields}


ANSWERS: dict[str, dict[str, Any]] = {
    "openai": openai_answer(VECTORS),
    "custom": openai_answer(VECTORS),
    "mistral": openai_answer(VECTORS),
    "google": {
        "embeddings": [{"values": vector} for vector in VECTORS],
        "usageMetadata": {"promptTokenCount": 5},
    },
    "cohere": {
        "id": "1",
        "embeddings": {"float": VECTORS},
        "meta": {"billed_units": {"input_tokens": 5}},
    },
}
BODIES: dict[str, dict[str, Any]] = {
    "openai": {
        "model": "gpt-4.1-mini",
        "input": list(TEXTS),
        "dimensions": 2,
        "user": "me",
        "encoding_format": "float",
    },
    "custom": {"model": "qwen3", "input": list(TEXTS), "dimensions": 2, "user": "me"},
    "mistral": {
        "model": "mistral-small-latest",
        "input": list(TEXTS),
        "output_dimension": 2,
    },
    "google": {
        "requests": [
            {
                "model": "models/gemini-2.5-flash",
                "content": {"parts": [{"text": text}]},
                "outputDimensionality": 2,
            }
            for text in TEXTS
        ]
    },
    "cohere": {
        "model": "command-a-03-2025",
        "texts": list(TEXTS),
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": 2,
    },
}
ADDRESSES = {
    "openai": "https://api.openai.com/v1/embeddings",
    "custom": "https://models.example/v1/embeddings",
    "mistral": "https://api.mistral.ai/v1/embeddings",
    "google": (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"
        ":batchEmbedContents"
    ),
    "cohere": "https://api.cohere.com/v2/embed",
}


@pytest.mark.parametrize("provider", ANSWERS)
async def test_texts_are_sent_as_they_are_and_come_back_as_vectors(provider: str) -> None:
    """Every provider that can is asked once, in its own words, and its vectors are ours."""
    wired = await wire(provider, ANSWERS[provider])

    found = await wired.adapter.embed(EmbeddingRequest(inputs=TEXTS, dimensions=2, user="me"))

    assert found.vectors == ((1.0, 2.0), (3.0, 4.5))
    assert found.usage.prompt_tokens == 5
    assert found.usage.completion_tokens == 0
    assert not found.usage.estimated
    assert wired.body == BODIES[provider]
    (request,) = wired.requests
    assert str(request.url) == ADDRESSES[provider]
    assert any(KEY in value for value in request.headers.values())


async def test_anthropic_refuses_with_what_to_do() -> None:
    """A provider without embeddings says so, and is not called."""
    wired = await wire("anthropic", {})

    with pytest.raises(InvalidRequest, match="anthropic has no embeddings; ask a deployment of"):
        await wired.adapter.embed(EmbeddingRequest(inputs=("a",)))
    assert not wired.requests


@pytest.mark.parametrize("provider", ["custom", "mistral", "google", "cohere"])
async def test_only_openai_takes_tokens(provider: str) -> None:
    """Tokens are a model's own numbers: whoever does not take them refuses before the call."""
    wired = await wire(provider, {})

    with pytest.raises(InvalidRequest, match="only openai takes tokens to embed; send the text"):
        await wired.adapter.embed(EmbeddingRequest(inputs=((1, 2), (3,))))
    assert not wired.requests


async def test_openai_takes_tokens() -> None:
    """They are sent as they are."""
    wired = await wire("openai", openai_answer(VECTORS))

    await wired.adapter.embed(EmbeddingRequest(inputs=((1, 2), (3,))))

    assert wired.body["input"] == [[1, 2], [3]]


async def test_base64_is_handed_on_as_it_came() -> None:
    """What OpenAI has packed already is not unpacked and packed again."""
    raw = b64encode(struct.pack("<2f", 0.1, -7.0)).decode()
    wired = await wire("openai", openai_answer([raw]))

    found = await wired.adapter.embed(EmbeddingRequest(inputs=("a",), encoding_format="base64"))

    assert found.vectors == (raw,)
    assert wired.body["encoding_format"] == "base64"


@pytest.mark.parametrize("provider", ["custom", "mistral", "google", "cohere"])
async def test_numbers_are_packed_where_base64_is_wanted(provider: str) -> None:
    """Providers that send numbers serve those who want base64 as well."""
    wired = await wire(provider, ANSWERS[provider])

    found = await wired.adapter.embed(EmbeddingRequest(inputs=TEXTS, encoding_format="base64"))

    unpacked = [struct.unpack("<2f", b64decode(str(vector))) for vector in found.vectors]
    assert unpacked == [(1.0, 2.0), (3.0, 4.5)]


async def test_vectors_come_in_the_order_of_their_index() -> None:
    """OpenAI numbers them, and does not promise to send them in order."""
    data = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]
    wired = await wire("openai", openai_answer([], data=data))

    found = await wired.adapter.embed(EmbeddingRequest(inputs=("a", "b")))

    assert found.vectors == ((1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([{"index": 0, "embedding": [1]}], "1 vectors for 2 inputs"),
        ([{"index": 0, "embedding": [1]}] * 2, "indices are not each there once"),
        ([{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [1]}], "each there once"),
        ([{"embedding": [1, 2]}, {"embedding": [1]}], "vectors of 1 and 2 numbers"),
        ([{"embedding": []}, {"embedding": []}], "vectors of 0 numbers"),
        ([{"embedding": [1]}, {"embedding": ["x"]}], "something else than numbers"),
        ([{"embedding": [1]}, {"embedding": None}], "something else than numbers"),
        ([{"embedding": [1]}, {"embedding": "?"}], "something else than numbers"),
        ([{"embedding": [1]}, {"embedding": "AAAA"}], "something else than numbers"),
        ([{"embedding": [1]}, {"embedding": "AADAfw=="}], "not finite"),
        ([{"embedding": [1]}, {}], r"could not be read \(KeyError\)"),
        ([1, 2], r"could not be read \(AttributeError\)"),
    ],
)
async def test_what_cannot_be_the_vectors_is_refused(data: list[Any], why: str) -> None:
    """An answer that would shift, mix or spoil vectors is no answer."""
    wired = await wire("openai", openai_answer([], data=data))

    with pytest.raises(MalformedResponse, match=why):
        await wired.adapter.embed(EmbeddingRequest(inputs=("a", "b")))


async def test_other_dimensions_than_asked_for_are_refused() -> None:
    """Some hosts ignore the wish, and such vectors fit into no store of others."""
    wired = await wire("custom", openai_answer(VECTORS))

    with pytest.raises(MalformedResponse, match="vectors of 2 numbers where 3 were asked for"):
        await wired.adapter.embed(EmbeddingRequest(inputs=TEXTS, dimensions=3))


@pytest.mark.parametrize("provider", ANSWERS)
async def test_an_answer_without_vectors_is_empty(provider: str) -> None:
    """An object of something else is none."""
    wired = await wire(provider, {"model": "embed-1"})

    with pytest.raises(EmptyAnswer):
        await wired.adapter.embed(EmbeddingRequest(inputs=("a",)))


@pytest.mark.parametrize("provider", ANSWERS)
@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationFailed), (429, RateLimited)])
async def test_errors_are_those_of_completions(
    provider: str, status: int, kind: type[ProviderError]
) -> None:
    """They are read from the wire, and nothing is tried again below us."""
    error = {"error": {"message": f"no {KEY}", "code": "slow_down"}}
    headers = {"retry-after": "7"}
    wired = await wire(provider, httpx.Response(status, json=error, headers=headers))

    with pytest.raises(kind) as caught:
        await wired.adapter.embed(EmbeddingRequest(inputs=("a",)))

    assert len(wired.requests) == 1
    assert caught.value.retry_after_s == 7.0
    assert KEY not in str(caught.value)
    assert not caught.value.maybe_billed


async def test_missing_usage_is_counted_and_said() -> None:
    """Nobody embeds for nothing: without a figure of the provider's, ours counts."""
    wired = await wire("google", {"embeddings": [{"values": [1.0]}]})

    found = await wired.adapter.embed(EmbeddingRequest(inputs=("two words",)))

    assert found.usage == Usage(prompt_tokens=found.usage.prompt_tokens, estimated=True)
    assert found.usage.prompt_tokens > 0


@pytest.mark.parametrize("inputs", [("a" * 50, "ä" * 9), ((1, 2, 3), (4,))])
async def test_the_bound_is_no_less_than_the_count(inputs: Any) -> None:
    """What is reserved covers what an answer may report."""
    wired = await wire("openai", {})
    request = EmbeddingRequest(inputs=inputs)

    assert wired.adapter.bound_prompt(request) >= sum(map(len, inputs))


async def test_the_mock_gives_the_same_vector_to_the_same_text() -> None:
    """And another to another; what its script says of errors holds here too."""
    adapter = MockAdapter([RateLimited("slow"), "words"])
    request = EmbeddingRequest(inputs=("a", "b", "a"), dimensions=4)

    with pytest.raises(RateLimited):
        await adapter.embed(request)
    found = await adapter.embed(request)

    assert [len(vector) for vector in found.vectors] == [4, 4, 4]
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert found.usage.prompt_tokens == 3
    assert adapter.embedded == [request, request]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_base64_holds_what_was_packed(numbers: list[float]) -> None:
    """32-bit floats come out as they went in, by our reading and by struct's."""
    text = packed(numbers)

    assert list(struct.unpack(f"<{len(numbers)}f", b64decode(text))) == numbers
    assert read_vectors([text], EmbeddingRequest(inputs=("a",))) == (tuple(numbers),)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_whatever_stands_for_a_vector_is_read_or_refused(found: Any) -> None:
    """Nothing but a `ValueError` comes of what is no vector."""
    try:
        vectors = read_vectors([found], EmbeddingRequest(inputs=("a",)))
    except ValueError:
        return

    assert json.dumps(vectors)


def test_a_number_too_large_for_32_bits_is_not_packed() -> None:
    """It would become infinite on the way."""
    with pytest.raises(ValueError, match="no 32-bit float can hold"):
        packed([1e300])


def test_embeddings_have_prices_of_their_own() -> None:
    """A model that embeds is none to chat with, nor the other way round."""
    request = EmbeddingRequest(inputs=("a",))
    embedder = ModelConfig(provider=LLMProvider.COHERE, model="embed-v4.0")
    talker = ModelConfig(provider=LLMProvider.OPENAI, model="gpt-5-mini")

    price = price_of(embedder, request=request)

    assert price is not None
    assert price.cost_nanousd(Usage(prompt_tokens=1000)) == 120_000
    assert price.worst_nanousd(1000, 0) == 120_000
    assert price_of(embedder) is None
    assert price_of(talker, request=request) is None
