"""Typed facts about a run, in the order they happen. The last one is `RunFinished`.

`execute_request` is the fold of `stream_request`: it reads these events and returns
`RunFinished.response`. A run that cannot give an answer ends in `RunFailed` and raises.
"""

from dataclasses import dataclass
from typing import Literal

from adapters.types import FinishReason, Logprob, ToolCallDelta, Usage
from orchestrator.responses import OrchestratorResponse, Receipt, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """What was resolved: the members that will be asked and the stages that will run."""

    run_id: str
    model: str
    pattern: str
    members: tuple[str, ...]
    stages: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins. `index` counts from 0 of `total`."""

    stage: str
    index: int
    total: int
    members: tuple[str, ...]  # who will be called


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """A call is about to be made."""

    stage: str
    member: str
    deployment: str
    attempt: int  # 1 is the first


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLoading:
    """What a call needs is being loaded, or (`is_done`) has been. It happens once a process."""

    stage: str
    member: str
    deployment: str
    is_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptProgress:
    """A call that is not the final one has sent more content. Not one event a chunk: rationed."""

    stage: str
    member: str
    deployment: str
    characters: int  # so far


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinished:
    """A call gave a whole answer. `usable` is false when it is empty or a refusal."""

    stage: str
    member: str
    deployment: str
    usable: bool
    finish_reason: FinishReason
    usage: Usage
    elapsed_s: float
    cost_nanousd: int | None = None  # None: the price is not known
    source: Source = "call"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """A call failed, or was cancelled as a straggler (`error` is "Cancelled")."""

    stage: str
    member: str
    deployment: str
    error: str  # class name
    message: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFollows:
    """What was decided after a failure: who is asked next, when, and why."""

    stage: str
    member: str
    deployment: str  # who is asked next
    wait_s: float
    how: Literal["retry", "fallback", "continuation", "hedge"]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetShrunk:
    """The run did not fit its budget as it was asked; what gave way, one line each."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """A stage has its outcome. `summary` is one line for people."""

    stage: str
    index: int
    status: str
    elapsed_s: float
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More of the final answer. All of them since the last `TextReset`, joined, are `content`."""

    text: str
    logprobs: tuple[Logprob, ...] = ()  # of its tokens, where they were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """More of the final answer's reasoning."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallsDelta:
    """More of the final answer's tool calls."""

    tool_calls: tuple[ToolCallDelta, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReset:
    """The writer of the final answer broke off; the text so far is withdrawn, another follows."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run came to no answer; the error is raised right after this. The receipt tells why."""

    error: str  # class name
    message: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run is over; `response` is what `execute_request` returns."""

    response: OrchestratorResponse


Event = (
    RunStarted
    | StageStarted
    | AttemptStarted
    | AdapterLoading
    | AttemptProgress
    | AttemptFinished
    | AttemptFailed
    | AttemptFollows
    | BudgetShrunk
    | StageFinished
    | TextDelta
    | ReasoningDelta
    | ToolCallsDelta
    | TextReset
    | RunFailed
    | RunFinished
)
