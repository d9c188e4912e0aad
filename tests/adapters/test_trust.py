"""What a provider must not be able to do: lead us elsewhere, make us ask twice, show a key."""

import asyncio
import base64
import io
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from adapters import (
    AuthenticationFailed,
    ConnectionFailed,
    InvalidRequest,
    LLMProvider,
    ModelConfig,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    _litellm,
    collect,
    create_adapter,
)
from tests.adapters.wires import (
    ASK,
    KEY,
    PROVIDERS,
    Answer,
    Bytes,
    Wired,
    data,
    events,
    in_parts,
    plain,
    refusal,
    rewire,
    stream,
    wire,
)

pytestmark = pytest.mark.usefixtures("opened")
WAYS = ("plain", "streamed")


async def ask(wired: Wired, way: str) -> object:
    if way == "plain":
        return await wired.adapter.complete(ASK)
    return await collect(wired.adapter.stream(ASK))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_redirect_is_refused(provider: LLMProvider, status: int, way: str) -> None:
    """Nothing is sent to the other host: no key, no prompt. The error says where it pointed."""
    headers = {"location": f"https://thief.example/take?key={KEY}"}
    wired = await wire(provider, lambda request: httpx.Response(status, headers=headers))

    with pytest.raises(ProviderUnavailable, match=r"points to thief\.example; redirects") as caught:
        await ask(wired, way)

    assert caught.value.status_code == status
    assert not caught.value.retryable
    assert [request.url.host == "thief.example" for request in wired.requests] == [False]


@pytest.mark.parametrize(
    "location", [b"", b"/elsewhere", b"//", b"http://[", b"\xff", b"a b", b"http://x:port/"]
)
async def test_a_redirect_to_nowhere_is_refused_as_well(location: bytes) -> None:
    """Whatever stands there."""
    headers = [(b"location", location)] if location else []
    wired = await wire("openai", lambda request: httpx.Response(302, headers=headers))

    with pytest.raises(ProviderUnavailable, match="answered 302"):
        await wired.adapter.complete(ASK)

    assert len(wired.requests) == 1


def broken(failure: Exception) -> Answer:
    """A stream that breaks after its first words."""
    return in_parts(data(*events("openai")[:2]), failure=failure)


FAILURES: dict[str, tuple[Answer, type[ProviderError], int]] = {
    "refused": (httpx.ConnectError("refused"), ConnectionFailed, 502),
    "slow to connect": (httpx.ConnectTimeout("slow"), ProviderTimeout, 504),
    "slow in the pool": (httpx.PoolTimeout("slow"), ProviderTimeout, 504),
    "a bad certificate": (httpx.ProtocolError("certificate"), ConnectionFailed, 502),
    "closed": (httpx.ReadError("closed"), ConnectionFailed, 502),
    "a broken proxy": (httpx.ProxyError("proxy"), ConnectionFailed, 502),
    "an address that is none": (httpx.InvalidURL("none"), InvalidRequest, 400),
    "a header that cannot be sent": (ValueError("header"), InvalidRequest, 400),
    "422": (refusal(422, {"error": {"message": "no"}}), InvalidRequest, 422),
    "429": (refusal(429, {}, {"retry-after": "0"}), RateLimited, 429),
    "500": (refusal(500, {"error": {"message": "no"}}), ProviderUnavailable, 500),
    "503": (refusal(503, b"<html>", {"retry-after": "0"}), ProviderUnavailable, 503),
    "529": (refusal(529, {}), ProviderUnavailable, 529),
    "408": (refusal(408, {}), ProviderTimeout, 408),
    "409": (refusal(409, {}), InvalidRequest, 409),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_is_asked_once(provider: LLMProvider, name: str, way: str) -> None:
    """Who retries is decided above; what failed is named by its true class and status."""
    answer, expected, status = FAILURES[name]
    wired = await wire(provider, answer)

    with pytest.raises(expected) as caught:
        await ask(wired, way)

    assert len(wired.requests) == 1
    assert type(caught.value) is expected
    assert caught.value.status_code == status
    assert caught.value.provider == provider.value
    assert str(caught.value).startswith("river: ")


async def test_a_certificate_that_is_refused_is_refused_next_time() -> None:
    """It is no use to try that host again."""
    wired = await wire("openai", httpx.ProtocolError("certificate"))

    with pytest.raises(ConnectionFailed, match=r"to api\.openai\.com: its certificate") as caught:
        await wired.adapter.complete(ASK)

    assert not caught.value.retryable


async def test_a_hidden_second_request_is_refused() -> None:
    """The first outcome stands, whatever a client below us does."""
    wired = await wire("openai", refusal(500, {"error": {"message": "first"}}))
    real = _litellm._litellm.acompletion

    async def twice(**fields: Any) -> Any:
        try:
            return await real(**fields)
        except Exception:  # noqa: BLE001 - as such clients do
            return await real(**fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_litellm._litellm, "acompletion", twice)
        with pytest.raises(ProviderUnavailable, match="first"):
            await wired.adapter.complete(ASK)

    assert len(wired.requests) == 1


async def test_an_answer_in_spite_of_a_failure_is_not_believed() -> None:
    """What the wire said counts, even where litellm makes up an answer."""
    wired = await wire("openai", refusal(503, {"error": {"message": "down"}}))
    real = _litellm._litellm.acompletion

    async def made_up(**fields: Any) -> Any:
        try:
            return await real(**fields)
        except Exception:  # noqa: BLE001 - it hides everything
            return _litellm._litellm.ModelResponse()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_litellm._litellm, "acompletion", made_up)
        with pytest.raises(ProviderUnavailable, match="down"):
            await wired.adapter.complete(ASK)


async def test_calls_of_others_pass_unwatched() -> None:
    """The process may use litellm or its clients by other ways."""
    await _litellm.load()
    seen = []

    async def answered(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"any": "thing"})

    from adapters._wire import WatchedTransport

    transport = WatchedTransport(httpx.MockTransport(answered))
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get("https://other.example/")

    assert response.json() == {"any": "thing"}
    assert len(seen) == 1
    await transport.aclose()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_cookies_are_not_kept(provider: LLMProvider) -> None:
    """A provider cannot mark us for its next call, nor for another provider's."""

    def answer(request: httpx.Request) -> httpx.Response:
        headers = {"set-cookie": "mark=1; Path=/"}
        return httpx.Response(200, json=plain(provider), headers=headers)

    wired = await wire(provider, answer)

    for _ in range(2):
        await wired.adapter.complete(ASK)

    assert all("cookie" not in request.headers for request in wired.requests)


# Keys.

ECHOES: dict[str, Callable[[str], str]] = {
    "bare": str,
    "in a sentence": lambda key: f"Incorrect API key provided: {key}. Find it at https://x.example",
    "as a bearer": lambda key: f"header Authorization: Bearer {key} refused",
    "in a URL": lambda key: f"GET https://x.example/?key={quote(key)} refused",
    "in base64": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "in hex": lambda key: key.encode().hex(),
    "in part": lambda key: f"key {key[:10]}... refused",
    "many times": lambda key: f"{key} " * 200,
}


def encodings(key: str) -> list[str]:
    return [key, key.encode().hex(), base64.b64encode(key.encode()).decode()[:-4]]


def assert_no_key(shown: str) -> None:
    """No eight characters of the key in a row, in any encoding."""
    for encoded in encodings(KEY):
        runs = {encoded[start : start + 8] for start in range(len(encoded) - 7)}
        assert not [run for run in runs if run in shown], shown


def everything_about(error: BaseException) -> str:
    """What a log, a person or a crash report may come to see of an error."""
    out = io.StringIO()
    record = logging.makeLogRecord(
        {
            "msg": "failed: %s %r",
            "args": (error, error),
            "exc_info": (type(error), error, error.__traceback__),
        }
    )
    logging.StreamHandler(out).emit(record)
    chain = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(f"{cause!s} {cause!r} {cause.args} {vars(cause)}")
        cause = cause.__cause__
    return "".join((*traceback.format_exception(error), out.getvalue(), *chain))


def statuses(text: str) -> dict[str, Answer]:
    """Ways for a provider to say something."""
    error = {"error": {"message": text, "type": "invalid_request_error", "code": text}}
    return {
        "401": refusal(401, error),
        "400": refusal(400, {"message": text}),
        "403 in words": refusal(403, text.encode()),
        "500": refusal(500, error, {"x-key": "x"}),
        "error in 200": error,
        "error in a stream": data(error),
        "redirect": refusal(302, b"", {"location": f"https://{KEY.lower()}.example/{KEY}"}),
        "nonsense": text.encode(),
        "connection": httpx.ConnectError(text),
        "certificate": httpx.ProtocolError(text),
        "address": httpx.InvalidURL(text),
        "anything": ValueError(text),
        "broken stream": in_parts(data(*events("openai")[:2]), failure=httpx.ReadError(text)),
    }


@pytest.mark.parametrize("form", ECHOES)
@pytest.mark.parametrize("provider", PROVIDERS[:3])
async def test_a_key_that_is_echoed_is_not_shown(provider: LLMProvider, form: str) -> None:
    """Not in the text, the repr, the traceback, a log record, or any cause."""
    wired = await wire(provider, b"")
    turn = PROVIDERS.index(provider) + list(ECHOES).index(form)
    answers = list(statuses(ECHOES[form](KEY)).values())
    for number in range(turn % 3, len(answers), 3):  # each is echoed in each form, by one of them
        wired.answer = answers[number]

        with pytest.raises(ProviderError) as caught:
            await ask(wired, WAYS[number % 2])

        assert_no_key(everything_about(caught.value))


async def test_a_key_in_the_answer_is_the_answers_affair() -> None:
    """Text is not changed; only errors are."""
    wired = await wire("openai", plain("openai", f"You said {KEY}."))

    assert (await wired.adapter.complete(ASK)).text == f"You said {KEY}."


async def test_control_characters_of_a_provider_do_not_reach_a_terminal() -> None:
    """Nor does a message without end."""
    wired = await wire(
        "openai", refusal(400, {"error": {"message": "\x1b[2J\x07gone" + "x" * 9999}})
    )

    with pytest.raises(InvalidRequest) as caught:
        await wired.adapter.complete(ASK)

    assert "\x1b" not in str(caught.value)
    assert "\x07" not in str(caught.value)
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize(
    "key", ["line\nbreak-1234567", "tail-1234567890\r\n", "‘curly-quote-12345’"]
)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_key_that_no_header_can_hold_is_refused_before_it_is_sent(
    provider: LLMProvider, key: str
) -> None:
    """It comes from a file with a line end, or from a word processor; the error says so."""
    base: Any = {"api_base": "https://models.example/v1"} if provider is LLMProvider.CUSTOM else {}
    config = ModelConfig(provider=provider, model="m", api_key=SecretStr(key), **base)
    adapter = create_adapter(config, deployment="river")

    with pytest.raises(AuthenticationFailed, match="river: the key holds a character") as caught:
        await adapter.complete(ASK)

    assert not adapter.is_available()
    assert "1234567" not in everything_about(caught.value)


@pytest.mark.parametrize("word", ["none", "tool_choice must be none or auto"])
async def test_a_placeholder_is_no_secret(word: str) -> None:
    """A server without a key may say "none"."""
    wired = await wire("custom", refusal(400, {"error": {"message": word}}), api_key=None)

    with pytest.raises(InvalidRequest) as caught:
        await wired.adapter.complete(ASK)

    assert str(caught.value) == f"river: {word}"


@pytest.mark.parametrize(
    "base",
    [
        "models.example/v1",
        "ftp://models.example/v1",
        "http://",
        "http://[::1/v1",
        "http:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
    ],
)
async def test_an_address_that_is_none_is_refused(base: str) -> None:
    """It is the configuration's fault: neither retried nor counted against a provider."""
    adapter = create_adapter(ModelConfig(provider=LLMProvider.CUSTOM, model="m", api_base=base))

    with pytest.raises(InvalidRequest, match="is not the address of a server") as caught:
        await adapter.complete(ASK)

    assert not caught.value.retryable


async def test_an_address_is_shown_without_its_password() -> None:
    """A refused one, too."""
    base = f"ftp://me:{KEY}@models.example/v1"
    adapter = create_adapter(ModelConfig(provider=LLMProvider.CUSTOM, model="m", api_base=base))

    with pytest.raises(InvalidRequest) as caught:
        await adapter.complete(ASK)

    assert_no_key(everything_about(caught.value))


# Connections are given back.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "status", [200, 302, 400, 500], ids=["answer", "redirect", "refusal", "failure"]
)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_body_is_closed(provider: LLMProvider, status: int, way: str) -> None:
    """However the call ends."""
    whole = (
        stream(provider) if way == "streamed" else httpx.Response(200, json=plain(provider)).content
    )
    body = Bytes([whole if status == 200 else b"{}"])
    headers = {"location": "https://thief.example/"} if status == 302 else {}
    wired = await wire(
        provider, lambda request: httpx.Response(status, headers=headers, stream=body)
    )

    try:
        await ask(wired, way)
    except ProviderError:
        assert status != 200

    assert body.is_closed


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_left_early_closes_its_body(provider: LLMProvider) -> None:
    """`aclosing` is enough."""
    body = Bytes([data(*events(provider, ["word "] * 50))])
    headers = {"content-type": "text/event-stream"}
    wired = await wire(provider, lambda request: httpx.Response(200, headers=headers, stream=body))

    chunks = wired.adapter.stream(ASK)
    await anext(chunks)
    assert not body.is_closed
    await chunks.aclose()

    assert body.is_closed


async def test_a_broken_stream_keeps_what_came_before() -> None:
    """The text so far is the error's."""
    wired = await wire("openai", broken(httpx.ReadError("lost")))

    with pytest.raises(StreamBroken) as caught:
        await ask(wired, "streamed")

    assert caught.value.partial_text == "The "
    assert caught.value.retryable


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_calls_at_once_do_not_mix_their_answers(provider: LLMProvider) -> None:
    """Fifty on one adapter, plain and streamed, each with its own answer, some of them failing."""

    async def answered(request: httpx.Request) -> httpx.Response:
        number = int(request.content.split(b"number ")[1].split(b".")[0])
        for _ in range(number % 7):
            await asyncio.sleep(0)
        if number % 10 == 9:
            return httpx.Response(500 + number, json={"error": {"message": f"no {number}."}})
        streamed = b"stream" in request.content or "stream" in str(request.url)
        if not streamed:
            return httpx.Response(200, json=plain(provider, f"answer {number}."))
        body = stream(provider, "answer ", f"{number}.")
        halves = Bytes([body[: len(body) // 2], body[len(body) // 2 :]])
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=halves)

    wired = await wire(provider, plain(provider))
    rewire(wired.adapter, httpx.MockTransport(answered))

    async def one(number: int) -> str:
        question = [{"role": "user", "content": f"number {number}."}]
        request = replace(ASK, messages=question)
        try:
            if number % 2:
                return (await collect(wired.adapter.stream(request))).text
            return (await wired.adapter.complete(request)).text
        except ProviderUnavailable as error:
            return f"{error.status_code} {error.args[0]}"

    answers = await asyncio.gather(*(one(number) for number in range(50)))

    assert answers == [
        f"{500 + number} no {number}." if number % 10 == 9 else f"answer {number}."
        for number in range(50)
    ]
