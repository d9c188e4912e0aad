"""Many at once on few limits: never a unit too much, and none that could be had is refused."""

import asyncio
import random

import pytest

from orchestrator.amounts import DIMENSIONS, NANO, Amount, Caps, Scope
from orchestrator.clock import FakeClock
from orchestrator.errors import BudgetExceeded
from orchestrator.ledger import Ledger, UsageEntry

ONE_CALL = Amount(money_nanousd=3_000_000, tokens=700, calls=1, time_ms=1500)


@pytest.mark.parametrize("dimension", DIMENSIONS)
async def test_ten_thousand_at_once_use_a_limit_up_and_not_a_unit_more(
    file_url: str, clock: FakeClock, dimension: str
) -> None:
    """Where costs equal reservations, all of the limit can be had."""
    room = 4321
    cap = getattr(ONE_CALL, dimension) * (room + 1) - 1
    scope = Scope(kind="global", every="day", caps=Caps(**{dimension: cap}))
    refused = 0

    async with Ledger(file_url, clock) as ledger:

        async def call() -> None:
            nonlocal refused
            try:
                reservation = await ledger.reserve(ONE_CALL, [scope])
            except BudgetExceeded:
                refused += 1
            else:
                ledger.settle(reservation, ONE_CALL)

        await asyncio.gather(*(call() for _ in range(10_000)))
        await ledger.drain()
        (standing,) = await ledger.standing([scope])

    assert refused == 10_000 - room
    assert standing.spent == ONE_CALL.times(room)
    assert standing.held == Amount()


async def test_nested_limits_hold_through_random_costs_failures_and_cancellations(
    file_url: str, clock: FakeClock, thorough: bool
) -> None:
    """At every look nothing is over its limit; at rest nothing is held, and the sums are exact."""
    rng = random.Random(7)
    calls = 100_000 if thorough else 10_000
    runs = [
        Scope(kind="run", name=f"r{n}", caps=Caps(money_nanousd=NANO, calls=60)) for n in range(99)
    ]
    keys = [
        Scope(kind="key", name=name, every="day", caps=Caps(tokens=900_000, time_ms=4_000_000))
        for name in ("alice", "bob", "carol")
    ]
    rest = [
        Scope(kind="deployment", name="gpt", every="hour", caps=Caps(money_nanousd=40 * NANO)),
        Scope(kind="global", every="month", caps=Caps(money_nanousd=45 * NANO, calls=6000)),
    ]
    scopes = [*runs, *keys, *rest]
    counted = {scope: Amount() for scope in scopes}
    looks = 0

    async with Ledger(file_url, clock) as ledger:

        async def look() -> None:
            nonlocal looks
            for standing in await ledger.standing(scopes):
                used_up = standing.spent + standing.held
                assert standing.scope.caps.exceeded_by(used_up) is None, standing
            looks += 1

        async def call(number: int) -> None:
            mine = [runs[number % len(runs)], keys[number % len(keys)], *rest]
            needed = Amount(
                money_nanousd=rng.randrange(1, 30_000_000),
                tokens=rng.randrange(1, 900),
                calls=1,
                time_ms=rng.randrange(1, 3000),
            )
            fate = rng.random()
            reserving = asyncio.ensure_future(ledger.reserve(needed, mine))
            if fate < 0.1:
                for _ in range(rng.randrange(9)):
                    await asyncio.sleep(0)
                if reserving.cancel():
                    await asyncio.wait([reserving])
                    return
            try:
                reservation = await reserving
            except BudgetExceeded:
                return
            if fate < 0.2:
                ledger.release(reservation)
                return
            spent = Amount(**{name: rng.randint(0, getattr(needed, name)) for name in DIMENSIONS})
            ledger.settle(reservation, spent, UsageEntry(cost_nanousd=spent.money_nanousd))
            for scope in mine:
                counted[scope] += spent
            if number % 50 == 0:
                await look()

        for start in range(0, calls, 1000):
            await asyncio.gather(*(call(number) for number in range(start, start + 1000)))
            await look()
        await ledger.drain()
        standings = await ledger.standing(scopes)
        (total,) = await ledger.usage("model")

    assert looks > calls // 1000
    assert {standing.held for standing in standings} == {Amount()}
    assert {standing.scope: standing.spent for standing in standings} == counted
    assert total.cost_nanousd == counted[rest[1]].money_nanousd
