"""Time and chance, the one door to both, so that tests can hold the hands."""

import asyncio
import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where the orchestrator reads the time and waits."""

    def now(self) -> datetime:
        """The wall clock, in UTC. For records only, never for limits."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""

    async def sleep(self, delay_s: float) -> None:
        """Wait."""


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class FakeClock:
    """Stands still until `advance` is called; `sleep` advances it at once."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)
        await asyncio.sleep(0)


def make_rng(seed: int) -> random.Random:
    """The source of chance of one run: the same seed, the same shuffles."""
    return random.Random(seed)


def new_seed() -> int:
    """A seed nobody chose."""
    return secrets.randbits(32)


def new_nonce() -> str:
    """128 random bits in hex, for a fence nobody can guess."""
    return secrets.token_hex(16)
