"""The ledger: what is reserved fits, what is settled counts, and each reservation ends once."""

import asyncio
import threading
from dataclasses import replace

import pytest

from orchestrator.amounts import NANO, Amount, Caps, Scope
from orchestrator.clock import FakeClock
from orchestrator.errors import BudgetExceeded, LedgerError
from orchestrator.ledger import Ledger, UsageEntry

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


async def test_a_refusal_by_one_scope_holds_nothing_in_the_others(ledger: Ledger) -> None:
    """Whichever of them refuses, and however many had room: it is all or nothing."""
    tight = [
        replace(scope, kind="deployment", name=f"d{number}", caps=Caps(money_nanousd=NANO))
        for number, scope in enumerate((RUN, KEY, ALL))
    ]

    for scopes in ([tight[0], RUN, KEY], [RUN, tight[1], KEY], [RUN, KEY, tight[2]]):
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(dollars(2), scopes)

    assert {one.held for one in await ledger.standing([RUN, KEY, *tight])} == {Amount()}


async def test_a_refusal_says_what_there_is_and_what_to_do(ledger: Ledger) -> None:
    """Limit, spent, held, needed and a remedy, for people and for programs."""
    await ledger.settle(await ledger.reserve(dollars(12), [KEY]), dollars(12))
    await ledger.reserve(dollars(6), [KEY])

    with pytest.raises(BudgetExceeded) as refused:
        await ledger.reserve(dollars(4), [RUN, KEY])

    assert str(refused.value) == (
        "The budget of key 'alice' for this day is $20.00: $12.00 spent, $6.00 held for calls "
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
