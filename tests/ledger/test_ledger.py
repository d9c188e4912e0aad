"""The ledger: what is reserved fits, what is settled counts, and each reservation ends once."""

import asyncio
import threading
from dataclasses import replace
from typing import get_args

import pytest

from orchestrator.amounts import NANO, Amount, Caps, Scope, ScopeKind
from orchestrator.clock import FakeClock
from orchestrator.errors import BudgetExceeded, LedgerError
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.ledger_writer import UPKEEP_S

RUN = Scope(kind="run", name="r1", caps=Caps(money_nanousd=5 * NANO))
KEY = Scope(kind="key", name="alice", every="day", caps=Caps(money_nanousd=20 * NANO))
ALL = Scope(kind="global", every="month", caps=Caps(tokens=1000))


def dollars(count: float) -> Amount:
    return Amount(money_nanousd=round(count * NANO), calls=1)


async def test_a_reservation_holds_in_every_scope_until_it_is_settled(ledger: Ledger) -> None:
    """What is held is given back, and what was spent stays, in each scope alike."""
    needed = replace(dollars(2), tokens=300)

    reservation = await ledger.reserve(needed, [RUN, KEY, ALL], run_id="r1")
    held = await ledger.standing([RUN, KEY, ALL])
    await ledger.settle(reservation, replace(dollars(0.5), tokens=120))
    spent = await ledger.standing([RUN, KEY, ALL])

    assert [(one.scope, one.spent, one.held) for one in held] == [
        (scope, Amount(), needed) for scope in (RUN, KEY, ALL)
    ]
    assert [(one.spent, one.held) for one in spent] == [
        (replace(dollars(0.5), tokens=120), Amount())
    ] * 3


async def test_a_released_reservation_leaves_nothing(ledger: Ledger) -> None:
    """A call that was not sent costs nothing."""
    reservation = await ledger.reserve(dollars(5), [RUN, KEY])

    await ledger.release(reservation)

    assert [(one.spent, one.held) for one in await ledger.standing([RUN, KEY])] == [
        (Amount(), Amount())
    ] * 2
    await ledger.release(await ledger.reserve(dollars(5), [RUN, KEY]))


@pytest.mark.parametrize(
    ("caps", "needed", "said"),
    [
        (Caps(money_nanousd=NANO), Amount(money_nanousd=NANO + 1), "money_usd"),
        (Caps(tokens=9), Amount(tokens=10), "10 tokens needed"),
        (Caps(calls=1), Amount(calls=2), "2 calls needed"),
        (Caps(time_ms=1500), Amount(time_ms=1501), "1.501 s needed"),
    ],
)
async def test_every_dimension_is_a_limit_of_its_own(
    ledger: Ledger, caps: Caps, needed: Amount, said: str
) -> None:
    """The last unit fits and the next one does not, and the message says of what."""
    run = Scope(kind="run", name="r1", caps=caps)

    with pytest.raises(BudgetExceeded, match=said):
        await ledger.reserve(needed, [run])
    await ledger.reserve(
        Amount(**{name: getattr(caps, name) or 0 for name in Caps.__slots__}), [run]
    )


@pytest.mark.parametrize("kind", ["run", "key", "deployment", "global"])
async def test_a_refusal_by_one_scope_holds_nothing_in_the_others(
    ledger: Ledger, kind: ScopeKind
) -> None:
    """Whichever of them refuses, and however many had room: it is all or nothing."""
    tight = Scope(kind=kind, name="tight", caps=Caps(money_nanousd=NANO))
    wide = [
        replace(tight, kind=other, name="wide", caps=Caps(money_nanousd=9 * NANO))
        for other in get_args(ScopeKind)
    ]

    with pytest.raises(BudgetExceeded):
        await ledger.reserve(dollars(2), [*wide, tight])

    assert {one.held for one in await ledger.standing([*wide, tight])} == {Amount()}


async def test_a_refusal_says_what_there_is_and_what_to_do(ledger: Ledger) -> None:
    """Limit, spent, held, needed and a remedy, for people and for programs."""
    await ledger.settle(await ledger.reserve(dollars(12), [KEY]), dollars(12))
    await ledger.reserve(dollars(6), [KEY])

    with pytest.raises(BudgetExceeded) as refused:
        await ledger.reserve(dollars(4), [RUN, KEY])

    assert str(refused.value) == (
        "The budget of key 'alice' for a day is $20.00: $12.00 spent, $6.00 held for calls "
        "under way, up to $4.00 needed; wait until 2026-01-02 00:00 UTC, or raise money_usd in "
        "budgets.windows, or lower max_tokens"
    )
    assert refused.value.scope == KEY
    assert refused.value.dimension == "money_nanousd"
    assert (refused.value.spent, refused.value.held) == (dollars(12), dollars(6))
    assert refused.value.needed == dollars(4)


async def test_waiting_is_not_advised_where_it_does_not_help(ledger: Ledger) -> None:
    """What is more than the whole window fits into none."""
    with pytest.raises(BudgetExceeded) as refused:
        await ledger.reserve(dollars(21), [KEY])

    assert "wait" not in str(refused.value)


async def test_more_than_was_reserved_is_posted_in_full(ledger: Ledger) -> None:
    """A provider that counts more is believed; the scope may be over its limit then, and closed."""
    reservation = await ledger.reserve(dollars(5), [RUN])

    await ledger.settle(reservation, dollars(7), UsageEntry(cost_nanousd=7 * NANO))

    (standing,) = await ledger.standing([RUN])
    (entry,) = await ledger.entries()
    assert standing.spent == dollars(7)
    assert entry.over_bound
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(Amount(calls=1), [RUN])


@pytest.mark.parametrize("first", ["settle", "release"])
@pytest.mark.parametrize("second", ["settle", "release"])
async def test_a_reservation_is_resolved_once(ledger: Ledger, first: str, second: str) -> None:
    """The second time changes nothing and says so."""

    async def resolve(how: str) -> None:
        await (ledger.settle(held, dollars(1)) if how == "settle" else ledger.release(held))

    held = await ledger.reserve(dollars(2), [RUN])
    await resolve(first)
    before = await ledger.standing([RUN])

    with pytest.raises(LedgerError, match="not pending"):
        await resolve(second)

    assert await ledger.standing([RUN]) == before


async def test_a_scope_without_limits_is_not_counted_but_its_call_is(ledger: Ledger) -> None:
    """Usage is for everyone, accounts for those who have a limit."""
    free = Scope(kind="key", name="bob", every="day")

    reservation = await ledger.reserve(dollars(3), [free])
    await ledger.settle(reservation, dollars(2), UsageEntry(tenant="bob", cost_nanousd=2 * NANO))

    (standing,) = await ledger.standing([free])
    (total,) = await ledger.usage("tenant")
    assert standing.spent == Amount()
    assert (total.name, total.cost_nanousd) == ("bob", 2 * NANO)


async def test_two_limits_on_one_account_hold_both(ledger: Ledger) -> None:
    """A limit for this key and one for every key are limits of the same account."""
    wide = replace(KEY, caps=Caps(money_nanousd=50 * NANO, tokens=5))

    with pytest.raises(BudgetExceeded, match=r"\$20"):
        await ledger.reserve(dollars(21), [wide, KEY])
    with pytest.raises(BudgetExceeded, match="tokens"):
        await ledger.reserve(Amount(tokens=6), [KEY, wide])


async def test_negative_and_absurd_amounts_are_refused(ledger: Ledger) -> None:
    """Nothing gives money back, and no sum overflows."""
    for amount in (Amount(tokens=-1), Amount(money_nanousd=10**16)):
        with pytest.raises(ValueError, match="must be from 0"):
            await ledger.reserve(amount, [RUN])
        with pytest.raises(ValueError, match="must be from 0"):
            ledger.settle("any", amount)


# Who waits, and who does not any more.


async def test_a_reservation_cancelled_at_any_moment_holds_nothing(ledger: Ledger) -> None:
    """Before it is sent, on its way, done but not told, told but not taken: all the same."""
    for turns in range(12):
        task = asyncio.create_task(ledger.reserve(dollars(1), [RUN]))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 2:
            await ledger.drain()
        if task.done():  # nobody was in time to cancel it
            await ledger.release(task.result())
            continue
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await ledger.drain()
        assert (await ledger.standing([RUN]))[0].held == Amount(), f"after {turns} turns"


async def test_a_coroutine_that_is_thrown_away_holds_nothing(ledger: Ledger) -> None:
    """As a loop does with what still runs when it is shut down."""
    reserving = ledger.reserve(dollars(1), [RUN])
    reserving.send(None)

    reserving.close()

    await ledger.drain()
    assert (await ledger.standing([RUN]))[0].held == Amount()


async def test_settling_outlives_who_asked_for_it(ledger: Ledger) -> None:
    """It is on its way when `settle` returns, whether anybody waits for it or not."""
    held = await ledger.reserve(dollars(1), [RUN])

    ledger.settle(held, dollars(1)).cancel()

    await ledger.drain()
    assert (await ledger.standing([RUN]))[0].spent == dollars(1)


async def test_several_loops_share_a_ledger(ledger: Ledger) -> None:
    """Each is told of its own reservations in its own thread."""
    told: list[bool] = []

    async def spend() -> None:
        for _ in range(50):
            await ledger.settle(await ledger.reserve(Amount(tokens=1), [ALL]), Amount(tokens=1))
        told.append(True)

    threads = [threading.Thread(target=asyncio.run, args=(spend(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    await spend()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert len(told) == 4
    assert (await ledger.standing([ALL]))[0].spent == Amount(tokens=200)


async def test_a_loop_that_is_gone_holds_nothing(ledger: Ledger) -> None:
    """What was reserved for it, and what nobody can be told of, is released."""
    gate = threading.Event()
    left: list[asyncio.Task[str]] = []

    def reserve_and_go() -> None:
        loop = asyncio.new_event_loop()
        left.append(loop.create_task(ledger.reserve(dollars(1), [RUN])))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        gate.set()

    ledger._writer.do(lambda _: gate.wait(60), 60)
    await asyncio.to_thread(reserve_and_go)
    await ledger.drain()  # until it was made, and found that there is nobody to tell
    await ledger.drain()

    assert (await ledger.standing([RUN]))[0].held == Amount()
    assert not left[0].done()
    left[0]._log_destroy_pending = False  # type: ignore[attr-defined]


# Opening and closing.


async def test_closing_finishes_what_was_begun(file_url: str, clock: FakeClock) -> None:
    """What was submitted is done, and what is still held can be settled by nobody else."""
    async with Ledger(file_url, clock) as first:
        settled = await first.reserve(dollars(1), [RUN])
        await first.reserve(dollars(2), [RUN], run_id="r1")
        first.settle(settled, dollars(0.5))

    async with Ledger(file_url, clock) as second:
        (standing,) = await second.standing([RUN])
        (entry,) = await second.entries()

    assert (standing.spent.money_nanousd, standing.held) == (round(2.5 * NANO), Amount())
    assert (entry.run_id, entry.status, entry.recovered) == ("r1", "unknown", True)
    assert entry.cost_nanousd == 2 * NANO


async def test_nothing_is_taken_before_opening_or_after_closing() -> None:
    """Every call says so instead of waiting for ever; closing twice is no mistake."""
    ledger = Ledger()
    with pytest.raises(LedgerError, match=r"call open\(\)"):
        await ledger.reserve(dollars(1), [RUN])

    await ledger.open()
    held = await ledger.reserve(dollars(1), [RUN])
    with pytest.raises(LedgerError, match="opened before"):
        await ledger.open()
    await ledger.aclose()
    await ledger.aclose()

    with pytest.raises(LedgerError, match="is closed"):
        await ledger.settle(held, dollars(1))
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.standing([RUN])


async def test_two_ledgers_in_one_process_leave_each_other_alone(
    file_url: str, clock: FakeClock
) -> None:
    """The holds of the one are not left behind because the other opens or closes."""
    async with Ledger(file_url, clock) as one:
        held = await one.reserve(dollars(1), [RUN])
        async with Ledger(file_url, clock) as other:
            assert (await other.standing([RUN]))[0].held == dollars(1)
        await one.settle(held, dollars(1))

        assert (await one.standing([RUN]))[0].spent == dollars(1)


# Time.


async def test_an_expired_hold_is_settled_in_full(ledger: Ledger, clock: FakeClock) -> None:
    """It is not dropped, whoever comes back for it later; the books say what is known of it."""
    entry = UsageEntry(run_id="r1", tenant="alice", deployment="gpt", tags=("a", "b"))
    held = await ledger.reserve(replace(dollars(2), tokens=50), [RUN, KEY], ttl_s=60, entry=entry)

    clock.advance(60)
    await ledger.drain()

    assert [(one.spent, one.held) for one in await ledger.standing([RUN, KEY])] == [
        (replace(dollars(2), tokens=50), Amount())
    ] * 2
    with pytest.raises(LedgerError, match="expired"):
        await ledger.settle(held, dollars(1))
    (written,) = await ledger.entries(run_id="r1")
    assert (written.tenant, written.deployment, written.tags) == ("alice", "gpt", ("a", "b"))
    assert (written.recovered, written.usage.estimated) == (True, True)
    assert (written.cost_nanousd, written.usage.total_tokens) == (2 * NANO, 50)


async def test_a_hold_that_another_process_found_expired_is_resolved(
    file_url: str, clock: FakeClock
) -> None:
    """Whoever made it comes too late, and posts nothing a second time."""
    late = FakeClock()
    late.advance(13 * 3600)
    async with Ledger(file_url, clock) as one:
        held = await one.reserve(dollars(2), [RUN])
        async with Ledger(file_url, late):
            pass

        with pytest.raises(LedgerError, match="not pending"):
            await one.settle(held, dollars(1))
        assert (await one.standing([RUN]))[0].spent == dollars(2)


@pytest.mark.parametrize(
    ("every", "later_s"),
    [("minute", 60), ("hour", 3600), ("day", 12 * 3600), ("month", 31 * 86400)],
)
async def test_a_window_begins_anew_when_it_is_over(
    ledger: Ledger, clock: FakeClock, every: str, later_s: int
) -> None:
    """Not a moment before, and then with nothing spent."""
    window = replace(KEY, every=every)
    await ledger.settle(await ledger.reserve(dollars(20), [window]), dollars(20))

    clock.advance(later_s - 12 * 3600 - 1 if every == "month" else later_s - 1)
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(dollars(1), [window])
    clock.advance(1)

    await ledger.reserve(dollars(20), [window])


async def test_a_call_counts_to_the_window_it_was_reserved_in(
    ledger: Ledger, clock: FakeClock
) -> None:
    """A call that ends in the next day has cost this one."""
    clock.advance(12 * 3600 - 1)
    held = await ledger.reserve(dollars(20), [KEY])

    clock.advance(1)
    await ledger.reserve(dollars(20), [KEY])
    await ledger.settle(held, dollars(19))

    (today,) = await ledger.standing([KEY])
    assert (today.spent, today.held) == (Amount(), dollars(20))
    clock.advance(-1)  # the ledger stays in its day, and the day before keeps what it has spent
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(dollars(1), [KEY])


async def test_a_clock_that_steps_back_opens_no_window_again(url: str, clock: FakeClock) -> None:
    """The latest time that was seen is what counts, in this process and in the next."""
    spare = replace(KEY, name="bob")
    async with Ledger(url, clock) as ledger:
        clock.advance(13 * 3600)  # tomorrow, one o'clock
        await ledger.settle(await ledger.reserve(dollars(20), [KEY]), dollars(20))
        clock.advance(-2 * 3600)

        with pytest.raises(BudgetExceeded):
            await ledger.reserve(dollars(1), [KEY])
        await ledger.reserve(dollars(5), [spare])
        clock.advance(2 * 3600)
        assert (await ledger.standing([spare]))[0].held == dollars(5)

    if url == "sqlite://":
        return
    clock.advance(-2 * 3600)
    async with Ledger(url, clock) as ledger:
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(dollars(1), [KEY])


async def test_who_reads_when_upkeep_is_due_is_answered(ledger: Ledger, clock: FakeClock) -> None:
    """What is looked for now and then comes first; a reader who asks just then is not forgotten."""
    for _ in range(3):
        clock.advance(UPKEEP_S + 1)
        async with asyncio.timeout(5):
            (standing,) = await ledger.standing([KEY])

        assert standing.held == Amount()


async def test_a_process_whose_clock_lags_goes_by_the_others(
    file_url: str, clock: FakeClock
) -> None:
    """Within a minute of its own clock it is in the window in which the other one is."""
    late = FakeClock()
    async with Ledger(file_url, clock) as one, Ledger(file_url, late) as other:
        clock.advance(13 * 3600)
        await one.settle(await one.reserve(dollars(20), [KEY]), dollars(20))
        late.advance(60)

        with pytest.raises(BudgetExceeded):
            await other.reserve(dollars(1), [KEY])
