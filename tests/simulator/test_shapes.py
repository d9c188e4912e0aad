"""The simulator's bytes have the shape of the providers': the same events, fields and headers."""

from collections.abc import Mapping
from typing import Any

import pytest

from adapters.config import LLMProvider
from tests.simulator.calling import Caller, Got, thinking, tools

P = LLMProvider
WEATHER = "What is the weather in Paris and London?"

OPENAI_USAGE = {
    "usage.prompt_tokens",
    "usage.completion_tokens",
    "usage.total_tokens",
    "usage.prompt_tokens_details.cached_tokens",
    "usage.prompt_tokens_details.audio_tokens",
    "usage.completion_tokens_details.reasoning_tokens",
    "usage.completion_tokens_details.audio_tokens",
    "usage.completion_tokens_details.accepted_prediction_tokens",
    "usage.completion_tokens_details.rejected_prediction_tokens",
}
OPENAI_TOP = {"id", "object", "created", "model", "service_tier", "system_fingerprint"}
OPENAI_PLAIN = (
    OPENAI_TOP
    | OPENAI_USAGE
    | {
        "choices[].index",
        "choices[].message.role",
        "choices[].message.content",
        "choices[].message.refusal",
        "choices[].message.annotations[]",
        "choices[].logprobs",
        "choices[].finish_reason",
    }
)
OPENAI_CALLS = {
    "choices[].message.tool_calls[].id",
    "choices[].message.tool_calls[].type",
    "choices[].message.tool_calls[].function.name",
    "choices[].message.tool_calls[].function.arguments",
}
ANTHROPIC_USAGE = {
    "usage.input_tokens",
    "usage.cache_creation_input_tokens",
    "usage.cache_read_input_tokens",
    "usage.cache_creation.ephemeral_5m_input_tokens",
    "usage.cache_creation.ephemeral_1h_input_tokens",
    "usage.output_tokens",
    "usage.service_tier",
    "usage.inference_geo",
}
ANTHROPIC_TOP = {"model", "id", "type", "role", "stop_reason", "stop_sequence", "stop_details"}
GOOGLE_PLAIN = {
    "candidates[].content.parts[].text",
    "candidates[].content.role",
    "candidates[].finishReason",
    "candidates[].index",
    "usageMetadata.promptTokenCount",
    "usageMetadata.candidatesTokenCount",
    "usageMetadata.totalTokenCount",
    "usageMetadata.promptTokensDetails[].modality",
    "usageMetadata.promptTokensDetails[].tokenCount",
    "usageMetadata.serviceTier",
    "modelVersion",
    "responseId",
}
COHERE_USAGE = {
    "usage.billed_units.input_tokens",
    "usage.billed_units.output_tokens",
    "usage.tokens.input_tokens",
    "usage.tokens.output_tokens",
    "usage.cached_tokens",
}
MISTRAL_USAGE = {
    "usage.prompt_tokens",
    "usage.total_tokens",
    "usage.completion_tokens",
    "usage.prompt_tokens_details.cached_tokens",
    "usage.service_tier",
}
MISTRAL_PLAIN = MISTRAL_USAGE | {
    "id",
    "created",
    "model",
    "object",
    "choices[].index",
    "choices[].finish_reason",
    "choices[].message.role",
    "choices[].message.content",
    "choices[].message.tool_calls",
}

PLAIN: dict[LLMProvider, set[str]] = {
    P.OPENAI: OPENAI_PLAIN,
    P.CUSTOM: OPENAI_PLAIN,
    P.ANTHROPIC: ANTHROPIC_TOP | ANTHROPIC_USAGE | {"content[].type", "content[].text"},
    P.GOOGLE: GOOGLE_PLAIN,
    P.COHERE: COHERE_USAGE
    | {"id", "finish_reason", "message.role", "message.content[].type", "message.content[].text"},
    P.MISTRAL: MISTRAL_PLAIN,
}
CALLS: dict[LLMProvider, set[str]] = {
    P.OPENAI: OPENAI_PLAIN | OPENAI_CALLS,
    P.CUSTOM: OPENAI_PLAIN | OPENAI_CALLS,
    P.ANTHROPIC: ANTHROPIC_TOP
    | ANTHROPIC_USAGE
    | {
        "content[].type",
        "content[].id",
        "content[].name",
        "content[].input.city",
        "content[].caller.type",
    },
    P.GOOGLE: GOOGLE_PLAIN - {"candidates[].content.parts[].text"}
    | {
        "candidates[].content.parts[].functionCall.name",
        "candidates[].content.parts[].functionCall.args.city",
        "candidates[].content.parts[].thoughtSignature",
        "candidates[].finishMessage",
    },
    P.COHERE: COHERE_USAGE
    | {
        "id",
        "finish_reason",
        "message.role",
        "message.tool_plan",
        "message.tool_calls[].id",
        "message.tool_calls[].type",
        "message.tool_calls[].function.name",
        "message.tool_calls[].function.arguments",
    },
    P.MISTRAL: MISTRAL_PLAIN - {"choices[].message.tool_calls"}
    | {
        "choices[].message.tool_calls[].id",
        "choices[].message.tool_calls[].type",
        "choices[].message.tool_calls[].index",
        "choices[].message.tool_calls[].function.name",
        "choices[].message.tool_calls[].function.arguments",
    },
}
THOUGHT: dict[LLMProvider, set[str]] = {
    P.OPENAI: set(),  # counted, never shown
    P.CUSTOM: {"choices[].message.reasoning_content"},
    P.ANTHROPIC: {
        "content[].thinking",
        "content[].signature",
        "usage.output_tokens_details.thinking_tokens",
    },
    P.GOOGLE: {"candidates[].content.parts[].thought", "usageMetadata.thoughtsTokenCount"},
    P.COHERE: {"message.content[].thinking", "usage.tokens.reasoning_tokens"},
    P.MISTRAL: {
        "choices[].message.content[].type",
        "choices[].message.content[].text",
        "choices[].message.content[].closed",
        "choices[].message.content[].thinking[].type",
        "choices[].message.content[].thinking[].text",
    },
}
HEADERS: dict[LLMProvider, set[str]] = {
    P.OPENAI: {"x-request-id", "openai-version", "x-ratelimit-remaining-tokens"},
    P.CUSTOM: set(),
    P.ANTHROPIC: {"request-id", "anthropic-ratelimit-requests-remaining"},
    P.GOOGLE: {"server-timing"},
    P.COHERE: {"x-debug-trace-id", "num-tokens"},
    P.MISTRAL: {"mistral-correlation-id", "x-ratelimit-remaining-tokens-minute"},
}
# The kinds of a stream's events, in the order in which they first come.
STREAMED: dict[LLMProvider, list[str]] = {
    P.OPENAI: ["role", "content", "finish", "usage", "[DONE]"],
    P.CUSTOM: ["role", "content", "finish", "usage", "[DONE]"],
    P.ANTHROPIC: [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ],
    P.GOOGLE: ["content", "finish"],
    P.COHERE: [
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "message-end",
        "[DONE]",
    ],
    P.MISTRAL: ["role", "content", "finish", "[DONE]"],
}
STREAMED_CALLS: dict[LLMProvider, list[str]] = {
    P.OPENAI: ["role", "tool_calls", "finish", "usage", "[DONE]"],
    P.CUSTOM: ["role", "tool_calls", "finish", "usage", "[DONE]"],
    P.ANTHROPIC: STREAMED[P.ANTHROPIC],
    P.GOOGLE: ["finish"],
    P.COHERE: [
        "message-start",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
        "[DONE]",
    ],
    P.MISTRAL: ["role", "finish", "[DONE]"],
}
# kind of fault -> provider -> status and the fields of its body
ERRORS: dict[str, dict[LLMProvider, tuple[int, set[str]]]] = {
    "e401": {
        P.OPENAI: (401, {"error.message", "error.type", "error.param", "error.code"}),
        P.CUSTOM: (401, {"error.message", "error.type", "error.param", "error.code"}),
        P.ANTHROPIC: (401, {"type", "error.type", "error.message", "request_id"}),
        P.GOOGLE: (
            400,
            {
                "error.code",
                "error.message",
                "error.status",
                "error.details[].@type",
                "error.details[].reason",
                "error.details[].domain",
                "error.details[].metadata.service",
                "error.details[].locale",
                "error.details[].message",
            },
        ),
        P.COHERE: (401, {"id", "message"}),
        P.MISTRAL: (401, {"detail"}),
    },
    "e404": {
        P.OPENAI: (404, {"error.message", "error.type", "error.param", "error.code"}),
        P.CUSTOM: (404, {"error.message", "error.type", "error.param", "error.code"}),
        P.ANTHROPIC: (404, {"type", "error.type", "error.message", "request_id"}),
        P.GOOGLE: (404, {"error.code", "error.message", "error.status"}),
        P.COHERE: (404, {"id", "message"}),
        P.MISTRAL: (400, {"object", "message", "type", "param", "code"}),
    },
    "e503": {
        P.OPENAI: (503, {"error.message", "error.type", "error.param", "error.code"}),
        P.CUSTOM: (503, {"error.message", "error.type", "error.param", "error.code"}),
        P.ANTHROPIC: (503, {"type", "error.type", "error.message", "request_id"}),
        P.GOOGLE: (503, {"error.code", "error.message", "error.status"}),
        P.COHERE: (503, {"id", "message"}),
        P.MISTRAL: (503, {"object", "message", "type", "param", "code", "raw_status_code"}),
    },
}


def fields(value: Any, path: str = "") -> set[str]:
    """Every field's path, `choices[].message.content`."""
    if isinstance(value, Mapping):
        return set().union(*(fields(v, f"{path}.{k}" if path else k) for k, v in value.items()))
    if isinstance(value, list):
        return set().union(
            {f"{path}[]"} if not value else set(), *(fields(v, f"{path}[]") for v in value)
        )
    return {path}


def kinds(provider: LLMProvider, got: Got) -> list[str]:
    """What each event of a stream is, every kind once."""
    found = [name or _kind(provider, data) for name, data in got.events]
    return list(dict.fromkeys(found))


def _kind(provider: LLMProvider, data: Any) -> str:
    if data == "[DONE]":
        return "[DONE]"
    if provider is P.GOOGLE:
        return "finish" if "finishReason" in data["candidates"][0] else "content"
    if not data["choices"]:
        return "usage"
    choice = data["choices"][0]
    if choice["finish_reason"]:
        return "finish"
    return next((name for name in ("role", "tool_calls", "content") if name in choice["delta"]), "")


@pytest.mark.parametrize("provider", P)
async def test_a_plain_answer_has_the_providers_fields(
    caller: Caller, provider: LLMProvider
) -> None:
    """Nothing is missing and nothing is made up."""
    got = await caller.ask(provider)

    assert got.status == 200
    assert fields(got.json) == PLAIN[provider]


@pytest.mark.parametrize("provider", P)
async def test_an_answer_has_the_headers_that_matter(caller: Caller, provider: LLMProvider) -> None:
    """Request ids and what is left of the rate limit, under the provider's own names."""
    got = await caller.ask(provider)

    assert set(got.headers) >= HEADERS[provider] | {"content-type", "date"}


@pytest.mark.parametrize("provider", P)
async def test_a_tool_call_has_the_providers_fields(caller: Caller, provider: LLMProvider) -> None:
    """Two calls of one tool, in the provider's own shape."""
    got = await caller.ask(provider, prompt=WEATHER, **tools(provider))

    assert fields(got.json) == CALLS[provider]


@pytest.mark.parametrize("provider", P)
async def test_thinking_adds_the_providers_fields(caller: Caller, provider: LLMProvider) -> None:
    """Where a provider shows thinking it stands in its own place."""
    got = await caller.ask(provider, **thinking(provider))

    added = fields(got.json) - PLAIN[provider]
    assert added == THOUGHT[provider]


@pytest.mark.parametrize("provider", P)
async def test_a_stream_has_the_providers_events_in_their_order(
    caller: Caller, provider: LLMProvider
) -> None:
    """The same kinds of events, first seen in the same order."""
    got = await caller.ask(provider, streamed=True)

    assert got.headers["content-type"].startswith("text/event-stream")
    assert kinds(provider, got) == STREAMED[provider]


@pytest.mark.parametrize("provider", P)
async def test_streamed_tool_calls_have_the_providers_events(
    caller: Caller, provider: LLMProvider
) -> None:
    """The same kinds of events, first seen in the same order."""
    got = await caller.ask(provider, prompt=WEATHER, streamed=True, **tools(provider))

    assert kinds(provider, got) == STREAMED_CALLS[provider]


@pytest.mark.parametrize("provider", P)
@pytest.mark.parametrize("fault", ERRORS)
async def test_an_error_has_the_providers_status_and_fields(
    caller: Caller, provider: LLMProvider, fault: str
) -> None:
    """Errors come in the provider's own body."""
    got = await caller.ask(provider, model=f"sim--{fault}")

    status, wanted = ERRORS[fault][provider]
    assert got.status == status
    assert fields(got.json) == wanted
