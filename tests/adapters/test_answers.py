"""The happy way: every adapter, plain and streamed, text and tool calls."""

from contextlib import aclosing

import pytest

from adapters import Completion, LLMProvider, ToolCall, Usage, collect
from tests.adapters.wires import (
    ARGUMENTS,
    ASK,
    MODELS,
    PROVIDERS,
    as_json,
    in_parts,
    plain,
    stream,
    wire,
)

pytestmark = pytest.mark.usefixtures("opened")
NAMES = {
    LLMProvider.ANTHROPIC: "claude-haiku-4-5-20251001",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: MODELS[LLMProvider.COHERE],  # Cohere does not say who answered
}
USAGE = Usage(prompt_tokens=12, completion_tokens=5)


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_is_read_whole(provider: LLMProvider, way: str) -> None:
    """Text, finish, usage and the name the provider answered under; the stream's fold is equal."""
    wired = await wire(provider, plain(provider) if way == "plain" else stream(provider))

    if way == "plain":
        completion = await wired.adapter.complete(ASK)
    else:
        completion = await collect(wired.adapter.stream(ASK))

    expected = Completion(
        text="The Nile.",
        finish_reason="stop",
        model=NAMES.get(provider, "answered-by"),
        usage=USAGE,
    )
    assert expected == completion
    assert len(wired.requests) == 1


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_tool_call_is_read_whole(provider: LLMProvider, way: str) -> None:
    """Its name, its arguments as JSON text, an id, and that this is why the model stopped."""
    is_plain = way == "plain"
    wired = await wire(provider, (plain if is_plain else stream)(provider, tool=True))

    if is_plain:
        completion = await wired.adapter.complete(ASK)
    else:
        completion = await collect(wired.adapter.stream(ASK))

    (call,) = completion.tool_calls
    assert isinstance(call, ToolCall)
    assert call.name == "get_weather"
    assert as_json(call.arguments) == as_json(ARGUMENTS)
    assert call.id
    assert completion.finish_reason == "tool_calls"
    assert completion.usage == USAGE


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_last_chunk_alone_says_how_it_ended(provider: LLMProvider) -> None:
    """Content first, piece by piece; then one chunk with finish, usage and model."""
    wired = await wire(provider, stream(provider, "The ", "longest ", "river"))

    async with aclosing(wired.adapter.stream(ASK)) as chunks:
        *contents, last = [chunk async for chunk in chunks]

    assert [chunk.text for chunk in contents] == ["The ", "longest ", "river"]
    assert all(chunk.has_content for chunk in contents)
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in contents)
    assert (last.has_content, last.finish_reason, last.usage) == (False, "stop", USAGE)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_may_arrive_byte_by_byte(provider: LLMProvider) -> None:
    """Characters, line ends and line separators survive any cut."""
    text = "Ünï\u2028code\u0085 ✓\U0001f600 [DONE]\r\n\ttail"
    body = stream(provider, text, ".")

    wired = await wire(provider, in_parts(*(bytes([byte]) for byte in body)))
    completion = await collect(wired.adapter.stream(ASK))

    assert completion.text == text + "."


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_generate_is_the_text_of_one_prompt(provider: LLMProvider) -> None:
    """The shortest way to ask."""
    wired = await wire(provider, plain(provider, "Ünïcode ✓"))

    assert await wired.adapter.generate("Which river?") == "Ünïcode ✓"
    assert b"Which river?" in wired.requests[0].content
