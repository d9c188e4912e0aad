"""Decide what follows a call that failed: the same deployment again, another one, or the end. Pure.

One table says what each error means (`RULES`); budgets keep the tries of an outage few
(`RetryBudget`). A ready fallback goes before a retry: a retry has to wait, and asks again who has
just failed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

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

LEAST_CALL_S = 0.5  # a wait that leaves less time than this for the call after it is no use
EARNED_EVERY_S = 30.0  # a budget earns this often even where hardly anybody calls
FALLBACK_BURSTS = 10  # a breaker opens only when the calls in flight have failed as well

Follows = Literal["any", "once", "larger", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an error means for the call that met it.

    Attributes:
        tries: How often one deployment is tried at most; None leaves it to the configuration.
        follows: Which other deployments may be tried: any; any, unless one has refused in the same
            way before; those with a larger window; none.
        continues: Whether somebody may go on with an answer that this error broke off.
        is_sent: Whether the provider has seen the call. What was never sent is no load on anybody.
    """

    tries: int | None = 1
    follows: Follows = "any"
    continues: bool = False
    is_sent: bool = True


_REFUSED_HERE = Rule()  # by this deployment, now and in a minute; others know nothing of it
_PASSES = Rule(tries=None, continues=True)
_MAY_PASS = Rule(tries=2, continues=True)
_NOT_SENT = Rule(is_sent=False)
_OURS = Rule(follows="none", is_sent=False)  # no deployment would be better off

RULES: Mapping[type[Exception], Rule] = {
    AuthenticationFailed: _REFUSED_HERE,
    PermissionDenied: _REFUSED_HERE,
    ModelNotFound: _REFUSED_HERE,
    QuotaExhausted: Rule(continues=True),
    # Another provider may take a parameter that this one refuses; if it does not, nobody will.
    InvalidRequest: Rule(follows="once"),
    ContextWindowExceeded: Rule(follows="larger"),
    # What a provider's filter refused is not shopped around.
    ContentFiltered: Rule(follows="none"),
    RateLimited: _PASSES,
    ProviderUnavailable: _PASSES,
    ConnectionFailed: _PASSES,
    # These cost a whole limit of time, or money, each time.
    ProviderTimeout: _MAY_PASS,
    StreamBroken: _MAY_PASS,
    EmptyAnswer: Rule(tries=2),
    # What was handed out of an answer without end is nothing to go on with.
    MalformedResponse: Rule(tries=2),
    DeploymentBusy: _NOT_SENT,
    BreakerOpen: _NOT_SENT,
    RateExceeded: _NOT_SENT,
    # Another deployment may be cheaper, have a price, or a budget of its own.
    BudgetExceeded: _NOT_SENT,
    UnknownPrice: _NOT_SENT,
    Diverged: Rule(),
    LedgerError: _OURS,
    JournalError: _OURS,
    # A bug in one adapter is not in all of them.
    Exception: Rule(continues=True),
}


def rule_of(error: Exception) -> Rule:
    """The rule of an error's class, or of the closest class above that has one."""
    return next(RULES[kind] for kind in type(error).__mro__ if kind in RULES)


class RetryBudget:
    """How many more tries there may be, as a share of the calls there are.

    Each call deposits `ratio` of a token, each further try withdraws a whole one, and no more than
    `burst` are kept: an outage makes at most `1 + ratio` calls out of one, however many attempts
    are configured. Where calls are so rare that their deposits amount to next to nothing, the time
    since the last one earns instead: a token in 30 seconds. A ratio of 0 allows no further try.

    The same idea under the same name is in Finagle (`RetryBudget`: a share of the requests, and a
    floor for quiet clients), in Envoy (`retry_budget`) and in "Handling Overload" of Google's
    "Site Reliability Engineering", which gives a client 10 %.

    >>> budget = RetryBudget(ratio=0.5, burst=1)
    >>> budget.withdraw(), budget.withdraw()
    (True, False)
    >>> budget.deposit(now_s=0.0), budget.deposit(now_s=0.1), budget.withdraw()
    (None, None, True)
    """

    __slots__ = ("_burst", "_deposited_s", "_share", "_tokens")

    _TOKEN = 1_000_000  # integers: ten deposits of a tenth are a whole one

    def __init__(self, *, ratio: float, burst: int) -> None:
        self._share = round(ratio * self._TOKEN)
        self._burst = burst * self._TOKEN if self._share else 0
        self._tokens = self._burst
        self._deposited_s: float | None = None

    def deposit(self, now_s: float) -> None:
        """A call is made for the first time."""
        since_s = 0.0 if self._deposited_s is None else now_s - self._deposited_s
        self._deposited_s = now_s
        earned = max(self._share, int(since_s / EARNED_EVERY_S * self._TOKEN))
        self._tokens = min(self._burst, self._tokens + earned)

    def withdraw(self) -> bool:
        """Take one further try, if there is one left."""
        if self._tokens < self._TOKEN:
            return False
        self._tokens -= self._TOKEN
        return True


def retry_budget(config: RetryConfig) -> RetryBudget:
    """For one deployment: its first attempts deposit, its retries withdraw."""
    return RetryBudget(ratio=config.budget_ratio, burst=config.burst)


def fallback_budget(config: RetryConfig) -> RetryBudget:
    """For a whole orchestrator: first attempts of calls deposit, fallbacks withdraw.

    It holds ten bursts: when a deployment breaks, all calls in flight need a fallback at once,
    before its breaker can turn anybody away. Calls turned away cost nothing.
    """
    return RetryBudget(ratio=config.fallback_ratio, burst=config.burst * FALLBACK_BURSTS)


def hedge_budget(config: RetryConfig) -> RetryBudget:
    """For a whole orchestrator: first attempts that could be hedged deposit, hedges withdraw."""
    return RetryBudget(ratio=config.hedge_ratio, burst=config.burst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A deployment that has not been tried yet."""

    deployment: str
    context_tokens: int | None = None  # its window, if anybody knows
    is_ready: bool = True  # False where it would, as far as is known, turn the call away


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt, and what there is to go on with.

    Attributes:
        error: Why it failed.
        tries: How often this deployment has been tried for this call, this time included.
        left_s: How much of the run's time is left.
        following: The deployments not tried yet, in order.
        context_tokens: The window of the deployment that failed, if anybody knows.
        broke_off: Whether this very attempt had handed out text before it failed.
        can_simplify: Whether the same can be asked there in a simpler way, without a prefill or
            a response format of ours.
        was_prefilled: Whether it was given the answer begun, as its own words.
        before: Why earlier attempts of the same call failed.
    """

    error: Exception
    tries: int
    left_s: float
    following: Sequence[Option] = ()
    context_tokens: int | None = None
    broke_off: bool = False
    can_simplify: bool = False
    was_prefilled: bool = False
    before: Sequence[Exception] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait, then try the same deployment again; `simpler` where it refused how it was asked."""

    wait_s: float
    simpler: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """Try this one of the following deployments now."""

    deployment: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing more is tried. `why` is a few words for the receipt."""

    why: str


Step = Retry | Fallback | GiveUp


def next_step(
    failure: Failure,
    config: RetryConfig,
    rng: Random,
    *,
    retries: RetryBudget,
    fallbacks: RetryBudget,
) -> Step:
    """What follows a failed attempt. The step is paid for: its budget is one token shorter.

    In this order: at once the same deployment, where its connection was lost before an answer or
    it can be asked in a simpler way; a fallback that is ready; the same deployment after a wait; a
    fallback that is not ready, which has the last word itself.

    Args:
        failure: What failed, and what there is to go on with.
        config: How often, and how long to wait.
        rng: Draws the wait.
        retries: The budget of the deployment that failed.
        fallbacks: The budget of all calls together. An attempt that was never sent is not charged.
    """
    name, rule = type(failure.error).__name__, rule_of(failure.error)
    if failure.broke_off and not rule.continues:
        return GiveUp(f"an answer that {name} broke off is not continued")
    if failure.left_s <= 0:
        return GiveUp("the time is over")
    options = _options(failure, rule)
    ready = [option for option in options if option.is_ready]
    wait_s = _wait_s(failure, rule, config, rng)
    simpler = _is_simpler(failure)

    if (simpler or (wait_s is not None and _is_reset(failure))) and retries.withdraw():
        return Retry(0.0, simpler=simpler)
    if ready and (not rule.is_sent or fallbacks.withdraw()):
        return Fallback(ready[0].deployment)
    if wait_s is not None and retries.withdraw():
        return Retry(wait_s)
    if options and (not rule.is_sent or fallbacks.withdraw()):
        return Fallback(options[0].deployment)
    if options or wait_s is not None or simpler:
        return GiveUp("the budget of further tries is spent")
    return GiveUp(f"nothing may follow {name}")


def may_follow(error: Exception, failed_tokens: int | None, following_tokens: int | None) -> bool:
    """Whether a call that failed on one deployment may be tried on another with this window.

    A prompt that was too long needs a larger window, or one whose size nobody has told us.
    """
    follows = rule_of(error).follows
    if follows == "larger" and failed_tokens is not None and following_tokens is not None:
        return following_tokens > failed_tokens
    return follows != "none"


def hedge_after_s(first_content_p95_s: float | None, config: RetryConfig) -> float | None:
    """When a second attempt is worth beginning beside the first; None: not at all.

    After the 95th percentile of the deployment's recent times to first content, so that about
    one call in twenty is hedged: "The Tail at Scale" (Dean and Barroso, 2013). None while too few
    calls have been measured to know it.
    """
    if first_content_p95_s is None:
        return None
    return max(first_content_p95_s, config.hedge_min_s)


def backoff_s(tries: int, left_s: float, config: RetryConfig, rng: Random) -> float:
    """How long to wait before a retry, drawn anew each time.

    Uniform between nothing and a bound that doubles with every try: "full jitter", which spreads
    the clients of a provider that comes back ("Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015). Never more than half of the time that is left; the call needs the rest.
    """
    return rng.uniform(0.0, min(config.cap_s, config.base_s * 2 ** (tries - 1), left_s / 2))


def _options(failure: Failure, rule: Rule) -> list[Option]:
    """The following deployments that may be tried, in order."""
    if rule.follows == "once" and any(type(error) is InvalidRequest for error in failure.before):
        return []
    return [
        option
        for option in failure.following
        if may_follow(failure.error, failure.context_tokens, option.context_tokens)
    ]


def _wait_s(failure: Failure, rule: Rule, config: RetryConfig, rng: Random) -> float | None:
    """How long to wait for the same deployment; None if it is not to be tried again.

    A provider that says how long gets that long and a little more, drawn so that not everybody
    comes back at once. What does not end in time for a call is not begun.
    """
    error = failure.error
    limit = config.attempts if rule.tries is None else min(rule.tries, config.attempts)
    if failure.tries >= limit or not isinstance(error, ProviderError) or not error.retryable:
        return None
    if error.retry_after_s is None:
        return backoff_s(failure.tries, failure.left_s, config, rng)
    asked_s = max(error.retry_after_s, 0.0)
    room_s = failure.left_s - asked_s - LEAST_CALL_S
    if asked_s and room_s < 0:
        return None
    return asked_s + rng.uniform(0.0, min(config.base_s, max(room_s, 0.0)))


def _is_simpler(failure: Failure) -> bool:
    """Whether the same deployment is worth asking in a simpler way.

    To have nothing to add to a prefill may mean that the answer was whole, or nothing at all.
    Asked without one, a model that has nothing to add still repeats the last words.
    """
    if isinstance(failure.error, EmptyAnswer):
        return failure.was_prefilled
    return failure.can_simplify and type(failure.error) is InvalidRequest


def _is_reset(failure: Failure) -> bool:
    """Whether the first try was sent and its connection lost before an answer.

    Most often a pooled connection that the other side had closed meanwhile; the next one is new.
    One that could not be made at all sent nothing and bills nothing.
    """
    error = failure.error
    return isinstance(error, ConnectionFailed) and error.maybe_billed and failure.tries == 1
