"""The loop of the gateway waits for nothing but its sockets: else one request holds up all others.

How long its longest stall is depends on the machine; `tests/benchmarks/stalls.py` prints it.
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters import LLMProvider, MockAdapter, ModelConfig
from adapters.mock import Reply
from adapters.types import Completion, Usage
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.cache import LARGEST, MOST_PIECES, PIECE, replay
from orchestrator.config import BudgetsConfig, CacheConfig, LedgerConfig, PanelConfig, RouteConfig
from orchestrator.config import WindowConfig as Window
from orchestrator.server import gate as gate_module
from orchestrator.server import keyed
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keyed import LARGE_BYTES
from orchestrator.server.keys import KeyFile
from orchestrator.server.limits import Load, load_of
from orchestrator.simulator import Simulator, simulated
from tests.asking import JSON_KIND, ask
from tests.mangling import BODIES
from tests.watching import waits

PAGES = ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing")


@pytest.fixture
async def gate(simulator: Simulator, keys: KeyFile) -> AsyncIterator[Gate]:
    """A gateway with keys, ledger, cache and budgets, and with providers over sockets."""
    config = OrchestratorConfig(
        models={
            "one": ModelConfig(provider=LLMProvider.OPENAI, model="gpt-5-mini"),
            "two": ModelConfig(provider=LLMProvider.ANTHROPIC, model="claude-haiku-4-5"),
        },
        routes={"way": RouteConfig(models=("one", "two"))},
        panels={"all": PanelConfig(members=("one", "two"))},
        ledger=LedgerConfig(),
        cache=CacheConfig(),
        budgets=BudgetsConfig(windows=(Window(scope="global", every="day", money_usd=10**6),)),
    )
    async with EnhancedOrchestrator(simulated(config, simulator), keeps_receipts=True) as engine:
        yield create_app(engine, keys=keys)


async def everything(gate: Gate, key: str, turn: int) -> set[int]:
    """Ask every endpoint for everything, whole and streamed; the statuses of the replies."""
    head, statuses = {**JSON_KIND, "authorization": f"Bearer {key}"}, set()
    for path, bodies in BODIES.items():
        for place, body in enumerate(bodies):
            once = {} if body.get("stream") else {"idempotency-key": f"{turn}{path}{place}"}
            said = await ask(gate, "POST", path, json.dumps(body).encode(), {**head, **once})
            statuses.add(said.status)
    for path in PAGES:
        statuses.add((await ask(gate, "GET", path, headers=head)).status)
    return statuses


async def test_a_large_body_is_measured_in_a_thread(
    gate: Gate, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one is not: to hand it over would take longer."""
    head = {**JSON_KIND, "authorization": f"Bearer {keys.create('alice').key}"}
    threads: dict[bool, set[int]] = {False: set(), True: set()}

    def measured(body: bytes) -> Load:
        threads[len(body) >= LARGE_BYTES].add(threading.get_ident())
        return load_of(body)

    monkeypatch.setattr(keyed, "load_of", measured)
    for size in (1, LARGE_BYTES):
        message = {"role": "user", "content": "w" * size}
        body = json.dumps({"model": "nobody", "messages": [message]}).encode()
        said = await ask(gate, "POST", "/v1/chat/completions", body, head)
        assert said.status == 404

    assert threads[False] == {threading.get_ident()}
    assert threads[True].isdisjoint(threads[False])
    assert len(threads[True]) == 1


def test_an_answer_of_any_length_is_handed_on_in_few_pieces() -> None:
    """A plain one comes all at once, and whoever streams it waits for none of them."""
    text = "w" * (2 * PIECE * MOST_PIECES + 1)
    answer = Completion(text=text, finish_reason="stop", model="m", usage=Usage())
    pieces = [chunk.text for chunk in replay(answer)]

    assert "".join(pieces) == text
    assert len(pieces) <= MOST_PIECES + 1


@pytest.mark.parametrize(("characters", "asked"), [(LARGEST, 1), (LARGEST + 1, 2)])
async def test_an_answer_that_takes_long_to_read_is_not_cached(characters: int, asked: int) -> None:
    """For the loop waits while one is read."""
    config = ModelConfig(provider=LLMProvider.CUSTOM, model="m", api_base="http://a", price="free")
    said = Reply(text="w" * characters, usage=Usage(completion_tokens=9))
    one = MockAdapter([said], config=config, deployment="one", chunk_characters=2**20)
    told = OrchestratorConfig(models={"one": config}, cache=CacheConfig())
    async with EnhancedOrchestrator(told, adapters={"one": one}) as engine:
        for _ in range(2):
            response = await engine.execute_request(RequestConfig(prompt="Hi", model="one"))
            assert len(response.content) == characters

    assert len(one.requests) == asked


async def test_garbage_is_looked_for_when_nothing_is_under_way(
    gate: Gate, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while others are answered, nor for whoever is turned away."""
    head = {"authorization": f"Bearer {keys.create('alice').key}"}
    under_way: list[int] = []
    monkeypatch.setattr(gate_module, "rest", lambda: under_way.append(gate.admission.in_flight))

    with gate.admission.request():
        await ask(gate, "GET", "/docs", headers=head)
    await ask(gate, "GET", "/docs")
    assert under_way == []
    await asyncio.gather(*(ask(gate, "GET", "/docs", headers=head) for _ in range(5)))

    assert set(under_way) == {0}


async def test_no_request_makes_the_loop_wait(gate: Gate, keys: KeyFile, tmp_path: Path) -> None:
    """No file, no database and no name, once what is read only once has been read."""
    key = keys.create("alice").key
    await everything(gate, key, turn=0)

    with waits() as noticed:
        statuses = await everything(gate, key, turn=1)

    assert noticed == []
    assert {200, 404} <= statuses
    with waits() as noticed:
        (tmp_path / "x").write_text("x")
        sqlite3.connect(tmp_path / "y").close()
    assert len(noticed) == 2
