"""The loop of the gateway waits for nothing but its sockets: else one request holds up all others.

How long its longest stall is depends on the machine; `tests/benchmarks/stalls.py` prints it.
"""

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters import LLMProvider, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import BudgetsConfig, CacheConfig, LedgerConfig, PanelConfig, RouteConfig
from orchestrator.config import WindowConfig as Window
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
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
