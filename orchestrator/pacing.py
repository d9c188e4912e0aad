"""How fast a deployment may be called: requests and tokens a minute, calls at a time, pauses.

Whoever finds no room waits in line, first come, first served, or is told at once that the wait is
longer than there is time for. All of it belongs to one event loop. Where Redis counts the rates for
several processes, it has the last word; how many calls go at a time is each process's own.
"""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

from adapters.config import RatesConfig
from orchestrator.clock import Clock
from orchestrator.errors import RateExceeded
from orchestrator.shared_windows import SharedWindows, Use

# How a call ended, as far as its pace is concerned; `unsent` gives back all that was taken for it.
Ending: TypeAlias = Literal["ok", "rate_limited", "other", "unsent"]

CONCURRENCY = 500  # calls at a time where nothing is configured: aiohttp opens no more to one host
PAUSE_MAX_S = 600.0  # longer than that, and it is worth asking again what was meant
REQUESTS, TOKENS = "requests", "tokens"
OUT_OF_REQUESTS, OUT_OF_TOKENS = (f"has used up its {one} a minute" for one in (REQUESTS, TOKENS))
OWN_PAUSE_S, OWN_PAUSE_MAX_S = 0.5, 30.0  # for whoever refuses every call
MINUTE_MS = 60_000
ASKING_S = 0.5  # to ask Redis takes less than a hundredth of that
ASKS_AGAIN_S = 1.0  # others may have given back what we wait for
MOMENT_MS = 50  # what is used within such a moment is remembered as one


@dataclass(slots=True, eq=False)
class Slot:
    """A place among the calls in flight. It is left once; a second time does nothing."""

    leave_with: Callable[["Slot", Ending, int | None], None]
    tokens: int
    epoch: int
    request_moment: "Moment | None"
    tokens_moment: "Moment | None"
    shared_moment: int | None = None  # when Redis has counted it
    is_left: bool = False

    def leave(self, ending: Ending, tokens_used: int | None = None) -> None:
        """Make room; on every path, or the place is lost.

        Args:
            ending: `ok` may widen how many calls go at a time, `rate_limited` halves it.
            tokens_used: What the call really used, if that is known: the rest is given back.
        """
        if not self.is_left:
            self.is_left = True
            self.leave_with(self, ending, tokens_used)


class Pace:
    """Keep a deployment's calls within its rates, and adapt how many go at a time.

    The limit of calls at a time starts at its ceiling, `rates.concurrency`. A 429 halves it, once
    for all the calls that were in flight together; each full round of successes at the limit adds
    one. A 429 after another, with no success between, pauses all calls, each time for twice as
    long: who says no to whatever is sent is not asked at every turn. Where nothing is limited,
    entering costs next to nothing.

    >>> from orchestrator.clock import FakeClock
    >>> async def calls() -> None:
    ...     pace = Pace(RatesConfig(requests_per_minute=1), FakeClock(), deployment="gpt")
    ...     (await pace.enter(1000, until_s=30)).leave("ok")
    ...     await pace.enter(1000, until_s=30)
    >>> asyncio.run(calls())
    Traceback (most recent call last):
    orchestrator.errors.RateExceeded: gpt has used up its requests a minute; there is room in 60.0 s
    """

    def __init__(
        self,
        rates: RatesConfig,
        clock: Clock,
        *,
        deployment: str,
        shared: SharedWindows | None = None,
    ) -> None:
        self._clock = clock
        self._deployment = deployment
        self._ceiling = rates.concurrency or CONCURRENCY
        self._limit = self._ceiling
        self._in_flight = 0
        self._epoch = 0  # how often the limit has been lowered
        self._successes = 0  # at the limit, since it was changed
        self._refusals = 0  # rounds of calls with a 429 among them, since the last success
        self._resumes_s = 0.0
        self._requests = Window.of(rates.requests_per_minute)
        self._tokens = Window.of(rates.tokens_per_minute)
        self._shared = shared if self._requests or self._tokens else None
        self._share = 1  # of how many processes this is one, while Redis does not answer
        self._room = _Room()  # when Redis said that there is room
        self._line: deque[_Waiter] = deque()
        self._tokens_in_line = 0

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""
        return self._in_flight

    @property
    def limit(self) -> int:
        """How many may be, for now."""
        return self._limit

    async def enter(self, tokens: int, until_s: float) -> Slot:
        """Wait for room for a call, and take it.

        Args:
            tokens: An estimate of what it will use, prompt and answer.
            until_s: How long it may wait, on the monotonic clock.

        Raises:
            RateExceeded: there is no room until then; raised as soon as that is known.
        """
        waiter = _Waiter(tokens)
        if self._shared and not self._is_full:  # to ask those before us first is not to wait
            until_s = max(until_s, self._clock.monotonic() + ASKING_S)
        if not (self._seems_free(tokens) and await self._ask_beside(waiter)):
            await self._stand_in_line(waiter, until_s)
        return self._take(tokens, waiter.shared_moment)

    def pause(self, seconds: float) -> None:
        """Start no call for so long: the provider's Retry-After. A pause never gets shorter."""
        if seconds > 0:
            ends_s = self._clock.monotonic() + min(seconds, PAUSE_MAX_S)
            self._resumes_s = max(self._resumes_s, ends_s)
            for waiter in self._line:  # some may learn that it is too long for them
                waiter.ring()

    @property
    def _is_full(self) -> bool:
        return self._in_flight >= self._limit

    def _seems_free(self, tokens: int) -> bool:
        """Whether there is room, as far as is known here."""
        return not (
            self._line
            or self._is_full
            or self._wait(1, tokens).seconds > 0
            or self._room.wait(self._clock.monotonic()).seconds > 0
        )

    async def _ask_beside(self, waiter: "_Waiter") -> bool:
        """Whether Redis lets a call in; many are asked for at once, as long as all are let in."""
        if self._shared is None:
            return True
        self._in_flight += 1  # its place is taken meanwhile
        try:
            return await self._is_counted(waiter)
        finally:
            self._in_flight -= 1
            self._ring_first()

    def _wait(self, requests: int, tokens: int, share: int = 1) -> "_Wait":
        """How long until the rates have room for so much, were it next; and for what reason."""
        now_s = self._clock.monotonic()
        wait = _Wait(max(0.0, self._resumes_s - now_s), "asked for a pause")
        if self._requests:
            seconds = self._requests.wait_s(requests, now_s, share)
            wait = max(wait, _Wait(seconds, OUT_OF_REQUESTS))
        if self._tokens:
            seconds = self._tokens.wait_s(tokens, now_s, share)
            wait = max(wait, _Wait(seconds, OUT_OF_TOKENS))
        return wait

    def _wait_of(self, waiter: "_Waiter") -> "_Wait":
        """The same for who is first in line, with what Redis has said, or our share without it."""
        tokens = waiter.tokens
        if self._tokens and self._share > 1:  # what fits into a minute is not refused for ever
            tokens = min(tokens, self._tokens.limit(self._share))
        return max(self._wait(1, tokens, self._share), self._room.wait(self._clock.monotonic()))

    async def _stand_in_line(self, waiter: "_Waiter", until_s: float) -> None:
        """Wait until everyone before has entered and there is room, or refuse."""
        self._refuse_the_impossible(waiter.tokens, until_s)
        self._line.append(waiter)
        self._tokens_in_line += waiter.tokens
        try:
            while not (self._may_enter(waiter) and await self._is_counted(waiter)):
                limit_s = self._patience_s(waiter, until_s)
                await self._clock.first_done([waiter.new_bell()], limit_s)
        finally:
            self._line.remove(waiter)
            self._tokens_in_line -= waiter.tokens
            self._ring_first()

    def _refuse_the_impossible(self, tokens: int, until_s: float) -> None:
        if self._tokens and tokens > self._tokens.per_minute:
            raise RateExceeded(
                f"{self._deployment} may use {self._tokens.per_minute:,} tokens a minute; "
                f"a call of {tokens:,} never fits",
                deployment=self._deployment,
            )
        wait = self._wait(len(self._line) + 1, self._tokens_in_line + tokens)
        now_s = self._clock.monotonic()
        if self._line:  # the first has asked Redis, and nobody enters before
            wait = max(wait, self._room.wait(now_s))
        if wait.seconds > until_s - now_s:
            raise self._refusal(wait)

    def _may_enter(self, waiter: "_Waiter") -> bool:
        return (
            self._line[0] is waiter
            and not self._is_full
            and self._wait(1, waiter.tokens).seconds <= 0
        )

    async def _is_counted(self, waiter: "_Waiter") -> bool:
        """Whether the rates of all processes together have room; then it is taken."""
        if self._shared is None:
            return True
        uses = self._uses(waiter.tokens)
        verdict = await self._shared.take([use for use, _ in uses])
        self._share, self._room = 1, _Room()
        if verdict is None:
            self._share = self._shared.share
            return self._wait_of(waiter).seconds <= 0
        if verdict.full is not None:
            ends_s = self._clock.monotonic() + verdict.wait_s
            self._room = _Room(ends_s, uses[verdict.full][1])
            return False
        waiter.shared_moment = verdict.moment
        return True

    def _uses(self, tokens: int) -> list[tuple[Use, str]]:
        """What a call takes of the windows, and what is said where one has no room."""
        return [
            (Use(f"{name}:{self._deployment}", window.per_minute, amount), why)
            for name, window, amount, why in (
                (REQUESTS, self._requests, 1, OUT_OF_REQUESTS),
                (TOKENS, self._tokens, tokens, OUT_OF_TOKENS),
            )
            if window
        ]

    def _patience_s(self, waiter: "_Waiter", until_s: float) -> float:
        """How long it is worth waiting for the bell.

        Raises:
            RateExceeded: no longer.
        """
        is_first = self._line[0] is waiter
        wait = self._wait_of(waiter) if is_first else self._wait(0, 0)
        left_s = until_s - self._clock.monotonic()
        if wait.seconds > max(left_s, 0):
            raise self._refusal(wait)
        if left_s <= 0:
            raise RateExceeded(
                f"{self._deployment} has {self._in_flight} calls under way and "
                f"{len(self._line)} in line; there was no room in time",
                deployment=self._deployment,
            )
        patience_s = wait.seconds or left_s
        return min(patience_s, ASKS_AGAIN_S) if self._shared and is_first else patience_s

    def _refusal(self, wait: "_Wait") -> RateExceeded:
        return RateExceeded(
            f"{self._deployment} {wait.why}; there is room in {wait.seconds:.1f} s",
            deployment=self._deployment,
            retry_after_s=wait.seconds,
        )

    def _take(self, tokens: int, shared_moment: int | None) -> Slot:
        now_s = self._clock.monotonic()
        self._in_flight += 1
        return Slot(
            self._leave,
            tokens,
            self._epoch,
            self._requests.use(1, now_s) if self._requests else None,
            self._tokens.use(tokens, now_s) if self._tokens else None,
            shared_moment,
        )

    def _leave(self, slot: Slot, ending: Ending, tokens_used: int | None) -> None:
        self._adapt(slot, ending)
        self._in_flight -= 1
        now_s = self._clock.monotonic()
        if ending == "unsent":
            tokens_used = 0
            if self._requests and slot.request_moment:
                self._requests.correct(slot.request_moment, -1, now_s)
                self._correct_shared(REQUESTS, slot, -1)
        if self._tokens and slot.tokens_moment and tokens_used is not None:
            difference = max(tokens_used, 0) - slot.tokens
            self._tokens.correct(slot.tokens_moment, difference, now_s)
            self._correct_shared(TOKENS, slot, difference)
        self._ring_first()

    def _correct_shared(self, name: str, slot: Slot, difference: int) -> None:
        if self._shared and slot.shared_moment is not None:
            self._shared.correct(f"{name}:{self._deployment}", slot.shared_moment, difference)

    def _adapt(self, slot: Slot, ending: Ending) -> None:
        """Additive increase, multiplicative decrease. The call itself still counts as in flight."""
        if ending == "ok":
            self._refusals = 0
            if self._is_full and self._limit < self._ceiling:
                self._successes += 1
                if self._successes >= self._limit:
                    self._limit, self._successes = self._limit + 1, 0
        elif ending == "rate_limited" and slot.epoch == self._epoch:
            # Half of what was too much, which may be far below the limit. The others of the same
            # round, refused for the same reason, were started in an older epoch.
            self._limit = max(1, min(self._limit, self._in_flight) // 2)
            self._successes = 0
            self._epoch += 1
            self._refusals += 1
            if self._refusals > 1:
                self.pause(min(OWN_PAUSE_S * 2 ** min(self._refusals - 2, 9), OWN_PAUSE_MAX_S))

    def _ring_first(self) -> None:
        if self._line:
            self._line[0].ring()


class _Wait(NamedTuple):
    seconds: float
    why: str


class _Room(NamedTuple):
    """From when on there is room, as Redis said, and what there was none of."""

    from_s: float = 0.0
    why: str = ""

    def wait(self, now_s: float) -> _Wait:
        return _Wait(max(0.0, self.from_s - now_s), self.why)


@dataclass(slots=True, eq=False)
class _Waiter:
    """Someone in line, the bell that says: look again, and when Redis has counted it."""

    tokens: int
    bell: Future[None] | None = None
    shared_moment: int | None = None

    def new_bell(self) -> Future[None]:
        self.bell = asyncio.get_running_loop().create_future()
        return self.bell

    def ring(self) -> None:
        if self.bell and not self.bell.done():
            self.bell.set_result(None)


@dataclass(slots=True, eq=False)
class Moment:
    """What was used at about the same time; `at_ms` is its end, so that none counts too short."""

    at_ms: int
    used: int = 0


class Window:
    """What was used of a minute's allowance within the last minute, any minute.

    pyrate-limiter's sliding window says what fits and when. Its own log has an entry for every
    token; this one has an entry for every moment, which is small and lets a call be corrected.
    """

    def __init__(self, per_minute: int) -> None:
        # Loading it takes longer than all the rest of the guards, and few deployments have rates.
        from pyrate_limiter import Rate, SlidingWindowLog  # noqa: PLC0415

        self.per_minute = per_minute
        self._rate = Rate
        self._policy = SlidingWindowLog()
        self._moments: deque[Moment] = deque()
        self._used = 0

    @classmethod
    def of(cls, per_minute: int | None) -> "Window | None":
        """One for a limit; none for no limit."""
        return None if per_minute is None else cls(per_minute)

    def limit(self, share: int = 1) -> int:
        """How much a minute has for one of so many processes."""
        return max(1, self.per_minute // share)

    def wait_s(self, amount: int, now_s: float, share: int = 1) -> float:
        """How long until so much more fits; whole minutes for what is more than a minute's."""
        now_ms = self._forget(now_s)
        if amount <= 0:
            return 0.0
        limit = self.limit(share)
        minutes, rest = divmod(amount - 1, limit)
        rates = [self._rate(limit, MINUTE_MS)]
        decision = self._policy.decide(rates, [self._used], rest + 1, now_ms, self._moment_before)
        return (minutes * (MINUTE_MS + 1) + (decision.retry_after_ms or 0)) / 1000

    def left(self, now_s: float, share: int = 1) -> int:
        """How much of the minute's allowance is left."""
        self._forget(now_s)
        return max(0, self.limit(share) - self._used)

    def empties_s(self, now_s: float) -> float:
        """How long until all of the allowance is there again, if nothing more is used."""
        now_ms = self._forget(now_s)
        return (self._moments[-1].at_ms + MINUTE_MS + 1 - now_ms) / 1000 if self._moments else 0.0

    def use(self, amount: int, now_s: float) -> Moment:
        """So much is used now, whether or not it fits."""
        at_ms = -(-int(now_s * 1000) // MOMENT_MS) * MOMENT_MS
        if not self._moments or self._moments[-1].at_ms != at_ms:
            self._moments.append(Moment(at_ms))
        self._moments[-1].used += amount
        self._used += amount
        return self._moments[-1]

    def correct(self, moment: Moment, difference: int, now_s: float) -> None:
        """It was more or less than that; after a minute that is of no interest any more."""
        if moment.at_ms >= self._forget(now_s) - MINUTE_MS:
            moment.used += difference
            self._used += difference

    def _forget(self, now_s: float) -> int:
        """Drop what is older than a minute; the time in milliseconds."""
        now_ms = int(now_s * 1000)
        while self._moments and self._moments[0].at_ms < now_ms - MINUTE_MS:
            self._used -= self._moments.popleft().used
        return now_ms

    def _moment_before(self, offset: int) -> int:
        """When the unit was used that stands so far before the newest: room comes as it leaves."""
        to_leave = self._used - offset
        left = accumulate(moment.used for moment in self._moments)
        return next(
            moment.at_ms
            for moment, used in zip(self._moments, left, strict=True)
            if used >= to_leave
        )
