"""Time and chance, the one door to both, so that tests can hold the hands."""

import asyncio
import hashlib
import hmac
import random
import secrets
import time
import zlib
from asyncio import FIRST_COMPLETED, Future
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Where the orchestrator reads the time and waits."""

    def now(self) -> datetime:
        """The wall clock, in UTC. For records only, never for limits."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""

    async def sleep(self, delay_s: float) -> None:
        """Wait."""

    async def first_done(self, tasks: Collection[Future[T]], limit_s: float) -> set[Future[T]]:
        """Wait until at least one task is done, or the limit is over; the done ones."""


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    async def first_done(self, tasks: Collection[Future[T]], limit_s: float) -> set[Future[T]]:
        done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=FIRST_COMPLETED)
        return done


class FakeClock:
    """Stands still until `advance` is called; `sleep` advances it at once."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._bells: list[tuple[float, Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds
        for at_s, bell in self._bells:
            if at_s <= self._elapsed_s and not bell.done():
                bell.set_result(None)

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)
        await asyncio.sleep(0)

    async def first_done(self, tasks: Collection[Future[T]], limit_s: float) -> set[Future[T]]:
        bell: Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._elapsed_s + limit_s, bell)
        self._bells.append(entry)
        try:
            waited_for: set[Future[Any]] = {*tasks, bell}
            await asyncio.wait(waited_for, return_when=FIRST_COMPLETED)
        finally:
            self._bells.remove(entry)
            bell.cancel()
        return {task for task in tasks if task.done()}


async def give_way() -> None:
    """Let whatever else is ready run first."""
    await asyncio.sleep(0)


async def all_done(clock: Clock, tasks: Collection[Future[T]], limit_s: float) -> set[Future[T]]:
    """Wait until all tasks are done, or the limit is over; those that still run."""
    ends_s = clock.monotonic() + limit_s
    running = {task for task in tasks if not task.done()}
    while running and (left_s := ends_s - clock.monotonic()) > 0:
        running -= await clock.first_done(running, left_s)
    return running


def make_rng(seed: int, *purpose: object) -> random.Random:
    """The source of chance of one run: the same seed and purpose, the same shuffles.

    Every purpose has a source of its own, so that the order in which answers happen to arrive
    changes nothing.
    """
    return random.Random("/".join(str(part) for part in (seed, *purpose)) if purpose else seed)


def seed_of(run_id: str) -> int:
    """The seed of a run for which nobody chose one: drawn with the id, by the same chance."""
    return zlib.crc32(run_id.encode())


def new_nonce() -> str:
    """128 random bits in hex, for a fence nobody can guess."""
    return secrets.token_hex(16)


def new_run_id(now: datetime) -> str:
    """An id that sorts by time and that nobody can guess."""
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(5)}"


def fixed_chance(secret: bytes, content: bytes) -> tuple[int, str]:
    """The seed and the nonce that belong to a content, the same whenever it is asked about.

    Whoever does not know the secret can guess them no better than random ones.
    """
    digest = hmac.new(secret, content, hashlib.sha256).digest()
    return int.from_bytes(digest[:4], "big"), digest[16:].hex()
