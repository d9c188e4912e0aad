"""What a run returns: the answer, and the receipt that explains it.

Everything here is a frozen value that survives a trip through JSON (`Receipt.to_json`,
`Receipt.from_json`).
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from adapters.types import FinishReason, Logprob, ToolCall, Usage, Vector

RunStatus = Literal["complete", "degraded", "partial", "failed"]
AttemptStatus = Literal["ok", "failed", "cancelled"]
Source = Literal["call", "cache", "shared", "journal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One call to one deployment: what was asked of it and what came of it.

    `label` is the shuffled letter under which the other members saw this answer, if they did.
    `usable` is false for an empty or refused answer: it does not count to the quorum.
    `source` says where the answer is from: a call, the cache, an equal call that was under way, or
    the journal of this very run before it was interrupted. Only a call costs anything now.
    """

    member: str  # the panel's name for it; a sampled deployment is `gpt#2`
    deployment: str
    provider: str
    model: str  # the model id that was asked for
    status: AttemptStatus
    role: str = ""
    label: str = ""
    usable: bool = False
    answered_as: str = ""  # the model id the provider answered under
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    started_s: float = 0.0  # after the run's start
    first_content_s: float | None = None  # after the attempt's start
    elapsed_s: float = 0.0
    error: str = ""  # the error's class name
    message: str = ""  # what it said, free of secrets
    status_code: int | None = None
    text: str = ""
    cost_nanousd: int | None = None  # None: the price is not known
    source: Source = "call"
    sent: bool = True  # false where it was refused before, or the answer was there already
    continues: bool = False  # it went on with the answer that the attempt before had begun
    over_bound: bool = False  # it used more than could be reserved for it

    @property
    def is_paid(self) -> bool:
        """Whether it was paid for in this run, now or before an interruption."""
        return self.source == "journal" or (self.source == "call" and self.sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One step of a pattern. `outcome` holds what its combination decided.

    For `rank`: `{"ranking": [...], "scores": {...}, "unparsable": n}`; for `vote`: `{"winner":,
    "votes": {...}, "unparsable": n, "dissent": [...]}`; for `pick`: `{"picked":, "reason":}`;
    for `write`: `{"synthesizer":, "tried": [...]}`.
    """

    name: str
    combine: str  # "" for a stage that only gathers drafts
    status: Literal["ok", "degraded", "failed", "skipped"]
    started_s: float
    elapsed_s: float
    attempts: tuple[AttemptRecord, ...] = ()
    outcome: dict[str, Any] = field(default_factory=dict)
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The record of a run: who was asked what, what it took, and why the answer is what it is."""

    run_id: str
    model: str  # the name the caller asked for
    pattern: str  # "" for a single deployment or route
    prompt: str
    seed: int
    config_hash: str
    started_at: str  # ISO 8601, UTC
    elapsed_s: float
    status: RunStatus
    causes: tuple[str, ...]  # why the status is not "complete"
    missing: tuple[str, ...]  # members that gave no usable answer
    calls: int
    usage: Usage  # of the calls that were paid for
    stages: tuple[StageRecord, ...]
    content: str
    notes: tuple[str, ...] = ()  # caveats of the method, e.g. consistency is not truth
    version: int = 1
    cost_nanousd: int = 0  # of the calls whose price is known
    unpriced: tuple[str, ...] = ()  # deployments that were called and whose price is not known
    shrunk: tuple[str, ...] = ()  # what gave way so that the run fits its budget
    tenant: str = ""
    tags: tuple[str, ...] = ()
    error: str = ""  # the error's class name, where the run came to no answer

    def to_json(self, *, indent: int | None = 2) -> bytes:
        """The receipt as it is kept. A half of a character, which nothing can write, is a `?`."""
        try:
            return _RECEIPT.dump_json(self, indent=indent)
        except ValueError:  # pydantic's, which says that the text is no UTF-8
            told = json.dumps(_RECEIPT.dump_python(self), ensure_ascii=False, indent=indent)
            return told.encode("utf-8", "replace")

    @staticmethod
    def from_json(text: bytes | str) -> "Receipt":
        """Raises `pydantic.ValidationError` for anything that is no receipt."""
        return _RECEIPT.validate_json(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResponse:
    """What one member of the panel answered in the first stage, or why it did not."""

    member: str
    deployment: str
    text: str = ""
    usable: bool = False
    usage: Usage = Usage()
    elapsed_s: float = 0.0
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorResponse:
    """One synthesised answer. `status` says whether it is all it was meant to be."""

    content: str
    status: RunStatus
    causes: tuple[str, ...]
    model_responses: dict[str, MemberResponse]
    receipt: Receipt
    finish_reason: FinishReason = "stop"
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str | None = None  # which of the request's own ended it, if that is known
    logprobs: tuple[Logprob, ...] = ()  # of the tokens of `content`, where they were asked for

    @property
    def usage(self) -> Usage:
        """Tokens of the whole run, every call that was paid for included."""
        return self.receipt.usage

    @property
    def cost_nanousd(self) -> int:
        """Money of the whole run in nano-dollars, as far as prices are known."""
        return self.receipt.cost_nanousd


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsResponse:
    """A vector for each input, in their order, all of the same model."""

    vectors: tuple[Vector, ...]
    model: str  # the model id the provider answered under
    receipt: Receipt

    @property
    def status(self) -> RunStatus:
        """As in `OrchestratorResponse`; vectors are all there, or there are none."""
        return self.receipt.status

    @property
    def usage(self) -> Usage:
        """Tokens of the whole run."""
        return self.receipt.usage

    @property
    def cost_nanousd(self) -> int:
        """Money of the whole run in nano-dollars, as far as prices are known."""
        return self.receipt.cost_nanousd


_RECEIPT: TypeAdapter[Receipt] = TypeAdapter(Receipt)
