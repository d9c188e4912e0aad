"""The clock: real, and held by a test."""

import asyncio
import re
from datetime import UTC, datetime

import pytest

from orchestrator.clock import (
    FakeClock,
    SystemClock,
    make_rng,
    new_nonce,
    new_run_id,
    seed_of,
)


async def test_system_clock_tells_utc_and_never_steps_back() -> None:
    """Records need a zone, limits need a clock that only goes forward."""
    clock = SystemClock()
    before = clock.monotonic()

    await clock.sleep(0)

    assert clock.now().tzinfo is UTC
    assert clock.monotonic() >= before


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
async def test_the_first_that_is_done_ends_the_waiting(clock: SystemClock | FakeClock) -> None:
    """A wait for several ends with the first, whatever its limit."""
    gate = asyncio.Event()
    quick: asyncio.Future[object] = asyncio.ensure_future(asyncio.sleep(0))
    slow: asyncio.Future[object] = asyncio.ensure_future(gate.wait())

    assert await clock.first_done([quick, slow], 60) == {quick}
    gate.set()
    await slow


async def test_the_system_clock_stops_waiting_at_the_limit() -> None:
    """Nothing is done, and nobody waits longer."""
    gate = asyncio.Event()
    slow = asyncio.ensure_future(gate.wait())

    assert await SystemClock().first_done([slow], 0.005) == set()
    gate.set()
    await slow


async def test_a_fake_clock_stands_still_until_it_is_advanced() -> None:
    """The limit of a wait is over when the test says so, and not before."""
    clock, gate = FakeClock(), asyncio.Event()
    slow = asyncio.ensure_future(gate.wait())
    waiting = asyncio.ensure_future(clock.first_done([slow], 10))
    await asyncio.sleep(0)

    clock.advance(9.9)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)

    assert await waiting == set()
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
    gate.set()
    await slow


async def test_a_fake_sleep_costs_no_time() -> None:
    """Sleeping moves the fake clock on at once."""
    clock = FakeClock()

    await clock.sleep(3600)

    assert clock.monotonic() == 3600


def test_every_purpose_has_a_chance_of_its_own() -> None:
    """The same seed and purpose repeat; another purpose differs; no purpose is the plain seed."""
    draws = [make_rng(7, "labels").random(), make_rng(7, "labels").random()]

    assert draws[0] == draws[1]
    assert make_rng(7, "order", "gpt").random() != make_rng(7, "order", "claude").random()
    assert make_rng(7).random() == make_rng(7).random() != make_rng(8).random()


def test_run_ids_sort_by_time_and_cannot_be_guessed() -> None:
    """Two of one moment differ, and a later one sorts behind."""
    early, late = datetime(2026, 1, 2, 3, 4, 5, 6000, UTC), datetime(2026, 1, 2, 3, 4, 6, 0, UTC)

    assert re.fullmatch(r"20260102T030405006-[0-9a-f]{10}", new_run_id(early))
    assert new_run_id(early) != new_run_id(early)
    assert new_run_id(early) < new_run_id(late)


def test_nonces_and_seeds_are_random() -> None:
    """A nonce has 128 bits."""
    assert len(new_nonce()) == 32
    assert new_nonce() != new_nonce()
    assert 0 <= seed_of(new_run_id(FakeClock().now())) < 2**32
