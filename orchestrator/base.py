"""BaseOrchestrator: deployments, routes and panels; the one place through which every call goes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from adapters.base import BaseAdapter
from adapters.config import ModelConfig
from adapters.errors import (
    StreamBroken,
)
from adapters.prices import price_of
from adapters.types import (
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Request,
    in_one_chunk,
)
from orchestrator import billing
from orchestrator.amounts import Amount
from orchestrator.attempts import (
    Failure,
    GiveUp,
    Option,
    Retry,
    RetryBudget,
    Step,
    fallback_budget,
    hedge_after_s,
    hedge_budget,
    next_step,
)
from orchestrator.billing import NO_BOUND, Bound
from orchestrator.books import Books
from orchestrator.breaker import BreakerState
from orchestrator.budget import Quote
from orchestrator.cache import replay
from orchestrator.clock import (
    Clock,
    SystemClock,
    all_done,
    make_rng,
    new_nonce,
    new_run_id,
    seed_of,
)
from orchestrator.config import (
    OrchestratorConfig,
    RequestConfig,
    config_hash,
)
from orchestrator.deployment import Deployment
from orchestrator.embedding import Wanted, need_one_model, response_of, titled
from orchestrator.errors import (
    InvalidRun,
    JournalError,
    OrchestratorError,
    UnknownModel,
    UnknownPrice,
)
from orchestrator.events import AttemptFollows, Event, RunFailed, RunFinished, RunStarted
from orchestrator.guards import Hold, Permit, Place
from orchestrator.holders import Holders
from orchestrator.journal import Journal, Opening, RunJournal, Slot
from orchestrator.ledger import Ledger
from orchestrator.panel import (
    CLOSING_S,
    Answer,
    Ending,
    Member,
    Patience,
    describe,
    end_calls,
    fan_out,
    stage_share_s,
)
from orchestrator.patterns import Pattern, PatternLibrary, digest_of
from orchestrator.prompts import draft_request, plain_request, without_tools
from orchestrator.pursuit import Pursuit, Race, RaceLost
from orchestrator.quoting import Basis, fitted_quote
from orchestrator.recall import Recall
from orchestrator.receipts import AttemptLog, StageLog
from orchestrator.resolve import resolve
from orchestrator.responses import EmbeddingsResponse, OrchestratorResponse, Receipt
from orchestrator.routing import order
from orchestrator.run import Run
from orchestrator.shared_windows import SharedWindows, shared_windows
from orchestrator.synthesis import best
from orchestrator.verdicts import absent, gather, need_a_draft, out_of_time, plain_failure
from orchestrator.yaml_source import suggestion

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """What an orchestrator hands on to its successor, and the configuration that it is of."""

    owner: object
    config: OrchestratorConfig
    deployments: Mapping[str, Deployment]
    books: Books
    recall: Recall
    shared: SharedWindows | None
    fallbacks: RetryBudget
    hedges: RetryBudget
    holders: Holders


class BaseOrchestrator:
    """Asks deployments, routes and panels. Patterns are `EnhancedOrchestrator`'s.

    A deployment or a route answers with its own stream. Of a panel every member is asked at once,
    and the usable answer of the heaviest member is the content.

    >>> import asyncio
    >>> from adapters import MockAdapter, ModelConfig
    >>> from orchestrator import BaseOrchestrator, OrchestratorConfig, RequestConfig
    >>> config = OrchestratorConfig(
    ...     models={"gpt": ModelConfig(provider="openai", model="gpt-5-mini")}
    ... )
    >>> async def main() -> str:
    ...     mock = {"gpt": MockAdapter(["Paris."])}
    ...     async with BaseOrchestrator(config, adapters=mock) as orchestrator:
    ...         response = await orchestrator.execute_request(RequestConfig(prompt="Capital?"))
    ...         return response.content
    >>> asyncio.run(main())
    'Paris.'

    Args:
        config: The configuration; a run keeps the one it began with.
        adapters: Adapters to use instead of those the configuration would make. They are closed
            with the orchestrator. A name that is not configured is added.
        clock: Where the time comes from.
        patterns: The patterns to choose from, by name; default: the built-in ones and those of
            `config.patterns_dir`.
        journal: Where every run writes down its paid calls; default: nowhere.
        ledger: The ledger to use instead of the one the configuration names. It is not closed with
            the orchestrator.
        keeps_receipts: Whether the ledger keeps the receipts of plain runs as well.
        processes: How many share the rates, for as long as Redis has not told.
        nonce: Makes the secret of a run's fences. Only tests have a reason to give one.
        estate: What another has handed on; see `successor`.
    """

    def __init__(
        self,
        config: OrchestratorConfig,
        *,
        adapters: Mapping[str, BaseAdapter] | None = None,
        clock: Clock | None = None,
        patterns: Mapping[str, Pattern] | None = None,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        keeps_receipts: bool = False,
        processes: int = 1,
        nonce: Callable[[], str] = new_nonce,
        estate: Estate | None = None,
    ) -> None:
        given = adapters or {}
        models = config.models | {
            name: adapter.config for name, adapter in given.items() if name not in config.models
        }
        self._clock = clock or SystemClock()
        self._config = config.model_copy(update={"models": models})
        self._config_hash = ""
        self._processes = processes
        self._shared = (
            estate.shared
            if estate is not None and config.limits == estate.config.limits
            else shared_windows(config, self._clock, processes=processes)
        )
        self._deployments = {
            name: self._new_deployment(name, model, given.get(name))
            for name, model in models.items()
        }
        self._retired: list[Deployment] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._nonce = nonce
        self._journal = journal
        self._keeps_receipts = keeps_receipts
        self._ledger = ledger
        self._holders = Holders()
        self._books = Books(ledger, self._clock)
        self._recall = Recall(config, self._clock)
        self._fallbacks = fallback_budget(config.retry)
        self._hedges = hedge_budget(config.retry)
        folders = [Path(config.patterns_dir)] if config.patterns_dir else []
        self.patterns: Mapping[str, Pattern] = (
            PatternLibrary(*folders) if patterns is None else patterns
        )
        if estate is not None:
            self._inherit(estate)

    @property
    def config(self) -> OrchestratorConfig:
        """The configuration as it stands, models added and removed included."""
        return self._config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the runs there are, write down what is to be kept, and close every adapter."""
        self._is_closed = True
        await _end(self._running)
        known = (*self._deployments.values(), *self._retired)
        deployments = [one for one in known if self._holders.let_go(self, one)]
        self._retired.clear()
        closing = {asyncio.create_task(one.aclose()): one.name for one in deployments}
        try:
            stuck = await all_done(self._clock, closing, CLOSING_S)
        finally:
            for task in closing:
                task.cancel()
            await self._close_guards()
        ended = [task for task in closing if task not in stuck and not task.cancelled()]
        for error in [task.exception() for task in ended]:
            if error is not None:
                raise error
        if stuck:
            names = ", ".join(repr(closing[task]) for task in closing if task in stuck)
            raise OrchestratorError(f"{names} did not close within {CLOSING_S:g} s")

    async def _close_guards(self) -> None:
        if self._holders.let_go(self, self._recall):
            await self._recall.aclose()
        if self._holders.let_go(self, self._books):
            await self._books.aclose()
        if self._shared is not None and self._holders.let_go(self, self._shared):
            await self._shared.aclose()

    # Another configuration.

    def successor(
        self, config: OrchestratorConfig, *, patterns: Mapping[str, Pattern] | None = None
    ) -> Self:
        """An orchestrator for another configuration, which goes on with what this one knows.

        Deployments, ledger and cache that are configured alike are one for both: what is held
        stays held, an open breaker open, a used-up rate used up, a connection connected. Whoever
        is closed last closes them. Runs that began here end here, as they began.
        """
        return type(self)(
            config,
            clock=self._clock,
            patterns=patterns,
            journal=self._journal,
            ledger=self._ledger,
            keeps_receipts=self._keeps_receipts,
            processes=self._processes,
            nonce=self._nonce,
            estate=Estate(
                owner=self,
                config=self._config,
                deployments=self._deployments,
                books=self._books,
                recall=self._recall,
                shared=self._shared,
                fallbacks=self._fallbacks,
                hedges=self._hedges,
                holders=self._holders,
            ),
        )

    def _inherit(self, estate: Estate) -> None:
        """Take what is configured alike."""
        mine, theirs = self._config, estate.config
        self._holders = estate.holders
        if mine.retry == theirs.retry:
            self._fallbacks, self._hedges = estate.fallbacks, estate.hedges
        if mine.ledger == theirs.ledger:
            self._books = estate.books
            self._share(estate, self._books)
        if mine.cache == theirs.cache:
            self._recall = estate.recall
            self._share(estate, self._recall)
        if mine.limits != theirs.limits:  # what was counted elsewhere counts no more
            return
        if self._shared is not None:
            self._share(estate, self._shared)
        for name in self._deployments.keys() & estate.deployments.keys():
            self._inherit_deployment(estate, name, estate.deployments[name])

    def _inherit_deployment(self, estate: Estate, name: str, before: Deployment) -> None:
        own = self._deployments[name]
        same_breaker = self._config.breaker == estate.config.breaker
        same_retry = self._config.retry == estate.config.retry
        if before.config == own.config and same_breaker and same_retry:
            self._deployments[name] = before
            self._share(estate, before)
        elif before.leads_to(own.config):
            own.go_on_from(before, same_breaker=same_breaker, same_retry=same_retry)

    def _share(self, estate: Estate, thing: object) -> None:
        for holder in (estate.owner, self):
            self._holders.hold(holder, thing)

    # The models.

    def add_model(self, name: str, model: ModelConfig, adapter: BaseAdapter | None = None) -> None:
        """Configure a deployment; runs that begin from now on know it.

        Raises:
            InvalidRun: the name is taken.
        """
        if name in self._config.models or name in self._config.routes | self._config.panels:
            raise InvalidRun(f"{name!r} is configured already; remove it first")
        self._deployments[name] = self._new_deployment(name, model, adapter)
        self._configure({**self._config.models, name: model})

    def remove_model(self, name: str) -> None:
        """Forget a deployment; runs that have begun still finish with it.

        Raises:
            UnknownModel: there is none of that name.
        """
        if name not in self._deployments:
            raise UnknownModel(
                f"Unknown model {name!r}{suggestion(name, self._deployments)}; "
                f"configured: {', '.join(map(repr, self._deployments))}"
            )
        self._retired.append(self._deployments.pop(name))
        models = {known: model for known, model in self._config.models.items() if known != name}
        self._configure(models)

    def list_models(self) -> dict[str, ModelConfig]:
        """The deployments there are."""
        return dict(self._config.models)

    def breakers(self) -> dict[str, BreakerState]:
        """Which deployments are left alone at the moment, why, and until when."""
        return {name: one.breaker.state for name, one in self._deployments.items()}

    def calls_in_flight(self) -> dict[str, int]:
        """How many calls are under way, of each deployment that has some."""
        return {
            name: calls for name, one in self._deployments.items() if (calls := one.pace.in_flight)
        }

    @property
    def counts_alone(self) -> bool:
        """Whether the Redis that counts rates did not answer the last time."""
        return self._shared is not None and self._shared.is_down

    def _new_deployment(
        self, name: str, model: ModelConfig, adapter: BaseAdapter | None
    ) -> Deployment:
        config = self._config
        return Deployment(
            name,
            model,
            adapter,
            clock=self._clock,
            breaker=config.breaker,
            retry=config.retry,
            shared=self._shared,
        )

    def _configure(self, models: Mapping[str, ModelConfig]) -> None:
        self._config = self._config.model_copy(update={"models": dict(models)})
        self._config_hash = ""

    # Runs.

    async def execute_request(
        self,
        request: RequestConfig,
        *,
        failed: Callable[[Receipt], None] | None = None,
        slot: Slot | None = None,
    ) -> OrchestratorResponse:
        """The answer to a request: what `stream_request` ends in.

        Nobody watches it come, so every model is asked for its answer in one piece.

        Args:
            request: What is asked.
            failed: Is told the receipt of a run that came to no answer, before its error is raised.
            slot: Where a run of several calls writes them down; what was paid for there before is
                not paid for again. A run of one deployment or route leaves it alone.

        Raises:
            UnknownModel: the request names nothing that is configured.
            InvalidRun: the request contradicts itself or the configuration.
            BudgetExceeded: the run does not fit its budget.
            ProviderError: the one deployment that was asked failed.
            NoDeploymentLeft: every deployment of the route failed.
            QuorumNotMet: no member of the panel gave a usable answer.
            DeadlineExceeded: the time ended before there was one answer.
            LedgerError: spending cannot be counted.
            JournalError: paid calls cannot be written down.
        """
        run = self._begin(request, is_live=False)
        if slot is not None and not run.target.is_plain:
            run = self._continued(run, slot)
        task = self._start(run)
        try:
            await asyncio.wait({task})
            return _outcome(task)
        finally:
            await _end({task})
            if run.journal is not None:  # of a run that was ended before it began
                run.journal.close()
            if failed is not None and run.failed is not None:
                failed(run.failed)

    async def embed(self, what: EmbeddingRequest, request: RequestConfig) -> EmbeddingsResponse:
        """A vector for each input, from a deployment or a route.

        The call is reserved, paced, tried again and settled as any other. Another deployment of a
        route may stand in only where all of them have the same model id: vectors of different
        models do not mix. The vectors are neither cached nor written to a journal.

        Args:
            what: What is to be embedded.
            request: Whom to ask, on whose behalf and within which budgets; no question.

        Raises:
            InvalidRun: the request asks for more than one model, or for what only answers have.
            UnknownModel, BudgetExceeded, ProviderError, NoDeploymentLeft, DeadlineExceeded,
            LedgerError: as `execute_request`.
        """
        run = self._begin(titled(request, what), is_live=False)
        need_one_model(run.target, self._config)
        task = self._started(self._drive_embedding(run, Wanted(what)))
        try:
            await asyncio.wait({task})
            return _outcome(task)
        finally:
            await _end({task})

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        """The events of a run as they happen; consume it inside `contextlib.aclosing`.

        Leaving it early ends the run: every call is cancelled and its connection closed.
        Raises what `execute_request` raises.
        """
        return self._events(self._begin(request, is_live=True))

    async def quote(self, request: RequestConfig) -> Quote:
        """What a request may cost before it starts, and what gives way to its budget; no call.

        Raises:
            UnknownModel: the request names nothing that is configured.
            InvalidRun: the request contradicts itself or the configuration.
            BudgetExceeded: it does not fit its budget, however much gives way.
        """
        run = self._begin(request, is_live=False)
        await self._open_ledger(run)
        return await self._fitted_quote(run)

    async def resume_request(self, run_id: str) -> AsyncGenerator[Event, None]:
        """Go on with a run that was interrupted: what it had paid for is not paid for again.

        As `stream_request` otherwise.

        Raises:
            JournalError: there is no journal of it, or it has ended.
            InvalidRun: it asks somebody whom the configuration does not know any more.
        """
        if self._journal is None:
            raise JournalError("There is no journal to resume from")
        journal = self._journal.resume(run_id)
        try:
            run = self._resumed(journal, journal.opening.request, is_live=True)
            if journal.opening.config_hash != self._hash():
                run.notes = ("resumed with another configuration than it began with",)
            async with aclosing(self._events(run)) as events:
                async for event in events:
                    yield event
        finally:
            journal.close()

    def _resumed(self, journal: RunJournal, request: RequestConfig, *, is_live: bool) -> Run:
        """A run that goes on with what its journal holds."""
        opening = journal.opening
        run = self._begin(request, is_live=is_live, opening=replace(opening, request=request))
        run.journal = journal
        if opening.plan is not None:
            run.follow(opening.plan, opening.shrunk)
        return run

    def _continued(self, run: Run, slot: Slot) -> Run:
        """What an earlier run has left in a slot, gone on with; else this run, written there."""
        journal = slot.resume()
        if journal is None:
            run.begins = slot.begin
            return run
        try:
            return self._resumed(journal, run.request, is_live=run.is_live)
        except BaseException:
            journal.close()
            raise

    async def receipt(self, run_id: str, *, tenant: str = "") -> Receipt | None:
        """The receipt of a run that has ended; None if there is none, or if it is another tenant's.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        if self._config.ledger:
            await self._books.open(self._config)
        return await self._books.receipt(run_id, tenant)

    async def _events(self, run: Run) -> AsyncGenerator[Event, None]:
        task = self._start(run)
        task.add_done_callback(lambda _: run.channel.close())
        try:
            while (event := await run.channel.get()) is not None:
                yield event
            _outcome(task)
        finally:
            await _end({task})

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise OrchestratorError("The orchestrator is closed; make another one")

    def _start(self, run: Run) -> asyncio.Task[OrchestratorResponse]:
        self._refuse_if_closed()
        return self._started(self._drive(run))

    def _started(self, driving: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A run is a task of its own: closing the orchestrator ends it, and not its caller."""
        task = asyncio.create_task(driving)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _begin(
        self, request: RequestConfig, *, is_live: bool, opening: Opening | None = None
    ) -> Run:
        """Resolve and check a request; nothing has been called yet."""
        self._refuse_if_closed()
        target = resolve(request, self._config, self.patterns)
        run = Run(
            opening or self._open(request, is_plain=target.is_plain),
            target,
            dict(self._deployments),
            self._config,
            self._clock,
            is_live=is_live,
        )
        run.begins = None if self._journal is None else self._journal.begin
        return run

    def _open(self, request: RequestConfig, *, is_plain: bool) -> Opening:
        """What is asked, by what chance."""
        now = self._clock.now()
        run_id = new_run_id(now)
        seed, nonce = seed_of(run_id), ""
        if not is_plain:  # a plain run shows nobody's words to anybody
            seed, nonce = self._recall.chance(request) or (seed, self._nonce())
        return Opening(
            run_id=run_id,
            started_at=now.isoformat(),
            seed=seed if request.seed is None else request.seed,
            nonce=nonce,
            config_hash=self._hash(),
            request=request,
        )

    @property
    def config_hash(self) -> str:
        """What the configuration is called in receipts, the operator's own patterns included."""
        return self._hash()

    def _hash(self) -> str:
        """What the configuration is called in receipts."""
        self._config_hash = self._config_hash or config_hash(self._config, digest_of(self.patterns))
        return self._config_hash

    def _members(self, run: Run) -> Sequence[Member]:
        return run.target.members

    def _stage_names(self, run: Run) -> tuple[str, ...]:
        return ("answer",) if run.target.is_plain else ("drafts",)

    async def _drive(self, run: Run) -> OrchestratorResponse:
        try:
            await self._prepare(run)
            run.channel.put(
                RunStarted(
                    run_id=run.run_id,
                    model=run.target.name,
                    pattern=run.target.pattern,
                    members=tuple(member.name for member in self._members(run)),
                    stages=self._stage_names(run),
                    seed=run.seed,
                )
            )
            run.tell_plan()
            if run.target.is_plain:
                await self._answer_plain(run)
            else:
                await self._answer_panel(run)
            response = run.response()
            self._keep_receipt(run, response.receipt)
        except Exception as error:
            self._fail(run, error)
            raise
        finally:
            if run.journal is not None:
                run.journal.close()
        run.channel.put(RunFinished(response=response))
        return response

    async def _prepare(self, run: Run) -> None:
        """See that what the run needs is there, and that it fits its budget."""
        await self._recall.open()
        await self._open_ledger(run)
        is_resumed = run.journal is not None
        if run.has_budget and not run.target.is_plain and not is_resumed:
            quote = await self._fitted_quote(run)
            run.follow(quote.plan, quote.shrunk)
        if run.journal is not None:
            await self._books.count_before(run.run_id, run.scopes, run.journal.paid)
        elif run.begins is not None:
            run.journal = run.begins(run.opening)

    async def _open_ledger(self, run: Run) -> None:
        """Where spending is kept or limited."""
        if run.config.ledger or run.has_budget:
            await self._books.open(run.config)

    async def _fitted_quote(self, run: Run) -> Quote:
        """What the run may cost as it fits into its budgets, and what gives way for that."""
        names = {
            name
            for member in (*run.target.members, *run.target.synthesizers)
            for name in member.deployments
        }
        scopes = [*run.scopes, *(one for name in sorted(names) for one in run.windows_of(name))]
        standings = await self._books.standings(scopes)
        margin = run.config.budgets.margin
        basis = Basis(
            bound=lambda name, request: run.deployments[name].adapter.bound_prompt(
                request, margin=margin
            ),
            price=lambda model, request: price_of(model, request=request),
        )
        return fitted_quote(
            run.target,
            run.pattern,
            run.request,
            run.config,
            standings,
            basis=basis,
            time_s=run.time_s,
        )

    def _keep_receipt(self, run: Run, receipt: Receipt) -> None:
        """Write the receipt wherever runs are written down."""
        if run.journal is not None:
            try:
                run.journal.close(receipt)
            except JournalError as error:
                _log.warning("the receipt of run %s is not in its journal: %s", run.run_id, error)
        # A plain run is one call, or a few at one: its lines of usage tell the same.
        if self._keeps_receipts or not run.target.is_plain:
            self._books.keep_receipt(run.run_id, run.request.tenant, receipt)

    def _fail(self, run: Run, error: Exception) -> None:
        """Explain a run that came to no answer as well as one that did."""
        if run.open_stage is not None:
            run.end_stage(run.open_stage, "failed")
        message = describe(error)
        receipt = run.failed = run.receipt("failed", (*run.causes, message), type(error).__name__)
        self._keep_receipt(run, receipt)
        run.channel.put(RunFailed(error=type(error).__name__, message=message, receipt=receipt))

    async def _answer_plain(self, run: Run) -> None:
        """One deployment or route, its stream handed on as it comes."""
        (member,) = run.target.members
        stage = run.begin_stage("answer", members=(member,))
        request = plain_request(run.request, run.messages)
        await self._ask_alone(
            run, stage, partial(self._ask, run, stage, member, request, deliver=True)
        )

    async def _drive_embedding(self, run: Run, wanted: Wanted) -> EmbeddingsResponse:
        try:
            await self._open_ledger(run)
            (member,) = run.target.members
            stage = run.begin_stage("embed", members=(member,))
            pursuit = Pursuit(
                names=self._order(run, stage, member, wanted.request), request=wanted.request
            )
            once = partial(self._embed_once, run, stage, member, wanted)
            await self._ask_alone(
                run, stage, partial(self._pursue, run, stage, member, pursuit, once)
            )
            response = response_of(run, wanted)
        except Exception as error:
            self._fail(run, error)
            raise
        self._keep_receipt(run, response.receipt)
        return response

    async def _ask_alone(
        self, run: Run, stage: StageLog, call: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> None:
        """The one call of a stage; where it fails, so does the run."""
        answers, _ = await self._ask_all(run, stage, [call])
        failed = answers[0].error if answers else None
        run.end_stage(stage, "failed" if failed or not answers else "ok")
        if not answers or (failed and run.is_over):
            raise out_of_time(run) from failed
        if failed is not None:
            raise plain_failure(run, stage, failed)

    async def _answer_panel(self, run: Run) -> None:
        """Every member at once; the best usable draft is the answer."""
        if run.request.pattern is not None:
            raise InvalidRun("BaseOrchestrator runs no patterns; use EnhancedOrchestrator")
        if run.request.tools is not None:
            raise InvalidRun("A draft is the answer here, and drafts get no tools; drop 'tools'")
        members, messages = run.target.members, without_tools(run.messages)
        stage = run.begin_stage("drafts", members=members)
        calls = [
            partial(
                self._ask,
                run,
                stage,
                member,
                draft_request(run.request, messages, sample=member.sample, is_answer=True),
            )
            for member in members
        ]
        answers, ending = await self._ask_all(
            run, stage, calls, quorum=run.target.enough(len(members)), grace_s=run.target.grace_s
        )
        drafts = gather(run, stage, answers, ending)
        need_a_draft(run, stage, drafts, answers)
        run.missing = absent(members, drafts)
        run.is_partial = ending == "run"
        run.end_stage(stage, "degraded" if stage.causes else "ok")
        chosen = best(drafts)
        run.delivery.replace(chosen.text, chosen.finish_reason, "")

    # One attempt, and everything that guards it.

    async def _attempt(
        self, run: Run, deployment: Deployment, request: CompletionRequest, attempt: AttemptLog
    ) -> AsyncGenerator[Chunk, None]:
        """One attempt at one deployment. Every call of every stage goes through here.

        What was paid for before is not paid for again: the journal of this run, the cache, an
        equal call that is under way. Only then is a call made.
        """
        request = self._bounded(run, deployment, request)
        key = self._recall.key(run, deployment, request, attempt.member.sample)
        async with self._recall.join(run, key) as flight:
            known = await self._recall.find(run, key, flight, attempt)
            if known is not None:
                for chunk in replay(known):
                    attempt.add(chunk)
                    yield chunk
                return
            async with aclosing(self._call(run, deployment, request, attempt)) as chunks:
                async for chunk in chunks:
                    if chunk.finish_reason is not None:  # before anybody uses it
                        self._recall.keep(run, deployment, key, flight, attempt)
                    yield chunk

    async def _call(
        self, run: Run, deployment: Deployment, request: CompletionRequest, attempt: AttemptLog
    ) -> AsyncGenerator[Chunk, None]:
        """One real call. Whatever guards it stands here, one guard a line, top to bottom."""
        run.refuse_if_halted()
        await self._warm(run, deployment, attempt, request)
        bound = self._bound(run, deployment, request)
        async with (
            Place(run, deployment, bound, attempt),  # its rate and its concurrency
            Permit(run, deployment, attempt),  # whether it is left alone for a while
            Hold(self._books, run, deployment, request, bound, attempt) as hold,  # the budgets
            aclosing(_answer(run, deployment, hold.request)) as chunks,
        ):
            async for chunk in chunks:
                attempt.add(chunk)
                if chunk.finish_reason is not None:
                    hold.settle(None)
                yield chunk
        if attempt.first_content_s is not None:
            deployment.times(is_live=run.is_live).add(attempt.first_content_s)

    def _bounded(
        self, run: Run, deployment: Deployment, request: CompletionRequest
    ) -> CompletionRequest:
        """The request with a length limit, where a budget needs one to reckon with."""
        limit = request.max_tokens or deployment.config.max_tokens
        if limit is None and run.counts_tokens(deployment.name):
            limit = deployment.usual_limit(request, run.config.budgets)
        if run.max_tokens is not None:
            limit = min(limit or run.max_tokens, run.max_tokens)
        return request if limit == request.max_tokens else replace(request, max_tokens=limit)

    def _bound(self, run: Run, deployment: Deployment, request: Request) -> Bound:
        """The most a call can use up."""
        scopes = run.scopes_of(deployment.name)
        if self._books.ledger is None and not deployment.config.rates.tokens_per_minute:
            return NO_BOUND
        budgets = run.config.budgets
        prompt = deployment.adapter.bound_prompt(request, margin=budgets.margin)
        completion = deployment.longest(request, budgets)
        price = deployment.price(request)
        if price is None and any(scope.caps.money_nanousd is not None for scope in scopes):
            raise UnknownPrice(
                f"The price of {deployment.name!r} is not known, and money is limited; give it in "
                f"the configuration: price: free, or price: {{input_usd: 0.25, output_usd: 2.00}}"
            )
        time_ms = ceil(run.call_limits().total_s * 1000)
        return billing.bound_of(prompt, completion, price, time_ms)

    async def _warm(
        self, run: Run, deployment: Deployment, attempt: AttemptLog, request: Request
    ) -> None:
        """Load what the adapter needs. Those seconds are the process's, not the run's."""
        if not deployment.adapter.is_warm(request):
            attempt.loading(is_done=False)
            with run.excused():
                await deployment.adapter.warm(request)
            attempt.loading(is_done=True)

    # Asking.

    async def _ask(
        self,
        run: Run,
        stage: StageLog,
        member: Member,
        request: CompletionRequest,
        *,
        deliver: bool = False,
        format_is_ours: bool = False,
    ) -> Answer:
        """Ask a member: attempts at its deployments, until one answers or nothing may follow.

        Args:
            run: The run this belongs to.
            stage: The stage that asks.
            member: Whom to ask.
            request: What to ask.
            deliver: Hand the answer on as it comes. One that breaks off is continued by whoever
                follows: what was handed on stands.
            format_is_ours: A deployment that refuses the response format may answer without it.
        """
        pursuit = Pursuit(
            names=self._order(run, stage, member, request),
            request=request,
            delivery=run.delivery if deliver else None,
            format_is_ours=format_is_ours,
        )
        once = partial(self._ask_hedged, run, stage, member)
        return await self._pursue(run, stage, member, pursuit, once)

    async def _pursue(
        self,
        run: Run,
        stage: StageLog,
        member: Member,
        pursuit: Pursuit,
        once: Callable[[Pursuit], Awaitable[Answer]],
    ) -> Answer:
        """Attempts, until one succeeds or nothing may follow."""
        self._fallbacks.deposit(run.clock.monotonic())
        while True:
            pursuit.begin(run.deployments[pursuit.name], run.clock.monotonic())
            answer = await once(pursuit)
            if answer.error is None or run.is_over:
                return answer
            step = self._next_step(run, stage, pursuit, answer.error)
            if isinstance(step, GiveUp):
                return answer
            pursuit.follow(step, answer.error)
            wait_s = step.wait_s if isinstance(step, Retry) else 0.0
            run.channel.put(
                AttemptFollows(
                    stage=stage.name,
                    member=member.name,
                    deployment=pursuit.name,
                    wait_s=wait_s,
                    how=pursuit.how(step),
                    cause=describe(answer.error),
                )
            )
            if wait_s:
                await run.clock.sleep(wait_s)

    def _order(self, run: Run, stage: StageLog, member: Member, request: Request) -> list[str]:
        """A member's deployments in the order in which to ask them.

        Of a resumed run, whoever had answered first: to ask another would be to pay again.
        """
        names = self._by_strategy(run, stage, member, request)
        if len(names) == 1 or run.journal is None or run.journal.paid == Amount():
            return names
        assert isinstance(request, CompletionRequest), "embeddings are in no journal"
        had_answered = {
            name
            for name in names
            if self._had_answered(run, member, run.deployments[name], request)
        }
        return sorted(names, key=lambda name: name not in had_answered)  # a stable sort

    def _had_answered(
        self, run: Run, member: Member, deployment: Deployment, request: CompletionRequest
    ) -> bool:
        asked = self._bounded(run, deployment, request)
        key = self._recall.key(run, deployment, asked, member.sample)
        return run.journal is not None and run.journal.holds(key)

    def _by_strategy(
        self, run: Run, stage: StageLog, member: Member, request: Request
    ) -> list[str]:
        if len(member.deployments) == 1:
            return list(member.deployments)
        route = run.config.routes.get(member.route)
        models = member.deployments if route is None else route.models
        fallback = () if route is None else route.fallback
        strategy = "priority" if route is None else route.strategy
        priced = request if strategy == "cheapest" else None
        return order(
            strategy,
            [run.deployments[name].candidate(priced, is_live=run.is_live) for name in models],
            make_rng(run.seed, "route", stage.name, member.name),
            fallback=[run.deployments[name].candidate() for name in fallback],
        )

    def _next_step(self, run: Run, stage: StageLog, pursuit: Pursuit, error: Exception) -> Step:
        deployment = run.deployments[pursuit.name]
        failure = Failure(
            error=error,
            tries=pursuit.tries,
            left_s=run.left_s,
            following=[
                Option(
                    deployment=name,
                    context_tokens=run.deployments[name].capacity.context_tokens,
                    is_ready=_is_free(run, pursuit, name),
                )
                for name in pursuit.names
            ],
            context_tokens=deployment.capacity.context_tokens,
            broke_off=pursuit.broke_off,
            can_simplify=pursuit.can_simplify,
            was_prefilled=pursuit.was_prefilled,
            before=pursuit.before,
        )
        if pursuit.cannot_be_continued:
            return GiveUp("an answer with tool calls in it cannot be continued")
        return next_step(
            failure,
            run.config.retry,
            make_rng(run.seed, "wait", stage.name, pursuit.name, pursuit.number),
            retries=deployment.retries,
            fallbacks=self._fallbacks,
        )

    async def _ask_hedged(
        self, run: Run, stage: StageLog, member: Member, pursuit: Pursuit
    ) -> Answer:
        """One attempt; and where the route hedges and it is late, a second beside it."""
        delay_s = self._hedge_delay_s(run, member, pursuit)
        if delay_s is None:
            return await self._ask_one(run, stage, member, pursuit.name, pursuit)
        self._hedges.deposit(run.clock.monotonic())
        race = Race()
        first = asyncio.create_task(
            self._ask_one(run, stage, member, pursuit.name, pursuit, race=race)
        )
        racing = [first]
        try:
            done = await run.clock.first_done(racing, delay_s)
            if not done and race.is_open and self._hedges.withdraw():
                name = pursuit.hedge()
                run.channel.put(
                    AttemptFollows(
                        stage=stage.name,
                        member=member.name,
                        deployment=name,
                        wait_s=0.0,
                        how="hedge",
                        cause=f"no answer within {delay_s:.3g} s",
                    )
                )
                racing.append(
                    asyncio.create_task(self._ask_one(run, stage, member, name, pursuit, race=race))
                )
            answer = await race.result(racing)
            pursuit.go_on_from(answer, race.failed)
            return answer
        finally:
            await end_calls(racing, run.clock)

    def _hedge_delay_s(self, run: Run, member: Member, pursuit: Pursuit) -> float | None:
        route = run.config.routes.get(member.route)
        if route is None or not route.hedge or pursuit.number > 1 or not pursuit.names:
            return None
        if not run.deployments[pursuit.names[0]].breaker.is_ready:
            return None
        times = run.deployments[pursuit.name].times(is_live=run.is_live)
        return hedge_after_s(times.quantile(0.95), run.config.retry)

    async def _ask_one(
        self,
        run: Run,
        stage: StageLog,
        member: Member,
        name: str,
        pursuit: Pursuit,
        *,
        race: Race | None = None,
    ) -> Answer:
        """One attempt, to its end."""
        deployment = run.deployments[name]
        attempt = AttemptLog(stage, member, name, deployment.config, pursuit.number)
        piece = pursuit.open(deployment)
        attempt.continues = piece.continues
        attempt.is_hedge = race is not None and name != pursuit.name
        attempt.may_wait = not any(_is_free(run, pursuit, one) for one in pursuit.names)
        if piece.continues:
            stage.notes.append(f"{name} went on with the answer where it had broken off")
        try:
            async with aclosing(self._attempt(run, deployment, piece.request, attempt)) as chunks:
                async for chunk in chunks:
                    if race is not None and (chunk.has_content or chunk.finish_reason):
                        race.claim(attempt)
                    if pursuit.delivery is None:
                        attempt.tell(chunk)
                    await piece.hand_on(chunk)
            completion = piece.whole(attempt.fold.completion())
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - a bug ends no panel
            if race is not None and race.has_lost(attempt):
                attempt.ending = "another attempt at the same call was first"
            return _failed(attempt, deployment, error)
        attempt.finished(completion)
        return Answer(
            member=member, deployment=name, completion=completion, elapsed_s=attempt.elapsed_s
        )

    async def _embed_once(
        self, run: Run, stage: StageLog, member: Member, wanted: Wanted, pursuit: Pursuit
    ) -> Answer:
        """One attempt at embeddings, to its end."""
        deployment = run.deployments[pursuit.name]
        attempt = AttemptLog(stage, member, pursuit.name, deployment.config, pursuit.number)
        attempt.may_wait = not any(_is_free(run, pursuit, one) for one in pursuit.names)
        try:
            found = await self._embed(run, deployment, wanted.request, attempt)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - as of any call
            return _failed(attempt, deployment, error)
        completion = wanted.keep(found)
        attempt.finished(completion, is_embedding=True)
        return Answer(
            member=member,
            deployment=pursuit.name,
            completion=completion,
            elapsed_s=attempt.elapsed_s,
        )

    async def _embed(
        self, run: Run, deployment: Deployment, request: EmbeddingRequest, attempt: AttemptLog
    ) -> Embeddings:
        """One real call for embeddings, behind the guards of every other."""
        await self._warm(run, deployment, attempt, request)
        bound = self._bound(run, deployment, request)
        async with (
            Place(run, deployment, bound, attempt),
            Permit(run, deployment, attempt),
            Hold(self._books, run, deployment, request, bound, attempt) as hold,
        ):
            found = await _embeddings(run, deployment, request)
            attempt.add(Chunk(finish_reason="stop", usage=found.usage, model=found.model))
            hold.settle(None)
        deployment.times(is_live=False).add(attempt.elapsed_s)
        return found

    async def _ask_all(
        self,
        run: Run,
        stage: StageLog,
        calls: Sequence[Callable[[], Coroutine[Any, Any, Answer]]],
        *,
        quorum: int = 1,
        grace_s: float = float("inf"),
        stages_after: int = 0,
        has_drafts: bool = False,
    ) -> tuple[list[Answer], Ending]:
        """Make calls at once, within the quorum's grace and the stage's share of the time."""
        share_s, excused_s = stage_share_s(run.left_s, stages_after), run.excused_s
        patience = Patience(
            quorum=quorum,
            grace_s=grace_s,
            stage_ends_s=run.clock.monotonic() + share_s,
            run_ends_s=run.ends_s,
            has_drafts=has_drafts,
            excused_s=lambda: run.excused_s - excused_s,
        )
        reasons: dict[Ending, str] = {
            "all": "",
            "quorum": f"not waited for: a quorum of {quorum} was met and {grace_s:g} s were over",
            "stage": f"no answer within this stage's {share_s:.3g} s",
            "run": f"no answer within the run's {run.time_s:g} s",
        }

        def tell(ending: Ending) -> None:
            stage.ending = reasons[ending]

        answers, ending = await fan_out(calls, patience, run.clock, before_cancelling=tell)
        return answers, ending


def _is_free(run: Run, pursuit: Pursuit, name: str) -> bool:
    """Whether a deployment might answer a call at once, as far as is known."""
    return name not in pursuit.without_room and run.deployments[name].breaker.is_ready


async def _answer(
    run: Run, deployment: Deployment, request: CompletionRequest
) -> AsyncGenerator[Chunk, None]:
    """The deployment's answer: as it comes where somebody watches, else in one piece."""
    adapter, limits = deployment.adapter, run.call_limits()
    try:
        if not run.is_live:
            yield in_one_chunk(await adapter.complete(request, limits=limits))
            return
        async with aclosing(adapter.stream(request, limits=limits)) as chunks:
            async for chunk in chunks:
                yield chunk
    except Exception as error:
        if _is_cancelled():  # the guards are to know, whatever the adapter made of it
            raise asyncio.CancelledError from error
        raise


async def _embeddings(run: Run, deployment: Deployment, request: EmbeddingRequest) -> Embeddings:
    """The deployment's vectors."""
    try:
        return await deployment.adapter.embed(request, limits=run.call_limits())
    except Exception as error:
        if _is_cancelled():  # the guards are to know, whatever the adapter made of it
            raise asyncio.CancelledError from error
        raise


def _failed(attempt: AttemptLog, deployment: Deployment, error: BaseException) -> Answer:
    """What an attempt comes to that has failed.

    Raises:
        CancelledError: it was cancelled, or is of no use any more.
    """
    if _is_cancelled() or isinstance(error, RaceLost):  # whatever the adapter made of it
        attempt.cancelled()
        raise asyncio.CancelledError from error
    failure = _as_failure(error, deployment, attempt.fold.text)
    attempt.failed(failure)
    return Answer(
        member=attempt.member,
        deployment=deployment.name,
        error=failure,
        elapsed_s=attempt.elapsed_s,
    )


def _outcome(task: asyncio.Task[T]) -> T:
    """What a run came to: its response, or its error."""
    if task.cancelled():
        raise OrchestratorError("The orchestrator was closed while the run went on")
    return task.result()


def _is_cancelled() -> bool:
    """Whether somebody has asked this very task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_failure(error: BaseException, deployment: Deployment, text: str) -> Exception:
    """What failed a call, as an error. A cancellation that nobody asked for is one as well."""
    if isinstance(error, Exception):
        return error
    failure = StreamBroken(
        "the call was cancelled from within",
        partial_text=text,
        provider=deployment.config.provider.value,
        deployment=deployment.name,
    )
    failure.__cause__ = error
    return failure


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, wait for it, and take note of how it ended."""
    ended = set(tasks)
    running = {task for task in ended if not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in ended:
        if not task.cancelled():
            task.exception()
