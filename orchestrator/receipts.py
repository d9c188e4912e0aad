"""Write down what a run does while it does it, and make the receipt of it at the end."""

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import Any, Literal

from adapters.config import ModelConfig
from adapters.errors import ProviderError
from adapters.types import Chunk, Completion, CompletionFold, Usage
from orchestrator.billing import Posting
from orchestrator.channel import Channel
from orchestrator.errors import OrchestratorError
from orchestrator.events import (
    AdapterLoading,
    AttemptFailed,
    AttemptFinished,
    AttemptProgress,
    AttemptStarted,
    StageFinished,
    StageStarted,
)
from orchestrator.panel import Member, is_usable
from orchestrator.responses import (
    AttemptRecord,
    AttemptStatus,
    MemberResponse,
    Source,
    StageRecord,
)

PROGRESS_EVERY_S = 0.25

StageStatus = Literal["ok", "degraded", "failed", "skipped"]


class StageLog:
    """One stage as it happens. `finish` closes it.

    Attributes:
        now_s: How long the run has lasted, without what it is excused for.
    """

    def __init__(
        self,
        name: str,
        *,
        combine: str = "",
        index: int = 0,
        total: int = 1,
        members: Sequence[Member] = (),
        now_s: Callable[[], float],
        channel: Channel,
    ) -> None:
        self.name = name
        self.combine = combine
        self.index = index
        self.members = tuple(members)
        self.attempts: list[AttemptRecord] = []
        self.running: list[AttemptLog] = []
        self.causes: list[str] = []  # why it is not all it was meant to be
        self.notes: list[str] = []  # what else happened
        self.outcome: dict[str, Any] = {}
        self.ending = "the run was closed"  # what a call that is cancelled now is told
        self.now_s = now_s
        self.channel = channel
        self._started_s = now_s()
        channel.put(
            StageStarted(
                stage=name,
                index=index,
                total=total,
                members=tuple(member.name for member in members),
            )
        )

    def finish(self, status: StageStatus, summary: str = "") -> StageRecord:
        for left_behind in tuple(self.running):
            left_behind.cancelled()
        elapsed_s = self.now_s() - self._started_s
        self.channel.put(
            StageFinished(
                stage=self.name,
                index=self.index,
                status=status,
                elapsed_s=elapsed_s,
                summary=summary,
            )
        )
        places = {member.name: place for place, member in enumerate(self.members)}
        return StageRecord(
            name=self.name,
            combine=self.combine,
            status=status,
            started_s=self._started_s,
            elapsed_s=elapsed_s,
            # In the panel's order, whoever came first: two equal runs have equal receipts.
            attempts=tuple(
                sorted(self.attempts, key=lambda made: places.get(made.member, len(places)))
            ),
            outcome=self.outcome,
            causes=(*self.causes, *self.notes),
        )


class AttemptLog:
    """One attempt as it happens, told to the listener and kept for the receipt.

    Attributes:
        fold: What has come of the answer.
        source: Where it comes from.
        posting: What it used up, once that is known.
        is_sent: Whether the provider is, or may have been, asked.
        is_shortened: Whether a budget left room for a shorter answer only.
        continues: Whether it goes on with an answer that another attempt had begun.
    """

    def __init__(
        self, stage: StageLog, member: Member, deployment: str, config: ModelConfig, number: int
    ) -> None:
        self.fold = CompletionFold()
        self.source: Source = "call"
        self.posting: Posting | None = None
        self.is_sent = False
        self.is_shortened = False
        self.continues = False
        self.is_hedge = False  # asked beside another that is late
        self.may_wait = True  # for a place in its deployment's pace; else somebody else is asked
        self.ending = ""  # why it was cancelled, where the stage does not say
        self.stage = stage
        self.member = member
        self._deployment = deployment
        self._config = config
        self._started_s = stage.now_s()
        self.first_content_s: float | None = None
        self._told_s = 0.0
        self._characters = 0
        stage.running.append(self)
        stage.channel.put(
            AttemptStarted(
                stage=stage.name, member=member.name, deployment=deployment, attempt=number
            )
        )

    @property
    def is_whole(self) -> bool:
        """Whether the answer has come to its end."""
        return self.fold.finish_reason is not None

    @property
    def elapsed_s(self) -> float:
        # Another call's loading may have been excused meanwhile.
        return max(0.0, self.stage.now_s() - self._started_s)

    def loading(self, *, is_done: bool) -> None:
        """What the call needs is being loaded; once that is done, it begins."""
        self.stage.channel.put(
            AdapterLoading(
                stage=self.stage.name,
                member=self.member.name,
                deployment=self._deployment,
                is_done=is_done,
            )
        )
        self._started_s = self.stage.now_s()

    def add(self, chunk: Chunk) -> None:
        """A piece has come.

        Raises:
            CancelledError: the stage is over, and nobody waits for this call any more.
        """
        if self not in self.stage.running:
            raise CancelledError
        self.fold.add(chunk)
        if self.first_content_s is None and chunk.has_content:
            self.first_content_s = self.elapsed_s

    def tell(self, chunk: Chunk) -> None:
        """Let the listener know now and then how far the answer has come."""
        if not chunk.has_content:
            return
        self._characters += len(chunk.text) + len(chunk.reasoning)
        elapsed_s = self.elapsed_s
        is_due = not self._told_s or elapsed_s - self._told_s >= PROGRESS_EVERY_S
        if is_due and not self.stage.channel.is_full:
            self._told_s = elapsed_s
            self.stage.channel.put(
                AttemptProgress(
                    stage=self.stage.name,
                    member=self.member.name,
                    deployment=self._deployment,
                    characters=self._characters,
                )
            )

    def finished(self, completion: Completion, *, is_embedding: bool = False) -> None:
        usable = is_embedding or is_usable(completion)
        self.stage.channel.put(
            AttemptFinished(
                stage=self.stage.name,
                member=self.member.name,
                deployment=self._deployment,
                usable=usable,
                finish_reason=completion.finish_reason,
                usage=completion.usage,
                elapsed_s=self.elapsed_s,
                cost_nanousd=self._cost_nanousd,
                source=self.source,
            )
        )
        self._keep("ok", usable=usable, usage=completion.usage)

    def failed(self, error: Exception) -> None:
        # A bug's message may hold anything; a provider's has been scrubbed by its adapter.
        is_known = isinstance(error, (ProviderError, OrchestratorError))
        self._end(
            "failed",
            type(error).__name__,
            str(error) if is_known else "an unexpected error inside the call",
            error.status_code if isinstance(error, ProviderError) else None,
        )

    def cancelled(self) -> None:
        if self in self.stage.running:
            self._end("cancelled", "Cancelled", self.ending or self.stage.ending, None)

    @property
    def _cost_nanousd(self) -> int | None:
        return None if self.posting is None else self.posting.cost_nanousd

    def _end(self, status: AttemptStatus, error: str, message: str, code: int | None) -> None:
        self.stage.channel.put(
            AttemptFailed(
                stage=self.stage.name,
                member=self.member.name,
                deployment=self._deployment,
                error=error,
                message=message,
                elapsed_s=self.elapsed_s,
            )
        )
        usage = Usage() if self.posting is None else self.posting.usage
        if self.posting is None and self.is_sent:  # it has not ended yet
            usage = self.fold.usage or Usage(estimated=True)
        self._keep(
            status,
            usage=usage,
            error=error,
            message=message,
            status_code=code,
        )

    def _keep(
        self,
        status: AttemptStatus,
        *,
        usage: Usage,
        usable: bool = False,
        error: str = "",
        message: str = "",
        status_code: int | None = None,
    ) -> None:
        self.stage.running.remove(self)
        self.stage.attempts.append(
            AttemptRecord(
                member=self.member.name,
                deployment=self._deployment,
                provider=self._config.provider.value,
                model=self._config.model,
                status=status,
                role=self.member.role,
                label=self.member.label,
                usable=usable,
                answered_as=self.fold.model or "",
                finish_reason=self.fold.finish_reason,
                usage=usage,
                started_s=self._started_s,
                first_content_s=self.first_content_s,
                elapsed_s=self.elapsed_s,
                error=error,
                message=message,
                status_code=status_code,
                text=self.fold.text,
                cost_nanousd=self._cost_nanousd,
                source=self.source,
                sent=self.is_sent,
                continues=self.continues,
                over_bound=self.posting is not None and self.posting.is_over,
            )
        )


def member_responses(stage: StageRecord | None, content: str) -> dict[str, MemberResponse]:
    """What each member came to in a stage: the attempt that answered says it, else its last one.

    One that went on with what another had begun says only the rest; both are the run's content.
    """
    attempts = stage.attempts if stage else ()
    last = {made.member: made for made in attempts}
    last |= {made.member: made for made in attempts if made.status == "ok"}
    return {
        name: MemberResponse(
            member=name,
            deployment=made.deployment,
            text=_answer_of(made, content),
            usable=made.usable,
            usage=made.usage,
            elapsed_s=made.elapsed_s,
            error=made.error,
            message=made.message,
        )
        for name, made in last.items()
    }


def _answer_of(made: AttemptRecord, content: str) -> str:
    if made.status != "ok":
        return ""
    return content if made.continues and made.usable else made.text


def paid_attempts(stages: Sequence[StageRecord]) -> list[AttemptRecord]:
    """The attempts that this run paid for."""
    return [made for stage in stages for made in stage.attempts if made.is_paid]
