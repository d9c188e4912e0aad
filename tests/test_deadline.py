"""A run ends by its deadline, whatever stalls, drips, fails or asks to wait."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from random import Random

from adapters import LLMProvider, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import BreakerConfig, PanelConfig, RouteConfig
from orchestrator.ledger import Ledger
from orchestrator.simulator import Simulator
from tests.routed import BUDGETS, amiss_at_rest, deployment, hear, lag_watched

ALLOWED_S, NEVER_S = 0.05, 0.25
AT_ONCE = 4
MODELS = {
    "sound": (LLMProvider.OPENAI, ()),
    "slow": (LLMProvider.ANTHROPIC, ("1s",)),
    "silent": (LLMProvider.ANTHROPIC, ("stall0",)),
    "stalls": (LLMProvider.OPENAI, ("stallmid",)),
    "drips": (LLMProvider.CUSTOM, ("drip", "gap50ms")),
    "pings": (LLMProvider.MISTRAL, ("pingdrip",)),
    "waits": (LLMProvider.OPENAI, ("e429-float",)),
    "waits-long": (LLMProvider.GOOGLE, ("e429-huge",)),
    "fails": (LLMProvider.COHERE, ("e503",)),
    "cut": (LLMProvider.OPENAI, ("cutmid",)),
}
ROUTES = {
    "chain": ("fails", "silent", "slow"),
    "told": ("cut", "stalls", "slow"),
    "waiting": ("waits", "waits-long", "fails"),
}
UNFINISHED = ("stallmid", "drip", "cutmid")
PANELS = {
    "some": ("sound", "silent", "drips"),
    "none": ("silent", "stalls", "waiting"),
    "late": ("slow", "chain", "fails"),
}
ASKED = [*MODELS, *ROUTES, *(f"{p}/{name}" for p in ("compare", "critique") for name in PANELS)]


def configured(simulator: Simulator) -> OrchestratorConfig:
    models: dict[str, ModelConfig] = {
        name: deployment(simulator, provider, *directives)
        for name, (provider, directives) in MODELS.items()
    }
    return OrchestratorConfig(
        models=models,
        routes={name: RouteConfig(models=models) for name, models in ROUTES.items()},
        panels={
            name: PanelConfig(members=members, synthesizer="sound", grace_s=0.2)
            for name, members in PANELS.items()
        },
        breaker=BreakerConfig(failures=10**6, ratio=1, calls=10**6),  # all are to be called
        budgets=BUDGETS,
    )


@dataclass(frozen=True)
class Ended:
    """One run: what was asked, how long it might take, when it ended and as what."""

    model: str
    streamed: bool
    time_s: float
    began_s: float
    ended_s: float
    came: str

    @property
    def due_s(self) -> float:
        return self.began_s + self.time_s

    @property
    def late_s(self) -> float:
        return self.ended_s - self.due_s


async def ask(engine: EnhancedOrchestrator, rng: Random) -> Ended:
    model, streamed = rng.choice(ASKED), rng.random() < 0.5
    time_s = rng.uniform(0.05, 1.5)
    request = RequestConfig(prompt="Which river is longest?", model=model, time_s=time_s)
    began_s = time.monotonic()
    heard = await hear(engine, request, streamed=streamed)
    ended_s = time.monotonic()
    came = type(heard.error).__name__ if heard.error else "an answer"
    return Ended(model, streamed, time_s, began_s, ended_s, came)


async def test_a_run_ends_by_its_deadline(thorough: bool) -> None:
    """Within 50 ms of it, but for what the loop was late; and nothing is held when all is over."""
    count, rng, ledger = (1_000 if thorough else 100), Random(1), Ledger()
    left, ended = count, list[Ended]()

    async def one_after_another() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            ended.append(await ask(engine, rng))

    async with (
        Simulator() as simulator,
        ledger,
        EnhancedOrchestrator(configured(simulator), ledger=ledger) as engine,
    ):
        for name in MODELS:  # what is loaded for the first call of a provider is not late
            request = RequestConfig(prompt="?", model=name, time_s=0.3)
            await hear(engine, request, streamed=True)
        async with lag_watched() as lag:
            await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
        at_rest = await amiss_at_rest(engine, simulator, ledger, unfinished=UNFINISHED)

    late = sorted(one.late_s for one in ended)
    own = {one: one.late_s - lag.between(one.due_s - ALLOWED_S, one.ended_s) for one in ended}
    too_late = [one for one in ended if own[one] > ALLOWED_S]
    print(f"{count} runs: {dict(Counter(one.came for one in ended))}")
    print(f"late: median {late[count // 2] * 1000:.1f} ms, last {late[-1] * 1000:.1f} ms;", end=" ")
    print(
        f"{sum(one > ALLOWED_S for one in late)} of them more than {ALLOWED_S * 1000:.0f} ms,",
        end=" ",
    )
    print(f"{len(too_late)} without what the loop was late")
    assert len(too_late) <= count / 1000, too_late
    assert max(own.values()) <= NEVER_S
    assert at_rest == []
