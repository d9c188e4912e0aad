"""One thread that owns a ledger's connection and commits together what waits together."""

import os
import threading
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from orchestrator import windows
from orchestrator.clock import Clock, new_nonce
from orchestrator.errors import LedgerError, OrchestratorError
from orchestrator.ledger_book import Book
from orchestrator.ledger_database import Address, connect, drop, explained, is_locked, is_lost
from orchestrator.owners import Owner, this_process

T = TypeVar("T")

MOST_TOGETHER = 256  # operations in one transaction, so that other processes come in between
UPKEEP_S = 30.0  # how often holds are looked for that nobody is left to settle
LOOK_S = 1.0  # how often it is made sure that the file is still the one that was opened
PAUSE_S = 0.02  # between two tries to get a lock where the database itself does not wait


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """Something to be done with the books, and who waits for it.

    Attributes:
        work: What to do.
        until_s: How long it may wait for a lock, on the monotonic clock.
        writes: Whether it needs a transaction.
        future: Who is told; nobody, if None.
        undo: What to do if it was done and whoever asked for it cannot be told.
        is_last: Nothing comes after it.
    """

    work: Callable[[Book], Any]
    until_s: float
    writes: bool = True
    future: Future[Any] | None = None
    undo: Callable[[Book], Any] | None = None
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of an operation."""

    of: Operation
    value: Any = None
    error: Exception | None = None


class Writer:
    """Takes operations from any thread and any loop; the thread does them in their order.

    Args:
        address: Where the ledger is.
        clock: Where the time comes from.
        keep_days: How long usage, receipts and closed windows are kept.
        wait_s: How long opening it may wait for a lock.
    """

    def __init__(self, address: Address, clock: Clock, *, keep_days: int, wait_s: float) -> None:
        self._address = address
        self._clock = clock
        self._keep_days = keep_days
        self._wait_s = wait_s
        self._owner = this_process(new_nonce())
        self._queue: SimpleQueue[Operation] = SimpleQueue()
        self._door = threading.Lock()  # so that nothing gets in behind the last operation
        self._closed = "The ledger is not open; call open() first"  # why nothing is taken
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to take operations.

        Raises:
            LedgerError: it has begun before.
        """
        if self._thread.ident is not None:
            raise LedgerError("The ledger has been opened before; make another one")
        self._closed = ""
        self._thread.start()

    async def close(self, wait_s: float) -> None:
        """Do what was submitted, settle in full what is still held here, and disconnect."""
        if not self._closed and os.getpid() == self._owner.pid:
            await self.submit(lambda book: book.recover(ours=True), wait_s, is_last=True)
            self._thread.join()  # it has nothing left to do

    def submit(
        self,
        work: Callable[[Book], T],
        wait_s: float,
        *,
        writes: bool = True,
        undo: Callable[[Book], object] | None = None,
        is_last: bool = False,
    ) -> "Future[T]":
        """Have something done, even if whoever waits for it is cancelled."""
        future: Future[T] = get_running_loop().create_future()
        until_s = self._clock.monotonic() + wait_s
        closed = self._put(Operation(work, until_s, writes, future, undo, is_last))
        if closed:
            future.set_exception(LedgerError(closed))
        return future

    def do(self, work: Callable[[Book], object], wait_s: float) -> None:
        """Have something done that nobody waits for."""
        self._put(Operation(work, self._clock.monotonic() + wait_s))

    def _put(self, operation: Operation) -> str:
        """Why an operation was not taken; empty if it was."""
        if os.getpid() != self._owner.pid:
            return "The ledger was opened by the process this one was forked from; open another"
        with self._door:
            if not self._closed:
                self._queue.put(operation)
                self._closed = "The ledger is closed" if operation.is_last else ""
                return ""
            return self._closed

    def _work(self) -> None:
        # In a local variable and nowhere else: in the child of a fork, where this thread does not
        # run, nothing can then reach the connection, not even to close it.
        session = _Session(self._address, self._clock, self._owner, self._keep_days)
        try:
            session.open(self._wait_s)
        except Exception as error:  # noqa: BLE001 (whatever it is, whoever waits is told)
            self._refuse(explained(error, self._address))
            return
        waiting: list[Operation] = []
        last: Operation | None = None
        while waiting or last is None:
            if last is None:
                waiting += self._take(block=not waiting)
                last = waiting.pop() if waiting and waiting[-1].is_last else None
            outcomes, waiting = session.run(waiting)
            self._tell(outcomes)
        assert last is not None, "the loop goes on until it has come"
        self._tell(session.close(last))

    def _take(self, *, block: bool) -> list[Operation]:
        """What waits now, in its order, up to the last there will be."""
        queue = self._queue
        if queue.empty() and not block:
            return []
        taken = [queue.get()]
        while not queue.empty() and len(taken) < MOST_TOGETHER and not taken[-1].is_last:
            taken.append(queue.get())
        return taken

    def _refuse(self, error: LedgerError) -> None:
        with self._door:
            self._closed = str(error)
        while not self._queue.empty():
            self._tell([Outcome(self._queue.get(), error=error)])

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Tell everyone who waits, each loop in one go."""
        by_loop: dict[AbstractEventLoop, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.of.future is not None:
                by_loop.setdefault(outcome.of.future.get_loop(), []).append(outcome)
        for loop, told in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, told)
            except RuntimeError:  # the loop is closed
                for outcome in told:
                    if outcome.of.undo is not None and outcome.error is None:
                        self.do(outcome.of.undo, self._wait_s)


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        future = outcome.of.future
        assert future is not None, "somebody waits for it"
        if future.done():  # whoever waited was cancelled
            continue
        if outcome.error is None:
            future.set_result(outcome.value)
        else:
            future.set_exception(outcome.error)


class _Session:
    """What the thread has open, and how it gets operations done."""

    def __init__(self, address: Address, clock: Clock, owner: Owner, keep_days: int) -> None:
        self._address = address
        self._clock = clock
        self._owner = owner
        self._keep_days = keep_days
        self._pruned_on = -1
        self._next_upkeep_s = 0.0
        self._next_look_s = 0.0
        self._is_lost = False
        self._is_ending = False  # the transaction: from here on it may have been done
        self._pause = threading.Event()  # is never set

    def open(self, wait_s: float) -> None:
        """Connect, and settle what nobody is left to settle; wait so long for a lock."""
        until_s = self._clock.monotonic() + wait_s
        while True:
            try:
                return self._connect()
            except Exception as error:
                if not is_locked(error) or self._clock.monotonic() >= until_s:
                    raise
            self._pause.wait(PAUSE_S)

    def _connect(self) -> None:
        connection = connect(self._address)
        try:
            self._book = Book(connection, self._owner)
            self._file = self._identity()
            self._transact([Operation(self._keep_up, 0.0)])
        except BaseException:
            drop(connection)
            raise
        self._is_lost = False

    def _hang_up(self) -> None:
        """The server is gone: whatever comes next has to connect anew."""
        self._is_lost = True
        drop(self._book.connection)

    def _identity(self) -> tuple[int, int] | None:
        """Which file the name stands for."""
        if self._address.file is None:
            return None
        try:
            found = self._address.file.stat()
        except FileNotFoundError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def _look_for_the_file(self) -> None:
        """See that it is still there: one that is open can be removed, and nobody would notice."""
        now_s = self._clock.monotonic()
        if now_s < self._next_look_s:
            return
        if self._identity() != self._file:
            raise LedgerError(f"{self._address.name} was removed or replaced while it was open")
        self._next_look_s = now_s + LOOK_S

    def close(self, last: Operation) -> list[Outcome]:
        """Do the last operation and disconnect."""
        outcomes, waiting = self.run([last])
        while waiting:
            outcomes, waiting = self.run(waiting)
        self._book.connection.close()
        return outcomes

    def run(self, operations: Sequence[Operation]) -> tuple[list[Outcome], list[Operation]]:
        """What came of operations, and those that still wait for a lock."""
        now_s = self._clock.monotonic()
        writing = [operation for operation in operations if operation.writes]
        only_writes = len(writing) == len(operations)
        if now_s >= self._next_upkeep_s:
            writing.insert(0, Operation(self._keep_up, now_s))
        outcomes, waiting = self._write(writing) if writing else ([], [])
        if not only_writes:
            outcomes += [self._read(one) for one in operations if not one.writes]
        return outcomes, waiting

    def _keep_up(self, book: Book) -> None:
        self._next_upkeep_s = self._clock.monotonic() + UPKEEP_S
        book.recover()
        if self._address.is_memory:
            book.trim()
        if self._pruned_on != book.now_ms // windows.DAY_MS:
            self._pruned_on = book.now_ms // windows.DAY_MS
            book.prune(self._keep_days)

    def _write(
        self, operations: Sequence[Operation], *, again: bool = False
    ) -> tuple[list[Outcome], list[Operation]]:
        """Do them in one transaction; if that fails, each in one of its own."""
        try:
            if self._is_lost:
                self._connect()
            return self._transact(operations), []
        except Exception as error:  # noqa: BLE001 (whatever it is, whoever waits is told)
            if is_locked(error):
                return self._wait(operations, error)
            if not self._is_lost and is_lost(error, self._book.connection):
                self._hang_up()
                # Where it broke off at the very end, it may have been done.
                if not again and not self._is_ending:
                    return self._write(operations, again=True)
            if self._is_lost or len(operations) == 1:
                return self._failed(operations, error), []
        outcomes: list[Outcome] = []
        waiting: list[Operation] = []
        for operation in operations:
            done, waits = self._write([operation])
            outcomes += done
            waiting += waits
        return outcomes, waiting

    def _transact(self, operations: Sequence[Operation]) -> list[Outcome]:
        self._look_for_the_file()
        self._is_ending = False
        try:
            self._book.begin(windows.milliseconds(self._clock.now()))
            outcomes = [self._done(operation) for operation in operations]
            self._is_ending = True
            self._book.commit()
        except BaseException:
            self._book.rollback()
            raise
        return outcomes

    def _done(self, operation: Operation) -> Outcome:
        """What came of it. An error of ours means that it has changed nothing; no other may."""
        try:
            return Outcome(operation, operation.work(self._book))
        except OrchestratorError as error:
            return Outcome(operation, error=error)

    def _read(self, operation: Operation, *, again: bool = False) -> Outcome:
        try:
            if self._is_lost:
                self._connect()
            self._book.see(windows.milliseconds(self._clock.now()))
            return self._done(operation)
        except Exception as error:  # noqa: BLE001 (whatever it is, whoever waits is told)
            if not self._is_lost and is_lost(error, self._book.connection):
                self._hang_up()
                if not again:
                    return self._read(operation, again=True)
            return self._failed([operation], error)[0]

    def _wait(
        self, operations: Sequence[Operation], error: Exception
    ) -> tuple[list[Outcome], list[Operation]]:
        """Let those wait on that may."""
        now_s = self._clock.monotonic()
        late = [operation for operation in operations if operation.until_s <= now_s]
        self._pause.wait(PAUSE_S)
        return self._failed(late, error), [one for one in operations if one not in late]

    def _failed(self, operations: Sequence[Operation], error: Exception) -> list[Outcome]:
        told = explained(error, self._address)
        told.__cause__ = None if told is error else error
        return [Outcome(operation, error=told) for operation in operations]
