"""What the books say of past calls: by model, pattern, tag, day, deployment and tenant."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Usage
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.clock import FakeClock
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.ledger_book import Book, Hold
from orchestrator.ledger_database import connect, find
from orchestrator.owners import this_process

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
CALL = UsageEntry(
    run_id="r1",
    tenant="alice",
    tags=("nightly", "eu"),
    deployment="gpt",
    provider="openai",
    model="gpt-5-mini",
    answered_as="gpt-5-mini-2026-01-01",
    pattern="critique",
    stage="drafts",
    member="gpt#2",
    status="ok",
    usage=Usage(
        prompt_tokens=100,
        completion_tokens=20,
        cached_tokens=64,
        cache_write_tokens=8,
        reasoning_tokens=5,
    ),
    cost_nanousd=1_000,
    elapsed_ms=1200,
)


async def test_an_entry_is_read_as_it_was_written(ledger: Ledger) -> None:
    """Every field of it."""
    entry = replace(CALL, at=NEW_YEAR, over_bound=True, recovered=True, tags=("eu", "nightly"))

    await ledger.record(entry)

    assert await ledger.entries() == [entry]


async def test_an_entry_without_a_time_is_of_now(ledger: Ledger, clock: FakeClock) -> None:
    """The ledger's now, which never steps back."""
    await ledger.record(CALL)

    (entry,) = await ledger.entries()
    assert entry.at == clock.now()


async def test_usage_is_summed_by_whatever_was_asked_for(ledger: Ledger) -> None:
    """The dearest first, days in their order, and a call under each of its tags."""
    for entry in (
        CALL,
        replace(
            CALL, tenant="bob", tags=("eu",), status="failed", cost_nanousd=None, over_bound=True
        ),
        replace(
            CALL,
            model="claude",
            deployment="claude",
            pattern="",
            tags=(),
            cost_nanousd=9_000,
            at=NEW_YEAR + timedelta(days=2),
            usage=Usage(prompt_tokens=1, estimated=True),
        ),
    ):
        await ledger.record(entry)

    by = {
        name: [(one.name, one.calls, one.cost_nanousd) for one in await ledger.usage(name)]
        for name in ("model", "pattern", "tag", "day", "deployment", "tenant")
    }
    assert by == {
        "model": [("claude", 1, 9_000), ("gpt-5-mini", 2, 1_000)],
        "pattern": [("", 1, 9_000), ("critique", 2, 1_000)],
        "tag": [("eu", 2, 1_000), ("nightly", 1, 1_000)],
        "day": [("2026-01-01", 2, 1_000), ("2026-01-03", 1, 9_000)],
        "deployment": [("claude", 1, 9_000), ("gpt", 2, 1_000)],
        "tenant": [("alice", 2, 10_000), ("bob", 1, 0)],
    }
    first, second = await ledger.usage("model")
    assert first.usage == Usage(prompt_tokens=1, estimated=True)
    assert second.usage == CALL.usage + CALL.usage
    assert (second.failed, second.unpriced, second.over_bound) == (1, 1, 1)
    assert (second.recovered, second.elapsed_ms) == (0, 2400)


async def test_usage_is_of_a_time_and_of_a_tenant(ledger: Ledger) -> None:
    """From the first moment of it on, and up to the last before its end."""
    for day in range(4):
        at = NEW_YEAR + timedelta(days=day)
        await ledger.record(replace(CALL, tenant=f"t{day % 2}", at=at))

    within = await ledger.usage(
        "day", since=NEW_YEAR + timedelta(days=1), until=NEW_YEAR + timedelta(days=3)
    )
    of_one = await ledger.usage("day", tenant="t1")

    assert [one.name for one in within] == ["2026-01-02", "2026-01-03"]
    assert [one.name for one in of_one] == ["2026-01-02", "2026-01-04"]


async def test_the_newest_entries_are_read_in_their_order(ledger: Ledger) -> None:
    """Of all, or of one run."""
    for number in range(6):
        await ledger.record(replace(CALL, run_id=f"r{number % 2}", elapsed_ms=number))

    assert [one.elapsed_ms for one in await ledger.entries(limit=2)] == [4, 5]
    assert [one.elapsed_ms for one in await ledger.entries(run_id="r0")] == [0, 2, 4]


async def test_receipts_are_kept_by_run_and_belong_to_a_tenant(
    ledger: Ledger, clock: FakeClock
) -> None:
    """The last one of a run counts, and nobody reads another's."""
    for run_id, tenant, receipt in (
        ("r1", "alice", b"{}"),
        ("r2", "bob", b'{"a": 1}'),
        ("r1", "alice", b'{"b": 2}'),
    ):
        clock.advance(1)
        await ledger.keep_receipt(run_id, tenant, receipt)

    assert await ledger.receipt("r1") == b'{"b": 2}'
    assert await ledger.receipt("r1", tenant="alice") == b'{"b": 2}'
    assert await ledger.receipt("r1", tenant="bob") is None
    assert await ledger.receipt("r3") is None
    kept = await ledger.receipts()
    assert [(one.run_id, one.tenant) for one in kept] == [("r1", "alice"), ("r2", "bob")]
    assert kept[0].at == clock.now()
    assert [one.run_id for one in await ledger.receipts(tenant="bob")] == ["r2"]
    assert [one.run_id for one in await ledger.receipts(limit=1)] == ["r1"]


async def test_old_records_are_forgotten_once_a_day(url: str, clock: FakeClock) -> None:
    """Usage, receipts, closed windows and past runs; what is held or has no window stays."""
    window = Scope(kind="key", name="alice", every="hour", caps=Caps(calls=9))
    run = Scope(kind="run", name="r1", caps=Caps(calls=9))
    ever = Scope(kind="global", caps=Caps(calls=9))
    pending = replace(run, name="r2")
    async with Ledger(url, clock, keep_days=30) as ledger:
        one = Amount(calls=1)
        await ledger.settle(await ledger.reserve(one, [window, run, ever]), one, CALL)
        await ledger.reserve(one, [pending], ttl_s=100 * 86400)
        await ledger.keep_receipt("r1", "alice", b"{}")

        clock.advance(29 * 86400)
        await ledger.drain()
        kept = (len(await ledger.entries()), await ledger.receipt("r1"))
        clock.advance(33 * 86400)
        await ledger.drain()

        assert kept == (1, b"{}")
        assert await ledger.entries() == []
        assert await ledger.receipt("r1") is None
        assert await ledger.usage("tag") == []
        spent = [one.spent.calls for one in await ledger.standing([run, ever])]
        assert spent == [0, 1]
        assert (await ledger.standing([pending]))[0].held == one
        await ledger.reserve(one, [run])  # its account is made anew


def test_a_time_that_was_rolled_back_is_written_down_by_the_next() -> None:
    """Otherwise the next process would not know how late it has been."""
    connection = connect(find("sqlite://"))
    one, other = Book(connection, this_process("one")), Book(connection, this_process("other"))
    one.begin(10**12)
    one.rollback()
    one.begin(10**12)
    one.commit()

    other.begin(0)
    other.commit()

    assert other.now_ms == 10**12
    connection.close()


def test_an_account_that_another_process_pruned_is_made_anew() -> None:
    """One process may remember a window that another one has forgotten."""
    connection = connect(find("sqlite://"))
    one, other = Book(connection, this_process("one")), Book(connection, this_process("other"))
    scope = Scope(kind="run", name="r", caps=Caps(calls=2))
    one.begin(0)
    one.reserve(_hold("h1", scope))
    one.release("h1")
    one.commit()
    other.begin(100 * 86_400_000)
    other.prune(keep_days=1)
    other.commit()

    one.begin(0)
    one.reserve(_hold("h2", scope))
    one.commit()

    assert one.standing([scope])[0].held == Amount(calls=1)
    connection.close()


def test_memory_keeps_the_newest_only() -> None:
    """It is not for archives: however many calls there were, it grows no more."""
    book = Book(connect(find("sqlite://")), this_process())
    for number in range(20):
        book.begin(number * 1000)
        book.record(replace(CALL, elapsed_ms=number))
        book.keep_receipt(f"r{number}", "alice", b"{}")
        scope = Scope(kind="run", name=f"r{number}", caps=Caps(calls=9))
        book.reserve(_hold(f"h{number}", scope))
        if number:
            book.settle(f"h{number}", Amount(calls=1))
        book.commit()

    book.begin(30_000)
    book.trim(keep=5)
    book.commit()

    assert [one.elapsed_ms for one in book.entries()] == [15, 16, 17, 18, 19]
    assert [one.run_id for one in book.receipts(99)] == ["r19", "r18", "r17", "r16", "r15"]
    runs = [Scope(kind="run", name=f"r{number}") for number in range(20)]
    there = [one.scope.name for one in book.standing(runs) if one.spent.calls or one.held.calls]
    assert there == ["r0", "r15", "r16", "r17", "r18", "r19"]  # the first is still held
    book.connection.close()


def _hold(name: str, scope: Scope) -> Hold:
    return Hold(id=name, needed=Amount(calls=1), scopes=(scope,), ttl_ms=10**9, entry=UsageEntry())


AWKWARD = ["\0", "\ud800", "'; DROP TABLE ledger_usage; --", "x" * 10_000, "\x1b[31m", "%s", ":a"]


@pytest.mark.parametrize("words", AWKWARD)
async def test_any_text_can_be_kept(ledger: Ledger, words: str) -> None:
    """Providers and callers send anything; none of it breaks a statement or a transaction."""
    scope = Scope(kind="key", name=words, every="day", caps=Caps(calls=1))
    entry = replace(CALL, tenant=words, answered_as=words, tags=(words,))

    held = await ledger.reserve(Amount(calls=1), [scope], run_id=words, entry=entry)
    await ledger.settle(held, Amount(calls=1), entry)
    await ledger.keep_receipt(words, words, b"{}")

    assert (await ledger.standing([scope]))[0].spent == Amount(calls=1)
    assert await ledger.receipt(words, tenant=words) == b"{}"
    assert [one.calls for one in await ledger.usage("tag", tenant=words)] == [1]
    await ledger.reserve(Amount(), [scope], entry=entry)


@given(words=st.text())
def test_any_text_survives_its_way_through_a_hold(words: str) -> None:
    """What a hold knows of its call is written if nobody settles it."""
    book = Book(connect(find("sqlite://")), this_process())
    book.begin(0)
    scope = Scope(kind="run", name=words, caps=Caps(calls=1))
    book.reserve(replace(_hold("h", scope), entry=UsageEntry(tenant=words, tags=(words,))))
    book.recover(ours=True)
    book.commit()

    (entry,) = book.entries()
    assert entry.tags == (entry.tenant,)
    assert words.startswith("\0") or entry.tenant[:1] == words[:1] or not words.isprintable()
    book.connection.close()
