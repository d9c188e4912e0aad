"""What follows a failed call, and how few calls an outage makes of one."""

import itertools
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator.errors
from adapters import errors as provider_errors
from adapters.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    EmptyAnswer,
    InvalidRequest,
    MalformedResponse,
    ModelNotFound,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamBroken,
)
from orchestrator.attempts import (
    EARNED_EVERY_S,
    LEAST_CALL_S,
    RULES,
    Failure,
    Fallback,
    GiveUp,
    Option,
    Retry,
    RetryBudget,
    Step,
    backoff_s,
    fallback_budget,
    hedge_after_s,
    hedge_budget,
    may_follow,
    next_step,
    retry_budget,
    rule_of,
)
from orchestrator.config import RetryConfig
from orchestrator.errors import (
    BreakerOpen,
    BudgetExceeded,
    DeploymentBusy,
    Diverged,
    JournalError,
    LedgerError,
    RateExceeded,
    UnknownPrice,
)

CONFIG = RetryConfig()
REQUESTS = 10_000
MINUTES = 500
B = Option(deployment="b")
B_AND_C = (B, Option(deployment="c"))


def step(error: Exception, *, budget: int = 100, **failure: Any) -> Step:
    """What follows the first failure, with a minute left and room in the budgets."""
    fields = {"tries": 1, "left_s": 60.0} | failure
    return next_step(
        Failure(error=error, **fields),
        CONFIG,
        Random(1),
        retries=RetryBudget(ratio=0.1, burst=budget),
        fallbacks=RetryBudget(ratio=0.1, burst=budget),
    )


def all_kinds(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(all_kinds(one) for one in kind.__subclasses__()))


# What each error means.


def test_every_error_of_a_provider_has_a_rule() -> None:
    """Somebody who adds an error decides what follows it."""
    kinds = {kind for kind in all_kinds(ProviderError) if kind.__module__.startswith("adapters")}
    kinds.remove(provider_errors.ProviderError)

    assert kinds <= RULES.keys()


def test_every_error_of_a_guard_has_a_rule() -> None:
    """So does somebody who adds a guard."""
    guards = all_kinds(DeploymentBusy) | all_kinds(BudgetExceeded)
    ours = {kind for kind in guards if kind.__module__ == orchestrator.errors.__name__}

    assert ours | {Diverged, LedgerError, JournalError} <= RULES.keys()


def test_an_error_without_a_rule_has_the_one_above_it() -> None:
    """A class of somebody else's means what its parent means; a bug is not in all adapters."""

    class Overloaded(ProviderUnavailable):
        pass

    assert rule_of(Overloaded("busy")) is RULES[ProviderUnavailable]
    assert rule_of(KeyError("bug")) is RULES[Exception]
    assert step(KeyError("bug")) == GiveUp("nothing may follow KeyError")
    assert step(KeyError("bug"), following=B_AND_C) == Fallback("b")


RETRIED = (RateLimited, ProviderUnavailable, ConnectionFailed)
RETRIED_ONCE = (ProviderTimeout, StreamBroken, EmptyAnswer, MalformedResponse)
NEVER_RETRIED = (
    AuthenticationFailed,
    PermissionDenied,
    ModelNotFound,
    InvalidRequest,
    ContextWindowExceeded,
    ContentFiltered,
    QuotaExhausted,
    BreakerOpen,
    RateExceeded,
    BudgetExceeded,
    UnknownPrice,
    LedgerError,
    JournalError,
    Diverged,
)
NEVER_FOLLOWED = (ContentFiltered, LedgerError, JournalError)


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        *((kind, 3) for kind in RETRIED),
        *((kind, 2) for kind in RETRIED_ONCE),
        *((kind, 1) for kind in NEVER_RETRIED),
    ],
)
def test_a_lone_deployment_is_tried_as_often_as_its_error_is_worth(
    kind: type[Exception], tries: int
) -> None:
    """What may pass is tried three times in all, what costs a whole wait twice, the rest once."""
    steps = [step(kind("no"), tries=made) for made in range(1, 4)]

    assert [isinstance(one, Retry) for one in steps] == [made < tries for made in range(1, 4)]


@pytest.mark.parametrize("kind", [*RETRIED, *RETRIED_ONCE, *NEVER_RETRIED])
def test_a_ready_fallback_is_asked_at_once(kind: type[Exception]) -> None:
    """Nobody waits for a deployment that has failed while another one is ready."""
    follows = step(kind("no"), following=B_AND_C, tries=2)

    assert follows == (
        GiveUp(f"nothing may follow {kind.__name__}") if kind in NEVER_FOLLOWED else Fallback("b")
    )


def test_a_connection_lost_before_an_answer_is_made_anew_at_once() -> None:
    """The other side had closed a pooled connection: once, and before any fallback."""
    lost = ConnectionFailed("reset", maybe_billed=True)

    assert step(lost, following=B_AND_C) == Retry(0.0)
    assert step(lost, following=B_AND_C, tries=2) == Fallback("b")


def test_a_connection_that_cannot_be_made_falls_back_at_once() -> None:
    """Nothing listens there; without a fallback it may be a server that is starting."""
    refused = ConnectionFailed("refused", maybe_billed=False)

    assert step(refused, following=B_AND_C) == Fallback("b")
    assert isinstance(step(refused), Retry)


def test_what_cannot_pass_is_not_retried() -> None:
    """A certificate does not become good by asking again."""
    certificate = ConnectionFailed("certificate", retryable=False)

    assert step(certificate) == GiveUp("nothing may follow ConnectionFailed")
    assert step(certificate, following=B_AND_C) == Fallback("b")


def test_a_parameter_that_two_refuse_is_not_shown_to_a_third() -> None:
    """One provider may take what another refuses; after that it is the request."""
    refused = InvalidRequest("top_k")

    assert step(refused, following=B_AND_C) == Fallback("b")
    assert isinstance(step(refused, following=B_AND_C, before=[refused]), GiveUp)
    assert step(refused, following=B_AND_C, before=[RateLimited("slow")]) == Fallback("b")


def test_what_can_be_asked_in_a_simpler_way_is_asked_so_first() -> None:
    """A refused prefill says nothing against the deployment; a prompt too long stays too long."""
    refused, too_long = InvalidRequest("prefill"), ContextWindowExceeded("long")

    assert step(refused, following=B_AND_C, can_simplify=True) == Retry(0.0, simpler=True)
    assert step(too_long, following=B_AND_C, can_simplify=True) == Fallback("b")


def test_nothing_to_add_to_a_prefill_is_asked_about_once_more_without_it() -> None:
    """It may mean that the answer was whole; an empty answer to a question means nothing."""
    empty = EmptyAnswer("nothing in it")

    assert step(empty, following=B_AND_C, was_prefilled=True) == Retry(0.0, simpler=True)
    assert step(empty, following=B_AND_C, can_simplify=True) == Fallback("b")


@pytest.mark.parametrize(
    ("failed", "following", "allowed"),
    [(8, 16, True), (8, 8, False), (16, 8, False), (None, 8, True), (8, None, True)],
)
def test_a_prompt_too_long_needs_a_larger_window(
    failed: int | None, following: int | None, allowed: bool
) -> None:
    """Or one whose size nobody has told us."""
    too_long = ContextWindowExceeded("long")
    options = [Option(deployment="small", context_tokens=4), B]

    assert may_follow(too_long, failed, following) is allowed
    assert may_follow(RateLimited("slow"), failed, following)
    assert step(too_long, context_tokens=8, following=options) == Fallback("b")


# Text that has been handed out.


CONTINUED = {
    StreamBroken,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    ConnectionFailed,
    QuotaExhausted,
}


@pytest.mark.parametrize("kind", sorted(all_kinds(ProviderError) & RULES.keys(), key=str))
def test_only_a_broken_answer_is_continued(kind: type[Exception]) -> None:
    """A filter that stops an answer half-way means it."""
    follows = step(kind("no"), following=B_AND_C, broke_off=True, tries=2)

    assert isinstance(follows, Fallback) is (kind in CONTINUED)


def test_a_lone_deployment_may_continue_its_own_answer() -> None:
    """There is nobody else, and the text is worth something."""
    assert isinstance(step(StreamBroken("cut"), broke_off=True), Retry)


def test_a_continuation_that_began_another_answer_is_followed_by_the_next() -> None:
    """It has handed nothing out; somebody else may do better."""
    assert step(Diverged("again"), following=B_AND_C) == Fallback("b")


# Waiting.


@given(tries=st.integers(1, 9), left_s=st.floats(0.01, 1000), seed=st.integers(0, 99))
def test_a_wait_is_drawn_below_a_doubling_bound(tries: int, left_s: float, seed: int) -> None:
    """Full jitter, capped, and never more than half of the time there is."""
    wait_s = backoff_s(tries, left_s, CONFIG, Random(seed))

    assert 0 <= wait_s <= min(0.5 * 2 ** (tries - 1), 8.0, left_s / 2)


def test_waits_fill_the_whole_range() -> None:
    """Clients of a provider that comes back are spread over all of it."""
    rng = Random(7)

    waits_s = sorted(backoff_s(2, 60, CONFIG, rng) for _ in range(1000))

    assert waits_s[0] < 0.02
    assert waits_s[-1] > 0.98
    assert 0.45 < waits_s[500] < 0.55


@pytest.mark.parametrize(
    ("asked_s", "left_s", "waits"),
    [
        (0.0, 60.0, True),
        (-3.0, 60.0, True),
        (2.0, 60.0, True),
        (2.0, 2.0 + LEAST_CALL_S, True),
        (2.0, 2.0 + LEAST_CALL_S - 0.01, False),
        (1e9, 60.0, False),
        (float("inf"), 60.0, False),
    ],
)
def test_a_provider_gets_the_time_it_asks_for_if_a_call_fits_behind_it(
    asked_s: float, left_s: float, waits: bool
) -> None:
    """Less would be refused again, and a wait that ends with the run is of no use."""
    follows = step(RateLimited("slow", retry_after_s=asked_s), left_s=left_s)

    assert isinstance(follows, Retry) is waits
    if isinstance(follows, Retry):
        latest_s = left_s - LEAST_CALL_S
        assert max(asked_s, 0) <= follows.wait_s <= min(latest_s, max(asked_s, 0) + CONFIG.base_s)


def test_a_deployment_that_is_not_ready_comes_after_a_wait() -> None:
    """Its breaker is open: better wait for the one that only asked for a moment."""
    closed = Option(deployment="b", is_ready=False)
    slow = RateLimited("slow", retry_after_s=1)

    assert isinstance(step(slow, following=[closed]), Retry)
    assert step(slow, following=[closed], tries=3) == Fallback("b")
    assert step(slow, following=[closed, Option(deployment="c")]) == Fallback("c")


def test_nothing_begins_when_the_time_is_over() -> None:
    """Not even a fallback that is ready."""
    assert step(RateLimited("slow"), following=B_AND_C, left_s=0.0) == GiveUp("the time is over")


# Budgets.


def test_a_spent_budget_ends_it() -> None:
    """An outage does not become a bigger one."""
    spent = GiveUp("the budget of further tries is spent")

    assert step(ProviderUnavailable("down"), budget=0) == spent
    assert step(ProviderUnavailable("down"), budget=0, following=B_AND_C) == spent


def test_a_call_that_was_never_sent_falls_back_for_nothing() -> None:
    """An open breaker moves everybody to the next deployment: that is no further call."""
    for error in (BreakerOpen("open"), RateExceeded("full"), UnknownPrice("?")):
        assert step(error, budget=0, following=B_AND_C) == Fallback("b")


def test_a_ratio_of_nothing_allows_nothing() -> None:
    """Not even the burst."""
    budget = RetryBudget(ratio=0.0, burst=10)
    budget.deposit(0.0)

    assert not budget.withdraw()


@given(
    ratio=st.integers(1, 100).map(lambda hundredths: hundredths / 100),
    burst=st.integers(1, 20),
    deposits=st.lists(st.booleans(), max_size=300),
)
def test_never_more_is_withdrawn_than_was_deposited(
    ratio: float, burst: int, deposits: list[bool]
) -> None:
    """At any moment: the burst and the share of the calls so far."""
    budget = RetryBudget(ratio=ratio, burst=burst)
    withdrawn = 0

    for count, wants in enumerate(deposits, 1):
        budget.deposit(now_s=count / 1000)
        withdrawn += wants and budget.withdraw()
        assert withdrawn <= burst + ratio * count + 1e-9


def test_ten_tenths_are_a_whole_one() -> None:
    """Money is not the only thing that is counted in integers."""
    budget = RetryBudget(ratio=0.1, burst=1)
    budget.withdraw()

    for _ in range(9):
        budget.deposit(0.0)
    assert not budget.withdraw()
    budget.deposit(0.0)
    assert budget.withdraw()


def test_a_quiet_client_earns_by_time() -> None:
    """Where one call comes an hour, a share of the calls would be no retry at all."""
    budget = RetryBudget(ratio=0.1, burst=3)
    budget.deposit(0.0)
    for _ in range(3):
        budget.withdraw()

    budget.deposit(EARNED_EVERY_S / 2)
    assert not budget.withdraw()
    budget.deposit(EARNED_EVERY_S)
    assert budget.withdraw()


class Outage:
    """A chain of deployments and one call after another, with every breaker forced off."""

    def __init__(self, *names: str, config: RetryConfig = CONFIG) -> None:
        self.names = names
        self.config = config
        self.sent = dict.fromkeys(names, 0)
        self.retries = {name: retry_budget(config) for name in names}
        self.fallbacks = fallback_budget(config)
        self.rng = Random(3)
        self.now_s = 0.0

    def call(self, *errors: Exception | None) -> bool:
        """One call, whose attempts end in these; the last one again and again."""
        outcomes = itertools.chain(errors, itertools.repeat(errors[-1]))
        name, tries, waiting = self.names[0], 0, list(self.names[1:])
        self.fallbacks.deposit(self.now_s)
        while True:
            if tries == 0:
                self.retries[name].deposit(self.now_s)
            tries += 1
            self.sent[name] += 1
            if (error := next(outcomes)) is None:
                return True
            failure = Failure(
                error=error,
                tries=tries,
                left_s=60.0,
                following=[Option(deployment=one) for one in waiting],
            )
            match next_step(
                failure,
                self.config,
                self.rng,
                retries=self.retries[name],
                fallbacks=self.fallbacks,
            ):
                case Fallback(deployment):
                    name, tries = deployment, 0
                    waiting.remove(deployment)
                case GiveUp():
                    return False

    def amplification(self) -> float:
        return sum(self.sent.values()) / REQUESTS


DOWN = (
    ProviderUnavailable("down"),
    RateLimited("slow", retry_after_s=0.0),
    ConnectionFailed("reset", maybe_billed=True),
)


@pytest.mark.parametrize("error", DOWN)
def test_an_outage_makes_few_calls_of_one(error: Exception) -> None:
    """A tenth more on one deployment and a third more over three, beside the bursts."""
    alone, chain = Outage("a"), Outage("a", "b", "c")

    for number in range(REQUESTS):
        alone.now_s = chain.now_s = number / 10
        assert not alone.call(error)
        assert not chain.call(error)

    print(f"\n{error!r}: x{alone.amplification():.3f} alone, x{chain.amplification():.3f} of three")
    assert alone.amplification() <= 1.1 + CONFIG.burst / REQUESTS
    assert chain.sent["a"] / REQUESTS <= 1.1 + CONFIG.burst / REQUESTS
    assert chain.amplification() <= 1.35


def test_a_quiet_client_makes_few_calls_of_an_outage() -> None:
    """Where calls are rare, each deployment is asked once more in thirty seconds at the most."""
    chain, every_s = Outage("a", "b", "c"), 3.0

    for number in range(REQUESTS):
        chain.now_s = number * every_s
        chain.call(DOWN[0])

    earned = 3 * REQUESTS * every_s / EARNED_EVERY_S
    assert chain.amplification() <= 1.35 + earned / REQUESTS


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize("every_s", [0.1, 10.0, 60.0])
def test_one_fault_a_minute_is_always_survived(names: tuple[str, ...], every_s: float) -> None:
    """However many or few calls there are beside it, for hours."""
    outage = Outage(*names)
    calls = max(int(60 / every_s), 1)
    survived = 0

    for minute in range(MINUTES):
        for call in range(calls if every_s > 1 else 20):
            outage.now_s = minute * 60 + call * every_s
            error = ProviderUnavailable("blip") if call == 0 else None
            survived += outage.call(error, None) and error is not None

    assert survived / MINUTES >= 0.99


# Hedging.


def test_a_hedge_begins_after_the_slowest_twentieth() -> None:
    """Not at all while nobody knows it, and never at once."""
    assert hedge_after_s(None, CONFIG) is None
    assert hedge_after_s(1.7, CONFIG) == 1.7
    assert hedge_after_s(0.01, CONFIG) == CONFIG.hedge_min_s


def test_hedges_are_a_twentieth_of_the_calls() -> None:
    """When everything becomes slow at once, the provider is not asked twice."""
    budget, hedges = hedge_budget(CONFIG), 0

    for number in range(REQUESTS):
        budget.deposit(number / 1000)
        hedges += budget.withdraw()

    assert hedges <= 0.05 * REQUESTS + CONFIG.burst
