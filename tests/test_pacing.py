"""The pace: rates are kept in any minute, waits are exact, lines are fair, 429s are heeded."""

import asyncio
import sys
from asyncio import Task
from collections.abc import Coroutine, Iterable
from contextlib import closing
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.config import RatesConfig
from orchestrator.clock import FakeClock, SystemClock
from orchestrator.errors import RateExceeded
from orchestrator.pacing import MINUTE_MS, MOMENT_MS, PAUSE_MAX_S, Ending, Pace, Slot

FAR_S = 10**6


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def paced(
    clock: FakeClock | SystemClock,
    *,
    requests: int | None = None,
    tokens: int | None = None,
    at_a_time: int | None = None,
) -> Pace:
    rates = RatesConfig(
        requests_per_minute=requests, tokens_per_minute=tokens, concurrency=at_a_time
    )
    return Pace(rates, clock, deployment="gpt")


async def quiet() -> None:
    """Let everyone who can go on do so: each in a line needs a few turns of the loop."""
    for _ in range(200):
        await asyncio.sleep(0)


async def waiting(pace: Pace, tokens: int = 1, until_s: float = FAR_S) -> Task[Slot]:
    """A call that came and found no room."""
    task = asyncio.create_task(pace.enter(tokens, until_s))
    await quiet()
    assert not task.done()
    return task


async def enter(pace: Pace, count: int, tokens: int = 1) -> list[Slot]:
    """Calls that need not wait, not even for a turn of the loop."""
    return [at_once(pace.enter(tokens, FAR_S)) for _ in range(count)]


def at_once(entering: Coroutine[Any, Any, Slot]) -> Slot:
    with closing(entering), pytest.raises(StopIteration) as ended:
        entering.send(None)
    slot = ended.value.value
    assert isinstance(slot, Slot)
    return slot


async def refusal(task: Task[Slot]) -> RateExceeded:
    """Why a call was turned away, by now."""
    await quiet()
    assert task.done()
    error = task.exception()
    assert isinstance(error, RateExceeded)
    return error


async def refused(pace: Pace, until_s: float, tokens: int = 1) -> RateExceeded:
    """Why a call is turned away at once."""
    return await refusal(asyncio.create_task(pace.enter(tokens, until_s)))


def leave(slots: Iterable[Slot], ending: Ending = "ok") -> None:
    for slot in slots:
        slot.leave(ending)


async def cancel(task: Task[Slot]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def waiting_is_needed(pace: Pace, tokens: int) -> None:
    """Nothing of that size fits now."""
    await cancel(await waiting(pace, tokens=tokens))


async def test_nothing_is_slow_where_nothing_is_limited(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of calls enter at once, and pyrate-limiter is not even loaded."""
    monkeypatch.setitem(sys.modules, "pyrate_limiter", None)
    pace = paced(clock)

    slots = await enter(pace, 300, tokens=10**9)

    assert pace.in_flight == 300
    leave(slots)
    assert pace.in_flight == 0


async def test_a_request_too_many_waits_until_the_first_is_a_minute_old(clock: FakeClock) -> None:
    """Not a millisecond less, and not two more."""
    pace = paced(clock, requests=2)
    leave(await enter(pace, 1))
    clock.advance(20)
    leave(await enter(pace, 1))
    third = await waiting(pace)

    clock.advance(40)
    await quiet()
    assert not third.done()
    clock.advance(0.001)
    await quiet()

    assert third.done()
    (await third).leave("ok")


async def test_a_minute_is_over_when_its_last_millisecond_is(clock: FakeClock) -> None:
    """Clocks are read in milliseconds: sixty seconds by ours may be less by the provider's."""
    pace = paced(clock, requests=1)
    leave(await enter(pace, 1))
    clock.advance(60)

    assert (await refused(pace, until_s=60)).retry_after_s == 0.001


async def test_tokens_wait_for_as_many_as_they_need(clock: FakeClock) -> None:
    """A large call waits for two others to leave the minute, a small one for one."""
    pace = paced(clock, tokens=1000)
    for _ in range(2):
        leave(await enter(pace, 1, tokens=400))
        clock.advance(10)
    large = await waiting(pace, tokens=700)

    clock.advance(45)  # the first 400 are gone; 600 fit
    await quiet()
    assert not large.done()
    clock.advance(5.001)
    await quiet()

    assert large.done()


async def test_a_wait_that_is_too_long_is_refused_at_once(clock: FakeClock) -> None:
    """Whoever has 59 seconds left does not lose them: there may be another deployment."""
    pace = paced(clock, requests=1)
    leave(await enter(pace, 1))

    with pytest.raises(
        RateExceeded, match=r"requests a minute; there is room in 60\.0 s"
    ) as refused:
        await pace.enter(1, until_s=59)

    assert refused.value.deployment == "gpt"
    assert refused.value.retry_after_s == 60.001
    assert clock.monotonic() == 0


async def test_the_line_counts_as_part_of_the_wait(clock: FakeClock) -> None:
    """Two fit a minute and four wait: the fifth would have to wait for two minutes and more."""
    pace = paced(clock, requests=2)
    leave(await enter(pace, 2))
    line = [await waiting(pace) for _ in range(4)]

    error = await refused(pace, until_s=150)

    assert error.retry_after_s == pytest.approx(180, abs=0.01)
    for task in line:
        await cancel(task)


async def test_the_tokens_of_the_line_count_too(clock: FakeClock) -> None:
    """The small call would fit now, but the large one before it fits only after a minute."""
    pace = paced(clock, tokens=1000)
    leave(await enter(pace, 1, tokens=300))
    line = await waiting(pace, tokens=900)

    error = await refused(pace, until_s=30, tokens=50)

    assert error.retry_after_s == 60.001
    await cancel(line)


async def test_a_call_larger_than_a_minute_is_refused(clock: FakeClock) -> None:
    """No wait makes room for it."""
    pace = paced(clock, tokens=1000)

    error = await refused(pace, FAR_S, tokens=1001)

    assert str(error) == "gpt may use 1,000 tokens a minute; a call of 1,001 never fits"
    assert error.retry_after_s is None
    leave(await enter(pace, 1, tokens=1000))


async def test_tokens_that_were_not_used_are_given_back(clock: FakeClock) -> None:
    """Whoever waits for them enters as soon as they are."""
    pace = paced(clock, tokens=1000)
    slot = await pace.enter(1000, FAR_S)
    second = await waiting(pace, tokens=900)

    slot.leave("ok", tokens_used=100)
    await quiet()

    assert second.done()
    (await second).leave("ok", tokens_used=900)
    await waiting_is_needed(pace, tokens=1)


async def test_tokens_beyond_the_estimate_are_made_up_for(clock: FakeClock) -> None:
    """The next calls wait for what the last one took too much."""
    pace = paced(clock, tokens=1000)
    (await pace.enter(100, FAR_S)).leave("ok", tokens_used=5000)

    second = await waiting(pace, tokens=1)
    clock.advance(60.001)
    await quiet()

    assert second.done()


async def test_a_correction_that_comes_after_a_minute_changes_nothing(clock: FakeClock) -> None:
    """What it would correct has been forgotten: nothing is given back twice, nothing owed."""
    pace = paced(clock, tokens=1000)
    slots = await enter(pace, 2, tokens=500)
    clock.advance(60.001)
    leave(await enter(pace, 1, tokens=600))

    slots[0].leave("ok", tokens_used=0)
    await waiting_is_needed(pace, tokens=401)
    slots[1].leave("ok", tokens_used=10**12)

    leave(await enter(pace, 1, tokens=400))


async def test_no_more_is_given_back_than_was_taken(clock: FakeClock) -> None:
    """A provider that reports less than nothing makes no room for others."""
    pace = paced(clock, tokens=1000)
    slots = await enter(pace, 2, tokens=500)

    slots[0].leave("ok", tokens_used=-500)

    await waiting_is_needed(pace, tokens=501)
    leave(await enter(pace, 1, tokens=500))


async def test_a_use_nobody_knows_counts_as_estimated(clock: FakeClock) -> None:
    """A call that broke may have used all of it."""
    pace = paced(clock, tokens=1000)
    (await pace.enter(1000, FAR_S)).leave("other")

    await waiting_is_needed(pace, tokens=1)


async def test_a_call_that_was_not_sent_used_nothing(clock: FakeClock) -> None:
    """Another guard refused it: its request and its tokens are there for the next."""
    pace = paced(clock, requests=1, tokens=1000)
    (await pace.enter(1000, FAR_S)).leave("unsent")

    leave(await enter(pace, 1, tokens=1000))

    await waiting_is_needed(pace, tokens=1)


async def test_a_slot_is_left_once(clock: FakeClock) -> None:
    """A second time, on the way out of a `finally`, frees and gives back nothing."""
    pace = paced(clock, tokens=1000)
    first, _second = await enter(pace, 2, tokens=500)

    first.leave("ok", 500)
    for _ in range(3):
        first.leave("unsent")

    assert pace.in_flight == 1
    await waiting_is_needed(pace, tokens=1)


async def test_the_line_is_served_in_order(clock: FakeClock) -> None:
    """Not even one who comes as a place gets free is before those who wait."""
    pace = paced(clock, at_a_time=1)
    slot = await pace.enter(1, FAR_S)
    line = [await waiting(pace) for _ in range(3)]

    served = []
    slot.leave("ok")
    line.append(asyncio.create_task(pace.enter(1, FAR_S)))
    for _ in range(4):
        await quiet()
        (index,) = (index for index, task in enumerate(line) if task.done() and index not in served)
        served.append(index)
        (await line[index]).leave("ok")

    assert served == [0, 1, 2, 3]


async def test_only_the_first_in_line_watches_the_clock(clock: FakeClock) -> None:
    """Else a thousand would look at every room that gets free for one."""
    pace = paced(clock, requests=1)
    leave(await enter(pace, 1))
    line = [await waiting(pace) for _ in range(3)]

    assert [at_s for at_s, _ in clock._bells] == [60.001, FAR_S, FAR_S]
    for task in line:
        await cancel(task)


async def test_a_small_call_does_not_overtake_a_large_one(clock: FakeClock) -> None:
    """Else the large one would wait for ever on a busy deployment."""
    pace = paced(clock, tokens=1000)
    leave(await enter(pace, 1, tokens=400))
    large = await waiting(pace, tokens=1000)

    small = await waiting(pace, tokens=1)

    clock.advance(60.001)
    await quiet()
    assert large.done()
    assert not small.done()
    await cancel(small)


async def test_a_place_that_does_not_get_free_is_refused_at_the_deadline(clock: FakeClock) -> None:
    """How long calls take is not known before, so there is nothing to refuse at once."""
    pace = paced(clock, at_a_time=1)
    slot = await pace.enter(1, FAR_S)
    first, second = await waiting(pace, until_s=10), await waiting(pace, until_s=10)

    clock.advance(10)

    for task in (first, second):
        assert "there was no room in time" in str(await refusal(task))
    slot.leave("ok")
    leave(await enter(pace, 1))


async def test_a_deadline_that_has_passed_refuses_nobody_who_need_not_wait(
    clock: FakeClock,
) -> None:
    """The pace guards rates; whoever keeps the deadline looks at it himself."""
    pace = paced(clock, at_a_time=1)
    clock.advance(10)

    slot = await pace.enter(1, until_s=5)

    await refused(pace, until_s=5)
    slot.leave("ok")


async def test_a_429_halves_the_calls_at_a_time(clock: FakeClock) -> None:
    """Half of what was under way, however high the limit was."""
    pace = paced(clock, at_a_time=100)
    slots = await enter(pace, 12)

    slots[0].leave("rate_limited")

    assert pace.limit == 6
    leave(slots)


async def test_calls_refused_together_halve_it_once(clock: FakeClock) -> None:
    """The eight were sent before anything was known; the next refusal is news."""
    pace = paced(clock)
    leave(await enter(pace, 8), "rate_limited")
    assert pace.limit == 4

    leave(await enter(pace, 4), "rate_limited")
    assert pace.limit == 2


async def test_at_least_one_call_goes_at_a_time(clock: FakeClock) -> None:
    """However often it is refused, someone has to find out when it is over."""
    pace = paced(clock)
    for _ in range(5):
        leave(await enter(pace, 1), "rate_limited")
        clock.advance(60)

    assert pace.limit == 1
    leave(await enter(pace, 1))


async def test_whoever_refuses_every_call_is_asked_less_and_less(clock: FakeClock) -> None:
    """The first refusal may be chance; each after it doubles the time, until a call succeeds."""
    pace = paced(clock)
    pauses = []
    for _ in range(10):
        leave(await enter(pace, 1), "rate_limited")
        began_s = clock.monotonic()
        while pace._resumes_s > clock.monotonic():
            await refused(pace, until_s=clock.monotonic())
            clock.advance(0.25)
        pauses.append(clock.monotonic() - began_s)

    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    leave(await enter(pace, 1), "ok")
    leave(await enter(pace, 1), "rate_limited")
    leave(await enter(pace, 1))


async def test_each_full_round_of_successes_adds_one(clock: FakeClock) -> None:
    """It climbs back to its ceiling, round by round, and no further."""
    pace = paced(clock, at_a_time=5)
    leave(await enter(pace, 4), "rate_limited")
    house = await enter(pace, pace.limit)

    for limit in (2, 3, 4):
        for _ in range(limit):
            assert pace.limit == limit
            house.pop(0).leave("ok")
            house += await enter(pace, 1)
        house += await enter(pace, 1)
    leave(house)

    assert pace.limit == 5


async def test_the_limit_grows_by_one_for_as_many_successes_as_it_lets_through(
    clock: FakeClock,
) -> None:
    """At three, the third success in a full house makes it four."""
    pace = paced(clock)
    house = await enter(pace, 6)
    house.pop().leave("rate_limited")
    assert pace.limit == 3
    limits = []

    for slot in house:
        slot.leave("ok")
        limits.append(pace.limit)

    assert limits == [3, 3, 4, 4, 4]  # after that there are fewer under way than could be


async def test_a_429_begins_a_new_round(clock: FakeClock) -> None:
    """What worked at the higher limit does not count towards raising the lower one."""
    pace = paced(clock)
    leave(await enter(pace, 8), "rate_limited")
    house = await enter(pace, 4)
    for _ in range(3):
        house.pop().leave("ok")
        house += await enter(pace, 1)
    house.pop().leave("rate_limited")
    assert pace.limit == 2
    house.pop().leave("other")

    house.pop().leave("ok")

    assert pace.limit == 2
    leave(house)


async def test_successes_below_the_limit_teach_nothing(clock: FakeClock) -> None:
    """One call at a time says nothing about two."""
    pace = paced(clock)
    leave(await enter(pace, 4), "rate_limited")

    for _ in range(100):
        leave(await enter(pace, 1))

    assert pace.limit == 2


async def test_a_failure_does_not_change_the_limit(clock: FakeClock) -> None:
    """Faults are for the breaker."""
    pace = paced(clock, at_a_time=4)

    leave(await enter(pace, 4), "other")

    assert pace.limit == 4


async def test_a_pause_is_kept_by_everyone(clock: FakeClock) -> None:
    """Retry-After is for the deployment, not for the one call that heard it."""
    pace = paced(clock)
    pace.pause(7)
    calls = [await waiting(pace) for _ in range(3)]

    clock.advance(6.5)
    await quiet()
    assert pace.in_flight == 0
    clock.advance(0.5)
    await quiet()

    assert all(call.done() for call in calls)
    assert pace.in_flight == 3


async def test_a_pause_refuses_those_in_line_who_cannot_wait_so_long(clock: FakeClock) -> None:
    """They learn it at once, wherever they stand."""
    pace = paced(clock, at_a_time=1)
    slot = await pace.enter(1, FAR_S)
    patient, hasty = await waiting(pace), await waiting(pace, until_s=20)

    pace.pause(30)

    error = await refusal(hasty)
    assert str(error) == "gpt asked for a pause; there is room in 30.0 s"
    assert error.retry_after_s == 30
    slot.leave("ok")
    await quiet()
    assert not patient.done()
    await cancel(patient)


@pytest.mark.parametrize(
    ("asked_s", "kept_s"), [(10, 20), (40, 40), (-1, 20), (nan, 20), (10**9, PAUSE_MAX_S)]
)
async def test_a_pause_never_gets_shorter_nor_endless(
    clock: FakeClock, asked_s: float, kept_s: float
) -> None:
    """The longest that was asked for counts, within reason."""
    pace = paced(clock)
    pace.pause(20)

    pace.pause(asked_s)

    assert (await refused(pace, until_s=1)).retry_after_s == kept_s


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("what", ["place", "rate", "pause"])
async def test_a_call_cancelled_while_it_waits_leaks_nothing(
    clock: FakeClock, turns: int, what: str
) -> None:
    """At whichever turn of the loop, before or after its bell: the next one gets the place."""
    pace = paced(clock, at_a_time=1, requests=1 if what == "rate" else None)
    slot = await pace.enter(1, FAR_S)
    if what == "pause":
        pace.pause(60)
    elif what == "rate":
        slot.leave("ok")
    first, second = await waiting(pace), await waiting(pace)

    slot.leave("ok")
    clock.advance(60.001)
    for _ in range(turns):
        await asyncio.sleep(0)
    got_in = first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if got_in:
        first.result().leave("unsent")
    await quiet()
    clock.advance(60.001)
    await quiet()

    assert second.done()
    assert pace.in_flight == 1
    second.result().leave("ok")
    assert pace.in_flight == 0


async def test_a_line_that_gives_up_leaves_nothing_behind(clock: FakeClock) -> None:
    """Cancelled from the middle, the end and the front."""
    pace = paced(clock, at_a_time=1, tokens=10**6)
    slot = await pace.enter(1, FAR_S)
    line = [await waiting(pace, tokens=1000) for _ in range(5)]

    for index in (2, 4, 0):
        await cancel(line[index])
    slot.leave("ok")
    for index in (1, 3):
        (await line[index]).leave("ok")

    assert not pace._line
    assert pace._tokens_in_line == 0
    assert pace.in_flight == 0


async def test_the_line_moves_by_a_real_clock_too() -> None:
    """A hundred calls, three at a time."""
    pace, most = paced(SystemClock(), at_a_time=3), 0

    async def call() -> None:
        nonlocal most
        slot = await pace.enter(1, until_s=SystemClock().monotonic() + 60)
        most = max(most, pace.in_flight)
        await asyncio.sleep(0)
        slot.leave("ok")

    await asyncio.gather(*(call() for _ in range(100)))

    assert most == 3
    assert pace.in_flight == 0


async def test_a_minute_takes_little_room_however_much_goes_through(clock: FakeClock) -> None:
    """A call every millisecond: what is remembered is the moments."""
    pace = paced(clock, requests=10**6)
    for _ in range(3000):
        leave(await enter(pace, 1))
        clock.advance(0.001)

    assert pace._requests is not None
    assert len(pace._requests._moments) <= 3000 / MOMENT_MS + 1


async def entries(
    clock: FakeClock, pace: Pace, calls: list[tuple[float, int]]
) -> list[tuple[float, int]]:
    """When each of these calls (after so many seconds, with so many tokens) enters."""
    entered: list[tuple[float, int]] = []

    async def call(tokens: int) -> None:
        slot = await pace.enter(tokens, FAR_S)
        entered.append((clock.monotonic(), tokens))
        slot.leave("ok")

    tasks = []
    for after_s, tokens in calls:
        await until(clock, clock.monotonic() + after_s)
        tasks.append(asyncio.create_task(call(tokens)))
        await quiet()
    while not all(task.done() for task in tasks):
        await until(clock, min(at_s for at_s, _ in clock._bells))
    return entered


async def until(clock: FakeClock, at_s: float) -> None:
    """Move the clock on, from bell to bell."""
    while clock._bells and (first_s := min(bell_s for bell_s, _ in clock._bells)) < at_s:
        clock.advance(max(first_s - clock.monotonic(), 0))
        await quiet()
    clock.advance(max(at_s - clock.monotonic(), 0))
    await quiet()


@given(
    requests=st.integers(1, 4),
    tokens=st.integers(100, 300),
    calls=st.lists(
        st.tuples(st.sampled_from((0.0, 0.0, 0.03, 1.0, 17.0, 59.97)), st.integers(1, 100)),
        max_size=12,
    ),
)
def test_no_minute_holds_more_than_its_rates(
    requests: int, tokens: int, calls: list[tuple[float, int]]
) -> None:
    """Whatever comes when: each minute keeps both limits, in order, and nobody waits in vain."""
    clock = FakeClock()
    pace = paced(clock, requests=requests, tokens=tokens)

    entered = asyncio.run(entries(clock, pace, calls))

    def fits(count: int, at_s: float, needed: int) -> bool:
        """Whether a call fits at that time behind the first so many."""
        recent = [used for s, used in entered[:count] if s > at_s - MINUTE_MS / 1000]
        return len(recent) < requests and sum(recent) + needed <= tokens

    assert [used for _, used in entered] == [needed for _, needed in calls]
    came_s = before_s = 0.0
    for index, (after_s, needed) in enumerate(calls):
        came_s += after_s
        at_s = entered[index][0]
        assert fits(index, at_s, needed)
        tolerance_s = (MOMENT_MS + 2) / 1000
        if at_s > max(came_s, before_s) + tolerance_s:
            assert not fits(index, at_s - tolerance_s, needed), "it waited too long"
        before_s = at_s
