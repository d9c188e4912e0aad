"""The ledger as runs use it: opened when it is first needed, and what it could not take kept."""

import asyncio
import logging
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.amounts import Amount, Scope
from orchestrator.clock import Clock
from orchestrator.config import LedgerConfig, OrchestratorConfig, ledger_url
from orchestrator.errors import ReservationClosed
from orchestrator.ledger import Ledger, Standing
from orchestrator.responses import Receipt

_log = logging.getLogger(__name__)


class Books:
    """The ledger, for those who post what calls have used up.

    What it could not take, because its disk is full or gone, is kept here and written before
    anything else is paid for: nothing is lost, and no call is made that nobody could count.

    Args:
        ledger: An open one; it is not closed here. Default: the one that `open` is told of.
        clock: Where the time comes from.

    Attributes:
        ledger: None as long as nothing is to be counted.
    """

    def __init__(self, ledger: Ledger | None, clock: Clock) -> None:
        self.ledger = ledger
        self._clock = clock
        self._is_ours = ledger is None
        self._opening = asyncio.Lock()
        self._unwritten: deque[Callable[[], Future[None]]] = deque()

    async def open(self, config: OrchestratorConfig) -> None:
        """Open the ledger that a configuration names, in memory if it names none; once.

        Raises:
            LedgerError: it cannot be used.
        """
        if self.ledger is not None:
            return
        async with self._opening:
            if self.ledger is None:
                about = config.ledger or LedgerConfig()
                ledger = Ledger(
                    ledger_url(config) if config.ledger else "sqlite://",
                    clock=self._clock,
                    hold_s=about.hold_s,
                    keep_days=about.keep_days,
                )
                try:
                    await ledger.open()
                except BaseException:
                    await ledger.aclose()
                    raise
                self.ledger = ledger

    async def aclose(self) -> None:
        """Close the ledger that was opened here."""
        if self.ledger is not None and self._is_ours:
            await self.ledger.aclose()
            self.ledger = None

    async def standings(self, scopes: Sequence[Scope]) -> list[Standing]:
        """How budgets stand; none of them, where nothing is counted."""
        return await self.ledger.standing(scopes) if self.ledger and scopes else []

    async def count_before(self, run_id: str, scopes: Sequence[Scope], paid: Amount) -> None:
        """Count to a resumed run's budget what its ledger does not know of, being a new one."""
        if self.ledger is None:
            return
        for standing in await self.standings([one for one in scopes if one.kind == "run"]):
            unknown = paid.beyond(standing.spent)
            if unknown != Amount():
                held = await self.ledger.reserve(Amount(), [standing.scope], run_id=run_id)
                await self.ledger.settle(held, unknown)

    def keep_receipt(self, run_id: str, tenant: str, receipt: Receipt) -> None:
        """Keep a run's receipt, where anything is kept."""
        if self.ledger is not None:
            told = receipt.to_json(indent=None)
            self.post(partial(self.ledger.keep_receipt, run_id, tenant, told))

    async def receipt(self, run_id: str, tenant: str) -> Receipt | None:
        """The receipt of a tenant's run, where it was kept."""
        kept = await self.ledger.receipt(run_id, tenant=tenant) if self.ledger else None
        return None if kept is None else Receipt.from_json(kept)

    def post(self, write: Callable[[], "Future[None]"]) -> None:
        """Have something written; nobody waits for it."""
        write().add_done_callback(partial(self._look, write))

    def _look(self, write: Callable[[], "Future[None]"], written: "Future[None]") -> None:
        error = None if written.cancelled() else written.exception()
        if error is None or isinstance(error, ReservationClosed):  # settled in full meanwhile
            return
        if not self._unwritten:
            _log.warning("what a call has used up could not be written yet: %s", error)
        self._unwritten.append(write)

    async def catch_up(self) -> None:
        """Write what could not be written before.

        Raises:
            LedgerError: it still cannot.
        """
        while self._unwritten:
            write = self._unwritten.popleft()
            try:
                await write()
            except ReservationClosed:
                continue
            except BaseException:
                self._unwritten.appendleft(write)
                raise
