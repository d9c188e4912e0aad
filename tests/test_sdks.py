"""The stock SDKs: one script each, over the gateway's socket and over the drop-in client.

Only the client differs: openai's own with a `base_url`, or ours instead of it. What the drop-in
client and the endpoints do beyond that is theirs to test.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from adapters import ModelConfig
from orchestrator import AsyncOpenAI, OpenAI, OrchestratorConfig
from orchestrator.blocking import LoopThread
from orchestrator.client import AsyncTransport, Door, Transport
from orchestrator.config import BreakerConfig, PanelConfig, RetryConfig, RouteConfig
from orchestrator.server.keys import KeyFile
from orchestrator.simulator import Simulator, simulated
from tests.faces import ASKS_TOOL, HELLO
from tests.serving import Served, served

FAULTS: dict[str, Sequence[str]] = {
    "bad400": ("e400",),
    "bad401": ("e401",),  # once: whom it has failed for is left alone for a while
    # One for each who asks: a model that has said when to come again is asked no earlier.
    **{f"bad429-{who}": ("e429-seconds",) for who in ("whole", "streamed", "async", "claude")},
    "bad500": ("e500",),
    "slow": ("gap600s",),
    "never": ("600s",),
}
USAGE: Any = {"include_usage": True}
ASKS_PERSON: list[Any] = [{"role": "user", "content": "Ada is 36. Who is it?"}]


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int


class Weather(BaseModel):
    """The weather at a place."""

    city: str


@dataclass(frozen=True, slots=True)
class House:
    """A configuration over a simulator, and the gateway that serves it to one key."""

    config: OrchestratorConfig
    simulator: Simulator
    thread: LoopThread
    gateway: Served
    key: str

    def settled(self) -> None:
        """Wait until no provider is being asked."""
        self.thread.submit(self.simulator.settled()).result(60)

    def occupied(self) -> None:
        """Wait until a provider is being asked."""
        self.thread.submit(self.simulator.occupied()).result(60)

    @property
    def options(self) -> dict[str, Any]:
        """What openai's clients are told of the gateway."""
        base_url = f"{self.gateway.base_url}/v1"
        return {"base_url": base_url, "api_key": self.key, "max_retries": 0}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    keys = KeyFile(tmp_path_factory.mktemp("sdks") / "keys.json")
    thread, simulator = LoopThread(), Simulator()
    with ExitStack() as stack:
        stack.callback(thread.stop)
        thread.run(simulator.start())
        stack.callback(lambda: thread.run(simulator.aclose()))
        config = configured(simulator)
        key = keys.create("acme").key
        yield House(config, simulator, thread, stack.enter_context(served(config, keys=keys)), key)


def configured(simulator: Simulator) -> OrchestratorConfig:
    config = OrchestratorConfig(
        models={
            "alpha": ModelConfig(provider="openai", model="gpt-5-mini"),
            "beta": ModelConfig(provider="anthropic", model="claude-haiku-4-5"),
            **{name: ModelConfig(provider="openai", model="gpt-5-mini") for name in FAULTS},
        },
        routes={"way": RouteConfig(models=("bad500",), fallback=("beta",))},
        panels={
            "all": PanelConfig(members=("alpha", "beta"), synthesizer="alpha", pattern="compare"),
            "slowly": PanelConfig(members=("slow", "never"), pattern="compare"),
        },
        breaker=BreakerConfig(failures=1000, calls=1000),
        retry=RetryConfig(attempts=1),
    )
    return simulated(config, simulator, directives=FAULTS)


FACES = ("gateway", "drop-in")


@pytest.fixture(scope="module", params=FACES)
def client(house: House, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    is_ours = request.param == "drop-in"
    made = OpenAI(config=house.config) if is_ours else openai.OpenAI(**house.options)
    with made as client:
        yield client


@pytest.fixture(params=FACES)
async def async_client(
    house: House, request: pytest.FixtureRequest
) -> AsyncIterator[openai.AsyncOpenAI]:
    is_ours = request.param == "drop-in"
    made = AsyncOpenAI(config=house.config) if is_ours else openai.AsyncOpenAI(**house.options)
    async with made as client:
        yield client


# openai: chat.


@pytest.mark.parametrize("model", ["alpha", "way", "all"])
def test_a_chat_is_the_same_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    """Text and usage; a panel's drafts are fenced by chance, so it agrees in shape alone."""
    asked: dict[str, Any] = {"model": model, "messages": HELLO, "seed": 3}
    raw = client.chat.completions.with_raw_response.create(**asked)
    whole = raw.parse()
    chunks = [*client.chat.completions.create(**asked, stream=True, stream_options=USAGE)]
    with client.chat.completions.stream(**asked, stream_options=USAGE) as stream:
        final = stream.until_done().get_final_completion()

    assert isinstance(whole, ChatCompletion)
    assert raw.headers["x-orchestrator-status"] == "complete"
    assert whole.id == f"chatcmpl-{raw.headers['x-orchestrator-run-id']}"
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    told = [whole.choices[0].message.content, "".join(texts), final.choices[0].message.content]
    assert all(told)
    if model != "all":
        assert told == [told[0]] * 3
        assert whole.usage == chunks[-1].usage == final.usage


def test_choices_and_seeds_are_kept_apart(client: openai.OpenAI) -> None:
    """`n` asks so often; a seed makes an answer come again."""
    asked: dict[str, Any] = {"model": "alpha", "messages": HELLO, "seed": 4, "n": 2}
    one, same = (client.chat.completions.create(**asked) for _ in range(2))

    assert [choice.index for choice in one.choices] == [0, 1]
    assert one.choices == same.choices


@pytest.mark.parametrize("model", ["alpha", "all"])
def test_an_answer_is_parsed_into_a_model(client: openai.OpenAI, model: str) -> None:
    """Whole and streamed, by whoever writes it."""
    asked: dict[str, Any] = {"model": model, "messages": ASKS_PERSON, "response_format": Person}
    whole = client.chat.completions.parse(**asked)
    with client.chat.completions.stream(**asked) as stream:
        final = stream.until_done().get_final_completion()

    assert isinstance(whole.choices[0].message.parsed, Person)
    assert isinstance(final.choices[0].message.parsed, Person)


@pytest.mark.parametrize("model", ["alpha", "way"])
def test_tools_are_called_and_their_results_are_read(client: openai.OpenAI, model: str) -> None:
    """The SDK's own tools of pydantic models, whole and streamed."""
    tools: list[Any] = [pydantic_function_tool(Weather)]
    asked: dict[str, Any] = {"model": model, "messages": ASKS_TOOL, "tools": tools}
    whole = client.chat.completions.parse(**asked)
    with client.chat.completions.stream(**asked) as stream:
        final = stream.until_done().get_final_completion()
    (call,) = whole.choices[0].message.tool_calls or ()
    (streamed,) = final.choices[0].message.tool_calls or ()
    said: Any = whole.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})
    for one in said["tool_calls"]:
        del one["function"]["parsed_arguments"]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "17 degrees, sunny"}
    answer = client.chat.completions.create(
        model=model, messages=[*ASKS_TOOL, said, result], tools=tools
    )

    assert call.function.parsed_arguments == Weather(city="Paris")
    assert streamed.function.parsed_arguments == call.function.parsed_arguments
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


# Every parameter of openai's SDK at once, and which of them have no effect on an answer.
EVERYTHING: dict[str, Any] = {
    "audio": {"format": "mp3", "voice": "echo"},
    "frequency_penalty": 1,
    "function_call": "auto",
    "functions": [{"name": "weather", "parameters": {}}],
    "logit_bias": {"50256": -1},
    "max_completion_tokens": 0,
    "max_tokens": 0,
    "metadata": {"team": "blue"},
    "modalities": ["audio", "text"],
    "n": 1,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "Because"},
    "presence_penalty": 1,
    "response_format": {"type": "text"},
    "seed": -1,
    "service_tier": "default",
    "stop": "###",
    "store": False,
    "stream_options": {"include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [pydantic_function_tool(Weather)] * 2,
    "top_p": 1,
    "user": "somebody",
}
WITHOUT_EFFECT = (
    *("audio", "function_call", "functions", "max_completion_tokens", "max_tokens", "metadata"),
    *("modalities", "prediction"),
)


@pytest.mark.parametrize("stream", [False, True])
def test_every_parameter_at_once_is_taken(house: House, stream: bool) -> None:
    """What has no effect is said; the SDK's strict reading finds nothing wrong with the reply."""
    with openai.OpenAI(**house.options, _strict_response_validation=True) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="alpha", messages=HELLO, stream=stream, **EVERYTHING
        )
        told = [*raw.parse()] if stream else [raw.parse()]

    assert told[-1].usage.completion_tokens > 0
    ignored = set(raw.headers["x-orchestrator-ignored"].split(", "))
    assert ignored - {"stream_options"} == set(WITHOUT_EFFECT)
    assert ("stream_options" in ignored) is not stream


Failing = tuple[dict[str, Any], type[openai.APIStatusError], str, str | None]
ERRORS: list[Failing] = [
    ({"model": "bad400"}, openai.BadRequestError, "invalid_request", None),
    ({"model": "nobody"}, openai.NotFoundError, "model_not_found", "model"),
    ({"model": "bad500"}, openai.InternalServerError, "provider_unavailable", None),
    ({"temperature": 9}, openai.BadRequestError, "invalid_value", "temperature"),
    ({"n": 100}, openai.BadRequestError, "invalid_value", "n"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_of_the_sdks_classes(client: openai.OpenAI, stream: bool) -> None:
    """Status, code, field, and when to come again."""
    busy = "bad429-streamed" if stream else "bad429-whole"
    limited: Failing = ({"model": busy}, openai.RateLimitError, "rate_limit_exceeded", None)
    for more, kind, code, param in [limited, *ERRORS]:
        asked: dict[str, Any] = {"model": "alpha", "messages": HELLO, "stream": stream, **more}
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**asked)
        assert (caught.value.code, caught.value.param) == (code, param)
        wanted = "2" if kind is openai.RateLimitError else None
        assert caught.value.response.headers.get("retry-after") == wanted


def test_a_key_that_is_none_is_refused(house: House) -> None:
    """401, and what was presented stands in no message."""
    presented = "sk-of-somebody-else"
    with (
        openai.OpenAI(**house.options | {"api_key": presented}) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()

    assert caught.value.code == "invalid_api_key"
    assert presented not in str(caught.value)


@pytest.mark.parametrize("model", ["slow", "slowly"])
def test_a_stream_that_is_closed_ends_its_calls(
    house: House, client: openai.OpenAI, model: str
) -> None:
    """Each call that was on its way, seen by its provider."""
    progress = {"orchestration": {"progress": True}}
    before = len(house.simulator.requests)
    with client.chat.completions.create(
        model=model, messages=HELLO, stream=True, extra_body=progress
    ) as stream:
        next(stream)
        house.occupied()
    house.settled()

    ended = [*house.simulator.requests][before:]
    assert ended
    assert all(one.closed_by_client for one in ended)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    """A panel is one of them, also by another pattern."""
    names = {model.id for model in client.models.list()}

    assert {"alpha", "way", "all", "critique/all", "fusion"} <= names
    assert client.models.retrieve("critique/all").id == "critique/all"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# What only an orchestrator says, to those who do not know of it.

FUSION: dict[str, Any] = {
    "model": "openrouter/fusion",
    "messages": HELLO,
    "stream": True,
    "stream_options": USAGE,
}
PLUGIN: dict[str, Any] = {
    "plugins": [{"id": "fusion", "analysis_models": ["alpha", "beta"], "model": "alpha"}]
}


@pytest.mark.parametrize("progress", [False, True])
def test_a_fusion_streams_signs_of_life_progress_and_one_usage(
    house: House, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    """On the socket: comments, chunks with an empty delta for who wants them, usage at the end."""
    monkeypatch.setattr("orchestrator.endpoints.streams.BEGINS_S", 0)
    body = {**FUSION, **PLUGIN, "orchestration": {"progress": progress}}
    with httpx.stream(
        "POST",
        f"{house.gateway.base_url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {house.key}"},
        timeout=60,
    ) as reply:
        lines = [line for line in reply.iter_lines() if line]

    assert reply.headers["content-type"].startswith("text/event-stream")
    assert lines[0] == ": working"
    said = [line for line in lines if not line.startswith(":")]
    assert said[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in said[:-1]]
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    end = chunks[-1]["orchestration"]
    assert (end["pattern"], end["members"]) == ("fusion", ["alpha", "beta"])
    assert chunks[-1]["usage"]["total_tokens"] > 0
    told = [chunk for chunk in chunks[:-1] if "orchestration" in chunk]
    assert all(chunk["choices"][0]["delta"] == {} for chunk in told)
    events = {chunk["orchestration"]["event"] for chunk in told}
    wanted = {"stage_started", "attempt_started", "attempt_finished", "stage_finished"}
    assert events == (wanted if progress else set())


def test_the_sdk_passes_over_signs_of_life_and_progress(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gathers the answer as it would without them."""
    monkeypatch.setattr("orchestrator.endpoints.streams.BEGINS_S", 0)
    chunks = [
        *client.chat.completions.create(
            **FUSION, extra_body={**PLUGIN, "orchestration": {"progress": True}}
        )
    ]

    said = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(said)
    assert [one.usage for one in chunks if one.usage] == [chunks[-1].usage]


# openai: responses.


def test_responses_are_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    """Text, usage, and a model of pydantic's."""
    asked: dict[str, Any] = {"model": "alpha", "input": "Why is the sky blue?"}
    whole = client.responses.create(**asked)
    events = [*client.responses.create(**asked, stream=True)]
    parsed = client.responses.parse(model="all", input="Ada is 36. Who is it?", text_format=Person)

    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage == whole.usage
    assert isinstance(parsed.output_parsed, Person)


def test_responses_call_tools_and_read_their_results(client: openai.OpenAI) -> None:
    """Streamed and whole; the result goes back beside the call."""
    asked: dict[str, Any] = {
        "model": "beta",
        "input": ASKS_TOOL,
        "tools": [openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}],
    }
    with client.responses.stream(**asked) as stream:
        final = stream.until_done().get_final_response()
    (call,) = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "17 degrees"}
    sent = call.model_dump(exclude_none=True, exclude={"parsed_arguments"})
    answer = client.responses.create(**asked | {"input": [*ASKS_TOOL, sent, result]})

    assert Weather.model_validate_json(call.arguments) == Weather(city="Paris")
    assert answer.output_text


# openai: asynchronous.


async def test_the_asynchronous_client_reads_the_same(async_client: openai.AsyncOpenAI) -> None:
    """Whole, streamed, by the helper, parsed, as a response."""
    asked: dict[str, Any] = {"model": "alpha", "messages": HELLO, "seed": 3}
    whole = await async_client.chat.completions.create(**asked)
    chunks = await async_client.chat.completions.create(**asked, stream=True, stream_options=USAGE)
    texts = [c.choices[0].delta.content or "" async for c in chunks if c.choices]
    async with async_client.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
    parsed = await async_client.chat.completions.parse(
        model="alpha", messages=ASKS_PERSON, response_format=Person
    )
    response = await async_client.responses.create(model="alpha", input="Why is the sky blue?")

    assert whole.choices[0].message.content == "".join(texts)
    assert whole.choices[0].message.content == final.choices[0].message.content
    assert isinstance(parsed.choices[0].message.parsed, Person)
    assert response.output_text
    with pytest.raises(openai.RateLimitError):
        await async_client.chat.completions.create(model="bad429-async", messages=HELLO)


async def test_an_asynchronous_call_that_is_cancelled_ends_its_calls(
    house: House, async_client: openai.AsyncOpenAI
) -> None:
    """The task is, and the provider sees the connection go."""
    asking = asyncio.ensure_future(
        async_client.chat.completions.create(model="never", messages=HELLO)
    )
    await asyncio.to_thread(house.occupied)
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.to_thread(house.settled)

    assert asking.cancelled()
    assert house.simulator.requests[-1].closed_by_client


# What is said to everybody.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "store": True}, "store"),
        ("/v1/responses", {"input": "Hi", "store": True}, "store"),
        (
            "/v1/messages",
            {"messages": HELLO, "max_tokens": 50, "speed": "fast"},
            "speed",
        ),
    ],
)
def test_headers_say_what_has_no_effect(
    house: House, path: str, body: dict[str, Any], ignored: str, stream: bool
) -> None:
    """Of a stream as of a whole reply, whatever the words of its body."""
    reply = httpx.post(
        house.gateway.base_url + path,
        json={"model": "alpha", "stream": stream, **body},
        headers={"authorization": f"Bearer {house.key}"},
        timeout=60,
    )

    assert reply.status_code == 200
    assert reply.headers["x-orchestrator-ignored"] == ignored


# anthropic, over the gateway's socket.

WEATHER: Any = {
    "name": "weather",
    "description": "The weather at a place.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def claude(house: House) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=house.gateway.base_url, api_key=house.key, max_retries=0
    ) as client:
        yield client


@pytest.mark.parametrize("model", ["beta", "way", "all"])
def test_a_message_is_the_same_whole_and_streamed(claude: anthropic.Anthropic, model: str) -> None:
    """By the SDK's own accumulation; a panel's words differ, as its fences do."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 500, "messages": HELLO}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert whole.stop_reason == final.stop_reason == "end_turn"
    assert text == final.content[0].text
    if model != "all":
        assert whole.content[0].text == text
        assert whole.usage == final.usage


@pytest.mark.parametrize("model", ["alpha", "beta", "all"])
def test_a_tools_result_is_read_by_whoever_is_asked(
    house: House, claude: anthropic.Anthropic, model: str
) -> None:
    """A panel as well: all of its members read what the tool has said."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 500, "tools": [WEATHER]}
    called = claude.messages.create(messages=ASKS_TOOL, **asked)
    (call,) = [block for block in called.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees, sunny"}
    messages: list[Any] = [
        *ASKS_TOOL,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    answer = claude.messages.create(messages=messages, **asked)

    assert called.stop_reason == "tool_use"
    assert call.input == {"city": "Paris"}
    assert answer.stop_reason == "end_turn"
    if model != "all":
        assert "17 degrees" in answer.content[0].text
    else:  # two members, and who writes
        assert all("17 degrees" in one.prompt for one in [*house.simulator.requests][-3:])


def test_tokens_of_a_message_are_counted(claude: anthropic.Anthropic) -> None:
    """More of them for more words."""
    few, more = (
        claude.messages.count_tokens(model="beta", messages=[{"role": "user", "content": text}])
        for text in ("Hi", "Why is the sky blue? " * 20)
    )

    assert 0 < few.input_tokens < more.input_tokens


def test_models_are_listed_in_anthropics_shape(claude: anthropic.Anthropic) -> None:
    """The SDK checks every field; page by page it finds what there is, and each by its name."""
    strict = claude.with_options(_extra_kwargs={"_strict_response_validation": True})

    pages = [model.id for model in strict.models.list(limit=5)]
    found = strict.models.retrieve("compare/all")

    assert pages == sorted(pages)
    assert {"alpha", "way", "all", "compare/all"} < set(pages)
    assert (found.id, found.type, found.lifecycle) == ("compare/all", "model", "active")
    raw = strict.models.with_raw_response.list()
    assert raw.headers["vary"] == "anthropic-version"
    with pytest.raises(anthropic.NotFoundError) as caught:
        strict.models.retrieve("alhpa")
    assert caught.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="'limit'"):
        strict.models.list(limit=1001)


def test_errors_are_of_anthropics_classes(house: House, claude: anthropic.Anthropic) -> None:
    """Status, kind, and when to come again; a wrong key as well."""
    failing: list[tuple[dict[str, Any], type[anthropic.APIStatusError]]] = [
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"model": "bad401"}, anthropic.AuthenticationError),
        ({"model": "nobody"}, anthropic.NotFoundError),
        ({"model": "bad429-claude"}, anthropic.RateLimitError),
        ({"model": "bad500"}, anthropic.InternalServerError),
    ]
    for more, kind in failing:
        with pytest.raises(kind) as caught:
            claude.messages.create(**{"model": "beta", "max_tokens": 50, "messages": HELLO, **more})
        wanted = "2" if kind is anthropic.RateLimitError else None
        assert caught.value.response.headers.get("retry-after") == wanted
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="none").messages.create(
            model="beta", max_tokens=50, messages=HELLO
        )


async def test_the_asynchronous_anthropic_client_leaves_a_stream(house: House) -> None:
    """It reads some of it, goes, and the provider sees it."""
    async with anthropic.AsyncAnthropic(
        base_url=house.gateway.base_url, api_key=house.key, max_retries=0
    ) as client:
        whole = await client.messages.create(model="beta", max_tokens=500, messages=HELLO)
        async with client.messages.stream(model="slow", max_tokens=500, messages=HELLO) as stream:
            first = await anext(aiter(stream.text_stream))
    await asyncio.to_thread(house.settled)

    assert whole.content
    assert first
    assert house.simulator.requests[-1].closed_by_client


# LangChain.

Chat = Callable[..., ChatOpenAI]


@pytest.fixture(params=FACES)
async def chat(house: House, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    """Makes LangChain's chat models; to ours they come by a transport.

    The others are given clients as well: LangChain's own outlive the event loop of a test.
    """
    options: dict[str, Any] = house.options
    with ExitStack() as stack:
        doors: tuple[Any, Any] = (None, None)
        if request.param == "drop-in":
            options = {"base_url": "http://orchestrator.invalid/v1", "api_key": "none"}
            doors = (Transport(Door(house.config)), AsyncTransport(Door(house.config)))
        http_client = stack.enter_context(httpx.Client(transport=doors[0]))
        async with httpx.AsyncClient(transport=doors[1]) as http_async_client:
            options |= {"http_client": http_client, "http_async_client": http_async_client}

            def make(model: str, **more: Any) -> ChatOpenAI:
                return ChatOpenAI(model=model, **options, **more)

            yield make


async def test_langchain_asks_and_streams(chat: Chat) -> None:
    """`invoke`, `stream` and `ainvoke`: the same words, and the usage."""
    model = chat("alpha", seed=3, stream_usage=True)
    told = await asyncio.to_thread(model.invoke, "Why is the sky blue?")
    chunks = await asyncio.to_thread(lambda: [*model.stream("Why is the sky blue?")])
    awaited = await model.ainvoke("Why is the sky blue?")
    whole = sum(chunks[1:], chunks[0])

    assert isinstance(whole, AIMessageChunk)
    assert told.content == whole.content == awaited.content != ""
    assert told.usage_metadata == whole.usage_metadata == awaited.usage_metadata
    assert told.response_metadata["finish_reason"] == "stop"


async def test_langchain_binds_tools_and_wants_structure(chat: Chat) -> None:
    """A tool's round, and an answer as a pydantic model; of a panel as well."""
    bound = chat("beta").bind_tools([Weather])
    asked = HumanMessage(ASKS_TOOL[0]["content"])
    called = await asyncio.to_thread(bound.invoke, [asked])
    (call,) = called.tool_calls
    answer = await bound.ainvoke(
        [asked, called, ToolMessage("17 degrees", tool_call_id=call["id"])]
    )
    structured = chat("all").with_structured_output(Person)
    person = await asyncio.to_thread(structured.invoke, ASKS_PERSON[0]["content"])

    assert (call["name"], call["args"]) == ("Weather", {"city": "Paris"})
    assert "17 degrees" in answer.content
    assert isinstance(person, Person)


async def test_langchains_errors_are_openais(chat: Chat) -> None:
    """Whoever catches those catches ours."""
    with pytest.raises(openai.NotFoundError):
        await chat("nobody").ainvoke("Hi")
