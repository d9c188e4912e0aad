"""A provider that keeps its own count of what is due, and a ledger whose every step is replayed."""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from random import Random
from typing import Literal

from adapters import (
    Chunk,
    CompletionRequest,
    ConnectionFailed,
    Limits,
    MockAdapter,
    ModelConfig,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Usage,
)
from adapters.mock import Reply
from adapters.prices import price_of
from orchestrator.amounts import DIMENSIONS, Amount, Caps, Scope
from orchestrator.clock import Clock
from orchestrator.errors import BudgetExceeded
from orchestrator.ledger import Ledger, UsageEntry

NOTHING = Amount()
WORDS = "never lose a word and never say one twice or thrice "

Key = tuple[str, str, str]  # of a scope: its kind, its name, its window

_reservation: ContextVar[str] = ContextVar("_reservation", default="")


@dataclass(slots=True)
class Bill:
    """What one call comes to, by the provider's own count."""

    deployment: str
    prompt_tokens: int
    completion_tokens: int = 0
    ended: Literal["whole", "refused", "cut"] = "cut"

    @property
    def usage(self) -> Usage:
        if self.ended == "refused":
            return Usage()
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens)


class Provider(MockAdapter):
    """Answers at random length, fails now and then, and writes a bill for every call.

    A call that is refused costs nothing. One that breaks off or is left costs its prompt and what
    was sent of its answer, where a token has six characters.

    Args:
        name: The deployment's name.
        config: Its model.
        seed: Of its chance.
        failing: How many of its calls fail, as a share.
        lie: How many times more than it could be the usage is that it reports and charges.
        is_full: Whether every call comes to all that can be reserved for it.
        told: Whom to tell of a bill before a word of the answer is sent.
        pause_s: How long it waits before its answer, and between the pieces of it.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        seed: object,
        *,
        failing: float = 0.0,
        lie: int = 1,
        is_full: bool = False,
        told: Callable[[Bill], None] = lambda _: None,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(
            self._reply,
            config=config,
            deployment=name,
            chunk_characters=40,
            sleep=lambda _: asyncio.sleep(pause_s),
        )
        self.bills: dict[str, Bill] = {}  # by reservation
        self._rng = Random(f"{seed}/{name}")
        self._failing = failing
        self._lie = lie
        self._is_full = is_full
        self._told = told

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        key = _reservation.get()
        sent, whole = 0, False
        try:
            async with aclosing(super().stream(request, limits=limits)) as chunks:
                async for chunk in chunks:
                    sent += len(chunk.text)
                    whole = whole or chunk.usage is not None
                    yield chunk
        finally:
            bill = self.bills[key]
            if bill.ended == "cut" and whole:
                bill.ended = "whole"
            elif bill.ended == "cut":
                bill.completion_tokens = sent // 6

    def _reply(self, request: CompletionRequest) -> Reply:
        bound, longest = self.bound_prompt(request), request.max_tokens or 1
        text = (WORDS * 9)[: self._rng.randrange(10, 400)]
        if self._is_full:
            usage = Usage(prompt_tokens=bound, completion_tokens=longest)
        else:
            usage = Usage(
                prompt_tokens=self._lie * self._rng.randint(len(text) % bound, bound),
                completion_tokens=self._lie * self._rng.randint(1, longest),
            )
        if self._lie > 1:
            usage = Usage(prompt_tokens=self._lie * bound, completion_tokens=self._lie * longest)
        bill = Bill(self.deployment, usage.prompt_tokens, usage.completion_tokens)
        self.bills[_reservation.get()] = bill
        if self._rng.random() < self._failing:
            return self._failure(bill, text, request)
        self._told(bill)
        return Reply(text=text, usage=usage, delay_s=1.0, gap_s=0.001)

    def _failure(self, bill: Bill, text: str, request: CompletionRequest) -> Reply:
        error: ProviderError | None = self._rng.choice(
            (ProviderUnavailable("down"), RateLimited("slow down"), ConnectionFailed("reset"), None)
        )
        if error is None:
            prompt = sum(len(str(message.get("content"))) for message in request.messages)
            bill.prompt_tokens = prompt // 6
            return Reply(text=text, gap_s=0.001, cut_after=len(text) // 2)
        if not error.maybe_billed:
            bill.ended = "refused"
        return Reply(error=error, delay_s=1.0)


@dataclass(slots=True)
class Step:
    """One thing that a ledger was asked to do, in the order in which it was asked."""

    kind: Literal["reserve", "settle", "release"]
    id: str
    amount: Amount
    scopes: tuple[Scope, ...] = ()
    is_granted: bool | None = None  # None: whoever asked has not stayed to hear


class WatchedLedger(Ledger):
    """Writes down what it is asked, so that the books can be kept a second time, and compared."""

    def __init__(self, url: str = "sqlite://", clock: Clock | None = None) -> None:
        super().__init__(url, clock)
        self.steps: list[Step] = []
        self.caps: dict[Key, Caps] = {}

    async def reserve(
        self,
        needed: Amount,
        scopes: Sequence[Scope],
        *,
        run_id: str = "",
        ttl_s: float | None = None,
        entry: UsageEntry | None = None,
    ) -> str:
        step = Step("reserve", f"unknown-{len(self.steps)}", needed, tuple(scopes))
        self.steps.append(step)
        self.caps |= {key_of(scope): scope.caps for scope in scopes}
        try:
            step.id = await super().reserve(needed, scopes, run_id=run_id, ttl_s=ttl_s, entry=entry)
        except BudgetExceeded:
            step.is_granted = False
            raise
        except BaseException:
            self.steps.append(Step("release", step.id, NOTHING))
            raise
        step.is_granted = True
        _reservation.set(step.id)
        return step.id

    def settle(
        self, reservation_id: str, spent: Amount, entry: UsageEntry | None = None
    ) -> "Future[None]":
        self.steps.append(Step("settle", reservation_id, spent))
        return super().settle(reservation_id, spent, entry)

    def release(self, reservation_id: str) -> "Future[None]":
        self.steps.append(Step("release", reservation_id, NOTHING))
        return super().release(reservation_id)


@dataclass(slots=True)
class Replayed:
    """The books kept a second time, one step after another.

    Attributes:
        spent: By scope.
        held: By scope.
        posted: What every reservation came to; nothing for one that was released.
        reserved: What was held for it.
        refused: How many reservations did not fit.
    """

    spent: dict[Key, Amount]
    held: dict[Key, Amount]
    posted: dict[str, Amount]
    reserved: dict[str, Amount]
    refused: int = 0


def replay(steps: Sequence[Step]) -> Replayed:
    """Keep the books by the simplest rule there is; a decision that differs is an error."""
    books = Replayed({}, {}, {}, {})
    pending: dict[str, Step] = {}
    for step in steps:
        if step.kind == "reserve":
            fits = all(
                scope.caps.exceeded_by(_used(books, scope) + step.amount) is None
                for scope in step.scopes
            )
            assert step.is_granted in (fits, None), f"{step} should have come to {fits}"
            if fits:
                pending[step.id] = step
                books.reserved[step.id] = step.amount
                _add(books.held, step.scopes, step.amount, 1)
            else:
                books.refused += 1
        elif (made := pending.pop(step.id, None)) is not None:
            _add(books.held, made.scopes, made.amount, -1)
            _add(books.spent, made.scopes, step.amount, 1)
            books.posted[step.id] = step.amount
    assert not pending, f"nobody has resolved {list(pending)}"
    return books


def key_of(scope: Scope) -> Key:
    return scope.kind, scope.name, scope.every or ""


def _used(books: Replayed, scope: Scope) -> Amount:
    key = key_of(scope)
    return books.spent.get(key, NOTHING) + books.held.get(key, NOTHING)


def _add(to: dict[Key, Amount], scopes: Sequence[Scope], by: Amount, sign: int) -> None:
    for scope in scopes:
        to[key_of(scope)] = to.get(key_of(scope), NOTHING) + by.times(sign)


def is_within(amount: Amount, caps: Caps | Amount) -> bool:
    """Whether no part of an amount is more than it may be."""
    limits = ((name, getattr(caps, name)) for name in DIMENSIONS)
    return all(limit is None or getattr(amount, name) <= limit for name, limit in limits)


def amount_of(bill: Bill, config: ModelConfig) -> Amount:
    """What a bill comes to, without the time, which the provider does not count."""
    price = price_of(config)
    assert price is not None
    return Amount(
        money_nanousd=price.cost_nanousd(bill.usage) if bill.usage.total_tokens else 0,
        tokens=bill.usage.total_tokens,
        calls=1,
    )
