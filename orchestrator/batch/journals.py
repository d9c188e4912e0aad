"""The journals of rows of several calls: what a row had paid for when its process was killed.

One file a row under way, in a folder beside the parts. Its name is made of the row's position, its
content and the configuration, so that a row that has changed never meets it. It goes when the row's
outcome is written down.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from orchestrator.amounts import Amount
from orchestrator.batch.parts import Index, key_of, read_at
from orchestrator.batch.rows import Row
from orchestrator.clock import Clock
from orchestrator.errors import JournalError
from orchestrator.journal import SUFFIX, Journal, PaidCall, Record, Slot

LOOKS = 600  # how often it is looked whether a process that has ended has let go of a row
LOOK_S = 0.1


class RowJournal:
    """Where one row writes down its calls."""

    __slots__ = ("_journal", "_name", "_path")

    def __init__(self, journal: Journal, folder: str, name: str) -> None:
        self._journal = journal
        self._name = name
        self._path = f"{folder}/{name}{SUFFIX}"

    @property
    def question(self) -> Slot:
        """The slot of the run that asks its question."""
        return Slot(self._journal, self._name)

    @property
    def again(self) -> Slot:
        """That of the run that asks once more for JSON that is right."""
        return Slot(self._journal, f"{self._name}-again")

    @property
    def is_there(self) -> bool:
        """Whether anything is written down: never of a row that is one call."""
        return os.path.exists(self._path)  # noqa: PTH110 - it is asked twice for every row

    async def taken_up(self, clock: Clock) -> tuple[PaidCall, ...]:
        """What was paid for it so far; waits for a process that has just ended to let go of it."""
        if not self.is_there:
            return ()
        for slot in (self.question, self.again):
            for _ in range(LOOKS):
                if not slot.is_in_use():
                    break
                await clock.sleep(LOOK_S)
        return self.paid()

    def paid(self) -> tuple[PaidCall, ...]:
        """What was paid for it so far."""
        records = (slot.read() for slot in (self.question, self.again))
        return tuple(call for record in records if record is not None for call in record.calls)

    def remove(self) -> None:
        """The row's outcome is written down, and with it what was paid for.

        Raises:
            JournalError: it cannot be removed.
        """
        self.again.remove()
        self.question.remove()


class RowJournals:
    """Where the rows of one batch write down their calls.

    Args:
        folder: That of the parts.
        config: The digest of what decides on answers.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self._parts = folder
        self._folder = folder / "rows"
        self._config = hashlib.sha256(config.encode()).hexdigest()[:16]
        self._path = str(self._folder)
        self._journal = Journal(self._folder, keeps_receipts=False)

    def of(self, row: Row) -> RowJournal:
        """Where a row writes down its calls."""
        name = f"{row.position}-{row.digest[:16]}-{self._config}"
        return RowJournal(self._journal, self._path, name)

    def left_nanousd(self) -> int:
        """What was paid for rows that have no outcome, and that no process is at."""
        records = (slot.read() for slot in self._all() if not slot.is_in_use())
        paid = (record.paid for record in records if record is not None)
        return sum(paid, Amount()).money_nanousd

    def tidy(self, index: Index) -> None:
        """Remove what no row can go on with: it has an outcome since, or all is asked otherwise.

        Raises:
            JournalError: it cannot be removed.
        """
        for slot in self._all():
            if self._is_of_no_use(slot, index):
                slot.remove()

    def clear(self) -> None:
        """Forget all of them.

        Raises:
            JournalError: one cannot be removed.
        """
        for slot in self._all():
            slot.remove()
        with suppress(OSError):  # there is none, or somebody has put something else there
            self._folder.rmdir()

    def _all(self) -> Iterator[Slot]:
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            with suppress(JournalError):  # no name of ours
                self._journal.path(path.stem)
                yield Slot(self._journal, path.stem)

    def _is_of_no_use(self, slot: Slot, index: Index) -> bool:
        position, digest, config = (*slot.name.split("-"), "", "")[:3]
        if config != self._config or not position.isdecimal():
            return True
        entry = index.find(int(position))
        if entry is None or entry.key != key_of(digest):
            return False
        record = slot.read()
        return record is None or _began_s(record) <= read_at(self._parts, entry.place).at_s


def _began_s(record: Record) -> float:
    return datetime.fromisoformat(record.opening.started_at).timestamp()
