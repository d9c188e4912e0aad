"""One run while it lasts: what was asked, who may be called, what has come of it so far."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from adapters.types import FinishReason, Limits, Usage
from orchestrator.amounts import Scope
from orchestrator.budget import Plan
from orchestrator.channel import Channel, Delivery
from orchestrator.clock import Clock
from orchestrator.config import OrchestratorConfig
from orchestrator.deployment import Deployment
from orchestrator.errors import JournalError
from orchestrator.events import BudgetShrunk
from orchestrator.journal import Opening, RunJournal
from orchestrator.limits import (
    counts_tokens,
    deployment_scopes,
    run_caps,
    run_time_s,
    shared_scopes,
)
from orchestrator.panel import Member
from orchestrator.patterns import Pattern
from orchestrator.prompts import conversation, question_text
from orchestrator.quoting import plan_of, planned
from orchestrator.receipts import (
    StageLog,
    StageStatus,
    member_responses,
    paid_attempts,
)
from orchestrator.resolve import Target
from orchestrator.responses import OrchestratorResponse, Receipt, RunStatus, StageRecord

CUTS: Mapping[FinishReason, str] = {
    "length": "the answer was cut off by its length limit",
    "content_filter": "the answer was cut off by the provider's content filter",
}
LEAST_CALL_S = 0.02  # with less time left than this, a call is not worth beginning


class Run:
    """A run keeps the deployments and the configuration that it began with.

    Attributes:
        is_live: Whether somebody watches the answer come; else it is asked for in one piece.
        journal: Where finished calls are written down, if anywhere.
        begins: Opens that, for a run that goes on with none.
        caps: What the run as a whole may use up.
        scopes: The budgets that all its calls count in.
        max_tokens: How long any answer may be, where a budget had to be fitted.
        shrunk: What gave way so that the run fits its budget.
        failed: The receipt, once it has come to no answer.
    """

    def __init__(
        self,
        opening: Opening,
        target: Target,
        deployments: Mapping[str, Deployment],
        config: OrchestratorConfig,
        clock: Clock,
        *,
        is_live: bool = True,
    ) -> None:
        self.opening = opening
        self.request = opening.request
        self.target = target
        self.deployments = deployments
        self.config = config
        self.clock = clock
        self.is_live = is_live
        self.messages = conversation(self.request)
        self.started_at = datetime.fromisoformat(opening.started_at)
        self.started_s = clock.monotonic()
        self.run_id = opening.run_id
        self.seed = opening.seed
        self.caps = run_caps(config.budgets, self.request)
        self.time_s = run_time_s(config, self.request)
        self.scopes = shared_scopes(
            config.budgets,
            self.caps,
            self.run_id,
            self.request.tenant,
            self.request.tenant_windows,
        )
        self._scopes_of: dict[str, tuple[Scope, ...]] = {}
        self._excused_s = 0.0
        self._loading = 0
        self._loading_since_s = 0.0
        self._limits = config.timeouts.limits()
        self._halted: JournalError | None = None
        self.max_tokens: int | None = None
        self._is_less = False
        self.shrunk: tuple[str, ...] = ()
        self.journal: RunJournal | None = None
        self.begins: Callable[[Opening], RunJournal] | None = None
        self.channel = Channel(has_listener=is_live)
        self.delivery = Delivery(self.channel)
        self.stages: list[StageRecord] = []
        self.open_stage: StageLog | None = None
        self.causes: list[str] = []
        self.is_partial = False
        self.missing: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.pattern: Pattern | None = None
        self.failed: Receipt | None = None

    @property
    def ends_s(self) -> float:
        """When the run's time is over, on the monotonic clock."""
        return self.started_s + self.time_s + self.excused_s

    @property
    def has_budget(self) -> bool:
        """Whether anything limits what the run may use up."""
        return bool(self.scopes or self.config.budgets.windows)

    def counts_tokens(self, deployment: str) -> bool:
        """Whether a budget depends on how long a deployment's answers are."""
        return counts_tokens(self.scopes_of(deployment))

    def halt(self, error: JournalError) -> None:
        """Pay for nothing more: it could not be written down."""
        if self._halted is None:
            self._halted = error
            self.causes.append(str(error))

    def refuse_if_halted(self) -> None:
        """Raise the `JournalError` that has halted the run, if one has."""
        if self._halted is not None:
            raise JournalError(str(self._halted)) from self._halted

    def follow(self, plan: Plan, shrunk: tuple[str, ...]) -> None:
        """Ask whom a plan asks, and for no longer answers than it says.

        Raises:
            InvalidRun: somebody it asks is not there any more.
        """
        asked = plan_of(self.target)
        self.target = planned(self.target, plan)
        self.max_tokens = plan.max_tokens
        self._is_less = replace(plan, max_tokens=None) != asked
        if plan != asked:
            self.opening = replace(self.opening, plan=plan, shrunk=shrunk)

    def tell_plan(self) -> None:
        """Say what gave way for the plan: fewer members, or another writer, are less than asked."""
        self.shrink(self.opening.shrunk, degrades=self._is_less)

    def shrink(self, steps: tuple[str, ...], *, degrades: bool = False) -> None:
        """Something gave way so that the run, or a call of it, fits its budget.

        A lower limit on answers degrades nothing by itself: one that cuts an answer is said there.
        """
        new = tuple(step for step in steps if step not in self.shrunk)
        if new:
            self.shrunk = (*self.shrunk, *new)
            self.causes.extend(f"budget: {step}" for step in new if degrades)
            self.channel.put(BudgetShrunk(steps=new))

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Do not count this time: something is loaded that every run after will have.

        Calls that wait for the same at the same time are excused once.
        """
        if not self._loading:
            self._loading_since_s = self.clock.monotonic()
        self._loading += 1
        try:
            yield
        finally:
            self._loading -= 1
            if not self._loading:
                self._excused_s += self.clock.monotonic() - self._loading_since_s

    @property
    def excused_s(self) -> float:
        """How much of the time so far does not count; it grows while something is loaded."""
        if not self._loading:
            return self._excused_s
        return self._excused_s + self.clock.monotonic() - self._loading_since_s

    @property
    def elapsed_s(self) -> float:
        """How long the run has lasted, without what it is excused for."""
        return self.clock.monotonic() - self.started_s - self.excused_s

    @property
    def left_s(self) -> float:
        return self.ends_s - self.clock.monotonic()

    @property
    def is_over(self) -> bool:
        return self.left_s < LEAST_CALL_S

    def call_limits(self) -> Limits:
        """The limits of a call that begins now: never past the end of the run."""
        limits, left_s = self._limits, max(self.left_s, LEAST_CALL_S)
        return limits if limits.total_s <= left_s else replace(limits, total_s=left_s)

    def begin_stage(
        self,
        name: str,
        *,
        combine: str = "",
        index: int = 0,
        total: int = 1,
        members: Sequence[Member] = (),
    ) -> StageLog:
        self.open_stage = StageLog(
            name,
            combine=combine,
            index=index,
            total=total,
            members=members,
            now_s=lambda: self.elapsed_s,
            channel=self.channel,
        )
        return self.open_stage

    def end_stage(self, stage: StageLog, status: StageStatus = "ok", summary: str = "") -> None:
        self.stages.append(stage.finish(status, summary))
        self.open_stage = None

    def degrade(self, stage: StageLog, cause: str) -> None:
        """Something is not as it was meant to be: the stage and the response say so."""
        stage.causes.append(cause)
        self.causes.append(f"{stage.name}: {cause}")

    def scopes_of(self, deployment: str) -> tuple[Scope, ...]:
        """Every budget that a call of a deployment counts in."""
        scopes = self._scopes_of.get(deployment)
        if scopes is None:
            scopes = self._scopes_of[deployment] = (*self.scopes, *self.windows_of(deployment))
        return scopes

    def windows_of(self, deployment: str) -> tuple[Scope, ...]:
        """The budgets of a deployment, whoever calls it."""
        return deployment_scopes(self.config.budgets, deployment)

    def response(self) -> OrchestratorResponse:
        """What has come of it, with the receipt."""
        delivery = self.delivery
        cut = CUTS.get(delivery.finish_reason)
        causes = (*self.causes, cut) if cut else tuple(self.causes)
        status: RunStatus = "degraded" if causes else "complete"
        if cut or (causes and self.is_partial):
            status = "partial"
        return OrchestratorResponse(
            content=delivery.content,
            status=status,
            causes=causes,
            model_responses=member_responses(
                self.stages[0] if self.stages else None, delivery.content
            ),
            receipt=self.receipt(status, causes),
            finish_reason=delivery.finish_reason,
            reasoning=delivery.reasoning,
            tool_calls=delivery.tool_calls,
            logprobs=delivery.logprobs,
            stop_sequence=delivery.stop_sequence,
        )

    def receipt(self, status: RunStatus, causes: tuple[str, ...], error: str = "") -> Receipt:
        """The record of the run as far as it has come."""
        paid = paid_attempts(self.stages)
        unpriced = {
            made.deployment: None
            for made in paid
            if made.cost_nanousd is None and made.usage.total_tokens
        }
        return Receipt(
            run_id=self.run_id,
            model=self.target.name,
            pattern=self.target.pattern,
            prompt=question_text(self.messages),
            seed=self.seed,
            config_hash=self.opening.config_hash,
            started_at=self.opening.started_at,
            elapsed_s=self.elapsed_s,
            status=status,
            causes=causes,
            missing=self.missing,
            calls=len(paid),
            usage=sum((made.usage for made in paid), Usage()),
            stages=tuple(self.stages),
            content=self.delivery.content,
            notes=(*self.request.notes, *self.notes),
            cost_nanousd=sum(made.cost_nanousd or 0 for made in paid),
            unpriced=tuple(unpriced),
            shrunk=self.shrunk,
            tenant=self.request.tenant,
            tags=self.request.tags,
            error=error,
        )
