"""The ledger's database: made whole, brought up to date, and never taken for an empty one."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from orchestrator import ledger_database
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.clock import FakeClock, SystemClock
from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.ledger_book import Book
from orchestrator.ledger_database import connect, find, revision, transaction
from orchestrator.ledger_schema import REVISIONS, VERSION_TABLE, metadata

DAY = Scope(kind="global", every="day", caps=Caps(calls=100))
ONE = Amount(calls=1)


def file_of(url: str) -> Path:
    found = find(url).file
    assert found is not None
    return found


async def spend_one(url: str) -> None:
    async with Ledger(url, FakeClock()) as ledger:
        await ledger.settle(await ledger.reserve(ONE, [DAY]), ONE)


# The file.


async def test_a_new_file_and_its_folder_are_for_their_owner_only(file_url: str) -> None:
    """Who asked for what, and how often, is nobody else's business."""
    file = file_of(file_url)

    async with Ledger(file_url) as ledger:
        await ledger.reserve(ONE, [DAY])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
        folder = stat.S_IMODE(file.parent.stat().st_mode)

    assert folder == 0o700
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


async def test_ledgers_that_are_made_at_once_are_one(file_url: str) -> None:
    """Whoever comes first makes the file, whole; the others use it."""
    ledgers = [Ledger(file_url) for _ in range(8)]

    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    for ledger in ledgers:
        ledger.settle(await ledger.reserve(ONE, [DAY]), ONE)
    for ledger in ledgers:
        await ledger.aclose()

    async with Ledger(file_url) as ledger:
        assert (await ledger.standing([DAY]))[0].spent == Amount(calls=8)
    assert [path.name for path in file_of(file_url).parent.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a database, but long enough to look at" * 99,
        lambda content: content[: len(content) // 2],
        lambda content: content[:4096] + os.urandom(4096) + content[8192:],
        lambda content: b"\0" * len(content),
    ],
    ids=["empty", "text", "cut", "overwritten", "zeros"],
)
async def test_a_damaged_file_is_refused_and_left_as_it_is(file_url: str, damage) -> None:  # type: ignore[no-untyped-def]
    """It is named, with what to do, and is never taken for one in which nothing was spent."""
    await spend_one(file_url)
    file = file_of(file_url)
    broken = damage(file.read_bytes())
    file.write_bytes(broken)

    with pytest.raises(LedgerError) as refused:
        await Ledger(file_url).open()

    assert str(file) in str(refused.value)
    assert "backup" in str(refused.value)
    assert file.read_bytes() == broken


async def test_a_file_that_is_taken_away_is_missed(file_url: str, clock: FakeClock) -> None:
    """Nothing is spent in a file that nobody will ever read again."""
    ledger = Ledger(file_url, clock)
    await ledger.open()
    held = await ledger.reserve(ONE, [DAY])
    file_of(file_url).unlink()
    clock.advance(2)

    with pytest.raises(LedgerError, match="removed or replaced"):
        await ledger.reserve(ONE, [DAY])
    with pytest.raises(LedgerError, match="removed or replaced"):
        await ledger.settle(held, ONE)
    with pytest.raises(LedgerError, match="removed or replaced"):
        await ledger.aclose()


async def test_a_full_disk_refuses_and_recovers(file_url: str) -> None:
    """Nothing is admitted while nothing can be written, and everything once it can be again."""

    def pages(count: int) -> None:
        ledger._writer.do(
            lambda book: book.connection.exec_driver_sql(f"PRAGMA max_page_count = {count}"), 5
        )

    async with Ledger(file_url) as ledger:
        held = await ledger.reserve(ONE, [DAY])
        pages(1)  # as many as there are already: the next one is one too many
        with pytest.raises(LedgerError, match="no room left"):
            await ledger.keep_receipt("r1", "alice", b"x" * 100_000)
        pages(1_000_000)

        await ledger.settle(held, ONE)
        await ledger.reserve(ONE, [DAY])

        assert (await ledger.standing([DAY]))[0].spent == ONE


async def test_one_operation_that_fails_takes_no_other_with_it(file_url: str) -> None:
    """What was committed together with it is done again, each for itself."""

    def fail(_: object) -> None:
        raise RuntimeError("a mistake")

    async with Ledger(file_url) as ledger:
        asking = [asyncio.ensure_future(ledger.reserve(ONE, [DAY])) for _ in range(3)]
        await asyncio.sleep(0)
        failing = ledger._writer.submit(fail, 5)
        asking += [asyncio.ensure_future(ledger.reserve(ONE, [DAY])) for _ in range(3)]

        assert len(set(await asyncio.gather(*asking))) == 6
        with pytest.raises(LedgerError, match="a mistake"):
            await failing
        assert (await ledger.standing([DAY]))[0].held == ONE.times(6)


class Impatient(SystemClock):
    """A clock on which seconds pass faster."""

    def __init__(self, times: int) -> None:
        self._times = times

    def monotonic(self) -> float:
        return super().monotonic() * self._times


async def test_a_lock_is_waited_for_off_the_loop_and_not_for_ever(file_url: str) -> None:
    """Reservations give up after their limit; what was spent is written when the lock is gone."""
    async with Ledger(file_url, Impatient(5), lock_wait_s=5.0) as ledger:
        held = await ledger.reserve(ONE, [DAY])
        other = sqlite3.connect(file_of(file_url), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        longest_s, ticking = 0.0, True

        async def tick() -> None:
            nonlocal longest_s
            clock = SystemClock()
            while ticking:
                before_s = clock.monotonic()
                await asyncio.sleep(0.001)
                longest_s = max(longest_s, clock.monotonic() - before_s)

        ticker = asyncio.create_task(tick())
        settling = ledger.settle(held, ONE)
        with pytest.raises(LedgerError, match="is locked by another program"):
            await ledger.reserve(ONE, [DAY])
        ticking = False
        await ticker
        assert (await ledger.standing([DAY]))[0].held == ONE  # reading goes on
        assert not settling.done()
        other.execute("ROLLBACK")
        other.close()
        await settling

        assert (await ledger.standing([DAY]))[0].spent == ONE
    assert longest_s < 0.5  # the lock itself was waited for at least a second


async def test_what_waited_too_long_is_given_up(file_url: str) -> None:
    """Even a settlement, which then is posted in full when its hold expires."""
    async with Ledger(file_url, Impatient(60), lock_wait_s=5.0) as ledger:
        held = await ledger.reserve(ONE, [DAY])
        other = sqlite3.connect(file_of(file_url), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(LedgerError, match="is locked"):
            await ledger.settle(held, ONE)
        other.close()

    async with Ledger(file_url) as ledger:
        assert (await ledger.standing([DAY]))[0].spent == ONE


async def test_opening_waits_for_a_lock_but_not_for_ever(file_url: str) -> None:
    """A backup that ends in time is no reason to refuse."""
    await spend_one(file_url)
    other = sqlite3.connect(file_of(file_url), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerError, match="is locked"):
        await Ledger(file_url, Impatient(60), lock_wait_s=5.0).open()
    ledger = Ledger(file_url, lock_wait_s=30.0)
    opening = asyncio.create_task(ledger.open())
    await asyncio.to_thread(other.execute, "ROLLBACK")
    await opening

    other.close()
    await ledger.aclose()


def test_a_fork_may_not_use_the_ledger_of_its_parent(file_url: str) -> None:
    """The child is told, and the parent's connection is left alone."""
    script = f"""
import asyncio, os
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger

DAY = Scope(kind="global", every="day", caps=Caps(calls=100))

async def child(ledger):
    try:
        await ledger.reserve(Amount(calls=1), [DAY])
    except LedgerError as error:
        print(error, flush=True)
    await ledger.aclose()

async def parent(ledger):
    await ledger.open()
    held = await ledger.reserve(Amount(calls=1), [DAY])
    asyncio.events._set_running_loop(None)
    if not os.fork():
        asyncio.run(child(ledger))
        raise SystemExit
    os.wait()
    asyncio.events._set_running_loop(loop)
    await ledger.settle(held, Amount(calls=1))
    print((await ledger.standing([DAY]))[0].spent.calls)
    await ledger.aclose()

loop = asyncio.new_event_loop()
loop.run_until_complete(parent(Ledger({file_url!r})))
loop.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.splitlines() == [
        "The ledger was opened by the process this one was forked from; open another",
        "1",
    ]


# The address.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://u:hunter2-secret@h/d", "'mysql'"),
        ("postgresql+psycopg2://u:hunter2-secret@h/d", "psycopg2"),
        ("sqlite:///a.db?mode=ro", "options"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url: str, said: str) -> None:
    """The message says what works."""
    with pytest.raises(LedgerError, match=said) as refused:
        Ledger(url)

    assert "hunter2" not in str(refused.value)


async def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    """Neither the message nor what led to it tells it."""
    url = f"postgresql://u:hunter2-secret@/d?host={tmp_path}"

    with pytest.raises(LedgerError, match="ledger 'd'") as refused:
        await Ledger(url).open()

    error: BaseException | None = refused.value
    while error is not None:
        assert "hunter2" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("url", "memory", "name"),
    [
        ("sqlite://", True, "the ledger in memory"),
        ("sqlite:///:memory:", True, "the ledger in memory"),
        ("sqlite:////x/y.db", False, "ledger '/x/y.db'"),
        ("postgresql://u:p@h/d", False, "ledger 'h/d'"),
    ],
)
def test_an_address_has_a_name_for_people(url: str, memory: bool, name: str) -> None:
    """One that can be shown."""
    address = find(url)

    assert (address.is_memory, address.name) == (memory, name)


# The schema.


def made_by_migrations(connection: Connection) -> Connection:
    """A ledger that began before its first revision."""
    with transaction(connection):
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"))
    return connection


def described(connection: Connection) -> dict[str, object]:
    """All that the database knows of the tables."""
    looked = inspect(connection)
    return {
        name: (
            [
                (column["name"], str(column["type"]), column["nullable"])
                for column in looked.get_columns(name)
            ],
            looked.get_pk_constraint(name)["constrained_columns"],
            sorted(str(index) for index in looked.get_indexes(name)),
            sorted(str(check) for check in looked.get_check_constraints(name)),
            looked.get_table_options(name) if connection.dialect.name == "sqlite" else {},
        )
        for name in metadata.tables
    }


@pytest.mark.parametrize("kind", ["file", "postgres"])
def test_migrations_lead_to_what_is_made_at_once(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """A ledger that grew up is like one that is new, and both are what the code takes them for."""
    address = find(request.getfixturevalue(f"{kind}_url"))
    with connect(address) as new:
        fresh = described(new)
        with transaction(new):
            metadata.drop_all(new)
            new.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        made_by_migrations(new)
    with connect(address) as grown:
        assert revision(grown) == REVISIONS[-1]
        assert described(grown) == fresh
        context = MigrationContext.configure(grown, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_revisions_are_those_of_the_files() -> None:
    """The list is kept so that nothing of alembic is loaded where nothing is to be changed."""
    folder = Path(ledger_database.__file__).parent / "migrations"

    found = [one.revision for one in ScriptDirectory(str(folder)).walk_revisions()]

    assert tuple(reversed(found)) == REVISIONS


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_a_ledger_of_a_newer_version_is_refused(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """Nothing is written into what is not understood."""
    url = request.getfixturevalue(f"{kind}_url")
    with connect(find(url)) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    with pytest.raises(LedgerError, match=r"newer version .*'9999'.*upgrade"):
        await Ledger(url).open()


def test_opening_a_ledger_loads_nothing_of_alembic(file_url: str) -> None:
    """It takes longer to load than everything else together."""
    script = f"""
import asyncio, sys
from orchestrator.ledger import Ledger

async def main():
    async with Ledger({file_url!r}): pass
    async with Ledger({file_url!r}): pass

asyncio.run(main())
print([name for name in ("alembic", "litellm", "psycopg") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"


def hang_up(url: str) -> None:
    """End every connection to a database but this one."""
    with connect(find(url)) as other:
        other.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


async def test_a_connection_that_breaks_is_made_anew(postgres_url: str) -> None:
    """A server that was restarted, or grew tired of waiting, costs nobody a reservation."""
    async with Ledger(postgres_url) as ledger:
        held = await ledger.reserve(ONE, [DAY])
        hang_up(postgres_url)
        await ledger.settle(held, ONE, UsageEntry(run_id="r1"))
        hang_up(postgres_url)

        assert (await ledger.standing([DAY]))[0].spent == ONE
        assert len(await ledger.entries()) == 1


async def test_a_connection_that_breaks_while_committing_proves_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it was done, so it is not done again; a reservation is given back."""
    commit = Book.commit

    def break_off(book: Book) -> None:
        monkeypatch.setattr(Book, "commit", commit)
        hang_up(postgres_url)
        commit(book)

    async with Ledger(postgres_url) as ledger:
        held = await ledger.reserve(ONE, [DAY])
        monkeypatch.setattr(Book, "commit", break_off)
        with pytest.raises(LedgerError, match="terminating connection"):
            await ledger.settle(held, ONE)
        await ledger.drain()
        monkeypatch.setattr(Book, "commit", break_off)
        with pytest.raises(LedgerError, match="terminating connection"):
            await ledger.reserve(ONE, [DAY])

        await ledger.settle(held, ONE)

        (standing,) = await ledger.standing([DAY])
        assert (standing.spent, standing.held) == (ONE, Amount())


async def test_a_server_that_stays_away_is_reported(postgres_url: str) -> None:
    """Each operation fails until it is back."""
    name = find(postgres_url).url.database
    async with Ledger(postgres_url) as ledger:
        admin = find(postgres_url.replace(f"/{name}?", "/postgres?")).url
        engine = create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as other:
            other.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            other.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                ),
                {"name": name},
            )
            for _ in range(2):
                with pytest.raises(LedgerError, match="not currently accepting connections"):
                    await ledger.reserve(ONE, [DAY])
                with pytest.raises(LedgerError, match="not currently accepting connections"):
                    await ledger.standing([DAY])
            other.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))

        await ledger.reserve(ONE, [DAY])
