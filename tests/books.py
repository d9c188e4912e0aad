"""What stands in a ledger's books, row by row, for tests that hold them against something."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from orchestrator.amounts import DIMENSIONS, Amount
from orchestrator.ledger import Ledger
from orchestrator.ledger_book import Book
from orchestrator.ledger_schema import HELD, SPENT, accounts, reservations


@dataclass(frozen=True, slots=True)
class Account:
    """One scope in one window: what is spent and held in it."""

    kind: str
    name: str
    every: str
    spent: Amount
    held: Amount


async def read_accounts(ledger: Ledger) -> list[Account]:
    """Every account there is, as one read finds them."""
    return await ledger._writer.submit(_accounts, 30.0, writes=False)


async def pending(ledger: Ledger) -> int:
    """How many reservations nobody has resolved yet."""
    return await ledger._writer.submit(_pending, 30.0, writes=False)


def _accounts(book: Book) -> list[Account]:
    rows = book.connection.execute(select(accounts)).mappings()
    return [
        Account(
            kind=row["kind"],
            name=row["name"],
            every=row["every"],
            spent=_amount(row, SPENT),
            held=_amount(row, HELD),
        )
        for row in rows
    ]


def _pending(book: Book) -> int:
    return book.connection.execute(select(func.count()).select_from(reservations)).scalar() or 0


def _amount(row: Any, columns: tuple[str, ...]) -> Amount:
    return Amount(**{name: row[column] for name, column in zip(DIMENSIONS, columns, strict=True)})
