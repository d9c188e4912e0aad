"""Probabilities of tokens, from the provider to whoever asked, by every way in."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import openai
import pytest

from adapters import LLMProvider, MockAdapter, ModelConfig, StreamBroken
from adapters.mock import Reply
from orchestrator import AsyncOpenAI, EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import CacheConfig, RetryConfig, RouteConfig
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call
from orchestrator.events import RunFinished, TextDelta
from orchestrator.responses import OrchestratorResponse
from orchestrator.simulator import Simulator
from orchestrator.wire.writing import dump
from tests.faces import HELLO, configured

WANTED: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
WITH: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
TOLD: Any = ({"token": "Blue", "logprob": -0.5, "bytes": None, "top_logprobs": []},)


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(config=configured(simulator)) as client:
        yield client


def joined(tokens: Sequence[Any]) -> str:
    return "".join(one.token for one in tokens)


async def test_chat_completions_tell_them(client: AsyncOpenAI) -> None:
    """Of every token of the text, as many others beside each as were wanted; streams the same."""
    plain = await client.chat.completions.create(model="alpha", messages=HELLO, **WANTED)
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="alpha", messages=HELLO, stream=True, **WANTED
        )
    ]
    without = await client.chat.completions.create(model="alpha", messages=HELLO)

    (choice,) = plain.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert joined(choice.logprobs.content) == choice.message.content
    assert {len(one.top_logprobs) for one in choice.logprobs.content} == {2}
    streamed = [
        one
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for one in choice.logprobs.content or ()
    ]
    assert [one.model_dump() for one in streamed] == [
        one.model_dump() for one in choice.logprobs.content
    ]
    assert without.choices[0].logprobs is None


async def test_responses_tell_them_where_they_are_to_be_included(client: AsyncOpenAI) -> None:
    """In the part that holds the text, in its deltas and at their end, with the bytes."""
    plain = await client.responses.create(model="alpha", input="Why?", **WITH)
    without = await client.responses.create(model="alpha", input="Why?", top_logprobs=2)
    events = [
        event
        async for event in await client.responses.create(
            model="alpha", input="Why?", stream=True, **WITH
        )
    ]

    def part(response: Any) -> Any:
        return response.output[-1].content[0]

    assert joined(part(plain).logprobs) == plain.output_text
    assert all(bytes(one.bytes).decode() == one.token for one in part(plain).logprobs)
    assert part(without).logprobs == []
    assert "top_logprobs" in without.model_extra["orchestration"]["ignored"]  # type: ignore[index]
    deltas = [
        one
        for event in events
        if event.type == "response.output_text.delta"
        for one in event.logprobs
    ]
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert joined(deltas) == joined(done.logprobs) == plain.output_text
    assert part(events[-1].response) == part(plain)  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_a_panel_says_that_it_has_none(
    client: AsyncOpenAI, stream: bool
) -> None:
    """Members and writers are not even asked for them: not all of them could be."""
    asked: dict[str, Any] = {"model": "all", "messages": HELLO, "stream": stream, **WANTED}
    reply = await client.chat.completions.create(**asked)
    told = [chunk async for chunk in reply][-1] if stream else reply

    assert told.model_extra["orchestration"]["status"] == "complete"
    assert list(told.model_extra["orchestration"]["ignored"]) == ["logprobs"]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"messages": HELLO, **WANTED}, "logprobs"),
        ("/v1/responses", {"input": "Why?", **WITH}, "include"),
    ],
)
async def test_it_is_said_that_a_provider_has_told_none(
    path: str, body: dict[str, Any], name: str
) -> None:
    """In the reply and in its header, as of anything else that had no effect."""
    async with EnhancedOrchestrator(mocked(), adapters={"one": MockAdapter(["Blue."])}) as engine:
        call = Call(method="POST", path=path, body=dump({"model": "one", **body}))
        reply = await Endpoints(engine).answer(call)

    assert isinstance(reply.body, bytes)
    assert list(json.loads(reply.body)["orchestration"]["ignored"]) == [name]
    assert reply.headers["x-orchestrator-ignored"] == name


async def test_a_provider_that_has_none_refuses(client: AsyncOpenAI) -> None:
    """Whoever asks one model for them is told, and nothing was spent."""
    with pytest.raises(openai.BadRequestError, match=r"does not support parameters.*logprobs"):
        await client.chat.completions.create(model="beta", messages=HELLO, **WANTED)


async def run(engine: EnhancedOrchestrator, request: RequestConfig) -> tuple[str, Any, Any]:
    """The text and the probabilities as they came, and the response."""
    text, told, response = "", [], None
    async for event in engine.stream_request(request):
        if isinstance(event, TextDelta):
            text, told = text + event.text, [*told, *event.logprobs]
        if isinstance(event, RunFinished):
            response = event.response
    assert isinstance(response, OrchestratorResponse)
    return text, tuple(told), response


def mocked(**config: Any) -> OrchestratorConfig:
    models = {
        name: ModelConfig(provider=LLMProvider.CUSTOM, model=name, api_base="http://m.invalid/v1")
        for name in ("one", "two")
    }
    return OrchestratorConfig(
        models=models, routes={"way": RouteConfig(models=("one", "two"))}, **config
    )


async def test_an_answer_from_the_cache_tells_them_again() -> None:
    """As it told them first, streamed or in one piece."""
    config = mocked(cache=CacheConfig())
    request = RequestConfig(prompt="Which colour?", model="one", extra={"logprobs": True})
    one = MockAdapter([Reply(text="Blue.", logprobs=TOLD)])
    async with EnhancedOrchestrator(config, adapters={"one": one}) as engine:
        first = await engine.execute_request(request)
        second = await engine.execute_request(request)
        text, told, response = await run(engine, request)

    assert len(one.requests) == 1
    assert first.logprobs == second.logprobs == response.logprobs == told == TOLD
    assert text == "Blue."


async def test_an_answer_in_two_parts_has_none_as_a_whole() -> None:
    """Those of the first part came with it; nobody takes them for those of the whole."""
    broken = Reply(text="The sky is blue because of", cut_after=26, logprobs=TOLD)
    one = MockAdapter([Reply(**{**_fields(broken), "error": StreamBroken("cut")})])
    two = MockAdapter([Reply(text="The sky is blue because of scattering.", logprobs=TOLD)])
    config = mocked(retry=RetryConfig(attempts=2))
    request = RequestConfig(prompt="Why?", model="way", extra={"logprobs": True})
    async with EnhancedOrchestrator(config, adapters={"one": one, "two": two}) as engine:
        text, told, response = await run(engine, request)

    assert text == response.content == "The sky is blue because of scattering."
    assert told == TOLD
    assert response.logprobs == ()
    assert "logprobs" not in two.requests[-1].extra


def _fields(reply: Reply) -> dict[str, Any]:
    return {name: getattr(reply, name) for name in reply.__slots__}
