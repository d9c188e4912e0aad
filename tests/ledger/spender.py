"""A process that spends from a ledger until it is killed, and writes down what it has called."""

import asyncio
import os
import random
from pathlib import Path

from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.errors import BudgetExceeded
from orchestrator.ledger import Ledger, UsageEntry

ALL = Scope(kind="global", every="month", caps=Caps(money_nanousd=3_000_000, calls=100_000))
KEYS = tuple(
    Scope(kind="key", name=f"k{n}", every="month", caps=Caps(money_nanousd=cap, tokens=10**9))
    for n, cap in enumerate((20_000, 1_000_000, 1_000_000, 2_000_000))  # the first is soon used up
)


def main(url: str, provider: str, seed: int) -> None:
    asyncio.run(spend(url, Path(provider), random.Random(seed)))


async def spend(url: str, provider: Path, rng: random.Random) -> None:
    # Each line is written at once and by itself, as a provider counts a call that reached it.
    counted = os.open(provider, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    async with Ledger(url, lock_wait_s=60) as ledger:

        async def call() -> None:
            while True:
                needed = Amount(money_nanousd=rng.randint(1, 1000), tokens=500, calls=1)
                try:
                    held = await ledger.reserve(needed, [rng.choice(KEYS), ALL], run_id="r")
                except BudgetExceeded:
                    continue
                if rng.random() < 0.1:
                    ledger.release(held)
                    continue
                cost = rng.randint(0, needed.money_nanousd)
                os.write(counted, f"{cost}\n".encode())
                await asyncio.sleep(rng.random() / 200)
                spent = Amount(money_nanousd=cost, tokens=rng.randint(0, 500), calls=1)
                ledger.settle(held, spent, UsageEntry(run_id="r", cost_nanousd=cost))

        await asyncio.gather(*(call() for _ in range(8)))
