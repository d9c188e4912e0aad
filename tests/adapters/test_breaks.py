"""Where exactly an exchange breaks decides what it is called, and whether there is an answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import httpx
import pytest

from adapters import (
    ConnectionFailed,
    ContentFiltered,
    LLMProvider,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    _litellm,
    collect,
)
from adapters._call import Call
from adapters._clocks import Clocks
from adapters.errors import About
from adapters.types import Limits
from tests.adapters.wires import (
    ASK,
    PROVIDERS,
    Bytes,
    data,
    events,
    in_parts,
    plain,
    stream,
    wire,
)

pytestmark = pytest.mark.usefixtures("opened")
LOST = httpx.ReadError("lost")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_whose_words_are_lost_is_still_that_refusal(provider: LLMProvider) -> None:
    """The status came first, and the headers."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = Bytes([b'{"error": {"mess'], LOST)
        return httpx.Response(429, headers={"retry-after": "7"}, stream=body)

    wired = await wire(provider, answer)

    with pytest.raises(RateLimited, match="river: HTTP 429") as caught:
        await wired.adapter.complete(ASK)

    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("parts", [[], [b"\r\n"], [b"\xef\xbb"]])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_lost_before_the_first_byte_no_answer_began(
    provider: LLMProvider, parts: list[bytes]
) -> None:
    """So it is the connection that failed."""
    wired = await wire(provider, in_parts(*parts, failure=LOST))

    with pytest.raises(ConnectionFailed, match="before any of the answer arrived"):
        await collect(wired.adapter.stream(ASK))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_lost_in_the_middle_the_stream_is_broken(provider: LLMProvider) -> None:
    """Whatever litellm makes of it."""
    half = stream(provider, "The ", "Nile.")
    wired = await wire(provider, in_parts(half[: half.index(b"Nile")], failure=LOST))

    with pytest.raises(StreamBroken, match="before the answer was complete") as caught:
        await collect(wired.adapter.stream(ASK))

    assert caught.value.partial_text == "The "


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_lost_after_the_finish_the_answer_is_whole(provider: LLMProvider) -> None:
    """Only what nobody waits for is missing."""
    whole = events(provider)
    if provider not in (LLMProvider.GOOGLE, LLMProvider.COHERE):
        whole = whole[:-1]  # the usage, or the word that it was the last
    wired = await wire(provider, in_parts(data(*whole), failure=LOST))

    completion = await collect(wired.adapter.stream(ASK))

    assert completion.text == "The Nile."
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_lost_behind_the_last_event_nothing_is_lost(provider: LLMProvider) -> None:
    """The connection was only read to its end to be used again."""
    wired = await wire(provider, in_parts(stream(provider), failure=LOST))

    completion = await collect(wired.adapter.stream(ASK))

    assert completion.text == "The Nile."
    assert completion.usage.completion_tokens == 5


@pytest.mark.parametrize(
    ("parts", "failure", "words"),
    [
        ([b'{"error": {"mess'], LOST, "broken or cut JSON instead of a stream"),
        ([b'{"a": "', b"x" * 70_000, b"x" * 70_000], None, "broken or cut JSON instead"),
        ([b"<html>", b"x" * 70_000], LOST, "an HTML page instead of a stream"),
        ([b'{"choices": []}'], None, "broken or cut JSON instead of a stream"),
    ],
)
async def test_a_plain_body_instead_of_a_stream_is_malformed(
    parts: list[bytes], failure: Exception | None, words: str
) -> None:
    """However much of it arrives."""
    wired = await wire("openai", in_parts(*parts, failure=failure))

    with pytest.raises(MalformedResponse, match=words):
        await collect(wired.adapter.stream(ASK))


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (aiohttp.ClientOSError(104, "reset"), "closed the connection before it answered"),
        (OSError("no strerror"), "cannot connect to api.openai.com: OSError"),
        (None, "cannot connect to api.openai.com: ConnectError"),
    ],
)
async def test_a_reset_is_told_from_a_refusal(cause: Exception | None, words: str) -> None:
    """The one came after connecting."""
    failure = httpx.ConnectError("no words from outside")
    failure.__cause__ = cause
    wired = await wire("openai", failure)

    with pytest.raises(ConnectionFailed, match=words):
        await wired.adapter.complete(ASK)


async def test_the_systems_reason_is_given() -> None:
    """It holds no key and no URL."""
    failure, cause = httpx.ConnectError("words"), OSError("cause")
    cause.os_error = OSError(111, "Connection refused")  # type: ignore[attr-defined]
    failure.__cause__ = cause
    wired = await wire("openai", failure)

    with pytest.raises(ConnectionFailed, match=r"to api\.openai\.com: Connection refused"):
        await wired.adapter.complete(ASK)


FAILED: dict[str, tuple[str, Mapping[str, Any], type[ProviderError], int]] = {
    "cohere": ("cohere", {"finish_reason": "ERROR"}, ProviderUnavailable, 500),
    "cohere in words": (
        "cohere",
        {"finish_reason": "ERROR", "error": "rate_limit hit"},
        RateLimited,
        429,
    ),
    "cohere too late": ("cohere", {"finish_reason": "TIMEOUT"}, ProviderUnavailable, 500),
    "deepseek": (
        "custom",
        {"finish_reason": "insufficient_system_resource"},
        ProviderUnavailable,
        502,
    ),
    "vllm": ("custom", {"finish_reason": "abort"}, ProviderUnavailable, 502),
    "openrouter": ("custom", {"finish_reason": "error"}, ProviderUnavailable, 502),
    "google": ("google", {"finishReason": "MALFORMED_FUNCTION_CALL"}, ProviderUnavailable, 502),
}


def failing(provider: str, fields: Mapping[str, Any], *, is_stream: bool) -> bytes:
    """An answer that ends with these fields."""
    whole: Any = events(provider) if is_stream else plain(provider)
    if provider == "cohere":
        (whole[-1]["delta"] if is_stream else whole).update(fields)
    elif provider == "google":
        (whole[-1] if is_stream else whole)["candidates"][0].update(fields)
    else:
        (whole[-2] if is_stream else whole)["choices"][0].update(fields)
    return data(*whole) if is_stream else json.dumps(whole).encode()


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", FAILED)
async def test_an_answer_that_its_provider_gave_up_is_no_answer(
    name: str, *, is_stream: bool
) -> None:
    """It says so where others say "stop"."""
    provider, fields, expected, status = FAILED[name]
    wired = await wire(provider, in_parts(failing(provider, fields, is_stream=is_stream)))

    with pytest.raises(expected) as caught:
        await (collect(wired.adapter.stream(ASK)) if is_stream else wired.adapter.complete(ASK))

    assert caught.value.status_code == status


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
async def test_a_blocked_prompt_is_an_answer_of_nothing(*, is_stream: bool) -> None:
    """A content filter is not the provider's failure: it is said, not routed around."""
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    wired = await wire("google", data(body) if is_stream else body)

    completion = await (
        collect(wired.adapter.stream(ASK)) if is_stream else wired.adapter.complete(ASK)
    )

    assert (completion.text, completion.finish_reason) == ("", "content_filter")
    assert completion.usage.prompt_tokens == 9


async def test_a_refused_prompt_is_content_filtered() -> None:
    """Where the provider refuses it with a status."""
    body = {"error": {"message": "no", "code": "content_filter"}}
    wired = await wire("openai", lambda request: httpx.Response(400, json=body))

    with pytest.raises(ContentFiltered):
        await wired.adapter.complete(ASK)


async def test_an_object_where_text_belongs_is_malformed() -> None:
    """Some hosts answer a JSON schema so; text is what was promised."""
    answer = plain("custom")
    answer["choices"][0]["message"]["content"] = {"name": "Nile"}
    wired = await wire("custom", answer)

    with pytest.raises(MalformedResponse, match="an object stands where"):
        await wired.adapter.complete(ASK)


async def test_events_of_another_answer_are_left_out() -> None:
    """A gateway that mixes two streams does not mix two answers."""
    mine = events("openai", ("The ", "Nile", "."))
    other = [{**event, "id": "chatcmpl-2"} for event in events("openai", ("Or ", "not."))]
    wired = await wire("openai", data(*mine[:3], other[1], *mine[3:], "[DONE]"))

    assert (await collect(wired.adapter.stream(ASK))).text == "The Nile."


@pytest.mark.parametrize("raises", [False, True])
async def test_a_failure_that_litellm_hides_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, *, raises: bool
) -> None:
    """Some of its readers skip what they cannot read."""
    failure = ProviderUnavailable("overloaded", status_code=529)

    async def source(call: Call) -> AsyncIterator[object]:
        yield {"choices": [{"delta": {"content": "The "}}]}
        if raises:
            raise failure
        call.failure = failure

    async def open_stream(call: Call, *_: object) -> AsyncIterator[object]:
        call.finish = "stop"
        return source(call)

    wired = await wire("anthropic", b"")
    monkeypatch.setattr(_litellm, "open_stream", open_stream)

    with pytest.raises(ProviderUnavailable, match="overloaded") as caught:
        await collect(wired.adapter.stream(ASK))

    assert caught.value.status_code == 529


async def test_a_stream_without_a_finish_is_broken_whatever_litellm_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The finish comes from the wire, or there is none."""

    async def source() -> AsyncIterator[object]:
        yield {"choices": [{"delta": {"content": "The "}, "finish_reason": "stop"}]}

    async def open_stream(*_: object) -> AsyncIterator[object]:
        return source()

    wired = await wire("anthropic", b"")
    monkeypatch.setattr(_litellm, "open_stream", open_stream)

    with pytest.raises(StreamBroken, match="no finish reason, so it may be cut") as caught:
        await collect(wired.adapter.stream(ASK))

    assert caught.value.partial_text == "The "


async def test_a_timeout_of_somebody_else_is_not_the_clocks() -> None:
    """Only their own limits are called so."""
    clocks = Clocks(About(provider="openai", deployment="river"), Limits())

    async def body() -> None:
        async with clocks.total():
            raise TimeoutError("another clock")

    with pytest.raises(TimeoutError, match="another clock") as caught:
        await body()

    assert not isinstance(caught.value, ProviderError)


async def test_a_cancellation_is_not_a_timeout() -> None:
    """The caller wanted it."""
    clocks = Clocks(About(provider="openai", deployment="river"), Limits())

    async def body() -> None:
        async with clocks.content():
            await asyncio.sleep(60)

    task = asyncio.ensure_future(body())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
