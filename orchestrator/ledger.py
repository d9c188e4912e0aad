"""The ledger: reserve what a call may use up before it is sent, settle what it did use up after."""

from asyncio import Future
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self

from orchestrator.amounts import Amount, Scope
from orchestrator.clock import Clock, SystemClock, new_nonce
from orchestrator.errors import BudgetExceeded, LedgerError
from orchestrator.ledger_book import (
    Book,
    By,
    Hold,
    KeptReceipt,
    Standing,
    UsageEntry,
    UsageSum,
    checked,
)
from orchestrator.ledger_database import find
from orchestrator.ledger_writer import Writer

__all__ = ["By", "KeptReceipt", "Ledger", "Standing", "UsageEntry", "UsageSum"]

# What a call has used up must not be lost because a backup holds the file for a while.
SETTLE_WAIT_S = 60.0


class Ledger:
    """What has been spent, and what is held for calls under way, in every scope with a limit.

    A call reserves the most it may use up; the reservation is refused if it does not fit into one
    of its scopes. It is resolved once: settled with what was really used up, even if that is more,
    or released if nothing was sent. What is never resolved is settled in full, when it expires or
    when the process that held it is found to have ended.

    >>> import asyncio
    >>> from orchestrator.amounts import Amount, Caps, Scope
    >>> from orchestrator.ledger import Ledger
    >>> day = Scope(kind="global", every="day", caps=Caps(tokens=1000))
    >>> async def main() -> int:
    ...     async with Ledger() as ledger:
    ...         reservation = await ledger.reserve(Amount(tokens=600), [day])
    ...         await ledger.settle(reservation, Amount(tokens=200))
    ...         (standing,) = await ledger.standing([day])
    ...         return standing.spent.tokens
    >>> asyncio.run(main())
    200

    Args:
        url: `sqlite:///PATH`, `postgresql://USER@HOST/DATABASE`, or `sqlite://` for memory, where
            only the newest ten thousand calls are remembered one by one.
        clock: Where the time comes from.
        hold_s: When a reservation expires that does not say so itself.
        keep_days: How long usage, receipts and closed windows are kept.
        lock_wait_s: How long a reservation waits while another program locks the database.
    """

    def __init__(
        self,
        url: str = "sqlite://",
        clock: Clock | None = None,
        *,
        hold_s: float = 900.0,
        keep_days: int = 400,
        lock_wait_s: float = 5.0,
    ) -> None:
        self._hold_s = hold_s
        self._wait_s = lock_wait_s
        self._ids = (f"{nonce}-{number}" for nonce in (new_nonce(),) for number in count(1))
        self._writer = Writer(
            find(url), clock or SystemClock(), keep_days=keep_days, wait_s=lock_wait_s
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Make or open the database, and settle what earlier processes have left behind.

        Raises:
            LedgerError: it cannot be used; the message says why and what to do.
        """
        self._writer.start()
        await self._writer.submit(_nothing, self._wait_s, writes=False)

    async def aclose(self) -> None:
        """Finish what was begun, settle in full what is still held here, and close."""
        await self._writer.close(self._wait_s)

    # Reservations.

    async def reserve(
        self,
        needed: Amount,
        scopes: Sequence[Scope],
        *,
        run_id: str = "",
        ttl_s: float | None = None,
        entry: UsageEntry | None = None,
    ) -> str:
        """Hold an amount in every one of the scopes that has a limit; the reservation's id.

        Cancelled at any moment, it holds nothing.

        Args:
            needed: The most that the call can use up.
            scopes: Whose budgets it counts to.
            run_id: The run it belongs to.
            ttl_s: When it expires if nobody resolves it; default: `hold_s`.
            entry: What is known of the call already, for the books of one that nobody settles.

        Raises:
            BudgetExceeded: it does not fit into one of the scopes.
            LedgerError: the ledger cannot be written.
        """
        hold = Hold(
            id=next(self._ids),
            needed=checked(needed),
            scopes=tuple(scopes),
            ttl_ms=round((self._hold_s if ttl_s is None else ttl_s) * 1000),
            entry=UsageEntry(run_id=run_id) if entry is None else entry,
        )
        undo = partial(_release_if_pending, hold.id)
        held = self._writer.submit(partial(Book.reserve, hold=hold), self._wait_s, undo=undo)
        try:
            await held
        except BudgetExceeded:
            raise
        except BaseException:
            # It comes after the reservation, whether that is still to be made, was made and nobody
            # wants it any more, or failed in a way that leaves open whether it was made.
            self._writer.do(undo, SETTLE_WAIT_S)
            raise
        return hold.id

    def settle(
        self, reservation_id: str, spent: Amount, entry: UsageEntry | None = None
    ) -> "Future[None]":
        """Post what a call has used up, and give back the rest of what was held for it.

        It is on its way at once; the future is for who wants to know that it is safely written, or
        that it could not be: with `LedgerError`, if the reservation is not pending any more.
        """
        spent = checked(spent)
        return self._writer.submit(
            lambda book: book.settle(reservation_id, spent, entry), SETTLE_WAIT_S
        )

    def release(self, reservation_id: str) -> "Future[None]":
        """Give back all that was held for a call that was not sent. As `settle` otherwise."""
        return self._writer.submit(lambda book: book.release(reservation_id), SETTLE_WAIT_S)

    async def standing(self, scopes: Sequence[Scope]) -> list[Standing]:
        """What of the scopes' budgets is spent and held, in the windows that are open now."""
        return await self._writer.submit(
            lambda book: book.standing(scopes), self._wait_s, writes=False
        )

    async def drain(self) -> None:
        """Wait until everything that was asked for so far has been done."""
        await self._writer.submit(_nothing, SETTLE_WAIT_S)

    # Usage.

    def record(self, entry: UsageEntry) -> "Future[None]":
        """Write down a call for which nothing was reserved. As `settle` otherwise."""
        return self._writer.submit(lambda book: book.record(entry), SETTLE_WAIT_S)

    async def usage(
        self,
        by: By = "model",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
    ) -> list[UsageSum]:
        """What calls used up, the dearest kind first; by day, in the order of time.

        A call counts to every one of its tags, and to no tag if it has none.
        """
        return await self._writer.submit(
            lambda book: book.usage(by, since=since, until=until, tenant=tenant),
            self._wait_s,
            writes=False,
        )

    async def entries(self, *, run_id: str | None = None, limit: int = 100) -> list[UsageEntry]:
        """The newest entries, or the newest of one run, in the order they were written."""
        return await self._writer.submit(
            lambda book: book.entries(run_id=run_id, limit=limit), self._wait_s, writes=False
        )

    # Receipts.

    def keep_receipt(self, run_id: str, tenant: str, receipt: bytes) -> "Future[None]":
        """Keep the JSON of a run's receipt. As `settle` otherwise."""
        return self._writer.submit(
            lambda book: book.keep_receipt(run_id, tenant, receipt), SETTLE_WAIT_S
        )

    async def receipt(self, run_id: str, *, tenant: str | None = None) -> bytes | None:
        """The receipt of a run; None if there is none, or if it is another tenant's."""
        return await self._writer.submit(
            lambda book: book.receipt(run_id, tenant), self._wait_s, writes=False
        )

    async def receipts(self, *, limit: int = 20, tenant: str | None = None) -> list[KeptReceipt]:
        """The newest receipts, the newest first."""
        return await self._writer.submit(
            lambda book: book.receipts(limit, tenant), self._wait_s, writes=False
        )


def _nothing(_: Book) -> None:
    """What is done when all that counts is that everything before it was done."""


def _release_if_pending(reservation_id: str, book: Book) -> None:
    with suppress(LedgerError):
        book.release(reservation_id)
