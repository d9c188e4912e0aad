"""Engines on the simulator with something wrong about a deployment, and a sound one behind it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from adapters import LLMProvider, ModelConfig, ProviderError
from adapters.config import PriceConfig
from orchestrator import EnhancedOrchestrator, RequestConfig
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.config import BudgetsConfig, WindowConfig
from orchestrator.errors import OrchestratorError
from orchestrator.events import Event, RunFinished, TextDelta, TextReset
from orchestrator.ledger import Ledger
from orchestrator.responses import AttemptRecord, OrchestratorResponse
from orchestrator.simulator import SIMULATED_KEY, Simulator

MODELS = {
    LLMProvider.OPENAI: "gpt-4.1-mini",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: "command-a-03-2025",
    LLMProvider.MISTRAL: "mistral-small-latest",
    LLMProvider.CUSTOM: "qwen3",
}
PROVIDERS = tuple(LLMProvider)
TICK_S = 0.005
PRICE = PriceConfig(input_usd=Decimal("0.50"), output_usd=Decimal(2))
DAY = Scope(kind="global", every="day", caps=Caps(money_nanousd=10**12))
BUDGETS = BudgetsConfig(
    windows=(WindowConfig(scope="global", every="day", money_usd=Decimal(1000)),)
)


def another(provider: LLMProvider) -> LLMProvider:
    """A provider of another wire format."""
    return PROVIDERS[(PROVIDERS.index(provider) + 1) % 5]


def deployment(
    simulator: Simulator, provider: LLMProvider, *directives: str, **about: object
) -> ModelConfig:
    """A deployment that the simulator treats as the directives say."""
    given: dict[str, object] = {
        "provider": provider,
        "model": MODELS[provider],
        "api_key": SIMULATED_KEY,
        "api_base": simulator.base_url(provider, *directives),
        "price": PRICE,
    }
    return ModelConfig.model_validate(given | about)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What somebody who asked has got: events of a stream, a response or an error."""

    events: tuple[Event, ...] = ()
    response: OrchestratorResponse | None = None
    error: Exception | None = None

    @property
    def shown(self) -> list[str]:
        """The text after each piece of it that was shown."""
        text, stood = "", [""]
        for event in self.events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, TextReset):
                text = ""
            else:
                continue
            stood.append(text)
        return stood

    def attempts(self, member: str, stage: str | None = None) -> list[AttemptRecord]:
        """What a member was asked in a stage, or in any."""
        assert self.response is not None, "who has failed has no receipt here"
        return [
            made
            for one in self.response.receipt.stages
            if stage in (None, one.name)
            for made in one.attempts
            if made.member == member
        ]


async def hear(engine: EnhancedOrchestrator, request: RequestConfig, *, streamed: bool) -> Heard:
    """Ask, plainly or streamed, and keep what comes."""
    events: list[Event] = []
    try:
        if not streamed:
            return Heard(response=await engine.execute_request(request))
        async with aclosing(engine.stream_request(request)) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - up to the error
    except (ProviderError, OrchestratorError) as error:
        return Heard(events=tuple(events), error=error)
    last = events[-1]
    assert isinstance(last, RunFinished)
    return Heard(events=tuple(events), response=last.response)


async def amiss_at_rest(
    engine: EnhancedOrchestrator,
    simulator: Simulator,
    ledger: Ledger,
    *,
    unfinished: Collection[str] = (),
) -> list[str]:
    """What was not given back when everything is over, and which answers were not paid for.

    How much of an answer with an `unfinished` fault there was, only its provider knows.
    """
    await simulator.settled()
    await ledger.drain()
    (standing,) = await ledger.standing([DAY])
    found = [] if standing.held == Amount() else [f"held: {standing.held}"]
    for name, one in engine._deployments.items():
        if one.pace.in_flight:
            found.append(f"{name} has {one.pace.in_flight} places taken")
        if one.breaker._probe is not None:
            found.append(f"{name} has a probe under way")
    due: Counter[str] = Counter()
    for record in simulator.requests:
        if not {*record.faults} & {*unfinished}:
            due[record.model] += record.billed_prompt_tokens + record.billed_completion_tokens
    posted = {row.name: row.usage.total_tokens for row in await ledger.usage("model")}
    for model, tokens in due.items():
        if posted.get(model, 0) < tokens:
            found.append(f"{model} is due {tokens} tokens, and posted are {posted.get(model)}")
    return found


@dataclass
class Lag:
    """How late the loop is at whatever it does: a busy machine's fault and nobody else's."""

    ticks: list[tuple[float, float]] = field(default_factory=list)  # when it was, how late

    async def watch(self) -> None:
        while True:
            due_s = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self.ticks.append((now_s, now_s - due_s))

    def between(self, start_s: float, end_s: float) -> float:
        """All that was lost by what was due, or done, between two times."""
        return sum(late for at_s, late in self.ticks if at_s >= start_s and at_s - late <= end_s)


@asynccontextmanager
async def lag_watched() -> AsyncIterator[Lag]:
    """How late the loop is while the block lasts."""
    lag = Lag()
    task = asyncio.create_task(lag.watch())
    try:
        yield lag
    finally:
        task.cancel()
