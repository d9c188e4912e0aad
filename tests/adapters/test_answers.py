"""The happy way: every adapter, plain and streamed, text and tool calls."""

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest

from adapters import (
    Chunk,
    Completion,
    Limits,
    LLMProvider,
    MalformedResponse,
    StreamBroken,
    ToolCall,
    Usage,
    collect,
)
from tests.adapters.wires import (
    ARGUMENTS,
    ASK,
    MODELS,
    PROVIDERS,
    Bytes,
    as_json,
    data,
    events,
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


ANTHROPICS_OWN = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}


@pytest.mark.parametrize("way", ["plain", "streamed"])
async def test_tools_that_anthropic_runs_itself_are_not_ours_to_call(way: str) -> None:
    """They are left out; the others are numbered from 0."""
    whole = plain("anthropic", tool=True)
    whole["content"].insert(0, ANTHROPICS_OWN)
    start, *middle, stop, delta, last = events("anthropic", tool=True)
    moved = [{**event, "index": 1} if "index" in event else event for event in (*middle, stop)]
    own = [
        {"type": "content_block_start", "index": 0, "content_block": ANTHROPICS_OWN},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"query":"x"}'},
        },
        {"type": "content_block_stop", "index": 0},
    ]
    streamed = data(start, *own, *moved, delta, last)

    if way == "plain":
        completion = await (await wire("anthropic", whole)).adapter.complete(ASK)
    else:
        async with aclosing((await wire("anthropic", streamed)).adapter.stream(ASK)) as chunks:
            pieces = [chunk async for chunk in chunks]
        assert {d.index for piece in pieces for d in piece.tool_calls} == {0}
        completion = await collect(again(pieces))

    assert [call.id for call in completion.tool_calls] == ["toolu_1"]
    assert as_json(completion.tool_calls[0].arguments) == as_json(ARGUMENTS)


async def again(pieces: list[Chunk]) -> AsyncIterator[Chunk]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("way", ["plain", "streamed"])
async def test_coheres_thinking_and_cached_tokens_are_kept(way: str) -> None:
    """litellm loses both; billed units are not tokens, and are what is charged."""
    usage = {
        "billed_units": {"input_tokens": 2, "output_tokens": 1},
        "tokens": {"input_tokens": 12, "output_tokens": 5},
        "cached_tokens": 4,
    }
    thinking = {"type": "thinking", "thinking": "Long river..."}
    whole = plain("cohere", usage=usage)
    whole["message"]["content"].insert(0, thinking)
    first, *others = events("cohere", usage=usage)
    thought = {"type": "content-delta", "index": 0, "delta": {"message": {"content": thinking}}}

    if way == "plain":
        completion = await (await wire("cohere", whole)).adapter.complete(ASK)
    else:
        wired = await wire("cohere", data(first, thought, *others))
        completion = await collect(wired.adapter.stream(ASK))

    assert (completion.text, completion.reasoning) == ("The Nile.", "Long river...")
    assert completion.usage == Usage(
        prompt_tokens=12,
        completion_tokens=5,
        cached_tokens=4,
        billed_prompt_tokens=2,
        billed_completion_tokens=1,
    )


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_answers_are_asked_for_uncompressed_and_read_compressed(
    provider: LLMProvider,
) -> None:
    """Some servers compress whatever they are asked."""
    body = gzip.compress(json.dumps(plain(provider)).encode())

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Bytes([body]))

    wired = await wire(provider, answer)

    assert (await wired.adapter.complete(ASK)).text == "The Nile."


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
async def test_a_compressed_bomb_has_the_size_it_grows_to(*, is_stream: bool) -> None:
    """A few kilobytes are not a few kilobytes."""
    filling = b"data: " if is_stream else b'{"a": "'
    body = gzip.compress(filling + b"x" * 20_000_000)
    headers = {"content-encoding": "gzip", "content-type": "text/event-stream"}
    wired = await wire(
        "openai", lambda request: httpx.Response(200, headers=headers, stream=Bytes([body]))
    )
    limits = Limits(body_bytes=1_000_000)

    with pytest.raises(MalformedResponse, match=r"larger than 1,000,000 bytes"):
        await (
            collect(wired.adapter.stream(ASK, limits=limits))
            if is_stream
            else wired.adapter.complete(ASK, limits=limits)
        )


async def test_a_body_that_cannot_be_decompressed_is_broken() -> None:
    """It is a cut like any other."""
    headers = {"content-encoding": "gzip"}
    wired = await wire(
        "openai", lambda request: httpx.Response(200, headers=headers, stream=Bytes([b"nonsense"]))
    )

    with pytest.raises(StreamBroken, match="cut off before its end"):
        await wired.adapter.complete(ASK)
