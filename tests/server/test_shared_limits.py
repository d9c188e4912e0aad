"""The limits of keys where several processes count them together in a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from orchestrator.clock import FakeClock
from orchestrator.server.keys import KeyRecord
from orchestrator.server.limits import KeyLimits, Load
from orchestrator.shared_windows import SharedWindows
from orchestrator.wire.errors import Refused
from tests.redis_server import RedisServer

ONE = Load(tokens=1)
STREAM = Load(tokens=1, is_streamed=True)
Process = Callable[..., KeyLimits]
numbers = count(1)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def process(redis_server: RedisServer) -> AsyncIterator[Process]:
    """Makes the limits of one more process."""
    async with AsyncExitStack() as stack:

        def make(url: str = redis_server.url) -> KeyLimits:
            shared = SharedWindows(url, timeout_s=60, clock=FakeClock(), processes=2)
            stack.push_async_callback(shared.aclose)
            return KeyLimits(FakeClock(), shared=shared, processes=2)

        yield make


def record(**given: Any) -> KeyRecord:
    """A key that nobody has used."""
    created = datetime(2026, 1, 1, tzinfo=UTC)
    key_id = f"{next(numbers):012x}"
    return KeyRecord(id=key_id, sha256="0" * 64, tenant="acme", created=created, **given)


async def refused(limits: KeyLimits, key: KeyRecord, load: Load) -> Refused:
    with pytest.raises(Refused) as found:
        await limits.admit(key, load)
    return found.value


async def test_a_minute_of_a_key_holds_for_all_processes(process: Process) -> None:
    """However many ask at once; the headers tell what all have left together."""
    crew, key = [process() for _ in range(3)], record(requests_per_minute=10)

    asked = [one.admit(key, ONE) for one in crew for _ in range(8)]
    told = await asyncio.gather(*asked, return_exceptions=True)

    left = [
        one.headers["x-ratelimit-remaining-requests"]
        for one in told
        if not isinstance(one, BaseException)
    ]
    over = [one for one in told if isinstance(one, Refused)]
    assert sorted(left, key=int) == [str(number) for number in range(10)]
    assert len(over) == 14
    assert {error.code for error in over} == {"rate_limit_exceeded"}
    assert all(1 <= int(error.headers["retry-after"]) <= 61 for error in over)
    assert {error.headers["x-ratelimit-limit-requests"] for error in over} == {"10"}


async def test_what_one_process_has_not_used_another_may(process: Process) -> None:
    """The estimate is taken from all, and what is left of it is given back to all."""
    one, other, key = process(), process(), record(tokens_per_minute=1000)
    with await one.admit(key, Load(tokens=900)) as ticket:
        assert "1,000 tokens a minute" in str(await refused(other, key, Load(tokens=101)))
        ticket.count(100)
    await one.admit(key, ONE)

    ticket = await other.admit(key, Load(tokens=899))

    assert ticket.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_open_streams_of_a_key_are_counted_together(process: Process) -> None:
    """One that has ended makes room for one of another process."""
    one, other, key = process(), process(), record(open_streams=2)
    first, _ = await one.admit(key, STREAM), await other.admit(key, STREAM)

    error = await refused(other, key, STREAM)
    first.leave()
    first.leave()
    await one.admit(key, ONE)
    ended = await one.admit(key, STREAM)

    assert (error.status, error.code) == (429, "too_many_streams")
    assert (await refused(other, key, STREAM)).code == "too_many_streams"
    ended.leave()


async def test_a_key_without_limits_is_not_asked_for_in_redis(process: Process) -> None:
    """Nor is who has no key; a request costs no way there and back for nothing."""
    limits = process("redis://127.0.0.1:9")
    await limits.admit(record(), ONE)
    await limits.admit(None, STREAM)

    assert limits._shared is not None
    assert not limits._shared.is_down


async def test_without_redis_a_key_has_its_share_in_each_process(process: Process) -> None:
    """Half of everything for one of two, and no request fails for that reason alone."""
    limits = process("redis://127.0.0.1:9")
    key = record(requests_per_minute=4, tokens_per_minute=1000, open_streams=2)
    first = await limits.admit(key, STREAM)

    streams = await refused(limits, key, STREAM)
    large = await refused(limits, key, Load(tokens=1001))
    first.count(0)
    first.leave()
    last = await limits.admit(key, Load(tokens=900))  # more than its share, and as it was before

    assert streams.code == "too_many_streams"
    assert large.code == "request_too_large"
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert last.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await refused(limits, key, ONE)).code == "rate_limit_exceeded"


async def test_workers_without_redis_each_have_their_share() -> None:
    """What a key may do at once is no more than it may, however many processes there are."""
    limits, key = KeyLimits(FakeClock(), processes=3), record(open_streams=7, requests_per_minute=1)

    await limits.admit(key, STREAM)

    assert (await refused(limits, key, ONE)).code == "rate_limit_exceeded"
    streams = record(open_streams=7)
    for _ in range(2):
        await limits.admit(streams, STREAM)
    assert (await refused(limits, streams, STREAM)).code == "too_many_streams"
