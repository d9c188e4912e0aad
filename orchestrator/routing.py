"""Order the deployments of a route: by strategy, those that are ready first. Pure.

A strategy is a function and a row of `STRATEGIES`. It orders all it is given and leaves nobody
out: a deployment that is not ready goes to the end, and is asked when nobody else is left.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

EXPLORE_CHANCE = 0.05  # how often `fastest` looks whether somebody else has become faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A deployment as a strategy sees it.

    Attributes:
        name: Its configured name.
        price_nanousd: What this call would cost there, as far as that is known.
        first_content_s: Its recent median time to the first content; None while unmeasured.
        in_flight: How many calls it is answering now.
        weight: Its share, for `weighted`.
        is_ready: Whether it would, as far as is known, take a call now.
    """

    name: str
    price_nanousd: int | None = None
    first_content_s: float | None = None
    in_flight: int = 0
    weight: float = 1.0
    is_ready: bool = True


Strategy = Callable[[Sequence[Candidate], Random], list[str]]


def order(
    strategy: str,
    models: Sequence[Candidate],
    rng: Random,
    *,
    fallback: Sequence[Candidate] = (),
) -> list[str]:
    """All names in the order in which to ask them.

    The strategy orders the models of the route; its fallback stays behind them as it is written.
    Whoever is not ready comes after all who are.

    >>> models = [Candidate(name="gpt", is_ready=False), Candidate(name="claude")]
    >>> order("priority", models, Random(1), fallback=[Candidate(name="gemini")])
    ['claude', 'gemini', 'gpt']
    """
    ready = {candidate.name for candidate in (*models, *fallback) if candidate.is_ready}
    names = [*STRATEGIES[strategy](models, rng), *(candidate.name for candidate in fallback)]
    return sorted(dict.fromkeys(names), key=lambda name: name not in ready)  # a stable sort


def by_priority(candidates: Sequence[Candidate], rng: Random) -> list[str]:
    """As they are written."""
    return [candidate.name for candidate in candidates]


def by_weight(candidates: Sequence[Candidate], rng: Random) -> list[str]:
    """At random, each first as often as its weight says, the others after it by the same rule.

    Each draws a waiting time at the rate of its weight; the order of arrival is the order
    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    arrivals = {candidate.name: rng.expovariate(candidate.weight) for candidate in candidates}
    return sorted(arrivals, key=arrivals.__getitem__)


def by_price(candidates: Sequence[Candidate], rng: Random) -> list[str]:
    """The cheapest first; one whose price nobody knows comes last."""

    def price(one: Candidate) -> float:
        return float("inf") if one.price_nanousd is None else one.price_nanousd

    return _sorted(candidates, price)


def by_speed(candidates: Sequence[Candidate], rng: Random) -> list[str]:
    """The one that begins to answer soonest first.

    One that has not been measured is asked first while it answers nobody else, so that one call
    at a time finds out about it. One call in twenty goes first to any of them: who was slow once
    would never be measured again.
    """

    def seconds(one: Candidate) -> float:
        if one.first_content_s is None:
            return float("inf") if one.in_flight else -1.0
        return one.first_content_s

    names = _sorted(candidates, seconds)
    if rng.random() < EXPLORE_CHANCE:
        explored = rng.choice(candidates).name
        return [explored, *(name for name in names if name != explored)]
    return names


def by_load(candidates: Sequence[Candidate], rng: Random) -> list[str]:
    """The one with the fewest calls in flight first."""
    return _sorted(candidates, lambda one: one.in_flight)


def _sorted(candidates: Sequence[Candidate], key: Callable[[Candidate], float]) -> list[str]:
    """By the key; equal ones as they are written."""
    return [candidate.name for candidate in sorted(candidates, key=key)]


STRATEGIES: Mapping[str, Strategy] = {
    "priority": by_priority,
    "weighted": by_weight,
    "cheapest": by_price,
    "fastest": by_speed,
    "least_busy": by_load,
}


class Latencies:
    """The most recent times of a deployment, kept sorted, so that a quantile is a look-up.

    >>> latencies = Latencies()
    >>> for seconds in (0.3, 0.1, 0.2):
    ...     latencies.add(seconds)
    >>> latencies.quantile(0.5), latencies.quantile(0.95)
    (0.2, None)
    """

    __slots__ = ("_recent", "_size", "_sorted")

    def __init__(self, size: int = 128) -> None:
        self._size = size
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """One more; the oldest of too many is forgotten."""
        if len(self._recent) == self._size:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    def quantile(self, share: float) -> float | None:
        """The time that this share of the calls did not exceed.

        None while there are so few that it would only be the slowest of all: a median takes two,
        a 95th percentile twenty.
        """
        count = len(self._sorted)
        if count * (1 - share) < 1 - 1e-9:
            return None
        return self._sorted[ceil(count * share - 1e-9) - 1]
