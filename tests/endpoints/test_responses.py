"""`POST /v1/responses`, driven by openai's own clients and by bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import orjson
import pytest
from openai.lib.streaming.responses import ResponseTextDoneEvent
from openai.types.responses import Response
from pydantic import BaseModel

from adapters import MockAdapter
from adapters.errors import RateLimited
from adapters.mock import Reply
from orchestrator import AsyncOpenAI, OpenAI, OrchestratorConfig
from orchestrator.base import BaseOrchestrator
from orchestrator.blocking import THREAD
from orchestrator.clock import FakeClock
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call
from orchestrator.endpoints.calls import Reply as Answer
from orchestrator.simulator import Simulator, simulated

Json = dict[str, Any]
DELTA = "response.output_text.delta"
ARGUMENTS = "response.function_call_arguments.delta"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "What it is like outside",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int


class City(BaseModel):
    """What a tool is to be called with."""

    city: str


def config() -> OrchestratorConfig:
    return OrchestratorConfig.model_validate(
        {
            "models": {
                "gpt": {"provider": "openai", "model": "gpt-5-mini"},
                "claude": {"provider": "anthropic", "model": "claude-haiku-4-5"},
                "own": {"provider": "custom", "model": "own-1", "api_base": "http://own.invalid"},
            },
            "panels": {"council": {"members": ["gpt", "claude"], "synthesizer": "gpt"}},
            "retry": {"attempts": 1},
            "cache": {},  # so that one question has one answer, however often it is asked
        }
    )


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    """openai's asynchronous client over an engine on the simulator."""
    async with AsyncOpenAI(config=simulated(config(), simulator)) as opened:
        yield opened


@pytest.fixture
def blocking_client() -> Iterator[OpenAI]:
    """openai's synchronous client over an engine on a simulator in the loop's thread."""
    simulator = Simulator()
    THREAD.run(simulator.start())
    try:
        with OpenAI(config=simulated(config(), simulator)) as opened:
            yield opened
    finally:
        THREAD.run(simulator.aclose())


def same(response: Response) -> Json:
    """What two runs of one request have in common: all but their time and cost."""
    told = response.to_dict()
    run_id = str(told.pop("id")).removeprefix("resp_")
    for name in ("created_at", "completed_at", "orchestration", "usage"):
        told.pop(name)
    for item in response.output:
        assert run_id in str(item.id)
    told["output"] = [_unparsed(item.to_dict()) for item in response.output]
    common: Json = orjson.loads(orjson.dumps(told).replace(run_id.encode(), b"RUN"))
    return common


def _unparsed(item: Any) -> Json:
    """An item without what openai's helper puts into its texts."""
    parts = [{**part, "parsed": None} for part in item.get("content", ())]
    return {**item, "content": parts}


# openai's own clients.


@pytest.mark.parametrize("model", ["gpt", "claude", "own", "council", "critique/council"])
async def test_a_stream_ends_in_what_the_plain_request_returns(
    client: AsyncOpenAI, model: str
) -> None:
    """A deployment, a panel and a pattern, through the SDK's helper and without it."""
    reasoning: Any = {"effort": "low"}
    question: Any = {"model": model, "input": "Why is the sky blue?", "reasoning": reasoning}
    async with client.responses.stream(**question) as stream:
        pieces = [event.delta async for event in stream if event.type == DELTA]
        final = await stream.get_final_response()
    plain = await client.responses.create(**question)

    assert isinstance(plain, Response)
    assert plain.output_text
    assert "".join(pieces) == final.output_text == plain.output_text
    assert final.id.startswith("resp_")
    assert same(Response.model_validate(final.to_dict())) == same(plain)


async def test_reasoning_comes_before_the_answer(client: AsyncOpenAI) -> None:
    """A host that shows its thoughts: an item of their own."""
    response = await client.responses.create(
        model="own", input="Why is the sky blue?", reasoning={"effort": "high", "summary": "auto"}
    )

    thought, said = response.output
    assert (thought.type, said.type) == ("reasoning", "message")
    assert thought.type == "reasoning"
    assert thought.summary[0].text


@pytest.mark.parametrize("model", ["gpt", "claude", "council"])
async def test_a_conversation_with_tools_goes_round(client: AsyncOpenAI, model: str) -> None:
    """A call, its result sent back beside what the response held, and an answer to both."""
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = await client.responses.create(
        model=model, input=conversation, tools=[WEATHER], tool_choice="required"
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    conversation += first.output
    conversation.append(
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    )

    second = await client.responses.create(
        model=model, input=conversation, tools=[WEATHER], tool_choice="none"
    )

    assert call.name == "weather"
    assert orjson.loads(call.arguments)["city"]
    assert second.output_text
    assert second.status == "completed"


@pytest.mark.parametrize("model", ["gpt", "council"])
async def test_a_stream_of_tool_calls_is_parsed_by_the_sdk(client: AsyncOpenAI, model: str) -> None:
    """The helper gives the arguments as they come and the call as it is in the end."""
    async with client.responses.stream(
        model=model,
        input="What is the weather in Paris?",
        tools=[openai.pydantic_function_tool(City, name="weather")],
        tool_choice={"type": "function", "name": "weather"},
    ) as stream:
        pieces = [event.delta async for event in stream if event.type == ARGUMENTS]
        final = await stream.get_final_response()

    (call,) = [item for item in final.output if item.type == "function_call"]
    assert "".join(pieces) == call.arguments
    assert call.parsed_arguments == City.model_validate_json(call.arguments)


@pytest.mark.parametrize("model", ["gpt", "claude", "council"])
async def test_the_sdk_parses_what_a_schema_asks_for(client: AsyncOpenAI, model: str) -> None:
    """`parse`, and the stream helper with a type; the schema survives synthesis."""
    parsed = await client.responses.parse(model=model, input="Who?", text_format=Person)
    async with client.responses.stream(model=model, input="Who?", text_format=Person) as stream:
        done = [event async for event in stream if isinstance(event, ResponseTextDoneEvent)]
        final = await stream.get_final_response()

    assert isinstance(parsed.output_parsed, Person)
    assert final.output_parsed == parsed.output_parsed
    assert [event.parsed for event in done] == [parsed.output_parsed]


async def test_an_answer_that_is_cut_ends_the_stream_as_incomplete(client: AsyncOpenAI) -> None:
    """Never a cut answer as a whole one."""
    stream = await client.responses.create(
        model="gpt", input="Why is the sky blue?", max_output_tokens=5, stream=True
    )

    *_, last = [event async for event in stream]

    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


async def test_headers_tell_of_the_run_and_of_what_had_no_effect(client: AsyncOpenAI) -> None:
    """The raw reply has them, as that of a chat completion."""
    raw = await client.responses.with_raw_response.create(
        model="gpt", input="Hi", store=True, text={"verbosity": "low"}
    )

    response = raw.parse()
    assert raw.headers["x-orchestrator-status"] == "complete"
    assert response.id == "resp_" + raw.headers["x-orchestrator-run-id"]
    assert raw.headers["x-orchestrator-ignored"] == "store, text.verbosity"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_own(client: AsyncOpenAI, stream: bool) -> None:
    """A status of their own also where a stream was asked for: nothing has been sent yet."""
    with pytest.raises(openai.NotFoundError, match="did you mean 'gpt'"):
        await client.responses.create(model="gtp", input="Hi", stream=stream)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(
            model="gpt", input="Hi", previous_response_id="resp_1", stream=stream
        )
    assert caught.value.param == "previous_response_id"


def test_the_synchronous_client_does_the_same(blocking_client: OpenAI) -> None:
    """Plain, streamed, and with a type."""
    plain = blocking_client.responses.create(model="council", input="Why is the sky blue?")
    with blocking_client.responses.stream(model="council", input="Why is the sky blue?") as stream:
        pieces = [event.delta for event in stream if event.type == DELTA]
        final = stream.get_final_response()
    parsed = blocking_client.responses.parse(model="gpt", input="Who?", text_format=Person)

    assert "".join(pieces) == final.output_text == plain.output_text
    assert isinstance(parsed.output_parsed, Person)


# Bytes.


def call(body: Json, **about: Any) -> Call:
    return Call(method="POST", path="/v1/responses", body=orjson.dumps(body), **about)


def scripted(*script: Any, **about: Any) -> BaseOrchestrator:
    """An engine whose only deployment says what is written down."""
    settings = OrchestratorConfig.model_validate(
        {"models": {"gpt": {"provider": "openai", "model": "m"}}, "retry": {"attempts": 1}}
    )
    adapter = MockAdapter(list(script), deployment="gpt", **about)
    return BaseOrchestrator(settings, adapters={"gpt": adapter})


async def pieces_of(reply: Answer) -> list[bytes]:
    assert not isinstance(reply.body, bytes)
    return [piece async for piece in reply.body]


def events_of(pieces: list[bytes]) -> list[Json]:
    """The events of a stream; each is sent under its own name."""
    told = []
    for block in b"".join(pieces).split(b"\n\n"):
        if block and not block.startswith(b":"):
            name, _, data = block.partition(b"\ndata: ")
            event = orjson.loads(data)
            assert name == b"event: " + event["type"].encode()
            told.append(event)
    return told


async def test_a_failure_before_the_first_word_has_its_status() -> None:
    """So that clients can tell what to do, and when."""
    error = RateLimited("slow down", provider="openai", deployment="gpt", retry_after_s=7)
    async with scripted(error) as engine:
        reply = await Endpoints(engine).answer(
            call({"model": "gpt", "input": "Hi", "stream": True})
        )

    assert reply.status == 429
    assert reply.headers["retry-after"] == "7"


async def test_a_failure_after_it_ends_the_stream_with_an_error() -> None:
    """What has been said stands in the response that failed; the SDK raises for the rest."""
    async with scripted(Reply(text="Hello there, you", cut_after=10)) as engine:
        reply = await Endpoints(engine).answer(
            call({"model": "gpt", "input": "Hi", "stream": True})
        )
        told = events_of(await pieces_of(reply))

    assert reply.status == 200
    assert [one["type"] for one in told][-2:] == ["response.failed", "error"]
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    failed = told[-2]["response"]
    assert failed["output"][0]["content"][0]["text"] == "Hello ther"
    assert failed["error"]["code"] == "server_error"
    assert told[-1]["error"]["code"] == told[-1]["code"] == "stream_broken"


async def test_a_failure_after_a_heartbeat_is_a_whole_failed_stream() -> None:
    """A reply that has begun with nothing but a sign of life has no other way to say it."""
    clock, gate = FakeClock(), asyncio.Event()
    error = RateLimited("slow down", provider="openai", deployment="gpt")
    slow = Reply(error=error, delay_s=1)
    async with scripted(slow, sleep=lambda _: gate.wait()) as engine:
        endpoints = Endpoints(engine, clock=clock)
        asking = asyncio.ensure_future(
            endpoints.answer(call({"model": "gpt", "input": "Hi", "stream": True}))
        )
        for _ in range(50):
            await asyncio.sleep(0)
        clock.advance(1)
        reply = await asking
        gate.set()
        pieces = await pieces_of(reply)

    assert pieces[0] == b": working\n\n"
    assert [one["type"] for one in events_of(pieces)] == [
        "response.created",
        "response.in_progress",
        "response.failed",
        "error",
    ]


async def test_openais_clients_raise_for_a_stream_that_fails(simulator: Simulator) -> None:
    """Whoever reads only the words does not take half an answer for a whole one."""
    settings = simulated(config(), simulator, directives={"gpt": ("cutmid",)})
    async with AsyncOpenAI(config=settings) as client:
        stream = await client.responses.create(
            model="gpt", input="Why is the sky blue?", stream=True
        )
        seen = []

        async def read() -> None:
            async for event in stream:
                seen.append(event.type)  # noqa: PERF401 - up to the error

        with pytest.raises(openai.APIError):
            await read()

    assert DELTA in seen
    assert seen[-1] == "response.failed"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "gpt", "input": "Hi"},
        {"model": "mine", "input": "Hi", "orchestration": {"members": ["mine", "gpt"]}},
        {"model": "mine", "input": "Hi", "orchestration": {"synthesizer": "gpt"}},
    ],
)
async def test_a_key_may_not_reach_others_models_by_any_name(body: Json) -> None:
    """Neither as the model nor as a member or the synthesizer of a panel."""
    async with scripted("Hello") as engine:
        reply = await Endpoints(engine).answer(call(body, may_ask=lambda name: name == "mine"))

    assert reply.status == 403


async def test_a_closed_stream_ends_the_run() -> None:
    """Nobody listens any more: the call is cancelled and nothing is left running."""
    async with scripted(Reply(text="Hello there, you"), chunk_characters=1) as engine:
        reply = await Endpoints(engine).answer(
            call({"model": "gpt", "input": "Hi", "stream": True})
        )
        assert not isinstance(reply.body, bytes)
        first = await anext(reply.body)
        await reply.body.aclose()

    assert first.startswith(b"event: response.created\n")
