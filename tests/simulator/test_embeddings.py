"""The simulator's embeddings, as the adapters and a plain client find them."""

import struct
from base64 import b64decode
from typing import Any

import pytest

from adapters import (
    AuthenticationFailed,
    EmbeddingRequest,
    InvalidRequest,
    LLMProvider,
    MalformedResponse,
    ModelConfig,
    ModelNotFound,
    ProviderError,
    RateLimited,
)
from orchestrator.simulator import Simulator
from tests.adapters.conftest import Opened, opened  # noqa: F401 - the fixture

P = LLMProvider
EMBEDDERS = (P.OPENAI, P.CUSTOM, P.MISTRAL, P.GOOGLE, P.COHERE)
TEXTS = ("a tree", "a house", "a tree")


def deployed(
    simulator: Simulator, provider: LLMProvider, *directives: str, model: str = "embed-1"
) -> ModelConfig:
    address = simulator.base_url(provider, *directives)
    return ModelConfig.model_validate(
        {"provider": provider, "model": model, "api_key": "k", "api_base": address}
    )


@pytest.mark.parametrize("provider", EMBEDDERS)
async def test_the_adapter_gets_a_vector_for_each_text(
    simulator: Simulator,
    opened: Opened,  # noqa: F811
    provider: LLMProvider,
) -> None:
    """Equal texts have equal vectors, of the length that was asked for; the tally agrees."""
    adapter = opened(deployed(simulator, provider))

    found = await adapter.embed(EmbeddingRequest(inputs=TEXTS, dimensions=8))

    assert [len(vector) for vector in found.vectors] == [8, 8, 8]
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert sum(float(number) ** 2 for number in found.vectors[0]) == pytest.approx(1.0)
    await simulator.settled()
    tally = simulator.tally()
    assert not found.usage.estimated
    assert (tally.prompt_tokens, tally.completion_tokens) == (found.usage.prompt_tokens, 0)


@pytest.mark.parametrize("provider", EMBEDDERS)
async def test_base64_and_numbers_are_the_same_vectors(
    simulator: Simulator,
    opened: Opened,  # noqa: F811
    provider: LLMProvider,
) -> None:
    """Whichever way they are asked for, and by whichever provider they are packed."""
    adapter = opened(deployed(simulator, provider))

    numbers = await adapter.embed(EmbeddingRequest(inputs=TEXTS, dimensions=4))
    texts = await adapter.embed(
        EmbeddingRequest(inputs=TEXTS, dimensions=4, encoding_format="base64")
    )

    unpacked = tuple(struct.unpack("<4f", b64decode(str(text))) for text in texts.vectors)
    assert unpacked == numbers.vectors


@pytest.mark.parametrize("provider", EMBEDDERS)
@pytest.mark.parametrize(
    ("directives", "model", "kind"),
    [
        (("e429",), "embed-1", RateLimited),
        (("e401",), "embed-1", AuthenticationFailed),
        (("html200",), "embed-1", MalformedResponse),
        (("nochoices",), "embed-1", MalformedResponse),
        ((), "missing-1", ModelNotFound),
    ],
)
async def test_errors_are_those_of_chats(
    simulator: Simulator,
    opened: Opened,  # noqa: F811
    provider: LLMProvider,
    directives: tuple[str, ...],
    model: str,
    kind: type[ProviderError],
) -> None:
    """The faults of plain answers strike embeddings as well."""
    adapter = opened(deployed(simulator, provider, *directives, model=model))

    with pytest.raises(kind):
        await adapter.embed(EmbeddingRequest(inputs=TEXTS))


async def test_usage_that_is_left_out_is_counted_by_us(
    simulator: Simulator,
    opened: Opened,  # noqa: F811
) -> None:
    """Faults in the usage of chats are faults in that of embeddings."""
    adapter = opened(deployed(simulator, P.OPENAI, "nousage"))

    found = await adapter.embed(EmbeddingRequest(inputs=TEXTS))

    assert found.usage.estimated
    assert found.usage.prompt_tokens > 0


async def test_anthropic_has_no_embeddings(simulator: Simulator) -> None:
    """There is no such address."""
    assert b"not_found_error" in simulator.render("/anthropic/v1/embeddings", {})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"input": "a"}, "you must provide a model parameter"),
        ({"model": "m"}, "input cannot be an empty array"),
        ({"model": "m", "input": []}, "input cannot be an empty array"),
        ({"model": "m", "input": ["a", ""]}, "input cannot be an empty string"),
        ({"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "m", "input": "a", "colour": "red"}, "Unrecognized request argument"),
    ],
)
async def test_what_openai_refuses_is_refused(
    simulator: Simulator, body: dict[str, Any], why: str
) -> None:
    """In its own words."""
    assert why in simulator.render("/openai/v1/embeddings", body).decode()


async def test_tokens_are_counted_as_such(simulator: Simulator, opened: Opened) -> None:  # noqa: F811
    """Whoever sends tokens is billed for as many."""
    adapter = opened(deployed(simulator, P.OPENAI))

    found = await adapter.embed(EmbeddingRequest(inputs=((1, 2, 3), (4, 5))))

    assert found.usage.prompt_tokens == 5


async def test_a_text_that_cohere_was_not_told_the_purpose_of_is_refused(
    simulator: Simulator,
    opened: Opened,  # noqa: F811
) -> None:
    """Its API wants to know; the adapter says so every time."""
    refused = simulator.render("/cohere/v2/embed", {"model": "m", "texts": ["a"]})

    assert b"input_type is required" in refused
    with pytest.raises(InvalidRequest, match="'output_dimension'"):
        await opened(deployed(simulator, P.COHERE)).embed(
            EmbeddingRequest(inputs=("a",), dimensions=-1)
        )
