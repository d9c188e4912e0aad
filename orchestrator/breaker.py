"""A deployment's breaker: who may call it, and whose results decide that. One probe at a time.

pybreaker is the state machine; the gate before it keeps what pybreaker does not: a monotonic clock,
tickets that expire and are counted once, and no vote for results that are older than its state.
"""

import threading
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Literal, NoReturn, TypeAlias

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
from orchestrator.clock import Clock
from orchestrator.config import BreakerConfig
from orchestrator.errors import BreakerOpen
from orchestrator.sparing import without

with without("redis"):  # where circuits could be kept; to load it takes 0.1 s and 6 MB
    from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker

# `park` is a failure that time alone does not mend: one of them opens the breaker, and for longest.
Outcome: TypeAlias = Literal["success", "failure", "park", "neutral"]
State: TypeAlias = Literal["closed", "open", "half_open"]

LONGEST = 10  # how many times `open_s` a breaker stays open at most
SLICES = 60  # how finely the window of the ratio slides
NEVER_S = 10**9  # pybreaker's own timer, on the wall clock, is not to ring: ours decides

_STATES: dict[str, State] = {
    STATE_CLOSED: "closed",
    STATE_OPEN: "open",
    STATE_HALF_OPEN: "half_open",
}

# What a failed call says about its deployment. A 429 is for the pace to heed; a request at fault,
# for the caller.
OUTCOMES: dict[type[ProviderError], Outcome] = {
    ProviderError: "failure",
    AuthenticationFailed: "park",
    PermissionDenied: "park",
    ModelNotFound: "park",
    InvalidRequest: "neutral",
    ContextWindowExceeded: "neutral",
    ContentFiltered: "neutral",
    RateLimited: "neutral",
    QuotaExhausted: "park",
    ProviderUnavailable: "failure",
    ProviderTimeout: "failure",
    ConnectionFailed: "failure",
    StreamBroken: "failure",
    EmptyAnswer: "failure",
    MalformedResponse: "failure",
}


def outcome_of(error: BaseException | None, *, at_deadline: bool = False) -> Outcome:
    """What the end of a call says about its deployment. No error is a success.

    Anything that is no provider's error (a cancellation, a fault of ours) says nothing about it;
    nor does a timeout when it was the run's own deadline that cut the call short.
    """
    if error is None:
        return "success"
    if at_deadline and isinstance(error, ProviderTimeout):
        return "neutral"
    return next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), "neutral")


@dataclass(slots=True, eq=False)
class Ticket:
    """The right to make one call. It is settled once; a second time does nothing.

    Attributes:
        generation: The state of the breaker it belongs to. When that has passed, it has no vote.
        expires_s: When a probe that has not been heard of gives up its place; else never.
    """

    generation: int
    is_probe: bool = False
    expires_s: float = inf
    is_settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """A breaker as people see it.

    Attributes:
        why: What opened it; empty while it is closed.
        since_s: For how long it has been in this state.
        probe_in_s: How long until a call may try whether it has recovered; None while closed.
    """

    state: State
    why: str
    since_s: float
    probe_in_s: float | None


class Breaker:
    """Leave a deployment alone while it fails, and find out with one call when it has recovered.

    It opens after `failures` failures in a row, or when the share `ratio` of at least `calls`
    results within `window_s` were failures. After `open_s` one call at a time is let through as a
    probe; each one that fails doubles the time to the next, up to ten times `open_s`.

    >>> from orchestrator.clock import FakeClock
    >>> breaker = Breaker(BreakerConfig(failures=1), FakeClock(), deployment="gpt")
    >>> breaker.settle(breaker.admit(), "failure", "ProviderUnavailable")
    >>> breaker.state.state, breaker.state.probe_in_s
    ('open', 30.0)
    """

    def __init__(self, config: BreakerConfig, clock: Clock, *, deployment: str) -> None:
        self._config = config
        self._clock = clock
        self._deployment = deployment
        self._lock = threading.Lock()
        self._circuit = CircuitBreaker(
            fail_max=config.failures, reset_timeout=NEVER_S, throw_new_error_on_trip=False
        )
        self._generation = 0
        self._probe: Ticket | None = None
        self._recent = _Recent(config.window_s)
        self._why = ""
        self._last_failure = ""
        self._times = 1  # how many times `open_s` it is open for
        self._since_s = clock.monotonic()
        self._open_until_s = 0.0

    def admit(self) -> Ticket:
        """A ticket for one call.

        Raises:
            BreakerOpen: the deployment is left alone; `retry_after_s` says for how long.
        """
        with self._lock:
            if self._circuit.current_state == STATE_CLOSED:
                return Ticket(self._generation)
            now_s = self._clock.monotonic()
            if (wait_s := self._probe_in_s(now_s)) > 0:
                raise self._refusal(wait_s)
            return self._new_probe(now_s)

    def settle(self, ticket: Ticket, outcome: Outcome, why: str = "") -> None:
        """Say how the call ended; on every path, or a probe's place is lost until it expires.

        An outcome that is none counts as a failure.
        """
        with self._lock:
            if ticket.is_settled:
                return
            ticket.is_settled = True
            if ticket.generation == self._generation:
                self._count(ticket, outcome, why)

    @property
    def is_ready(self) -> bool:
        """Whether a call would be admitted now. Asking changes nothing."""
        with self._lock:
            return (
                self._circuit.current_state == STATE_CLOSED
                or self._probe_in_s(self._clock.monotonic()) <= 0
            )

    @property
    def state(self) -> BreakerState:
        with self._lock:
            now_s = self._clock.monotonic()
            state = _STATES[self._circuit.current_state]
            return BreakerState(
                state=state,
                why=self._why,
                since_s=now_s - self._since_s,
                probe_in_s=None if state == "closed" else self._probe_in_s(now_s),
            )

    def _probe_in_s(self, now_s: float) -> float:
        """How long until a probe may go, unless it is closed: the one under way may yet end."""
        due_s = self._open_until_s if self._probe is None else self._probe.expires_s
        return max(0.0, due_s - now_s)

    def _refusal(self, wait_s: float) -> BreakerOpen:
        begun = "a probe is under way" if self._probe else f"next probe in {wait_s:.1f} s"
        return BreakerOpen(
            f"{self._deployment} is left alone after {self._why}; {begun}",
            deployment=self._deployment,
            retry_after_s=wait_s,
        )

    def _new_probe(self, now_s: float) -> Ticket:
        if self._circuit.current_state == STATE_OPEN:
            self._circuit.half_open()
            self._since_s = now_s
        self._generation += 1  # a probe that was given up has no vote any more
        self._probe = Ticket(
            self._generation, is_probe=True, expires_s=now_s + self._config.probe_s
        )
        return self._probe

    def _count(self, ticket: Ticket, outcome: Outcome, why: str) -> None:
        if ticket.is_probe:
            self._probe = None
        if outcome == "neutral":
            return
        now_s = self._clock.monotonic()
        failed = outcome != "success"
        if failed:
            self._last_failure = why or "a failed call"
        self._recent.add(now_s, failed=failed)
        self._vote(failed=failed)
        if outcome == "park":
            self._open(now_s, self._last_failure, times=LONGEST)
        elif ticket.is_probe and failed:
            self._open(now_s, f"a failed probe: {self._last_failure}", times=2 * self._times)
        elif ticket.is_probe:
            self._begin(now_s, "")
        elif self._circuit.current_state == STATE_OPEN:
            self._open(now_s, self._in_a_row(), times=1)
        elif self._recent.is_bad(self._config.calls, self._config.ratio):
            self._open(now_s, self._too_many(), times=1)

    def _vote(self, *, failed: bool) -> None:
        """Let pybreaker count it; it opens the circuit by itself after so many in a row."""
        try:
            self._circuit.call(_fail if failed else int)
        except _Failure:
            return

    def _in_a_row(self) -> str:
        count = self._circuit.fail_counter
        return self._last_failure + (f", {count} times in a row" if count > 1 else "")

    def _too_many(self) -> str:
        return (
            f"{self._recent.failures} failures in {self._recent.calls} calls"
            f" within {self._config.window_s:g} s, the last: {self._last_failure}"
        )

    def _open(self, now_s: float, why: str, *, times: int) -> None:
        if self._circuit.current_state != STATE_OPEN:
            self._circuit.open()
        self._times = min(LONGEST, times)
        self._open_until_s = now_s + self._config.open_s * self._times
        self._begin(now_s, why)

    def _begin(self, now_s: float, why: str) -> None:
        """A new state: what was admitted before it has no vote in it."""
        self._generation += 1
        self._recent = _Recent(self._config.window_s)
        self._why = why
        self._since_s = now_s


class _Recent:
    """How many of the calls within a window failed.

    The window slides by sixtieths, so that it takes no more room at a thousand calls a second.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._slices: deque[_Slice] = deque()
        self.calls = 0
        self.failures = 0

    def add(self, now_s: float, *, failed: bool) -> None:
        while self._slices and self._slices[0].start_s <= now_s - self._window_s:
            old = self._slices.popleft()
            self.calls -= old.calls
            self.failures -= old.failures
        if not self._slices or self._slices[-1].start_s <= now_s - self._window_s / SLICES:
            self._slices.append(_Slice(now_s))
        self._slices[-1].calls += 1
        self._slices[-1].failures += failed
        self.calls += 1
        self.failures += failed

    def is_bad(self, calls: int, ratio: float) -> bool:
        return self.calls >= calls and self.failures / self.calls >= ratio


@dataclass(slots=True)
class _Slice:
    start_s: float
    calls: int = 0
    failures: int = 0


class _Failure(Exception):
    """A failed call, as pybreaker wants to be told."""


def _fail() -> NoReturn:
    raise _Failure
