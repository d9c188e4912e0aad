"""A shard of a batch: the rows that begin within a range of bytes, answered wherever there is room.

Where the ranges are is written down once, beside the parts, so that every start of the batch has
the same. Of the processes that are at one shard there is one at a time: the next one waits, and
then finds what was answered before it. They need a folder that all of them reach, and no more.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from orchestrator.batch.asking import Options, config_digest, question_of
from orchestrator.batch.files import OutputError, atomically
from orchestrator.batch.job import Order, Result, Run, Watcher, run_batch, source_identity
from orchestrator.batch.parts import Heading, PartsFolder, Scanned
from orchestrator.batch.reading import Index, Mark, index_of, open_rows, rows_between
from orchestrator.batch.sources import InputError, Source, need_file, source_of
from orchestrator.batch.work import Stop, Tally
from orchestrator.batch.writing import write_outcomes
from orchestrator.clock import SystemClock, new_nonce
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import BatchError, BatchInUse
from orchestrator.patterns import PatternLibrary

HEED_S = 0.5  # how soon a shard heeds that nothing more is wanted of it
AGAIN_S = 0.2  # how soon it is looked again whether another process has left a shard
TRIES = 3000  # as often, which is ten minutes; then it is not going to


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How the rows of a batch are shared out.

    Attributes:
        batch: The id of the batch.
        source: Which input it is, and in which state.
        index: Where in its bytes rows are.
        ranges: The first byte of every shard, and the first one behind it.
    """

    batch: str
    source: str
    index: Index
    ranges: tuple[tuple[int, int], ...]


class Unwatched:
    """Nobody is told how a shard goes."""

    period_s = 60.0

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        """Nothing is said."""

    def show(self, tally: Tally) -> None:
        """Nothing is shown."""

    def stopping(self, why: str, tally: Tally) -> None:
        """Nothing is said."""


def order_of(
    rows: str | Path,
    output: str | Path,
    *,
    config: OrchestratorConfig,
    request: RequestConfig,
    template: str = "",
    **more: Any,
) -> Order:
    """An order as `orchestrator batch` would give it, which can be sent to other machines.

    Args:
        rows: The input, a file.
        output: Where outcomes go once every row has one.
        config: The configuration.
        request: What is the same for all rows: the model, the system message, limits.
        template: Makes the prompt of a row's columns; "" takes the row as it is.
        **more: Other fields of the order: `concurrency`, `max_cost_nanousd`.

    Raises:
        InputError: nothing says what the input is.
        OrchestratorError: what is to be asked cannot be.
    """
    source = source_of(Path(rows).absolute())
    path = need_file(source, "Sharing out")
    patterns = PatternLibrary(*([Path(config.patterns_dir)] if config.patterns_dir else []))
    behind = (f"{pattern}/{panel}" for pattern in patterns for panel in config.panels)
    names = frozenset((*config.models, *config.routes, *config.panels, *behind))
    options = Options(request=request, template=template, names=names)
    return Order(
        output=Path(output).absolute(),
        rows=partial(open_rows, source),
        source=source_identity(path),
        config=config,
        ask=partial(question_of, options=options),
        config_digest=config_digest(options, config, patterns),
        write=partial(write_outcomes, replace=True),
        file=source,
        **more,
    )


def divide(order: Order, count: int, *, batch: str = "") -> Division:
    """Share out the rows of a batch, or tell how that was done when it began.

    Any number of processes may call it, at once or later: the first one decides.

    Args:
        order: What is to be done; its `file` says where the rows are.
        count: In how many shards, where that has not been decided before.
        batch: The id of the batch, if it has one.

    Raises:
        InputError: the input is none whose ranges can be read.
        OutputError: the ranges cannot be written down.
    """
    folder = PartsFolder(order.output)
    known = _read(folder.shards)
    if known is not None and known.source == order.source:
        return known
    index = index_of(_file(order))
    made = Division(
        batch=batch or (known.batch if known else new_nonce()[:16]),
        source=order.source,
        index=index,
        ranges=index.ranges(count),
    )
    folder.path.mkdir(mode=0o700, exist_ok=True)
    try:
        with atomically(folder.shards, replace=known is not None) as file:
            file.write(orjson.dumps(made))
    except OutputError:
        # Of several that divide at once one is the first, and its shards are those of all.
        first = _read(folder.shards)
        if first is None or first.source != order.source:
            raise
        return first
    return made


def run_shard(
    order: Order,
    start: int,
    end: int,
    *,
    watcher: Watcher | None = None,
    is_over: Callable[[], bool] | None = None,
) -> Result:
    """Answer the rows of one shard that have no outcome yet; the same function on every machine.

    Outcomes are kept in parts beside the order's output, as those of any batch. It may be killed at
    any moment, and called again anywhere; once all shards are done, `run_batch` with the same order
    asks nobody and writes the output.

    Args:
        order: What is to be done by all shards together. Its `concurrency` is that of this one.
        start: The first byte, from `divide`.
        end: The first byte that is not meant.
        watcher: Who is told how it goes.
        is_over: Tells whether nothing more is to be asked; called in a thread, now and then.

    Raises:
        BatchInUse: another process is at this shard, and does not end.
        BatchError: the batch was not divided, or outcomes cannot be written down.
        InputError: the input cannot be read, or has changed since it was divided.
        LedgerError: spending cannot be counted.
    """
    division = _read(PartsFolder(order.output).shards)
    if division is None or division.source != order.source:
        raise BatchError(
            f"{PartsFolder(order.output).path} does not say how {order.source.partition('|')[0]} "
            "is shared out: all machines need both at the same path of a folder that they share, "
            "in the same state as when `divide` was called"
        )
    shard = _Shard(order, division, start, end, is_over or _never)
    return asyncio.run(shard.run(watcher or Unwatched()))


def collect(order: Order) -> Result:
    """Write the output once all shards are done; a row that has no outcome yet is answered here.

    Raises:
        BatchError: outcomes cannot be read back, or the output cannot be written.
    """
    return run_batch(order, Unwatched())


@dataclass(frozen=True, slots=True)
class _Shard:
    """One range of a batch, and who is at it."""

    order: Order
    division: Division
    start: int
    end: int
    is_over: Callable[[], bool]

    async def run(self, watcher: Watcher) -> Result:
        with ExitStack() as stack:
            if not await self._has_turn(stack):
                return Result(tally=Tally(), why="interrupted", is_complete=False)
            return await self._answer(watcher)

    async def _has_turn(self, stack: ExitStack) -> bool:
        """Wait until no other process is at it; false where nothing is wanted any more."""
        folder, clock = PartsFolder(self.order.output), SystemClock()
        for _ in range(TRIES):
            if await asyncio.to_thread(self.is_over):
                return False
            try:
                stack.enter_context(folder.lock(self._lock))
            except BatchInUse:
                await clock.sleep(AGAIN_S)
            else:
                return True
        raise BatchInUse(
            f"Another process is at the shard {self.start}-{self.end} and does not end; if its "
            f"machine is gone, remove {folder.path / self._lock} and run the same command again"
        )

    @property
    def _lock(self) -> str:
        return f"shard-{self.start}-{self.end}.lock"

    async def _answer(self, watcher: Watcher) -> Result:
        order, folder = self.order, PartsFolder(self.order.output)
        heading = Heading(
            batch=self.division.batch,
            config=order.config_digest,
            source=order.source,
            start=self.start,
            end=self.end,
        )
        rows = partial(rows_between, _file(order), self.start, self.end, self.division.index)
        here = replace(order, rows=rows, workers=1, is_slow=False, total=None)
        run = Run(here, folder, watcher, folder.scan(order.config_digest, heading))
        heeding = asyncio.create_task(_heed(self.is_over, run.stop))
        try:
            _, result = await run.answer(heading, gives_way=True)
        finally:
            heeding.cancel()
        return result


async def _heed(is_over: Callable[[], bool], stop: Stop) -> None:
    clock = SystemClock()
    while not await asyncio.to_thread(is_over):
        await clock.sleep(HEED_S)
    stop("interrupted")


def _never() -> bool:
    return False


def _file(order: Order) -> Source:
    if order.file is None:
        raise InputError("Only a file can be shared out; stdin and others are read by one process")
    return order.file


def _read(path: Path) -> Division | None:
    """What was written down; None if nothing was, or nothing whole."""
    try:
        told: dict[str, Any] = orjson.loads(path.read_bytes())
        index = told["index"]
        marks = tuple(Mark(**mark) for mark in index["marks"])
        ranges = tuple((start, end) for start, end in told["ranges"])
        known = Index(rows=index["rows"], size=index["size"], marks=marks)
        return Division(batch=told["batch"], source=told["source"], index=known, ranges=ranges)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def portable(order: Order) -> Order:
    """The same order without what only one process needs: it can be sent to another machine."""
    return replace(order, rows=_nothing, write=_nothing, watched=(), stamp="")


def _nothing(*_: object) -> Iterator[Any]:
    return iter(())
