"""Rows answered in several processes: dealt out, and dealt again when one of them dies.

Every process has an engine of its own and writes a part of its own; the parent only deals rows and
is told what was written. A process whose parent is gone ends at once.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Literal, NamedTuple

from adapters.config import ModelConfig, RatesConfig
from orchestrator.batch.answering import NotAsked, Plan, answerer, failed, use_of
from orchestrator.batch.journals import RowJournals
from orchestrator.batch.parts import Part, part_path, read_part
from orchestrator.batch.rows import Row
from orchestrator.batch.work import Kept, LocalKeeper, added_up, strictest
from orchestrator.clock import SystemClock
from orchestrator.config import OrchestratorConfig
from orchestrator.errors import BatchError
from orchestrator.garbage import collect_seldom
from orchestrator.panel import describe

DEATHS = 2  # how many of its processes a row may take down
PATIENCE_S = 10.0  # how long processes may take to end of themselves
START_DEATHS = 3  # as many in a row that answer nothing, and there is no point in another
SYNC_S = 1.0  # how much may be lost with the machine's power
TELL_S = 0.5  # how often a process tells what its calls are at, though no row has ended
NO_ROW = -1  # the position of what concerns a whole process
Order = Row | Literal["stop", "end"]  # what the parent says
_spawn = multiprocessing.get_context("spawn")


class Calls(NamedTuple):
    """What a process is at: which deployments it leaves alone, and its calls under way."""

    breakers: dict[str, str]
    in_flight: dict[str, int]


class Told(NamedTuple):
    """What a process says of a row: what has come of it, or why nothing has."""

    position: int
    kept: Kept | None
    calls: Calls
    error: Exception | None = None


IDLE = Calls({}, {})


@dataclass(slots=True, kw_only=True)
class Worker:
    """One of the processes, the line to it, and the rows that it has in hand."""

    process: SpawnProcess
    line: Connection
    part: int
    rows: dict[int, Row] = field(default_factory=dict)
    calls: Calls = IDLE
    has_answered: bool = False


class WorkerDied(BatchError):
    """A process died while it was at a row, more than once."""


def for_one_of(config: OrchestratorConfig, count: int) -> OrchestratorConfig:
    """The configuration of one process of so many: each has its share of what a model allows.

    What a minute allows is left whole where Redis counts it for all of them.
    """
    divided = ("concurrency",) if config.limits is not None else tuple(RatesConfig.model_fields)
    models = {name: _shared(model, divided, count) for name, model in config.models.items()}
    return config.model_copy(update={"models": models})


def _shared(model: ModelConfig, divided: tuple[str, ...], count: int) -> ModelConfig:
    rates = model.rates
    shares = {
        name: max(1, allowed // count)
        for name in divided
        if (allowed := getattr(rates, name)) is not None
    }
    return model.model_copy(update={"rates": rates.model_copy(update=shares)}) if shares else model


class Crew:
    """The processes, and which of them has which row.

    Args:
        plan: What each of them is to do.
        part: Where the parent writes rows that no process survives.
        stopping: Is set when nothing more is to be asked.
    """

    def __init__(self, plan: Plan, part: Part, stopping: asyncio.Event) -> None:
        self._plan = plan
        self._part = part
        self._journals = RowJournals(plan.folder, plan.heading.config)
        self._stopping = stopping
        self._number = part.number
        self._loop = asyncio.get_running_loop()
        self._workers: list[Worker] = []
        self._waiting: dict[int, asyncio.Future[Kept]] = {}
        self._deaths: dict[int, int] = {}
        self._alone = asyncio.Lock()
        self._idle_deaths = 0
        self._is_ending = False

    def hire(self) -> None:
        """Start a process."""
        self._number += 1
        line, other_end = _spawn.Pipe()
        process = _spawn.Process(target=_serve, args=(self._plan, self._number, other_end))
        process.start()
        other_end.close()
        worker = Worker(process=process, line=line, part=self._number)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    async def __call__(self, row: Row) -> Kept:
        """Have a row answered by whoever has least to do."""
        while True:
            deaths = self._deaths.get(row.position, 0)
            try:
                if deaths:  # of those that may take a process down there is one at a time
                    async with self._alone:
                        return await self._dealt(row)
                return await self._dealt(row)
            except WorkerDied as died:
                self._deaths[row.position] = deaths + 1
                if deaths + 1 >= DEATHS:
                    return self.given_up(row, died)

    async def _dealt(self, row: Row) -> Kept:
        if self._stopping.is_set():
            raise NotAsked
        if not self._workers:
            raise BatchError(
                "The processes that answer rows end as soon as they have begun; --workers 1 does "
                "without them, and shows why"
            )
        worker = min(self._workers, key=lambda one: len(one.rows))
        done: asyncio.Future[Kept] = self._loop.create_future()
        self._waiting[row.position] = done
        worker.rows[row.position] = row
        with suppress(OSError):  # it has died, which its line tells
            worker.line.send(row)
        try:
            return await done
        finally:
            self._waiting.pop(row.position, None)
            worker.rows.pop(row.position, None)

    def given_up(self, row: Row, died: WorkerDied) -> Kept:
        """Write down that a row has no answer, and what it has cost all the same."""
        journal = self._journals.of(row)
        outcome = replace(failed(row, died), use=use_of((), journal.paid()))
        kept = Kept(self._part.append(outcome), outcome.status, outcome.cost_nanousd)
        journal.remove()
        return kept

    def breakers(self) -> dict[str, str]:
        return strictest(one.calls.breakers for one in self._workers)

    def calls_in_flight(self) -> dict[str, int]:
        return added_up(one.calls.in_flight for one in self._workers)

    def _listen(self, worker: Worker) -> None:
        """Hear what a process tells, in a thread of its own, until it is gone."""
        with suppress(EOFError, OSError, RuntimeError):
            while True:
                told = worker.line.recv()
                self._loop.call_soon_threadsafe(self._hear, worker, told)
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._bury, worker)

    def _hear(self, worker: Worker, told: Told | Calls) -> None:
        if isinstance(told, Calls):
            worker.calls = told
            return
        if told.position == NO_ROW:
            for position in worker.rows:
                self._hear(worker, told._replace(position=position))
            return
        worker.has_answered = True
        worker.calls = told.calls
        waiting = self._waiting.get(told.position)
        if waiting is None or waiting.done():
            return
        if told.kept is not None:
            waiting.set_result(told.kept)
        else:
            waiting.set_exception(told.error or NotAsked())

    def _bury(self, worker: Worker) -> None:
        """A process has ended. What it had written counts; what it had in hand is dealt again."""
        self._workers.remove(worker)
        worker.line.close()
        written = {
            outcome.position: Kept(place, outcome.status, outcome.cost_nanousd)
            for outcome, place in read_part(part_path(self._plan.folder, worker.part))
            if outcome.position in worker.rows
        }
        for position in tuple(worker.rows):
            waiting = self._waiting.get(position)
            if waiting is None or waiting.done():
                continue
            if position in written:
                waiting.set_result(written[position])
            else:
                waiting.set_exception(
                    WorkerDied("The process that answered it has died, and so did the next one")
                )
        self._idle_deaths = 0 if worker.has_answered else self._idle_deaths + 1
        if not self._is_ending and self._idle_deaths < START_DEATHS:
            self.hire()

    async def end(self) -> None:
        """Have all processes end, and wait for them; who takes too long is killed."""
        self._is_ending = True
        for worker in self._workers:
            with suppress(OSError):
                worker.line.send("end")
        for worker in tuple(self._workers):
            await asyncio.to_thread(worker.process.join, PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                await asyncio.to_thread(worker.process.join)

    def tell_to_stop(self) -> None:
        """Have nobody wait for what will not come any more."""
        for worker in self._workers:
            with suppress(OSError):
                worker.line.send("stop")


@asynccontextmanager
async def crew(
    plan: Plan, count: int, part: Part, stopping: asyncio.Event, *, spent_nanousd: int = 0
) -> AsyncIterator[Crew]:
    """So many processes that answer rows.

    Args:
        plan: What is to be done by all together.
        count: How many there are.
        part: Where the parent writes.
        stopping: Is set when nothing more is to be asked.
        spent_nanousd: What rows have cost before, for a ledger that has not heard of it.
    """
    if plan.max_cost_nanousd is not None:
        async with answerer(plan, stopping, spent_nanousd=spent_nanousd):
            pass  # the ledger is made, and told, before several would
    share = replace(
        plan,
        config=for_one_of(plan.config, count),
        concurrency=-(-plan.concurrency // count),
    )
    made = Crew(share, part, stopping)
    for _ in range(count):
        made.hire()

    async def pass_on() -> None:
        await stopping.wait()
        made.tell_to_stop()

    passing = asyncio.create_task(pass_on())
    try:
        yield made
    finally:
        passing.cancel()
        await made.end()


# In the process.


def _serve(plan: Plan, number: int, line: Connection) -> None:
    """What a process does. Ctrl-C goes to all processes of a terminal: the parent passes it on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_seldom()
    asyncio.run(_answer(plan, number, line))


async def _answer(plan: Plan, number: int, line: Connection) -> None:
    stopping = asyncio.Event()
    rows: asyncio.Queue[Row | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hear(order: Order) -> None:
        loop.call_soon_threadsafe(_heed, rows, stopping, order)

    threading.Thread(target=_receive, args=(line, hear), daemon=True).start()
    part = Part(part_path(plan.folder, number), plan.heading)
    syncing = asyncio.create_task(_sync(part))
    try:
        async with answerer(plan, stopping) as answer:
            keep = LocalKeeper(answer, part)
            telling = asyncio.create_task(_tell_calls(keep, line))
            try:
                await _answer_all(rows, keep, line)
            finally:
                telling.cancel()
    except Exception as error:  # noqa: BLE001 - the parent tells it, once for all processes
        line.send(Told(NO_ROW, None, IDLE, BatchError(describe(error))))
    finally:
        syncing.cancel()
        part.close()


async def _answer_all(
    rows: "asyncio.Queue[Row | None]", keep: LocalKeeper, line: Connection
) -> None:
    """Answer rows as they are dealt, until the parent wants no more of it."""
    tasks: set[asyncio.Task[None]] = set()
    while (row := await rows.get()) is not None:
        task = asyncio.create_task(_answer_one(row, keep, line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _answer_one(row: Row, keep: LocalKeeper, line: Connection) -> None:
    try:
        told = Told(row.position, await keep(row), _calls(keep))
    except Exception as error:  # noqa: BLE001 - the parent decides what it means for the others
        told = Told(row.position, None, _calls(keep), error)
    with suppress(OSError):  # the parent is gone, and this process goes as well
        line.send(told)


def _calls(keep: LocalKeeper) -> Calls:
    return Calls(keep.breakers(), keep.calls_in_flight())


async def _tell_calls(keep: LocalKeeper, line: Connection) -> None:
    """Tell now and then what the calls are at: rows that take long would leave it unsaid."""
    clock = SystemClock()
    while True:
        await clock.sleep(TELL_S)
        with suppress(OSError):  # the parent is gone, and this process goes as well
            line.send(_calls(keep))


def _heed(rows: "asyncio.Queue[Row | None]", stopping: asyncio.Event, order: Order) -> None:
    """Do what the parent says."""
    if isinstance(order, Row):
        rows.put_nowait(order)
        return
    stopping.set()
    if order == "end":
        rows.put_nowait(None)


def _receive(line: Connection, hear: Callable[[Order], None]) -> None:
    """Hear what the parent says, in a thread of its own; without a parent nobody is left to ask."""
    with suppress(EOFError, OSError):
        while True:
            order = line.recv()
            hear(order)
            if order == "end":
                return
    os._exit(1)


async def _sync(part: Part) -> None:
    """See now and then that what is written outlives the machine."""
    clock = SystemClock()
    while True:
        await clock.sleep(SYNC_S)
        with suppress(BatchError):  # the next row that is written says it
            await asyncio.to_thread(part.sync)
