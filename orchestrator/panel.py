"""Ask several at once: who counts as an answer, how long to wait for whom, and when to stop."""

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.errors import ProviderError
from adapters.types import Completion
from orchestrator.clock import Clock, all_done
from orchestrator.errors import OrchestratorError

Ending = Literal["all", "quorum", "stage", "run"]

CLOSING_S = 5.0  # how long a call may take to end once it is cancelled; then it is left behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A place at the panel: the deployments that may fill it, in the order they are tried.

    `name` is what the receipt calls it; a deployment that is asked several times is `gpt#1`,
    `gpt#2`. `label` is the letter under which the others see its drafts.
    """

    name: str
    deployments: tuple[str, ...]
    weight: float = 1.0
    label: str = ""
    role: str = ""
    sample: int = 0
    route: str = ""  # the route it is, where it is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking a member: a completion, or the error of the last deployment tried."""

    member: Member
    deployment: str = ""  # whose it is
    completion: Completion | None = None
    error: Exception | None = None
    elapsed_s: float = 0.0

    @property
    def is_usable(self) -> bool:
        return self.completion is not None and is_usable(self.completion)

    @property
    def failure(self) -> str:
        """Why it is of no use, in a few words."""
        if self.error is not None:
            return describe(self.error)
        if self.completion is None:
            return "no answer in time"
        if self.completion.finish_reason == "content_filter":
            return "stopped by the provider's content filter"
        return "refused to answer" if self.completion.text.strip() else "empty answer"


def describe(error: Exception) -> str:
    """An error as one line: its class, and what it says.

    Only our own and a provider's errors are repeated: its adapter has taken every secret out of it.
    """
    said = str(error) if isinstance(error, (ProviderError, OrchestratorError)) else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m|i am|i apologi[sz]e|apologies|sorry|unfortunately|as an ai|"
    r"i (?:can(?:not)?|could(?:n)?|won|will|must|have to|do))\b",
    re.IGNORECASE,
)
_REFUSED_ACT = re.compile(
    r"\b(?:(?:can(?:['’]?t|not)|could(?:n['’]?t| not)|won['’]?t|will not|unable to|not able to)"
    r"(?: \w+){0,3} (?:help|assist|answer|comply|provide|create|write|generate|produce|discuss|"
    r"fulfil+|do that|do this|support|engage|share|continue)|must decline|have to decline)\b",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 400  # a refusal is short; a long text that begins with "sorry" says more


def is_usable(completion: Completion) -> bool:
    """Whether an answer counts to the quorum: not empty, not filtered, not a refusal."""
    if completion.finish_reason == "content_filter":
        return False
    if completion.tool_calls:
        return True
    text = completion.text.strip()
    return bool(text) and not is_refusal(text)


def is_refusal(text: str) -> bool:
    """Whether a text is short, begins like a refusal and says what it will not do."""
    text = text.strip()
    return (
        len(text) <= _REFUSAL_CHARACTERS
        and _REFUSAL.match(text) is not None
        and _REFUSED_ACT.search(text) is not None
    )


def majority(members: int) -> int:
    """More than half."""
    return members // 2 + 1


def stage_share_s(left_s: float, stages_after: int) -> float:
    """How much of the run's time a stage may use when others must follow.

    It gets twice what each later one is kept; what it does not use is theirs too.
    """
    return left_s * 2 / (2 + stages_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a group of calls is waited for. Times are on the run's monotonic clock.

    Attributes:
        quorum: How many usable answers are enough to start the grace.
        grace_s: How long the others are waited for then.
        stage_ends_s: When to stop if there is something to go on with.
        run_ends_s: When to stop in any case.
        has_drafts: Whether there is something to go on with already.
        excused_s: The seconds since that do not count.
    """

    quorum: int
    grace_s: float
    stage_ends_s: float
    run_ends_s: float
    has_drafts: bool = False
    excused_s: Callable[[], float] = lambda: 0.0

    def limit(self, usable: int, quorum_met_s: float | None) -> tuple[float, Ending]:
        """When to stop waiting, and what will have ended it."""
        excused_s = self.excused_s()
        limits: list[tuple[float, Ending]] = [(self.run_ends_s + excused_s, "run")]
        if usable or self.has_drafts:
            limits.append((self.stage_ends_s + excused_s, "stage"))
        if quorum_met_s is not None:
            limits.append((quorum_met_s + self.grace_s, "quorum"))
        return min(limits, key=lambda limit: limit[0])


async def fan_out(
    calls: Sequence[Callable[[], Coroutine[Any, Any, Answer]]],
    patience: Patience,
    clock: Clock,
    *,
    before_cancelling: Callable[[Ending], None] = lambda _: None,
) -> tuple[list[Answer], Ending]:
    """Run the calls at once; the answers there are when all are done or patience ends.

    Calls that are still running then are cancelled and waited for, though not for ever;
    `before_cancelling` is told why. If this is cancelled itself, or a call raises, every call is
    ended likewise.
    """
    tasks = [asyncio.create_task(call()) for call in calls]
    pending = set(tasks)
    ending: Ending = "all"
    quorum_met_s: float | None = None
    try:
        while pending:
            usable = sum(task.result().is_usable for task in tasks if task.done())
            now_s = clock.monotonic()
            if usable >= patience.quorum and quorum_met_s is None:
                quorum_met_s = now_s
            limit_s, limit_ending = patience.limit(usable, quorum_met_s)
            if now_s >= limit_s:
                ending = limit_ending
                break
            pending -= await clock.first_done(pending, limit_s - now_s)
        before_cancelling(ending)
    finally:
        await end_calls(pending, clock)
    return [task.result() for task in tasks if task.done() and not task.cancelled()], ending


async def end_calls(tasks: Collection[asyncio.Task[Answer]], clock: Clock) -> None:
    """Cancel calls and wait for their end, though not for ever."""
    for task in tasks:
        task.cancel()
    await all_done(clock, tasks, CLOSING_S)
