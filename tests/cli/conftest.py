"""What the tests of the command line share: a caller, hand-made runs, an engine to replay them."""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from adapters import Completion, Usage
from orchestrator.amounts import Amount
from orchestrator.breaker import BreakerState
from orchestrator.budget import Estimate, Plan, Quote
from orchestrator.cli import main
from orchestrator.config import RequestConfig, runs_folder
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptProgress,
    AttemptStarted,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
)
from orchestrator.journal import Journal, Opening, PaidCall, RunJournal
from orchestrator.responses import (
    AttemptRecord,
    MemberResponse,
    OrchestratorResponse,
    Receipt,
    StageRecord,
)

Call = Callable[..., Result]
USAGE = Usage(prompt_tokens=10, completion_tokens=20)


@pytest.fixture
def call() -> Call:
    """Call the command as a shell would: `call("ask", "hi", stdin="...")`."""

    def run(*words: str, stdin: str | bytes | None = None, **environment: str) -> Result:
        return CliRunner().invoke(
            main, list(words), input=stdin, env=environment, prog_name="orchestrator"
        )

    return run


def make_attempt(member: str = "gpt", **changes: Any) -> AttemptRecord:
    return dataclasses.replace(
        AttemptRecord(
            member=member,
            deployment=member,
            provider="openai",
            model="gpt-5-mini",
            status="ok",
            usable=True,
            usage=USAGE,
            elapsed_s=0.4,
            cost_nanousd=4_100_000,
            text=f"draft of {member}",
        ),
        **changes,
    )


def make_receipt(**changes: Any) -> Receipt:
    failed = make_attempt(
        "claude",
        provider="anthropic",
        model="claude-haiku-4-5",
        status="failed",
        usable=False,
        error="RateLimited",
        message="slow down",
        status_code=429,
        text="",
    )
    answer = StageRecord(
        name="answer",
        combine="",
        status="ok",
        started_s=0.0,
        elapsed_s=0.5,
        attempts=(make_attempt("gpt", label="B"), make_attempt("gemini", label="A"), failed),
    )
    write = StageRecord(
        name="write",
        combine="write",
        status="ok",
        started_s=0.5,
        elapsed_s=0.5,
        attempts=(make_attempt("gpt", role="synthesizer", started_s=0.5),),
        outcome={"synthesizer": "gpt", "tried": ["gpt"]},
    )
    receipt = Receipt(
        run_id="run-0001",
        model="council",
        pattern="compare",
        prompt="Why is the sky blue?",
        seed=7,
        config_hash="c0ffee",
        started_at="2026-11-22T12:00:00+00:00",
        elapsed_s=1.0,
        status="complete",
        causes=(),
        missing=("claude",),
        calls=4,
        usage=USAGE + USAGE,
        stages=(answer, write),
        content="Because of Rayleigh scattering.",
        cost_nanousd=12_300_000,
    )
    return dataclasses.replace(receipt, **changes)


def make_response(receipt: Receipt | None = None) -> OrchestratorResponse:
    receipt = receipt or make_receipt()
    members = {
        attempt.member: MemberResponse(
            member=attempt.member,
            deployment=attempt.deployment,
            text=attempt.text,
            usable=attempt.usable,
            usage=attempt.usage,
            elapsed_s=attempt.elapsed_s,
            error=attempt.error,
            message=attempt.message,
        )
        for attempt in receipt.stages[0].attempts
    }
    return OrchestratorResponse(
        content=receipt.content,
        status=receipt.status,
        causes=receipt.causes,
        model_responses=members,
        receipt=receipt,
    )


def make_events(response: OrchestratorResponse | None = None) -> list[Event]:
    """A whole run of a panel of three, one of which is rate limited."""
    response = response or make_response()
    receipt = response.receipt
    members = ("gpt", "gemini", "claude")
    asked: dict[str, Any] = {"stage": "answer"}
    first, second = receipt.content[:10], receipt.content[10:]
    return [
        RunStarted(
            run_id=receipt.run_id,
            model=receipt.model,
            pattern=receipt.pattern,
            members=members,
            stages=("answer", "write"),
            seed=7,
        ),
        StageStarted(stage="answer", index=0, total=2, members=members),
        *(AttemptStarted(member=name, deployment=name, attempt=1, **asked) for name in members),
        AttemptProgress(member="gpt", deployment="gpt", characters=120, **asked),
        *(
            AttemptFinished(
                member=name,
                deployment=name,
                usable=True,
                finish_reason="stop",
                usage=USAGE,
                elapsed_s=0.4,
                **asked,
            )
            for name in ("gpt", "gemini")
        ),
        AttemptFailed(
            member="claude",
            deployment="claude",
            error="RateLimited",
            message="slow down",
            elapsed_s=0.4,
            **asked,
        ),
        StageFinished(stage="answer", index=0, status="ok", elapsed_s=0.5, summary="2 of 3"),
        StageStarted(stage="write", index=1, total=2, members=("gpt",)),
        AttemptStarted(stage="write", member="gpt", deployment="gpt", attempt=1),
        TextDelta(text=first),
        TextDelta(text=second),
        AttemptFinished(
            stage="write",
            member="gpt",
            deployment="gpt",
            usable=True,
            finish_reason="stop",
            usage=USAGE,
            elapsed_s=0.5,
        ),
        StageFinished(stage="write", index=1, status="ok", elapsed_s=0.5),
        RunFinished(response=response),
    ]


def make_quote() -> Quote:
    """Two calls that were expected to cost a cent and to take a second."""
    amount = Amount(money_nanousd=10_000_000, tokens=100, calls=2)
    estimate = Estimate(amount=amount, elapsed_s=1.0)
    plan = Plan(members=("gpt",))
    return Quote(
        model="council",
        pattern="compare",
        plan=plan,
        expected=estimate,
        full=estimate,
        worst=estimate,
        stages=(),
    )


def make_call(text: str = "An answer.") -> PaidCall:
    completion = Completion(text=text, finish_reason="stop", model="gpt-5-mini", usage=USAGE)
    return PaidCall(key=text, deployment="gpt", completion=completion, cost_nanousd=4_100_000)


def make_kept(
    receipt: Receipt | None = None, *calls: PaidCall, ended: bool = True, **changes: Any
) -> Path:
    """Write down a run as the engine does, or one that was interrupted."""
    receipt = receipt or make_receipt()
    opening = Opening(
        run_id=receipt.run_id,
        started_at=receipt.started_at,
        seed=receipt.seed,
        nonce="00" * 16,
        config_hash=receipt.config_hash,
        request=RequestConfig(prompt=receipt.prompt, model=receipt.model, **changes),
    )
    run = Journal(runs_folder()).begin(opening)
    for call in calls:
        run.append(call)
    run.close(receipt if ended else None)
    return run.path


class Replay:
    """An orchestrator that replays written-down events and remembers what it was asked.

    Like a real one it writes the run down: where it begins, and its receipt where it ends.
    """

    def __init__(
        self,
        events: Sequence[Event | Exception],
        *,
        breakers: Mapping[str, BreakerState] | None = None,
    ) -> None:
        self.events = events
        self.requests: list[Any] = []
        self.resumed: list[str] = []
        self.closed = False
        self._breakers = breakers or {}
        self._journal: RunJournal | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.closed = True

    async def stream_request(self, request: Any) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        async for event in self.replay():
            yield event

    async def resume_request(self, run_id: str) -> AsyncGenerator[Event, None]:
        self.resumed.append(run_id)
        async for event in self.replay():
            yield event

    async def quote(self, request: Any) -> Quote:
        return make_quote()

    def breakers(self) -> Mapping[str, BreakerState]:
        return self._breakers

    async def replay(self) -> AsyncGenerator[Event, None]:
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                self._write_down(event)
                await self.before(event)
                yield event
        finally:
            if self._journal is not None:
                self._journal.close()

    async def before(self, event: Event) -> None:
        """What happens before an event is passed on."""

    def _write_down(self, event: Event) -> None:
        match event:
            case RunStarted():
                path = Journal(runs_folder()).path(event.run_id)
                path.unlink(missing_ok=True)  # of the run that was replayed before
                opening = Opening(
                    run_id=event.run_id,
                    started_at="2026-11-22T12:00:00+00:00",
                    seed=event.seed,
                    nonce="00" * 16,
                    config_hash="c0ffee",
                    request=RequestConfig(prompt="Why is the sky blue?", model=event.model),
                )
                self._journal = Journal(runs_folder()).begin(opening)
            case RunFailed() if self._journal is not None:
                self._journal.close(event.receipt)
            case RunFinished() if self._journal is not None:
                with contextlib.suppress(ValueError):  # half a character: no JSON holds it
                    self._journal.close(event.response.receipt)
            case _:
                pass


@dataclasses.dataclass
class Made:
    """Ways to make runs by hand."""

    attempt: Callable[..., AttemptRecord] = make_attempt
    receipt: Callable[..., Receipt] = make_receipt
    response: Callable[..., OrchestratorResponse] = make_response
    events: Callable[..., list[Event]] = make_events
    replay: Callable[..., Replay] = Replay
    call: Callable[..., PaidCall] = make_call
    kept: Callable[..., Path] = make_kept


@pytest.fixture
def made() -> Made:
    """Hand-made attempts, receipts, responses, event sequences and engines."""
    return Made()


TEAM = """\
models:
  gpt: {provider: openai, model: gpt-5-mini, api_key: "${TEAM_OPENAI_KEY}", weight: 2}
  claude: {provider: anthropic, model: claude-haiku-4-5}
  gemini: {provider: google, model: gemini-2.5-flash, price: {input_usd: 0.1, output_usd: 0.4}}
  local: {provider: custom, model: qwen3, api_base: "http://127.0.0.1:8080/v1", price: free}
routes:
  fast: {models: [gemini, gpt], fallback: [claude]}
panels:
  council: {members: [gpt, claude, gemini], pattern: compare, synthesizer: claude}
"""


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A configuration of somebody who knows what they want."""
    path = tmp_path / "team.yaml"
    path.write_text(TEAM)
    return path
