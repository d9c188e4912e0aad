"""How many calls an outage makes of a request, and what comes back when it is over.

Retries and fallbacks help where one call fails, and harm where all do: a provider that is down gets
more of them than of anything else. Breakers and budgets of further tries keep them few.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from adapters import BaseAdapter, CompletionRequest, MockAdapter, ProviderError, ProviderUnavailable
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.attempts import FALLBACK_BURSTS
from orchestrator.clock import FakeClock
from orchestrator.config import BreakerConfig, RetryConfig
from orchestrator.errors import OrchestratorError

CHAIN = ("first", "second", "third")
AT_ONCE = 20
RETRY = RetryConfig()
BURSTS = RETRY.burst * (len(CHAIN) + FALLBACK_BURSTS)  # what is allowed once, before any share
NEVER = BreakerConfig(failures=10**9, ratio=1, calls=10**9)


@pytest.fixture
def count(thorough: bool) -> int:
    """How many requests to make."""
    return 10_000 if thorough else 1_000


@dataclass
class Providers:
    """Three deployments, and whether a call to one of them fails."""

    clock: FakeClock = field(default_factory=FakeClock)
    fails: Callable[[str], bool] = lambda name: True
    calls: int = 0

    def adapters(self) -> dict[str, BaseAdapter]:
        return {name: MockAdapter(self._script(name), deployment=name) for name in CHAIN}

    def _script(self, name: str) -> Callable[[CompletionRequest], Reply]:
        def reply(request: CompletionRequest) -> Reply:
            self.calls += 1
            return (
                Reply(error=ProviderUnavailable("down")) if self.fails(name) else Reply(text=name)
            )

        return reply

    def engine(self, breaker: BreakerConfig | None = None) -> EnhancedOrchestrator:
        config = OrchestratorConfig.model_validate(
            {
                "models": {name: {"provider": "openai", "model": name} for name in CHAIN},
                "routes": {"chain": {"models": list(CHAIN)}},
                "breaker": breaker or BreakerConfig(),
            }
        )
        return EnhancedOrchestrator(config, adapters=self.adapters(), clock=self.clock)

    async def ask(self, engine: EnhancedOrchestrator, model: str) -> bool:
        """One request; whether it came to an answer."""
        try:
            await engine.execute_request(RequestConfig(prompt="?", model=model))
        except (ProviderError, OrchestratorError):
            return False
        return True

    async def crowd(self, engine: EnhancedOrchestrator, model: str, count: int) -> int:
        """Many requests, some at once, ten such groups a second; how many came to an answer."""
        answered = 0
        for start in range(0, count, AT_ONCE):
            group = range(start, min(start + AT_ONCE, count))
            answered += sum(await asyncio.gather(*(self.ask(engine, model) for _ in group)))
            self.clock.advance(0.1)
        return answered


async def test_an_outage_is_left_alone(count: int) -> None:
    """Once the breakers are open, hardly any request makes a call."""
    providers = Providers()
    async with providers.engine() as engine:
        answered = await providers.crowd(engine, "chain", count)

    print(f"{providers.calls / count:.3f} calls a request, breakers on, chain of three")
    assert answered == 0
    assert providers.calls <= 0.1 * count


async def test_without_breakers_one_deployment_is_hardly_asked_again(count: int) -> None:
    """A tenth more, however many attempts a call may have."""
    providers = Providers()
    async with providers.engine(NEVER) as engine:
        await providers.crowd(engine, "first", count)

    print(f"{providers.calls / count:.3f} calls a request, breakers off, one deployment")
    assert count <= providers.calls <= 1.1 * count + RETRY.burst


async def test_without_breakers_a_chain_is_not_asked_to_its_end(count: int) -> None:
    """Fallbacks have a budget as well; each tried by everybody, they would make it three calls."""
    providers = Providers()
    async with providers.engine(NEVER) as engine:
        await providers.crowd(engine, "chain", count)

    print(f"{providers.calls / count:.3f} calls a request, breakers off, chain of three")
    # A fifth falls back, and a tenth of all first attempts is tried again: 1.35 with the bursts.
    assert 1.2 * count <= providers.calls <= 1.32 * count + BURSTS


@pytest.mark.parametrize("model", ["first", "chain"])
async def test_a_fault_a_minute_is_not_noticed(model: str, count: int) -> None:
    """Budgets that hold an outage down leave enough for what fails now and then."""
    rng, clock = Random(1), FakeClock()
    failing: set[int] = set()

    def fails(name: str) -> bool:
        """The first call of each minute does, or one after it."""
        minute = int(clock.monotonic() // 60)
        if minute in failing or rng.random() < 0.5:
            return False
        failing.add(minute)
        return True

    providers = Providers(clock, fails)
    answered = 0
    async with providers.engine() as engine:
        for _ in range(count):
            answered += await providers.ask(engine, model)
            clock.advance(5)

    print(f"{answered / count:.2%} answered with {len(failing)} faults, {model}")
    assert len(failing) > count / 15
    assert answered >= 0.99 * count


async def test_what_was_left_alone_is_asked_again_when_it_is_back() -> None:
    """The breakers find out by one call each, and then everybody is served."""
    is_down = True
    providers = Providers(fails=lambda name: is_down)
    async with providers.engine() as engine:
        await providers.crowd(engine, "chain", 500)
        is_down = False
        waits = [state.probe_in_s for state in engine.breakers().values()]
        providers.clock.advance(max(wait for wait in waits if wait is not None))
        answered = await providers.crowd(engine, "chain", 500)

    assert all(wait is not None and wait <= 300 for wait in waits)
    assert answered == 500
