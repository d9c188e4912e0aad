"""Have rows answered by providers' own batches: within a day, for half the price.

A row is first written as the call that it would be, by the engine itself, up to where it would be
sent. Rows of one deployment go to its provider together. What comes back passes the same engine as
an answer would that came at once, so an outcome looks the same on both ways.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from adapters.base import BaseAdapter
from adapters.batches import (
    MOST_LINES,
    BatchReply,
    BatchStatus,
    forgotten_reply,
    missing_reply,
    write_line,
)
from adapters.errors import InvalidRequest, ModelNotFound, ProviderError
from adapters.factory import create_adapter
from adapters.prices import price_of
from orchestrator.amounts import Caps, Scope
from orchestrator.batch.answering import (
    HOLD_S,
    MOST_NANOUSD,
    Answerer,
    NotAsked,
    Plan,
    Purse,
)
from orchestrator.batch.deferring import (
    SLOT,
    DeferringAdapter,
    PaidBefore,
    Room,
    Slot,
    batched,
    only_plain,
)
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import Index, Part
from orchestrator.batch.rows import Row
from orchestrator.batch.submitted import Journal, Submitted
from orchestrator.batch.work import Kept, Stop
from orchestrator.clock import Clock, SystemClock, new_nonce
from orchestrator.config import OrchestratorConfig, ledger_url
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import BatchError
from orchestrator.ledger import Ledger

MOST_ROWS = 2 * MOST_LINES  # under way at a time: with a provider, or on their way to one
MOST_BYTES = 64 * 2**20  # of one batch: less than a provider takes, for all of it is in memory
TRIES = 6  # to submit a batch
FIRST_S, MOST_S = 0.05, 60.0  # between two looks at a batch: twice as long each time


@dataclass(slots=True, eq=False)
class _Lot:
    """Rows of one deployment that go to its provider together.

    Attributes:
        of: What is written down of it.
        lines: What is to be sent; nothing any more once it has been.
        size: In bytes.
        open: The positions of the rows that have no outcome yet.
        joined: Those of them that somebody waits for.
        cost_nanousd: What those have cost that were read.
        unused_nanousd: What those have cost that nobody wants any more.
        state: How it is getting on.
        ready: Is set once the replies are there, or none will come.
        replies: What has come of its lines, by their ids; None before that.
        missing: What to take for the reply of a line without one.
        failure: Why none will come.
    """

    of: Submitted
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    open: set[int] = field(default_factory=set)
    joined: set[int] = field(default_factory=set)
    cost_nanousd: int = 0
    unused_nanousd: int = 0
    state: str = "submitting"
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[str, BatchReply] | None = None
    missing: BatchReply | None = None
    failure: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self.ready.set()

    def reply(self, position: int) -> BatchReply:
        """What has come of a row's line."""
        assert self.replies is not None
        assert self.missing is not None
        return self.replies.get(_line_id(position, self.of.rows[position]), self.missing)


def _line_id(position: int, digest: str) -> str:
    return f"{position}-{digest[:16]}"


class ProviderKeeper:
    """Answers rows in batches of their providers, and writes down what has come of them.

    Attributes:
        write: Takes a row as far as its call.
        read: Takes it on from the reply.
        room: What it may cost; None where nobody has said.

    Args:
        adapters: Who asks the providers, by deployment.
        config: The configuration.
        config_digest: What decides on answers.
        part: Where outcomes are written.
        index: The outcomes that there are already.
        journal: Where it is written down which rows are with a provider.
        stop: Says when nothing more is to be asked.
        clock: Where the time comes from.
        tell: Is told how the batches are getting on, each by its id.
        concurrency: How many rows are written or read at a time.
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, BaseAdapter],
        config: OrchestratorConfig,
        config_digest: str,
        part: Part,
        index: Index,
        journal: Journal,
        stop: Stop,
        clock: Clock,
        tell: Callable[[dict[str, str]], None],
        concurrency: int,
    ) -> None:
        self.write: Callable[[Row], Awaitable[Outcome]]
        self.read: Callable[[Row], Awaitable[Outcome]]
        self.room: Room | None = None
        self._adapters = adapters
        self._config = config
        self._digest = config_digest
        self._part = part
        self._index = index
        self._journal = journal
        self._stop = stop
        self._clock = clock
        self._tell = tell
        # Of their own each: rows that wait for room must not be in the way of those that make it.
        self._writing = asyncio.Semaphore(concurrency)
        self._reading = asyncio.Semaphore(concurrency)
        self._coming = 0  # rows that are here and not in a lot yet
        self._active = 0  # those of them whose turn it is
        self._is_over = False
        self._is_waited_for = False
        self._filling: dict[str, _Lot] = {}
        self._lots: list[_Lot] = []
        self._carrying: set[asyncio.Task[None]] = set()

    def breakers(self) -> dict[str, str]:
        return {}

    def calls_in_flight(self) -> dict[str, int]:
        return {}  # how batches are getting on is told of each of them

    async def __call__(self, row: Row) -> Kept:
        self._is_waited_for = False
        slot = Slot()
        SLOT.set(slot)
        lot = self._find(row)
        if lot is None:
            found = await self._begin(row, slot)
            if isinstance(found, Outcome):
                return self._keep(found)
            lot = found
        await lot.ready.wait()
        if lot.failure is not None:
            raise lot.failure
        slot.reply = lot.reply(row.position)
        async with self._reading:
            kept = self._keep(await self.read(row))
        lot.cost_nanousd += kept.cost_nanousd
        lot.open.discard(row.position)
        self._end_if_done(lot)
        return kept

    def _keep(self, outcome: Outcome) -> Kept:
        return Kept(self._part.append(outcome), outcome.status, outcome.cost_nanousd)

    def _find(self, row: Row) -> _Lot | None:
        """Where a row is already that was submitted before."""
        for lot in self._lots:
            if row.position in lot.open and lot.of.rows[row.position] == row.digest:
                lot.joined.add(row.position)
                return lot
        return None

    # On the way to a provider.

    async def _begin(self, row: Row, slot: Slot) -> Outcome | _Lot:
        """Write a row's call; its lot, or its outcome where there is nothing to ask."""
        self._coming += 1
        try:
            async with self._writing:
                self._active += 1
                try:
                    outcome = await self.write(row)
                finally:
                    self._active -= 1
            if slot.body:
                return self._join(row, slot)
            return outcome
        finally:
            self._coming -= 1
            self._submit_what_waits()

    def _join(self, row: Row, slot: Slot) -> _Lot:
        if self._stop.event.is_set():
            raise NotAsked
        line = write_line(_line_id(row.position, row.digest), slot.body)
        lot = self._filling.get(slot.deployment)
        if lot is not None and (lot.size + len(line) > MOST_BYTES or len(lot.lines) >= MOST_LINES):
            self._submit(lot)
            lot = None
        if lot is None:
            key = new_nonce()[:32]
            lot = _Lot(Submitted(key=key, deployment=slot.deployment, config=self._digest, rows={}))
            self._filling[slot.deployment] = lot
        lot.lines.append(line)
        lot.size += len(line)
        lot.open.add(row.position)
        lot.joined.add(row.position)
        lot.of = replace(
            lot.of,
            rows=_with(lot.of.rows, row.position, row.digest),
            worst_nanousd=lot.of.worst_nanousd + slot.held_nanousd,
        )
        return lot

    def _submit_what_waits(self) -> None:
        """Submit lots that nothing more will join before something has come back."""
        waiting = self.room.waiting if self.room else 0
        no_more = self._is_over or self._is_waited_for
        if (no_more and not self._coming) or (waiting and self._active == waiting):
            for lot in list(self._filling.values()):
                self._submit(lot)

    def blocked(self) -> None:
        """A row waits for room, which only what has come back can make."""
        self._submit_what_waits()

    def wait_for(self) -> None:
        """No other row comes before some of these are done."""
        self._is_waited_for = True
        self._submit_what_waits()

    def no_more(self) -> None:
        """All rows have come."""
        self._is_over = True
        self._submit_what_waits()
        for lot in list(self._lots):
            self._end_if_done(lot)

    def _submit(self, lot: _Lot) -> None:
        self._filling.pop(lot.of.deployment, None)
        self.carry(lot)

    def carry(self, lot: _Lot) -> None:
        """See a lot through, from here to its replies."""
        self._lots.append(lot)
        task = asyncio.create_task(self._carry(lot))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, lot: _Lot) -> None:
        try:
            if not lot.of.id:
                await self._hand_in(lot)
            await self._follow(lot)
            lot.ready.set()
            self._end_if_done(lot)
        except asyncio.CancelledError:
            lot.fail(NotAsked())
            raise
        except ProviderError as error:
            where = f"batch {lot.of.id}" if lot.of.id else "a batch"
            said = f"{where} of {lot.of.deployment!r}: {type(error).__name__}: {error}"
            lot.fail(BatchError(f"{said}; the same command goes on with it"))
        except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
            lot.fail(error)

    async def _hand_in(self, lot: _Lot) -> None:
        """Submit a lot. What is written down first finds it again if this process ends here."""
        adapter, lines = self._adapters[lot.of.deployment], b"".join(lot.lines)
        lot.lines.clear()
        self._journal.planned(lot.of)
        for tries in range(TRIES):
            try:
                # An attempt that failed may have been taken all the same.
                found = await adapter.find_batch(lot.of.key) if tries else None
                self.have(lot, found or await adapter.submit_batch(lines, tag=lot.of.key))
            except ProviderError as error:
                if not error.retryable or tries == TRIES - 1:
                    if tries == 0 and 400 <= error.status_code < 500:  # it was surely not taken
                        self._journal.ended(lot.of.key)
                    raise
                await self._wait(max(error.retry_after_s or 0.0, FIRST_S * 4**tries))
            else:
                return

    def have(self, lot: _Lot, found: BatchStatus) -> None:
        """The provider has it."""
        self._journal.submitted(lot.of.key, found.id)
        lot.of = replace(lot.of, id=found.id)
        self._show(lot, found.state)

    async def _follow(self, lot: _Lot) -> None:
        """Look at it, more and more seldom, until it is over; take what has come of it."""
        adapter, wait_s = self._adapters[lot.of.deployment], FIRST_S
        while True:
            try:
                status = await adapter.poll_batch(lot.of.id)
                if status.is_over:
                    lot.replies = await adapter.collect_batch(status)
                    lot.missing = missing_reply(status)
                    self._show(lot, "")
                    return
                self._show(
                    lot, f"{status.state} {status.completed + status.failed:,}/{len(lot.of.rows):,}"
                )
            except ModelNotFound:
                lot.replies, lot.missing = {}, forgotten_reply(lot.of.id)
                self._show(lot, "")
                return
            except ProviderError as error:
                if not error.retryable:
                    raise
                wait_s = max(wait_s, error.retry_after_s or 0.0)
            await self._wait(wait_s)
            wait_s = min(2 * wait_s, MOST_S)

    async def _wait(self, delay_s: float) -> None:
        bell = asyncio.ensure_future(self._stop.event.wait())
        try:
            await self._clock.first_done([bell], delay_s)
        finally:
            bell.cancel()
        if self._stop.event.is_set():
            raise NotAsked

    def _show(self, lot: _Lot, state: str) -> None:
        lot.state = state
        self._tell({one.of.id: one.state for one in self._lots if one.of.id and one.state})

    # On the way back.

    def _end_if_done(self, lot: _Lot) -> None:
        """Write down that nothing of it is wanted any more, once that is so."""
        if lot.replies is None or lot not in self._lots:
            return
        if self._is_over:  # rows that have changed, or are not in the input any more
            for position in lot.open - lot.joined:
                lot.open.discard(position)
                lot.unused_nanousd += self._cost(lot, position)
        if lot.open:
            return
        self._lots.remove(lot)
        self._journal.ended(lot.of.key, unused_nanousd=lot.unused_nanousd)
        if self.room is not None:
            self.room.give_back(lot.of.worst_nanousd, lot.cost_nanousd + lot.unused_nanousd)

    def _cost(self, lot: _Lot, position: int) -> int:
        """What a reply cost that nobody wants any more."""
        reply, price = lot.reply(position), price_of(self._config.models[lot.of.deployment])
        return price.cost_nanousd(reply.usage) if price and reply.status == 200 else 0

    async def attend(self) -> None:
        """Have those heard that wait, when nothing more is to be asked."""
        await self._stop.event.wait()
        for lot in self._filling.values():
            lot.fail(NotAsked())
        if self.room is not None:
            self.room.wake()

    async def aclose(self) -> None:
        """Leave what is with a provider to itself, but for what nobody will ever ask for."""
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)
        if self._is_over and not self._stop.event.is_set():
            for lot in self._lots:
                with suppress(ProviderError):
                    await self._adapters[lot.of.deployment].cancel_batch(lot.of.id)
                self._journal.ended(lot.of.key, unused_nanousd=lot.of.worst_nanousd)


def _with(rows: Mapping[int, str], position: int, digest: str) -> Mapping[int, str]:
    assert isinstance(rows, dict)
    rows[position] = digest
    return rows


@asynccontextmanager
async def provider_keeper(
    plan: Plan,
    *,
    stop: Stop,
    part: Part,
    index: Index,
    spent_nanousd: int,
    tell: Callable[[dict[str, str]], None],
) -> AsyncIterator[ProviderKeeper]:
    """Everything that rows are answered with in batches of their providers."""
    if plan.config.budgets.windows:
        raise BatchError(
            "budgets.windows cannot hold for a day what a provider's batch may come to; limit it "
            "with --max-cost and a configuration without windows, or ask without --provider-batch"
        )
    config, clock, journal = batched(plan.config), SystemClock(), Journal(plan.folder)
    async with AsyncExitStack() as stack:
        ledger = None
        if plan.max_cost_nanousd is not None:
            ledger = await stack.enter_async_context(Ledger(plan.purse, hold_s=HOLD_S))
            spent_nanousd = max(spent_nanousd, await _counted(ledger, plan.heading.batch))
        adapters = {
            name: create_adapter(model, deployment=name) for name, model in config.models.items()
        }
        for adapter in adapters.values():
            stack.push_async_callback(adapter.aclose)
        keeper = ProviderKeeper(
            adapters=adapters,
            config=config,
            config_digest=plan.heading.config,
            part=part,
            index=index,
            journal=journal,
            stop=stop,
            clock=clock,
            tell=tell,
            concurrency=plan.concurrency,
        )
        purse: Room | None = None
        if plan.max_cost_nanousd is not None:
            purse = keeper.room = Room(plan.max_cost_nanousd, spent_nanousd, stop, keeper.blocked)
        await _take_up(keeper, journal, index, plan, adapters)
        stack.push_async_callback(keeper.aclose)
        attending = asyncio.create_task(keeper.attend())
        stack.callback(attending.cancel)
        opened = _Opening(plan, config, adapters, stop, stack)
        # Only what has come back is counted where the operator counts.
        keeper.write = await opened.answerer(ledger, purse, counts=False)
        paid = None if purse is None else PaidBefore()
        keeper.read = await opened.answerer(ledger, paid, counts=True)
        yield keeper


@dataclass(frozen=True, slots=True)
class _Opening:
    """What both answerers have in common that take rows to a provider and back."""

    plan: Plan
    config: OrchestratorConfig
    adapters: Mapping[str, BaseAdapter]
    stop: Stop
    stack: AsyncExitStack

    async def answerer(
        self, ledger: Ledger | None, purse: Purse | None, *, counts: bool
    ) -> Answerer:
        """One of them, with an engine of its own."""
        config = self.config if counts else self.config.model_copy(update={"ledger": None})
        if ledger is not None and config.ledger is not None:
            about = config.ledger
            ledger = await self.stack.enter_async_context(
                Ledger(ledger_url(config), hold_s=about.hold_s, keep_days=about.keep_days)
            )
        deferring = {name: DeferringAdapter(one) for name, one in self.adapters.items()}
        engine = await self.stack.enter_async_context(
            EnhancedOrchestrator(config, adapters=deferring, ledger=ledger)
        )
        return Answerer(
            engine,
            only_plain(self.plan.ask, self.plan.config, engine.patterns),
            stopping=self.stop.event,
            cap=purse,
            ledger=ledger,
            keeps_receipts=self.plan.keeps_receipts,
            asks_again=False,
            clock=SystemClock(),
        )


async def _counted(ledger: Ledger, batch: str) -> int:
    """What a ledger has heard of a batch from those who asked its rows one by one."""
    scope = Scope(kind="batch", name=batch, caps=Caps(money_nanousd=MOST_NANOUSD))
    (standing,) = await ledger.standing([scope])
    return standing.spent.money_nanousd + standing.held.money_nanousd


async def _take_up(
    keeper: ProviderKeeper,
    journal: Journal,
    index: Index,
    plan: Plan,
    adapters: Mapping[str, BaseAdapter],
) -> None:
    """Go on with what is with a provider already."""
    for one in journal.read().batches:
        lot = _Lot(one, open=set(one.missing(index)))
        if one.deployment not in adapters or one.config != plan.heading.config:
            raise BatchError(
                f"{len(one.rows)} rows were submitted to {one.deployment!r} with other options or "
                "another configuration; go on with those, or begin anew with --fresh"
            )
        if not lot.open:
            journal.ended(one.key)
            continue
        if not one.id:
            try:
                found = await adapters[one.deployment].find_batch(one.key)
            except ProviderError as error:
                raise BatchError(
                    f"nobody knows whether a batch was submitted to {one.deployment!r}: "
                    f"{type(error).__name__}: {error}; run the same command again"
                ) from error
            if found is None:
                journal.ended(one.key)
                continue
            keeper.have(lot, found)
        if keeper.room is not None:
            keeper.room.take(one.worst_nanousd)
        keeper.carry(lot)


async def give_up(batches: tuple[Submitted, ...], config: OrchestratorConfig) -> None:
    """Cancel what is with a provider.

    Raises:
        BatchError: one of them goes on all the same, and would be paid for without being wanted.
    """
    for one in batches:
        if one.deployment not in config.models:
            raise _goes_on(one, "that is not in the configuration any more")
        adapter = create_adapter(config.models[one.deployment], deployment=one.deployment)
        try:
            found = await adapter.find_batch(one.key) if not one.id else None
            if one.id or found:
                await adapter.cancel_batch(one.id or found.id)  # type: ignore[union-attr]
        except ProviderError as error:
            # What it has forgotten, or ended before it could be cancelled, is nothing to pay for.
            if not isinstance(error, (ModelNotFound, InvalidRequest)):
                raise _goes_on(one, f"{type(error).__name__}: {error}") from error
        finally:
            await adapter.aclose()


def _goes_on(one: Submitted, why: str) -> BatchError:
    return BatchError(
        f"batch {one.id or 'with the tag ' + one.key} of {one.deployment!r} cannot be cancelled "
        f"({why}), and would be paid for; put that right and run the same command with --fresh "
        "again, or choose another output"
    )
