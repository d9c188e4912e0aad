"""Asking several at once: how it ends, at the very moment it should, and whatever a call does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import pytest

from adapters import (
    BaseAdapter,
    Chunk,
    Completion,
    CompletionRequest,
    Limits,
    MockAdapter,
    RateLimited,
    StreamBroken,
)
from adapters.mock import Reply
from orchestrator import BaseOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.clock import FakeClock
from orchestrator.config import PanelConfig
from orchestrator.errors import OrchestratorError
from orchestrator.events import Event, StageFinished, StageStarted
from orchestrator.panel import CLOSING_S, Answer, Ending, Member, Patience, fan_out

NAMES = ("gpt", "claude", "gemini")


def config(members: tuple[str, ...] = NAMES, **panel: Any) -> OrchestratorConfig:
    return OrchestratorConfig.model_validate(
        {
            "models": {name: {"provider": "openai", "model": name} for name in members},
            "routes": {"fast": {"models": ["gpt"], "fallback": ["claude"]}} if members else {},
            "panels": {"council": PanelConfig(members=members, **panel).model_dump()},
            "retry": {"attempts": 1},
        }
    )


def patience(quorum: int = 1, **limits: Any) -> Patience:
    ends = {"grace_s": 3.0, "stage_ends_s": 100.0, "run_ends_s": 100.0} | limits
    return Patience(quorum=quorum, **ends)


async def said(text: str, clock: FakeClock, after_s: float) -> Answer:
    """An answer that comes when the clock says so."""
    while clock.monotonic() < after_s:
        await turns(1)
    completion = Completion(text=text, finish_reason="stop", model="m")
    return Answer(member=Member(name=text, deployments=(text,)), completion=completion)


async def told(
    clock: FakeClock, wait: Patience, after_s: tuple[float, ...], steps_s: tuple[float, ...]
) -> tuple[list[str], Ending]:
    """Who is heard, and what ended the waiting, when time goes on in these steps."""
    calls = [lambda n=n, s=s: said(str(n), clock, s) for n, s in enumerate(after_s)]
    waiting = asyncio.ensure_future(fan_out(calls, wait, clock))
    for step_s in steps_s:
        await turns()
        clock.advance(step_s)
    answers, ending = await waiting
    return [answer.member.name for answer in answers], ending


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Stubborn(MockAdapter):
    """Does not end when it is cancelled; goes on when the gate is opened."""

    def __init__(self, gate: asyncio.Event, **about: Any) -> None:
        super().__init__(["too late"], **about)
        self.gate = gate

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                continue
        async for chunk in super().stream(request, limits=limits):
            yield chunk


# The very moment.


async def test_a_straggler_is_heard_up_to_the_end_of_its_grace_and_not_after() -> None:
    """One that is done when the bell rings counts; one that would be done then does not."""
    clock = FakeClock()
    assert await told(clock, patience(grace_s=3), (0, 2.9, 50), (2.95, 0.05)) == (
        ["0", "1"],
        "quorum",
    )


async def test_a_stage_ends_at_its_bell_only_with_something_to_go_on_with() -> None:
    """Without an answer it goes on until the run's own bell."""
    limits = {"stage_ends_s": 10.0, "run_ends_s": 20.0}

    assert await told(FakeClock(), patience(2, **limits), (1, 99), (1, 9)) == (["0"], "stage")
    assert await told(FakeClock(), patience(2, **limits), (99, 99), (10, 10)) == ([], "run")
    with_drafts = patience(2, has_drafts=True, **limits)
    assert await told(FakeClock(), with_drafts, (99, 99), (10,)) == ([], "stage")


async def test_when_stage_and_run_end_together_the_run_has_ended() -> None:
    """The run's end is the stronger word: nothing may follow."""
    limits = {"stage_ends_s": 10.0, "run_ends_s": 10.0}

    assert await told(FakeClock(), patience(2, **limits), (1, 99), (1, 9)) == (["0"], "run")


async def test_with_no_time_left_nobody_is_asked() -> None:
    """The calls end before their first step."""
    begun = []

    async def call() -> Answer:
        begun.append(1)
        return Answer(member=Member(name="m", deployments=("m",)))

    answers, ending = await fan_out([call] * 3, patience(run_ends_s=0.0), FakeClock())

    assert (answers, ending, begun) == ([], "run", [])


@pytest.mark.parametrize(("size", "quorum"), [(1, 1), (2, 1), (32, None), (32, 32), (32, 1)])
async def test_panels_of_any_size_and_quorum_end(size: int, quorum: int | None) -> None:
    """One member or thirty-two, one answer wanted or all."""
    members = tuple(f"m{number}" for number in range(size))
    settings = OrchestratorConfig(
        models={name: {"provider": "openai", "model": name} for name in members},  # type: ignore[misc]
        panels={"council": PanelConfig(members=members, quorum=quorum)},
    )
    adapters = {name: MockAdapter([f"by {name}"], deployment=name) for name in members}

    async with BaseOrchestrator(settings, adapters=adapters) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?"))

    assert response.status == "complete"
    assert response.content == "by m0"
    assert response.receipt.calls == size == len(response.model_responses)


# Calls that misbehave.


async def test_a_call_that_will_not_end_does_not_keep_the_run() -> None:
    """It is left behind after a while, and the receipt still has it."""
    clock, gate = FakeClock(), asyncio.Event()
    adapters: dict[str, BaseAdapter] = {
        "gpt": MockAdapter(["fine"], deployment="gpt"),
        "claude": MockAdapter(["fine too"], deployment="claude"),
        "gemini": Stubborn(gate, deployment="gemini"),
    }
    async with BaseOrchestrator(config(quorum=2, grace_s=3), adapters=adapters, clock=clock) as one:
        running = asyncio.ensure_future(one.execute_request(RequestConfig(prompt="Q?")))
        await turns()
        clock.advance(3)
        await turns()
        assert not running.done()
        clock.advance(CLOSING_S)
        response = await running

        assert response.receipt.missing == ("gemini",)
        left = response.receipt.stages[0].attempts[2]
        assert (left.member, left.status) == ("gemini", "cancelled")
        gate.set()
        await turns()
    assert response.receipt.stages[0].attempts[2].text == ""


async def test_nothing_comes_after_the_end_of_a_run() -> None:
    """What a call that was left behind still says reaches nobody."""
    clock, gate = FakeClock(), asyncio.Event()
    adapter = Stubborn(gate, deployment="gpt")
    async with BaseOrchestrator(config(("gpt", "claude")), adapters={"gpt": adapter}) as engine:
        engine._clock = clock
        run = engine._begin(RequestConfig(prompt="Q?", model="gpt", time_s=9), is_live=True)
        driving = asyncio.ensure_future(engine._drive(run))
        await turns()
        clock.advance(9)
        await turns()
        clock.advance(CLOSING_S)
        await asyncio.wait({driving})
        told = run.channel._events.qsize()
        gate.set()
        await turns()

        assert run.channel._events.qsize() == told
        assert run.delivery.content == ""
        assert driving.exception() is not None


async def test_a_call_that_turns_its_cancelling_into_an_error_is_not_followed() -> None:
    """The route's next deployment is not asked on behalf of a member nobody waits for."""
    asked = []

    class Turning(MockAdapter):
        async def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            asked.append(self.deployment)
            try:
                await asyncio.Event().wait()
                yield Chunk()
            except asyncio.CancelledError:
                raise StreamBroken("cancelled", **self.named()) from None

    adapters = {name: Turning(deployment=name) for name in ("gpt", "claude")}
    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        running = asyncio.ensure_future(
            engine.execute_request(RequestConfig(prompt="Q?", model="fast"))
        )
        await turns()
        running.cancel()
        await asyncio.wait({running})

    assert asked == ["gpt"]


async def test_a_cancellation_that_nobody_asked_for_is_a_failed_call() -> None:
    """A client library that cancels from within breaks its own call and no other."""

    class Leaking(MockAdapter):
        async def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            yield Chunk(text="half")
            raise asyncio.CancelledError

    adapters: dict[str, BaseAdapter] = {
        "gpt": Leaking(deployment="gpt"),
        "claude": MockAdapter(["whole"], deployment="claude"),
        "gemini": MockAdapter(["whole too"], deployment="gemini"),
    }
    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="council"))
        alone = engine.stream_request(RequestConfig(prompt="Q?", model="gpt"))
        with pytest.raises(StreamBroken, match="cancelled from within") as caught:
            async with aclosing(alone) as events:
                _ = [event async for event in events]

    assert response.content == "whole"
    assert response.status == "degraded"
    assert response.model_responses["gpt"].error == "StreamBroken"
    assert caught.value.partial_text == "half"
    assert caught.value.deployment == "gpt"


async def test_an_adapter_that_hangs_while_it_is_closed_is_named() -> None:
    """And keeps neither the others open nor the program waiting."""
    clock, closed = FakeClock(), []

    class Closing(MockAdapter):
        async def aclose(self) -> None:
            if self.deployment == "claude":
                await asyncio.Event().wait()
            closed.append(self.deployment)

    adapters = {name: Closing(deployment=name) for name in NAMES}
    engine = BaseOrchestrator(config(), adapters=adapters, clock=clock)
    closing = asyncio.ensure_future(engine.aclose())
    await turns()
    clock.advance(CLOSING_S)

    with pytest.raises(OrchestratorError, match="'claude' did not close within"):
        await closing
    assert closed == ["gpt", "gemini"]


async def test_two_runs_at_once_do_not_mix() -> None:
    """Each has its own events, members, seed and answer."""
    gate = asyncio.Event()
    adapters = {
        name: MockAdapter(
            lambda request, name=name: Reply(  # type: ignore[misc]
                text=f"{name} on {request.messages[0]['content']}", delay_s=1
            ),
            deployment=name,
            sleep=lambda _: gate.wait(),
        )
        for name in NAMES
    }
    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        running = [
            asyncio.ensure_future(engine.execute_request(RequestConfig(prompt=f"Q{n}", seed=n)))
            for n in range(10)
        ]
        await turns()
        gate.set()
        responses = await asyncio.gather(*running)

    for n, response in enumerate(responses):
        assert response.content == f"gpt on Q{n}"
        assert {one.text for one in response.model_responses.values()} == {
            f"{name} on Q{n}" for name in NAMES
        }
        assert response.receipt.seed == n
    assert len({response.receipt.run_id for response in responses}) == 10


async def test_every_stage_that_began_is_said_to_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the run ends with an error that nobody foresaw."""
    adapters = {name: MockAdapter([RateLimited("no")], deployment=name) for name in NAMES}
    kinds: list[type[Event]] = []
    async with BaseOrchestrator(config(), adapters=adapters) as engine:

        def broken(*_: object) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr("orchestrator.base.gather", broken)
        with suppress(RuntimeError):
            async for event in engine.stream_request(RequestConfig(prompt="Q?")):
                kinds.append(type(event))  # noqa: PERF401 - up to the error

    assert kinds.count(StageStarted) == kinds.count(StageFinished) == 1
