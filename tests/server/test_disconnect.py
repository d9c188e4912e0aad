"""A client that hangs up: every call it caused ends within 250 ms, and nothing stays held."""

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
WITHIN_S = 0.25
ASKED = ("one", "two", "three")
TODAY = Scope(kind="global", every="day")


def configured(simulator: Simulator, ledger: Path, directive: str) -> OrchestratorConfig:
    models = {
        name: ModelConfig(
            provider="openai", model=name, price=PriceConfig(input_usd=1, output_usd=9)
        )
        for name in (*ASKED, "warm")
    }
    settings = OrchestratorConfig(
        models=models,
        panels={"all": PanelConfig(members=ASKED)},
        budgets=BudgetsConfig(windows=(WindowConfig(scope="global", every="day", money_usd=50),)),
        ledger=LedgerConfig(url=SecretStr(f"sqlite:///{ledger}")),
    )
    return simulated(settings, simulator, directives=dict.fromkeys(ASKED, (directive,)))


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not happens():  # noqa: ASYNC110 - it happens in somebody else's hands
            await asyncio.sleep(0.005)


async def until_nothing_is_held(ledger: Ledger) -> Amount:
    """Wait until every reservation is resolved; what was spent."""
    while True:
        (standing,) = await ledger.standing([TODAY])
        if standing.held == Amount():
            return standing.spent
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(("model", "calls"), [("one", 1), ("all", 3)])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_whoever_hangs_up_ends_every_call_and_settles(
    serving: Serving,
    simulator: Simulator,
    tmp_path: Path,
    model: str,
    calls: int,
    is_streamed: bool,
) -> None:
    """Plain or streamed, before the first word or in the middle of them."""
    file = tmp_path / "ledger.db"
    directive = "gap300ms" if is_streamed and model == "one" else "30000ms"
    config = configured(simulator, file, directive)
    async with serving(config=config) as gateway, Ledger(f"sqlite:///{file}") as ledger:
        assert (await gateway.chat(model="warm")).status_code == 200
        before = await until_nothing_is_held(ledger)
        asked = asyncio.create_task(gateway.chat(model=model, stream=is_streamed))
        await until(lambda: simulator.in_flight == calls)
        (standing,) = await ledger.standing([TODAY])
        began_s = time.monotonic()
        asked.cancel()
        await asyncio.wait({asked})
        async with asyncio.timeout(WITHIN_S):
            await simulator.settled()
        elapsed_s = time.monotonic() - began_s
        async with asyncio.timeout(5):
            spent = await until_nothing_is_held(ledger)
        await until(lambda: len(gateway.seen) == 2)

    print(f"ended {calls} calls {elapsed_s * 1000:.0f} ms after the client hung up")
    assert standing.held.money_nanousd > 0
    assert spent.money_nanousd > before.money_nanousd
    assert gateway.seen[-1].status == 499
