"""What only an orchestrator has: the `orchestration` object of requests and of replies."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, StrictBool

from orchestrator.config import MOST_MEMBERS, Count, Money, Seconds, Tag
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptFollows,
    AttemptStarted,
    BudgetShrunk,
    Event,
    StageFinished,
    StageStarted,
)
from orchestrator.responses import OrchestratorResponse, Receipt, RunStatus
from orchestrator.wire.reading import Body


class Orchestration(Body):
    """How a run is to go, beside what OpenAI's own fields say."""

    pattern: str | None = None
    members: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_MEMBERS)] | None = None
    synthesizer: str | None = None
    max_cost_usd: Money | None = None
    max_run_tokens: Count | None = None
    max_calls: Count | None = None
    time_s: Seconds | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] = ()
    cache: Literal["use", "refresh", "off"] = "use"
    progress: StrictBool = False  # tell what members do, inside ordinary chunks

    def fields(self) -> dict[str, Any]:
        """The fields of a `RequestConfig` that were given."""
        return self.model_dump(exclude={"progress"}, exclude_unset=True)


class Ended(Protocol):
    """What a run came to, whatever it was asked for."""

    @property
    def receipt(self) -> Receipt: ...

    @property
    def status(self) -> RunStatus: ...

    @property
    def cost_nanousd(self) -> int: ...


def record(ended: Sequence[Ended]) -> dict[str, Any]:
    """What the records say of finished runs, in a reply."""
    return {
        "run_id": ended[0].receipt.run_id,
        "status": worst(ended),
        "calls": sum(one.receipt.calls for one in ended),
        "cost_usd": dollars(ended),
        **_unpriced(ended),
    }


def _unpriced(ended: Sequence[Ended]) -> dict[str, Any]:
    """Who was called and has no known price, if anybody."""
    names = {name for one in ended for name in one.receipt.unpriced}
    return {"unpriced": sorted(names)} if names else {}


def outcome(
    responses: Sequence[OrchestratorResponse], ignored: Mapping[str, str]
) -> dict[str, Any]:
    """What is said of finished runs, one for each choice, in a reply."""
    causes = [cause for response in responses for cause in response.causes]
    told: dict[str, Any] = {
        "run_id": responses[0].receipt.run_id,
        "status": worst(responses),
        "causes": list(dict.fromkeys(causes)),
        "pattern": responses[0].receipt.pattern,
        "calls": sum(response.receipt.calls for response in responses),
        "cost_usd": dollars(responses),
        "members": sorted({name for response in responses for name in response.model_responses}),
    }
    if len(responses) > 1:
        told["run_ids"] = [response.receipt.run_id for response in responses]
    told |= _unpriced(responses)
    if shrunk := list(dict.fromkeys(step for one in responses for step in one.receipt.shrunk)):
        told["shrunk"] = shrunk
    if ignored:
        told["ignored"] = dict(ignored)
    return told


def unheard(responses: Sequence[OrchestratorResponse], *, logprobs: bool) -> dict[str, str]:
    """What was asked of finished runs and turned out to have had no effect, and why.

    Args:
        responses: One for each choice.
        logprobs: Whether each was to tell how probable its tokens were.
    """
    told = (response.logprobs or not response.content for response in responses)
    if not logprobs or all(told):
        return {}
    is_panel = any(response.receipt.pattern for response in responses)
    why = "an answer of several models has none" if is_panel else "whoever answered has told none"
    return {"logprobs": why}


_WORST = ("failed", "partial", "degraded", "complete")


def worst(responses: Sequence[Ended]) -> str:
    """The status of them all: the worst of any."""
    return min((response.status for response in responses), key=_WORST.index)


def is_recalled(responses: Sequence[OrchestratorResponse]) -> bool:
    """Whether all of it was found in the cache, and nobody was asked."""
    return all(
        response.status == "complete"
        and all(
            attempt.source == "cache"
            for stage in response.receipt.stages
            for attempt in stage.attempts
        )
        for response in responses
    )


def dollars(responses: Sequence[Ended]) -> float:
    """What runs have cost, in US dollars, as far as prices are known."""
    return float(Decimal(sum(response.cost_nanousd for response in responses)).scaleb(-9))


def headers(responses: Sequence[Ended], ignored: Mapping[str, str]) -> dict[str, str]:
    """What the headers of a whole reply say of its runs."""
    return {
        "x-orchestrator-run-id": responses[0].receipt.run_id,
        "x-orchestrator-status": worst(responses),
        "x-orchestrator-cost-usd": f"{dollars(responses):.9f}",
        **ignored_header(ignored),
    }


def ignored_header(ignored: Mapping[str, str]) -> dict[str, str]:
    """Which fields had no effect, if any."""
    return {"x-orchestrator-ignored": ", ".join(ignored)} if ignored else {}


def progress(event: Event) -> dict[str, Any] | None:
    """What an event tells somebody who waits; None where it tells nothing."""
    match event:
        case StageStarted():
            return {
                "event": "stage_started",
                "stage": event.stage,
                "index": event.index,
                "total": event.total,
                "members": list(event.members),
            }
        case AttemptStarted():
            return {
                "event": "attempt_started",
                "stage": event.stage,
                "member": event.member,
                "deployment": event.deployment,
                "attempt": event.attempt,
            }
        case AttemptFinished():
            return {
                "event": "attempt_finished",
                "stage": event.stage,
                "member": event.member,
                "deployment": event.deployment,
                "usable": event.usable,
                "elapsed_s": round(event.elapsed_s, 3),
                "source": event.source,
            }
        case AttemptFailed():
            return {
                "event": "attempt_failed",
                "stage": event.stage,
                "member": event.member,
                "deployment": event.deployment,
                "error": event.error,
                "elapsed_s": round(event.elapsed_s, 3),
            }
        case AttemptFollows():
            return {
                "event": "attempt_follows",
                "stage": event.stage,
                "member": event.member,
                "deployment": event.deployment,
                "how": event.how,
                "wait_s": event.wait_s,
            }
        case BudgetShrunk():
            return {"event": "budget_shrunk", "steps": list(event.steps)}
        case StageFinished():
            return {
                "event": "stage_finished",
                "stage": event.stage,
                "status": event.status,
                "elapsed_s": round(event.elapsed_s, 3),
                "summary": event.summary,
            }
        case _:
            return None
