"""The stock anthropic SDK over the endpoints, with no network between."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient
from anthropic.types import Message
from pydantic import BaseModel

from adapters import CompletionRequest, MockAdapter, ModelConfig
from adapters.errors import ProviderError, ProviderUnavailable, RateLimited
from adapters.mock import Reply as Said
from adapters.types import ToolCall, Usage
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.blocking import THREAD
from orchestrator.client import Door
from orchestrator.config import PanelConfig, RetryConfig
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server.app import create_app
from orchestrator.server.keys import KeyFile
from orchestrator.simulator import Simulator, simulated

HELLO: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
CONFIG = OrchestratorConfig(
    models={
        "claude": ModelConfig(provider="anthropic", model="claude-haiku-4-5"),  # type: ignore[arg-type]
        "gpt": ModelConfig(provider="openai", model="gpt-5-mini"),  # type: ignore[arg-type]
    },
    panels={"council": PanelConfig(members=("claude", "gpt"), synthesizer="gpt")},
    retry=RetryConfig(attempts=1),
)


class Pieces(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """The pieces of a reply, for the SDK of either kind."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := THREAD.run(self._next())) is not None:
            yield piece

    def close(self) -> None:
        THREAD.run(self._pieces.aclose())

    async def _next(self) -> bytes | None:
        return await anext(self._pieces, None)


class Through(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Hands the SDK's requests to endpoints; the SDK has an HTTP library of its own."""

    def __init__(self, answering: Endpoints | Door, **about: Any) -> None:
        self._answering = answering
        self._about = about

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return _response(await self._answering.answer(self._call(request, await request.aread())))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return _response(THREAD.run(self._answering.answer(self._call(request, request.read()))))

    def _call(self, request: httpx2.Request, body: bytes) -> Call:
        return Call(
            method=request.method,
            path=request.url.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            **self._about,
        )


def _response(reply: Reply) -> httpx2.Response:
    headers = dict(reply.headers)
    if isinstance(reply.body, bytes):
        return httpx2.Response(reply.status, headers=headers, content=reply.body)
    return httpx2.Response(reply.status, headers=headers, stream=Pieces(reply.body))


def sdk(transport: Any, **options: Any) -> AsyncAnthropic:
    return AsyncAnthropic(
        base_url="http://orchestrator.invalid",
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(transport=transport),
        **{"api_key": "none", **options},
    )


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncAnthropic]:
    """The SDK over an engine whose providers are simulated."""
    async with EnhancedOrchestrator(simulated(CONFIG, simulator)) as engine:
        yield sdk(Through(Endpoints(engine)))


class Mocked:
    """The SDK over an engine whose one deployment, `claude`, answers from a script."""

    def __init__(self, *script: Said | str | ProviderError, **about: Any) -> None:
        self.adapter = MockAdapter(list(script), deployment="claude")
        self._engine = EnhancedOrchestrator(CONFIG, adapters={"claude": self.adapter})
        self.client = sdk(Through(Endpoints(self._engine), **about))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.aclose()

    @property
    def asked(self) -> CompletionRequest:
        return self.adapter.requests[-1]

    async def create(self, **fields: Any) -> Any:
        return await self.client.messages.create(
            **{"model": "claude", "max_tokens": 2000, "messages": HELLO, **fields}
        )

    def stream(self, **fields: Any) -> Any:
        return self.client.messages.stream(
            **{"model": "claude", "max_tokens": 2000, "messages": HELLO, **fields}
        )


@pytest.mark.parametrize(
    ("stopped", "reason"), [("END", "stop_sequence"), (None, "end_turn")], ids=["known", "unknown"]
)
async def test_what_has_stopped_an_answer_is_told_where_it_is_known(
    stopped: str | None, reason: str
) -> None:
    """Plain and streamed; where a provider does not say it, an end is an end."""
    async with Mocked(Said(text="One, two", stop_sequence=stopped)) as mocked:
        plain = await mocked.create(stop_sequences=["END"])
        async with mocked.stream(stop_sequences=["END"]) as stream:
            streamed = await stream.get_final_message()

    for told in (plain, streamed):
        assert (told.stop_reason, told.stop_sequence) == (reason, stopped)


def without_run(message: Message) -> dict[str, Any]:
    """What is said, without what is another's for every run."""
    told = message.to_dict()
    return {name: told[name] for name in told if name not in ("id", "orchestration")}


# Over simulated providers.


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "claude", "thinking": THINKING},
        {"model": "gpt"},
        {"model": "claude", "tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"model": "council"},
    ],
)
async def test_a_streamed_message_is_the_plain_one(
    client: AsyncAnthropic, fields: dict[str, Any]
) -> None:
    """Whoever answers: a deployment that thinks, one that does not, one that calls, a panel."""
    fields = {"max_tokens": 4000, "messages": HELLO, **fields}
    seeded = {"extra_body": {"orchestration": {"cache": "off"}}}

    plain = await client.messages.create(**fields, **seeded)
    async with client.messages.stream(**fields, **seeded) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()

    assert plain.id.startswith("msg_")
    assert [block.type for block in final.content] == [block.type for block in plain.content]
    assert final.stop_reason == plain.stop_reason
    assert "".join(texts) == "".join(b.text for b in final.content if b.type == "text")
    if fields["model"] != "council":  # whose fences hold another nonce in every run
        assert without_run(final) == without_run(plain)


async def test_a_tool_goes_round(client: AsyncAnthropic) -> None:
    """Asked for, run by the caller, and its result understood; by another model as well."""
    first = await client.messages.create(
        model="claude",
        max_tokens=4000,
        messages=HELLO,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        thinking=THINKING,
    )
    (use,) = [block for block in first.content if block.type == "tool_use"]
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny, 21 degrees"}
    turn: Any = [
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]

    answers = [
        await client.messages.create(
            model=model, max_tokens=4000, messages=turn, tools=[WEATHER], thinking=THINKING
        )
        for model in ("claude", "gpt")
    ]

    assert first.stop_reason == "tool_use"
    assert use.input == {"city": "Paris"}
    for answer in answers:
        assert "sunny" in next(block.text for block in answer.content if block.type == "text")
        assert answer.to_dict()["orchestration"]["ignored"].keys() >= {"messages.thinking"}  # type: ignore[attr-defined]


async def test_the_tool_runner_runs_to_its_end(client: AsyncAnthropic) -> None:
    """It would have the server keep the conversation, and goes on without."""
    called: list[str] = []

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return "sunny, 21 degrees"

    runner = client.beta.messages.tool_runner(
        model="claude", max_tokens=400, messages=HELLO, tools=[weather], max_iterations=3
    )
    messages = [message async for message in runner]

    assert called == ["Paris"]
    assert [message.stop_reason for message in messages] == ["tool_use", "end_turn"]


@pytest.mark.parametrize("model", ["claude", "gpt"])
async def test_an_answer_may_have_to_fit_a_model(client: AsyncAnthropic, model: str) -> None:
    """Plain and streamed, whoever is asked."""

    class Person(BaseModel):
        name: str
        age: int

    fields: Any = {"model": model, "max_tokens": 400, "messages": HELLO, "output_format": Person}

    plain = await client.messages.parse(**fields)
    async with client.messages.stream(**fields) as stream:
        final = await stream.get_final_message()

    assert isinstance(plain.parsed_output, Person)
    assert final.parsed_output == plain.parsed_output


def test_the_synchronous_sdk_works_as_well() -> None:
    """Plain and streamed, from a thread without a loop."""
    simulator = Simulator()
    THREAD.run(simulator.start())
    door = Door(simulated(CONFIG, simulator))
    try:
        with Anthropic(
            api_key="none",
            base_url="http://orchestrator.invalid",
            max_retries=0,
            http_client=DefaultHttpxClient(transport=Through(door)),
        ) as client:
            plain = client.messages.create(model="claude", max_tokens=400, messages=HELLO)
            with client.messages.stream(model="claude", max_tokens=400, messages=HELLO) as stream:
                final = stream.get_final_message()
    finally:
        THREAD.run(door.aclose())
        THREAD.run(simulator.aclose())

    assert without_run(final) == without_run(plain)


# Over scripted ones.


async def test_what_is_asked_reaches_the_adapter() -> None:
    """The fields of a request, each in the words that adapters know."""
    async with Mocked("Sunny.") as mocked:
        await mocked.create(
            system=[{"type": "text", "text": "Be brief"}],
            stop_sequences=["END"],
            metadata={"user_id": "u1"},
            extra_body={"temperature": 0.5, "top_k": 5},
        )

    asked = mocked.asked
    assert asked.messages[0] == {"role": "system", "content": "Be brief"}
    assert (asked.max_tokens, asked.temperature, list(asked.stop or ())) == (2000, 0.5, ["END"])
    assert asked.extra == {"user": "u1", "top_k": 5}


async def test_the_reply_tells_of_the_run_beside_the_message() -> None:
    """In the body, and in the headers what was not used."""
    usage = Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=4)
    async with Mocked(Said(text="Sunny.", usage=usage)) as mocked:
        raw = await mocked.client.messages.with_raw_response.create(
            model="claude",
            max_tokens=100,
            messages=HELLO,
            cache_control={"type": "ephemeral"},
            workspace_id="w",
        )
        told = await raw.parse()

    assert raw.headers["x-orchestrator-ignored"] == "cache_control, anthropic-workspace-id"
    assert told.id == f"msg_{raw.headers['x-orchestrator-run-id']}"
    assert (told.usage.input_tokens, told.usage.cache_read_input_tokens) == (6, 4)
    assert told.to_dict()["orchestration"]["status"] == "complete"  # type: ignore[index]


async def test_inputs_of_parallel_tools_are_gathered_in_a_stream() -> None:
    """Each in its block; one without arguments is an empty object."""
    calls = (
        ToolCall(id="t1", name="weather", arguments='{"city": "Köln"}'),
        ToolCall(id="t2", name="now", arguments=""),
    )
    said = Said(tool_calls=calls, finish_reason="tool_calls")
    async with Mocked(said) as mocked, mocked.stream(tools=[WEATHER]) as stream:
        final = await stream.get_final_message()

    found = [(block.id, block.name, block.input) for block in final.content]
    assert found == [("t1", "weather", {"city": "Köln"}), ("t2", "now", {})]
    assert final.stop_reason == "tool_use"


async def test_a_stream_tells_its_events_in_anthropics_order() -> None:
    """The message begins, its block begins and ends, the message ends."""
    async with Mocked("Sun") as mocked:
        events = [event async for event in await mocked.create(stream=True)]

    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[-2].to_dict()["orchestration"]["status"] == "complete"


async def test_who_asks_for_progress_still_gets_a_message() -> None:
    """The SDK passes over what it does not know."""
    wish = {"orchestration": {"progress": True}}
    async with Mocked("Sunny.") as mocked, mocked.stream(extra_body=wish) as stream:
        final = await stream.get_final_message()

    assert final.content[0].text == "Sunny."


async def test_a_stream_that_is_left_ends_its_run() -> None:
    """Nothing goes on behind the back of who has closed it."""
    closed = asyncio.Event()

    class Watched(MockAdapter):
        async def stream(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
            try:
                async for chunk in super().stream(*args, **options):
                    yield chunk
            finally:
                closed.set()

    adapter = Watched([Said(text="word " * 50, gap_s=5.0)], deployment="claude")
    async with EnhancedOrchestrator(CONFIG, adapters={"claude": adapter}) as engine:
        client = sdk(Through(Endpoints(engine)))
        async with client.messages.stream(model="claude", max_tokens=100, messages=HELLO) as stream:
            await anext(aiter(stream.text_stream))

        assert closed.is_set()


# Errors.


@pytest.mark.parametrize(
    ("fields", "kind", "type_"),
    [
        ({"model": "cloude"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "me"}]}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"extra_body": {"mcp_servers": []}},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_cannot_be_served_is_the_sdks_own_error(
    fields: dict[str, Any], kind: type[anthropic.APIStatusError], type_: str, streamed: bool
) -> None:
    """With a status of its own, streamed or not, and no call made."""
    async with Mocked("Sunny.") as mocked:
        with pytest.raises(kind) as caught:
            await mocked.create(**fields, stream=streamed)

    assert caught.value.type == type_
    assert caught.value.response.json()["type"] == "error"
    assert mocked.adapter.requests == []


@pytest.mark.parametrize(
    ("error", "kind", "type_"),
    [
        (RateLimited("slow down", status_code=429), anthropic.RateLimitError, "rate_limit_error"),
        (
            ProviderUnavailable("overloaded", status_code=529),
            anthropic.InternalServerError,
            "overloaded_error",
        ),
    ],
)
async def test_a_providers_error_is_the_sdks_own(
    error: ProviderError, kind: type[anthropic.APIStatusError], type_: str
) -> None:
    """Of the class by which the SDK's users tell them apart."""
    async with Mocked(error) as mocked:
        with pytest.raises(kind) as caught:
            await mocked.create()

    assert caught.value.type == type_


async def test_a_stream_that_breaks_off_ends_in_an_error() -> None:
    """Never in half a message that looks whole."""
    async with Mocked(Said(text="Sunny in Paris", cut_after=8)) as mocked:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with mocked.stream() as stream:
                await stream.get_final_message()

    assert caught.value.type == "api_error"


async def test_a_key_may_ask_only_for_its_models() -> None:
    """By the model's name, and by those of the members and the synthesizer."""
    async with Mocked("Sunny.", may_ask=lambda name: name == "claude") as mocked:
        for fields in (
            {"model": "gpt"},
            {"extra_body": {"orchestration": {"members": ["gpt"]}}},
            {"extra_body": {"orchestration": {"synthesizer": "gpt"}}},
        ):
            with pytest.raises(anthropic.PermissionDeniedError):
                await mocked.create(**fields)

    assert mocked.adapter.requests == []


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/messages/batches", "POST", 404), ("/v1/messages", "GET", 405)],
)
async def test_what_is_not_there_is_said_in_anthropics_words(
    path: str, method: str, status: int
) -> None:
    """Its SDK asks for more than there is."""
    async with EnhancedOrchestrator(CONFIG) as engine:
        reply = await Endpoints(engine).answer(Call(method=method, path=path))

    assert reply.status == status
    assert isinstance(reply.body, bytes)
    assert reply.body.startswith(b'{"type":"error","error":{"type":')


async def test_the_gates_refusals_are_told_in_anthropics_words(tmp_path: Path) -> None:
    """And a key of the gateway's is taken where the SDK sends it."""
    keys = KeyFile(tmp_path / "keys.json")
    made = keys.create("tenant")
    adapter = MockAdapter(["Sunny."], deployment="claude")
    async with EnhancedOrchestrator(CONFIG, adapters={"claude": adapter}) as engine:
        app = create_app(engine, keys=keys, hosts=frozenset(("orchestrator.invalid",)))
        transport = httpx2.ASGITransport(app=app)
        fields: Any = {"model": "claude", "max_tokens": 100, "messages": HELLO}
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await sdk(transport, api_key="wrong").messages.create(**fields)
        told = await sdk(transport, api_key=made.key).messages.create(**fields)

    assert caught.value.type == "authentication_error"
    assert told.content[0].text == "Sunny."  # type: ignore[union-attr]


# Counting.


async def test_tokens_are_counted_without_a_call() -> None:
    """An estimate, said to be one, that grows with what is asked; pictures have an allowance."""
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    picture: Any = {"role": "user", "content": [{"type": "image", "source": source}]}
    async with Mocked("Sunny.") as mocked:
        count = mocked.client.messages.count_tokens
        short = await count(model="claude", messages=HELLO)
        longer = await count(model="claude", messages=HELLO * 50, tools=[WEATHER])
        pictured = await count(model="council", messages=[*HELLO, picture])

    assert 4 < short.input_tokens < longer.input_tokens
    assert pictured.input_tokens > short.input_tokens + 1000
    assert short.to_dict()["orchestration"] == {"estimated": True, "deployment": "claude"}
    assert mocked.adapter.requests == []


async def test_only_what_exists_can_be_counted_for() -> None:
    """The same errors as when it is asked."""
    async with Mocked("Sunny.") as mocked:
        with pytest.raises(anthropic.NotFoundError):
            await mocked.client.messages.count_tokens(model="cloude", messages=HELLO)
