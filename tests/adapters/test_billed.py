"""Whether a failed call may cost money all the same, and how much is known of it."""

import asyncio
import ssl
from dataclasses import replace
from itertools import takewhile
from typing import Any

import httpx
import pytest

from adapters import (
    ConnectionFailed,
    EmptyAnswer,
    Limits,
    MalformedResponse,
    ModelConfig,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    Usage,
    collect,
    create_adapter,
)
from tests.adapters.wires import ASK, PROVIDERS, Answer, data, events, in_parts, plain, wire

FAILED: dict[str, Any] = {"error": {"message": "slow down", "type": "rate_limit_error"}}


class ClientOSError(OSError):
    """Named as aiohttp's, which is how a reset is told from a refusal."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


async def failure(provider: str, answer: Answer, *, streamed: bool) -> ProviderError:
    """What a call with this answer raises."""
    adapter = (await wire(provider, answer)).adapter
    with pytest.raises(ProviderError) as caught:
        await (collect(adapter.stream(ASK)) if streamed else adapter.complete(ASK))
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "maybe_billed"),
    [
        (httpx.ConnectTimeout("late"), ProviderTimeout, False),
        (httpx.ConnectError("refused"), ConnectionFailed, False),
        (caused(httpx.ConnectError("no name"), OSError(-2, "unknown")), ConnectionFailed, False),
        (caused(httpx.ProtocolError("tls"), ssl.SSLError("old")), ConnectionFailed, False),
        (caused(httpx.ConnectError("reset"), ClientOSError(104, "x")), ConnectionFailed, True),
        (httpx.ReadError("closed"), ConnectionFailed, True),
        (httpx.WriteError("closed"), ConnectionFailed, True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_what_never_left_costs_nothing(
    error: Exception, kind: type[ProviderError], *, maybe_billed: bool, streamed: bool
) -> None:
    """No connection, no bill. Once connected, nobody knows what had arrived."""
    found = await failure("openai", error, streamed=streamed)

    assert type(found) is kind
    assert found.maybe_billed is maybe_billed
    assert found.usage is None


async def test_a_closed_port_costs_nothing(unused_port: int) -> None:
    """As the real transport says it."""
    base = f"http://127.0.0.1:{unused_port}/v1"
    adapter = create_adapter(ModelConfig(provider="custom", model="m", api_base=base))

    with pytest.raises(ConnectionFailed) as caught:
        await adapter.complete(ASK)
    await adapter.aclose()

    assert not caught.value.maybe_billed


@pytest.fixture
async def unused_port() -> int:
    """A port that nobody listens at."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_what_we_refuse_ourselves_costs_nothing() -> None:
    """The provider never heard of it."""
    wired = await wire("openai", plain("openai"))

    with pytest.raises(ProviderError) as caught:
        await wired.adapter.complete(replace(ASK, extra={"api_base": "x"}))

    assert not caught.value.maybe_billed
    assert not wired.requests


async def test_a_limit_that_ends_before_anything_was_sent_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock of ours says nothing of the provider."""
    wired = await wire("openai", plain("openai"))

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("adapters._litellm.complete", never)
    with pytest.raises(ProviderTimeout) as caught:
        await wired.adapter.complete(ASK, limits=Limits(total_s=0.01))

    assert not caught.value.maybe_billed


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_empty_answer_says_what_it_used(provider: str, *, streamed: bool) -> None:
    """It is billed like any other."""
    body = data(*events(provider, [""])) if streamed else plain(provider, "")

    found = await failure(provider, body, streamed=streamed)

    assert type(found) is EmptyAnswer
    assert found.maybe_billed
    assert found.usage == Usage(prompt_tokens=12, completion_tokens=5)


async def test_an_answer_without_choices_says_what_it_used() -> None:
    """The usage of a body that is refused for something else is read all the same."""
    found = await failure("openai", {**plain("openai"), "choices": []}, streamed=False)

    assert type(found) is EmptyAnswer
    assert found.usage == Usage(prompt_tokens=12, completion_tokens=5)


async def test_a_broken_stream_says_what_was_reported_until_then() -> None:
    """Anthropic begins with what it read."""
    found = await failure("anthropic", data(*events("anthropic")[:4]), streamed=True)

    assert type(found) is StreamBroken
    assert found.maybe_billed
    assert found.usage == Usage(prompt_tokens=12, completion_tokens=1)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_an_answer_that_the_provider_broke_off_may_be_billed(*, streamed: bool) -> None:
    """Its finish reason says that it is none; its usage came."""
    pieces, body = events("openai"), plain("openai")
    pieces[-2]["choices"][0]["finish_reason"] = "error"
    body["choices"][0]["finish_reason"] = "error"

    found = await failure("openai", data(*pieces) if streamed else body, streamed=streamed)

    assert type(found) is ProviderUnavailable
    assert found.maybe_billed
    assert found.usage == Usage(prompt_tokens=12, completion_tokens=5)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_error_amid_an_answer_may_be_billed_and_a_first_one_not(provider: str) -> None:
    """The same event, before and after some text."""
    pieces = events(provider, ["The ", "Nile."])
    begun = list(takewhile(lambda piece: "Nile" not in str(piece), pieces))
    amid = in_parts(data(*begun), data(FAILED))

    first = await failure(provider, data(FAILED), streamed=True)
    later = await failure(provider, amid, streamed=True)

    assert (type(first), first.maybe_billed) == (RateLimited, False)
    assert (type(later), later.maybe_billed) == (RateLimited, True)


@pytest.mark.parametrize("body", [b"<html>", b'{"choices": [', b"[1]"])
async def test_a_success_that_cannot_be_read_may_be_billed(body: bytes) -> None:
    """The status was 200."""
    found = await failure("openai", body, streamed=False)

    assert type(found) is MalformedResponse
    assert found.maybe_billed
