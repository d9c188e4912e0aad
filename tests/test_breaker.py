"""The breaker: when it opens, who may probe, and whose results count."""

import asyncio
import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import adapters.errors
from adapters.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from orchestrator.breaker import LONGEST, OUTCOMES, Breaker, Outcome, Ticket, outcome_of
from orchestrator.clock import FakeClock
from orchestrator.config import BreakerConfig
from orchestrator.errors import BreakerOpen, LedgerError

CONFIG = BreakerConfig(failures=3, open_s=30, ratio=0.5, calls=20, window_s=60, probe_s=10)
VOTES: tuple[Outcome, ...] = ("success", "failure", "park", "neutral")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(CONFIG, clock, deployment="gpt")


@contextmanager
def often_switched() -> Iterator[None]:
    """Threads take turns after a few instructions: what is not held together falls apart.

    None may be starting meanwhile: with a tracer, as coverage is one, Python cannot install it in
    two threads at once, and one of them ends before it began.
    """
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


def attempt(breaker: Breaker) -> Ticket | BreakerOpen:
    try:
        return breaker.admit()
    except BreakerOpen as refused:
        return refused


def fail(breaker: Breaker, times: int = 1, why: str = "ProviderUnavailable") -> None:
    for _ in range(times):
        breaker.settle(breaker.admit(), "failure", why)


def is_closed(breaker: Breaker) -> bool:
    return breaker.state.state == "closed"


def provider_errors(kind: type[ProviderError] = ProviderError) -> Iterator[type[ProviderError]]:
    """Every class of the tree, wherever it is defined."""
    yield kind
    for derived in kind.__subclasses__():
        if derived.__module__ == adapters.errors.__name__:
            yield from provider_errors(derived)


def test_nothing_is_admitted_after_the_last_failure_that_is_borne(breaker: Breaker) -> None:
    """Two failures are borne; the third, once recorded, shuts the door."""
    fail(breaker, 2)
    assert breaker.is_ready

    fail(breaker)

    assert not breaker.is_ready
    with pytest.raises(BreakerOpen, match="gpt is left alone after ProviderUnavailable, 3 times"):
        breaker.admit()


def test_calls_in_flight_arrive_at_an_open_breaker_without_a_vote(
    breaker: Breaker, clock: FakeClock
) -> None:
    """Their failures do not push the probe away, and their successes do not close it."""
    late = [breaker.admit() for _ in range(4)]
    fail(breaker, 3)
    opened = breaker.state
    clock.advance(29)

    for ticket, outcome in zip(late, VOTES, strict=True):
        breaker.settle(ticket, outcome)

    assert breaker.state.state == "open"
    assert breaker.state.probe_in_s == 1
    assert opened.probe_in_s == 30


def test_a_success_starts_the_count_anew(breaker: Breaker) -> None:
    """Only failures in a row open it, as long as they are few among many."""
    for _ in range(3):
        fail(breaker, 2)
        breaker.settle(breaker.admit(), "success")

    assert is_closed(breaker)


def test_neutral_results_have_no_vote(breaker: Breaker) -> None:
    """They neither fail nor break a row of failures."""
    fail(breaker, 2)
    for _ in range(50):
        breaker.settle(breaker.admit(), "neutral")
    assert is_closed(breaker)

    fail(breaker)

    assert breaker.state.state == "open"


def test_it_opens_when_half_of_many_calls_fail(breaker: Breaker) -> None:
    """Every other call fails: never three in a row, and no reason to go on."""
    for _ in range(10):
        assert is_closed(breaker)
        breaker.settle(breaker.admit(), "success")
        fail(breaker)

    assert breaker.state.state == "open"
    assert breaker.state.why == (
        "10 failures in 20 calls within 60 s, the last: ProviderUnavailable"
    )


def test_a_share_below_the_limit_is_borne(breaker: Breaker) -> None:
    """Two calls of five fail, for as long as you like."""
    for _ in range(200):
        for outcome in ("failure", "success", "failure", "success", "success"):
            breaker.settle(breaker.admit(), outcome)

    assert is_closed(breaker)


def test_calls_that_left_the_window_do_not_count(breaker: Breaker, clock: FakeClock) -> None:
    """Half of all calls fail, but there are never twenty within a minute."""
    for _ in range(100):
        clock.advance(4)
        breaker.settle(breaker.admit(), "success")
        fail(breaker)
        clock.advance(4)

    assert is_closed(breaker)


def test_old_successes_do_not_excuse_failures(breaker: Breaker, clock: FakeClock) -> None:
    """What worked more than a minute ago does not count against what fails now."""
    for _ in range(40):
        breaker.settle(breaker.admit(), "success")
    clock.advance(61)

    for _ in range(10):
        breaker.settle(breaker.admit(), "success")
        fail(breaker)

    assert breaker.state.state == "open"


def test_old_failures_are_forgiven(breaker: Breaker, clock: FakeClock) -> None:
    """Nine of eighteen failed more than a minute ago; two of twenty are no reason to open."""
    for _ in range(9):
        breaker.settle(breaker.admit(), "success")
        fail(breaker)
    clock.advance(61)

    for number in range(20):
        breaker.settle(breaker.admit(), "success" if number % 10 else "failure")

    assert is_closed(breaker)


def test_the_window_slides(breaker: Breaker, clock: FakeClock) -> None:
    """What leaves it takes nothing younger along: nineteen calls still count."""
    breaker.settle(breaker.admit(), "success")
    clock.advance(50)
    for number in range(19):
        breaker.settle(breaker.admit(), "failure" if number % 2 else "success")
    clock.advance(11)
    assert is_closed(breaker)

    fail(breaker)

    assert breaker.state.state == "open"


def test_the_window_begins_anew_when_it_closes(breaker: Breaker, clock: FakeClock) -> None:
    """What opened it does not open it again at the first failure after it has recovered."""
    for _ in range(10):
        breaker.settle(breaker.admit(), "success")
        fail(breaker)
    clock.advance(30)
    breaker.settle(breaker.admit(), "success")

    fail(breaker)

    assert is_closed(breaker)


def test_a_good_probe_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    """Everyone may call again, and the failures before are forgotten."""
    fail(breaker, 3)
    clock.advance(30)

    breaker.settle(breaker.admit(), "success")

    assert breaker.state.state == "closed"
    assert breaker.state.why == ""
    assert breaker.state.probe_in_s is None
    fail(breaker, 2)
    assert is_closed(breaker)


def test_each_failed_probe_doubles_the_wait_up_to_a_limit(
    breaker: Breaker, clock: FakeClock
) -> None:
    """A deployment that stays down is asked less and less often."""
    fail(breaker, 3)
    waits = []
    for _ in range(6):
        wait_s = breaker.state.probe_in_s
        assert wait_s is not None
        waits.append(wait_s)
        clock.advance(wait_s)
        fail(breaker, why="ProviderTimeout")

    assert waits == [30, 60, 120, 240, 300, 300]
    assert breaker.state.why == "a failed probe: ProviderTimeout"


def test_a_recovery_makes_the_wait_short_again(breaker: Breaker, clock: FakeClock) -> None:
    """The next outage begins with the configured time."""
    fail(breaker, 3)
    clock.advance(30)
    fail(breaker)
    clock.advance(60)
    breaker.settle(breaker.admit(), "success")

    fail(breaker, 3)

    assert breaker.state.probe_in_s == 30


def test_a_deployment_is_parked_by_one_failure_that_time_does_not_mend(
    breaker: Breaker, clock: FakeClock
) -> None:
    """A key that is refused or a quota that is spent is not tried again for long."""
    breaker.settle(breaker.admit(), "park", "AuthenticationFailed")

    assert breaker.state.probe_in_s == LONGEST * CONFIG.open_s
    with pytest.raises(BreakerOpen, match="after AuthenticationFailed") as refused:
        breaker.admit()
    assert (refused.value.deployment, refused.value.retry_after_s) == ("gpt", 300)
    clock.advance(300)
    breaker.settle(breaker.admit(), "success")
    assert is_closed(breaker)


def test_the_failure_that_opens_a_breaker_may_park_it(breaker: Breaker) -> None:
    """The third in a row is a refused key: pybreaker has opened the circuit by then."""
    fail(breaker, 2)

    breaker.settle(breaker.admit(), "park", "PermissionDenied")

    assert breaker.state.probe_in_s == 300


def test_no_circuit_is_kept_in_redis() -> None:
    """Whose client takes 6 MB, is not loaded for it where it is installed."""
    assert not sys.modules["pybreaker"].HAS_REDIS_SUPPORT


async def test_one_of_a_thousand_tasks_probes(breaker: Breaker, clock: FakeClock) -> None:
    """All the others are refused at once, whatever the order in which they come."""
    fail(breaker, 3)
    clock.advance(30)
    probes: list[Ticket] = []

    async def call() -> None:
        await asyncio.sleep(0)
        try:
            ticket = breaker.admit()
        except BreakerOpen:
            return
        probes.append(ticket)
        await asyncio.sleep(0)

    await asyncio.gather(*(call() for _ in range(1000)))

    assert len(probes) == 1
    assert probes[0].is_probe


def test_one_of_thirty_two_threads_probes() -> None:
    """The gate holds between threads, round after round."""
    clock = FakeClock()
    breaker = Breaker(CONFIG, clock, deployment="gpt")
    rounds, barrier = 40, threading.Barrier(32, timeout=60)
    all_run = threading.Barrier(33, timeout=60)
    admitted: list[Ticket] = []
    counts: list[int] = []

    def call() -> None:
        all_run.wait()
        for _ in range(rounds):
            if barrier.wait() == 0:  # one of them prepares the round
                for ticket in admitted:
                    breaker.settle(ticket, "success")
                admitted.clear()
                fail(breaker, 3)
                clock.advance(30)
            barrier.wait()
            with suppress(BreakerOpen):
                admitted.append(breaker.admit())
            if barrier.wait() == 0:
                counts.append(len(admitted))

    threads = [threading.Thread(target=call) for _ in range(32)]
    for thread in threads:
        thread.start()
    with often_switched():
        all_run.wait()
        for thread in threads:
            thread.join()

    assert counts == [1] * rounds


def test_a_probe_that_is_not_heard_of_gives_up_its_place(
    breaker: Breaker, clock: FakeClock
) -> None:
    """A lost call holds nobody up for longer than its ticket lasts, and then has no vote."""
    fail(breaker, 3)
    clock.advance(30)
    lost = breaker.admit()
    with pytest.raises(BreakerOpen, match="a probe is under way") as refused:
        breaker.admit()
    assert refused.value.retry_after_s == CONFIG.probe_s

    clock.advance(10)
    second = breaker.admit()
    breaker.settle(lost, "success")

    assert breaker.state.state == "half_open"
    assert not breaker.is_ready
    breaker.settle(second, "failure")
    assert breaker.state.state == "open"


def test_a_late_probe_that_nobody_replaced_still_tells(breaker: Breaker, clock: FakeClock) -> None:
    """It took longer than its place was kept, but nothing newer is known."""
    fail(breaker, 3)
    clock.advance(30)
    probe = breaker.admit()
    clock.advance(60)

    breaker.settle(probe, "success")

    assert is_closed(breaker)


def test_a_neutral_probe_frees_its_place(breaker: Breaker, clock: FakeClock) -> None:
    """A cancelled probe said nothing: the next call is the probe."""
    fail(breaker, 3)
    clock.advance(30)

    breaker.settle(breaker.admit(), "neutral")

    assert breaker.state.state == "half_open"
    assert breaker.state.probe_in_s == 0
    assert breaker.admit().is_probe


def test_a_ticket_is_settled_once(breaker: Breaker) -> None:
    """The second time, on the way out of a `finally`, counts nothing."""
    ticket = breaker.admit()

    for _ in range(10):
        breaker.settle(ticket, "failure")

    assert is_closed(breaker)


def test_an_outcome_that_is_none_counts_as_a_failure(breaker: Breaker, clock: FakeClock) -> None:
    """Whoever judges a call may be wrong; the probe's place is freed all the same."""
    fail(breaker, 3)
    clock.advance(30)

    breaker.settle(breaker.admit(), None)  # type: ignore[arg-type]  # that is the point

    assert breaker.state.state == "open"


def test_the_state_can_be_shown(breaker: Breaker, clock: FakeClock) -> None:
    """What it is, why, since when, and when it probes next: all of it JSON."""
    fail(breaker, 3)
    clock.advance(12)

    shown = json.loads(json.dumps(asdict(breaker.state)))

    assert shown == {
        "state": "open",
        "why": "ProviderUnavailable, 3 times in a row",
        "since_s": 12,
        "probe_in_s": 18,
    }


def test_the_state_says_since_when(breaker: Breaker, clock: FakeClock) -> None:
    """Each state counts its own time."""
    ages = []
    clock.advance(5)
    fail(breaker, 3)
    clock.advance(31)
    ages.append(breaker.state.since_s)
    probe = breaker.admit()
    clock.advance(2)
    ages.append(breaker.state.since_s)
    breaker.settle(probe, "success")
    clock.advance(3)
    ages.append(breaker.state.since_s)

    assert ages == [31, 2, 3]


def test_one_failure_is_not_called_a_row(clock: FakeClock) -> None:
    """With `failures: 1` the reason is the failure itself."""
    breaker = Breaker(BreakerConfig(failures=1), clock, deployment="gpt")

    fail(breaker, why="ConnectionFailed")

    assert breaker.state.why == "ConnectionFailed"


def test_asking_whether_it_is_ready_changes_nothing(breaker: Breaker, clock: FakeClock) -> None:
    """Routing may ask as often as it likes, and takes nobody's probe."""
    fail(breaker, 3)
    clock.advance(30)

    assert [breaker.is_ready for _ in range(3)] == [True, True, True]
    assert breaker.state.state == "open"
    assert breaker.admit().is_probe


def test_every_provider_error_has_an_outcome() -> None:
    """A class that is added to the tree has to be thought about here."""
    assert set(OUTCOMES) == set(provider_errors())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "success"),
        (ProviderUnavailable("down"), "failure"),
        (RateLimited("slow down"), "neutral"),
        (ContentFiltered("no"), "neutral"),
        (AuthenticationFailed("no"), "park"),
        (asyncio.CancelledError(), "neutral"),
        (KeyboardInterrupt(), "neutral"),
        (LedgerError("locked"), "neutral"),
        (type("Newer", (ProviderUnavailable,), {})("down"), "failure"),
    ],
)
def test_an_outcome_is_what_an_error_says_about_the_deployment(
    error: BaseException | None, outcome: Outcome
) -> None:
    """The provider's fault counts; the caller's and ours do not."""
    assert outcome_of(error) == outcome


def test_a_timeout_at_the_end_of_the_run_is_nobodys_fault() -> None:
    """The caller says that it was its own deadline; other errors mean what they mean."""
    assert outcome_of(ProviderTimeout("late")) == "failure"
    assert outcome_of(ProviderTimeout("late"), at_deadline=True) == "neutral"
    assert outcome_of(ProviderUnavailable("down"), at_deadline=True) == "failure"


def test_an_odd_class_of_error_is_judged_all_the_same() -> None:
    """Asking what it is an instance of may fail; its line of descent cannot."""

    class Odd(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise RuntimeError("odd")

        __subclasscheck__ = __instancecheck__

    class OddError(ProviderUnavailable, metaclass=Odd):
        pass

    assert outcome_of(OddError("down"), at_deadline=True) == "failure"


def test_no_walk_gets_it_stuck(thorough: bool) -> None:
    """Whatever happens to tickets: one live probe, no vote for the stale, always a way back."""
    steps = 1_000_000 if thorough else 100_000
    chance, clock = random.Random(8), FakeClock()
    breaker = Breaker(CONFIG, clock, deployment="gpt")
    out: list[tuple[Ticket, int]] = []  # tickets, with the era in which they were given
    era, probe_until_s, opened = 0, -1.0, 0

    for _ in range(steps):
        kind = chance.random()
        if kind < 0.5:
            ready, before = breaker.is_ready, breaker.state
            ticket = attempt(breaker)
            assert ready == isinstance(ticket, Ticket)
            if isinstance(ticket, BreakerOpen):
                assert ticket.retry_after_s is not None
                assert 0 < ticket.retry_after_s <= LONGEST * CONFIG.open_s
                if kind < 0.1:  # the time it gives is a promise
                    clock.advance(ticket.retry_after_s)
                    assert breaker.is_ready
                continue
            assert ticket.is_probe == (before.state != "closed")
            if ticket.is_probe:
                assert clock.monotonic() >= probe_until_s, "two probes at a time"
                probe_until_s, era = ticket.expires_s, era + 1
            out.append((ticket, era))
        elif kind < 0.9 and out:
            ticket, given = out.pop(chance.randrange(len(out)))
            before = breaker.state
            breaker.settle(ticket, chance.choices(VOTES, (5, 4, 0.2, 2))[0])
            if given != era:
                assert breaker.state == before, "a stale result has a vote"
            elif ticket.is_probe:
                probe_until_s, era = -1.0, era + 1
            elif breaker.state.state != before.state:
                era, opened = era + 1, opened + 1
        elif kind < 0.92 and out:
            out.pop(chance.randrange(len(out)))  # a call that is never heard of again
        else:
            clock.advance(chance.choice((0.125, 1.0, 10.0)))  # exact, as floats go

    assert opened > steps / 1000


class AgainstTheRules(RuleBasedStateMachine):
    """The breaker beside its rules written down as plainly as possible."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(CONFIG, self.clock, deployment="gpt")
        self.state = "closed"
        self.results: list[tuple[float, bool]] = []  # since it was last opened or closed
        self.row = 0
        self.due_s = 0.0
        self.times = 1
        self.valid: list[Ticket] = []  # those that have a vote
        self.stale: list[Ticket] = []
        self.probe: Ticket | None = None

    @property
    def may_call(self) -> bool:
        if self.state == "closed":
            return True
        now_s = self.clock.monotonic()
        return now_s >= (self.due_s if self.probe is None else self.probe.expires_s)

    @rule()
    def call(self) -> None:
        if not self.may_call:
            with pytest.raises(BreakerOpen):
                self.breaker.admit()
            return
        ticket = self.breaker.admit()
        if self.state != "closed":
            self.stale += self.valid
            self.valid = []
            self.state, self.probe = "half_open", ticket
        self.valid.append(ticket)

    @precondition(lambda self: self.valid)
    @rule(at=st.integers(0, 1000), outcome=st.sampled_from(VOTES))
    def settle(self, at: int, outcome: Outcome) -> None:
        ticket = self.valid.pop(at % len(self.valid))
        self.breaker.settle(ticket, outcome)
        self.stale.append(ticket)
        was_probe, self.probe = self.probe is not None, None
        if outcome == "neutral":
            return
        self.results.append((self.clock.monotonic(), outcome != "success"))
        self.row = 0 if outcome == "success" else self.row + 1
        if outcome == "park":
            self.turn("open", LONGEST)
        elif was_probe and outcome == "failure":
            self.turn("open", min(LONGEST, 2 * self.times))
        elif was_probe:
            self.turn("closed", 1)
        elif self.row >= CONFIG.failures or self.share_is_bad():
            self.turn("open", 1)

    def share_is_bad(self) -> bool:
        now_s = self.clock.monotonic()
        recent = [failed for at_s, failed in self.results if at_s > now_s - CONFIG.window_s]
        return len(recent) >= CONFIG.calls and sum(recent) >= len(recent) / 2

    def turn(self, state: str, times: int) -> None:
        self.state, self.times, self.row, self.results = state, times, 0, []
        self.due_s = self.clock.monotonic() + times * CONFIG.open_s
        self.stale += self.valid
        self.valid = []

    @precondition(lambda self: self.stale)
    @rule(at=st.integers(0, 1000), outcome=st.sampled_from(VOTES))
    def settle_late_or_twice(self, at: int, outcome: Outcome) -> None:
        self.breaker.settle(self.stale[at % len(self.stale)], outcome)

    @rule(seconds=st.sampled_from((1, 10, 30, 300)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state.state == self.state
        assert self.breaker.is_ready == self.may_call


TestAgainstTheRules = AgainstTheRules.TestCase
