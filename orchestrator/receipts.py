"""Write down what a run does while it does it, and make the receipt of it at the end."""

from asyncio import CancelledError
from collections.abc import Sequence
from typing import Any, Literal

from adapters.config import ModelConfig
from adapters.errors import ProviderError
from adapters.types import Chunk, Completion, CompletionFold, Usage
from orchestrator.channel import Channel
from orchestrator.clock import Clock
from orchestrator.events import (
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
    StageRecord,
)

PROGRESS_EVERY_S = 0.25

StageStatus = Literal["ok", "degraded", "failed", "skipped"]


class StageLog:
    """One stage as it happens. `finish` closes it."""

    def __init__(
        self,
        name: str,
        *,
        combine: str = "",
        index: int = 0,
        total: int = 1,
        members: Sequence[Member] = (),
        clock: Clock,
        run_started_s: float,
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
        self.clock = clock
        self.run_started_s = run_started_s
        self.channel = channel
        self._started_s = clock.monotonic()
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
        elapsed_s = self.clock.monotonic() - self._started_s
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
            started_s=self._started_s - self.run_started_s,
            elapsed_s=elapsed_s,
            # In the panel's order, whoever came first: two equal runs have equal receipts.
            attempts=tuple(
                sorted(self.attempts, key=lambda made: places.get(made.member, len(places)))
            ),
            outcome=self.outcome,
            causes=(*self.causes, *self.notes),
        )


class AttemptLog:
    """One call as it happens, told to the listener and kept for the receipt."""

    def __init__(
        self, stage: StageLog, member: Member, deployment: str, config: ModelConfig, number: int
    ) -> None:
        self.fold = CompletionFold()
        self._stage = stage
        self._member = member
        self._deployment = deployment
        self._config = config
        self._started_s = stage.clock.monotonic()
        self._first_content_s: float | None = None
        self._told_s = 0.0
        self._characters = 0
        stage.running.append(self)
        stage.channel.put(
            AttemptStarted(
                stage=stage.name, member=member.name, deployment=deployment, attempt=number
            )
        )

    @property
    def elapsed_s(self) -> float:
        return self._stage.clock.monotonic() - self._started_s

    def add(self, chunk: Chunk, *, tell: bool) -> None:
        """A piece has come; `tell` the listener now and then.

        Raises:
            CancelledError: the stage is over, and nobody waits for this call any more.
        """
        if self not in self._stage.running:
            raise CancelledError
        self.fold.add(chunk)
        if not chunk.has_content:
            return
        elapsed_s = self.elapsed_s
        is_first = self._first_content_s is None
        if is_first:
            self._first_content_s = elapsed_s
        self._characters += len(chunk.text) + len(chunk.reasoning)
        is_due = is_first or elapsed_s - self._told_s >= PROGRESS_EVERY_S
        if tell and is_due and not self._stage.channel.is_full:
            self._told_s = elapsed_s
            self._stage.channel.put(
                AttemptProgress(
                    stage=self._stage.name,
                    member=self._member.name,
                    deployment=self._deployment,
                    characters=self._characters,
                )
            )

    def finished(self, completion: Completion) -> None:
        usable = is_usable(completion)
        self._stage.channel.put(
            AttemptFinished(
                stage=self._stage.name,
                member=self._member.name,
                deployment=self._deployment,
                usable=usable,
                finish_reason=completion.finish_reason,
                usage=completion.usage,
                elapsed_s=self.elapsed_s,
            )
        )
        self._keep("ok", usable=usable, usage=completion.usage)

    def failed(self, error: Exception) -> None:
        # A bug's message may hold anything; a provider's has been scrubbed by its adapter.
        provider_s = isinstance(error, ProviderError)
        self._end(
            "failed",
            type(error).__name__,
            str(error) if provider_s else "an unexpected error inside the call",
            error.status_code if isinstance(error, ProviderError) else None,
        )

    def cancelled(self) -> None:
        if self in self._stage.running:
            self._end("cancelled", "Cancelled", self._stage.ending, None)

    def _end(self, status: AttemptStatus, error: str, message: str, code: int | None) -> None:
        self._stage.channel.put(
            AttemptFailed(
                stage=self._stage.name,
                member=self._member.name,
                deployment=self._deployment,
                error=error,
                message=message,
                elapsed_s=self.elapsed_s,
            )
        )
        self._keep(
            status,
            usage=self.fold.usage or Usage(estimated=True),
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
        self._stage.running.remove(self)
        self._stage.attempts.append(
            AttemptRecord(
                member=self._member.name,
                deployment=self._deployment,
                provider=self._config.provider.value,
                model=self._config.model,
                status=status,
                role=self._member.role,
                label=self._member.label,
                usable=usable,
                answered_as=self.fold.model or "",
                finish_reason=self.fold.finish_reason,
                usage=usage,
                started_s=self._started_s - self._stage.run_started_s,
                first_content_s=self._first_content_s,
                elapsed_s=self.elapsed_s,
                error=error,
                message=message,
                status_code=status_code,
                text=self.fold.text,
            )
        )


def member_responses(stage: StageRecord | None) -> dict[str, MemberResponse]:
    """What each member came to in a stage: its last attempt says it."""
    last = {made.member: made for made in stage.attempts} if stage else {}
    return {
        name: MemberResponse(
            member=name,
            deployment=made.deployment,
            text=made.text if made.status == "ok" else "",
            usable=made.usable,
            usage=made.usage,
            elapsed_s=made.elapsed_s,
            error=made.error,
            message=made.message,
        )
        for name, made in last.items()
    }


def total_usage(stages: Sequence[StageRecord]) -> Usage:
    """The tokens of every call."""
    return sum((made.usage for stage in stages for made in stage.attempts), Usage())
