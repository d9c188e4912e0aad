"""Hedges: a second attempt beside one that is late, and what goes on from either of them."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from adapters import (
    Chunk,
    CompletionRequest,
    Limits,
    MockAdapter,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.clock import FakeClock
from orchestrator.events import AttemptFollows, Event, RunFinished, TextDelta
from orchestrator.responses import AttemptRecord, OrchestratorResponse

ON_TIME = 20  # calls that tell what is usual
STORY = "Once upon a time there was a gateway that never lost a word, and never said one twice."


class Late(MockAdapter):
    """Its first answers come at once; then time goes by until it is cancelled, or fails."""

    def __init__(
        self,
        clock: FakeClock,
        *,
        begins: str = "",
        error: ProviderError | None = None,
        is_deaf: bool = False,
    ) -> None:
        super().__init__(["on time"], deployment="gpt")
        self._late_clock = clock
        self._begins = begins
        self._error = error
        self._is_deaf = is_deaf

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        if len(self.requests) < ON_TIME:
            async for chunk in super().stream(request, limits=limits):
                yield chunk
            return
        self.requests.append(request)
        if self._begins:
            yield Chunk(text=self._begins)
        for _ in range(200):
            try:
                await self._late_clock.sleep(0.05)
            except asyncio.CancelledError:
                if not self._is_deaf:
                    raise
        if self._error is not None:
            raise self._error
        yield Chunk(text=" and ended", finish_reason="stop")


def engine(
    clock: FakeClock, late: Late, claude: list[Reply | str | ProviderError], **about: Any
) -> EnhancedOrchestrator:
    """A route of two that hedges, and a third to make it a panel."""
    models = about.pop("models", {})
    config = {
        "models": {
            name: {"provider": "openai", "model": f"{name}-1", "price": "free"}
            | models.get(name, {})
            for name in ("gpt", "claude", "gemini")
        },
        "routes": {"fast": {"models": ["gpt", "claude"], "hedge": True}},
        "panels": {"both": {"members": ["fast", "gemini"], "quorum": 2, "synthesizer": "gemini"}},
        **about,
    }
    adapters = {
        "gpt": late,
        "claude": MockAdapter(claude, deployment="claude"),
        "gemini": MockAdapter(["gemini answers"], deployment="gemini"),
    }
    return EnhancedOrchestrator(
        OrchestratorConfig.model_validate(config), adapters=adapters, clock=clock
    )


async def ask(
    of: EnhancedOrchestrator, prompt: str = "Why?", model: str = "fast"
) -> tuple[OrchestratorResponse, list[Event]]:
    heard = [event async for event in of.stream_request(RequestConfig(prompt=prompt, model=model))]
    assert isinstance(heard[-1], RunFinished)
    return heard[-1].response, heard


async def learn_what_is_usual(of: EnhancedOrchestrator) -> None:
    for number in range(ON_TIME):
        await ask(of, f"What is {number}?")


def followed(heard: list[Event]) -> list[tuple[str, str]]:
    return [(event.how, event.deployment) for event in heard if isinstance(event, AttemptFollows)]


def attempts(response: OrchestratorResponse, stage: int = 0) -> list[AttemptRecord]:
    return list(response.receipt.stages[stage].attempts)


async def test_a_winner_that_breaks_off_goes_on_from_itself() -> None:
    """Whoever was asked first has lost; the retry is the winner's."""
    clock = FakeClock()
    late = Late(clock)
    async with engine(clock, late, [Reply(text=STORY, cut_after=40), STORY[24:]]) as of:
        await learn_what_is_usual(of)
        response, heard = await ask(of)

    assert response.content == STORY
    assert followed(heard) == [("hedge", "claude"), ("continuation", "claude")]
    assert [(made.deployment, made.status) for made in attempts(response)] == [
        ("gpt", "cancelled"),
        ("claude", "failed"),
        ("claude", "ok"),
    ]


async def test_where_both_fail_the_one_asked_last_is_tried_again() -> None:
    """Its error says how long to wait, so it is the one that is waited for."""
    clock = FakeClock()
    late = Late(clock, error=ProviderUnavailable("down", deployment="gpt"))
    slow = RateLimited("slow down", retry_after_s=30.0, deployment="claude")
    async with engine(clock, late, [slow, "claude at last"]) as of:
        await learn_what_is_usual(of)
        response, heard = await ask(of)

    assert response.content == "claude at last"
    assert followed(heard) == [("hedge", "claude"), ("retry", "claude")]


async def test_a_hedge_waits_for_no_equal_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys of one model are equal to the cache; the second is asked all the same."""
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path))
    clock = FakeClock()
    equal = {"claude": {"model": "gpt-1"}}
    async with engine(clock, Late(clock), ["claude answers"], models=equal, cache={}) as of:
        await learn_what_is_usual(of)
        response, _ = await ask(of)

    assert response.content == "claude answers"
    assert [(made.deployment, made.source) for made in attempts(response)] == [
        ("gpt", "call"),
        ("claude", "call"),
    ]


async def test_a_draft_that_has_begun_is_not_hedged() -> None:
    """What is late is the first word, whether anybody is shown it or not."""
    clock = FakeClock()
    async with engine(clock, Late(clock, begins="It has begun"), ["claude answers"]) as of:
        await learn_what_is_usual(of)
        response, heard = await ask(of, model="compare/both")

    assert followed(heard) == []
    assert response.model_responses["fast"].text == "It has begun and ended"


async def test_a_draft_that_is_late_is_hedged() -> None:
    """The other's draft stands in for it, under the member's own name."""
    clock = FakeClock()
    async with engine(clock, Late(clock), ["claude answers"]) as of:
        await learn_what_is_usual(of)
        response, heard = await ask(of, model="compare/both")

    assert followed(heard) == [("hedge", "claude")]
    assert response.model_responses["fast"].deployment == "claude"


async def test_a_loser_that_does_not_end_is_not_waited_for_for_ever() -> None:
    """The answer is there; whoever ignores its cancellation is left behind after a while."""
    clock = FakeClock()
    late = Late(clock, is_deaf=True)
    async with engine(clock, late, ["claude answers"]) as of:
        await learn_what_is_usual(of)
        response, heard = await ask(of)

    shown = "".join(event.text for event in heard if isinstance(event, TextDelta))
    assert response.content == shown == "claude answers"
    assert clock.monotonic() < 8


async def test_whole_answers_are_measured_apart() -> None:
    """How long a whole answer takes says nothing about when a streamed one begins."""
    clock = FakeClock()
    async with engine(clock, Late(clock), ["claude answers"]) as of:
        for number in range(ON_TIME - 1):
            await of.execute_request(RequestConfig(prompt=f"What is {number}?", model="fast"))
        await ask(of, "And what is this?")
        gpt = of._deployments["gpt"]

    assert len(gpt.times(is_live=False)) == ON_TIME - 1
    assert len(gpt.times(is_live=True)) == 1
