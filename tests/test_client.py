"""openai's own clients over the engine: what they offer works, and errors are their classes."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from orchestrator import (
    AsyncOpenAI,
    EnhancedOrchestrator,
    OpenAI,
)
from orchestrator.config import BreakerConfig, TimeoutsConfig
from orchestrator.simulator import Simulator
from tests.faces import ASKS_TOOL, HELLO, TOOL, configured, simulated_elsewhere

Make = Callable[..., AsyncOpenAI]


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@pytest.fixture(autouse=True)
def _same_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fences around drafts are the same, the simulator's answers are."""
    same = partial(EnhancedOrchestrator, nonce=lambda: "4f1c")
    monkeypatch.setattr("orchestrator.client.EnhancedOrchestrator", same)


@pytest.fixture
async def make(simulator: Simulator) -> AsyncIterator[Make]:
    """Makes clients over the simulator, and closes them."""
    made: list[AsyncOpenAI] = []

    def new(faults: dict[str, Sequence[str]] | None = None, **settings: Any) -> AsyncOpenAI:
        made.append(AsyncOpenAI(config=configured(simulator, faults, **settings)))
        return made[-1]

    yield new
    for client in made:
        await client.close()


@pytest.fixture(scope="module")
def sync_client() -> Iterator[OpenAI]:
    with simulated_elsewhere() as simulator, OpenAI(config=configured(simulator)) as client:
        yield client


def text_of(chunks: Sequence[ChatCompletionChunk], index: int = 0) -> str:
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def arguments(calls: Sequence[Any]) -> list[Any]:
    """What is passed: providers differ in the white space that they put around it."""
    return [json.loads(call.function.arguments) for call in calls]


# What the SDK offers.


async def test_completion_is_openais_own_type_and_says_what_came_of_the_run(make: Make) -> None:
    """True `openai.types`, usage, and the orchestrator's words beside them."""
    reply = await make().chat.completions.create(model="alpha", messages=HELLO)

    assert isinstance(reply, ChatCompletion)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    told = reply.model_extra or {}
    assert told["orchestration"]["status"] == "complete"
    assert reply.id == f"chatcmpl-{told['orchestration']['run_id']}"


@pytest.mark.parametrize("model", ["alpha", "way", "all"])
async def test_stream_amounts_to_the_plain_answer_and_ends_in_one_usage(
    make: Make, model: str
) -> None:
    """The text is equal, and only the last chunk has usage, and no choice."""
    client = make()
    plain = await client.chat.completions.create(model=model, messages=HELLO, seed=3)
    stream = await client.chat.completions.create(
        model=model,
        messages=HELLO,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert text_of(chunks) == plain.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage is not None] == [plain.usage]
    assert chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1
    finished = [one.choices[0].finish_reason for one in chunks if one.choices]
    assert [reason for reason in finished if reason] == ["stop"]


async def test_stream_without_usage_says_what_came_of_the_run_in_its_last_chunk(
    make: Make,
) -> None:
    """Nobody asked for usage; status, cost and what was ignored are told all the same."""
    stream = await make().chat.completions.create(
        model="alpha", messages=HELLO, stream=True, store=True
    )
    chunks = [chunk async for chunk in stream]

    assert stream.response.headers["x-orchestrator-ignored"] == "store"
    assert all(chunk.usage is None for chunk in chunks)
    told = (chunks[-1].model_extra or {})["orchestration"]
    assert told["status"] == "complete"
    assert list(told["ignored"]) == ["store"]


async def test_stream_helper_accumulates_to_the_plain_answer(make: Make) -> None:
    """`client.chat.completions.stream` reads our chunks."""
    client = make()
    plain = await client.chat.completions.create(model="alpha", messages=HELLO)
    async with client.chat.completions.stream(model="alpha", messages=HELLO) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()

    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == plain.choices[0].message.content


async def test_parse_gives_a_pydantic_model_plain_and_streamed(make: Make) -> None:
    """The schema goes to the model, and what comes back is parsed."""
    client = make()
    asked: list[Any] = [{"role": "user", "content": "Ada is 36. Who is it?"}]
    plain = await client.chat.completions.parse(
        model="alpha", messages=asked, response_format=Person
    )
    async with client.chat.completions.stream(
        model="alpha", messages=asked, response_format=Person
    ) as stream:
        final = await stream.get_final_completion()

    assert isinstance(plain.choices[0].message.parsed, Person)
    assert final.choices[0].message.parsed == plain.choices[0].message.parsed


async def test_parse_survives_a_panel(make: Make) -> None:
    """Whoever writes a panel's answer has the format."""
    reply = await make().chat.completions.parse(
        model="all",
        messages=[{"role": "user", "content": "Ada is 36. Who is it?"}],
        response_format=Person,
    )

    assert isinstance(reply.choices[0].message.parsed, Person)


@pytest.mark.parametrize("model", ["alpha", "beta", "gamma", "way"])
async def test_tools_go_round(make: Make, model: str) -> None:
    """A call, streamed as it is plain; its result; an answer."""
    client = make()
    asked: dict[str, Any] = {"model": model, "messages": ASKS_TOOL, "tools": [TOOL]}
    plain = await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
    calls = plain.choices[0].message.tool_calls or []
    said: Any = plain.choices[0].message.model_dump(exclude_none=True)
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees, sunny"} for call in calls
    ]
    answer = await client.chat.completions.create(
        model=model, messages=[*ASKS_TOOL, said, *results], tools=[TOOL]
    )

    assert plain.choices[0].finish_reason == "tool_calls"
    assert calls
    assert final.choices[0].finish_reason == "tool_calls"
    streamed = final.choices[0].message.tool_calls or []
    assert arguments(streamed) == arguments(calls) == [{"city": "Paris"}]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


async def test_n_gives_so_many_choices_plain_and_streamed(make: Make) -> None:
    """Two runs, one reply, and the usage of both."""
    client = make()
    one = await client.chat.completions.create(model="alpha", messages=HELLO)
    plain = await client.chat.completions.create(model="alpha", messages=HELLO, n=2)
    stream = await client.chat.completions.create(
        model="alpha", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert [choice.index for choice in plain.choices] == [0, 1]
    assert one.usage is not None
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == 2 * one.usage.prompt_tokens
    assert [text_of(chunks, index) for index in (0, 1)] == [
        choice.message.content for choice in plain.choices
    ]
    assert chunks[-1].usage == plain.usage
    assert len((plain.model_extra or {})["orchestration"]["run_ids"]) == 2


async def test_n_of_which_one_fails_is_an_error(make: Make, simulator: Simulator) -> None:
    """No half of a reply; the others are ended with it."""
    client = make({"alpha": ("flap2",)})
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="alpha", messages=HELLO, n=4)
    await simulator.settled()

    assert simulator.in_flight == 0


async def test_raw_response_has_the_headers_of_the_run(make: Make) -> None:
    """Cost, status and id stand in headers too."""
    raw = await make().chat.completions.with_raw_response.create(model="alpha", messages=HELLO)
    parsed = raw.parse()

    assert raw.headers["x-orchestrator-status"] == "complete"
    assert parsed.id == f"chatcmpl-{raw.headers['x-orchestrator-run-id']}"
    assert float(raw.headers["x-orchestrator-cost-usd"]) > 0


async def test_streaming_response_is_read_line_by_line(make: Make) -> None:
    """`with_streaming_response` gives the events as they are written."""
    call = make().chat.completions.with_streaming_response
    async with call.create(model="alpha", messages=HELLO, stream=True) as raw:
        lines = [line async for line in raw.iter_lines() if line]

    assert lines[-1] == "data: [DONE]"


async def test_copies_of_a_client_share_its_engine(make: Make) -> None:
    """`copy` and `with_options` are ours, over the same transport."""
    client = make()
    copied = client.with_options(timeout=30)

    assert type(copied) is AsyncOpenAI
    assert copied.timeout == 30
    reply = await copied.chat.completions.create(model="alpha", messages=HELLO)
    assert reply.choices[0].message.content


async def test_models_are_listed_and_found(make: Make) -> None:
    """Deployments, routes, panels, and a panel by a pattern, whose name has a slash."""
    client = make()
    names = [model.id async for model in client.models.list()]

    assert {"alpha", "way", "all", "critique/all", "fusion", "openrouter/fusion"} <= set(names)
    assert (await client.models.retrieve("critique/all")).id == "critique/all"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("alhpa")
    assert "did you mean 'alpha'?" in str(caught.value)


def test_an_http_client_and_a_configuration_contradict_each_other(simulator: Simulator) -> None:
    """One of them would not be used."""
    with pytest.raises(TypeError, match="give one of them"):
        OpenAI(config=configured(simulator), http_client=openai.DefaultHttpxClient())


# Errors.

ERRORS: list[tuple[str, type[openai.APIStatusError], int, str]] = [
    ("e400", openai.BadRequestError, 400, "invalid_request"),
    ("e400ctx", openai.BadRequestError, 400, "context_length_exceeded"),
    ("filter400", openai.BadRequestError, 400, "content_filter"),
    ("e401", openai.AuthenticationError, 401, "invalid_api_key"),
    ("e403", openai.PermissionDeniedError, 403, "permission_denied"),
    ("e404", openai.NotFoundError, 404, "model_not_found"),
    ("e429-seconds", openai.RateLimitError, 429, "rate_limit_exceeded"),
    ("e429quota", openai.RateLimitError, 429, "insufficient_quota"),
    ("e500", openai.InternalServerError, 500, "provider_unavailable"),
    ("e503", openai.InternalServerError, 503, "provider_unavailable"),
    ("stall0", openai.InternalServerError, 504, "provider_timeout"),
    ("cut0", openai.InternalServerError, 502, "provider_unreachable"),
    ("empty", openai.InternalServerError, 502, "empty_answer"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "kind", "status", "code"), ERRORS)
async def test_a_providers_error_is_the_sdks_class(
    make: Make, fault: str, kind: type[openai.APIStatusError], status: int, code: str, stream: bool
) -> None:
    """Status, code and headers; a stream that has not begun is told the same way."""
    fast = TimeoutsConfig(first_content_s=0.3, gap_s=0.3, total_s=0.5)
    client = make({"alpha": (fault,)}, timeouts=fast)

    with pytest.raises(kind) as caught:
        await client.chat.completions.create(model="alpha", messages=HELLO, stream=stream)

    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.body
    headers = caught.value.response.headers
    assert headers.get("retry-after") == ("2" if fault == "e429-seconds" else None)
    assert (headers.get("x-should-retry") == "false") == (
        status < 429 or code == "insufficient_quota"
    )


REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str | None]] = [
    ({"model": "nobody"}, openai.NotFoundError, "model_not_found", "model"),
    ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
    ({"extra_body": {"topp": 1}}, openai.BadRequestError, "unknown_parameter", "topp"),
    (
        {"extra_body": {"orchestration": {"max_cost_usd": 1e-9}}},
        openai.RateLimitError,
        "budget_exceeded",
        None,
    ),
    (
        {"extra_body": {"orchestration": {"time_s": 1e-9}}},
        openai.InternalServerError,
        "deadline_exceeded",
        None,
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("more", "kind", "code", "param"), REFUSED)
async def test_what_the_orchestrator_refuses_is_the_sdks_class(
    make: Make,
    more: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    """Unknown names, bad bodies, spent budgets and deadlines, each with its code and its field."""
    asked: dict[str, Any] = {"model": "alpha", "messages": HELLO, "stream": stream, **more}
    with pytest.raises(kind) as caught:
        await make().chat.completions.create(**asked)

    assert (caught.value.code, caught.value.param) == (code, param)


async def test_an_open_breaker_says_when_to_come_again(make: Make) -> None:
    """503, and `retry-after`."""
    client = make({"alpha": ("e500",)}, breaker=BreakerConfig(failures=1, open_s=40))
    for kind in (openai.InternalServerError, openai.InternalServerError):
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="alpha", messages=HELLO)

    assert caught.value.status_code == 503
    assert 30 <= int(caught.value.response.headers["retry-after"]) <= 40


async def test_an_error_within_a_stream_is_an_event_that_the_sdk_raises(make: Make) -> None:
    """What was said stays said; the error has its code."""
    client = make({"alpha": ("cutmid",)})
    stream = await client.chat.completions.create(model="alpha", messages=HELLO, stream=True)
    first = await anext(stream)
    second = await anext(stream)
    with pytest.raises(openai.APIError) as caught:
        _ = [chunk async for chunk in stream]

    assert text_of([first, second])
    assert caught.value.code == "stream_broken"
    assert not isinstance(caught.value, openai.APIStatusError)


async def test_the_sdks_timeout_ends_the_run(make: Make, simulator: Simulator) -> None:
    """`timeout=0.2` raises `APITimeoutError`, and nobody goes on asking."""
    client = make({"alpha": ("20s",)})
    for stream in (False, True):
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(
                model="alpha", messages=HELLO, timeout=0.2, stream=stream
            )
        await asyncio.wait_for(simulator.settled(), 60)

    assert all(one.closed_by_client for one in simulator.requests)


async def test_a_gap_in_a_stream_longer_than_the_timeout_ends_the_run(
    make: Make, simulator: Simulator
) -> None:
    """The SDK's read timeout holds between two pieces as it does over a socket."""
    client = make({"alpha": ("stallmid",)})
    stream = await client.chat.completions.create(
        model="alpha", messages=HELLO, timeout=0.5, stream=True
    )
    with pytest.raises(httpx.ReadTimeout, match=r"no answer within 0\.5 s"):  # as over a socket
        async for _ in stream:
            pass
    await asyncio.wait_for(simulator.settled(), 60)


# Leaving.


async def test_a_stream_that_is_closed_ends_its_run(make: Make, simulator: Simulator) -> None:
    """Closed after some chunks: the provider sees the connection go."""
    client = make({"alpha": ("stallmid",)})
    stream = await client.chat.completions.create(model="alpha", messages=HELLO, stream=True)
    async with stream:
        async for chunk in stream:
            if text_of([chunk]):
                break
    await asyncio.wait_for(simulator.settled(), 60)

    assert simulator.requests[0].closed_by_client


async def test_a_stream_that_is_never_read_ends_its_run_when_closed(
    make: Make, simulator: Simulator
) -> None:
    """Nobody took a single chunk."""
    client = make({"alpha": ("stallmid",)})
    stream = await client.chat.completions.create(model="alpha", messages=HELLO, stream=True)
    await simulator.occupied()
    await stream.close()
    await asyncio.wait_for(simulator.settled(), 60)

    assert simulator.requests[0].closed_by_client


async def test_a_stream_that_is_dropped_ends_its_run(make: Make, simulator: Simulator) -> None:
    """A `break`, and nobody holds it any more; the answer itself would never end."""
    for_ever = TimeoutsConfig(gap_s=3600, total_s=3600, run_s=3600)
    client = make({"alpha": ("stallmid",)}, timeouts=for_ever)
    async for _ in await client.chat.completions.create(model="alpha", messages=HELLO, stream=True):
        break
    for _ in range(5):  # the SDK's stream and its generator hold each other
        gc.collect()
        await asyncio.sleep(0)
    await asyncio.wait_for(simulator.settled(), 60)

    assert simulator.requests[0].closed_by_client


async def test_a_call_whose_task_is_cancelled_ends_every_call_of_its_panel(
    make: Make, simulator: Simulator
) -> None:
    """All members are let go within moments."""
    faults: dict[str, Sequence[str]] = dict.fromkeys(("alpha", "beta", "gamma"), ("20s",))
    client = make(faults)
    asking = asyncio.ensure_future(client.chat.completions.create(model="all", messages=HELLO))
    await simulator.occupied()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(simulator.settled(), 60)

    assert simulator.in_flight == 0
    assert all(one.closed_by_client for one in simulator.requests)


def test_one_asynchronous_client_serves_one_loop_after_the_other(sync_client: OpenAI) -> None:
    """Each loop has an engine of its own: a client at module level works with `asyncio.run`."""
    transport: Any = sync_client._client._transport
    client = AsyncOpenAI(config=transport._door._config)

    async def ask() -> str | None:
        reply = await client.chat.completions.create(model="alpha", messages=HELLO)
        await client._client._transport.aclose()
        return reply.choices[0].message.content

    assert asyncio.run(ask()) == asyncio.run(ask())


# Fusion, and progress.


async def test_fusion_asks_the_models_of_its_plugin(make: Make, simulator: Simulator) -> None:
    """OpenRouter's request: who answers, and who analyses and writes."""
    reply = await make().chat.completions.create(
        model="openrouter/fusion",
        messages=HELLO,
        extra_body={
            "plugins": [{"id": "fusion", "analysis_models": ["alpha", "beta"], "model": "gamma"}]
        },
    )

    told = (reply.model_extra or {})["orchestration"]
    assert (told["pattern"], told["members"]) == ("fusion", ["alpha", "beta"])
    asked = [one.provider for one in simulator.requests]
    assert sorted(asked[:2]) == ["anthropic", "openai"]
    assert asked[2:] == ["google", "google"]


async def test_fusion_without_a_plugin_asks_the_default_panel(make: Make) -> None:
    """By the pattern fusion, whatever the panel's own is."""
    reply = await make().chat.completions.create(model="fusion", messages=HELLO)

    told = (reply.model_extra or {})["orchestration"]
    assert (told["pattern"], told["members"]) == ("fusion", ["alpha", "beta", "gamma"])
    assert reply.model == "fusion"


async def test_progress_comes_in_chunks_that_the_stock_sdk_reads(make: Make) -> None:
    """Events with an empty delta; the text is what it is without them."""
    client = make()
    asked: dict[str, Any] = {"model": "all", "messages": HELLO, "seed": 2}
    plain = await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(
        **asked, extra_body={"orchestration": {"progress": True}}
    ) as stream:
        chunks = [event.chunk async for event in stream if event.type == "chunk"]
        final = await stream.get_final_completion()

    assert final.choices[0].message.content == plain.choices[0].message.content
    told = [(chunk.model_extra or {}).get("orchestration") for chunk in chunks]
    events = [one["event"] for one in told if one and "event" in one]
    assert events[0] == "stage_started"
    assert {"attempt_started", "attempt_finished", "stage_finished"} <= set(events)
    assert told[-1] is not None
    assert told[-1]["status"] == "complete"
