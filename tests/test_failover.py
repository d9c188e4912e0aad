"""One of three deployments is broken, in any way there is: hardly any request notices."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from adapters import LLMProvider
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import RouteConfig, TimeoutsConfig
from orchestrator.ledger import Ledger
from orchestrator.simulator import FAULTS, Simulator
from tests.routed import BUDGETS, Heard, amiss_at_rest, deployment, hear, lag_watched
from tests.test_engine_faults import UNREACHABLE, Case, faulty, small_limits

BROKEN = LLMProvider.ANTHROPIC  # the wire format that can have every one of them
SOUND = (LLMProvider.OPENAI, LLMProvider.COHERE)
PLAIN_STALL_S, FIRST_CONTENT_S, CONNECT_S = 1.4, 1.0, 0.5
HASTY = TimeoutsConfig(
    connect_s=CONNECT_S, first_content_s=FIRST_CONTENT_S, gap_s=30, total_s=PLAIN_STALL_S
)
PATIENT = TimeoutsConfig(connect_s=CONNECT_S, first_content_s=60, gap_s=60, total_s=60)
WAYS = (
    *UNREACHABLE,
    *("cut0", "cuthalfhead", "cuthead", "stall0", "stallhead"),
    *("empty", "nochoices", "nullcontent", "blank"),
    *("errfirst", "hugeline", "html200", "arrayjson", "errin200"),
    *(name for name in FAULTS if name.startswith(("e429", "e50", "e529"))),
    *("e401", "e403", "echo401", "e404", "redir3"),
)
STREAMS_ONLY = {"errfirst", "hugeline"}
AT_ONCE = 4
LATE_S, LATE_ON_A_BUSY_MACHINE_S = 0.05, 5.0  # in the large count, and in every run


def limit_s(fault: str, *, streamed: bool) -> float:
    """The limit of time that ends an attempt with this fault; 0 where the fault itself does."""
    if fault == "hangs":
        return CONNECT_S
    if fault in ("stall0", "stallhead"):
        return FIRST_CONTENT_S if streamed else PLAIN_STALL_S
    return 0.0


@dataclass(frozen=True)
class Round:
    """A request, whether it was streamed, and what it came to."""

    streamed: bool
    heard: Heard
    lag_s: float  # what the loop lost meanwhile

    @property
    def added_s(self) -> float:
        """What it took beyond the call that answered, and what the loop lost."""
        assert self.heard.response is not None
        receipt = self.heard.response.receipt
        return receipt.elapsed_s - receipt.stages[0].attempts[-1].elapsed_s - self.lag_s


async def rounds(fault: str, count: int) -> tuple[list[Round], list[str]]:
    """So many requests to three deployments in changing order, and what is wrong at rest."""
    ledger = Ledger()
    async with Simulator() as simulator, AsyncExitStack() as stack:
        stack.enter_context(small_limits(fault))
        broken = await stack.enter_async_context(faulty(simulator, Case(fault, BROKEN, "plain")))
        models = {f"sound-{provider}": deployment(simulator, provider) for provider in SOUND}
        config = OrchestratorConfig(
            models={"broken": broken, **models},
            routes={"route": RouteConfig(models=("broken", *models), strategy="weighted")},
            timeouts=HASTY if limit_s(fault, streamed=True) else PATIENT,
            budgets=BUDGETS,
        )
        async with ledger, EnhancedOrchestrator(config, ledger=ledger) as engine:
            for name in models:  # the first calls of a process take longer
                await hear(engine, RequestConfig(prompt="?", model=name), streamed=True)
            kinds = [fault in STREAMS_ONLY or number % 2 == 1 for number in range(count)]
            heard = await some_at_once(engine, kinds)
            return heard, await amiss_at_rest(engine, simulator, ledger, unfinished=(fault,))


async def some_at_once(engine: EnhancedOrchestrator, kinds: Sequence[bool]) -> list[Round]:
    async def one(number: int) -> Round:
        request = RequestConfig(prompt="Which river is longest?", model="route", seed=number)
        streamed, began_s = kinds[number], time.monotonic()
        heard = await hear(engine, request, streamed=streamed)
        return Round(streamed, heard, lag.between(began_s, time.monotonic()))

    found: list[Round] = []
    async with lag_watched() as lag:
        for start in range(0, len(kinds), AT_ONCE):
            group = range(start, min(start + AT_ONCE, len(kinds)))
            found += await asyncio.gather(*(one(number) for number in group))
    return found


@pytest.mark.parametrize("fault", WAYS)
async def test_any_one_of_three_may_be_broken(fault: str, thorough: bool) -> None:
    """At least 99.9 % are answered, no later than the limit that ended the broken attempt says."""
    count = 1_000 if thorough else 12

    found, at_rest = await rounds(fault, count)

    answered = [one for one in found if one.heard.response is not None]
    failures = [str(one.heard.error) for one in found if one.heard.error is not None]
    allowed_s = LATE_S if thorough else LATE_ON_A_BUSY_MACHINE_S
    late = [
        one for one in answered if one.added_s > limit_s(fault, streamed=one.streamed) + allowed_s
    ]
    tried = sum(len(one.heard.attempts("route")) > 1 for one in answered)
    print(f"{fault}: {len(answered)} of {count}, {tried} after a failure, {len(late)} late")
    assert len(answered) >= 0.999 * count, failures
    assert all(one.heard.response.status == "complete" for one in answered if one.heard.response)
    assert tried
    assert len(late) <= 0.001 * count
    assert at_rest == []
