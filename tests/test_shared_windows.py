"""Rates counted in a real Redis: together by all processes, alone while it is gone."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import count, islice

import pytest

from adapters.config import RatesConfig
from orchestrator.clock import FakeClock, SystemClock
from orchestrator.errors import RateExceeded
from orchestrator.pacing import Pace
from orchestrator.shared_windows import CONNECTIONS, STREAMS, SharedWindows, Stream, Use, Verdict
from tests.redis_server import RedisServer

FAR_S = 10.0**9
PATIENT_S = 60.0
Windows = Callable[..., SharedWindows]
names = count(1)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def windows(redis_server: RedisServer) -> AsyncIterator[Windows]:
    """Makes windows as another process would; all are closed."""
    async with AsyncExitStack() as stack:

        def make(processes: int = 1, url: str = redis_server.url) -> SharedWindows:
            made = SharedWindows(url, timeout_s=PATIENT_S, clock=SystemClock(), processes=processes)
            made._process += str(next(names))  # as if it were another process
            stack.push_async_callback(made.aclose)
            return made

        yield make


@pytest.fixture
def name() -> str:
    """Of a window that nobody has used."""
    return f"window-{next(names)}"


def paced(name: str, shared: SharedWindows, **rates: int) -> Pace:
    return Pace(RatesConfig(**rates), SystemClock(), deployment=name, shared=shared)


async def let_in(paces: list[Pace], each: int, tokens: int = 1) -> int:
    """How many of so many calls at once by each enter without waiting."""
    entering = [pace.enter(tokens, 0.0) for pace in paces for _ in range(each)]
    results = await asyncio.gather(*entering, return_exceptions=True)
    assert all(isinstance(one, RateExceeded) for one in results if isinstance(one, Exception))
    return sum(not isinstance(one, BaseException) for one in results)


async def test_a_minute_holds_for_all_together(windows: Windows, name: str) -> None:
    """Whoever asks, and however many at once: what is let in is the rate, no more and no less."""
    paces = [paced(name, windows(), requests_per_minute=25) for _ in range(3)]

    assert await let_in(paces, 20) == 25


async def test_hundreds_at_once_need_few_connections(windows: Windows, name: str) -> None:
    """And none of them is turned away for want of one."""
    one = windows()

    verdicts = await asyncio.gather(*(one.take([Use(name, 150, 1)]) for _ in range(300)))

    assert sum(verdict is not None and verdict.full is None for verdict in verdicts) == 150
    assert None not in verdicts
    assert len(await one._client.client_list()) <= 4 * CONNECTIONS  # others' are open, too


async def test_a_loop_that_is_late_is_not_taken_for_a_redis_that_is(
    windows: Windows, name: str
) -> None:
    """What has come is read, though there was no time to look at it before the time was over."""
    one = windows()
    await one.take([])
    one._timeout_s = 0.001
    asking = asyncio.create_task(one.take([Use(name, 1, 1)]))
    while not asking.done():
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is held up on purpose
        await asyncio.sleep(0)

    assert (await asking) is not None
    assert not one.is_down


async def test_who_is_cancelled_while_redis_is_asked_leaves_no_harm(
    windows: Windows, name: str
) -> None:
    """The next one asks on a line that no old answer comes on."""
    one = windows()
    for turns in range(12):
        asking = asyncio.create_task(one.take([Use(name, 1000, 1)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        seen = await one.take([Use(f"{name}-{turns}", 7, 3), Use(f"{name}-{turns}b", 7, 5)])
        assert seen is not None
        assert [filled.used for filled in seen.filled] == [3, 5]


async def test_calls_at_once_do_not_wait_for_each_others_turn(windows: Windows, name: str) -> None:
    """Redis is asked for all that have room beside each other; no more go than may at a time."""
    shared = windows()
    pace = paced(name, shared, requests_per_minute=100, concurrency=5)
    asked, most = 0, 0
    take = shared.take

    async def watched(uses: Sequence[Use]) -> Verdict | None:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        try:
            return await take(uses)
        finally:
            asked -= 1

    shared.take = watched  # type: ignore[method-assign,assignment]
    entering = [asyncio.create_task(pace.enter(1, FAR_S)) for _ in range(8)]
    first = [await one for one in islice(asyncio.as_completed(entering), 5)]
    assert (most, pace.in_flight) == (5, 5)
    for slot in first:
        slot.leave("ok")

    assert len({id(slot) for slot in await asyncio.gather(*entering)}) == 8
    assert pace.in_flight == 3


async def test_all_or_nothing_is_used(windows: Windows, name: str) -> None:
    """A call for which there are no tokens takes no request; the verdict says which and when."""
    one = windows()
    uses = [Use(f"{name}:requests", 10, 1), Use(f"{name}:tokens", 100, 70)]

    first, second = await one.take(uses), await one.take(uses)

    assert first is not None
    assert second is not None
    assert (first.full, second.full) == (None, 1)
    assert [filled.used for filled in first.filled] == [1, 70]
    assert [filled.used for filled in second.filled] == [1, 70]
    assert 0 < second.wait_s <= 60.251


async def test_what_one_gives_back_another_uses(windows: Windows, name: str) -> None:
    """A correction is on its way before whoever makes it asks again."""
    one, other = windows(), windows()
    use = Use(name, 100, 100)
    taken = await one.take([use])
    assert taken is not None
    one.correct(name, taken.moment, -90)
    again = await one.take([Use(name, 100, 0)])
    full, fits = await other.take([Use(name, 100, 91)]), await other.take([Use(name, 100, 90)])

    assert again is not None
    assert full is not None
    assert fits is not None
    assert (again.filled[0].used, full.full, fits.full) == (10, 0, None)


async def test_a_call_that_was_not_sent_gives_back_all(windows: Windows, name: str) -> None:
    """Its request and its tokens are there for other processes, too."""
    one, other = (
        paced(name, windows(), requests_per_minute=1, tokens_per_minute=100) for _ in range(2)
    )
    (await one.enter(100, FAR_S)).leave("unsent")
    (await one.enter(60, FAR_S)).leave("ok", tokens_used=10)

    with pytest.raises(RateExceeded, match="used up its requests a minute"):
        await other.enter(90, 0.0)


async def test_who_waits_enters_when_another_process_makes_room(
    windows: Windows, name: str
) -> None:
    """Redis is asked again now and then: the room may come before what left it grows old."""
    first, second = windows(), windows()
    holds = await first.take([Use(f"tokens:{name}", 100, 100)])
    assert holds is not None
    clock = FakeClock()
    pace = Pace(RatesConfig(tokens_per_minute=100), clock, deployment=name, shared=second)
    entering = asyncio.create_task(pace.enter(50, FAR_S))
    while not clock._bells:  # noqa: ASYNC110 - it waits in line then
        await asyncio.sleep(0)
    first.correct(f"tokens:{name}", holds.moment, -100)
    await first.take([])
    clock.advance(1.0)

    assert (await entering).shared_moment is not None


async def test_what_is_older_than_a_minute_is_forgotten(windows: Windows, name: str) -> None:
    """By Redis' clock; nothing of it is left behind, and a correction of it makes no room."""
    one = windows()
    old = 1_000
    await one._client.hset(f"orchestrator:{name}", str(old), 100)

    verdict = await one.take([Use(name, 100, 100)])
    one.correct(name, old, -100)
    full = await one.take([Use(name, 100, 1)])

    assert verdict is not None
    assert full is not None
    assert (verdict.full, full.full) == (None, 0)
    assert await one._client.hlen(f"orchestrator:{name}") == 1
    assert 0 < await one._client.pttl(f"orchestrator:{name}") <= 60_251


async def test_streams_are_counted_together_and_a_lost_one_ends(
    windows: Windows, name: str
) -> None:
    """Who ends without a word is forgotten after the longest time that a stream may take."""
    one, other = windows(), windows()
    lost = await one.take([], Stream(name, "lost", 2, 0.001))
    assert lost is not None
    first = Stream(name, "first", 1, 600)
    while (taken := await one.take([], first)) is not None and taken.full == STREAMS:
        pass
    refused = await other.take([], Stream(name, "second", 1, 600))
    one.leave(first)
    await one.take([])
    let = await other.take([], Stream(name, "second", 1, 600))

    assert refused is not None
    assert let is not None
    assert (refused.full, let.full) == (STREAMS, None)


async def test_without_redis_each_counts_its_share(
    windows: Windows, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody fails and nobody waits; it is said once, and again when it has come back."""
    with RedisServer() as server, caplog.at_level(logging.WARNING):
        shared = [windows(url=server.url) for _ in range(2)]
        clock = FakeClock()
        for one in shared:
            one._clock = clock
        paces = [paced(name, one, requests_per_minute=10) for one in shared]
        for place in (0, 1, 0):  # each has heard of the other by then
            assert await let_in([paces[place]], 1) == 1
        server.kill()
        alone = [await let_in([pace], 20) for pace in paces]
        are_down = [one.is_down for one in shared]
        server.start()
        clock.advance(1.0)
        again = await let_in(paces, 20)

    assert alone == [3, 4]  # of the half that each has, what it had not used up before
    assert are_down == [True, True]
    assert not any(one.is_down for one in shared)
    assert again <= 10
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not answer" in line for line in said) == 2
    assert sum("answers again" in line for line in said) == 2


async def test_who_does_not_answer_is_not_waited_for(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Few find out at first, later one in a second, in the time that the configuration allows."""
    held = list[asyncio.StreamWriter]()
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    password = "hunter2hunter2"
    shared = SharedWindows(
        f"redis://:{password}@127.0.0.1:{port}", timeout_s=0.05, clock=FakeClock(), processes=4
    )
    pace = paced(name, shared, requests_per_minute=100)

    assert await let_in([pace], 100) == 25
    assert len(held) <= CONNECTIONS  # those that were on their way as the first found out
    assert "does not answer (no answer within 0.05 s)" in caplog.text
    assert password not in caplog.text
    await shared.aclose()
    for writer in held:
        writer.close()
        await writer.wait_closed()
    silent.close()
    await silent.wait_closed()
