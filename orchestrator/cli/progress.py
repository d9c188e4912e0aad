"""What a run is doing, folded from its events, and said in lines for people. No I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.amounts import usd
from orchestrator.budget import Quote
from orchestrator.cli.text import count, one_line, seconds
from orchestrator.events import (
    AdapterLoading,
    AttemptFailed,
    AttemptFinished,
    AttemptFollows,
    AttemptProgress,
    AttemptStarted,
    BudgetShrunk,
    Event,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.responses import OrchestratorResponse, Receipt, Source

CallState = Literal["waiting", "asked", "ok", "unusable", "failed"]
MESSAGE_WIDTH = 160  # characters of an error that one line of progress repeats
# Stands in the notes of a run whose words are made up.
SIMULATED = "simulated: every word comes from the embedded simulator, none from a real model"
LOADING = "loading the engine (litellm takes some seconds)"


@dataclass(slots=True)
class Call:
    """One member being asked within one stage. `message` is what is told of it at the moment."""

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


AboutACall = (
    AttemptStarted
    | AdapterLoading
    | AttemptProgress
    | AttemptFinished
    | AttemptFailed
    | AttemptFollows
)


class Board:
    """The state of a run: `apply` every event in order, then read it."""

    def __init__(self) -> None:
        self.title = ""
        self.stages: list[Stage] = []
        self.planned: tuple[str, ...] = ()
        self.written = 0  # characters of the final answer so far
        self.expected = ""  # what the run was expected to come to
        self.shrunk: list[str] = []  # what gave way so that it fits its budget

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
            case BudgetShrunk():
                self.shrunk += event.steps
            case (
                AttemptStarted()
                | AdapterLoading()
                | AttemptProgress()
                | AttemptFinished()
                | AttemptFailed()
                | AttemptFollows()
            ):
                self._apply_to_call(event)
            case _:
                pass  # what is left concerns the answer, not its making

    def _apply_to_call(self, event: AboutACall) -> None:
        call = self._stage(event.stage).calls.setdefault(event.member, Call(event.member))
        match event:
            case AttemptStarted():
                call.state, call.characters, call.message = "asked", 0, ""
            case AdapterLoading():
                call.message = "" if event.is_done else "loading the engine"
            case AttemptProgress():
                call.characters, call.message = event.characters, ""
            case AttemptFinished():
                call.state = "ok" if event.usable else "unusable"
                call.message = "" if event.usable else "no usable answer"
                call.tokens = event.usage.completion_tokens
                call.elapsed_s = event.elapsed_s
            case AttemptFailed():
                call.state, call.elapsed_s = "failed", event.elapsed_s
                call.message = failure_line(event)
            case AttemptFollows():
                # A hedge goes beside the call that is late; everything else takes its place.
                call.state = call.state if event.how == "hedge" else "waiting"
                call.message = following(event)

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


# Where an answer came from that no call was made for.
SOURCES: Mapping[Source, str] = {
    "cache": "cached",
    "shared": "shared with an equal call",
    "journal": "paid for before",
}


def log_line(event: Event) -> str | None:
    """One line for an event worth a line in a log; None for the others."""
    match event:
        case RunStarted():
            members = ", ".join(event.members)
            name = " · ".join(part for part in (event.model, event.pattern) if part)
            return f"run {event.run_id}: {name}: asking {members}"
        case StageStarted():
            return f"stage {event.stage} ({event.index + 1} of {event.total}) begins"
        case AdapterLoading() if not event.is_done:
            return LOADING
        case AttemptFinished() if event.usable:
            tokens = count(event.usage.completion_tokens, "token")
            known = "" if event.source == "call" else f" ({SOURCES[event.source]})"
            took = seconds(event.elapsed_s)
            return f"{event.stage}: {event.member} answered{known}, {tokens}, {took}"
        case AttemptFinished():
            return f"{event.stage}: {event.member} gave no usable answer"
        case AttemptFailed():
            took = seconds(event.elapsed_s)
            return f"{event.stage}: {event.member} failed after {took}: {failure_line(event)}"
        case AttemptFollows():
            return f"{event.stage}: {event.member}: {following(event)}"
        case BudgetShrunk():
            return f"to fit the budget: {one_line('; '.join(event.steps), 400)}"
        case StageFinished():
            said = f": {one_line(event.summary, MESSAGE_WIDTH)}" if event.summary else ""
            return f"stage {event.stage} {event.status} in {seconds(event.elapsed_s)}{said}"
        case _:
            return None


def failure_line(event: AttemptFailed) -> str:
    """`RateLimited: slow down`, on one line, behind the name of the member that it is about."""
    said = event.message.removeprefix(f"{event.member}: ")
    return one_line(f"{event.error}: {said}" if said else event.error, MESSAGE_WIDTH)


def following(event: AttemptFollows) -> str:
    """What comes after a failure, or beside a call that is late."""
    match event.how:
        case "retry":
            return f"retry in {seconds(event.wait_s)}" if event.wait_s else "retry at once"
        case "fallback":
            return f"fallback to {event.deployment}"
        case "continuation":
            return f"continued by {event.deployment}"
        case "hedge":
            return f"{one_line(event.cause, MESSAGE_WIDTH)}: asking {event.deployment} as well"


def withdrawal(event: TextReset) -> str:
    """How a reader is told that text already shown does not count."""
    cause = one_line(event.cause, MESSAGE_WIDTH)
    return f"the text so far is withdrawn ({cause}); another answer follows"


def closing_line(response: OrchestratorResponse) -> str:
    """What it came to: `complete · 5 of 5 members · 6 calls · 1,234 tokens · $0.0123 · 2.10 s`."""
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
            spent(receipt),
            seconds(receipt.elapsed_s),
        )
    )


def spent(receipt: Receipt) -> str:
    """What was paid for a run: `$0.0123`, or why nothing was."""
    if SIMULATED in receipt.notes:
        return "simulated"
    if not receipt.calls:
        return "nothing called" if receipt.status == "failed" else "cached"
    return cost(receipt)


def cost(receipt: Receipt) -> str:
    """What a run's calls cost: with a ~ where that is partly estimated or not known."""
    if receipt.unpriced and not receipt.cost_nanousd:
        return "price unknown"
    is_rough = receipt.unpriced or receipt.usage.estimated
    return ("~" if is_rough else "") + usd(receipt.cost_nanousd)


def expectation(quote: Quote) -> str:
    """What a run will likely come to, in the few words there is room for before it starts."""
    amount = quote.expected.amount
    money = "price unknown" if quote.unknown_prices else f"about {usd(amount.money_nanousd)}"
    return f"{count(amount.calls, 'call')}, {money}"


def shortfalls(response: OrchestratorResponse) -> list[str]:
    """Why the answer is less than it was meant to be, one line each; empty for a complete one."""
    causes = [one_line(cause, 400) for cause in response.causes]
    lines = [
        f"to fit the budget: {one_line(step, 400)}"
        for step in response.receipt.shrunk
        if not any(step in cause for cause in response.causes)
    ]
    if declined := _who_declined(response):
        lines.append(f"{declined} declined to answer; its words are given as they are")
    if response.status == "complete":
        return lines
    causes = causes or ["no cause was recorded"]
    lines += [f"the answer is {response.status}: {causes[0]}", *causes[1:]]
    missing = response.receipt.missing
    return [*lines, f"missing: {', '.join(missing)}"] if missing else lines


def _who_declined(response: OrchestratorResponse) -> str:
    """The one model that was asked and refused; of a panel, status and causes say it."""
    members = list(response.model_responses.values())
    if response.receipt.pattern or len(members) != 1 or members[0].usable:
        return ""
    return members[0].member
