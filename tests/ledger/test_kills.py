"""Processes that share a ledger and are killed: nothing is overspent, lost or held for ever."""

import asyncio
import multiprocessing
import random
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from orchestrator.amounts import Amount
from orchestrator.ledger import Ledger
from tests.ledger.spender import ALL, KEYS, main

PROCESSES = 4
SCOPES = [ALL, *KEYS]


def started(url: str, provider: Path, seed: int) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ledger.spender"])
    process = context.Process(target=main, args=(url, str(provider), seed), daemon=True)
    process.start()
    return process


async def look(ledger: Ledger) -> int:
    """Nothing is over its limit, at this moment; how much is spent."""
    standings = await ledger.standing(SCOPES)
    for one in standings:
        assert one.scope.caps.exceeded_by(one.spent + one.held) is None, one
    return standings[0].spent.money_nanousd


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_four_processes_and_kills_at_random_overspend_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, thorough: bool
) -> None:
    """Never over a limit; after recovery nothing is held, and all that was called is paid."""
    url = request.getfixturevalue(f"{kind}_url")
    provider = tmp_path / "provider.log"
    kills = 200 if thorough else 20
    rng = random.Random(20)
    looks = 0

    async with Ledger(url, lock_wait_s=60) as ledger:
        processes = [started(url, provider, seed) for seed in range(PROCESSES)]
        try:
            for kill in range(kills):
                before = await look(ledger)
                for _ in range(rng.randrange(5, 30)):
                    await look(ledger)
                    looks += 1
                    await asyncio.sleep(0.005)
                place = rng.randrange(PROCESSES)
                processes[place].kill()
                await asyncio.to_thread(processes[place].join)
                processes[place] = started(url, provider, PROCESSES + kill)
                assert await look(ledger) >= before
        finally:
            for process in processes:
                process.kill()
                process.join()

    async with Ledger(url) as ledger:
        await look(ledger)
        standings = await ledger.standing(SCOPES)
        (total,) = await ledger.usage("model")
    called = [int(line) for line in provider.read_text().split()]
    print(
        f"{kind}: {kills} kills, {looks} looks, {len(called)} calls, {total.recovered} recovered; "
        f"called {sum(called)}, spent {total.cost_nanousd}"
    )

    assert {one.held for one in standings} == {Amount()}
    assert sum(called) <= standings[0].spent.money_nanousd == total.cost_nanousd
    assert standings[0].spent.money_nanousd == sum(one.spent.money_nanousd for one in standings[1:])
    assert len(called) <= total.calls <= len(called) + kills * 8 + PROCESSES * 8
    assert total.recovered > 0
