"""Add up what has come of the rows of a batch, in memory that does not grow with them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import floor, log
from typing import Any

from orchestrator.amounts import NANO
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.responses import Receipt

RATIO = 1.05  # of a bucket's bounds: what is told of it is at most 2.5 % off
BUCKETS = 1024
KINDS = 64  # of anything that is counted by its name; the others are counted together
OTHERS = "others"
TENTHS = 10


class Spread:
    """How values are spread: how many are about as large as each other.

    >>> spread = Spread(least=0.001)
    >>> for value in range(1, 101):
    ...     spread.add(value)
    >>> round(spread.quantile(0.9), -1), spread.mean, spread.most
    (90.0, 50.5, 100)

    Args:
        least: What is not told apart from anything below it.
    """

    def __init__(self, *, least: float) -> None:
        self.least = least
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.most = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[self._bucket(value)] += times
        self.count += times
        self.total += value * times
        self.most = max(self.most, value)

    def _bucket(self, value: float) -> int:
        if value <= self.least:
            return 0
        return min(floor(log(value / self.least) / log(RATIO)) + 1, BUCKETS - 1)

    def middle(self, bucket: int) -> float:
        """What stands for the values of a bucket."""
        if bucket == 0:
            return 0.0
        return float(min(self.least * RATIO ** (bucket - 0.5), self.most))

    @property
    def mean(self) -> float:
        """0 of nothing."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """What so large a part of the values does not exceed; 0 of nothing."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return self.middle(bucket)
        return 0.0

    def as_object(self) -> dict[str, float]:
        """What is told of it."""
        shares = {f"p{percent}": self.quantile(percent / 100) for percent in (50, 90, 99)}
        told = {"mean": self.mean, **shares, "max": self.most}
        return {name: round(value, 6) for name, value in told.items()}


@dataclass(slots=True)
class DeploymentSum:
    """What one deployment did for all rows.

    Attributes:
        rows: For how many it was called.
        seconds: How long a call took: of the calls for one row, their mean.
    """

    rows: int = 0
    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    seconds: Spread = field(default_factory=lambda: Spread(least=0.001))

    def add(self, use: ModelUse) -> None:
        """Count what it did for a row."""
        self.rows += 1
        self.calls += use.calls
        self.failed += use.failed
        self.prompt_tokens += use.prompt_tokens
        self.completion_tokens += use.completion_tokens
        self.cost_nanousd += use.cost_nanousd
        if use.calls:
            self.seconds.add(use.elapsed_s / use.calls, use.calls)


class Summary:
    """What has come of all rows so far.

    >>> summary = Summary()
    >>> summary.add(Outcome(position=0, line=1, digest="", status="complete", text="hi"))
    >>> summary.rows, summary.as_object()["statuses"]
    (1, {'complete': 1})
    """

    def __init__(self) -> None:
        self.rows = 0
        self.repeated = 0
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.first_failure = ""  # in words, of the row that comes first
        self.ignored: Counter[str] = Counter()
        self.deployments: dict[str, DeploymentSum] = {}
        self.seconds = Spread(least=0.001)  # of the rows that were asked
        self.nanousd = Spread(least=1)  # the same of their costs
        self.agreement = [0] * TENTHS  # rows by the tenth in which theirs is
        self.agreement_total = 0.0
        self.first_at_s: float | None = None
        self.last_at_s: float | None = None

    def add(self, outcome: Outcome) -> None:
        """Count what has come of a row."""
        self.rows += 1
        self.repeated += outcome.is_repeated
        self.statuses[outcome.status] += 1
        if outcome.failure is not None:
            _count(self.errors, outcome.failure.kind)
            self.first_failure = self.first_failure or _placed(outcome, outcome.failure)
        for name in outcome.ignored:
            _count(self.ignored, name)
        for use in outcome.use:
            self._deployment(use.deployment).add(use)
        if outcome.agreement is not None:
            tenth = floor(outcome.agreement * TENTHS)
            self.agreement[max(0, min(tenth, TENTHS - 1))] += 1
            self.agreement_total += outcome.agreement
        if not outcome.is_repeated and (outcome.use or outcome.failure is None):
            self.seconds.add(outcome.elapsed_s)
            self.nanousd.add(outcome.cost_nanousd)
        if outcome.at_s:
            self.first_at_s = min(self.first_at_s or outcome.at_s, outcome.at_s)
            self.last_at_s = max(self.last_at_s or outcome.at_s, outcome.at_s)

    def _deployment(self, name: str) -> DeploymentSum:
        if name not in self.deployments and len(self.deployments) >= KINDS:
            name = OTHERS
        return self.deployments.setdefault(name, DeploymentSum())

    @property
    def failed(self) -> int:
        """Rows without an answer."""
        return self.statuses["failed"]

    @property
    def cost_nanousd(self) -> int:
        """What all rows cost."""
        return sum(one.cost_nanousd for one in self.deployments.values())

    @property
    def calls(self) -> int:
        """How often anybody was called."""
        return sum(one.calls for one in self.deployments.values())

    @property
    def tokens(self) -> tuple[int, int]:
        """What was read and what was written."""
        done = self.deployments.values()
        return sum(one.prompt_tokens for one in done), sum(one.completion_tokens for one in done)

    def as_object(self) -> dict[str, Any]:
        """All of it for a program."""
        read, written = self.tokens
        judged = sum(self.agreement)
        return {
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "errors": dict(self.errors.most_common()),
            "repeated": self.repeated,
            "calls": self.calls,
            "failed_calls": sum(one.failed for one in self.deployments.values()),
            "prompt_tokens": read,
            "completion_tokens": written,
            "cost_nanousd": self.cost_nanousd,
            "cost_usd": self.cost_nanousd / NANO,
            "elapsed_s": self.seconds.as_object(),
            "row_cost_usd": {
                name: value / NANO for name, value in self.nanousd.as_object().items()
            },
            "agreement": {
                "rows": judged,
                "mean": round(self.agreement_total / judged, 6) if judged else None,
                "tenths": list(self.agreement),
            },
            "deployments": {
                name: _deployment_object(one) for name, one in sorted(self.deployments.items())
            },
            "ignored": dict(self.ignored.most_common()),
            "first_at": _moment(self.first_at_s),
            "last_at": _moment(self.last_at_s),
        }


def _deployment_object(one: DeploymentSum) -> dict[str, Any]:
    return {
        "rows": one.rows,
        "calls": one.calls,
        "failed": one.failed,
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "cost_nanousd": one.cost_nanousd,
        "cost_usd": one.cost_nanousd / NANO,
        "elapsed_s": one.seconds.as_object(),
    }


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < KINDS else OTHERS] += 1


def _placed(outcome: Outcome, failure: Failure) -> str:
    """What went wrong, and with which row."""
    where = f"Line {outcome.line}"
    return failure.message if failure.message.startswith(where) else f"{where}: {failure.message}"


def _moment(at_s: float | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat()


def agreement_of(receipt: Receipt) -> float | None:
    """Which part of the drafts says what won, where a run counted that; None where it did not.

    Args:
        receipt: Of the run.
    """
    for stage in reversed(receipt.stages):
        votes = stage.outcome.get("votes")
        if stage.combine == "vote" and isinstance(votes, Mapping) and votes:
            silent = stage.outcome.get("unparsable", 0)
            return float(max(votes.values()) / (sum(votes.values()) + silent))
    return None
