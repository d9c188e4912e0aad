"""A run never comes to more than was quoted for it, and never to more than its budget."""

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from itertools import product
from random import Random
from typing import Any

from adapters import ProviderError, Usage
from adapters.prices import price_of
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import NANO, Amount
from orchestrator.budget import QUOTED
from orchestrator.errors import BudgetExceeded, NoDeploymentLeft, QuorumNotMet
from orchestrator.events import RunFailed, RunFinished
from orchestrator.patterns import PatternLibrary
from orchestrator.responses import Receipt
from orchestrator.simulator import Simulator, simulated

# Every wire format, at the prices of the list.
MEMBERS = {
    "alpha": ("openai", "gpt-5-mini"),
    "beta": ("anthropic", "claude-haiku-4-5"),
    "gamma": ("google", "gemini-2.5-flash"),
    "delta": ("cohere", "command-a-03-2025"),
    "epsilon": ("mistral", "mistral-small-latest"),
}
PANELS = {"all": tuple(MEMBERS), "pair": ("beta", "delta"), "trio": ("alpha", "gamma", "epsilon")}
PROMPTS = {
    "short": "Is a tomato a fruit?",
    "long": "Should a team of three run Kubernetes? Think of costs, people and time. " * 140,
    "Chinese": "番茄是水果还是蔬菜？请说明理由，并举出三个例子。" * 60,
    "code": "def f(x):\n    return {'a': [x**2, ~x], \"b\": lambda y: y != x}\n" * 30,
    "odd": "\u200b\u202e𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🧑‍🚀👩🏽‍💻 zażółć gęślą jaźń ﷽ ßẞ ½ ﬁ" * 9,
}
FAULTS = ("cutmid", "e500", "e429", "empty", "refuse", "inject", "length", "filter", "flap2")
TARGETS = [*(f"{name}/{panel}" for name in PatternLibrary() for panel in PANELS), "alpha", "any"]


def configured(
    simulator: Simulator, faults: Mapping[str, tuple[str, ...]] | None = None
) -> OrchestratorConfig:
    settings = OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": provider, "model": model}
                for name, (provider, model) in MEMBERS.items()
            },
            "routes": {"any": {"models": ["delta", "alpha"], "fallback": ["beta"]}},
            "panels": {
                name: {"members": list(members), "fallback_synthesizers": list(members[1:])}
                for name, members in PANELS.items()
            },
            "retry": {"base_s": 0.001, "cap_s": 0.002},
            "timeouts": {"first_content_s": 60, "gap_s": 60, "run_s": 600},
        }
    )
    return simulated(settings, simulator, directives=faults)


def cases(purpose: str, count: int, *, thorough: bool) -> Iterator[tuple[Random, RequestConfig]]:
    """Targets and prompts, all of them or a part that is drawn, each with limits of its own."""
    rng = Random(purpose)
    every = list(product(TARGETS, PROMPTS.values()))
    rng.shuffle(every)
    for target, prompt in every if thorough else every[:count]:
        about: dict[str, Any] = {
            "prompt": prompt,
            "model": target,
            "max_tokens": rng.choice((64, 200, 200, 1000, None)),
            "system": rng.choice((None, "Answer in one sentence.")),
            "seed": rng.randrange(1000),
        }
        if rng.random() < 0.2:
            about["response_format"] = {"type": "json_object"}
        yield rng, RequestConfig.model_validate(about)


async def receipt_of(of: EnhancedOrchestrator, request: RequestConfig) -> Receipt:
    """What a run came to, whether or not there was an answer."""
    found: Receipt | None = None
    async with aclosing(of.stream_request(request)) as events:
        try:
            async for event in events:
                if isinstance(event, RunFinished):
                    found = event.response.receipt
                elif isinstance(event, RunFailed):
                    found = event.receipt
        except (ProviderError, NoDeploymentLeft, QuorumNotMet, BudgetExceeded):
            assert found is not None
    assert found is not None
    return found


def used(receipt: Receipt) -> Amount:
    return Amount(
        money_nanousd=receipt.cost_nanousd,
        tokens=receipt.usage.total_tokens,
        calls=receipt.calls,
    )


def over(amount: Amount, limit: Amount) -> list[str]:
    return [name for name in QUOTED if getattr(amount, name) > getattr(limit, name)]


async def test_without_faults_a_run_stays_within_its_quote(
    simulator: Simulator, thorough: bool
) -> None:
    """Money, tokens and calls, for every pattern, at most what is quoted in full."""
    closest, runs = 0.0, 0
    async with EnhancedOrchestrator(configured(simulator)) as engine:
        for _, request in cases("full", 16, thorough=thorough):
            quote = await engine.quote(request)
            receipt = await receipt_of(engine, request)

            assert not quote.unknown_prices
            assert not receipt.unpriced
            amount = used(receipt)
            assert amount.calls > 0
            assert not over(amount, quote.full.amount), (request, amount, quote.full.amount)
            closest = max(closest, amount.money_nanousd / quote.full.amount.money_nanousd)
            runs += 1
    print(f"{runs} runs, at most {closest:.0%} of their quotes")


async def test_with_faults_a_run_stays_within_the_worst_case(
    simulator: Simulator, thorough: bool
) -> None:
    """Retries, fallbacks, continuations and all: at most what is quoted as the worst case."""
    closest, runs, retried = 0.0, 0, 0
    for rng, request in cases("worst", 10, thorough=thorough):
        broken = rng.sample(sorted(MEMBERS), rng.randint(1, 3))
        faults = {name: (rng.choice(FAULTS),) for name in broken}
        async with EnhancedOrchestrator(configured(simulator, faults)) as engine:
            quote = await engine.quote(request)
            receipt = await receipt_of(engine, request)

        amount = used(receipt)
        assert not over(amount, quote.worst.amount), (request, faults, amount, quote.worst)
        closest = max(closest, amount.money_nanousd / quote.worst.amount.money_nanousd)
        runs += 1
        retried += any(
            made.status == "failed" for stage in receipt.stages for made in stage.attempts
        )
    assert retried > runs // 3
    print(f"{runs} runs, {retried} with failed calls, at most {closest:.0%} of the worst case")


async def test_a_run_never_costs_more_than_it_may(simulator: Simulator, thorough: bool) -> None:
    """To the nano-dollar, by our count and by the provider's, with faults or without."""
    answered = refused = 0
    for rng, request in cases("cap", 12, thorough=thorough):
        faults = {name: (rng.choice(FAULTS),) for name in MEMBERS if rng.random() < 0.2}
        config = configured(simulator, faults)
        async with EnhancedOrchestrator(config) as engine:
            full = (await engine.quote(request)).full.amount.money_nanousd
            cap = round(full * rng.choice((0.02, 0.1, 0.3, 0.6, 0.9, 1.1)))
            tokens = rng.choice((None, 10**5))
            limits = {"max_cost_usd": Decimal(cap) / NANO, "max_run_tokens": tokens}
            before = bills(simulator, config)
            receipt = await receipt_of(engine, request.model_copy(update=limits))
        await simulator.settled()

        due = sum(bills(simulator, config).values()) - sum(before.values())
        assert receipt.cost_nanousd <= cap, (request, faults, receipt)
        assert due - receipt.calls <= cap, (request, faults, due, cap)
        assert receipt.usage.total_tokens <= (tokens or 10**9)
        answered += receipt.status != "failed"
        refused += receipt.error == "BudgetExceeded"
    assert answered > 5
    assert refused > 1
    print(f"{answered} answered, {refused} refused")


def bills(simulator: Simulator, config: OrchestratorConfig) -> dict[str, int]:
    """What every model has come to by the provider's count, at its price."""
    found: dict[str, int] = {}
    for model in config.models.values():
        price, tally = price_of(model), simulator.tally(model.model)
        assert price is not None
        usage = Usage(prompt_tokens=tally.prompt_tokens, completion_tokens=tally.completion_tokens)
        found[model.model] = price.cost_nanousd(usage)
    return found
