"""Requests and tokens a minute, kept as a provider keeps them: buckets that refill steadily."""

from dataclasses import dataclass

from orchestrator.simulator.ask import Allowance
from orchestrator.simulator.config import LimitConfig

MINUTE_S = 60.0


@dataclass(slots=True)
class _Bucket:
    capacity: int
    level: float
    updated_s: float

    def refill(self, now_s: float) -> None:
        rate = self.capacity / MINUTE_S
        self.level = min(self.capacity, self.level + (now_s - self.updated_s) * rate)
        self.updated_s = now_s

    def wait_s(self, amount: float) -> float:
        """Until this much is there; more than the bucket holds never is."""
        return max(0.0, (min(amount, self.capacity) - self.level) * MINUTE_S / self.capacity)

    def full_in_s(self) -> float:
        return (self.capacity - self.level) * MINUTE_S / self.capacity


class RateLimiter:
    """One model's limits. A refused request takes nothing."""

    def __init__(self, config: LimitConfig, now_s: float) -> None:
        self._requests = _bucket(config.requests_per_minute, now_s)
        self._tokens = _bucket(config.tokens_per_minute, now_s)

    def take(self, tokens: int, now_s: float) -> Allowance:
        """Ask for one request of so many tokens; `retry_after_s` is set when refused."""
        waits: dict[str, float] = {}
        for name, bucket, amount in self._wanted(tokens):
            bucket.refill(now_s)
            if wait_s := bucket.wait_s(amount):
                waits[name] = wait_s
        if not waits:
            for _, bucket, amount in self._wanted(tokens):
                bucket.level = max(0.0, bucket.level - amount)
            return self._allowance(None)
        return self._allowance(max(waits.values()), by_tokens="tokens" in waits)

    def _wanted(self, tokens: int) -> list[tuple[str, _Bucket, float]]:
        wanted = []
        if self._requests is not None:
            wanted.append(("requests", self._requests, 1.0))
        if self._tokens is not None:
            wanted.append(("tokens", self._tokens, float(tokens)))
        return wanted

    def _allowance(self, retry_after_s: float | None, *, by_tokens: bool = False) -> Allowance:
        given = Allowance()
        requests, tokens = self._requests, self._tokens
        return Allowance(
            limit_requests=requests.capacity if requests else given.limit_requests,
            remaining_requests=int(requests.level) if requests else given.remaining_requests,
            reset_requests_s=requests.full_in_s() if requests else given.reset_requests_s,
            limit_tokens=tokens.capacity if tokens else given.limit_tokens,
            remaining_tokens=int(tokens.level) if tokens else given.remaining_tokens,
            reset_tokens_s=tokens.full_in_s() if tokens else given.reset_tokens_s,
            retry_after_s=retry_after_s,
            which="tokens" if by_tokens else "requests",
        )


def _bucket(capacity: int | None, now_s: float) -> _Bucket | None:
    return None if capacity is None else _Bucket(capacity, float(capacity), now_s)
