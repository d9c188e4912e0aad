"""The engine under its guards: what is paid for, tried again, gone on with, not paid twice."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

from adapters import (
    BaseAdapter,
    Chunk,
    CompletionRequest,
    ConnectionFailed,
    ContentFiltered,
    InvalidRequest,
    Limits,
    MalformedResponse,
    MockAdapter,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    ToolCall,
    Usage,
)
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.cache_files import Entry, Files
from orchestrator.clock import FakeClock
from orchestrator.errors import (
    BreakerOpen,
    BudgetExceeded,
    JournalError,
    LedgerError,
    NoDeploymentLeft,
    OrchestratorError,
    UnknownPrice,
)
from orchestrator.events import (
    AdapterLoading,
    AttemptFinished,
    AttemptFollows,
    BudgetShrunk,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    TextReset,
)
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.responses import OrchestratorResponse

NAMES = ("gpt", "claude", "gemini")
USAGE = Usage(prompt_tokens=10, completion_tokens=20)
# Ten nano-dollars a token of prompt, a hundred a token of answer: USAGE costs 2,100.
PRICE = {"input_usd": "0.01", "output_usd": "0.10"}
COST = 2_100
STORY = "Once upon a time there was a gateway that never lost a word, and never said one twice."


def config(**about: Any) -> OrchestratorConfig:
    """Three deployments at a price, a route over two of them, a panel of all."""
    models = about.pop("models", {})
    return OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": "openai", "model": f"{name}-1", "price": PRICE}
                | models.get(name, {})
                for name in NAMES
            },
            "routes": {"fast": {"models": ["gpt", "claude"]} | about.pop("route", {})},
            "panels": {"council": {"members": list(NAMES), "synthesizer": "claude"}},
            **about,
        }
    )


def engine(
    scripts: dict[str, Any] | None = None,
    *,
    clock: FakeClock | None = None,
    adapters: dict[str, BaseAdapter] | None = None,
    journal: Journal | None = None,
    ledger: Ledger | None = None,
    **about: Any,
) -> EnhancedOrchestrator:
    given = scripts or {}
    mocks: dict[str, BaseAdapter] = {
        name: MockAdapter(
            given.get(name, [Reply(text=f"{name} answers", usage=USAGE)]), deployment=name
        )
        for name in NAMES
    }
    return EnhancedOrchestrator(
        config(**about),
        adapters=mocks | (adapters or {}),
        clock=clock or FakeClock(),
        journal=journal,
        ledger=ledger,
    )


def ask(model: str = "gpt", **about: Any) -> RequestConfig:
    return RequestConfig.model_validate({"prompt": "Why?", "model": model, **about})


async def listen_to_failure(
    of: EnhancedOrchestrator, request: RequestConfig
) -> tuple[list[Event], Exception]:
    """The events of a run that comes to no answer, and its error."""
    heard: list[Event] = []
    try:
        async with aclosing(of.stream_request(request)) as events:
            async for event in events:
                heard += [event]
    except (OrchestratorError, ProviderError) as error:
        return heard, error
    raise AssertionError("it came to an answer")


async def listen(of: EnhancedOrchestrator, request: RequestConfig) -> list[Event]:
    async with aclosing(of.stream_request(request)) as events:
        return [event async for event in events]


def answer(events: Sequence[Event]) -> OrchestratorResponse:
    last = events[-1]
    assert isinstance(last, RunFinished)
    return last.response


def told(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def asked(of: EnhancedOrchestrator, name: str) -> list[CompletionRequest]:
    adapter = of._deployments[name].adapter
    assert isinstance(adapter, MockAdapter)
    return adapter.requests


def attempts(response: OrchestratorResponse) -> list[tuple[str, str, str]]:
    return [
        (made.deployment, made.status, made.source)
        for stage in response.receipt.stages
        for made in stage.attempts
    ]


# What is tried again.


async def test_a_deployment_alone_is_tried_again_after_a_wait() -> None:
    """Nobody else can answer, so the same one is asked once more, and the receipt shows both."""
    clock = FakeClock()
    scripts = {"gpt": [ProviderUnavailable("down"), Reply(text="up again", usage=USAGE)]}
    async with engine(scripts, clock=clock) as of:
        events = await listen(of, ask())

    (follows,) = [event for event in events if isinstance(event, AttemptFollows)]
    assert (follows.how, follows.deployment) == ("retry", "gpt")
    assert 0 <= follows.wait_s <= 0.5
    assert answer(events).content == "up again"
    assert attempts(answer(events)) == [("gpt", "failed", "call"), ("gpt", "ok", "call")]


async def test_a_ready_fallback_goes_before_a_retry() -> None:
    """To wait for who has just failed is slower than to ask who has not."""
    clock = FakeClock()
    scripts = {"gpt": [RateLimited("slow down", retry_after_s=5.0)]}
    async with engine(scripts, clock=clock) as of:
        response = await of.execute_request(ask("fast"))

    assert response.content == "claude answers"
    assert clock.monotonic() == 0
    assert response.status == "complete"


async def test_retry_after_is_waited_for_where_nobody_else_is() -> None:
    """The provider says when; it is not asked before."""
    clock = FakeClock()
    scripts = {"gpt": [RateLimited("slow down", retry_after_s=5.0), "there"]}
    async with engine(scripts, clock=clock) as of:
        response = await of.execute_request(ask())

    assert response.content == "there"
    assert clock.monotonic() >= 5


async def test_a_wait_past_the_deadline_is_not_begun() -> None:
    """What cannot end in time fails now."""
    clock = FakeClock()
    scripts = {"gpt": [RateLimited("slow down", retry_after_s=500.0)]}
    async with engine(scripts, clock=clock) as of:
        with pytest.raises(RateLimited):
            await of.execute_request(ask(time_s=60))

    assert clock.monotonic() == 0


async def test_what_keeps_failing_is_left_alone() -> None:
    """Once its breaker is open a deployment is not asked, and the error says when it will be."""
    clock = FakeClock()
    about: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 2, "open_s": 30}}
    async with engine({"gpt": [ProviderUnavailable("down")]}, clock=clock, **about) as of:
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await of.execute_request(ask())
        with pytest.raises(BreakerOpen, match="ProviderUnavailable") as refused:
            await of.execute_request(ask())
        calls = len(asked(of, "gpt"))
        state = of.breakers()["gpt"]

    assert calls == 2
    assert refused.value.retry_after_s == pytest.approx(30)
    assert state.state == "open"
    assert state.probe_in_s == pytest.approx(30)


async def test_who_had_no_room_is_waited_for_if_nobody_else_answers() -> None:
    """It was not asked yet: that the other one is down is no reason to give up."""
    clock = FakeClock()
    rates = {"gpt": {"rates": {"requests_per_minute": 1}}}
    down = {"claude": [ProviderUnavailable("down")]}
    async with engine(down, clock=clock, models=rates, retry={"attempts": 1}) as of:
        await of.execute_request(ask("fast"))
        waiting = asyncio.create_task(of.execute_request(ask("fast", time_s=120)))
        for _ in range(200):
            await asyncio.sleep(0)
        clock.advance(61)
        response = await asyncio.wait_for(waiting, 5)

    assert response.content == "gpt answers"
    assert [made.error for made in response.receipt.stages[0].attempts] == [
        "RateExceeded",
        "ProviderUnavailable",
        "",
    ]
    assert response.receipt.calls == 2


async def test_nobody_stands_in_line_for_a_deployment_that_is_left_alone() -> None:
    """Its rate is used up as well, but that is not what there is to wait for."""
    rates = {"gpt": {"rates": {"requests_per_minute": 1}}}
    about: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 1, "open_s": 300}}
    async with engine({"gpt": [ProviderUnavailable("down")]}, models=rates, **about) as of:
        with pytest.raises(ProviderUnavailable):
            await of.execute_request(ask())
        with pytest.raises(BreakerOpen):
            await asyncio.wait_for(of.execute_request(ask()), 5)


async def test_with_all_breakers_open_the_soonest_retry_is_said() -> None:
    """Nobody is asked, and the answer is there at once."""
    clock = FakeClock()
    about: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 1, "open_s": 30}}
    down = [ProviderUnavailable("down")]
    async with engine({"gpt": down, "claude": down}, clock=clock, **about) as of:
        with pytest.raises(NoDeploymentLeft):
            await of.execute_request(ask("fast"))
        clock.advance(10)
        with pytest.raises(NoDeploymentLeft) as refused:
            await of.execute_request(ask("fast"))
        calls = len(asked(of, "gpt")) + len(asked(of, "claude"))

    assert calls == 2
    assert refused.value.retry_after_s == pytest.approx(20)


async def test_what_a_minute_has_no_room_for_goes_to_the_next() -> None:
    """A route overflows to who has room; only the last one is waited for."""
    clock = FakeClock()
    slow = {"rates": {"requests_per_minute": 1}}
    async with engine(clock=clock, models={"gpt": slow, "claude": slow}) as of:
        at_once = [(await of.execute_request(ask("fast"))).content for _ in range(2)]
        last = asyncio.create_task(of.execute_request(ask("fast")))
        for _ in range(50):  # until it stands in line
            await asyncio.sleep(0)
        clock.advance(61)
        response = await last

    assert at_once == ["gpt answers", "claude answers"]
    assert response.content == "claude answers"


async def test_a_call_that_is_refused_takes_nothing_of_the_rate() -> None:
    """What a budget turned down was never sent, and the next call goes at once."""
    clock = FakeClock()
    rates = {"gpt": {"rates": {"requests_per_minute": 1}}}
    async with engine(clock=clock, models=rates, budgets={"shrink": []}) as of:
        with pytest.raises(BudgetExceeded):
            await of.execute_request(ask(max_cost_usd="0.00001"))
        await of.execute_request(ask())

    assert clock.monotonic() == 0


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (ProviderUnavailable("down"), ContentFiltered("not that")),
        (InvalidRequest("no such field"), InvalidRequest("no such field")),
    ],
)
async def test_an_error_of_the_request_itself_is_the_caller_s(
    first: ProviderError, last: ProviderError
) -> None:
    """To hear that no deployment is left would be to ask the same again."""
    async with engine({"gpt": [first], "claude": [last]}) as of:
        with pytest.raises(type(last)):
            await of.execute_request(ask("fast"))


async def test_when_a_limited_route_may_be_asked_again_is_said() -> None:
    """Not only breakers know; whoever was asked last may have told."""
    slow = [RateLimited("slow down", retry_after_s=500.0)]
    async with engine({"gpt": slow, "claude": slow}) as of:
        with pytest.raises(NoDeploymentLeft) as refused:
            await of.execute_request(ask("fast", time_s=60))

    assert refused.value.retry_after_s == 500


async def test_a_cancelled_call_is_no_failure_of_its_deployment() -> None:
    """Some libraries make an error of a cancellation; the breaker is not to hear of it."""

    class Misleading(MockAdapter):
        async def stream(
            self, request: CompletionRequest, *, limits: Limits = Limits()
        ) -> AsyncGenerator[Chunk, None]:
            yield Chunk(text="It begins")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ProviderUnavailable("closed", deployment="gpt") from None

    adapter = Misleading(deployment="gpt")
    async with engine(adapters={"gpt": adapter}, breaker={"failures": 1}) as of:
        async with aclosing(of.stream_request(ask())) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        state = of.breakers()["gpt"].state

    assert state == "closed"


# Hedging.


class Late(MockAdapter):
    """Its first answers come at once, the ones after that never."""

    def __init__(self, clock: FakeClock, at_once: int) -> None:
        super().__init__(["on time"], deployment="gpt")
        self._late_clock = clock
        self._at_once = at_once
        self.cancelled = 0

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        if len(self.requests) >= self._at_once:
            self.requests.append(request)
            try:
                while True:
                    await self._late_clock.sleep(0.05)
            finally:
                self.cancelled += 1
        async for chunk in super().stream(request, limits=limits):
            yield chunk


async def test_a_late_answer_is_hedged_and_the_loser_cancelled() -> None:
    """After the usual time somebody else is asked beside it; the first to answer goes on alone."""
    clock = FakeClock()
    late = Late(clock, at_once=20)
    async with engine(clock=clock, adapters={"gpt": late}, route={"hedge": True}) as of:
        for _ in range(20):
            await listen(of, ask("fast"))
        events = await listen(of, ask("fast"))

    response = answer(events)
    assert response.content == told(events) == "claude answers"
    assert ("hedge", "claude") in [
        (event.how, event.deployment) for event in events if isinstance(event, AttemptFollows)
    ]
    assert sorted(attempts(response)) == [("claude", "ok", "call"), ("gpt", "cancelled", "call")]
    assert late.cancelled == 1


# What goes on where another broke off.


CALL = ToolCall(id="1", name="look", arguments="{}")


class CallingHalf(MockAdapter):
    """Breaks off after the first piece of a tool call."""

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(request, limits=limits):
            yield chunk
            if chunk.tool_calls:
                raise StreamBroken("cut", **self.named())


async def test_a_broken_stream_is_gone_on_with_by_the_next() -> None:
    """The listener sees one text, whole, and nothing twice."""
    scripts = {
        "gpt": [Reply(text=STORY, cut_after=40)],
        "claude": [Reply(text=STORY[24:], usage=USAGE)],  # it repeats the last words first
    }
    async with engine(scripts) as of:
        events = await listen(of, ask("fast"))
        request = asked(of, "claude")[0]

    assert told(events) == answer(events).content == STORY
    assert request.messages[1] == {"role": "assistant", "content": STORY[:40]}
    (stage,) = answer(events).receipt.stages
    assert [made.continues for made in stage.attempts] == [False, True]
    assert stage.causes == ("claude went on with the answer where it had broken off",)


async def test_a_model_that_can_is_given_the_answer_begun() -> None:
    """A prefill is sent only where the configuration says that the model goes on with one."""
    scripts = {"gpt": [Reply(text=STORY, cut_after=40)], "claude": [STORY[40:]]}
    async with engine(scripts, models={"claude": {"prefill": True}}) as of:
        events = await listen(of, ask("fast"))
        request = asked(of, "claude")[0]

    assert told(events) == STORY
    assert request.messages[-1]["role"] == "assistant"
    assert request.messages[-1]["content"] == STORY[:40]


async def test_before_the_first_word_nobody_notices_a_failure() -> None:
    """The next attempt begins anew."""
    scripts = {"gpt": [StreamBroken("cut")], "claude": [STORY]}
    async with engine(scripts) as of:
        events = await listen(of, ask("fast"))

    assert told(events) == answer(events).content == STORY


async def test_an_answer_that_nobody_goes_on_with_is_an_error() -> None:
    """Half an answer is never a whole one."""
    half = [Reply(text=STORY, cut_after=40)]
    async with engine({"gpt": half, "claude": [ConnectionFailed("gone")]}) as of:
        heard, _ = await listen_to_failure(of, ask("fast"))

    assert not any(isinstance(event, RunFinished) for event in heard)


async def test_json_in_two_parts_is_json_or_an_error() -> None:
    """A continuation that does not close what was opened is no answer."""
    whole = '{"answer": "a gateway that never lost a word", "sure": true}'
    form = {"type": "json_object"}
    begun = [Reply(text=whole, cut_after=30)]
    async with engine({"gpt": begun, "claude": [whole[30:]]}) as of:
        joined = await listen(of, ask("fast", response_format=form))
    async with engine({"gpt": begun, "claude": [" and so on"]}, retry={"attempts": 1}) as of:
        with pytest.raises(ProviderError):
            await listen(of, ask("fast", response_format=form))

    assert told(joined) == whole


async def test_a_text_format_is_no_json() -> None:
    """Only an answer that was to be JSON must be JSON when it is joined."""
    scripts = {"gpt": [Reply(text=STORY, cut_after=40)], "claude": [STORY[24:]]}
    async with engine(scripts) as of:
        events = await listen(of, ask("fast", response_format={"type": "text"}))

    assert told(events) == STORY


async def test_json_that_a_limit_cuts_in_its_second_part_is_partial() -> None:
    """As it would be in one part: what there is is handed out, and said to be cut."""
    whole = '{"answer": "a gateway that never lost a word", "sure": true}'
    rest = Reply(text=whole[30:50], finish_reason="length")
    async with engine({"gpt": [Reply(text=whole, cut_after=30)], "claude": [rest]}) as of:
        events = await listen(of, ask("fast", response_format={"type": "json_object"}))

    assert told(events) == whole[:50]
    assert (answer(events).status, answer(events).finish_reason) == ("partial", "length")


async def test_a_member_that_went_on_has_given_the_whole_answer() -> None:
    """The receipt keeps what each attempt said; the member's answer is what they came to."""
    scripts = {"gpt": [Reply(text=STORY, cut_after=40)], "claude": [STORY[24:]]}
    async with engine(scripts) as of:
        response = answer(await listen(of, ask("fast")))

    assert response.model_responses["fast"].text == STORY
    assert [made.text for made in response.receipt.stages[0].attempts] == [STORY[:40], STORY[24:]]


async def test_whoever_goes_on_is_told_of_no_tools() -> None:
    """It gets none, so what was called before it is told in words."""
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "because"},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    scripts = {"gpt": [Reply(text=STORY, cut_after=40)], "claude": [STORY[24:]]}
    async with engine(scripts) as of:
        events = await listen(of, ask("fast", prompt=None, messages=messages, tools=tools))
        request = asked(of, "claude")[0]

    assert told(events) == STORY
    assert request.tools is None
    assert [message["role"] for message in request.messages[:3]] == ["user", "assistant", "user"]
    assert not any("tool_calls" in message for message in request.messages)


async def test_tool_calls_are_not_gone_on_with() -> None:
    """Nobody can tell the half of a tool call from the whole of another."""
    adapter = CallingHalf([Reply(tool_calls=(CALL,))], deployment="gpt")
    async with engine(adapters={"gpt": adapter}) as of:
        with pytest.raises(StreamBroken):
            await listen(of, ask("fast"))
        assert asked(of, "claude") == []


async def test_the_next_writer_inherits_no_half_of_a_tool_call() -> None:
    """What nobody can end is taken back before somebody else writes."""

    def draft_or_call(request: CompletionRequest) -> Reply:
        return Reply(tool_calls=(CALL,)) if request.tools else Reply(text="a draft")

    panel = {"members": list(NAMES), "synthesizer": "claude", "fallback_synthesizers": ["gpt"]}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    adapter = CallingHalf(draft_or_call, deployment="claude")
    async with engine(adapters={"claude": adapter}, panels={"council": panel}) as of:
        events = await listen(of, ask("compare/council", tools=tools))

    assert answer(events).tool_calls == ()
    assert answer(events).content == "gpt answers"
    assert sum(isinstance(event, TextReset) for event in events) == 1


# What it costs.


async def test_every_call_has_its_price_in_the_receipt() -> None:
    """The run costs the sum of its calls, to the nano-dollar."""
    async with engine() as of:
        response = await of.execute_request(ask("compare/council"))

    costs = [made.cost_nanousd for stage in response.receipt.stages for made in stage.attempts]
    assert costs == [COST] * 4
    assert response.cost_nanousd == 4 * COST
    assert response.receipt.unpriced == ()


async def test_what_was_not_sent_is_no_call_in_the_receipt() -> None:
    """Neither the call that a breaker refuses nor the connection that is not made."""
    refused = [ConnectionFailed("refused", maybe_billed=False)]
    about: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 1}}
    async with engine({"gpt": refused}, **about) as of:
        not_connected = await of.execute_request(ask("fast"))
        response = await of.execute_request(ask("fast"))

    receipts = [not_connected.receipt, response.receipt]
    assert [receipt.calls for receipt in receipts] == [1, 1]
    assert [receipt.usage for receipt in receipts] == [USAGE, USAGE]
    sent = [made.sent for receipt in receipts for made in receipt.stages[0].attempts]
    assert sent == [False, True, True]


async def test_an_unknown_price_is_said() -> None:
    """A sum that leaves something out names it."""
    async with engine(models={"gpt": {"price": None}}) as of:
        response = await of.execute_request(ask())

    assert response.cost_nanousd == 0
    assert response.receipt.unpriced == ("gpt",)


async def test_an_unknown_price_refuses_where_money_is_limited() -> None:
    """Nobody can keep to a limit without knowing the price; the error says what to write."""
    async with engine(models={"gpt": {"price": None}}) as of:
        with pytest.raises(UnknownPrice, match="price: free"):
            await of.execute_request(ask(max_cost_usd="1"))
        assert asked(of, "gpt") == []


async def test_a_call_that_does_not_fit_is_not_made() -> None:
    """The error names the limit, what is spent and held, and what the call needs."""
    async with engine(budgets={"shrink": []}) as of:
        with pytest.raises(BudgetExceeded, match=r"\$0\.00001") as refused:
            await of.execute_request(ask(max_cost_usd="0.00001"))
        assert asked(of, "gpt") == []

    assert refused.value.dimension == "money_nanousd"


async def test_an_answer_is_shortened_to_what_is_left() -> None:
    """Where the operator lets it, a call that is too dear asks for a shorter answer."""
    async with engine() as of:
        events = await listen(of, ask(max_cost_usd="0.0001"))
        limit = asked(of, "gpt")[0].max_tokens

    assert limit is not None
    assert 256 <= limit < 1000
    assert any(isinstance(event, BudgetShrunk) for event in events)
    assert answer(events).receipt.shrunk == (f"answers of gpt are cut at {limit} tokens",)
    assert answer(events).status == "complete"


async def test_a_panel_shrinks_to_its_budget_and_says_so() -> None:
    """The lightest members go first, down to the quorum; the run is degraded."""
    async with engine(models={"gpt": {"weight": 0.5}}) as of:
        quote = await of.quote(ask("compare/council", max_tokens=1000))
        less = quote.full.amount.money_nanousd * 9 // 10
        response = await of.execute_request(
            ask("compare/council", max_tokens=1000, max_cost_usd=f"{less / 10**9:.9f}")
        )

    assert set(response.model_responses) == {"claude", "gemini"}
    assert response.status == "degraded"
    assert response.receipt.shrunk == ("not asked: gpt",)


async def test_a_run_has_started_before_it_says_what_gave_way() -> None:
    """Whoever listens learns first of all which run it is."""
    async with engine() as of:
        quote = await of.quote(ask("compare/council", max_tokens=1000))
        less = quote.full.amount.money_nanousd * 9 // 10
        request = ask("compare/council", max_tokens=1000, max_cost_usd=f"{less / 10**9:.9f}")
        events = await listen(of, request)

    assert isinstance(events[0], RunStarted)
    assert isinstance(events[1], BudgetShrunk)
    assert len(events[0].members) == 2


async def test_a_quote_reckons_with_the_answers_that_are_asked_for() -> None:
    """A window of its own stands before the general one, for the quote as for the call."""
    general = {"scope": "deployment", "every": "day", "money_usd": 1}
    own = {"scope": "deployment", "name": "gpt", "every": "day", "calls": 9}
    async with engine(budgets={"windows": [general, own]}) as of:
        quotes = [await of.quote(ask(name)) for name in ("gpt", "claude")]
        for name in ("gpt", "claude"):
            await of.execute_request(ask(name))
        limits = [asked(of, name)[0].max_tokens for name in ("gpt", "claude")]

    assert [quote.unlimited for quote in quotes] == [("gpt",), ()]
    assert limits == [None, quotes[1].longest_answer]


async def test_windows_are_kept_over_runs() -> None:
    """What one run has spent another cannot spend."""
    day = {"scope": "global", "every": "day", "calls": 3}
    async with engine(budgets={"windows": [day]}) as of:
        for _ in range(3):
            await of.execute_request(ask())
        with pytest.raises(BudgetExceeded, match="3 calls"):
            await of.execute_request(ask())


async def test_tenants_have_budgets_of_their_own() -> None:
    """A window of scope key is counted for each tenant."""
    day = {"scope": "key", "every": "day", "calls": 1}
    async with engine(budgets={"windows": [day]}) as of:
        await of.execute_request(ask(tenant="one"))
        await of.execute_request(ask(tenant="two"))
        with pytest.raises(BudgetExceeded, match="one"):
            await of.execute_request(ask(tenant="one"))


async def spent(error: ProviderError | None, *, cut: int | None = None) -> tuple[Amount, Amount]:
    """What one failed call has left in the ledger: spent, and held."""
    reply = Reply(error=error) if error else Reply(text=STORY, cut_after=cut)
    scope = Scope(kind="global", every="day", caps=Caps(money_nanousd=10**9))
    ledger = Ledger()
    about: dict[str, Any] = {
        "retry": {"attempts": 1},
        "budgets": {"windows": [{"scope": "global", "every": "day", "money_usd": 1}]},
    }
    clock = FakeClock()
    ledger = Ledger(clock=clock)
    async with ledger, engine({"gpt": [reply]}, clock=clock, ledger=ledger, **about) as of:
        with pytest.raises(ProviderError):
            await listen(of, ask(max_tokens=1000))
        await ledger.drain()
        (standing,) = await ledger.standing([scope])
    return standing.spent, standing.held


async def test_a_refusal_costs_nothing() -> None:
    """What the provider turned down it does not charge for."""
    used, held = await spent(ProviderUnavailable("down"))

    assert (used.money_nanousd, used.calls) == (0, 1)
    assert held == Amount()


async def test_what_was_never_sent_is_no_call() -> None:
    """A connection that was not made leaves nothing."""
    used, held = await spent(ConnectionFailed("refused", maybe_billed=False))

    assert used == held == Amount()


async def test_an_unknown_outcome_is_posted_in_full() -> None:
    """Where nobody knows whether the provider charges, the budget does."""
    used, held = await spent(ConnectionFailed("reset"))

    assert used.money_nanousd > 1000 * 100  # all of the answer, and the prompt
    assert held == Amount()


async def test_a_broken_answer_is_posted_as_it_was_counted() -> None:
    """What came is counted; the rest of the hold is given back."""
    used, held = await spent(None, cut=40)

    assert 0 < used.money_nanousd < 1000 * 100
    assert held == Amount()


@pytest.mark.parametrize("kind", [StreamBroken, ProviderUnavailable])
async def test_what_was_reported_before_a_break_is_the_least_that_is_posted(
    kind: type[ProviderError],
) -> None:
    """A provider that counts more than we saw is believed; one that counts less is not."""
    cut = kind("cut")
    cut.usage = Usage(prompt_tokens=700, completion_tokens=1)
    clock = FakeClock()
    scripts = {"gpt": [Reply(text=STORY, cut_after=40, error=cut)]}
    async with engine(scripts, clock=clock, retry={"attempts": 1}) as of:
        heard, _ = await listen_to_failure(of, ask())

    failed = heard[-1]
    assert isinstance(failed, RunFailed)
    usage = failed.receipt.usage
    assert usage.prompt_tokens == 700
    assert usage.completion_tokens > 40 // 8
    assert usage.estimated


async def test_what_is_reported_of_a_stream_without_a_word_is_not_all_of_it() -> None:
    """Anthropic reports the prompt at the start; the answer that could not be read costs more."""
    garbled = MalformedResponse("an event is larger than 8 bytes")
    garbled.usage = Usage(prompt_tokens=10, completion_tokens=1)

    used, held = await spent(garbled)

    assert used.money_nanousd > 1000 * 100
    assert held == Amount()


async def test_what_the_ledger_could_not_take_is_written_before_the_next_call() -> None:
    """With a full disk the answer there is is given, no more is paid for, and nothing is lost."""

    class Full(Ledger):
        is_full = False

        def record(self, entry: UsageEntry) -> "asyncio.Future[None]":
            if not self.is_full:
                return super().record(entry)
            refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            refused.set_exception(LedgerError("the disk is full"))
            return refused

    clock = FakeClock()
    ledger = Full(clock=clock)
    async with ledger, engine(clock=clock, ledger=ledger) as of:
        ledger.is_full = True
        given = await of.execute_request(ask())
        with pytest.raises(LedgerError, match="full"):
            await of.execute_request(ask())
        calls = len(asked(of, "gpt"))
        ledger.is_full = False
        await of.execute_request(ask())
        await ledger.drain()
        entries = await ledger.entries()

    assert given.content == "gpt answers"
    assert calls == 1
    assert [entry.cost_nanousd for entry in entries] == [COST, COST]


@pytest.mark.parametrize("model", ["gpt", "compare/council"])
async def test_without_a_ledger_nobody_is_asked(model: str) -> None:
    """The error says that spending cannot be counted, of a panel as of one."""

    class Full(Ledger):
        async def reserve(self, *args: Any, **about: Any) -> str:
            raise LedgerError("the disk is full")

    budgets = {"windows": [{"scope": "global", "every": "day", "calls": 100}]}
    async with Full(clock=FakeClock()) as ledger, engine(ledger=ledger, budgets=budgets) as of:
        with pytest.raises(LedgerError, match="disk is full"):
            await of.execute_request(ask(model))
        assert sum(len(asked(of, name)) for name in NAMES) == 0


# What is not paid for twice.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path))
    return tmp_path


async def test_an_equal_run_is_answered_without_a_call(home: Path) -> None:
    """Every stage of a pattern is found again, shuffles and fences included."""
    async with engine(cache={}) as of:
        first = await of.execute_request(ask("council/council"))
        calls = sum(len(asked(of, name)) for name in NAMES)
        again = await of.execute_request(ask("council/council"))
        assert sum(len(asked(of, name)) for name in NAMES) == calls

    assert again.content == first.content
    assert {source for _, _, source in attempts(again)} == {"cache"}
    assert (again.cost_nanousd, again.receipt.calls) == (0, 0)
    assert again.usage == Usage()


async def test_another_synthesizer_uses_the_same_drafts(home: Path) -> None:
    """Only what is different is paid for."""
    async with engine(cache={}) as of:
        await of.execute_request(ask("compare/council"))
        other = await of.execute_request(ask("compare/council", synthesizer="gpt"))

    drafts, written = other.receipt.stages
    assert {made.source for made in drafts.attempts} == {"cache"}
    assert [(made.deployment, made.source) for made in written.attempts] == [("gpt", "call")]


@pytest.mark.parametrize("mode", ["off", "refresh"])
async def test_a_caller_may_do_without_the_cache(home: Path, mode: str) -> None:
    """`off` neither looks nor keeps; `refresh` asks anew, and keeps that."""
    scripts = {"gpt": ["first", "second", "third"]}
    async with engine(scripts, cache={}) as of:
        await of.execute_request(ask())
        anew = await of.execute_request(ask(cache=mode))
        kept = await of.execute_request(ask())

    assert anew.content == "second"
    assert kept.content == ("first" if mode == "off" else "second")


async def test_the_newer_of_two_answers_being_kept_is_the_one_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk still has the older one, and the newer is on its way there."""
    begun, may_end = Semaphore(0), Semaphore(0)
    write = Files.write

    def slow_write(files: Files, entries: Sequence[Entry], *, ttl_s: float) -> None:
        begun.release()
        may_end.acquire(timeout=60)
        write(files, entries, ttl_s=ttl_s)

    monkeypatch.setattr(Files, "write", slow_write)
    async with engine({"gpt": ["first", "second", "third"]}, cache={}) as of:
        await of.execute_request(ask())
        await of.execute_request(ask(cache="refresh"))
        may_end.release()
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        kept = await of.execute_request(ask())
        may_end.release()

    assert kept.content == "second"


async def test_an_answer_that_a_budget_cut_is_not_shared(home: Path) -> None:
    """Whoever asked the same with more money is given a whole one."""
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    def in_time(request: CompletionRequest) -> Reply:
        is_asked.set()
        if request.max_tokens == 1000:
            return Reply(text="to its end")
        return Reply(text="to its", finish_reason="length", delay_s=1)

    adapter = MockAdapter(in_time, deployment="gpt", sleep=lambda _: may_answer.wait())
    async with engine(adapters={"gpt": adapter}, cache={}) as of:
        first = asyncio.create_task(
            of.execute_request(ask(max_tokens=1000, max_cost_usd="0.00009"))
        )
        await is_asked.wait()
        second = asyncio.create_task(of.execute_request(ask(max_tokens=1000)))
        for _ in range(50):  # until it waits for the first one's answer
            await asyncio.sleep(0)
        may_answer.set()
        poor, rich = await first, await second

    assert (poor.status, poor.finish_reason) == ("partial", "length")
    assert (rich.status, rich.finish_reason) == ("complete", "stop")


async def test_tenants_share_no_answers(home: Path) -> None:
    """What one has paid for another cannot read."""
    async with engine({"gpt": ["first", "second"]}, cache={}) as of:
        one = await of.execute_request(ask(tenant="one"))
        two = await of.execute_request(ask(tenant="two"))

    assert (one.content, two.content) == ("first", "second")


async def test_samples_of_one_question_are_answers_of_their_own(home: Path) -> None:
    """Five samples from the cache would be one answer, five times."""
    async with engine(cache={}) as of:
        response = await of.execute_request(ask("self_consistency/gpt"))

    samples = response.receipt.stages[0].attempts
    assert len(samples) == 5
    assert {made.source for made in samples} == {"call"}


async def test_a_run_that_was_interrupted_goes_on_without_paying_again(tmp_path: Path) -> None:
    """Whoever had answered is not asked again; the rest of the run is the same."""
    journal = Journal(tmp_path)
    async with engine(journal=journal) as of:
        whole = await of.execute_request(ask("critique/council", seed=7))
    run_id, finished, never = "", 0, asyncio.Event()
    stuck = MockAdapter(
        [Reply(text="gemini answers", usage=USAGE), Reply(text="late", delay_s=1)],
        deployment="gemini",
        sleep=lambda _: never.wait(),
    )
    interrupted = engine(journal=journal, adapters={"gemini": stuck})
    request = ask("critique/council", seed=7)
    async with interrupted as of, aclosing(of.stream_request(request)) as events:
        async for event in events:
            run_id = event.run_id if isinstance(event, RunStarted) else run_id
            finished += isinstance(event, AttemptFinished)
            if finished == 5:  # three drafts, two critiques
                break
    paid = len(journal.read(run_id).calls)
    async with engine(journal=journal) as of:
        async with aclosing(of.resume_request(run_id)) as events:
            resumed = answer([event async for event in events])
        made = sum(len(asked(of, name)) for name in NAMES)

    assert paid == 5
    assert resumed.content == whole.content
    assert resumed.receipt.run_id == run_id
    assert made + paid == whole.receipt.calls == resumed.receipt.calls
    assert resumed.cost_nanousd == whole.cost_nanousd
    assert [source for _, _, source in attempts(resumed)].count("journal") == paid
    assert journal.read(run_id).receipt == resumed.receipt


async def test_a_run_that_has_ended_is_not_resumed(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    journal = Journal(tmp_path)
    async with engine(journal=journal) as of:
        response = await of.execute_request(ask())
        with pytest.raises(JournalError, match="has ended"):
            await anext(of.resume_request(response.receipt.run_id))


async def test_a_failed_run_leaves_a_receipt(tmp_path: Path) -> None:
    """Why there is no answer is explained like an answer, and kept."""
    journal = Journal(tmp_path)
    scripts = {"gpt": [ProviderUnavailable("down")]}
    async with engine(scripts, journal=journal, retry={"attempts": 1}) as of:
        heard, error = await listen_to_failure(of, ask())

    assert isinstance(error, ProviderUnavailable)
    failed = heard[-1]
    assert isinstance(failed, RunFailed)
    assert (failed.receipt.status, failed.receipt.error) == ("failed", "ProviderUnavailable")
    assert [made.status for made in failed.receipt.stages[0].attempts] == ["failed"]
    assert journal.read(failed.receipt.run_id).receipt == failed.receipt


async def test_without_room_for_a_journal_no_call_is_made(tmp_path: Path) -> None:
    """What could not be written down is not paid for."""
    (tmp_path / "runs").write_text("")
    async with engine(journal=Journal(tmp_path / "runs")) as of:
        with pytest.raises(JournalError, match="no call is made"):
            await of.execute_request(ask())
        assert asked(of, "gpt") == []


# What is loaded first.


class Cold(MockAdapter):
    """Needs ten seconds before its first call."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__([Reply(text="Here.", usage=USAGE)], deployment="gpt")
        self.clock = clock
        self.is_loaded = False

    def is_warm(self, request: CompletionRequest) -> bool:
        return self.is_loaded

    async def warm(self, request: CompletionRequest) -> None:
        for _ in range(10):
            await self.clock.sleep(1)
        self.is_loaded = True


async def test_the_seconds_of_loading_are_told_and_count_for_nobody() -> None:
    """Neither as the run's, its stage's or the call's, nor against the deadline; and once."""
    clock = FakeClock()
    async with engine(clock=clock, adapters={"gpt": Cold(clock)}) as of:
        first = await listen(of, ask(time_s=5))
        second = await listen(of, ask(time_s=5))

    receipt = answer(first).receipt
    (stage,) = receipt.stages
    assert [event.is_done for event in first if isinstance(event, AdapterLoading)] == [False, True]
    assert not any(isinstance(event, AdapterLoading) for event in second)
    assert clock.monotonic() == 10
    assert (receipt.elapsed_s, stage.elapsed_s, stage.attempts[0].elapsed_s) == (0, 0, 0)


async def test_what_a_caller_notes_stands_in_the_receipt() -> None:
    """Before what the method has to say, and it makes no other question of an equal one."""
    async with engine() as of:
        response = await of.execute_request(ask("council", notes=("for the board",)))

    assert response.receipt.notes[0] == "for the board"


async def test_half_a_character_costs_nobody_a_receipt(tmp_path: Path) -> None:
    """A prompt may hold what nothing can write; it was answered and paid for all the same."""
    journal = Journal(tmp_path)
    async with engine(journal=journal) as of:
        response = await of.execute_request(ask(prompt="Why \ud83d?"))

    kept = journal.read(response.receipt.run_id).receipt
    assert kept is not None
    assert (kept.content, kept.prompt) == ("gpt answers", "Why ??")


async def test_watched_or_not_a_run_has_the_same_receipt() -> None:
    """Whether an answer comes in pieces or in one makes no other difference."""
    async with engine() as of:
        waited_for = await of.execute_request(ask("critique/council", seed=3))
    async with engine() as of:
        watched = answer(await listen(of, ask("critique/council", seed=3)))

    assert watched.content == waited_for.content
    assert watched.receipt == replace(waited_for.receipt, run_id=watched.receipt.run_id)


# From when on, and until when.


async def test_an_orchestrator_that_is_closed_says_so() -> None:
    """Nothing is opened again by accident, and closing twice does no harm."""
    of = engine()
    await of.execute_request(ask())
    begun = of.stream_request(ask())
    await of.aclose()

    with pytest.raises(OrchestratorError, match="is closed"):
        await of.execute_request(ask())
    with pytest.raises(OrchestratorError, match="is closed"):
        await of.quote(ask())
    with pytest.raises(OrchestratorError, match="is closed"):
        await anext(begun)
    await of.aclose()


def test_an_orchestrator_serves_one_loop_after_another(home: Path) -> None:
    """What is kept between runs belongs to none of them."""
    of = engine(cache={}, budgets={"windows": [{"scope": "global", "every": "day", "calls": 9}]})

    first = asyncio.run(of.execute_request(ask("compare/council")))
    second = asyncio.run(of.execute_request(ask("compare/council")))
    asyncio.run(of.aclose())

    assert first.content == second.content


async def test_a_run_that_is_cancelled_while_the_ledger_opens_leaves_none_open() -> None:
    """Its thread would keep the file, and nobody would know of it."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "ledger"]

    before = len(threads())
    async with engine() as of:
        run = asyncio.create_task(of.execute_request(ask(max_calls=3)))
        for _ in range(100):
            if len(threads()) > before:
                break
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    assert len(threads()) == before
