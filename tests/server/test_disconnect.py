"""A client that hangs up: every call it caused ends, and nothing stays held."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from adapters import ModelConfig
from adapters.config import PriceConfig
from orchestrator import OrchestratorConfig
from orchestrator.amounts import Amount, Scope
from orchestrator.config import BudgetsConfig, LedgerConfig, PanelConfig, WindowConfig
from orchestrator.ledger import Ledger
from orchestrator.simulator import Simulator, simulated

Serving = Callable[..., AbstractAsyncContextManager[Any]]
AT_MOST_S = 60  # only ends a test that hangs
SLOW = ("one", "two", "three")
TODAY = Scope(kind="global", every="day")


def configured(simulator: Simulator, ledger: Path, writes: str) -> OrchestratorConfig:
    """Panels that are left before any member has answered, after some have, and as one writes."""
    models = {
        name: ModelConfig(
            provider="openai", model=name, price=PriceConfig(input_usd=1, output_usd=9)
        )
        for name in (*SLOW, "writes", "warm", "quick")
    }
    panels = {
        "begun": PanelConfig(members=SLOW, pattern="compare"),
        "half": PanelConfig(members=("warm", "two", "three"), pattern="compare"),
        "written": PanelConfig(members=("warm", "quick"), pattern="compare", synthesizer="writes"),
    }
    settings = OrchestratorConfig(
        models=models,
        panels=panels,
        budgets=BudgetsConfig(windows=(WindowConfig(scope="global", every="day", money_usd=50),)),
        ledger=LedgerConfig(url=SecretStr(f"sqlite:///{ledger}")),
    )
    directives = {**dict.fromkeys(SLOW, ("600s",)), "writes": (writes,)}
    return simulated(settings, simulator, directives=directives)


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(AT_MOST_S):
        while not happens():  # noqa: ASYNC110 - it happens in somebody else's hands
            await asyncio.sleep(0.005)


async def until_nothing_is_held(ledger: Ledger) -> Amount:
    """Wait until every reservation is resolved; what was spent."""
    while True:
        (standing,) = await ledger.standing([TODAY])
        if standing.held == Amount():
            return standing.spent
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("model", "answered", "calls"), [("begun", 0, 3), ("half", 1, 2), ("written", 2, 1)]
)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_whoever_hangs_up_ends_every_call_and_settles(
    serving: Serving,
    simulator: Simulator,
    tmp_path: Path,
    model: str,
    answered: int,
    calls: int,
    is_streamed: bool,
) -> None:
    """Plain or streamed, before the first answer, between them, and as they are put into one."""
    file = tmp_path / "ledger.db"
    config = configured(simulator, file, "gap600s" if is_streamed else "600s")
    async with serving(config=config) as gateway, Ledger(f"sqlite:///{file}") as ledger:
        assert (await gateway.chat(model="warm")).status_code == 200
        before = await until_nothing_is_held(ledger)
        asked = asyncio.create_task(gateway.chat(model=model, stream=is_streamed))
        await until(
            lambda: simulator.in_flight == calls and len(simulator.requests) == 1 + answered
        )
        (standing,) = await ledger.standing([TODAY])
        began_s = time.monotonic()
        asked.cancel()
        await asyncio.wait({asked})
        async with asyncio.timeout(AT_MOST_S):
            await simulator.settled()
        elapsed_s = time.monotonic() - began_s
        async with asyncio.timeout(AT_MOST_S):
            spent = await until_nothing_is_held(ledger)
        await until(lambda: len(gateway.seen) == 2)

    print(f"ended {calls} calls {elapsed_s * 1000:.0f} ms after the client hung up")
    assert [one.closed_by_client for one in simulator.requests] == [
        *[False] * (1 + answered),
        *[True] * calls,
    ]
    assert standing.held.money_nanousd > 0
    assert spent.money_nanousd > before.money_nanousd
    assert gateway.seen[-1].status == 499
