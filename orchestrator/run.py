"""One run while it lasts: what was asked, who may be called, what has come of it so far."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapters.base import BaseAdapter
from adapters.config import ModelConfig
from adapters.factory import create_adapter
from adapters.types import FinishReason, Limits
from orchestrator.channel import Channel, Delivery
from orchestrator.clock import Clock, new_run_id, new_seed
from orchestrator.config import OrchestratorConfig, RequestConfig, config_hash
from orchestrator.panel import Member
from orchestrator.patterns import Pattern
from orchestrator.prompts import conversation, question_text
from orchestrator.receipts import (
    StageLog,
    StageStatus,
    member_responses,
    total_usage,
)
from orchestrator.resolve import Target
from orchestrator.responses import OrchestratorResponse, Receipt, RunStatus, StageRecord

CUTS: Mapping[FinishReason, str] = {
    "length": "the answer was cut off by its length limit",
    "content_filter": "the answer was cut off by the provider's content filter",
}
LEAST_CALL_S = 0.02  # with less time left than this, a call is not worth beginning


class Deployment:
    """A configured model and its adapter, which is made when it is first called."""

    def __init__(self, name: str, config: ModelConfig, adapter: BaseAdapter | None = None) -> None:
        self.name = name
        self.config = config
        self._adapter = adapter

    @property
    def adapter(self) -> BaseAdapter:
        if self._adapter is None:
            self._adapter = create_adapter(self.config, deployment=self.name)
        return self._adapter

    async def aclose(self) -> None:
        if self._adapter is not None:
            await self._adapter.aclose()


class Run:
    """A run keeps the deployments and the configuration that it began with."""

    def __init__(
        self,
        request: RequestConfig,
        target: Target,
        deployments: Mapping[str, Deployment],
        config: OrchestratorConfig,
        clock: Clock,
    ) -> None:
        self.request = request
        self.target = target
        self.deployments = deployments
        self.config = config
        self.clock = clock
        self.messages = conversation(request)
        self.started_at = clock.now()
        self.started_s = clock.monotonic()
        self.time_s = request.time_s or config.timeouts.run_s
        self.ends_s = self.started_s + self.time_s
        self.run_id = new_run_id(self.started_at)
        self.seed = new_seed() if request.seed is None else request.seed
        self.channel = Channel()
        self.delivery = Delivery(self.channel)
        self.stages: list[StageRecord] = []
        self.open_stage: StageLog | None = None
        self.causes: list[str] = []
        self.is_partial = False
        self.missing: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.pattern: Pattern | None = None

    @property
    def left_s(self) -> float:
        return self.ends_s - self.clock.monotonic()

    @property
    def is_over(self) -> bool:
        return self.left_s < LEAST_CALL_S

    def call_limits(self) -> Limits:
        """The limits of a call that begins now: never past the end of the run."""
        limits = self.config.timeouts.limits()
        return replace(limits, total_s=min(limits.total_s, max(self.left_s, LEAST_CALL_S)))

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
            clock=self.clock,
            run_started_s=self.started_s,
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

    def response(self) -> OrchestratorResponse:
        """What has come of it, with the receipt."""
        delivery = self.delivery
        cut = CUTS.get(delivery.finish_reason)
        causes = (*self.causes, cut) if cut else tuple(self.causes)
        status: RunStatus = "degraded" if causes else "complete"
        if cut or (causes and self.is_partial):
            status = "partial"
        receipt = Receipt(
            run_id=self.run_id,
            model=self.target.name,
            pattern=self.target.pattern,
            prompt=question_text(self.messages),
            seed=self.seed,
            config_hash=config_hash(self.config),
            started_at=self.started_at.isoformat(),
            elapsed_s=self.clock.monotonic() - self.started_s,
            status=status,
            causes=causes,
            missing=self.missing,
            calls=sum(len(stage.attempts) for stage in self.stages),
            usage=total_usage(self.stages),
            stages=tuple(self.stages),
            content=delivery.content,
            notes=self.notes,
        )
        return OrchestratorResponse(
            content=delivery.content,
            status=status,
            causes=causes,
            model_responses=member_responses(self.stages[0] if self.stages else None),
            receipt=receipt,
            finish_reason=delivery.finish_reason,
            reasoning=delivery.reasoning,
            tool_calls=delivery.tool_calls,
        )
