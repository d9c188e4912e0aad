"""A whole batch: what is left of it is answered, and what there is becomes the output."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import orjson

from orchestrator.batch.answering import Ask, Plan, answerer
from orchestrator.batch.finished import read_mark, state_of, states_of
from orchestrator.batch.journals import RowJournals
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import Heading, Index, Part, PartsFolder, Scanned, read_part
from orchestrator.batch.processes import crew
from orchestrator.batch.provider import MOST_ROWS, ProviderKeeper, give_up, provider_keeper
from orchestrator.batch.sources import Source
from orchestrator.batch.submitted import Journal
from orchestrator.batch.work import AnyRow, Keeper, LocalKeeper, Stop, Tally, Why, Work
from orchestrator.clock import SystemClock, new_nonce
from orchestrator.config import OrchestratorConfig
from orchestrator.errors import BatchError

# Signals that come so close together are one: `timeout` and some shells send each of theirs twice,
# to the process and to its group.
ONE_PRESS_S = 0.1
SMALL = 500  # rows that are not worth the start of several processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done.

    Attributes:
        output: Where outcomes go once every row has one. Its parts are kept beside it.
        rows: Opens the input, from its first row.
        source: Which input it is, and in which state; "" where nobody can know, as of stdin.
        config: The configuration.
        ask: Turns a row into a request; it can be sent to another process.
        config_digest: What decides on answers, configuration and options.
        write: Writes outcomes to a file, which is whole or not there.
        shape: What decides on the output besides answers: which rows, in which form.
        is_slow: Whether a row may have to be waited for.
        concurrency: How many rows are under way at a time, in all processes together.
        workers: In how many processes; None is one a core, where there are rows enough.
        max_cost_nanousd: The most it may cost; None where nobody has said.
        max_time_s: After how long nothing more is asked.
        retries_failed: Whether rows that have failed before are asked again.
        is_fresh: Whether to forget what there is, and to begin anew.
        is_unordered: Whether outcomes are written in the order in which they came.
        keeps_receipts: Whether outcomes hold the receipts of their runs.
        total: How many rows there are, as far as that is known.
        stamp: A digest of the words that it was started with; "" where nobody keeps that.
        watched: The files that have a say in it, the configuration and others.
        file: The input, where ranges of its bytes may be answered elsewhere.
        in_provider_batches: Whether rows are asked in their providers' own batches.
    """

    output: Path
    rows: Callable[[], Iterator[AnyRow]]
    source: str
    config: OrchestratorConfig
    ask: Ask
    config_digest: str
    write: Callable[[Iterator[Outcome], Path], object]
    shape: str = ""
    is_slow: bool = False
    concurrency: int = 64
    workers: int | None = None
    max_cost_nanousd: int | None = None
    max_time_s: float | None = None
    retries_failed: bool = False
    is_fresh: bool = False
    is_unordered: bool = False
    keeps_receipts: bool = False
    total: int | None = None
    stamp: str = ""
    watched: tuple[Path, ...] = ()
    file: Source | None = None
    in_provider_batches: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What it came to.

    Attributes:
        tally: How far it has come.
        why: Why it has stopped before its end; "" if it has not.
        message: What is to be told about that.
        is_complete: Whether every row has an outcome, and the output is written.
        was_finished: Whether there was nothing to do at all.
    """

    tally: Tally
    why: Why = ""
    message: str = ""
    is_complete: bool = True
    was_finished: bool = False


class Watcher(Protocol):
    """Somebody who is told how it goes."""

    @property
    def period_s(self) -> float:
        """How often."""

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        """What was there already has been read; nothing has been asked yet."""

    def show(self, tally: Tally) -> None:
        """How far it has come."""

    def stopping(self, why: Why, tally: Tally) -> None:
        """Nothing more is asked; what is under way goes on."""


class Working(Protocol):
    """What sees to it that every row has an outcome: here, or on other machines."""

    tally: Tally
    seen: bytearray
    is_complete: bool

    async def run(self) -> None: ...

    def look(self) -> Tally:
        """How far it has come, and what the deployments are at by now."""


@dataclass(slots=True)
class Run:
    """One start of a batch, with the lock taken.

    Attributes:
        order: What is to be done.
        folder: Where the parts are.
        watcher: Who is told how it goes.
        scanned: What was there already.
        unused_nanousd: What was paid for nothing.
        left_nanousd: What was paid for rows that have no outcome; theirs will tell it.
        stop: Says when nothing more is to be asked.
    """

    order: Order
    folder: PartsFolder
    watcher: Watcher
    scanned: Scanned
    unused_nanousd: int = 0
    left_nanousd: int = 0
    stop: Stop = field(default_factory=Stop)
    _provider: ProviderKeeper | None = None

    async def go(self, elsewhere: "Callable[[Run], Working] | None" = None) -> Result:
        """Answer what is left, and write the output once that is all."""
        if elsewhere is None:
            here, result = await self.answer(self.heading())
            seen = here.seen
        else:
            there = elsewhere(self)
            result = await self._until_the_end(there, there.run())
            seen = there.seen
        if result.is_complete:
            self._finish(seen, result.tally)
        return result

    def heading(self) -> Heading:
        """What new parts are headed with."""
        return Heading(
            batch=self.scanned.heading.batch if self.scanned.heading else new_nonce()[:16],
            config=self.order.config_digest,
            source=self.order.source,
        )

    def plan(self, heading: Heading) -> Plan:
        """What a process needs to know of it."""
        order = self.order
        return Plan(
            config=order.config,
            ask=order.ask,
            heading=heading,
            folder=self.folder.path,
            concurrency=order.concurrency,
            max_cost_nanousd=order.max_cost_nanousd,
            keeps_receipts=order.keeps_receipts,
        )

    async def answer(self, heading: Heading, *, gives_way: bool = False) -> tuple[Work, Result]:
        """Answer what is left, in this process and those that it starts.

        Args:
            heading: What parts are headed with.
            gives_way: Whether others may begin parts at the same time.
        """
        order = self.order
        rows, workers = _divided(order)
        number = self.folder.next_number()
        part = Part(self.folder.part(number), heading, gives_way=gives_way)
        tally = Tally(total=order.total, spent_nanousd=self.spent_nanousd)
        work = Work(
            self._keeper(heading, part, workers, tally),
            index=self.scanned.index,
            part=part,
            concurrency=MOST_ROWS if order.in_provider_batches else order.concurrency,
            stop=self.stop,
            clock=SystemClock(),
            retries_failed=order.retries_failed,
            at_rest=partial(self._tell_provider, ProviderKeeper.wait_for),
            at_end=partial(self._tell_provider, ProviderKeeper.no_more),
        )
        work.tally = tally
        try:
            running = work.run(rows, is_slow=order.is_slow)
            return work, await self._until_the_end(work, running)
        finally:
            part.close()

    async def _until_the_end(
        self, work: "Working | Work", running: Coroutine[Any, Any, None]
    ) -> Result:
        is_cut = False
        try:
            async with _ringing(self.order.max_time_s, self.stop), self._watched(work):
                await running
        except asyncio.CancelledError:
            is_cut = True
        if work.is_complete and not is_cut:
            return Result(tally=work.tally)
        message = self.stop.message or _still_away(Journal(self.folder.path))
        return Result(tally=work.tally, why=self.stop.why, message=message, is_complete=False)

    @asynccontextmanager
    async def _keeper(
        self, heading: Heading, part: Part, workers: int, tally: Tally
    ) -> AsyncIterator[Keeper]:
        plan = self.plan(heading)
        spent = self.spent_nanousd + self.left_nanousd
        if self.order.in_provider_batches:
            async with provider_keeper(
                plan,
                stop=self.stop,
                part=part,
                index=self.scanned.index,
                spent_nanousd=spent,
                tell=partial(setattr, tally, "batches"),
            ) as provider:
                self._provider = provider
                yield provider
            return
        if workers > 1:
            async with crew(plan, workers, part, self.stop.event, spent_nanousd=spent) as keeper:
                yield keeper
            return
        async with answerer(plan, self.stop.event, spent_nanousd=spent) as answer:
            yield LocalKeeper(answer, part)

    @property
    def spent_nanousd(self) -> int:
        """What it has cost before, paid for nothing included."""
        return self.scanned.cost_nanousd + self.unused_nanousd

    def _tell_provider(self, what: Callable[[ProviderKeeper], None]) -> None:
        if self._provider is not None:  # once the rows that were begun last have come to it
            asyncio.get_running_loop().call_soon(what, self._provider)

    @asynccontextmanager
    async def _watched(self, work: "Working | Work") -> AsyncIterator[None]:
        """Tell how it goes, and heed who has heard enough: once, or twice for at once."""
        telling = asyncio.create_task(self._tell(work))
        try:
            with _heard(self._interrupted()):
                yield
        finally:
            telling.cancel()
            self.watcher.show(work.look())

    async def _tell(self, work: "Working | Work") -> None:
        clock, told = SystemClock(), False
        stopping = asyncio.ensure_future(self.stop.event.wait())
        try:
            while True:
                tally = work.look()
                self.watcher.show(tally)
                if stopping.done() and not told:
                    told = True
                    self.watcher.stopping(self.stop.why, tally)
                if told:
                    await clock.sleep(self.watcher.period_s)
                else:
                    await clock.first_done([stopping], self.watcher.period_s)
        finally:
            stopping.cancel()

    def _interrupted(self) -> Callable[[], None]:
        task, clock = asyncio.current_task(), SystemClock()
        first_s: float | None = None

        def hear() -> None:
            nonlocal first_s
            if first_s is None:
                first_s = clock.monotonic()
                self.stop("interrupted")
            elif clock.monotonic() - first_s >= ONE_PRESS_S and task is not None:
                task.cancel()

        return hear

    def _finish(self, seen: bytearray, tally: Tally) -> None:
        """Make the output of the parts as they stand on the disk, and write down that it is so."""
        order = self.order
        index = self.folder.scan(order.config_digest).index
        outcomes = _as_they_came if order.is_unordered else _in_order
        order.write(outcomes(self.folder, index, seen), order.output)
        mark = {
            "is": _identity(order),
            "output": state_of(order.output),
            "tally": asdict(tally),
            "stamp": order.stamp,
            "watched": states_of(order.watched),
        }
        RowJournals(self.folder.path, order.config_digest).clear()
        _write_mark(self.folder.mark, orjson.dumps(mark))


def run_batch(
    order: Order, watcher: Watcher, elsewhere: Callable[[Run], Working] | None = None
) -> Result:
    """Answer every row of an input that has no outcome yet, and write the output.

    It may be killed at any moment: run again, it goes on where it was.

    Args:
        order: What is to be done.
        watcher: Who is told how it goes.
        elsewhere: Has rows answered on other machines.

    Raises:
        BatchInUse: another process is at this output.
        BatchError: outcomes cannot be written down or read back.
        LedgerError: spending cannot be counted.
        UnknownPrice: money is limited, and nobody knows what a model costs.
    """
    folder = PartsFolder(order.output)
    with folder.lock():
        journal, rows = Journal(folder.path), RowJournals(folder.path, order.config_digest)
        _need_the_same_way(order, journal)
        if order.is_fresh:
            if left := journal.read().batches:
                asyncio.run(give_up(left, order.config))
            folder.clear()
            journal.clear()
            rows.clear()
        finished = _finished(order)
        if finished is not None:
            return Result(tally=finished, was_finished=True)
        scanned = folder.scan(order.config_digest)
        rows.tidy(scanned.index)
        before = scanned.heading
        watcher.found(
            scanned,
            order,
            source_changed=before is not None and before.source != order.source,
        )
        unused_nanousd = journal.read().unused_nanousd
        run = Run(order, folder, watcher, scanned, unused_nanousd, rows.left_nanousd())
        return asyncio.run(_start(run, elsewhere))


async def _start(run: Run, elsewhere: Callable[[Run], Working] | None) -> Result:
    return await run.go(elsewhere)


def _need_the_same_way(order: Order, journal: Journal) -> None:
    """Refuse to ask rows one by one that are with a provider: they would be paid for twice."""
    left = () if order.in_provider_batches else journal.read().batches
    if left:
        rows, ids = sum(len(one.rows) for one in left), ", ".join(one.id or "?" for one in left)
        raise BatchError(
            f"{rows:,} rows of {order.output} are with a provider (batch {ids}); go on with "
            "--provider-batch, or cancel them and begin anew with --provider-batch --fresh"
        )


def _still_away(journal: Journal) -> str:
    """What goes on at a provider though nobody waits for it here; "" if nothing does."""
    left = [one.id for one in journal.read().batches if one.id]
    if not left:
        return ""
    return f"what is with a provider goes on there, and is collected later: {', '.join(left)}"


def source_identity(path: Path) -> str:
    """Which file it is, and in which state."""
    return f"{path.absolute()}|{state_of(path)}"


def cores() -> int:
    """How many processes have one for each of them."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _divided(order: Order) -> tuple[Iterator[AnyRow], int]:
    """The rows, and in how many processes they are answered: a few are not worth several."""
    rows = order.rows()
    if order.in_provider_batches:
        return rows, 1
    if order.workers is not None or order.is_slow:
        return rows, order.workers or 1
    first = list(islice(rows, SMALL))
    workers = 1 if len(first) < SMALL else min(cores(), order.concurrency)
    return chain(first, rows), workers


# What there is.


def _in_order(folder: PartsFolder, index: Index, seen: bytearray) -> Iterator[Outcome]:
    """Every row's outcome, in the order of the input."""
    return folder.read(place for position, place in index.places() if _is_seen(seen, position))


def _as_they_came(folder: PartsFolder, index: Index, seen: bytearray) -> Iterator[Outcome]:
    """Every row's outcome, in the order in which it was written."""
    for path in folder.paths():
        for outcome, place in read_part(path):
            entry = index.find(outcome.position)
            if entry is not None and entry.place == place and _is_seen(seen, outcome.position):
                yield outcome


def _is_seen(seen: bytearray, position: int) -> bool:
    return position < len(seen) and bool(seen[position])


def _identity(order: Order) -> str:
    """What a finished output must be of to be the one that is wanted; "" if nobody can know."""
    return f"{order.config_digest}|{order.shape}|{order.source}" if order.source else ""


def _finished(order: Order) -> Tally | None:
    """What the batch has come to, if it has ended and nothing has changed since."""
    mark = read_mark(order.output)
    if mark is None or not mark.get("is") == _identity(order) != "":
        return None
    tally = Tally(**mark["tally"])
    if order.retries_failed and tally.all_failed:
        return None
    return Tally(
        read=tally.read,
        found=tally.done,
        found_failed=tally.all_failed,
        spent_nanousd=tally.spent_nanousd,
        total=tally.total,
    )


def _write_mark(path: Path, content: bytes) -> None:
    """Write it whole, or not at all. Without it the next start reads the parts; no more is lost."""
    draft = path.with_suffix(".draft")
    with suppress(OSError):
        draft.write_bytes(content)
        draft.replace(path)


# What ends it early.


@asynccontextmanager
async def _ringing(limit_s: float | None, stop: Stop) -> AsyncIterator[None]:
    """Stop after so long."""
    if limit_s is None:
        yield
        return

    async def ring() -> None:
        await SystemClock().sleep(limit_s)
        stop("time", f"the {limit_s:g} s of --max-time are over")

    bell = asyncio.create_task(ring())
    try:
        yield
    finally:
        bell.cancel()


@contextmanager
def _heard(hear: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM heard, where this is the thread that is told of them."""
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    before = {one: signal.getsignal(one) for one in signals}
    for one in signals:
        loop.add_signal_handler(one, hear)
    try:
        yield
    finally:
        for one, handler in before.items():
            loop.remove_signal_handler(one)
            signal.signal(one, handler)
