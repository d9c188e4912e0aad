"""The guards of one call, each for a `with`: taken before it, given back however it ends.

Only `base.py` uses them, and only here do they meet: what stands behind them is a leaf each.
"""

from dataclasses import replace
from functools import partial
from math import ceil
from typing import Generic, Self, TypeVar

from adapters.errors import (
    ConnectionFailed,
    MalformedResponse,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    StreamBroken,
)
from adapters.types import Chunk, CompletionRequest, EmbeddingRequest, Usage
from orchestrator import billing
from orchestrator.billing import Bound, Posting
from orchestrator.books import Books
from orchestrator.breaker import outcome_of
from orchestrator.deployment import Deployment
from orchestrator.errors import BudgetExceeded
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.pacing import Ending
from orchestrator.receipts import AttemptLog
from orchestrator.responses import AttemptStatus
from orchestrator.run import Run

Asked = TypeVar("Asked", CompletionRequest, EmbeddingRequest)

BROKEN_OFF = (StreamBroken, ProviderTimeout, ConnectionFailed)  # nobody knows what was to come
SETTLING_S = 60.0  # how long after its time a call's reservation still stands


class Place:
    """A place among the calls that a deployment is sent in a minute, and at a time."""

    def __init__(self, run: Run, deployment: Deployment, bound: Bound, attempt: AttemptLog) -> None:
        self._run = run
        self._breaker = deployment.breaker
        self._pace = deployment.pace
        # A call that may come to more than a minute's tokens is not refused for what it may be.
        a_minute = deployment.config.rates.tokens_per_minute
        self._tokens = min(bound.amount.tokens, a_minute or bound.amount.tokens)
        self._attempt = attempt

    async def __aenter__(self) -> None:
        if not self._breaker.is_ready:  # nobody stands in line to be refused
            self._breaker.settle(self._breaker.admit(), "neutral")
        until_s = self._run.ends_s if self._attempt.may_wait else self._run.clock.monotonic()
        self._slot = await self._pace.enter(self._tokens, until_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        posting = self._attempt.posting
        if posting is None:  # the breaker or a budget has refused it
            self._slot.leave("unsent")
        elif isinstance(error, RateLimited):
            self._slot.leave("rate_limited", posting.usage.total_tokens)
            self._pace.pause(error.retry_after_s or 0.0)
        else:
            ending: Ending = "ok" if self._attempt.is_whole else "other"
            self._slot.leave(ending, posting.usage.total_tokens)


class Permit:
    """Leave to call a deployment, which is withdrawn for a while when it fails too often."""

    def __init__(self, run: Run, deployment: Deployment, attempt: AttemptLog) -> None:
        self._run = run
        self._breaker = deployment.breaker
        self._attempt = attempt

    async def __aenter__(self) -> None:
        self._ticket = self._breaker.admit()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is None or self._attempt.is_whole:
            self._breaker.settle(self._ticket, "success")
            return
        outcome = outcome_of(error, at_deadline=self._run.is_over)
        self._breaker.settle(self._ticket, outcome, type(error).__name__)


class Hold(Generic[Asked]):
    """What a call could use up, reserved in every budget it counts in, then settled.

    Attributes:
        request: What may be sent: its answer is shortened where only that fits.
    """

    def __init__(
        self,
        books: Books,
        run: Run,
        deployment: Deployment,
        request: Asked,
        bound: Bound,
        attempt: AttemptLog,
    ) -> None:
        self.request: Asked = request
        self._books = books
        self._run = run
        self._deployment = deployment
        self._bound = bound
        self._attempt = attempt
        self._reservation = ""
        self._is_settled = False

    async def __aenter__(self) -> Self:
        if self._books.ledger is not None:
            await self._reserve(self._books.ledger)
        self._attempt.is_sent = True
        return self

    async def _reserve(self, ledger: Ledger) -> None:
        await self._books.catch_up()
        scopes = self._run.scopes_of(self._deployment.name)
        while scopes and not self._reservation:
            try:
                self._reservation = await ledger.reserve(
                    self._bound.amount,
                    scopes,
                    run_id=self._run.run_id,
                    ttl_s=self._run.call_limits().total_s + SETTLING_S,
                    entry=_begun(self._run, self._deployment, self._attempt),
                )
            except BudgetExceeded as error:
                self._shorten(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self.settle(error)

    def settle(self, error: BaseException | None) -> None:
        """Post what the call has used up; the first time counts."""
        if self._is_settled:
            return
        self._is_settled = True
        posting = self._attempt.posting = self._posting(error)
        self._attempt.is_sent = posting.amount != billing.NOTHING
        if self._books.ledger is not None:
            self._post(self._books.ledger, posting, error)

    def _post(self, ledger: Ledger, posting: Posting, error: BaseException | None) -> None:
        post, reservation = self._books.post, self._reservation
        entry = _entry(self._run, self._deployment, self._attempt, error)
        if not self._attempt.is_sent:
            if reservation:
                post(partial(ledger.release, reservation))
        elif reservation:
            post(partial(ledger.settle, reservation, posting.amount, entry))
        else:
            post(partial(ledger.record, entry))

    def _shorten(self, error: BudgetExceeded) -> None:
        """Ask for a shorter answer, if a shorter one fits.

        Raises:
            BudgetExceeded: it does not, or answers are not to be shortened.
        """
        budgets, dimension, scope = self._run.config.budgets, error.dimension, error.scope
        if dimension is None or scope is None or "max_tokens" not in budgets.shrink:
            raise error
        if isinstance(self.request, EmbeddingRequest):  # there is no answer to shorten
            raise error
        left = getattr(scope.caps, dimension) - getattr(error.spent, dimension)
        price = self._deployment.price(self.request)
        tokens = billing.lowered(
            self._bound,
            price,
            dimension,
            left - getattr(error.held, dimension),
            least=budgets.min_tokens,
        )
        if tokens is None:
            raise error
        self.request = replace(self.request, max_tokens=tokens)
        self._attempt.is_shortened = True
        self._bound = billing.bound_of(
            self._bound.prompt_tokens, tokens, price, self._bound.amount.time_ms
        )
        self._run.shrink((f"answers of {self._deployment.name} are cut at {tokens} tokens",))

    def _posting(self, error: BaseException | None) -> Posting:
        attempt, fold = self._attempt, self._attempt.fold
        price = self._deployment.price(self.request, fold.model or "")
        elapsed_ms = ceil(attempt.elapsed_s * 1000)
        if error is None:
            return billing.finished(self._bound, self._used(), price, elapsed_ms)
        return billing.unfinished(self._bound, error, self._counted(error), price, elapsed_ms)

    def _used(self) -> Usage:
        """The tokens of a whole answer: as reported, or our count where that cannot be.

        The answer is given our count too, so that nobody is told anything else.
        """
        fold = self._attempt.fold
        usage = fold.usage or Usage()
        if billing.is_credible(usage, has_content=fold.has_content):
            return usage
        counted = self._deployment.adapter.count(self.request, fold)
        fold.add(Chunk(usage=counted))
        return counted

    def _counted(self, error: BaseException) -> Usage | None:
        """The tokens of a call that did not end well, as far as anybody knows.

        What a provider reports before its answer breaks off is the least it will charge, whatever
        class of error broke it off.
        """
        reported = error.usage if isinstance(error, ProviderError) else None
        if reported is not None and not billing.is_credible(reported):
            reported = None
        if not self._attempt.fold.has_content:
            was_broken = isinstance(error, BROKEN_OFF) or (
                self._run.is_live and isinstance(error, MalformedResponse)
            )
            return None if was_broken else reported
        counted = self._deployment.adapter.count(self.request, self._attempt.fold)
        return counted if reported is None else billing.at_least(counted, reported)


def _begun(run: Run, deployment: Deployment, attempt: AttemptLog) -> UsageEntry:
    """What the records say about a call of which nothing more is known."""
    return UsageEntry(
        run_id=run.run_id,
        tenant=run.request.tenant,
        tags=run.request.tags,
        deployment=deployment.name,
        provider=deployment.config.provider.value,
        model=deployment.config.model,
        pattern=run.target.pattern,
        stage=attempt.stage.name,
        member=attempt.member.name,
    )


def _entry(
    run: Run, deployment: Deployment, attempt: AttemptLog, error: BaseException | None
) -> UsageEntry:
    """What the records of usage say about a call that has ended."""
    posting = attempt.posting
    assert posting is not None, "what is recorded has been posted"
    return replace(
        _begun(run, deployment, attempt),
        answered_as=attempt.fold.model or "",
        status=_entry_status(error),
        usage=posting.usage,
        cost_nanousd=posting.cost_nanousd,
        over_bound=posting.is_over,
        at=run.clock.now(),
        elapsed_ms=ceil(attempt.elapsed_s * 1000),
    )


def _entry_status(error: BaseException | None) -> AttemptStatus:
    if error is None:
        return "ok"
    return "failed" if isinstance(error, Exception) else "cancelled"
