"""What a call uses up, and how much of it is allowed: money, tokens, calls, time. All integers."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

NANO = 10**9  # nano-dollars in a dollar

Dimension = Literal["money_nanousd", "tokens", "calls", "time_ms"]
DIMENSIONS: tuple[Dimension, ...] = ("money_nanousd", "tokens", "calls", "time_ms")
ScopeKind = Literal["run", "batch", "key", "deployment", "global"]
Every = Literal["minute", "hour", "day", "month"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What one call, or several, use up.

    Attributes:
        money_nanousd: Nano-dollars, each call's rounded up.
        tokens: Prompt and completion together.
        calls: Attempts that were sent.
        time_ms: Milliseconds that calls lasted, each counted by itself.
    """

    money_nanousd: int = 0
    tokens: int = 0
    calls: int = 0
    time_ms: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            money_nanousd=self.money_nanousd + other.money_nanousd,
            tokens=self.tokens + other.tokens,
            calls=self.calls + other.calls,
            time_ms=self.time_ms + other.time_ms,
        )

    def beyond(self, other: "Amount") -> "Amount":
        """So much of each as there is more of than in the other."""
        more = {name: max(getattr(self, name) - getattr(other, name), 0) for name in DIMENSIONS}
        return Amount(**more)

    def times(self, count: int) -> "Amount":
        """So many of it."""
        return Amount(
            money_nanousd=self.money_nanousd * count,
            tokens=self.tokens * count,
            calls=self.calls * count,
            time_ms=self.time_ms * count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How much is allowed of each; None means that nobody has said."""

    money_nanousd: int | None = None
    tokens: int | None = None
    calls: int | None = None
    time_ms: int | None = None

    def exceeded_by(self, amount: Amount) -> Dimension | None:
        """The first limit that an amount is over; None if it fits."""
        for dimension in DIMENSIONS:
            cap = getattr(self, dimension)
            if cap is not None and getattr(amount, dimension) > cap:
                return dimension
        return None

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, dimension) is None for dimension in DIMENSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose spending is counted together, over what time, and how much of it there may be.

    `name` is the id of the run or of the batch, the caller's key id or the deployment; empty for
    `global`. Runs and batches have no window: `every` is None.
    """

    kind: ScopeKind
    name: str = ""
    every: Every | None = None
    caps: Caps = Caps()


def usd(nanousd: int) -> str:
    """Money for people: cents, or as many digits as a small sum needs.

    >>> usd(1_500_000_000), usd(12_345_678), usd(0)
    ('$1.50', '$0.0123', '$0.00')
    """
    dollars = nanousd / NANO
    if nanousd == 0 or abs(dollars) >= 0.995:
        return f"${dollars:,.2f}"
    return f"${dollars:.3g}" if abs(dollars) >= 0.0001 else f"${dollars:.9f}".rstrip("0")


def nanousd(dollars: object) -> int:
    """Nano-dollars of an amount in dollars (`int`, `float`, `Decimal` or text), rounded up."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value(rounding=ROUND_CEILING))


def whose(scope: Scope) -> str:
    """Whose budget it is: `a run`, `all runs for a day`, `deployment 'gpt' for a month`."""
    subject = {"run": "a run", "global": "all runs"}.get(scope.kind, f"{scope.kind} {scope.name!r}")
    article = "an" if scope.every == "hour" else "a"
    return f"{subject} for {article} {scope.every}" if scope.every else subject


def say(dimension: Dimension, count: int) -> str:
    """So much of something, for people: `$0.05`, `12,000 tokens`, `1 call`, `60 s`."""
    match dimension:
        case "money_nanousd":
            return usd(count)
        case "time_ms":
            return f"{count / 1000:g} s"
        case _:
            return f"{count:,} {dimension if count != 1 else dimension[:-1]}"
