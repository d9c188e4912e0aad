"""Ask what one row asks, within the batch's cap, and say what has come of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import orjson

from orchestrator.amounts import NANO, Amount, Caps, Scope, usd
from orchestrator.batch.asking import Question
from orchestrator.batch.journals import RowJournal, RowJournals
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.batch.parts import Heading
from orchestrator.batch.rows import BadRow, Row
from orchestrator.batch.schemas import AnswerReader, Parsed, asked_again
from orchestrator.batch.summary import agreement_of
from orchestrator.breaker import BreakerState
from orchestrator.budget import Quote
from orchestrator.clock import Clock, SystemClock
from orchestrator.config import OrchestratorConfig, RequestConfig, ledger_url
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import (
    BatchError,
    BudgetExceeded,
    DeploymentBusy,
    JournalError,
    LedgerError,
    NoDeploymentLeft,
    UnknownPrice,
)
from orchestrator.journal import PaidCall, Slot
from orchestrator.ledger import Ledger
from orchestrator.panel import describe
from orchestrator.responses import OrchestratorResponse, Receipt
from orchestrator.wire.errors import fault_of

Ask = Callable[[Row], Question | Failure]

FATAL = (LedgerError, JournalError, UnknownPrice, BatchError)  # no other row would fare better

BUSY_TRIES = 20  # how often a row comes again to models that are all left alone for a while
BUSY_S = 30.0  # the longest wait before it does
OTHERS_S = 0.2  # how soon it is looked again whether another process has given money back
MOST_NANOUSD = 2**62  # a limit that nobody reaches: what has none is not counted
HOLD_S = 24 * 3600.0  # longer than any run may take
SHARED = "postgresql"  # what the address of a ledger begins with that several machines reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process needs to know to answer rows; it can be sent to another process.

    Attributes:
        config: The configuration, as it is for one of the processes.
        ask: Turns a row into a request.
        heading: What parts are headed with.
        folder: Where parts are written.
        concurrency: How many rows are under way at a time, in this process.
        max_cost_nanousd: The most that the whole batch may cost; None where nobody has said.
        keeps_receipts: Whether outcomes hold the receipts of their runs.
    """

    config: OrchestratorConfig
    ask: Ask
    heading: Heading
    folder: Path
    concurrency: int = 64
    max_cost_nanousd: int | None = None
    keeps_receipts: bool = False

    @property
    def purse(self) -> str:
        """The address of the ledger in which the batch's own cap is counted.

        That of the configuration where several machines reach it, else a file beside the parts.
        """
        url = ledger_url(self.config)
        if url.startswith(SHARED):
            return url
        return f"sqlite:///{self.folder.absolute() / 'ledger.db'}"


class NotAsked(Exception):
    """The batch ends before a row was asked: nothing has come of it, and nothing was paid."""


class LimitReached(NotAsked):
    """Nothing more may be asked: a limit of money is reached. The message says which."""


class Engine(Protocol):
    """What is needed of an orchestrator."""

    async def execute_request(
        self,
        request: RequestConfig,
        *,
        failed: Callable[[Receipt], None] | None = None,
        slot: Slot | None = None,
    ) -> OrchestratorResponse: ...

    async def quote(self, request: RequestConfig) -> Quote: ...

    def breakers(self) -> Mapping[str, BreakerState]: ...

    def calls_in_flight(self) -> dict[str, int]: ...


class Purse(Protocol):
    """Holds for every row the most that it can cost."""

    async def hold(self, needed_nanousd: int) -> str: ...

    async def settle(self, held: str, spent_nanousd: int) -> None: ...


class Cap:
    """What a batch may cost in all: every row holds the most it can cost before it is asked.

    Several processes may hold of one cap. A row that has no room waits until others have given
    back what they did not need; when nobody is left who could, the limit is reached.
    """

    def __init__(
        self, ledger: Ledger, batch: str, nanousd: int, stopping: asyncio.Event, clock: Clock
    ) -> None:
        self.scope = Scope(kind="batch", name=batch, caps=Caps(money_nanousd=nanousd))
        self._ledger = ledger
        self._stopping = stopping
        self._clock = clock
        self._out = 0
        self._returned = asyncio.Event()
        self._door = asyncio.Lock()
        self._is_reached: LimitReached | None = None

    async def count_before(self, spent_nanousd: int) -> None:
        """Count what rows have cost before, as far as the ledger has not heard of it."""
        spent = (await self._ledger.standing([self.scope]))[0].spent.money_nanousd
        if spent_nanousd > spent:
            any_sum = replace(self.scope, caps=Caps(money_nanousd=MOST_NANOUSD))
            held = await self._ledger.reserve(Amount(), [any_sum])
            await self._ledger.settle(held, Amount(money_nanousd=spent_nanousd - spent))

    async def hold(self, needed_nanousd: int) -> str:
        """Hold so much for a row, once there is room for it.

        Raises:
            LimitReached: there is none, and none will come.
            NotAsked: the batch ends meanwhile.
        """
        needed = Amount(money_nanousd=needed_nanousd)
        async with self._door:
            while self._is_reached is None:
                if self._stopping.is_set():
                    raise NotAsked
                self._returned.clear()
                try:
                    held = await self._ledger.reserve(needed, [self.scope], ttl_s=HOLD_S)
                except BudgetExceeded as refusal:
                    await self._wait_for_room(refusal, needed_nanousd)
                    continue
                self._out += 1
                return held
            raise self._is_reached

    async def _wait_for_room(self, refusal: BudgetExceeded, needed_nanousd: int) -> None:
        if self._out:
            await self._returned.wait()
        elif refusal.held.money_nanousd:
            await self._clock.sleep(OTHERS_S)
        else:
            cap = self.scope.caps.money_nanousd or 0
            self._is_reached = LimitReached(
                f"The batch may cost {usd(cap)}; {usd(refusal.spent.money_nanousd)} of it is "
                f"spent, and the next row may cost up to {usd(needed_nanousd)}; raise --max-cost, "
                "or lower what a row may cost with --max-tokens"
            )

    async def settle(self, held: str, spent_nanousd: int) -> None:
        """Give back what a row did not need."""
        self._out -= 1
        try:
            await self._ledger.settle(held, Amount(money_nanousd=spent_nanousd))
        finally:
            self._returned.set()


class Answerer:
    """Rows in, outcomes out, through one engine.

    Args:
        engine: Answers requests.
        ask: Turns a row into a request.
        cap: What the batch may cost; None where nobody has said.
        ledger: Where the engine counts what runs use up; needed with a cap.
        keeps_receipts: Whether outcomes hold the receipts of their runs.
        asks_again: Whether an answer is asked for once more that is not the JSON that was wanted.
        journals: Where rows of several calls write them down; None for nowhere.
        stopping: Is set when nothing more is to be asked.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        engine: Engine,
        ask: Ask,
        *,
        stopping: asyncio.Event,
        cap: Purse | None = None,
        ledger: Ledger | None = None,
        keeps_receipts: bool = False,
        asks_again: bool = True,
        journals: RowJournals | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._engine = engine
        self._ask = ask
        self._cap = cap
        self._ledger = ledger
        self._keeps_receipts = keeps_receipts
        self._asks_again = asks_again
        self._journals = journals
        self._written: dict[int, RowJournal] = {}  # of rows that wait for their outcome to be
        self._stopping = stopping
        self._clock = clock or SystemClock()
        self._known_reader: tuple[dict[str, object], AnswerReader] | None = None

    async def __call__(self, row: Row) -> Outcome:
        """What comes of a row.

        Raises:
            NotAsked: a limit leaves no room for it, or the batch ends; nothing has come of it.
            UnknownPrice: money is limited, and nobody knows what a model costs.
            LedgerError: spending cannot be counted.
            JournalError: paid calls cannot be written down.
        """
        question = self._question(row)
        if isinstance(question, Failure):
            return _unasked(row, question, self._clock.now().timestamp())
        receipts: list[Receipt] = []
        journal = None if self._journals is None else self._journals.of(row)
        before = () if journal is None else await journal.taken_up(self._clock)
        try:
            outcome = await self._read_answer(row, question.request, receipts, journal)
        except (NotAsked, *FATAL):
            raise
        except BudgetExceeded as refusal:
            if refusal.scope is not None and refusal.scope.kind != "run":
                raise LimitReached(str(refusal)) from refusal
            outcome = failed(row, refusal)
        except Exception as error:  # noqa: BLE001 - one row's bug must not end the others
            outcome = failed(row, error)
        if journal is not None and journal.is_there:
            self._written[row.position] = journal
        return replace(
            outcome,
            at_s=self._clock.now().timestamp(),
            model=question.request.model or "",
            ignored=dict(question.ignored),
            **self._told_of(receipts, before),
        )

    def forget(self, row: Row) -> None:
        """A row's outcome is written down: nobody goes on with its runs any more.

        Raises:
            JournalError: what they wrote down cannot be removed.
        """
        journal = self._written.pop(row.position, None)
        if journal is not None:
            journal.remove()

    def _question(self, row: Row) -> Question | Failure:
        try:
            return self._ask(row)
        except Exception as error:  # noqa: BLE001 - one row's bug must not end the others
            return _failure(error)

    async def _read_answer(
        self,
        row: Row,
        request: RequestConfig,
        receipts: list[Receipt],
        journal: RowJournal | None,
    ) -> Outcome:
        """The answer, asked for once more where it is not the JSON that was wanted."""
        reader = self._reader(request)
        slot = None if journal is None else journal.question
        response = await self._patiently(request, receipts, slot)
        if reader is None or response.tool_calls:
            return _answered(row, response, Parsed())
        parsed = reader.read(response.content)
        if parsed.problem and self._asks_again:
            once_more = asked_again(request, response.content, parsed.problem)
            with suppress(NotAsked):  # then the first answer, which is paid for, is what there is
                slot = None if journal is None else journal.again
                response = await self._patiently(once_more, receipts, slot)
                parsed = reader.read(response.content)
        return _answered(row, response, parsed)

    def _reader(self, request: RequestConfig) -> AnswerReader | None:
        """What reads the answers to such a request; most often it is that of the row before."""
        wanted = request.response_format
        if wanted is None:
            return None
        if self._known_reader is None or self._known_reader[0] != wanted:
            self._known_reader = (wanted, AnswerReader(wanted))
        return self._known_reader[1]

    def breakers(self) -> dict[str, str]:
        """Which deployments are left alone, and how."""
        states = self._engine.breakers()
        return {name: one.state for name, one in states.items() if one.state != "closed"}

    def calls_in_flight(self) -> dict[str, int]:
        """How many calls are under way, by deployment."""
        return self._engine.calls_in_flight()

    def _told_of(self, receipts: list[Receipt], before: tuple[PaidCall, ...]) -> dict[str, Any]:
        """What the receipts of a row's runs say: one, unless models were left alone at first.

        And what was paid `before` its process was killed.
        """
        if not receipts:
            return {"use": use_of((), before)}
        told: dict[str, Any] = {
            "run_id": receipts[-1].run_id,
            "elapsed_s": sum(receipt.elapsed_s for receipt in receipts),
            "use": use_of(receipts, before),
            "agreement": agreement_of(receipts[-1]),
        }
        if self._keeps_receipts:
            told["receipt"] = orjson.loads(receipts[-1].to_json(indent=None))
        return told

    async def _patiently(
        self, request: RequestConfig, receipts: list[Receipt], slot: Slot | None
    ) -> OrchestratorResponse:
        """Wait for models that are left alone for a while, instead of failing row after row."""
        for _ in range(BUSY_TRIES):
            try:
                return await self._within_cap(request, receipts, slot)
            except (DeploymentBusy, NoDeploymentLeft) as error:
                if error.retry_after_s is None:
                    raise
                await self._wait(min(max(error.retry_after_s, OTHERS_S), BUSY_S))
        return await self._within_cap(request, receipts, slot)

    async def _wait(self, delay_s: float) -> None:
        bell = asyncio.ensure_future(self._stopping.wait())
        try:
            await self._clock.first_done([bell], delay_s)
        finally:
            bell.cancel()
        if self._stopping.is_set():
            raise NotAsked

    async def _within_cap(
        self, request: RequestConfig, receipts: list[Receipt], slot: Slot | None
    ) -> OrchestratorResponse:
        if self._cap is None:
            return await self._run(request, receipts, slot)
        quote = await self._engine.quote(request)
        needed = quote.full.amount.money_nanousd
        if quote.unknown_prices:
            names = ", ".join(map(repr, quote.unknown_prices))
            raise UnknownPrice(
                f"The batch's money is limited, and the price of {names} is not known; write "
                f"`price: free` or `price: {{input_usd: ..., output_usd: ...}}` at "
                f"models.{quote.unknown_prices[0]}"
            )
        if not needed:
            return await self._run(request, receipts, slot)
        return await self._held(request, needed, self._cap, receipts, slot)

    async def _held(
        self,
        request: RequestConfig,
        needed_nanousd: int,
        cap: Purse,
        receipts: list[Receipt],
        slot: Slot | None,
    ) -> OrchestratorResponse:
        """Run it with what is held for it as its limit; what it did not need goes back.

        What the run had spent before it was gone on with is counted already.
        """
        counted = await self._counted(slot)
        limit = Decimal(needed_nanousd + counted) / NANO
        limited = request.model_copy(update={"max_cost_usd": limit})
        held = await cap.hold(needed_nanousd)
        spent, before = needed_nanousd, len(receipts)  # of one broken off nobody knows better
        try:
            try:
                return await self._run(limited, receipts, slot)
            finally:
                if len(receipts) > before:
                    spent = await self._spent_in(receipts[-1].run_id) - counted
        finally:
            await asyncio.shield(cap.settle(held, spent))

    async def _counted(self, slot: Slot | None) -> int:
        """What the run in a slot is known to have cost so far."""
        record = None if slot is None else slot.read()
        if record is None:
            return 0
        return max(await self._spent_in(record.opening.run_id), record.paid.money_nanousd)

    async def _run(
        self, request: RequestConfig, receipts: list[Receipt], slot: Slot | None
    ) -> OrchestratorResponse:
        response = await self._engine.execute_request(request, failed=receipts.append, slot=slot)
        receipts.append(response.receipt)
        return response

    async def _spent_in(self, run_id: str) -> int:
        """What a run has cost, and may still: its stragglers are settled a little later."""
        assert self._ledger is not None, "money that is limited is counted"
        (standing,) = await self._ledger.standing([Scope(kind="run", name=run_id)])
        return standing.spent.money_nanousd + standing.held.money_nanousd


@asynccontextmanager
async def answerer(
    plan: Plan, stopping: asyncio.Event, *, spent_nanousd: int = 0
) -> AsyncIterator[Answerer]:
    """Everything that a process answers rows with.

    Args:
        plan: What is to be done.
        stopping: Is set when nothing more is to be asked.
        spent_nanousd: What rows have cost before, for a ledger that has not heard of it.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        cap, ledger = None, None
        if plan.max_cost_nanousd is not None:
            purse = await stack.enter_async_context(Ledger(plan.purse, hold_s=HOLD_S))
            ledger = purse
            if plan.config.ledger is not None:
                about = plan.config.ledger
                ledger = await stack.enter_async_context(
                    Ledger(ledger_url(plan.config), hold_s=about.hold_s, keep_days=about.keep_days)
                )
            cap = Cap(purse, plan.heading.batch, plan.max_cost_nanousd, stopping, clock)
            await cap.count_before(spent_nanousd)
        engine = await stack.enter_async_context(EnhancedOrchestrator(plan.config, ledger=ledger))
        yield Answerer(
            engine,
            plan.ask,
            stopping=stopping,
            cap=cap,
            ledger=ledger,
            keeps_receipts=plan.keeps_receipts,
            journals=RowJournals(plan.folder, plan.heading.config),
            clock=clock,
        )


def failed(row: Row, error: Exception) -> Outcome:
    """The outcome of a row that has no answer."""
    return Outcome(
        position=row.position,
        line=row.line,
        custom_id=row.custom_id,
        digest=row.digest,
        status="failed",
        failure=_failure(error),
    )


def _failure(error: Exception) -> Failure:
    kind = type(error).__name__
    said = describe(error).removeprefix(f"{kind}: ")
    return Failure(kind=kind, message=said, status=fault_of(error).status)


def unreadable(row: BadRow, at_s: float) -> Outcome:
    """The outcome of a row that nobody could read."""
    return Outcome(
        position=row.position,
        line=row.line,
        digest="",
        status="failed",
        at_s=at_s,
        failure=Failure(kind="InvalidRow", message=f"Line {row.line}: {row.problem}", status=400),
    )


def repeated(outcome: Outcome, row: Row, at_s: float) -> Outcome:
    """The outcome of a row that asks the same as another: nothing was paid for it."""
    return replace(
        outcome,
        position=row.position,
        line=row.line,
        custom_id=row.custom_id,
        at_s=at_s,
        elapsed_s=0.0,
        use=(),
        is_repeated=True,
    )


def _unasked(row: Row, failure: Failure, at_s: float) -> Outcome:
    return Outcome(
        position=row.position,
        line=row.line,
        custom_id=row.custom_id,
        digest=row.digest,
        status="failed",
        at_s=at_s,
        failure=failure,
    )


def _answered(row: Row, response: OrchestratorResponse, parsed: Parsed) -> Outcome:
    failure = None
    if parsed.problem:
        failure = Failure(
            kind="InvalidAnswer",
            message=f"the answer is not what the schema wants: {parsed.problem}",
            status=502,
        )
    return Outcome(
        position=row.position,
        line=row.line,
        custom_id=row.custom_id,
        digest=row.digest,
        status="failed" if failure else response.status,
        text=response.content,
        tool_calls=tuple(
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in response.tool_calls
        ),
        parsed=parsed.value,
        finish_reason=response.finish_reason,
        causes=response.causes,
        failure=failure,
    )


def use_of(receipts: Sequence[Receipt], paid: Sequence[PaidCall]) -> tuple[ModelUse, ...]:
    """What each deployment did, in the order in which they were first called.

    Args:
        receipts: What was done now. Calls that they found in a journal are not counted there.
        paid: The calls that were in the journals before.
    """
    found = _use_before(paid)
    for receipt in receipts:
        made_now = (
            made
            for stage in receipt.stages
            for made in stage.attempts
            if made.is_paid and made.source != "journal"
        )
        for made in made_now:
            before = found.get(made.deployment) or ModelUse(deployment=made.deployment)
            found[made.deployment] = ModelUse(
                deployment=made.deployment,
                calls=before.calls + 1,
                failed=before.failed + (made.status == "failed"),
                prompt_tokens=before.prompt_tokens + made.usage.prompt_tokens,
                completion_tokens=before.completion_tokens + made.usage.completion_tokens,
                cost_nanousd=before.cost_nanousd + (made.cost_nanousd or 0),
                elapsed_s=before.elapsed_s + made.elapsed_s,
            )
    return tuple(found.values())


def _use_before(paid: Sequence[PaidCall]) -> dict[str, ModelUse]:
    """What each deployment did in earlier lives of a row; how long it took is not known."""
    found: dict[str, ModelUse] = {}
    for call in paid:
        before = found.get(call.deployment) or ModelUse(deployment=call.deployment)
        usage = call.completion.usage
        found[call.deployment] = replace(
            before,
            calls=before.calls + 1,
            prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
            completion_tokens=before.completion_tokens + usage.completion_tokens,
            cost_nanousd=before.cost_nanousd + (call.cost_nanousd or 0),
        )
    return found
