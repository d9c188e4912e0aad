"""What has come of a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RowStatus = Literal["complete", "degraded", "partial", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """What one deployment did for a row.

    Attributes:
        deployment: Its name in the configuration.
        calls: How often it was called.
        failed: How many of those calls failed.
        prompt_tokens: What was read.
        completion_tokens: What was written.
        cost_nanousd: What that cost, in nano-dollars.
        elapsed_s: How long its calls took, in seconds, all together.
    """

    deployment: str
    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a row has no answer.

    Attributes:
        kind: The name of the error: `BudgetExceeded`, `InvalidRow`.
        message: What was found, what was wanted, what to do next. No secret stands in it.
        status: What HTTP calls it.
    """

    kind: str
    message: str
    status: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What has come of a row.

    Attributes:
        position: Which row it is, from 0, among all rows of the input.
        line: Where it begins in the input, from 1.
        custom_id: What the caller calls it; "" where it has no name.
        digest: Of its content.
        status: How whole the answer is.
        text: The answer; "" where there is none.
        tool_calls: The calls of tools it asks for, in OpenAI's shape.
        parsed: The answer as JSON, where one was asked for by a schema.
        finish_reason: Why it ends: `stop`, `tool_calls`.
        model: What was asked for, as the configuration calls it.
        run_id: The run it came from; "" where there was none.
        at_s: When it was done, in seconds of UTC.
        elapsed_s: How long it took.
        use: What each deployment did for it.
        causes: Why the answer is not whole.
        failure: Why there is none.
        receipt: The record of the run, where receipts are wanted.
        is_repeated: Whether the answer is that of an equal row, and nothing was paid for this one.
        ignored: What the row says that had no effect, and why.
        agreement: Which part of the drafts says what the answer says, 0 to 1, where that was
            counted. It tells how many agree, not how likely they are right.
    """

    position: int
    line: int
    custom_id: str = ""
    digest: str
    status: RowStatus
    text: str = ""
    tool_calls: tuple[dict[str, object], ...] = ()
    parsed: object = None
    finish_reason: str = ""
    model: str = ""
    run_id: str = ""
    at_s: float = 0.0
    elapsed_s: float = 0.0
    use: tuple[ModelUse, ...] = ()
    causes: tuple[str, ...] = ()
    failure: Failure | None = None
    receipt: dict[str, object] | None = None
    is_repeated: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict)
    agreement: float | None = None

    @property
    def cost_nanousd(self) -> int:
        """What the row cost, in nano-dollars."""
        return sum(use.cost_nanousd for use in self.use)
