"""What a run is doing, folded from its events, and said in lines for people. No I/O, no clock."""

from dataclasses import dataclass, field
from typing import Literal

from orchestrator.cli.text import count, one_line, seconds
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptProgress,
    AttemptStarted,
    Event,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.responses import OrchestratorResponse

CallState = Literal["waiting", "asked", "ok", "unusable", "failed"]
MESSAGE_WIDTH = 160  # characters of an error that one line of progress repeats


@dataclass(slots=True)
class Call:
    """One member being asked within one stage."""

    member: str
    state: CallState = "waiting"
    characters: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    message: str = ""


@dataclass(slots=True)
class Stage:
    """One stage as far as it has come. `status` is empty until it has ended."""

    name: str
    calls: dict[str, Call] = field(default_factory=dict)
    status: str = ""
    summary: str = ""
    elapsed_s: float = 0.0

    @property
    def answered(self) -> int:
        return sum(call.state == "ok" for call in self.calls.values())


class Board:
    """The state of a run: `apply` every event in order, then read it."""

    def __init__(self) -> None:
        self.title = ""
        self.stages: list[Stage] = []
        self.planned: tuple[str, ...] = ()
        self.written = 0  # characters of the final answer so far

    def apply(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.planned = event.stages
                self.title = " · ".join(part for part in (event.model, event.pattern) if part) + (
                    f" · {count(len(event.members), 'member')}" if event.members else ""
                )
            case StageStarted():
                members = {member: Call(member) for member in event.members}
                self.stages.append(Stage(event.stage, calls=members))
            case StageFinished():
                stage = self._stage(event.stage)
                stage.status, stage.summary = event.status, event.summary
                stage.elapsed_s = event.elapsed_s
            case TextDelta():
                self.written += len(event.text)
            case TextReset():
                self.written = 0
            case AttemptStarted() | AttemptProgress() | AttemptFinished() | AttemptFailed():
                self._apply_to_call(event)
            case _:
                pass  # what is left concerns the answer, not its making

    def _apply_to_call(
        self, event: AttemptStarted | AttemptProgress | AttemptFinished | AttemptFailed
    ) -> None:
        call = self._stage(event.stage).calls.setdefault(event.member, Call(event.member))
        match event:
            case AttemptStarted():
                call.state, call.characters, call.message = "asked", 0, ""
            case AttemptProgress():
                call.characters = event.characters
            case AttemptFinished():
                call.state = "ok" if event.usable else "unusable"
                call.message = "" if event.usable else "no usable answer"
                call.tokens = event.usage.completion_tokens
                call.elapsed_s = event.elapsed_s
            case AttemptFailed():
                call.state, call.elapsed_s = "failed", event.elapsed_s
                call.message = failure_line(event)

    def _stage(self, name: str) -> Stage:
        """The latest stage of that name; rounds of one stage may repeat it."""
        for stage in reversed(self.stages):
            if stage.name == name:
                return stage
        self.stages.append(Stage(name))
        return self.stages[-1]

    @property
    def waiting(self) -> tuple[str, ...]:
        """The stages that have not begun."""
        return self.planned[len(self.stages) :]


def log_line(event: Event) -> str | None:
    """One line for an event worth a line in a log; None for the others."""
    match event:
        case RunStarted():
            members = ", ".join(event.members)
            name = " · ".join(part for part in (event.model, event.pattern) if part)
            return f"run {event.run_id}: {name}: asking {members}"
        case StageStarted():
            return f"stage {event.stage} ({event.index + 1} of {event.total}) begins"
        case AttemptFinished() if event.usable:
            tokens = count(event.usage.completion_tokens, "token")
            return f"{event.stage}: {event.member} answered, {tokens}, {seconds(event.elapsed_s)}"
        case AttemptFinished():
            return f"{event.stage}: {event.member} gave no usable answer"
        case AttemptFailed():
            took = seconds(event.elapsed_s)
            return f"{event.stage}: {event.member} failed after {took}: {failure_line(event)}"
        case StageFinished():
            said = f": {one_line(event.summary, MESSAGE_WIDTH)}" if event.summary else ""
            return f"stage {event.stage} {event.status} in {seconds(event.elapsed_s)}{said}"
        case _:
            return None


def failure_line(event: AttemptFailed) -> str:
    """`RateLimited: slow down`, on one line, behind the name of the member that it is about."""
    said = event.message.removeprefix(f"{event.member}: ")
    return one_line(f"{event.error}: {said}" if said else event.error, MESSAGE_WIDTH)


def withdrawal(event: TextReset) -> str:
    """How a reader is told that text already shown does not count."""
    cause = one_line(event.cause, MESSAGE_WIDTH)
    return f"the text so far is withdrawn ({cause}); another answer follows"


def closing_line(response: OrchestratorResponse) -> str:
    """What it came to: `complete · 5 of 5 members · 1,234 tokens · 2.10 s`."""
    receipt = response.receipt
    usable = sum(member.usable for member in response.model_responses.values())
    asked = len(response.model_responses)
    flag = " (partly estimated)" if receipt.usage.estimated else ""
    return " · ".join(
        (
            response.status,
            f"{usable} of {count(asked, 'member')}",
            count(receipt.calls, "call"),
            count(receipt.usage.total_tokens, "token") + flag,
            seconds(receipt.elapsed_s),
        )
    )


def shortfalls(response: OrchestratorResponse) -> list[str]:
    """Why the answer is less than it was meant to be, one line each; empty for a complete one."""
    lines = []
    if declined := _who_declined(response):
        lines.append(f"{declined} declined to answer; its words are given as they are")
    if response.status == "complete":
        return lines
    causes = [one_line(cause, 400) for cause in response.causes] or ["no cause was recorded"]
    lines += [f"the answer is {response.status}: {causes[0]}", *causes[1:]]
    missing = response.receipt.missing
    return [*lines, f"missing: {', '.join(missing)}"] if missing else lines


def _who_declined(response: OrchestratorResponse) -> str:
    """The one model that was asked and refused; of a panel, status and causes say it."""
    members = list(response.model_responses.values())
    if response.receipt.pattern or len(members) != 1 or members[0].usable:
        return ""
    return members[0].member
