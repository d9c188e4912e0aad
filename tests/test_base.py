"""The engine without patterns: deployments, routes, panels, and the one place every call goes."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from adapters import (
    BaseAdapter,
    Chunk,
    Completion,
    CompletionRequest,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    Limits,
    MockAdapter,
    ModelConfig,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    StreamBroken,
    ToolCall,
    Usage,
)
from adapters.mock import Reply
from orchestrator import BaseOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.channel import EVENTS_WAITING, Channel
from orchestrator.clock import FakeClock
from orchestrator.config import PanelConfig, RouteConfig
from orchestrator.errors import (
    AllRefused,
    DeadlineExceeded,
    InvalidRun,
    NoDeploymentLeft,
    OrchestratorError,
    QuorumNotMet,
    UnknownModel,
)
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptProgress,
    AttemptStarted,
    Event,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    ToolCallsDelta,
)
from orchestrator.panel import is_refusal, is_usable, majority, stage_share_s
from orchestrator.resolve import resolve
from orchestrator.wire.errors import fault_of

NAMES = ("gpt", "claude", "gemini")


def model(**about: Any) -> ModelConfig:
    return ModelConfig.model_validate({"provider": "openai", "model": "m", **about})


def config(**about: Any) -> OrchestratorConfig:
    """Three deployments, a route over two of them, a panel of all."""
    return OrchestratorConfig.model_validate(
        {
            "models": {name: {"provider": "openai", "model": f"{name}-1"} for name in NAMES},
            "routes": {"fast": {"models": ["gpt"], "fallback": ["claude"]}},
            "panels": {"council": {"members": list(NAMES), "quorum": 2, "grace_s": 3}},
            "retry": {"attempts": 1},
            **about,
        }
    )


def mocks(**scripts: Any) -> dict[str, MockAdapter]:
    return {
        name: MockAdapter(scripts.get(name, [f"{name} says hello"]), deployment=name)
        for name in NAMES
    }


def slow(gate: asyncio.Event, text: str = "late") -> MockAdapter:
    """An adapter that answers when the gate is opened."""
    return MockAdapter([Reply(text=text, delay_s=1)], sleep=lambda _: gate.wait())


async def listen(engine: BaseOrchestrator, request: RequestConfig) -> list[Event]:
    async with aclosing(engine.stream_request(request)) as events:
        return [event async for event in events]


async def turns(count: int = 20) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def ask(**about: Any) -> RequestConfig:
    return RequestConfig.model_validate({"prompt": "Q?", **about})


# One deployment.


async def test_a_deployment_answers_with_its_own_stream() -> None:
    """Text, reasoning and tool calls pass as they come, and fold into the response."""
    call = ToolCall(id="1", name="buy", arguments='{"n": 1}')
    reply = Reply(text="Hello there, you", reasoning="hm", tool_calls=(call,))
    request = ask(model="gpt", tools=({"type": "function"},), temperature=0, seed=5)

    async with BaseOrchestrator(config(), adapters=mocks(gpt=[reply])) as engine:
        events = await listen(engine, request)

    response = events[-1].response  # type: ignore[union-attr]
    assert [type(event) for event in events] == [
        RunStarted,
        StageStarted,
        AttemptStarted,
        ReasoningDelta,
        TextDelta,
        TextDelta,
        ToolCallsDelta,
        AttemptFinished,
        StageFinished,
        RunFinished,
    ]
    assert response.content == "Hello there, you"
    assert response.reasoning == "hm"
    assert response.tool_calls == (call,)
    assert (response.status, response.causes) == ("complete", ())
    assert response.receipt.calls == 1
    assert response.receipt.pattern == ""
    assert response.model_responses["gpt"].text == "Hello there, you"


async def test_every_setting_of_the_request_reaches_the_model() -> None:
    """And 0 is a temperature, not a missing one."""
    adapters = mocks()
    settings = {
        "tools": ({"type": "function"},),
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ("x",),
        "seed": 3,
        "reasoning_effort": "low",
        "extra": {"user": "u"},
    }

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        await engine.execute_request(ask(model="gpt", system="Be brief.", **settings))

    (sent,) = adapters["gpt"].requests
    assert {name: getattr(sent, name) for name in settings} == settings
    assert list(sent.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q?"},
    ]


@given(
    text=st.text(max_size=60),
    step=st.integers(1, 9),
    finish=st.sampled_from(["stop", "length", "content_filter"]),
)
async def test_the_response_is_the_fold_of_the_stream(text: str, step: int, finish: Any) -> None:
    """Whatever the pieces, joined they are the content."""
    adapter = MockAdapter([Reply(text=text, finish_reason=finish)], chunk_characters=step)

    async with BaseOrchestrator(config(), adapters={"gpt": adapter}) as engine:
        events = await listen(engine, ask(model="gpt"))
        response = await engine.execute_request(ask(model="gpt"))

    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
    assert response.content == text
    assert response.finish_reason == finish


@pytest.mark.parametrize(
    ("finish", "said"), [("length", "length limit"), ("content_filter", "content filter")]
)
@pytest.mark.parametrize("name", ["gpt", "council"])
async def test_an_answer_that_was_cut_off_is_partial(finish: Any, said: str, name: str) -> None:
    """It is given, and never called complete; a filtered draft is no answer at all."""
    cut = [Reply(text="The first of three reasons is", finish_reason=finish)]
    adapters = mocks(gpt=cut, claude=cut, gemini=cut)

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        if name == "council" and finish == "content_filter":
            with pytest.raises(QuorumNotMet):
                await engine.execute_request(ask(model=name))
            return
        response = await engine.execute_request(ask(model=name))

    assert response.status == response.receipt.status == "partial"
    assert said in response.causes[-1]
    assert response.finish_reason == finish


async def test_the_error_of_a_single_deployment_is_raised_as_it_is() -> None:
    """There is nothing to add to it."""
    error = RateLimited("slow down", provider="openai", deployment="gpt", retry_after_s=3)

    async with BaseOrchestrator(config(), adapters=mocks(gpt=[error])) as engine:
        with pytest.raises(RateLimited) as caught:
            await engine.execute_request(ask(model="gpt"))

    assert caught.value is error


async def test_a_bug_in_an_adapter_is_raised_and_its_words_stay_out_of_the_events() -> None:
    """What a bug says may hold anything; a provider's message has been scrubbed."""

    def broken(_: CompletionRequest) -> str:
        raise KeyError("sk-secret")

    events: list[Event] = []

    async def watch(engine: BaseOrchestrator) -> None:
        async with aclosing(engine.stream_request(ask(model="gpt"))) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 (what came before the error counts)

    async with BaseOrchestrator(config(), adapters=mocks(gpt=broken)) as engine:
        with pytest.raises(KeyError):
            await watch(engine)

    (failed,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert failed.error == "KeyError"
    assert "sk-secret" not in repr(events)


# Routes.


async def test_a_route_falls_back_while_nothing_was_delivered() -> None:
    """The caller sees one answer; the receipt shows both attempts."""
    error = ProviderTimeout("no content", provider="openai", deployment="gpt")

    async with BaseOrchestrator(config(), adapters=mocks(gpt=[error])) as engine:
        response = await engine.execute_request(ask(model="fast"))

    first, second = response.receipt.stages[0].attempts
    assert response.content == "claude says hello"
    assert response.status == "complete"
    assert (first.deployment, first.status, first.error) == ("gpt", "failed", "ProviderTimeout")
    assert (first.status_code, second.deployment, second.status) == (504, "claude", "ok")


async def test_an_answer_that_broke_off_is_no_answer() -> None:
    """A broken answer is an error, never an answer."""
    adapters = mocks(gpt=[Reply(text="Hello there, you", cut_after=10)])

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        with pytest.raises(StreamBroken):
            await engine.execute_request(ask(model="gpt"))


async def test_a_route_with_no_deployment_left_names_every_failure() -> None:
    """And the last is the cause."""
    errors = {
        name: [RateLimited("slow down", provider="openai", deployment=name)]
        for name in ("gpt", "claude")
    }

    async with BaseOrchestrator(config(), adapters=mocks(**errors)) as engine:
        with pytest.raises(NoDeploymentLeft, match=r"gpt: RateLimited.*claude: Rate") as caught:
            await engine.execute_request(ask(model="fast"))

    assert caught.value.__cause__ is errors["claude"][0]


async def test_what_a_filter_refused_is_not_shopped_around() -> None:
    """A content-filter rejection is returned."""
    adapters = mocks(gpt=[ContentFiltered("no", provider="openai", deployment="gpt")])

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        with pytest.raises(ContentFiltered):
            await engine.execute_request(ask(model="fast"))

    assert adapters["claude"].requests == []


@pytest.mark.parametrize(
    ("failed", "following", "asked"),
    [(1000, 1000, False), (1000, 2000, True), (1000, None, True), (None, 500, True)],
)
async def test_a_prompt_that_is_too_long_goes_only_to_a_larger_window(
    failed: int | None, following: int | None, asked: bool
) -> None:
    """Or to one whose size nobody has told."""
    adapters = mocks(gpt=[ContextWindowExceeded("too long")])
    models = {
        "gpt": model(context_tokens=failed),
        "claude": model(context_tokens=following),
    }
    settings = OrchestratorConfig(
        models=models, routes={"fast": RouteConfig(models=("gpt",), fallback=("claude",))}
    )

    async with BaseOrchestrator(settings, adapters=adapters) as engine:
        if asked:
            await engine.execute_request(ask(model="fast"))
        else:
            with pytest.raises(ContextWindowExceeded):
                await engine.execute_request(ask(model="fast"))

    assert bool(adapters["claude"].requests) is asked


# Panels.


async def test_a_panel_asks_everybody_at_once_and_gives_the_heaviest_answer() -> None:
    """Nobody waits for another."""
    gate = asyncio.Event()
    adapters: dict[str, BaseAdapter] = {name: slow(gate, f"from {name}") for name in NAMES}
    settings = config(
        models={"gpt": model(), "claude": model(weight=2), "gemini": model()},
    )

    async with BaseOrchestrator(settings, adapters=adapters) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask()))
        await turns()
        asked = [len(adapter.requests) for adapter in adapters.values()]  # type: ignore[attr-defined]
        gate.set()
        response = await running

    assert asked == [1, 1, 1]
    assert response.content == "from claude"
    assert set(response.model_responses) == set(NAMES)
    assert response.status == "complete"


async def test_equal_answers_of_different_members_stay_apart() -> None:
    """Once every stage came back empty because answers were matched by identity."""
    same = {name: ["the same"] for name in NAMES}

    async with BaseOrchestrator(config(), adapters=mocks(**same)) as engine:
        response = await engine.execute_request(ask())

    assert {name: made.text for name, made in response.model_responses.items()} == dict.fromkeys(
        NAMES, "the same"
    )


async def test_a_straggler_gets_its_grace_and_is_cancelled_then() -> None:
    """A quorum of two is met; the third has three seconds more."""
    clock, gate = FakeClock(), asyncio.Event()
    adapters = {**mocks(), "gemini": slow(gate)}

    async with BaseOrchestrator(config(), adapters=adapters, clock=clock) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask()))
        await turns()
        clock.advance(2.9)
        await turns()
        assert not running.done()
        clock.advance(0.2)
        response = await running

    last = response.receipt.stages[0].attempts[-1]
    assert (last.member, last.status, last.error) == ("gemini", "cancelled", "Cancelled")
    assert "a quorum of 2 was met and 3 s were over" in last.message
    assert response.receipt.missing == ("gemini",)
    assert response.status == "complete"
    assert response.model_responses["gemini"].error == "Cancelled"


async def test_a_straggler_within_its_grace_still_counts() -> None:
    """Grace means waiting, not ignoring."""
    gate = asyncio.Event()
    adapters = {**mocks(), "gemini": slow(gate)}

    async with BaseOrchestrator(config(), adapters=adapters, clock=FakeClock()) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask()))
        await turns()
        gate.set()
        response = await running

    assert response.model_responses["gemini"].usable
    assert response.receipt.missing == ()


@pytest.mark.parametrize(
    "useless",
    [
        Reply(text=""),
        Reply(text="  \n"),
        Reply(text="Sorry, I can't help with that."),
        Reply(text="half", finish_reason="content_filter"),
        Reply(text="half an answer", cut_after=4),
        Reply(error=RateLimited("slow down")),
    ],
)
async def test_what_is_no_answer_does_not_count_to_the_quorum(useless: Reply) -> None:
    """Empty, refused, filtered, broken or failed: degraded, and the cause is told."""
    adapters = mocks(gpt=[useless], claude=[useless])

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        response = await engine.execute_request(ask())

    assert response.content == "gemini says hello"
    assert response.status == "degraded"
    assert response.receipt.missing == ("gpt", "claude")
    assert [made.usable for made in response.model_responses.values()] == [False, False, True]
    assert any("1 usable of 3, quorum 2" in cause for cause in response.causes)
    assert any("gpt gave no answer" in cause for cause in response.causes)


async def test_the_text_of_an_error_is_never_an_answer() -> None:
    """Once an error message was synthesised like any draft."""
    error = RateLimited("ANSWER: rate limit reached", provider="openai", deployment="gpt")

    async with BaseOrchestrator(config(), adapters=mocks(gpt=[error])) as engine:
        response = await engine.execute_request(ask())

    assert response.content == "claude says hello"
    assert response.model_responses["gpt"].text == ""
    assert response.model_responses["gpt"].error == "RateLimited"


async def test_a_panel_without_one_answer_names_each_failure() -> None:
    """Who failed, and how."""
    adapters = mocks(
        gpt=[RateLimited("slow down", provider="openai", deployment="gpt")],
        claude=[""],
        gemini=["I'm sorry, but I cannot assist with this request."],
    )

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        with pytest.raises(QuorumNotMet) as caught:
            await engine.execute_request(ask())

    message = str(caught.value)
    assert "gpt gave no answer: RateLimited: gpt: slow down" in message
    assert "claude gave no answer: empty answer" in message
    assert "gemini gave no answer: refused to answer" in message


@pytest.mark.parametrize("other", [InvalidRequest, ContextWindowExceeded, RateLimited])
async def test_a_panel_is_refused_what_each_of_its_members_says_is_wrong(
    other: type[ProviderError],
) -> None:
    """The request is to be changed; where one member has failed otherwise, it may be sent again."""
    adapters = mocks(
        gpt=[InvalidRequest("no such tool")],
        claude=[InvalidRequest("no such tool")],
        gemini=[other("not so")],
    )

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        with pytest.raises(QuorumNotMet, match=f"gemini gave no answer: {other.__name__}") as told:
            await engine.execute_request(ask())

    is_the_request = issubclass(other, InvalidRequest)
    assert isinstance(told.value, AllRefused) is is_the_request
    assert fault_of(told.value).status == (400 if is_the_request else 502)


async def test_a_bug_in_one_member_does_not_end_the_panel() -> None:
    """It is that member's failure, and its words are kept out of the receipt."""

    def broken(_: CompletionRequest) -> str:
        raise KeyError("sk-secret")

    async with BaseOrchestrator(config(), adapters=mocks(gpt=broken)) as engine:
        response = await engine.execute_request(ask())

    assert response.content == "claude says hello"
    assert response.model_responses["gpt"].error == "KeyError"
    assert b"sk-secret" not in response.receipt.to_json()


async def test_a_member_may_be_a_route() -> None:
    """Its deployments stand in for each other, even after half an answer nobody has seen."""
    broken = Reply(text="half an answer", cut_after=4)
    settings = config(panels={"p": {"members": ["fast", "gemini"]}})

    async with BaseOrchestrator(settings, adapters=mocks(gpt=[broken])) as engine:
        response = await engine.execute_request(ask())

    made = response.model_responses["fast"]
    assert (made.deployment, made.text) == ("claude", "claude says hello")
    assert response.status == "complete"


async def test_a_base_panel_gives_a_draft_and_so_refuses_tools_and_patterns() -> None:
    """Neither would be honoured."""
    async with BaseOrchestrator(config(), adapters=mocks()) as engine:
        with pytest.raises(InvalidRun, match="tools"):
            await engine.execute_request(ask(tools=({"type": "function"},)))
        with pytest.raises(InvalidRun, match="EnhancedOrchestrator"):
            await engine.execute_request(ask(pattern="council"))


# Time.


async def test_the_deadline_of_the_run_limits_every_call() -> None:
    """No call is given more than what is left of the run."""
    seen: list[Limits] = []

    class Watching(MockAdapter):
        def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            seen.append(limits)
            return super().stream(request, limits=limits)

    async with BaseOrchestrator(
        config(), adapters={"gpt": Watching()}, clock=FakeClock()
    ) as engine:
        await engine.execute_request(ask(model="gpt", time_s=7))
        await engine.execute_request(ask(model="gpt"))

    assert [limits.total_s for limits in seen] == [7, 120]


async def test_at_the_bell_without_an_answer_the_run_says_so() -> None:
    """A single call that hangs is cancelled at the run's end."""
    clock = FakeClock()

    async with BaseOrchestrator(
        config(), adapters={"gpt": slow(asyncio.Event())}, clock=clock
    ) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask(model="gpt", time_s=5)))
        await turns()
        clock.advance(5)
        with pytest.raises(DeadlineExceeded, match="5 s ended"):
            await running


async def test_a_call_that_times_out_at_the_bell_is_the_deadline_too() -> None:
    """The adapter's clock and ours run out in the same moment; the caller sees one error."""
    clock = FakeClock()

    def late(_: CompletionRequest) -> Reply:
        clock.advance(5)
        return Reply(error=ProviderTimeout("over"))

    async with BaseOrchestrator(config(), adapters=mocks(gpt=late), clock=clock) as engine:
        with pytest.raises(DeadlineExceeded) as caught:
            await engine.execute_request(ask(model="fast", time_s=5))

    assert isinstance(caught.value.__cause__, ProviderTimeout)


async def test_a_panel_at_the_bell_gives_the_draft_there_is() -> None:
    """Late is late, but an answer is an answer."""
    clock = FakeClock()
    adapters = {**mocks(), "gpt": slow(asyncio.Event()), "gemini": slow(asyncio.Event())}

    async with BaseOrchestrator(config(), adapters=adapters, clock=clock) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask(time_s=9)))
        await turns()
        clock.advance(9)
        response = await running

    assert response.content == "claude says hello"
    assert response.status == "partial"
    assert any("gpt, gemini: no answer within" in cause for cause in response.causes)


async def test_a_panel_at_the_bell_without_a_draft_says_so() -> None:
    """Nobody answered in time."""
    clock = FakeClock()
    adapters = {name: slow(asyncio.Event()) for name in NAMES}

    async with BaseOrchestrator(config(), adapters=adapters, clock=clock) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask(time_s=9)))
        await turns()
        clock.advance(9)
        with pytest.raises(DeadlineExceeded):
            await running


# Leaving early.


class Counting(MockAdapter):
    """Counts streams that were opened and that were closed."""

    opened = 0
    closed = 0

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        self.opened += 1
        try:
            async with aclosing(super().stream(request, limits=limits)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.closed += 1


async def test_leaving_a_stream_closes_every_call() -> None:
    """The listener goes away in the middle; nothing runs on."""
    gate = asyncio.Event()
    adapters = {
        name: Counting([Reply(text="late", delay_s=1)], sleep=lambda _: gate.wait())
        for name in NAMES
    }

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        async with aclosing(engine.stream_request(ask())) as events:
            async for event in events:
                if isinstance(event, AttemptStarted) and event.member == "gemini":
                    await turns()
                    break

        assert [(one.opened, one.closed) for one in adapters.values()] == [(1, 1)] * 3


@pytest.mark.parametrize("moment", range(12))
async def test_cancelling_at_any_moment_leaves_nothing_open(moment: int) -> None:
    """At the n-th turn of the loop, for every n that matters."""
    adapters = {name: Counting(["a longer answer, in several pieces"]) for name in NAMES}

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask()))
        await turns(moment)
        running.cancel()
        await asyncio.wait({running})

    assert all(one.opened == one.closed for one in adapters.values())


async def test_closing_the_orchestrator_ends_its_runs() -> None:
    """Whoever waits for one is told why it ended."""
    engine = BaseOrchestrator(config(), adapters={"gpt": slow(asyncio.Event())})
    running = asyncio.ensure_future(engine.execute_request(ask(model="gpt")))
    await turns()

    await engine.aclose()

    with pytest.raises(OrchestratorError, match="closed"):
        await running


async def test_closing_closes_every_adapter_and_tells_of_one_that_would_not() -> None:
    """A failure of one keeps no other open."""
    closed: list[str] = []

    class Closing(MockAdapter):
        async def aclose(self) -> None:
            closed.append(self.deployment)
            if self.deployment == "gpt":
                raise RuntimeError("stuck")

    adapters = {name: Closing(deployment=name) for name in NAMES}
    engine = BaseOrchestrator(config(), adapters=adapters)
    engine.remove_model("gemini")

    with pytest.raises(RuntimeError, match="stuck"):
        await engine.aclose()

    assert sorted(closed) == sorted(NAMES)


async def test_a_slow_listener_holds_the_stream_back() -> None:
    """What waits for it is bounded, and nothing is lost."""
    text = "x" * (EVENTS_WAITING * 3)
    adapter = MockAdapter([text], chunk_characters=1)
    got = []

    async with (
        BaseOrchestrator(config(), adapters={"gpt": adapter}) as engine,
        aclosing(engine.stream_request(ask(model="gpt"))) as events,
    ):
        async for event in events:
            if isinstance(event, TextDelta):
                got.append(event.text)
                if len(got) == 1:
                    await turns(EVENTS_WAITING * 4)
                    waiting = next(iter(engine._running))
                    assert not waiting.done()

    assert "".join(got) == text


async def test_progress_is_left_out_while_the_listener_is_far_behind() -> None:
    """What nobody reads does not pile up, however long the calls go on."""
    clock = FakeClock()

    class Endless(MockAdapter):
        async def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().stream(request, limits=limits):
                clock.advance(1)
                yield chunk

    adapter = Endless(["x" * EVENTS_WAITING * 3], chunk_characters=1)
    settings = config(
        panels={"p": {"members": ["gpt"]}},
        timeouts={"run_s": EVENTS_WAITING * 9, "total_s": EVENTS_WAITING * 9},
    )
    async with BaseOrchestrator(settings, adapters={"gpt": adapter}, clock=clock) as engine:
        run = engine._begin(ask(), is_live=True)
        await engine._drive(run)

    assert run.channel._events.qsize() < EVENTS_WAITING + 10
    assert run.response().status == "complete"


async def test_a_channel_makes_room_as_it_is_read() -> None:
    """Putting never waits; `room` waits until the listener has taken one."""
    channel = Channel()
    for _ in range(EVENTS_WAITING):
        channel.put(TextDelta(text="x"))
    waiting = asyncio.ensure_future(channel.room())
    await turns(3)
    assert not waiting.done()

    await channel.get()
    await waiting


async def test_the_first_word_of_a_burst_is_heard_before_its_last_is_read() -> None:
    """A model whose whole answer lies ready in a buffer does not keep the listener waiting."""
    said: list[str] = []

    async def burst() -> AsyncGenerator[Chunk, None]:
        for number in range(20):
            said.append(str(number))
            yield Chunk(text=f"{number} ")
        yield Chunk(finish_reason="stop")

    adapter = MockAdapter(["none"])
    adapter.stream = lambda request, *, limits=None: burst()  # type: ignore[assignment,misc]
    async with BaseOrchestrator(config(), adapters={"gpt": adapter}) as engine:
        async for event in engine.stream_request(ask(model="gpt")):
            if isinstance(event, TextDelta):
                break

    assert len(said) < 5


# The models.


async def test_models_come_and_go_while_runs_go_on() -> None:
    """A run keeps what it began with."""
    gate = asyncio.Event()
    async with BaseOrchestrator(config(), adapters={"gpt": slow(gate)}) as engine:
        running = asyncio.ensure_future(engine.execute_request(ask(model="gpt")))
        await turns()
        engine.remove_model("gpt")
        engine.add_model("grok", model(model="grok-4"), MockAdapter(["new"], deployment="grok"))
        gate.set()

        assert (await running).content == "late"
        assert (await engine.execute_request(ask(model="grok"))).content == "new"
        assert list(engine.list_models()) == ["claude", "gemini", "grok"]
        with pytest.raises(UnknownModel, match=r"Unknown model 'gpt'"):
            await engine.execute_request(ask(model="gpt"))
        with pytest.raises(UnknownModel, match=r"Unknown model 'gpt'"):
            await engine.execute_request(ask(model="council"))
        with pytest.raises(UnknownModel, match="Route 'fast' leads to 'gpt'"):
            await engine.execute_request(ask(model="fast"))


async def test_a_name_is_taken_once_and_removed_once() -> None:
    """Nothing is replaced in silence."""
    async with BaseOrchestrator(config()) as engine:
        for taken in ("gpt", "fast", "council"):
            with pytest.raises(InvalidRun, match="already"):
                engine.add_model(taken, model())
        with pytest.raises(UnknownModel, match="did you mean 'gemini'"):
            engine.remove_model("gemni")


async def test_an_adapter_of_an_unknown_name_is_added() -> None:
    """A test, or a program, brings its own."""
    adapter = MockAdapter(["mine"], deployment="own")

    async with BaseOrchestrator(config(), adapters={"own": adapter}) as engine:
        assert (await engine.execute_request(ask(model="own"))).content == "mine"
        assert engine.config.models["own"] == adapter.config


async def test_an_adapter_is_made_when_it_is_first_called() -> None:
    """And is the one of its provider."""
    async with BaseOrchestrator(config()) as engine:
        deployment = engine._deployments["gpt"]
        assert deployment._adapter is None
        assert deployment.adapter is deployment.adapter
        assert type(deployment.adapter).__name__ == "OpenAIAdapter"


# Names.


def target(settings: OrchestratorConfig | None = None, **about: Any) -> Any:
    return resolve(ask(**about), settings or config(), ("compare", "council", "critique"))


def test_names_resolve_to_who_is_asked() -> None:
    """A deployment, a route, a panel, a pattern over any of them, members for once."""
    assert target(model="gpt").members[0].deployments == ("gpt",)
    assert target(model="fast").members[0].deployments == ("gpt", "claude")
    assert target(model="council").pattern == "compare"
    assert target().name == "council"
    assert target(model="critique/council").pattern == "critique"
    assert target(model="critique/gpt").members[0].name == "gpt"
    assert target(model="council", pattern="critique").pattern == "critique"
    adhoc = target(members=("gpt", "claude"))
    assert (adhoc.name, adhoc.pattern) == ("gpt,claude", "compare")
    assert [member.name for member in target(members=("gpt", "gpt")).members] == ["gpt#1", "gpt#2"]
    assert target(members=("gpt",)).is_plain
    assert target(model="council", members=("gpt", "claude")).enough(2) == 2
    assert target(members=NAMES).enough(3) == 2


def test_whoever_writes_is_named_else_the_heaviest_member() -> None:
    """With those who stand in, each once."""
    models = {"gpt": model(), "claude": model(weight=3), "gemini": model()}
    panel = PanelConfig(
        members=NAMES, synthesizer="gemini", fallback_synthesizers=("gpt", "gemini")
    )
    settings = OrchestratorConfig(models=models, panels={"p": panel})

    writers = [member.name for member in target(settings).synthesizers]

    assert writers == ["gemini", "gpt"]
    assert target(settings, synthesizer="gpt").synthesizers[0].name == "gpt"
    assert target(settings, members=NAMES, model=None).synthesizers[0].name == "claude"
    assert target(settings, model="compare/gpt", synthesizer="claude").synthesizers[0].name == (
        "claude"
    )


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        ({"model": "gtp"}, UnknownModel, r"Unknown model 'gtp', did you mean 'gpt'\?; configured"),
        ({"model": "critique"}, UnknownModel, r"a pattern: write 'critique/council'"),
        ({"model": "critic/council"}, UnknownModel, r"Unknown pattern 'critic', did you mean 'cri"),
        ({"pattern": "nope"}, UnknownModel, r"there are: 'compare', 'council', 'critique'"),
        ({"model": "critique/nope"}, UnknownModel, "Unknown model 'nope'"),
        ({"members": ("gpt", "x")}, UnknownModel, "Unknown model 'x'"),
        ({"synthesizer": "x"}, UnknownModel, "Unknown model 'x'"),
        ({"model": "critique/council", "pattern": "compare"}, InvalidRun, "two patterns"),
        ({"model": "gpt", "members": ("gpt", "claude")}, InvalidRun, "'gpt' is none"),
        ({"model": "gpt", "synthesizer": "claude"}, InvalidRun, "asked alone"),
    ],
)
def test_names_that_mean_nothing_are_told_with_those_that_do(
    about: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before any call."""
    with pytest.raises(error, match=message):
        target(**about)


def test_without_panels_the_default_is_a_route_then_a_deployment() -> None:
    """Something is asked as long as something is there."""
    assert target(config(panels={})).name == "fast"
    assert target(config(panels={}, routes={})).name == "gpt"
    with pytest.raises(UnknownModel, match="No model is configured"):
        target(config(panels={}, routes={}).model_copy(update={"models": {}}))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"prompt": None}, "no question"),
        ({"prompt": "  "}, "empty"),
        ({"messages": ({"role": "user", "content": "x"},)}, "keep one"),
        ({"prompt": None, "messages": ()}, "no question"),
    ],
)
async def test_a_request_without_a_question_is_refused(about: Any, message: str) -> None:
    """Nothing is sent."""
    async with BaseOrchestrator(config(), adapters=mocks()) as engine:
        with pytest.raises(InvalidRun, match=message):
            await engine.execute_request(ask(model="gpt", **about))


# Small decisions.


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot help with this request.",
        "Sorry, I’m unable to provide that information.",
        "I won't create such content.",
        "As an AI, I am not able to answer this.",
        "Unfortunately I must decline.",
    ],
)
def test_refusals_are_recognised(text: str) -> None:
    """Short, and saying what they will not do."""
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the delay. The answer is 4.",
        "I can help: use a for loop.",
        "I cannot overstate how important this is.",
        "Photosynthesis cannot produce energy in the dark.",
        "I do not know.",
        "I'm sorry, I can't help with that. " + "But here is what I know. " * 30,
    ],
)
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    """A word of regret is no refusal."""
    assert not is_refusal(text)


def test_tool_calls_are_an_answer() -> None:
    """Even without a word."""
    call = ToolCall(id="1", name="f", arguments="{}")
    completion = Completion(text="", finish_reason="tool_calls", model="m", tool_calls=(call,))

    assert is_usable(completion)


def test_a_stage_leaves_time_for_those_that_follow() -> None:
    """All of it where none follows; what it does not use is theirs."""
    assert [stage_share_s(12, after) for after in range(3)] == [12, 8, 6]
    assert [majority(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


async def test_progress_is_told_now_and_then_and_not_for_every_piece() -> None:
    """The first piece at once, the others four times a second."""
    clock = FakeClock()

    class Ticking(MockAdapter):
        async def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().stream(request, limits=limits):
                clock.advance(0.1)
                yield chunk

    adapter = Ticking(["x" * 10], chunk_characters=1)
    settings = config(panels={"p": {"members": ["gpt"]}})

    async with BaseOrchestrator(settings, adapters={"gpt": adapter}, clock=clock) as engine:
        events = await listen(engine, ask())

    told = [event.characters for event in events if isinstance(event, AttemptProgress)]
    assert told == [1, 4, 7, 10]
    made = events[-1].response.receipt.stages[0].attempts[0]  # type: ignore[union-attr]
    assert made.first_content_s == pytest.approx(0.1)
    assert made.elapsed_s == pytest.approx(1.1)


async def test_the_receipt_accounts_for_every_token() -> None:
    """Every attempt is a call; one that was refused used no tokens."""
    usage = Usage(prompt_tokens=5, completion_tokens=7)
    adapters = mocks(
        gpt=[Reply(text="a", usage=usage)],
        claude=[Reply(text="b", usage=usage)],
        gemini=[ProviderError("no")],
    )

    async with BaseOrchestrator(config(), adapters=adapters) as engine:
        response = await engine.execute_request(ask())

    assert response.usage.total_tokens == 24
    assert response.receipt.calls == 3


# The package.


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    """The list is part of the contract."""
    assert orchestrator.__all__ == [
        "AsyncOpenAI",
        "BaseOrchestrator",
        "EnhancedOrchestrator",
        "LLMProvider",
        "ModelConfig",
        "OpenAI",
        "OrchestratorConfig",
        "OrchestratorResponse",
        "RequestConfig",
        "load_config",
    ]
    assert set(orchestrator.__all__) == set(orchestrator._PUBLIC) <= set(dir(orchestrator))
    assert all(getattr(orchestrator, name) is not None for name in orchestrator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        orchestrator.Nothing  # noqa: B018


def test_importing_the_package_loads_no_engine() -> None:
    """The command line is a sub-module and must start at once."""
    code = (
        "import sys, orchestrator; "
        "print([n for n in ('litellm', 'jinja2', 'pydantic', 'asyncio') if n in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
