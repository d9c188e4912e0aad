"""`/v1/chat/completions` and `/v1/models` over an engine, without a socket."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from adapters import MockAdapter, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.events import Event, RunStarted

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    """Over two scripted models and a panel of them."""
    config = OrchestratorConfig(
        models={
            name: ModelConfig(provider="openai", model=name)  # type: ignore[arg-type]
            for name in ("alpha", "beta")
        },
        panels={"both": {"members": ["alpha", "beta"], "pattern": "compare"}},  # type: ignore[dict-item]
    )
    mocks = {name: MockAdapter([f"I am {name}."]) for name in config.models}
    async with EnhancedOrchestrator(config, adapters=mocks) as engine:
        yield Endpoints(engine)


def chat(body: dict[str, Any], *allowed: str) -> Call:
    return Call(
        method="POST",
        path="/v1/chat/completions",
        body=json.dumps({"model": "alpha", "messages": HELLO, **body}).encode(),
        may_ask=lambda name: not allowed or name in allowed,
    )


def told(reply: Reply) -> dict[str, Any]:
    assert isinstance(reply.body, bytes)
    read: dict[str, Any] = json.loads(reply.body)
    return read


@pytest.mark.parametrize(
    ("body", "allowed", "refused"),
    [
        ({}, ("alpha",), None),
        ({}, ("beta",), "alpha"),
        ({"model": "both"}, ("both",), None),
        ({"model": "both", "orchestration": {"members": ["beta"]}}, ("both",), "beta"),
        ({"model": "both", "orchestration": {"synthesizer": "beta"}}, ("both",), "beta"),
        ({"model": "fusion"}, ("fusion",), None),
        ({"model": "fusion"}, ("both",), "fusion"),
        (
            {"model": "fusion", "plugins": [{"id": "fusion", "analysis_models": ["alpha"]}]},
            ("fusion",),
            "alpha",
        ),
    ],
)
async def test_a_key_is_held_to_its_models_however_they_are_named(
    endpoints: Endpoints, body: dict[str, Any], allowed: tuple[str, ...], refused: str | None
) -> None:
    """As the model, a member, the writer, or in a plugin."""
    reply = await endpoints.answer(chat(body, *allowed))

    if refused is None:
        assert reply.status == 200
    else:
        assert reply.status == 403
        assert told(reply)["error"]["code"] == "model_not_allowed"
        assert repr(refused) in told(reply)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"orchestration": {"pattern": "nonesuch"}}, "orchestration.pattern"),
        ({"model": "nonesuch/both"}, "model"),
    ],
)
async def test_an_unknown_pattern_is_blamed_where_it_stands(
    endpoints: Endpoints, body: dict[str, Any], param: str
) -> None:
    """In the model's name, or in a field of its own."""
    reply = await endpoints.answer(chat({"model": "both", **body}))

    assert reply.status == 404
    assert told(reply)["error"]["param"] == param
    assert "Unknown pattern 'nonesuch'" in told(reply)["error"]["message"]


@pytest.mark.parametrize("path", ["compare/both", "compare%2Fboth"])
async def test_a_model_with_a_slash_is_found_as_it_is_and_quoted(
    endpoints: Endpoints, path: str
) -> None:
    """openai's client quotes it; people do not."""
    reply = await endpoints.answer(Call(method="GET", path=f"/v1/models/{path}"))

    assert told(reply)["id"] == "compare/both"


async def test_only_models_that_may_be_asked_are_listed(endpoints: Endpoints) -> None:
    """Another's are not there at all."""
    call = Call(method="GET", path="/v1/models", may_ask=lambda name: name == "beta")
    reply = await endpoints.answer(call)
    one = await endpoints.answer(
        Call(method="GET", path="/v1/models/alpha", may_ask=lambda name: name == "beta")
    )

    assert [model["id"] for model in told(reply)["data"]] == ["beta"]
    assert one.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
    ],
)
async def test_what_is_not_there_is_an_error_body(
    endpoints: Endpoints, method: str, path: str, status: int
) -> None:
    """With the methods that there are, where there are any."""
    reply = await endpoints.answer(Call(method=method, path=path))

    assert reply.status == status
    assert told(reply)["error"]["code"]
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages"),
    ],
)
async def test_whoever_comes_for_what_is_not_kept_is_told_so(
    endpoints: Endpoints, method: str, path: str
) -> None:
    """And where to look for what became of a run."""
    reply = await endpoints.answer(Call(method=method, path=path))

    assert reply.status == 404
    assert "are not stored" in told(reply)["error"]["message"]
    assert "/v1/orchestrations/{run_id}" in told(reply)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/chat/completions/", "There is nothing at /v1/chat/completions/"),
        ("/v1/responses/", "There is nothing at /v1/responses/"),
        ("/v1/responses/input_tokens", "/v1/messages/count_tokens counts the tokens of messages"),
        ("/v1/responses/compact", "send what is still wanted of it in 'input' to /v1/responses"),
        ("/v1/completions", "send messages to /v1/chat/completions"),
    ],
)
async def test_a_path_that_is_none_is_not_told_as_what_is_not_kept(
    endpoints: Endpoints, path: str, said: str
) -> None:
    """A slash too many, or another thing that OpenAI has there."""
    reply = await endpoints.answer(Call(method="POST", path=path))

    assert reply.status == 404
    assert told(reply)["error"]["message"].endswith(said)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/v1/chat/completions", "completions are not stored"),
        ("DELETE", "/v1/models/alpha", "said in the configuration"),
    ],
)
async def test_what_openai_does_at_a_path_and_the_gateway_does_not_is_told(
    endpoints: Endpoints, method: str, path: str, said: str
) -> None:
    """Why it cannot be, beside what can."""
    reply = await endpoints.answer(Call(method=method, path=path))

    assert reply.status == 405
    assert said in told(reply)["error"]["message"]


async def test_what_gave_way_for_a_budget_is_told_in_the_reply() -> None:
    """Shorter answers than were asked for, whether or not this one was cut."""
    config = OrchestratorConfig.model_validate(
        {
            "models": {
                "one": {
                    "provider": "openai",
                    "model": "m",
                    "price": {"input_usd": 1, "output_usd": 1},
                }
            },
            "budgets": {"per_run": {"money_usd": 0.01}},
        }
    )
    async with EnhancedOrchestrator(config, adapters={"one": MockAdapter(["Hi."] * 2)}) as engine:
        endpoints = Endpoints(engine)
        less = told(await endpoints.answer(chat({"model": "one", "max_tokens": 100_000})))
        as_asked = told(await endpoints.answer(chat({"model": "one", "max_tokens": 100})))

    assert "answers of one are cut at" in less["orchestration"]["shrunk"][0]
    assert "shrunk" not in as_asked["orchestration"]


async def test_what_was_ignored_stands_in_a_header_and_in_the_reply(endpoints: Endpoints) -> None:
    """Names in the one, reasons in the other."""
    reply = await endpoints.answer(chat({"store": True, "verbosity": "low"}))

    assert reply.headers["x-orchestrator-ignored"] == "store, verbosity"
    assert set(told(reply)["orchestration"]["ignored"]) == {"store", "verbosity"}


class Reluctant(EnhancedOrchestrator):
    """Its first run says nothing until its second has ended."""

    has_run = False
    has_ended: asyncio.Event

    async def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        is_first, self.has_run = not self.has_run, True
        async with aclosing(super().stream_request(request)) as events:
            async for event in events:
                if is_first and not isinstance(event, RunStarted):
                    await self.has_ended.wait()
                yield event
        if not is_first:
            self.has_ended.set()


async def test_choices_of_a_stream_begin_in_their_order() -> None:
    """Whichever run speaks first: the SDK's stream helper counts on it."""
    config = OrchestratorConfig(models={"alpha": ModelConfig(provider="openai", model="m")})
    mock = MockAdapter(["One.", "One."])
    async with Reluctant(config, adapters={"alpha": mock}) as engine:
        engine.has_ended = asyncio.Event()
        reply = await Endpoints(engine).answer(chat({"n": 2, "stream": True}))
        assert not isinstance(reply.body, bytes)
        written = b"".join([piece async for piece in reply.body]).decode()

    lines = [line.removeprefix("data: ") for line in written.splitlines() if line]
    chunks = [ChatCompletionChunk.model_validate_json(line) for line in lines[:-1]]
    helper = ChatCompletionStreamState()
    for chunk in chunks:
        helper.handle_chunk(chunk)
    begun = [one.index for chunk in chunks for one in chunk.choices if one.delta.role]
    assert begun == [0, 1]
    texts = [one.message.content for one in helper.get_final_completion().choices]
    assert texts == ["One.", "One."]
