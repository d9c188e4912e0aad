"""Runs that were interrupted and go on: what they had paid for, been told, and agreed to."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapters import MockAdapter, ProviderUnavailable
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.clock import FakeClock
from orchestrator.errors import InvalidRun
from orchestrator.events import AttemptFinished, RunFinished, RunStarted
from orchestrator.journal import Journal
from orchestrator.responses import OrchestratorResponse

NAMES = ("gpt", "claude", "gemini")
PRICE = {"input_usd": "0.01", "output_usd": "0.10"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def engine(
    journal: Journal, *, is_stuck: bool = False, scripts: Any = None, **about: Any
) -> EnhancedOrchestrator:
    """Three deployments, a route over two, a panel of all; gemini may never answer."""
    never = asyncio.Event()
    given = {name: [Reply(text=f"{name} answers")] for name in NAMES} | (scripts or {})
    if is_stuck:
        given["gemini"] = [Reply(text="late", delay_s=1)]
    config = {
        "models": {name: {"provider": "openai", "model": name, "price": PRICE} for name in NAMES},
        "routes": {"fast": {"models": ["gpt", "claude"]}},
        "panels": {
            "council": {"members": list(NAMES), "synthesizer": "claude"},
            "two": {"members": ["fast", "gemini"], "quorum": 2, "synthesizer": "claude"},
        },
        **about,
    }
    return EnhancedOrchestrator(
        OrchestratorConfig.model_validate(config),
        adapters={
            name: MockAdapter(script, deployment=name, sleep=lambda _: never.wait())
            for name, script in given.items()
        },
        clock=FakeClock(),
        journal=journal,
    )


def ask(model: str, **about: Any) -> RequestConfig:
    return RequestConfig.model_validate({"prompt": "Why?", "model": model, **about})


async def too_dear(journal: Journal) -> RequestConfig:
    """A request that fits its budget only without one of the members."""
    async with engine(journal) as of:
        quote = await of.quote(ask("compare/council", max_tokens=1000))
    less = quote.full.amount.money_nanousd * 9 // 10
    return ask("compare/council", max_tokens=1000, max_cost_usd=f"{less / 10**9:.9f}")


async def interrupt(of: EnhancedOrchestrator, request: RequestConfig, *, after: int) -> str:
    """Leave a run after so many answers; its id."""
    run_id, answers = "", 0
    async with of, aclosing(of.stream_request(request)) as events:
        async for event in events:
            run_id = event.run_id if isinstance(event, RunStarted) else run_id
            answers += isinstance(event, AttemptFinished)
            if answers == after:
                break
    return run_id


async def resume(of: EnhancedOrchestrator, run_id: str) -> OrchestratorResponse:
    async with aclosing(of.resume_request(run_id)) as events:
        heard = [event async for event in events]
    assert isinstance(heard[-1], RunFinished)
    return heard[-1].response


def calls(of: EnhancedOrchestrator) -> dict[str, int]:
    made = {}
    for name in NAMES:
        adapter = of._deployments[name].adapter
        assert isinstance(adapter, MockAdapter)
        made[name] = len(adapter.requests)
    return made


async def test_who_had_answered_for_a_route_is_asked_first(journal: Journal) -> None:
    """The fallback was paid; now that the first is up again it is not asked all the same."""
    down = {"gpt": [ProviderUnavailable("down")]}
    run_id = await interrupt(
        engine(journal, is_stuck=True, scripts=down), ask("compare/two"), after=1
    )
    async with engine(journal) as of:
        response = await resume(of, run_id)
        made = calls(of)

    assert made == {"gpt": 0, "claude": 1, "gemini": 1}
    assert response.model_responses["fast"].deployment == "claude"


async def test_what_gave_way_to_the_budget_is_said_again(journal: Journal) -> None:
    """A run that goes on is no more whole than it was."""
    run_id = await interrupt(engine(journal), await too_dear(journal), after=1)
    async with engine(journal) as of:
        response = await resume(of, run_id)

    assert response.receipt.shrunk == ("not asked: gemini",)
    assert response.status == "degraded"
    assert set(response.model_responses) == {"gpt", "claude"}


async def test_what_was_paid_before_counts_to_the_budget_now(journal: Journal) -> None:
    """A ledger in memory has forgotten it; the journal has not."""
    request = ask("compare/council", max_calls=4)
    run_id = await interrupt(engine(journal, is_stuck=True), request, after=2)
    failing = {"gemini": [ProviderUnavailable("down")]}
    async with engine(journal, scripts=failing, retry={"attempts": 5}) as of:
        response = await resume(of, run_id)
        made = calls(of)

    assert sum(made.values()) == 2
    assert response.receipt.calls == 4
    assert response.status == "degraded"


async def test_another_configuration_is_said(journal: Journal) -> None:
    """It goes on all the same, with the answers there are."""
    run_id = await interrupt(engine(journal, is_stuck=True), ask("compare/council"), after=2)
    async with engine(journal, retry={"attempts": 1}) as of:
        response = await resume(of, run_id)

    assert "resumed with another configuration than it began with" in response.receipt.notes
    assert response.receipt.calls == 4


async def test_whoever_is_gone_is_named_and_the_journal_let_go(journal: Journal) -> None:
    """A plan cannot be followed with others; under its old configuration the run still can."""
    run_id = await interrupt(engine(journal), await too_dear(journal), after=1)
    others = {"council": {"members": ["claude", "gemini"], "synthesizer": "claude"}}
    async with engine(journal, panels=others) as of:
        with pytest.raises(InvalidRun, match="'gpt' was to be asked"):
            await resume(of, run_id)
    async with engine(journal) as of:
        response = await resume(of, run_id)

    assert response.content == "claude answers"
