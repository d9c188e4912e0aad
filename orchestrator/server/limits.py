"""How often a key may ask, with how many tokens a minute, with how many replies streaming at once.

Nobody waits here: whoever is over a limit is told at once, and when to come again. What is counted
is counted in this process and on one event loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import TracebackType
from typing import Any, NoReturn, Self

import orjson

from orchestrator.clock import Clock
from orchestrator.pacing import Moment, Window
from orchestrator.server.keys import KeyRecord
from orchestrator.wire.errors import Refused

BYTES_A_TOKEN = 4
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
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
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
        account: "_Account | None" = None,
        load: Load | None = None,
        used_in: tuple[Window, Moment] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self._account = account
        self._load = load or Load()
        self._used_in = used_in
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
        account, self._account = self._account, None
        if account is not None:
            account.leave(self._load, self._used_in, self._used)


class KeyLimits:
    """The limits of all keys.

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
    >>> limits.enter(record, Load(tokens=10))
    Traceback (most recent call last):
    orchestrator.wire.errors.Refused: This key has used up its 1 request a minute; there is room ...

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def enter(self, record: KeyRecord | None, load: Load) -> Ticket:
        """Let a request in; one without a key has no limits here.

        Raises:
            Refused: it is over a limit of its key; nothing is counted.
        """
        if record is None:
            return Ticket()
        account = self._accounts.get(record.id)
        if account is None:
            account = self._accounts[record.id] = _Account(self._clock)
        return account.enter(record, load)


class _Account:
    """What a key has used up within the last minute, and how many of its streams are open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests: Window | None = None
        self._tokens: Window | None = None
        self._open_streams = 0

    def enter(self, record: KeyRecord, load: Load) -> Ticket:
        self._requests = _fit(self._requests, record.requests_per_minute)
        self._tokens = _fit(self._tokens, record.tokens_per_minute)
        if load.is_streamed and self._open_streams >= record.open_streams:
            raise Refused(
                f"This key has {_say(record.open_streams, 'stream')} open, as many as it may; "
                "read one to its end, or close it",
                status=429,
                kind="rate_limit_error",
                code="too_many_streams",
                headers={"retry-after": "1"},
            )
        now_s = self._clock.monotonic()
        self._refuse_what_does_not_fit(load, now_s)
        tokens = self._tokens
        used_in = (tokens, tokens.use(load.tokens, now_s)) if tokens else None
        if self._requests:
            self._requests.use(1, now_s)
        self._open_streams += load.is_streamed
        return Ticket(self, load, used_in, self._headers(now_s))

    def leave(self, load: Load, used_in: tuple[Window, Moment] | None, used: int | None) -> None:
        self._open_streams -= load.is_streamed
        if used_in and used is not None:  # the limit, and so the window, may be another by now
            window, moment = used_in
            window.correct(moment, used - load.tokens, self._clock.monotonic())

    def _refuse_what_does_not_fit(self, load: Load, now_s: float) -> None:
        if self._tokens and load.tokens > self._tokens.per_minute:
            raise Refused(
                f"This request may use {_say(load.tokens, 'token')}, and its key has "
                f"{self._tokens.per_minute:,} a minute; lower max_tokens, or shorten it",
                status=429,
                kind="rate_limit_error",
                code="request_too_large",
                headers={**self._headers(now_s), "x-should-retry": "false"},
            )
        for window, amount, noun in (
            (self._requests, 1, "request"),
            (self._tokens, load.tokens, "token"),
        ):
            if window and (wait_s := window.wait_s(amount, now_s)) > 0:
                self._refuse(window, noun, wait_s, now_s)

    def _refuse(self, window: Window, noun: str, wait_s: float, now_s: float) -> NoReturn:
        raise Refused(
            f"This key has used up its {_say(window.per_minute, noun)} a minute; there is room in "
            f"{wait_s:.1f} s",
            status=429,
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={**self._headers(now_s), "retry-after": str(max(1, ceil(wait_s)))},
        )

    def _headers(self, now_s: float) -> dict[str, str]:
        headers: dict[str, str] = {}
        for noun, window in (("requests", self._requests), ("tokens", self._tokens)):
            if window:
                headers[f"x-ratelimit-limit-{noun}"] = str(window.per_minute)
                headers[f"x-ratelimit-remaining-{noun}"] = str(window.left(now_s))
                headers[f"x-ratelimit-reset-{noun}"] = duration(window.empties_s(now_s))
        return headers


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
