"""When the window of a limit opens and when it closes, in milliseconds of UTC."""

from datetime import UTC, datetime
from functools import lru_cache

from orchestrator.amounts import Every

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
_LENGTHS_MS = {"minute": MINUTE_MS, "hour": 60 * MINUTE_MS, "day": DAY_MS}


def milliseconds(moment: datetime) -> int:
    """A moment as the ledger keeps it."""
    return round(moment.timestamp() * 1000)


def moment(milliseconds: int) -> datetime:
    """What the ledger keeps, as a moment."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@lru_cache(maxsize=64)
def opened(every: Every, now_ms: int) -> int:
    """When the window opened that a moment falls into.

    >>> moment(opened("month", milliseconds(datetime(2026, 3, 31, 23, 59, tzinfo=UTC)))).isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    if every == "month":
        first = moment(now_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return milliseconds(first)
    return now_ms - now_ms % _LENGTHS_MS[every]


def closes(every: Every, now_ms: int) -> int:
    """When that window closes, which is when the next one opens."""
    if every == "month":
        # No month is longer than 31 days, and two of them always hold a first one and a half.
        return opened(every, opened(every, now_ms) + 32 * DAY_MS)
    return opened(every, now_ms) + _LENGTHS_MS[every]
