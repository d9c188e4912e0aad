"""Decide which error a provider's refusal is, by status and body: one table for all providers."""

import math
import re
from collections.abc import Iterator, Mapping
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
# Words are matched in "<code words> | <message>", in lower case. An empty range means any status.
_CLIENT = range(400, 500)
_ANY = range(100, 600)
_BY_WORDS: tuple[tuple[range, re.Pattern[str], type[ProviderError]], ...] = tuple(
    (statuses, re.compile(pattern), error)
    for statuses, pattern, error in (
        (
            _CLIENT,
            (
                r"insufficient_quota|spend_limit|billing_(hard_limit|not_active)|credit balance"
                r"|perday|/ ?(day|month)|per (day|month)|payment.required"
                r"|insufficient (balance|credits|funds)"
            ),
            QuotaExhausted,
        ),
        (
            _CLIENT,
            (
                r"context_length_exceeded|maximum context length|prompt is too long|context window"
                r"|context size|input token count.*exceeds|too many tokens: (total|size)"
                r"|exceeds? the (maximum|available) (number of tokens|context)"
                r"|prompt contains \d+ tokens|range of input length|exceed_context_size"
            ),
            ContextWindowExceeded,
        ),
        (
            _CLIENT,
            (
                r"content_filter|content_policy|responsibleaipolicy|prohibited_content"
                r"|blocked by (our |the )?(content|safety)|moderation"
            ),
            ContentFiltered,
        ),
        (
            _CLIENT,
            (
                r"invalid_api_key|api_key_invalid|authentication_error|api key not valid"
                r"|invalid api key|incorrect api key|invalid x-api-key"
            ),
            AuthenticationFailed,
        ),
        (_ANY, r"overloaded", ProviderUnavailable),
        (_CLIENT, r"rate_limit|ratelimit|resource_exhausted|too many requests", RateLimited),
        (range(400, 405), r"model_not_found|model_not_exist|invalid[ _]model", ModelNotFound),
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
        (r"invalid_request|invalid_argument|bad_request|context_length|tool_use_failed", 400),
    )
)


def error_class(status: int, error: WireError) -> type[ProviderError]:
    """The class for a refusal with this status and this body."""
    words = f"{error.code} | {error.message}".lower()
    for statuses, pattern, found in _BY_WORDS:
        if status in statuses and pattern.search(words):
            return _not_of_this_status(found, status)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return ProviderUnavailable
    return InvalidRequest if status >= 400 else ProviderUnavailable


def _not_of_this_status(found: type[ProviderError], status: int) -> type[ProviderError]:
    """A 404 for a key's sake stays what the words say; words about limits need a limit's status."""
    if found is QuotaExhausted and status not in (400, 402, 403, 429):
        return _BY_STATUS.get(status, InvalidRequest)
    return found


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
    readings = (
        _seconds(headers.get("retry-after"), headers.get("date")),
        _milliseconds(headers.get("retry-after-ms")),
        _retry_info(error.details),
        _exhausted_reset(headers),
        _from_message(error.message),
    )
    return next((reading for reading in readings if reading is not None), None)


def _seconds(value: str | None, date: str | None) -> float | None:
    if not value:
        return None
    duration = parse_duration_s(value)
    return duration if duration is not None else _until(value, date)


def _until(value: str, date: str | None) -> float | None:
    """Seconds from the answer's own date to an HTTP date; our clock may be wrong, theirs agrees."""
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _milliseconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value) / 1000) if value else None
    except ValueError:
        return None


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def parse_duration_s(text: str) -> float | None:
    """Seconds in `12`, `0.5`, `48s`, `6m0s`, `1h2m3.5s` or `120ms`; a negative one is 0."""
    text = text.strip().lower()
    try:
        number = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            return None
        hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds + ms / 1000
    return max(0.0, number) if math.isfinite(number) else None


def _retry_info(details: Any) -> float | None:
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("retryDelay"), str):
            return parse_duration_s(detail["retryDelay"])
    return None


_LIMIT_HEADERS = ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")


def _exhausted_reset(headers: Mapping[str, str]) -> float | None:
    waits: Iterator[float | None] = (
        parse_duration_s(headers.get(name.replace("remaining", "reset"), ""))
        for name in _LIMIT_HEADERS
        if headers.get(name) == "0"
    )
    return max((wait for wait in waits if wait is not None), default=None)


_TRY_AGAIN = re.compile(r"(?:try again|retry) in ((?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?m?s)")


def _from_message(message: str) -> float | None:
    match = _TRY_AGAIN.search(message.lower())
    return parse_duration_s(match[1]) if match else None
