"""An orchestrator for another configuration goes on with what the one before it knows."""

import pytest

from adapters import LLMProvider, MockAdapter, ModelConfig
from adapters.config import RatesConfig
from adapters.errors import ProviderUnavailable
from orchestrator import BaseOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.clock import FakeClock
from orchestrator.config import (
    BreakerConfig,
    BudgetsConfig,
    CacheConfig,
    RetryConfig,
    TimeoutsConfig,
    WindowConfig,
)
from orchestrator.deployment import Deployment
from orchestrator.errors import BreakerOpen, BudgetExceeded, RateExceeded


class Watched(MockAdapter):
    """Tells how often it was closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1
        await super().aclose()


def model(**more: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"provider": LLMProvider.OPENAI, "model": "m", "price": "free", **more}
    )


def config(**more: object) -> OrchestratorConfig:
    told = {
        "models": {"one": model()},
        "retry": RetryConfig(attempts=1),
        "breaker": BreakerConfig(failures=1),
        **more,
    }
    return OrchestratorConfig.model_validate(told)


ASK = RequestConfig(prompt="Hi", model="one")
OTHER = TimeoutsConfig(total_s=77)


@pytest.mark.parametrize(
    ("more", "is_forgotten"),
    [
        ({"timeouts": OTHER}, False),
        ({"models": {"one": model(weight=2.0)}}, False),
        ({"retry": RetryConfig(attempts=2)}, False),
        ({"models": {"one": model(model="n")}}, True),
        ({"models": {"one": model(api_key="another")}}, True),
        ({"breaker": BreakerConfig(failures=1, open_s=5)}, True),
    ],
)
async def test_an_open_breaker_stays_open(more: dict[str, object], is_forgotten: bool) -> None:
    """Unless the deployment leads elsewhere now, or breakers are to work in another way."""
    failing = MockAdapter([ProviderUnavailable("gone")])
    async with BaseOrchestrator(config(), adapters={"one": failing}) as before:
        with pytest.raises(ProviderUnavailable):
            await before.execute_request(ASK)
        async with before.successor(config(**more)) as after:
            state = after.breakers()["one"].state
            assert state == ("closed" if is_forgotten else "open")


async def test_what_fails_in_an_older_run_is_known_to_newer_ones() -> None:
    """One deployment, one breaker: whoever's call it was."""
    failing = MockAdapter([ProviderUnavailable("gone")])
    async with (
        BaseOrchestrator(config(), adapters={"one": failing}) as before,
        before.successor(config(timeouts=OTHER)) as after,
    ):
        with pytest.raises(ProviderUnavailable):
            await before.execute_request(ASK)

        assert after.breakers()["one"].state == "open"
        with pytest.raises(BreakerOpen):
            await after.execute_request(ASK)


async def test_a_used_up_rate_stays_used_up() -> None:
    """As long as the rate itself is the same."""
    limited = model(rates=RatesConfig(requests_per_minute=1))
    time = TimeoutsConfig(run_s=5)
    first = config(models={"one": limited}, timeouts=time)
    answering = MockAdapter(["Hello."])
    async with BaseOrchestrator(first, adapters={"one": answering}, clock=FakeClock()) as before:
        await before.execute_request(ASK)
        more = {"one": limited, "two": model()}
        async with before.successor(config(models=more, timeouts=time)) as after:
            with pytest.raises(RateExceeded):
                await after.execute_request(ASK)


@pytest.mark.parametrize(("per_minute", "is_kept"), [(1, True), (2, False)])
def test_a_pace_is_kept_for_as_long_as_its_rates(per_minute: int, is_kept: bool) -> None:
    """A deployment whose weight or price has changed goes on at its pace."""
    about = config()
    before, after = (
        Deployment("one", one, clock=FakeClock(), breaker=about.breaker, retry=about.retry)
        for one in (
            model(rates=RatesConfig(requests_per_minute=1)),
            model(rates=RatesConfig(requests_per_minute=per_minute), weight=3.0),
        )
    )
    after.go_on_from(before, same_breaker=False, same_retry=True)

    assert (after.pace is before.pace) is is_kept
    assert after.breaker is not before.breaker
    assert after.retries is before.retries


async def test_what_was_spent_stays_spent() -> None:
    """A ledger in memory is one for both, so that no edit gives anybody a budget anew."""
    budgets = BudgetsConfig(windows=(WindowConfig(scope="global", every="day", calls=1),))
    answering = MockAdapter(["Hello."])
    async with BaseOrchestrator(config(budgets=budgets), adapters={"one": answering}) as before:
        await before.execute_request(ASK)
        after = before.successor(config(budgets=budgets, timeouts=OTHER))
        await before.aclose()
        async with after:
            with pytest.raises(BudgetExceeded):
                await after.execute_request(ASK)


async def test_what_was_answered_is_not_asked_again() -> None:
    """A cache is one for both as well, open as long as either is."""
    answering = MockAdapter(["Hello."])
    cached = config(cache=CacheConfig())
    async with BaseOrchestrator(cached, adapters={"one": answering}) as before:
        await before.execute_request(ASK)
        after = before.successor(config(cache=CacheConfig(), timeouts=OTHER))
        await before.aclose()
        async with after:
            response = await after.execute_request(ASK)

    assert response.content == "Hello."
    assert len(answering.requests) == 1
    assert before.config_hash != after.config_hash


async def test_the_last_to_go_closes_what_was_shared() -> None:
    """In whatever order they go, and once; what the newer one does not know goes with the older."""
    shared, gone = Watched(["Hello."]), Watched(["Bye."])
    both = config(models={"one": model(), "two": model()})
    first = BaseOrchestrator(both, adapters={"one": shared, "two": gone})
    second = first.successor(both.model_copy(update={"timeouts": OTHER}))
    third = second.successor(config())
    await second.aclose()
    assert (shared.closed, gone.closed) == (0, 0)
    await second.aclose()
    await first.aclose()
    assert (shared.closed, gone.closed) == (0, 1)
    response = await third.execute_request(ASK)
    await third.aclose()

    assert response.content == "Hello."
    assert (shared.closed, gone.closed) == (1, 1)
