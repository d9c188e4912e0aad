"""`/v1/orchestrations`: runs in the orchestrator's own words, and their receipts."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters import MockAdapter, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import with_state
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.responses import Receipt


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    """Over two scripted models and a panel of them; receipts are kept."""
    config = OrchestratorConfig(
        models={
            name: ModelConfig(provider="openai", model=name)  # type: ignore[arg-type]
            for name in ("alpha", "beta")
        },
        panels={"both": {"members": ["alpha", "beta"], "pattern": "compare"}},  # type: ignore[dict-item]
    )
    mocks = {name: MockAdapter([f"I am {name}."]) for name in config.models}
    async with EnhancedOrchestrator(
        with_state(config), adapters=mocks, keeps_receipts=True
    ) as engine:
        yield Endpoints(engine)


def run(body: dict[str, Any], tenant: str = "", *allowed: str) -> Call:
    return Call(
        method="POST",
        path="/v1/orchestrations",
        body=json.dumps({"prompt": "Who are you?", **body}).encode(),
        tenant=tenant,
        may_ask=lambda name: not allowed or name in allowed,
    )


def told(reply: Reply) -> dict[str, Any]:
    assert isinstance(reply.body, bytes)
    read: dict[str, Any] = json.loads(reply.body)
    return read


async def test_a_run_comes_back_with_its_receipt_and_can_be_looked_up(
    endpoints: Endpoints,
) -> None:
    """By whom it belongs to, and by nobody else."""
    ended = await endpoints.answer(run({"model": "both"}, "ann"))
    run_id = told(ended)["receipt"]["run_id"]
    own = await endpoints.answer(
        Call(method="GET", path=f"/v1/orchestrations/{run_id}", tenant="ann")
    )
    other = await endpoints.answer(
        Call(method="GET", path=f"/v1/orchestrations/{run_id}", tenant="bob")
    )

    assert told(ended)["content"]
    assert ended.headers["x-orchestrator-run-id"] == run_id
    assert isinstance(own.body, bytes)
    assert Receipt.from_json(own.body).content == told(ended)["content"]
    assert other.status == 404


async def test_events_come_as_they_happen_and_end_in_the_answer(endpoints: Endpoints) -> None:
    """Each under its name, and `[DONE]` last."""
    reply = await endpoints.answer(run({"model": "both", "stream": True}))
    assert not isinstance(reply.body, bytes)
    pieces = b"".join([piece async for piece in reply.body]).decode().split("\n\n")[:-1]

    names = [piece.split("\n")[0].removeprefix("event: ") for piece in pieces]
    assert names[0] == "run_started"
    assert names[-2:] == ["run_finished", "data: [DONE]"]
    assert {"stage_started", "attempt_finished", "text_delta"} <= set(names)
    last = json.loads(pieces[-2].split("\n")[1].removeprefix("data: "))
    assert last["content"]
    assert last["receipt"]["model"] == "both"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tenant": "bob"}, "tenant"),
        ({"time_s": -1}, "time_s"),
        ({"prompt": 5}, "prompt"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"members": ["alpha"] * 33}, "members"),
        ({"model": "both", "members": ["alpha"] * 33}, "members"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"prompt": None, "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
async def test_what_is_wrong_is_told_by_its_path(
    endpoints: Endpoints, body: dict[str, Any], param: str
) -> None:
    """On whose behalf is not for the body to say."""
    reply = await endpoints.answer(run(body))

    assert reply.status == 400
    assert told(reply)["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "allowed", "status"),
    [
        ({}, ("both",), 200),  # the default
        ({}, ("alpha",), 403),
        ({"model": "alpha"}, ("alpha",), 200),
        ({"members": ["alpha", "beta"]}, ("alpha",), 403),
        ({"members": ["alpha", "beta"]}, ("alpha", "beta"), 200),
        ({"model": "both", "synthesizer": "beta"}, ("both",), 403),
    ],
)
async def test_a_key_is_held_to_its_models(
    endpoints: Endpoints, body: dict[str, Any], allowed: tuple[str, ...], status: int
) -> None:
    """Everybody whom a run names, or the default."""
    assert (await endpoints.answer(run(body, "", *allowed))).status == status


async def test_an_error_before_the_first_event_has_its_own_status(endpoints: Endpoints) -> None:
    """A name that nothing has is told as a whole reply."""
    reply = await endpoints.answer(run({"model": "nobody", "stream": True}))

    assert reply.status == 404
    assert told(reply)["error"]["code"] == "model_not_found"
