"""Answers that are not what the protocol says: each ends in an answer or in an error of ours."""

import copy
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import httpx
import pytest

from adapters import (
    Completion,
    EmptyAnswer,
    LLMProvider,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    Usage,
    collect,
)
from adapters.types import Limits
from tests.adapters.wires import (
    ASK,
    PROVIDERS,
    Answer,
    Json,
    Wired,
    data,
    events,
    in_parts,
    plain,
    stream,
    wire,
)

pytestmark = [
    pytest.mark.usefixtures("opened"),
    # litellm and openai dump what they could not validate.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]
OPENAI_LIKE = (LLMProvider.OPENAI, LLMProvider.MISTRAL, LLMProvider.CUSTOM)
DIFFERENT = [provider for provider in PROVIDERS if provider is not LLMProvider.CUSTOM]
GONE = object()
JUNK: tuple[object, ...] = (
    *(None, True, 0, -1, 1e12, 3.7, 10**25),
    *("", "x", "12", "\u2028"),
    *([], [None], ["x"], [{}], [[]], {}, {"a": 1}, GONE),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside this one."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(value: Any, path: tuple[Any, ...], junk: object) -> Any:
    """The value with something else at one place."""
    found = place = copy.deepcopy(value)
    for key in path[:-1]:
        place = place[key]
    if junk is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = copy.deepcopy(junk)
    return found


def mutants(value: Any) -> Iterator[Any]:
    """One for each place; over all places every kind of junk has its turn."""
    turns = itertools.cycle(JUNK)
    for path in places(value):
        yield changed(value, path, next(turns))


def check_types(completion: Completion) -> None:
    """Whatever was sent, what is handed on is what the types say."""
    assert isinstance(completion.text, str)
    assert isinstance(completion.reasoning, str)
    assert isinstance(completion.model, str)
    for call in completion.tool_calls:
        assert all(isinstance(part, str) for part in astuple(call))
        assert call.id
        assert call.name
        assert isinstance(json.loads(call.arguments or "{}"), dict)
    counts = [count for count in astuple(completion.usage)[:-1] if count is not None]
    assert all(type(count) is int and count >= 0 for count in counts)


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool"])
@pytest.mark.parametrize("provider", DIFFERENT)
async def test_no_plain_answer_makes_it_stumble(provider: LLMProvider, *, tool: bool) -> None:
    """Something else at every place of a whole answer: a completion or a `ProviderError`."""
    answer: list[Any] = [None]
    wired = await wire(provider, lambda request: httpx.Response(200, json=answer[0]))

    for answer[0] in mutants(plain(provider, tool=tool)):
        try:
            check_types(await wired.adapter.complete(ASK))
        except ProviderError as error:
            assert error.deployment == "river"  # noqa: PT017 - both ways are right


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool"])
@pytest.mark.parametrize("provider", DIFFERENT)
async def test_no_stream_makes_it_stumble(provider: LLMProvider, *, tool: bool) -> None:
    """Something else at every place of every event."""
    body: list[bytes] = [b""]
    headers = {"content-type": "text/event-stream"}
    wired = await wire(
        provider, lambda request: httpx.Response(200, headers=headers, content=body[0])
    )

    for mutant in mutants(events(provider, tool=tool)):
        body[0] = data(*(e if isinstance(e, dict) else json.dumps(e) for e in mutant))
        if provider in OPENAI_LIKE:
            body[0] += b"data: [DONE]\n\n"
        try:
            check_types(await collect(wired.adapter.stream(ASK)))
        except ProviderError as error:
            assert error.deployment == "river"  # noqa: PT017 - both ways are right


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
ODD_BODIES: dict[str, tuple[bytes, type[ProviderError], str]] = {
    "nothing": (b"", EmptyAnswer, "an empty body"),
    "white space": (b" \r\n\t ", EmptyAnswer, "an empty body"),
    "HTML": (b"<!DOCTYPE html><html>down</html>", MalformedResponse, "an HTML page"),
    "other HTML": (b"\n <head>", MalformedResponse, "an HTML page"),
    "half of it": (b'{"choices": [{"mess', MalformedResponse, "broken or cut JSON"),
    "words": (b"upstream gone", MalformedResponse, "sent text instead"),
    "depth": (DEEP, MalformedResponse, "broken or cut JSON"),
    "an array": (b"[1]", MalformedResponse, "a JSON list instead of an object"),
    "an empty array": (b"[]", MalformedResponse, "a JSON list"),
    "a number": (b"7", MalformedResponse, "a JSON int"),
    "null": (b"null", MalformedResponse, "a JSON NoneType"),
    "an empty object": (b"{}", EmptyAnswer, "nothing in it"),
    "not UTF-8": (b'{"a": "\xff"}', MalformedResponse, "broken or cut JSON"),
}


@pytest.mark.parametrize("name", ODD_BODIES)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_success_that_is_no_answer_is_an_error(provider: LLMProvider, name: str) -> None:
    """Said in words, and worth another try."""
    body, expected, words = ODD_BODIES[name]
    wired = await wire(provider, lambda request: httpx.Response(200, content=body))

    with pytest.raises(expected, match=words) as caught:
        await wired.adapter.complete(ASK)

    assert caught.value.retryable
    assert caught.value.status_code == 502
    assert len(wired.requests) == 1


ODD_STREAMS: dict[str, tuple[bytes, type[ProviderError], str]] = {
    "nothing": (b"", EmptyAnswer, "nothing in it"),
    "white space": (b" \r\n\t ", EmptyAnswer, "nothing in it"),
    "comments": (b": ping\n\n" * 3, EmptyAnswer, "nothing in it"),
    "HTML": (b"<html>down</html>", MalformedResponse, "an HTML page instead of a stream"),
    "words": (b"upstream gone", EmptyAnswer, "nothing in it"),
    "an array": (b"[1, 2]", MalformedResponse, "broken or cut JSON instead of a stream"),
    "events that are no JSON": (b"data: {oops\n\n", StreamBroken, "not valid JSON"),
    "events that are no objects": (b"data: 7\n\n", StreamBroken, "an event of no meaning"),
    "depth": (b"data: " + DEEP + b"\n\n", StreamBroken, "not valid JSON"),
    "not UTF-8": (b'data: {"a": "\xff"}\n\n', StreamBroken, "not valid JSON"),
}


@pytest.mark.parametrize("name", ODD_STREAMS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_is_no_answer_is_an_error(provider: LLMProvider, name: str) -> None:
    """Never an empty completion."""
    body, expected, words = ODD_STREAMS[name]
    wired = await wire(provider, in_parts(body))

    with pytest.raises(expected, match=words) as caught:
        await collect(wired.adapter.stream(ASK))

    assert caught.value.retryable
    assert len(wired.requests) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_white_space_without_end_has_a_limit(provider: LLMProvider) -> None:
    """A stream that never begins does not fill the memory."""
    wired = await wire(provider, in_parts(*([b"\n" * 65_536] * 200)))

    with pytest.raises(MalformedResponse, match=r"larger than 100,000 bytes"):
        await collect(wired.adapter.stream(ASK, limits=Limits(body_bytes=100_000)))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_size_of_an_answer_has_a_limit(provider: LLMProvider) -> None:
    """Plain, streamed, one event, many events."""
    answer = plain(provider, "x" * 5000)
    body = stream(provider, *(["word "] * 500))
    cases: list[tuple[Answer, Limits, str]] = [
        (answer, Limits(body_bytes=4000), "larger than 4,000 bytes"),
        (body, Limits(body_bytes=4000), "larger than 4,000 bytes"),
        (stream(provider, "x" * 5000), Limits(event_bytes=4000), "event is larger than 4,000"),
        (body, Limits(events=100), "more than 100 events"),
    ]
    for sent, limits, words in cases:
        wired = await wire(provider, sent)

        is_plain = sent is answer
        with pytest.raises(MalformedResponse, match=words):
            await (
                wired.adapter.complete(ASK, limits=limits)
                if is_plain
                else collect(wired.adapter.stream(ASK, limits=limits))
            )


ERRORS_IN_200: dict[str, tuple[Json | list[Any], type[ProviderError], int]] = {
    "an object": (
        {"error": {"message": "Overloaded", "type": "overloaded_error"}},
        ProviderUnavailable,
        529,
    ),
    "with its status": ({"error": {"message": "slow down", "code": 429}}, RateLimited, 429),
    "a string": ({"error": "the upstream broke"}, ProviderUnavailable, 500),
    "a list of one": (
        [{"error": {"message": "no", "code": 503, "status": "UNAVAILABLE"}}],
        ProviderUnavailable,
        503,
    ),
    "by its type": ({"object": "error", "message": "no", "code": 503}, ProviderUnavailable, 503),
}


@pytest.mark.parametrize("name", ERRORS_IN_200)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_error_in_a_success_is_that_error(provider: LLMProvider, name: str) -> None:
    """Plain, instead of a stream, first in a stream, in the middle of one."""
    body, expected, status = ERRORS_IN_200[name]
    text = json.dumps(body).encode()
    middle = data(*events(provider)[:3]) + b"data: " + text + b"\n\n"
    answers: list[tuple[bytes, bool]] = [(text, False), (text, True)]
    if isinstance(body, dict):
        answers += [(b"data: " + text + b"\n\n", True), (middle, True)]
    for answer, is_stream in answers:
        wired = await wire(provider, in_parts(answer))

        with pytest.raises(expected) as caught:
            await (collect(wired.adapter.stream(ASK)) if is_stream else wired.adapter.complete(ASK))

        assert caught.value.status_code == status
        assert len(wired.requests) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_text_before_a_break_is_delivered_and_kept(provider: LLMProvider) -> None:
    """Even when all of it arrives at once."""
    whole = data(*events(provider, ("The ", "longest ", "river")))
    cut = whole[: whole.index(b"river")]
    wired = await wire(provider, in_parts(cut))
    delivered: list[str] = []

    async def listen() -> None:
        async for chunk in wired.adapter.stream(ASK):
            delivered.append(chunk.text)  # noqa: PERF401 - a comprehension would lose them

    with pytest.raises(StreamBroken) as caught:
        await listen()

    assert "".join(delivered) == "The longest "
    assert caught.value.partial_text == "The longest "


NONSENSE: dict[str, Any] = {
    "missing": None,
    "zero": 0,
    "negative": -12,
    "a string": "12",
    "more than there are": 10**12,
    "a flag": True,
    "a list": [12],
}


def usage_of(provider: LLMProvider, count: Any) -> Json:
    """A usage object of this provider with this figure in it; what it means is nonsense."""
    match provider:
        case LLMProvider.ANTHROPIC:
            return {"input_tokens": count, "output_tokens": count}
        case LLMProvider.GOOGLE:
            return {"promptTokenCount": count, "candidatesTokenCount": count}
        case LLMProvider.COHERE:
            return {"tokens": {"input_tokens": count, "output_tokens": count}}
    return {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}


def without_usage(value: Any) -> Any:
    """The answer with every usage taken out."""
    if isinstance(value, dict):
        return {k: without_usage(v) for k, v in value.items() if not k.startswith("usage")}
    return [without_usage(inner) for inner in value] if isinstance(value, list) else value


async def usage_from(wired: Wired, *, is_stream: bool) -> Usage:
    if is_stream:
        return (await collect(wired.adapter.stream(ASK))).usage
    return (await wired.adapter.complete(ASK)).usage


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_that_cannot_be_true_is_estimated(
    provider: LLMProvider, name: str, *, is_stream: bool
) -> None:
    """Flagged, and never nothing: money is counted from it."""
    usage = usage_of(provider, NONSENSE[name])
    answer: Any = (events if is_stream else plain)(provider, usage=usage)
    if name == "missing":
        answer = without_usage(answer)
    wired = await wire(provider, data(*answer) if is_stream else answer)

    found = await usage_from(wired, is_stream=is_stream)

    assert found.estimated
    assert 3 <= found.prompt_tokens <= 30
    assert 1 <= found.completion_tokens <= 12


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
async def test_figures_beside_the_tokens_are_let_be(*, is_stream: bool) -> None:
    """Hosts put costs, times and flags there."""
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "cost_in_usd_ticks": 37_756_000_000,
        "queue_time": -0.01,
        "is_byok": False,
        "search_context_size": "low",
        "prompt_tokens_details": {"cached_tokens": 4, "text_tokens": None},
    }
    answer: Any = (stream if is_stream else plain)("custom", usage=usage)
    wired = await wire("custom", answer)

    found = await usage_from(wired, is_stream=is_stream)

    assert found == Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=4)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_fewer_tokens_than_the_text_can_hold_are_not_believed(provider: LLMProvider) -> None:
    """An answer of a thousand words is not one token."""
    wired = await wire(provider, plain(provider, "word " * 1000, usage=usage_of(provider, 1)))

    usage = (await wired.adapter.complete(ASK)).usage

    assert usage.estimated
    assert usage.completion_tokens >= 900


CUT_ARGUMENTS = '{"city": "Par'


@pytest.mark.parametrize("provider", ["openai", "mistral", "custom", "cohere"])
@pytest.mark.parametrize(
    "arguments",
    [CUT_ARGUMENTS, "[1]", "7", "[" * 5_000],
    ids=["cut", "a list", "a number", "deep"],
)
async def test_tool_calls_that_cannot_be_read_are_no_answer(provider: str, arguments: str) -> None:
    """Nobody is handed arguments that are not a JSON object."""
    answer = plain(provider, tool=True)
    holder = answer["message"] if provider == "cohere" else answer["choices"][0]["message"]
    holder["tool_calls"][0]["function"]["arguments"] = arguments
    wired = await wire(provider, answer)

    with pytest.raises(MalformedResponse, match=r"'get_weather' are not a JSON|could not be read"):
        await wired.adapter.complete(ASK)


async def test_tool_calls_that_were_cut_for_length_say_so() -> None:
    """The finish says that they are not whole."""
    answer = plain("openai", tool=True)
    answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = CUT_ARGUMENTS
    answer["choices"][0]["finish_reason"] = "length"
    wired = await wire("openai", answer)

    completion = await wired.adapter.complete(ASK)

    assert completion.finish_reason == "length"
    assert completion.tool_calls[0].arguments == CUT_ARGUMENTS


@pytest.mark.parametrize("provider", ["openai", "custom"])
async def test_done_without_a_finish_is_the_operators_choice(provider: str) -> None:
    """Some servers never say how an answer ended."""
    body = data(*events(provider)[:3], "[DONE]")
    broken = await wire(provider, body)
    complete = await wire(provider, body, done_without_finish="complete")

    with pytest.raises(StreamBroken, match="before the answer was complete"):
        await collect(broken.adapter.stream(ASK))
    completion = await collect(complete.adapter.stream(ASK))

    assert (completion.text, completion.finish_reason) == ("The Nile.", "stop")
    assert completion.usage.estimated


async def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is for answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for answer in (plain("openai"), {"error": "no"}, b"", {"choices": [{"message": None}]}):
            for provider in PROVIDERS:
                wired = await wire(provider, answer)
                try:
                    await wired.adapter.complete(ASK)
                except ProviderError:
                    continue

    assert capfd.readouterr() == ("", "")
