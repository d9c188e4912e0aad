"""Answer the rows that are left: so many at a time, equal ones once, until a limit or the end."""

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple, Protocol

from orchestrator.batch.answering import Answerer, LimitReached, NotAsked, repeated, unreadable
from orchestrator.batch.outcome import Outcome, RowStatus
from orchestrator.batch.parts import Index, Part, Place, key_of
from orchestrator.batch.rows import BadRow, Row
from orchestrator.clock import Clock

AnyRow = Row | BadRow
Why = Literal["", "budget", "time", "interrupted", "failure"]

AHEAD = 64  # rows that are read ahead of a source that takes its time
REMEMBERED = 8192  # rows back that an equal one is recognised
WAITING = 4096  # rows that wait for equal ones at once
TURN = 512  # rows that are passed over before others get a turn
SYNC_S = 1.0  # how much may be lost with the machine's power


class Kept(NamedTuple):
    """What has come of a row, and where it was written down."""

    place: Place
    status: RowStatus
    cost_nanousd: int


class Keeper(Protocol):
    """Answers a row and writes down what has come of it: here, or in another process."""

    async def __call__(self, row: Row) -> Kept: ...

    def breakers(self) -> dict[str, str]:
        """Which deployments are left alone, and how."""

    def calls_in_flight(self) -> dict[str, int]:
        """How many calls are under way, by deployment."""


class LocalKeeper:
    """The one that does it here."""

    def __init__(self, answer: Answerer, part: Part) -> None:
        self._answer = answer
        self._part = part

    async def __call__(self, row: Row) -> Kept:
        outcome = await self._answer(row)
        kept = Kept(self._part.append(outcome), outcome.status, outcome.cost_nanousd)
        self._answer.forget(row)
        return kept

    def breakers(self) -> dict[str, str]:
        return self._answer.breakers()

    def calls_in_flight(self) -> dict[str, int]:
        return self._answer.calls_in_flight()


@dataclass(slots=True)
class Tally:
    """How far a batch has come.

    Attributes:
        read: Rows of the input that were looked at.
        found: Those that had an outcome already.
        found_failed: Those of them that had failed.
        changed: Those that were something else when they were asked before.
        answered: Those that were answered now, repeated ones included.
        failed: Those that failed now.
        repeated: Those that took over the answer of an equal row.
        in_flight: Those that are under way.
        spent_nanousd: What has been paid, before and now.
        total: How many rows there are; None as long as nobody knows.
        breakers: Which deployments are left alone, and how.
        calls_in_flight: How many calls are under way, by deployment: a row may need several.
        batches: How those are getting on that are with a provider, by their ids.
    """

    read: int = 0
    found: int = 0
    found_failed: int = 0
    changed: int = 0
    answered: int = 0
    failed: int = 0
    repeated: int = 0
    in_flight: int = 0
    spent_nanousd: int = 0
    total: int | None = None
    breakers: dict[str, str] = field(default_factory=dict)
    calls_in_flight: dict[str, int] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """The rows that have an outcome."""
        return self.found + self.answered + self.failed

    @property
    def all_failed(self) -> int:
        """The rows whose outcome is that they failed."""
        return self.found_failed + self.failed


def strictest(told: Iterable[dict[str, str]]) -> dict[str, str]:
    """The breakers of several processes; where they differ, the one that lets no call through.

    >>> strictest([{"gpt": "open"}, {"gpt": "half_open", "claude": "half_open"}])
    {'claude': 'half_open', 'gpt': 'open'}
    """
    states = chain.from_iterable(one.items() for one in told)
    return dict(sorted(states))  # "open" comes after "half_open", and stays


def added_up(told: Iterable[dict[str, int]]) -> dict[str, int]:
    """The calls of several processes.

    >>> added_up([{"gpt": 2}, {"gpt": 1, "claude": 4}])
    {'gpt': 3, 'claude': 4}
    """
    total: Counter[str] = Counter()
    for calls in told:
        total.update(calls)
    return dict(total)


class Stop:
    """Whether nothing more is to be asked, and why.

    Attributes:
        event: Is set from then on.
        why: The first reason that was given.
        message: What is to be told about it.
        error: What to raise once everything under way has ended.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.why: Why = ""
        self.message = ""
        self.error: Exception | None = None

    def __call__(self, why: Why, message: str = "", error: Exception | None = None) -> None:
        if not self.why:
            self.why, self.message, self.error = why, message, error
        self.event.set()


class Work:
    """The rows of one batch on their way to an outcome.

    Args:
        begin: Opens what answers rows; not before there is one to answer.
        index: The outcomes that there are already.
        part: Where rows are written that nobody has to be asked for.
        concurrency: How many rows are under way at a time.
        stop: Says when nothing more is to be asked.
        clock: Where the time comes from.
        retries_failed: Whether rows that have failed before are asked again.
        at_rest: Is told when no other row is begun before one of those that were is done.
        at_end: Is told when every row has been begun.

    Attributes:
        tally: How far it has come.
        seen: For every position, whether there is such a row in the input.
        is_complete: Whether every row has an outcome.
    """

    def __init__(
        self,
        begin: AbstractAsyncContextManager[Keeper],
        *,
        index: Index,
        part: Part,
        concurrency: int,
        stop: Stop,
        clock: Clock,
        retries_failed: bool = False,
        at_rest: Callable[[], None] = lambda: None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.tally = Tally()
        self.seen = bytearray()
        self.is_complete = False
        self._begin = begin
        self._index = index
        self._part = part
        self._concurrency = concurrency
        self._stop = stop
        self._clock = clock
        self._retries_failed = retries_failed
        self._at_rest = at_rest
        self._at_end = at_end
        self._keep: Keeper | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[str, list[Row]] = {}
        self._waiting = 0
        self._left = 0
        self._known: OrderedDict[str, Place] = OrderedDict()

    async def run(self, rows: Iterator[AnyRow], *, is_slow: bool = False) -> None:
        """Answer what is left of these rows.

        Args:
            rows: All rows of the input, in their order.
            is_slow: Whether one may have to be waited for.

        Raises:
            BatchError: outcomes cannot be written down.
            LedgerError: spending cannot be counted.
        """
        source = Ahead(rows) if is_slow else None
        async with AsyncExitStack() as stack:
            syncing = asyncio.create_task(self._sync())
            try:
                is_over = await self._deal(rows, source, stack)
                if is_over:
                    self._at_end()
                if self._tasks:
                    await asyncio.wait(self._tasks)
            finally:
                for task in (syncing, *self._tasks):
                    task.cancel()
                await asyncio.wait({syncing, *self._tasks})
                self.look()
                self._keep, self.tally.calls_in_flight = None, {}
        self.is_complete = is_over and not self._left
        if is_over:
            self.tally.total = self.tally.read
        if self._stop.error is not None:
            raise self._stop.error

    def look(self) -> Tally:
        """How far it has come, and what the deployments are at by now."""
        if self._keep is not None:
            self.tally.breakers = self._keep.breakers()
            self.tally.calls_in_flight = self._keep.calls_in_flight()
        return self.tally

    async def _deal(
        self, rows: Iterator[AnyRow], source: "Ahead | None", stack: AsyncExitStack
    ) -> bool:
        """Begin every row that is to be asked; whether the input has come to its end."""
        while not self._stop.event.is_set():
            try:
                row = next(rows, None) if source is None else await source.next(self._stop.event)
            except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
                self._stop("failure", str(error), error)
                return False
            if row is None:
                return not self._stop.event.is_set()
            while self._waiting >= WAITING:
                self._at_rest()
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_to_be_asked(row) or isinstance(row, BadRow):
                if self.tally.read % TURN == 0:
                    await self._clock.sleep(0)
                continue
            if self._keep is None:
                self._keep = await stack.enter_async_context(self._begin)
            while len(self._tasks) >= self._concurrency:
                self._at_rest()
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.event.is_set():
                self._left += 1
                return False
            self._start(row, self._keep)
        return False

    def _is_to_be_asked(self, row: AnyRow) -> bool:
        """Look at a row: what has come of it already, or can be said without asking anybody."""
        self._see(row.position)
        digest = row.digest if isinstance(row, Row) else ""
        entry = self._index.find(row.position)
        if entry is not None and entry.key != key_of(digest):
            self.tally.changed += 1
            entry = None
        if entry is not None and not (entry.is_failed and self._retries_failed):
            self.tally.found += 1
            self.tally.found_failed += entry.is_failed
            if not entry.is_failed:
                self._remember(digest, entry.place)
            return False
        if isinstance(row, BadRow):
            return self._write(unreadable(row, self._now_s()))
        known = self._known.get(digest)
        if known is not None:
            return self._write(repeated(self._part.read(known), row, self._now_s()))
        if digest in self._under_way:
            self._under_way[digest].append(row)
            self._waiting += 1
            return False
        return True

    def _see(self, position: int) -> None:
        self.tally.read += 1
        missing = position + 1 - len(self.seen)
        if missing > 0:
            self.seen.extend(bytes(missing))
        self.seen[position] = 1

    def _write(self, outcome: Outcome) -> Literal[False]:
        """Write down what nobody has to be asked for."""
        try:
            self._count(Kept(self._part.append(outcome), outcome.status, outcome.cost_nanousd))
        except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
            self._stop("failure", str(error), error)
            self._left += 1
            return False
        self.tally.repeated += outcome.is_repeated
        return False

    def _start(self, row: Row, keep: Keeper) -> None:
        self._under_way[row.digest] = []
        self.tally.in_flight += 1
        task = asyncio.create_task(self._answer(row, keep))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, row: Row, keep: Keeper) -> None:
        """One row, and those that ask the same."""
        kept: Kept | None = None
        digest = row.digest
        try:
            kept = await keep(row)
        except LimitReached as reached:
            self._stop("budget", str(reached))
        except NotAsked:
            pass
        except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
            self._stop("failure", str(error), error)
        finally:
            equals = self._under_way.pop(digest)
            self._waiting -= len(equals)
            self.tally.in_flight -= 1
            if kept is None:
                self._left += 1 + len(equals)
        if kept is None:
            return
        self._count(kept)
        if kept.status != "failed":
            self._remember(digest, kept.place)
        if equals:
            outcome = self._part.read(kept.place)
            for equal in equals:
                self._write(repeated(outcome, equal, self._now_s()))

    def _count(self, kept: Kept) -> None:
        if kept.status == "failed":
            self.tally.failed += 1
        else:
            self.tally.answered += 1
        self.tally.spent_nanousd += kept.cost_nanousd

    def _remember(self, digest: str, place: Place) -> None:
        self._known[digest] = place
        self._known.move_to_end(digest)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _now_s(self) -> float:
        return self._clock.now().timestamp()

    async def _sync(self) -> None:
        """See now and then that what is written outlives the machine."""
        while True:
            await self._clock.sleep(SYNC_S)
            try:
                await asyncio.to_thread(self._part.sync)
            except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
                self._stop("failure", str(error), error)
                return


class Ahead:
    """Rows of a source that takes its time, read in a thread of its own, a few ahead.

    Nobody waits for that thread at the end: it may be in the middle of a read.
    """

    def __init__(self, rows: Iterator[AnyRow]) -> None:
        self._loop = asyncio.get_running_loop()
        self._rows = rows
        self._queue: asyncio.Queue[AnyRow | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        threading.Thread(target=self._read, name="rows", daemon=True).start()

    async def next(self, stopping: asyncio.Event) -> AnyRow | None:
        """The next row; None at the end, or once nothing more is wanted."""
        getting = asyncio.ensure_future(self._queue.get())
        stopped = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({getting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                return None
            found = getting.result()
        finally:
            getting.cancel()
            stopped.cancel()
        self._room.release()
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                for row in self._rows:
                    self._room.acquire()
                    self._put(row)
                self._put(None)
            except Exception as error:  # noqa: BLE001 - it is raised where rows are waited for
                self._put(error)

    def _put(self, found: AnyRow | Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, found)
