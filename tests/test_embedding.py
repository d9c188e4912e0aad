"""The engine asked for embeddings: under the guards of every call, and of one model only."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from adapters import (
    BaseAdapter,
    EmbeddingRequest,
    Embeddings,
    Limits,
    MockAdapter,
    ProviderUnavailable,
    RateLimited,
)
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount
from orchestrator.clock import FakeClock
from orchestrator.errors import (
    BreakerOpen,
    BudgetExceeded,
    DeadlineExceeded,
    InvalidRun,
    NoDeploymentLeft,
    OrchestratorError,
    UnknownModel,
    UnknownPrice,
)
from orchestrator.ledger import Ledger
from tests.books import pending, read_accounts

WHAT = EmbeddingRequest(inputs=("a tree", "a house"))  # four words, which the mock calls tokens
PRICE = {"input_usd": "0.01", "output_usd": "0.10"}  # ten nano-dollars a token that is embedded
DAY = {"scope": "global", "every": "day", "money_usd": 1}


def config(**about: Any) -> OrchestratorConfig:
    """Two deployments of one model, one of another, and the ways to them."""
    embedder = {"provider": "openai", "model": "embed-1", "price": PRICE}
    return OrchestratorConfig.model_validate(
        {
            "models": {
                "one": embedder,
                "two": {**embedder, "provider": "custom", "api_base": "http://two.invalid/v1"},
                "other": {**embedder, "model": "embed-2"},
            },
            "routes": {
                "same": {"models": ["one"], "fallback": ["two"]},
                "mixed": {"models": ["one"], "fallback": ["other"]},
            },
            "panels": {"all": {"members": ["one", "two"]}},
            "retry": {"attempts": 2, "base_s": 0.001, "cap_s": 0.001},
            **about,
        }
    )


def engine(
    adapters: Mapping[str, BaseAdapter], settings: OrchestratorConfig | None = None, **about: Any
) -> EnhancedOrchestrator:
    clock = about.pop("clock", None) or FakeClock()
    return EnhancedOrchestrator(settings or config(), adapters=adapters, clock=clock, **about)


class Waiting(MockAdapter):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__()
        self._began = asyncio.Event()

    async def has_begun(self) -> None:
        async with asyncio.timeout(60):
            await self._began.wait()

    async def embed(self, request: EmbeddingRequest, *, limits: Limits = Limits()) -> Embeddings:
        self._began.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_deployment_embeds_and_the_receipt_says_so() -> None:
    """The vectors, and beside them who gave them for how much."""
    async with engine({"one": MockAdapter()}) as orchestrator:
        found = await orchestrator.embed(WHAT, RequestConfig(model="one", tags=("index",)))

    assert len(found.vectors) == 2
    assert found.model == "mock"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 0)
    assert (found.cost_nanousd, found.status) == (40, "complete")
    receipt = found.receipt
    assert (receipt.model, receipt.calls, receipt.tags) == ("one", 1, ("index",))
    assert receipt.prompt == "(2 inputs to embed)"
    (stage,) = receipt.stages
    (attempt,) = stage.attempts
    assert (stage.name, stage.status) == ("embed", "ok")
    assert (attempt.deployment, attempt.status, attempt.usable) == ("one", "ok", True)


async def test_an_attempt_that_fails_is_made_again() -> None:
    """By the rules of all calls, and the failed one stands in the receipt."""
    adapter = MockAdapter([ProviderUnavailable("away"), "words"])
    async with engine({"one": adapter}) as orchestrator:
        found = await orchestrator.embed(WHAT, RequestConfig(model="one"))

    assert [made.status for made in found.receipt.stages[0].attempts] == ["failed", "ok"]
    assert len(adapter.embedded) == 2


async def test_a_deployment_of_the_same_model_stands_in() -> None:
    """Two hosts of one model give the same vectors."""
    first = MockAdapter([RateLimited("slow down", retry_after_s=3600)])
    async with engine({"one": first, "two": MockAdapter()}) as orchestrator:
        found = await orchestrator.embed(WHAT, RequestConfig(model="same"))

    (stage,) = found.receipt.stages
    assert [made.deployment for made in stage.attempts] == ["one", "two"]


async def test_where_all_fail_each_is_named() -> None:
    """As of any route."""
    away = ProviderUnavailable("away")
    adapters = {"one": MockAdapter([away]), "two": MockAdapter([away])}
    async with engine(adapters) as orchestrator:
        with pytest.raises(NoDeploymentLeft, match=r"one: ProviderUnavailable.*two: Prov"):
            await orchestrator.embed(WHAT, RequestConfig(model="same"))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (RequestConfig(model="mixed"), "leads to 2 models, 'embed-1', 'embed-2', whose vectors do"),
        (RequestConfig(model="all"), "'all' asks several models, whose vectors do not mix"),
        (RequestConfig(model="one", prompt="Hi"), "'prompt' is of answers, and this asks for"),
        (RequestConfig(model="one", max_tokens=5), "'max_tokens' is of answers"),
    ],
)
async def test_what_would_mix_vectors_or_is_no_question_of_them_is_refused(
    request_: RequestConfig, why: str
) -> None:
    """Before anybody is asked."""
    adapters = {name: MockAdapter() for name in ("one", "two", "other")}
    async with engine(adapters) as orchestrator:
        with pytest.raises(InvalidRun, match=why):
            await orchestrator.embed(WHAT, request_)

    assert not any(adapter.embedded for adapter in adapters.values())


async def test_nothing_is_no_input() -> None:
    """An empty list asks for nothing; an unknown name for nobody."""
    async with engine({"one": MockAdapter()}) as orchestrator:
        with pytest.raises(InvalidRun, match="nothing to embed"):
            await orchestrator.embed(EmbeddingRequest(inputs=()), RequestConfig(model="one"))
        with pytest.raises(UnknownModel, match="did you mean 'one'"):
            await orchestrator.embed(WHAT, RequestConfig(model="onne"))


async def test_what_is_reserved_is_settled_by_what_was_used() -> None:
    """In every budget that the call counts in, and nothing stays held."""
    ledger = Ledger()
    await ledger.open()
    settings = config(budgets={"windows": [DAY, {**DAY, "scope": "key"}]})
    async with engine({"one": MockAdapter()}, settings, ledger=ledger) as orchestrator:
        await orchestrator.embed(WHAT, RequestConfig(model="one", tenant="ann"))
        accounts = await read_accounts(ledger)
        assert await pending(ledger) == 0
    await ledger.aclose()

    spent = {(one.kind, one.name): one.spent for one in accounts}
    assert set(spent) == {("global", ""), ("key", "ann")}
    for amount in spent.values():
        assert (amount.money_nanousd, amount.tokens, amount.calls) == (40, 4, 1)
    assert {one.held for one in accounts} == {Amount()}


async def test_what_does_not_fit_is_not_sent() -> None:
    """Inputs of more than is left are refused before the call, and cannot be shortened."""
    adapter = MockAdapter()
    async with engine({"one": adapter}) as orchestrator:
        with pytest.raises(BudgetExceeded):
            await orchestrator.embed(WHAT, RequestConfig(model="one", max_run_tokens=4))

    assert not adapter.embedded


async def test_an_unknown_price_is_refused_where_money_is_limited() -> None:
    """As of any call."""
    settings = config(budgets={"windows": [DAY]})
    unpriced = settings.models["one"].model_copy(update={"price": None})
    settings = settings.model_copy(update={"models": {**settings.models, "one": unpriced}})
    async with engine({"one": MockAdapter()}, settings) as orchestrator:
        with pytest.raises(UnknownPrice, match="'one'"):
            await orchestrator.embed(WHAT, RequestConfig(model="one"))


async def test_a_call_that_is_cancelled_posts_all_that_it_could_cost() -> None:
    """Nobody knows whether the provider charges, so the budget takes the whole hold."""
    ledger, adapter = Ledger(), Waiting()
    await ledger.open()
    settings = config(budgets={"windows": [DAY]})
    async with engine({"one": adapter}, settings, ledger=ledger) as orchestrator:
        asking = asyncio.create_task(orchestrator.embed(WHAT, RequestConfig(model="one")))
        await adapter.has_begun()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await pending(ledger) == 0
        (account,) = await read_accounts(ledger)
    await ledger.aclose()

    assert account.spent.money_nanousd >= 10 * sum(map(len, WHAT.inputs))
    assert account.held == Amount()


async def test_closing_the_orchestrator_ends_the_call() -> None:
    """Whoever waits is told why."""
    adapter = Waiting()
    orchestrator = engine({"one": adapter})
    asking = asyncio.create_task(orchestrator.embed(WHAT, RequestConfig(model="one")))
    await adapter.has_begun()
    await orchestrator.aclose()

    with pytest.raises(OrchestratorError, match="closed"):
        await asking


async def test_the_deadline_ends_the_call() -> None:
    """A run that embeds has one as well."""
    adapter, clock = Waiting(), FakeClock()
    async with engine({"one": adapter}, clock=clock) as orchestrator:
        request = RequestConfig(model="one", time_s=5)
        asking = asyncio.create_task(orchestrator.embed(WHAT, request))
        await adapter.has_begun()
        clock.advance(6)
        with pytest.raises(DeadlineExceeded):
            await asking


async def test_a_deployment_that_keeps_failing_is_left_alone() -> None:
    """Its breaker counts failures of embeddings with all others."""
    adapter = MockAdapter([ProviderUnavailable("away")])
    settings = config(breaker={"failures": 2, "calls": 2, "open_s": 3600}, retry={"attempts": 1})
    async with engine({"one": adapter}, settings) as orchestrator:
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await orchestrator.embed(WHAT, RequestConfig(model="one"))
        with pytest.raises(BreakerOpen):
            await orchestrator.embed(WHAT, RequestConfig(model="one"))

    assert len(adapter.embedded) == 2


async def test_the_cheapest_of_a_route_is_asked_first() -> None:
    """By the price of what is embedded; nothing is written."""
    settings = config(routes={"cheap": {"models": ["one", "two"], "strategy": "cheapest"}})
    cheaper = settings.models["two"].model_copy(update={"price": "free"})
    settings = settings.model_copy(update={"models": {**settings.models, "two": cheaper}})
    adapters = {"one": MockAdapter(), "two": MockAdapter()}
    async with engine(adapters, settings) as orchestrator:
        await orchestrator.embed(WHAT, RequestConfig(model="cheap"))

    assert (len(adapters["one"].embedded), len(adapters["two"].embedded)) == (0, 1)
