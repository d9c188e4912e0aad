"""Whatever deployments do: what is shown is the answer, and what is paid is in the books."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import (
    AuthenticationFailed,
    ConnectionFailed,
    ContentFiltered,
    EmptyAnswer,
    InvalidRequest,
    MockAdapter,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    ToolCall,
    Usage,
)
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.clock import FakeClock
from orchestrator.errors import OrchestratorError
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    RunFailed,
    RunFinished,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.ledger import Ledger
from orchestrator.responses import Receipt
from tests.conftest import THOROUGH

NAMES = ("gpt", "claude", "gemini")
STORY = "Once upon a time there was a gateway that never lost a word, and never said one twice."
DAY = Scope(kind="global", every="day", caps=Caps(money_nanousd=10**12))
PRICE = {"input_usd": "0.01", "output_usd": "0.10"}
TOOLS: tuple[dict[str, object], ...] = (
    {"type": "function", "function": {"name": "look", "parameters": {}}},
)

errors = st.sampled_from(
    [
        AuthenticationFailed("no key"),
        ConnectionFailed("refused", maybe_billed=False),
        ConnectionFailed("reset"),
        ContentFiltered("not that"),
        EmptyAnswer("nothing"),
        InvalidRequest("no such field"),
        ProviderTimeout("too long"),
        ProviderUnavailable("down"),
        RateLimited("slow down"),
        StreamBroken("cut"),
    ]
)
replies = st.one_of(
    errors,
    st.just(Reply(text=STORY)),
    st.just(Reply(text=STORY, reasoning="Let me think.", usage=Usage(prompt_tokens=9))),
    st.just(Reply(text=STORY[:30], finish_reason="length")),
    st.just(Reply(text="I'm sorry, I cannot help with that.")),
    st.just(Reply(tool_calls=(ToolCall(id="1", name="look", arguments="{}"),), text="So: ")),
    st.builds(lambda at: Reply(text=STORY, cut_after=at), st.integers(1, len(STORY))),
    st.builds(
        lambda at, error: Reply(text=STORY, cut_after=at, error=error),
        st.integers(1, len(STORY)),
        errors,
    ),
    st.builds(lambda at: Reply(text=STORY[at:]), st.integers(1, len(STORY) - 1)),
    st.builds(lambda at: Reply(reasoning="Hm.", text=STORY, cut_after=at), st.integers(0, 3)),
)
scripts = st.fixed_dictionaries({name: st.lists(replies, min_size=1, max_size=4) for name in NAMES})


def config(retry: dict[str, Any]) -> OrchestratorConfig:
    return OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": "openai", "model": name, "price": PRICE} for name in NAMES
            },
            "routes": {"fast": {"models": ["gpt", "claude"], "fallback": ["gemini"]}},
            "panels": {
                "council": {
                    "members": list(NAMES),
                    "synthesizer": "claude",
                    "fallback_synthesizers": ["gpt", "gemini"],
                }
            },
            "retry": retry,
            "budgets": {"windows": [{"scope": "global", "every": "day", "money_usd": 1000}]},
        }
    )


def shown(events: Sequence[Event]) -> str:
    """What a listener has in the end."""
    text = ""
    for event in events:
        if isinstance(event, TextReset):
            text = ""
        elif isinstance(event, TextDelta):
            text += event.text
    return text


def count(events: Sequence[Event], *kinds: type) -> int:
    return sum(isinstance(event, kinds) for event in events)


def check_events(events: Sequence[Event]) -> Receipt:
    """Everything that began has ended, and the run ends once, last of all."""
    assert count(events, AttemptStarted) == count(events, AttemptFinished, AttemptFailed)
    assert count(events, StageStarted) == count(events, StageFinished)
    assert count(events, RunFinished, RunFailed) == 1
    last = events[-1]
    if isinstance(last, RunFailed):
        return last.receipt
    assert isinstance(last, RunFinished)
    response = last.response
    assert shown(events) == response.content == response.receipt.content
    if response.status == "complete":
        assert response.finish_reason in {"stop", "tool_calls"}
        assert not response.causes
    return response.receipt


async def run(
    given_scripts: dict[str, list[Reply | ProviderError]], request: RequestConfig, attempts: int
) -> None:
    clock = FakeClock()
    adapters = {
        name: MockAdapter(script, deployment=name) for name, script in given_scripts.items()
    }
    async with (
        Ledger(clock=clock) as ledger,
        EnhancedOrchestrator(
            config({"attempts": attempts}), adapters=adapters, clock=clock, ledger=ledger
        ) as engine,
    ):
        events: list[Event] = []
        try:
            async with aclosing(engine.stream_request(request)) as stream:
                async for event in stream:
                    events += [event]
        except (ProviderError, OrchestratorError):
            assert isinstance(events[-1], RunFailed)
        receipt = check_events(events)
        await ledger.drain()
        (standing,) = await ledger.standing([DAY])

    unsent = sum(
        made.status == "failed" and not made.sent and made.error == "ConnectionFailed"
        for stage in receipt.stages
        for made in stage.attempts
    )
    assert standing.held == Amount()
    assert standing.spent.money_nanousd == receipt.cost_nanousd
    assert standing.spent.calls == receipt.calls
    assert sum(len(adapter.requests) for adapter in adapters.values()) == receipt.calls + unsent


@settings(
    max_examples=1000 if THOROUGH else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    scripts,
    st.sampled_from(["gpt", "fast", "compare/council", "critique/council", "best_of_n/council"]),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_run_shows_what_it_answers_and_books_what_it_pays(
    given_scripts: dict[str, list[Reply | ProviderError]],
    model: str,
    attempts: int,
    with_tools: bool,
) -> None:
    """Cuts, refusals, filters, tool calls and errors, in any order, at any place."""
    tools = TOOLS if with_tools and model != "best_of_n/council" else None
    request = RequestConfig(prompt="Why?", model=model, max_tokens=500, seed=1, tools=tools)

    asyncio.run(run(given_scripts, request, attempts))
