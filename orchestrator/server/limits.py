"""How often a key may ask, with how many tokens a minute, with how many replies streaming at once.

Nobody waits here: whoever is over a limit is told at once, and when to come again. It is counted in
this process and on one event loop, and in Redis for all processes where there is one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import orjson

from orchestrator.clock import Clock, new_nonce
from orchestrator.pacing import Moment, Window
from orchestrator.server.keys import KeyRecord
from orchestrator.shared_windows import STREAMS, SharedWindows, Stream, Use, Verdict
from orchestrator.wire.bounds import check_bounds
from orchestrator.wire.errors import Refused

BYTES_A_TOKEN = 4
LONGEST_STREAM_S = 600.0
_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MOST_TOKENS = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a request would take of a key's limits.

    Attributes:
        tokens: An estimate, prompt and answers; what was really used is counted in its place.
        is_streamed: Whether the reply is to come as it is written.
    """

    tokens: int = 0
    is_streamed: bool = False


def load_of(body: bytes) -> Load:
    """What a request would take, as far as its body says; what is no request takes nothing.

    >>> load_of(b'{"messages": [], "max_tokens": 100, "n": 2, "stream": true}')
    Load(tokens=215, is_streamed=True)
    """
    try:
        check_bounds(body)
        asked = orjson.loads(body)
    except (Refused, orjson.JSONDecodeError):
        return Load()
    if not isinstance(asked, dict):
        return Load()
    longest = max(_count(asked.get(name)) for name in _MAX_TOKENS)
    tokens = ceil(len(body) / BYTES_A_TOKEN) + longest * max(1, _count(asked.get("n")))
    return Load(tokens=min(tokens, _MOST_TOKENS), is_streamed=asked.get("stream") is True)


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


class Ticket:
    """A request that was let in. It is left once; a second time does nothing.

    Attributes:
        headers: How much of the key's minute is left, in OpenAI's words.
    """

    def __init__(
        self,
        leave_with: Callable[[int | None], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self._leave_with = leave_with
        self._used: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def count(self, tokens: int) -> None:
        """So many tokens were used, beside those that were counted before."""
        self._used = (self._used or 0) + max(tokens, 0)

    def leave(self) -> None:
        """Make room for another stream, and count what was used instead of what was estimated.

        Where nobody has counted, the estimate stands.
        """
        leave_with, self._leave_with = self._leave_with, None
        if leave_with is not None:
            leave_with(self._used)


class KeyLimits:
    """The limits of all keys.

    >>> import asyncio
    >>> from datetime import UTC, datetime
    >>> from orchestrator.clock import FakeClock
    >>> record = KeyRecord(
    ...     id="0" * 12,
    ...     sha256="0" * 64,
    ...     tenant="acme",
    ...     created=datetime(2026, 1, 1, tzinfo=UTC),
    ...     requests_per_minute=1,
    ... )
    >>> limits = KeyLimits(FakeClock())
    >>> with limits.enter(record, Load(tokens=10)) as ticket:
    ...     ticket.headers["x-ratelimit-remaining-requests"]
    '0'
    >>> asyncio.run(limits.admit(record, Load(tokens=10)))
    Traceback (most recent call last):
    orchestrator.wire.errors.Refused: This key has used up its 1 request a minute; there is room ...

    Args:
        clock: Where the time comes from.
        shared: Where all processes count together; it has the last word as long as it answers.
        processes: How many count each for itself without it; each has that part of every limit.
        longest_s: How long a stream counts as open in `shared` whose process has ended.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        shared: SharedWindows | None = None,
        processes: int = 1,
        longest_s: float = LONGEST_STREAM_S,
    ) -> None:
        self._clock = clock
        self._shared = shared
        self._processes = processes
        self._longest_s = longest_s
        self._accounts: dict[str, _Account] = {}

    async def admit(self, record: KeyRecord | None, load: Load) -> Ticket:
        """Let a request in, if all processes together may; one without a key has no limits here.

        Raises:
            Refused: it is over a limit of its key; nothing is counted.
        """
        if record is None or self._shared is None:
            return self.enter(record, load)
        account = self._account(record)
        account.check(record, load)
        uses = account.uses(record.id, load)
        stream = None
        if load.is_streamed:
            stream = Stream(record.id, new_nonce(), record.open_streams, self._longest_s)
        if not uses and stream is None:
            return account.take(record, load)
        verdict = await self._shared.take(uses, stream)
        if verdict is None:
            return account.enter(record, load, self._shared.share)
        minute = account.minute_of(verdict)
        if verdict.full is not None:
            _refuse(record, minute, verdict.full, verdict.wait_s)
        ticket = account.take(record, load)
        counted = _Counted(self._shared, record, load, verdict.moment, stream, ticket)
        return Ticket(counted.leave, _headers(minute))

    def enter(self, record: KeyRecord | None, load: Load) -> Ticket:
        """Let a request in, if this process may.

        Raises:
            Refused: as `admit`.
        """
        if record is None:
            return Ticket()
        return self._account(record).enter(record, load, self._processes)

    def _account(self, record: KeyRecord) -> "_Account":
        account = self._accounts.get(record.id)
        if account is None:
            account = self._accounts[record.id] = _Account(self._clock)
        account.fit(record)
        return account


@dataclass(frozen=True, slots=True)
class _Counted:
    """A request that was counted by all processes together, and by this one."""

    shared: SharedWindows
    record: KeyRecord
    load: Load
    moment: int
    stream: Stream | None
    ticket: Ticket

    def leave(self, used: int | None) -> None:
        if self.stream is not None:
            self.shared.leave(self.stream)
        if used is not None:
            self.ticket.count(used)
            if self.record.tokens_per_minute is not None:
                name = _window(self.record.id, "token")
                self.shared.correct(name, self.moment, used - self.load.tokens)
        self.ticket.leave()


class _Part(NamedTuple):
    """How much of a key's minute there is and is left, and when all of it is there again."""

    noun: str
    per_minute: int
    left: int
    empties_s: float


class _Account:
    """What a key has used up within the last minute, and how many of its streams are open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests: Window | None = None
        self._tokens: Window | None = None
        self._open_streams = 0

    def fit(self, record: KeyRecord) -> None:
        """The limits are what they are now; what was used stays used."""
        self._requests = _fit(self._requests, record.requests_per_minute)
        self._tokens = _fit(self._tokens, record.tokens_per_minute)

    def check(self, record: KeyRecord, load: Load, share: int = 1) -> None:
        """Refuse what has no room however much of the minute is left."""
        if load.is_streamed and self._open_streams >= max(1, record.open_streams // share):
            _refuse(record, self._minute(share), STREAMS, 1.0)
        if self._tokens and load.tokens > self._tokens.per_minute:
            raise Refused(
                f"This request may use {_say(load.tokens, 'token')}, and its key has "
                f"{self._tokens.per_minute:,} a minute; lower max_tokens, or shorten it",
                status=429,
                kind="rate_limit_error",
                code="request_too_large",
                headers={**_headers(self._minute(share)), "x-should-retry": "false"},
            )

    def enter(self, record: KeyRecord, load: Load, share: int) -> Ticket:
        """Let a request in, if one of so many processes may."""
        self.check(record, load, share)
        now_s = self._clock.monotonic()
        for place, (noun, window) in enumerate(self._windows()):
            amount = 1 if noun == "request" else min(load.tokens, window.limit(share))
            if (wait_s := window.wait_s(amount, now_s, share)) > 0:
                _refuse(record, self._minute(share), place, wait_s)
        return self.take(record, load, share)

    def take(self, record: KeyRecord, load: Load, share: int = 1) -> Ticket:
        """Count a request that was let in."""
        now_s = self._clock.monotonic()
        used_in = (self._tokens, self._tokens.use(load.tokens, now_s)) if self._tokens else None
        if self._requests:
            self._requests.use(1, now_s)
        self._open_streams += load.is_streamed
        return Ticket(partial(self._leave, load, used_in), _headers(self._minute(share)))

    def uses(self, key_id: str, load: Load) -> list[Use]:
        """What a request takes of the windows that all processes share."""
        amounts = {"request": 1, "token": load.tokens}
        return [
            Use(_window(key_id, noun), window.per_minute, amounts[noun])
            for noun, window in self._windows()
        ]

    def minute_of(self, verdict: Verdict) -> list[_Part]:
        """What all processes together have left."""
        return [
            _Part(noun, window.per_minute, max(0, window.per_minute - used), empties_s)
            for (noun, window), (used, empties_s) in zip(
                self._windows(), verdict.filled, strict=True
            )
        ]

    def _minute(self, share: int) -> list[_Part]:
        """What one of so many processes has left."""
        now_s = self._clock.monotonic()
        return [
            _Part(noun, window.limit(share), window.left(now_s, share), window.empties_s(now_s))
            for noun, window in self._windows()
        ]

    def _windows(self) -> list[tuple[str, Window]]:
        pairs = (("request", self._requests), ("token", self._tokens))
        return [(noun, window) for noun, window in pairs if window]

    def _leave(self, load: Load, used_in: tuple[Window, Moment] | None, used: int | None) -> None:
        self._open_streams -= load.is_streamed
        if used_in and used is not None:  # the limit, and so the window, may be another by now
            window, moment = used_in
            window.correct(moment, used - load.tokens, self._clock.monotonic())


def _refuse(record: KeyRecord, minute: Sequence[_Part], place: int, wait_s: float) -> NoReturn:
    """Refuse a request for which a part of the minute, or a stream, has no room."""
    code, after = "rate_limit_exceeded", str(max(1, ceil(wait_s)))
    if place == STREAMS:
        code = "too_many_streams"
        said = (
            f"This key has {_say(record.open_streams, 'stream')} open, as many as it may; "
            "read one to its end, or close it"
        )
    else:
        said = (
            f"This key has used up its {_say(minute[place].per_minute, minute[place].noun)} a "
            f"minute; there is room in {wait_s:.1f} s"
        )
    raise Refused(
        said,
        status=429,
        kind="rate_limit_error",
        code=code,
        headers={**_headers(minute), "retry-after": after},
    )


def _headers(minute: Sequence[_Part]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for part in minute:
        headers[f"x-ratelimit-limit-{part.noun}s"] = str(part.per_minute)
        headers[f"x-ratelimit-remaining-{part.noun}s"] = str(part.left)
        headers[f"x-ratelimit-reset-{part.noun}s"] = duration(part.empties_s)
    return headers


def _window(key_id: str, noun: str) -> str:
    return f"{noun}s:key:{key_id}"


def _fit(window: Window | None, per_minute: int | None) -> Window | None:
    """The window for a limit: the one that there is, unless the limit has changed since."""
    if window is not None and window.per_minute == per_minute:
        return window
    return Window.of(per_minute)


def _say(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, never too short.

    >>> duration(0), duration(0.0201), duration(8.64), duration(60), duration(360.5)
    ('0s', '21ms', '8.64s', '1m0s', '6m0.5s')
    """
    milliseconds = ceil(round(seconds * 1000, 3))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
