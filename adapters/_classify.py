"""Decide which error a provider's refusal is, by status and body: one table for all providers."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from adapters._formats import WireError
from adapters.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)

# The first row whose pattern is found in the error's words wins, within the statuses it names.
# Words are matched in "<code words> | <message>", in lower case. Providers repeat what the caller
# wrote in their messages, so a row holds only for statuses that its kind of error comes with.
_REQUEST = frozenset((400, 413, 422))
_SERVER = frozenset(range(500, 600))
_BY_WORDS: tuple[tuple[frozenset[int], re.Pattern[str], type[ProviderError]], ...] = tuple(
    (statuses, re.compile(pattern), error)
    for statuses, pattern, error in (
        (
            frozenset((400, 402, 403, 429)),
            (
                r"insufficient[ _](quota|balance|credits|funds)|exceeded_current_quota"
                r"|spend_limit|spending limit|billing_(hard_limit|not_active)|credit balance"
                r"|payment.required|used all available credits|reached your .{0,40}usage limits"
            ),
            QuotaExhausted,
        ),
        (
            frozenset((429,)),
            r"perday|permonth|/ ?(day|month)|per (day|month)|daily|monthly",
            QuotaExhausted,
        ),
        (frozenset((413, 429)), r"request too large for", ContextWindowExceeded),
        (
            _REQUEST,
            (
                r"context_length_exceeded|exceed_context_size|maximum (context|prompt) length"
                r"|prompt is too long|context (window|size|limit)|input token count.*exceeds"
                r"|longer than the maximum model length|too many tokens: (total|size)"
                r"|exceeds? the (maximum|available) (number of tokens|context)"
                r"|prompt contains \d+ tokens|range of input length"
                r"|max_new_tokens` must be <=|must have less than \d+ tokens"
            ),
            ContextWindowExceeded,
        ),
        (
            frozenset((400, 403, 422, 451)),
            (
                r"content_filter|content_policy|responsibleaipolicy|prohibited_content"
                r"|blocked by (our |the )?(content|safety)|moderation|input was flagged"
                r"|prompt was flagged|content exists risk|data_inspection_failed"
            ),
            ContentFiltered,
        ),
        (
            frozenset((400, 401, 403, 404)),
            (
                r"invalid_api_key|api_key_invalid|authentication_error|api key not valid"
                r"|invalid api key|incorrect api key|invalid x-api-key"
            ),
            AuthenticationFailed,
        ),
        (_SERVER | {429}, r"overloaded", ProviderUnavailable),
        (
            frozenset((403, 429)),
            r"rate_limit|ratelimit|resource_exhausted|too many requests",
            RateLimited,
        ),
        (
            frozenset(range(400, 405)),
            (
                r"model_not_found|model[_ ]not[_ ]exist|model_decommissioned|model_not_available"
                r"|invalid[ _]model|not a valid model|model not found"
            ),
            ModelNotFound,
        ),
    )
)
_BY_STATUS: dict[int, type[ProviderError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: PermissionDenied,
    404: ModelNotFound,
    408: ProviderTimeout,
    413: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    498: ProviderUnavailable,  # Groq: capacity exceeded
    504: ProviderUnavailable,
}
# An error inside a 200 names its kind in words, not by status.
_STATUS_OF_WORDS: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), status)
    for pattern, status in (
        (r"overloaded", 529),
        (r"rate_limit|ratelimit|resource_exhausted|too many requests|tokens per min", 429),
        (r"limited to \d+ api calls", 429),
        (r"insufficient_quota|spend_limit", 429),
        (r"authentication|invalid_api_key|unauthenticated", 401),
        (r"permission", 403),
        (r"not_found", 404),
        (r"unavailable", 503),
        (r"deadline_exceeded|timeout", 504),
        (r"invalid_request|invalid_argument|bad_?request|tool_use_failed", 400),
        (r"context_length|context_size|maximum context|context size", 400),
    )
)


def error_class(status: int, error: WireError) -> type[ProviderError]:
    """The class for a refusal with this status and this body."""
    words = f"{error.code} | {error.message}".lower()
    for statuses, pattern, found in _BY_WORDS:
        if status in statuses and pattern.search(words):
            return found
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return InvalidRequest if 400 <= status < 500 else ProviderUnavailable


def status_of(error: WireError) -> int:
    """The HTTP status an error inside a successful answer stands for."""
    if error.status is not None:
        return error.status
    words = f"{error.code} | {error.message}".lower()
    return next((status for pattern, status in _STATUS_OF_WORDS if pattern.search(words)), 500)


def retry_after_s(headers: Mapping[str, str], error: WireError) -> float | None:
    """How long the provider asks us to wait, in seconds; `None` when it does not say.

    Read from `retry-after` (seconds or HTTP date), `retry-after-ms`, Google's RetryInfo, the
    reset headers of an exhausted limit, and at last from the message ("try again in 3.89s").
    """
    date = headers.get("date")
    readings = (
        _wait_s(headers.get("retry-after"), date),
        _milliseconds(headers.get("retry-after-ms")),
        _retry_info(error.details),
        _exhausted_reset(headers, date),
        _from_message(error.message),
    )
    return next((reading for reading in readings if reading is not None), None)


def _wait_s(value: str | None, date: str | None) -> float | None:
    """Seconds in a duration, or until a moment."""
    if not value:
        return None
    duration = parse_duration_s(value)
    return duration if duration is not None else _until(value, date)


def _until(value: str, date: str | None) -> float | None:
    """Seconds from the answer's own date to a moment; our clock may be wrong, theirs agrees."""
    then = _moment(value)
    now = _moment(date or "") or datetime.now(UTC)
    return None if then is None else max(0.0, (then - now).total_seconds())


def _moment(value: str) -> datetime | None:
    """A moment as HTTP writes it (RFC 9110, section 5.6.7), or as RFC 3339 does."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = parse(value)
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _milliseconds(value: str | None) -> float | None:
    number = parse_duration_s(value or "")
    return None if number is None else number / 1000


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def parse_duration_s(text: str) -> float | None:
    """Seconds in `12`, `0.5`, `48s`, `6m0s`, `1h2m3.5s` or `120ms`; a negative one is 0."""
    text = text.strip().lower()
    try:
        seconds = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            return None
        hours, minutes, whole, ms = (float(part or 0) for part in match.groups())
        seconds = hours * 3600 + minutes * 60 + whole + ms / 1000
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _retry_info(details: Any) -> float | None:
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("retryDelay"), str):
            return parse_duration_s(detail["retryDelay"])
    return None


_LIMIT_HEADERS = tuple(
    (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}")
    for what in ("requests", "tokens")
) + tuple(
    (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)


def _exhausted_reset(headers: Mapping[str, str], date: str | None) -> float | None:
    waits = (
        _wait_s(headers.get(reset), date)
        for remaining, reset in _LIMIT_HEADERS
        if headers.get(remaining) == "0"
    )
    return max((wait for wait in waits if wait is not None), default=None)


_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) "
    r"((?:\d+h)?(?:\d+m(?!s))?(?:\d+(?:\.\d+)?m?s)?)(?:(\d+(?:\.\d+)?) ?seconds?)?"
)


def _from_message(message: str) -> float | None:
    match = _TRY_AGAIN.search(message.lower())
    return parse_duration_s(match[1] or match[2] or "") if match else None
