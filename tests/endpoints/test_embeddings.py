"""`/v1/embeddings` as openai's own clients ask for it, in the process and over the gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from adapters import MockAdapter, ModelConfig
from orchestrator import AsyncOpenAI, EnhancedOrchestrator, OpenAI, OrchestratorConfig
from orchestrator.config import TenantWindow
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server.app import create_app
from orchestrator.simulator import Simulator, simulated
from tests.faces import simulated_elsewhere

PATH = "/v1/embeddings"
TEXTS = ["a tree", "a house", "a tree"]


def configured(simulator: Simulator) -> OrchestratorConfig:
    """Deployments of four providers, and a panel, which embeds nothing."""
    models = {
        "alpha": {"provider": "openai", "model": "text-embedding-3-small"},
        "beta": {"provider": "cohere", "model": "embed-v4.0"},
        "gamma": {"provider": "google", "model": "gemini-embedding-001"},
        "talker": {"provider": "anthropic", "model": "claude-haiku-4-5"},
        "gone": {"provider": "openai", "model": "missing-embedding"},
    }
    config = OrchestratorConfig.model_validate(
        {
            "models": models,
            "panels": {"all": {"members": ["alpha", "talker"]}},
            "retry": {"attempts": 1},
        }
    )
    return simulated(config, simulator)


@pytest.fixture(params=["in the process", "over the gateway"])
async def client(
    request: pytest.FixtureRequest, simulator: Simulator
) -> AsyncIterator[openai.AsyncOpenAI]:
    """openai's own client, over either way in."""
    config = configured(simulator)
    if request.param == "in the process":
        async with AsyncOpenAI(config=config) as dropped_in:
            yield dropped_in
        return
    async with EnhancedOrchestrator(config) as engine:
        transport = httpx.ASGITransport(create_app(engine))
        async with openai.AsyncOpenAI(
            api_key="k",
            base_url="http://localhost/v1",
            max_retries=0,
            http_client=httpx.AsyncClient(transport=transport),
        ) as stock:
            yield stock


@pytest.mark.parametrize("model", ["alpha", "beta", "gamma"])
async def test_the_stock_client_gets_vectors(client: openai.AsyncOpenAI, model: str) -> None:
    """It asks for base64 unless told otherwise, and both come to the same numbers."""
    packed = await client.embeddings.create(model=model, input=TEXTS, dimensions=8)
    plain = await client.embeddings.create(
        model=model, input=TEXTS, dimensions=8, encoding_format="float"
    )

    vectors = [one.embedding for one in packed.data]
    assert [one.index for one in packed.data] == [0, 1, 2]
    assert [len(vector) for vector in vectors] == [8, 8, 8]
    assert vectors[0] == vectors[2] != vectors[1]
    assert [one.embedding for one in plain.data] == vectors
    assert packed.model == model
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


async def test_one_text_and_tokens_are_inputs_too(client: openai.AsyncOpenAI) -> None:
    """All four shapes of OpenAI's."""
    inputs: list[Any] = ["a tree", ["a tree"], [1, 2, 3], [[1, 2, 3], [4]]]

    found = [await client.embeddings.create(model="alpha", input=one) for one in inputs]

    assert [len(one.data) for one in found] == [1, 1, 1, 2]
    assert found[0].data == found[1].data
    assert [one.usage.prompt_tokens for one in found[2:]] == [3, 4]


async def test_the_reply_tells_what_it_cost(client: openai.AsyncOpenAI) -> None:
    """In its headers and beside the vectors, as of a completion."""
    raw = await client.embeddings.with_raw_response.create(model="alpha", input=TEXTS)

    told = json.loads(raw.content)["orchestration"]
    assert raw.headers["x-orchestrator-status"] == told["status"] == "complete"
    assert raw.headers["x-orchestrator-run-id"] == told["run_id"]
    assert float(raw.headers["x-orchestrator-cost-usd"]) == told["cost_usd"] > 0
    assert told["calls"] == 1


@pytest.mark.parametrize(
    ("model", "given", "kind", "code"),
    [
        ("alhpa", "a", openai.NotFoundError, "model_not_found"),
        ("gone", "a", openai.NotFoundError, "model_not_found"),
        ("all", "a", openai.BadRequestError, "invalid_run"),
        ("talker", "a", openai.BadRequestError, "invalid_request"),
        ("beta", [1, 2], openai.BadRequestError, "invalid_request"),
        ("alpha", "", openai.BadRequestError, "invalid_value"),
    ],
)
async def test_errors_are_the_sdks_own(
    client: openai.AsyncOpenAI,
    model: str,
    given: Any,
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    """With OpenAI's words for them."""
    with pytest.raises(kind) as caught:
        await client.embeddings.create(model=model, input=given)

    assert caught.value.code == code


def test_the_synchronous_client_gets_them_too() -> None:
    """Through the loop's own thread."""
    with simulated_elsewhere() as simulator, OpenAI(config=configured(simulator)) as client:
        found = client.embeddings.create(model="alpha", input=TEXTS, dimensions=4)

    assert [len(one.embedding) for one in found.data] == [4, 4, 4]


# What a body may hold, and for whom.


def bench(**about: Any) -> tuple[EnhancedOrchestrator, MockAdapter]:
    config = OrchestratorConfig(
        models={"one": ModelConfig.model_validate({"provider": "openai", "model": "e", **about})}
    )
    mock = MockAdapter(config=config.models["one"])
    return EnhancedOrchestrator(config, adapters={"one": mock}), mock


async def ask(engine: EnhancedOrchestrator, body: Any, **about: Any) -> Reply:
    call = Call(method="POST", path=PATH, body=json.dumps(body).encode(), **about)
    return await Endpoints(engine).answer(call)


def error_of(reply: Reply) -> dict[str, Any]:
    assert isinstance(reply.body, bytes)
    found: dict[str, Any] = json.loads(reply.body)["error"]
    return found


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({}, "input", "Missing required parameter"),
        ({"input": None}, "input", "Invalid 'input'"),
        ({"input": {}}, "input", "Invalid 'input'"),
        ({"input": []}, "input", "nothing to embed in an empty array"),
        ({"input": [[]]}, "input[0]", "nothing to embed in an empty array"),
        ({"input": ["a", ""]}, "input[1]", "nothing to embed in an empty string"),
        ({"input": ["a", 1]}, "input[1]", "wanted a string, as the first"),
        ({"input": ["a", ["b"]]}, "input[1]", "wanted a string, as the first"),
        ({"input": [1, "a"]}, "input[1]", "wanted a token"),
        ({"input": [[1], "a"]}, "input[1]", "wanted a string, or an array of tokens"),
        ({"input": [[1, True]]}, "input[0][1]", "wanted a token"),
        ({"input": [1, -1]}, "input[1]", "wanted a token"),
        ({"input": [1.5]}, "input[0]", "wanted a string, or an array of tokens"),
        ({"input": ["a"] * 2049}, "input", "2049 inputs are more than 2048"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than 0"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "inputs": "b"}, "inputs", "did you mean 'input'"),
        ({"input": "a", "orchestration": {"pattern": "x"}}, "orchestration.pattern", "Unknown"),
    ],
)
async def test_a_body_that_cannot_be_served_is_refused(
    fields: dict[str, Any], param: str, why: str
) -> None:
    """By the exact path of what is wrong, before anybody is asked."""
    engine, mock = bench()
    async with engine:
        reply = await ask(engine, {"model": "one", **fields})

    told = error_of(reply)
    assert (reply.status, told["param"]) == (400, param)
    assert why in told["message"]
    assert not mock.embedded


async def test_as_many_inputs_as_openai_takes_are_taken() -> None:
    """2,048 of them, each with its vector."""
    engine, mock = bench()
    async with engine:
        reply = await ask(engine, {"model": "one", "input": ["a"] * 2048, "user": "me"})

    assert isinstance(reply.body, bytes)
    assert len(json.loads(reply.body)["data"]) == 2048
    assert mock.embedded[0].user == "me"


async def test_a_key_may_ask_only_for_its_models() -> None:
    """As for completions."""
    engine, mock = bench()
    async with engine:
        reply = await ask(engine, {"model": "one", "input": "a"}, may_ask=lambda _: False)

    assert (reply.status, error_of(reply)["code"]) == (403, "model_not_allowed")
    assert not mock.embedded


async def test_a_keys_tokens_and_money_are_counted() -> None:
    """What was used is told to its limits; what is over its budget is refused."""
    engine, mock = bench(price={"input_usd": 1, "output_usd": 1})
    counted: list[int] = []
    body = {"model": "one", "input": "four words of text"}
    async with engine:
        await ask(engine, body, tenant="ann", count=counted.append)
        poor = TenantWindow.model_validate({"every": "day", "money_usd": "0.00000001"})
        refused = await ask(engine, body, tenant="ann", tenant_windows=(poor,))

    assert counted == [4]
    assert (refused.status, error_of(refused)["code"]) == (429, "budget_exceeded")
    assert len(mock.embedded) == 1


async def test_a_request_may_bound_its_run() -> None:
    """Beside OpenAI's own fields, in `orchestration`."""
    engine, mock = bench()
    async with engine:
        bounds = {"max_run_tokens": 1, "tags": ["index"]}
        reply = await ask(engine, {"model": "one", "input": "a tree", "orchestration": bounds})

    assert error_of(reply)["code"] == "budget_exceeded"
    assert not mock.embedded


async def test_whoever_hangs_up_ends_the_call() -> None:
    """Nobody embeds for somebody who has gone."""
    engine, mock = bench()
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any, **__: Any) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    mock.embed = wait  # type: ignore[method-assign]
    async with engine:
        asking = asyncio.create_task(ask(engine, {"model": "one", "input": "a"}))
        async with asyncio.timeout(60):
            await began.wait()
            asking.cancel()
            await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking
