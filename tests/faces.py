"""Configurations and clients over a simulator, for the tests of the ways in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adapters import ModelConfig
from orchestrator import OrchestratorConfig
from orchestrator.blocking import LoopThread
from orchestrator.config import BreakerConfig, PanelConfig, RetryConfig, RouteConfig, TimeoutsConfig
from orchestrator.simulator import Simulator, simulated

HELLO: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKS_TOOL: list[Any] = [{"role": "user", "content": "Use weather: how is it in Paris?"}]


def configured(
    simulator: Simulator, faults: dict[str, Sequence[str]] | None = None, **settings: Any
) -> OrchestratorConfig:
    """Three deployments, a route and a panel, all of them simulated; nothing is tried again."""
    config = OrchestratorConfig(
        models={
            "alpha": ModelConfig(provider="openai", model="gpt-5-mini"),  # type: ignore[arg-type]
            "beta": ModelConfig(provider="anthropic", model="claude-haiku-4-5"),  # type: ignore[arg-type]
            "gamma": ModelConfig(provider="google", model="gemini-2.5-flash"),  # type: ignore[arg-type]
        },
        routes={"way": RouteConfig(models=("alpha", "beta"))},
        panels={
            "all": PanelConfig(
                members=("alpha", "beta", "gamma"), synthesizer="alpha", quorum=3, pattern="council"
            )
        },
        **{
            "timeouts": TimeoutsConfig(),
            "breaker": BreakerConfig(failures=1000, calls=1000),
            "retry": RetryConfig(attempts=1),
            **settings,
        },
    )
    return simulated(config, simulator, directives=faults)


@contextmanager
def simulated_elsewhere() -> Iterator[Simulator]:
    """A simulator in a thread of its own, for those who wait for it."""
    thread, simulator = LoopThread(), Simulator()
    thread.run(simulator.start())
    try:
        yield simulator
    finally:
        thread.run(simulator.aclose())
        thread.stop()
