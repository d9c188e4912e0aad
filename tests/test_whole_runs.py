"""Whole runs on the simulator, with faults among the members: what is said is what happened."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from random import Random

import pytest

from adapters import ModelConfig
from adapters.errors import ProviderError
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import BreakerConfig, PanelConfig, RetryConfig, TimeoutsConfig
from orchestrator.errors import DeadlineExceeded, QuorumNotMet
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.patterns import PatternLibrary
from orchestrator.responses import AttemptRecord, OrchestratorResponse, Receipt
from orchestrator.simulator import Simulator, SimulatorConfig, simulated

MEMBERS = {
    "alpha": ("openai", "gpt-5-mini"),
    "beta": ("anthropic", "claude-haiku-4-5"),
    "gamma": ("google", "gemini-2.5-flash"),
    "delta": ("cohere", "command-a-03-2025"),
}
IDENTITIES = ("alpha", "beta", "gamma", "delta", "gpt-5", "claude", "gemini", "command-a", "cohere")
FAULTS = ("cutmid", "e500", "stall0", "empty", "refuse", "inject", "length", "filter", "blank")
QUESTIONS = (
    "Is a tomato a fruit? Answer yes or no.",
    "What is 17 * 23?",
    "Should a team of three run Kubernetes?",
)
SEEDS = range(4 if os.environ.get("ORCHESTRATOR_THOROUGH") == "1" else 2)


@pytest.fixture(autouse=True)
async def _warm() -> None:
    """The very first call of every kind may take longer than the short limits of these runs."""
    if _warm_already:
        return
    async with Simulator() as simulator:
        config = configured(simulator, {}).model_copy(update={"timeouts": TimeoutsConfig()})
        async with EnhancedOrchestrator(config) as engine:
            for name in MEMBERS:
                await engine.execute_request(RequestConfig(prompt="Hello", model=name))
    _warm_already.append(True)


_warm_already: list[bool] = []


def configured(simulator: Simulator, faults: dict[str, tuple[str, ...]]) -> OrchestratorConfig:
    models = {
        name: ModelConfig(provider=provider, model=model, weight=4 - place)  # type: ignore[arg-type]
        for place, (name, (provider, model)) in enumerate(MEMBERS.items())
    }
    panel = PanelConfig(
        members=tuple(MEMBERS),
        synthesizer="alpha",
        fallback_synthesizers=("beta",),
        quorum=4,  # everybody is waited for, or two equal runs might wait differently
    )
    settings = OrchestratorConfig(
        models=models,
        panels={"four": panel},
        timeouts=TimeoutsConfig(first_content_s=1, gap_s=1, total_s=3, run_s=20),
        # Nobody is left alone and nothing tried again: how long either takes is not to matter.
        breaker=BreakerConfig(failures=1000, calls=1000),
        retry=RetryConfig(attempts=1),
    )
    return simulated(settings, simulator, directives=faults)


def sprinkled(seed: int) -> dict[str, tuple[str, ...]]:
    """A fault for each of none to three members."""
    rng = Random(seed)
    return {name: (rng.choice(FAULTS),) for name in rng.sample(sorted(MEMBERS), rng.randrange(4))}


async def heard(
    engine: EnhancedOrchestrator, request: RequestConfig
) -> tuple[list[Event], Exception | None]:
    events: list[Event] = []
    try:
        async with aclosing(engine.stream_request(request)) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - up to the error
    except (ProviderError, QuorumNotMet, DeadlineExceeded) as error:
        return events, error
    return events, None


def check_order(events: list[Event], error: Exception | None) -> None:
    """First, last, and pairs that are whole and not crossed."""
    assert isinstance(events[0], RunStarted)
    assert [type(event) for event in events].count(RunStarted) == 1
    finishes = [place for place, event in enumerate(events) if isinstance(event, RunFinished)]
    assert finishes == ([] if error else [len(events) - 1])
    stage, calls = "", dict[tuple[str, str], int]()
    for event in events:
        match event:
            case StageStarted():
                assert stage == ""
                stage = event.stage
            case StageFinished():
                assert event.stage == stage
                assert not any(calls.values()), "a stage ended before its calls"
                stage = ""
            case AttemptStarted():
                assert event.stage == stage
                calls[event.member, event.deployment] = 1
            case AttemptFinished() | AttemptFailed():
                assert calls[event.member, event.deployment] == 1
                calls[event.member, event.deployment] = 0
    assert stage == ""


def content_of(events: list[Event]) -> str:
    text = ""
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, TextReset):
            text = ""
    return text


def attempts(response: OrchestratorResponse) -> Iterator[AttemptRecord]:
    for stage in response.receipt.stages:
        yield from stage.attempts


def blamed(response: OrchestratorResponse) -> list[list[str]]:
    """Where, whom and what class of error the causes name: a whole answer is cut in other words."""
    return [cause.split(": ")[:3] for cause in response.causes]


def check_words(response: OrchestratorResponse, first_stage_by_one: bool) -> None:
    """Status, causes and who was missing agree with the calls that were made."""
    receipt, causes = response.receipt, " ".join(response.causes)
    assert (response.status == "complete") == (response.causes == ())
    assert response.content.strip()
    assert response.content == receipt.content
    assert (response.status, response.causes) == (receipt.status, receipt.causes)
    usable = {made.member for made in receipt.stages[0].attempts if made.usable}
    asked = {made.member for made in receipt.stages[0].attempts}
    assert set(receipt.missing) == asked - usable
    assert {name for name, one in response.model_responses.items() if one.usable} == usable
    if not first_stage_by_one:
        for name in receipt.missing:
            assert f"{name} gave no answer" in causes
    if response.finish_reason != "stop":
        assert "cut off" in causes
    assert receipt.calls == len([*attempts(response)])
    for kind in ("prompt_tokens", "completion_tokens"):
        total = sum(getattr(made.usage, kind) for made in attempts(response))
        assert getattr(receipt.usage, kind) == total
    assert Receipt.from_json(receipt.to_json()) == receipt


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", sorted(PatternLibrary()))
async def test_whatever_fails_the_run_ends_and_says_what_happened(pattern: str, seed: int) -> None:
    """Streamed or not, the same answer; faults named; calls as the providers counted them."""
    faults = sprinkled(seed * 31 + len(pattern))
    request = RequestConfig(prompt=QUESTIONS[seed % 3], model=f"{pattern}/four", seed=seed)
    async with Simulator(SimulatorConfig(seed=seed)) as simulator:
        config = configured(simulator, faults)
        async with EnhancedOrchestrator(config, nonce=lambda: "4f1c") as engine:
            async with asyncio.timeout(40):
                events, error = await heard(engine, request)
            asked = [*simulator.requests]
            again: OrchestratorResponse | None = None
            if error is None:
                again = await engine.execute_request(request)

    check_order(events, error)
    assert len(asked) == sum(isinstance(event, AttemptStarted) for event in events)
    shown = [one.prompt for one in asked if "⟦begin draft" in one.prompt]
    stages = events[0].stages  # type: ignore[union-attr]
    if error is None and stages[-1] == "answer":  # where no one writes, all may agree
        assert shown
    for prompt in shown:
        assert not any(name in prompt.lower() for name in IDENTITIES)
    if error is not None:
        assert faults
        return
    response = events[-1].response  # type: ignore[union-attr]
    check_words(response, first_stage_by_one=pattern == "fact_check")
    assert content_of(events) == response.content
    if not faults:
        assert response.status == "complete"
        assert response.receipt.missing == ()
        # Cohere counts its own preamble to the prompt; the simulator's log does not.
        told = [made.usage for made in attempts(response) if made.provider != "cohere"]
        logged = [one for one in asked if one.provider != "cohere"]
        assert sum(one.prompt_tokens for one in told) == sum(one.prompt_tokens for one in logged)
        assert response.usage.completion_tokens == sum(one.completion_tokens for one in asked)
    assert again is not None
    assert again.content == response.content
    assert blamed(again) == blamed(response)
    assert [made.status for made in attempts(again)] == [m.status for m in attempts(response)]


async def test_the_seed_decides_everything_that_chance_may() -> None:
    """Another seed, other letters; the same one, the same run."""
    async with Simulator() as simulator:
        config = configured(simulator, {})
        async with EnhancedOrchestrator(config, nonce=lambda: "4f1c") as engine:
            request = RequestConfig(prompt=QUESTIONS[2], model="council/four", seed=1)
            one, same, other = [
                await engine.execute_request(request.model_copy(update={"seed": seed}))
                for seed in (1, 1, 2)
            ]

    def labels(response: OrchestratorResponse) -> list[str]:
        return [made.label for made in response.receipt.stages[0].attempts]

    def timeless(response: OrchestratorResponse) -> list[AttemptRecord]:
        never = {"elapsed_s": 0.0, "started_s": 0.0, "first_content_s": None}
        return [replace(made, **never) for made in attempts(response)]  # type: ignore[arg-type]

    assert labels(one) == labels(same) != labels(other)
    assert timeless(one) == timeless(same)
