"""Answer requests as their keys allow: how often, how much, for how much money."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from orchestrator.clock import Clock
from orchestrator.config import TenantWindow
from orchestrator.endpoints import refused
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server.idempotency import REPLAYED, Answer
from orchestrator.server.keys import KeyRecord
from orchestrator.server.limits import KeyLimits, Load, Ticket, load_of
from orchestrator.wire.errors import Refused

LARGE_BYTES = 256 * 1024  # of a body: a millisecond or more


class Keyed:
    """Answers calls within the limits of the keys that they come with.

    Args:
        answer: Who answers what is within them.
        clock: Where the time comes from.
        limits: Who counts; default: this process for itself.
    """

    def __init__(self, answer: Answer, clock: Clock, limits: KeyLimits | None = None) -> None:
        self._answer = answer
        self._limits = limits or KeyLimits(clock)

    async def answer(self, call: Call, key: KeyRecord | None) -> Reply:
        """The reply to a call, with OpenAI's headers for what is left of the key's minute.

        Only what asks for a run is counted, and a call without a key is not.
        """
        if key is None or call.method != "POST":
            return await self._answer(call)
        try:
            ticket = await self._limits.admit(key, await _load_of(call.body))
        except Refused as error:
            return refused(call.path, error)
        try:
            reply = await self._answer(
                replace(
                    call,
                    tenant_windows=windows_of(key),
                    count=ticket.count if key.tokens_per_minute else None,
                )
            )
        except BaseException:
            ticket.leave()
            raise
        return _told(reply, ticket)


async def _load_of(body: bytes) -> Load:
    """What a request would take; of a large body in a thread, for reading it takes long."""
    if len(body) < LARGE_BYTES:
        return load_of(body)
    return await asyncio.to_thread(load_of, body)


def windows_of(key: KeyRecord) -> tuple[TenantWindow, ...]:
    """The budgets over time that a key has of its own."""
    if key.money_usd_per_day is None:
        return ()
    return (TenantWindow(every="day", money_usd=key.money_usd_per_day),)


def _told(reply: Reply, ticket: Ticket) -> Reply:
    headers = {**reply.headers, **ticket.headers}
    if not isinstance(reply.body, bytes):
        return replace(reply, headers=headers, body=Leaving(reply.body, ticket))
    if 400 <= reply.status < 500 or REPLAYED in reply.headers:
        ticket.count(0)  # no run has come of it, or none of its own
    ticket.leave()
    return replace(reply, headers=headers)


class Leaves(Protocol):
    """What is left where a reply ends; more than once does nothing."""

    def leave(self) -> None: ...


class Leaving(AsyncGenerator[bytes, None]):
    """The pieces of a reply; the ticket is left where they end, even if none was ever asked for."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], ticket: Leaves) -> None:
        self._pieces = pieces
        self._ticket = ticket

    async def asend(self, value: None) -> bytes:
        try:
            return await self._pieces.asend(value)
        except BaseException:
            self._ticket.leave()
            raise

    async def athrow(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> bytes:
        error = kind if isinstance(kind, BaseException) else kind()
        try:
            return await self._pieces.athrow(error)
        except BaseException:
            self._ticket.leave()
            raise

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            self._ticket.leave()
