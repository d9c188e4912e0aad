"""The first tables."""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, Text

revision = "0001"
down_revision = None

DIMENSIONS = ("money_nanousd", "tokens", "calls", "time_ms")
HELD = tuple(f"held_{dimension}" for dimension in DIMENSIONS)
SUMS = (*(f"spent_{dimension}" for dimension in DIMENSIONS), *HELD)


def _counts(*names: str) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def _texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names]


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "ledger_accounts",
        Column("key", Text, primary_key=True),
        *_texts("kind", "name", "every"),
        *_counts("opens_ms", *SUMS),
        *(CheckConstraint(f"{column} >= 0", name=f"ledger_accounts_{column}") for column in SUMS),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_reservations",
        Column("id", Text, primary_key=True),
        *_texts("accounts"),
        *_counts(*HELD, "made_ms", "expires_ms"),
        *_texts("owner", "entry"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_usage",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        *_counts("at_ms"),
        *_texts("run_id", "tenant", "deployment", "provider", "model", "answered_as"),
        *_texts("pattern", "stage", "member", "status"),
        *_counts("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"),
        *_counts("reasoning_tokens"),
        Column("cost_nanousd", BigInteger),
        *_counts("estimated", "over_bound", "recovered", "elapsed_ms"),
    )
    op.create_index("ledger_usage_at", "ledger_usage", ["at_ms"])
    op.create_table(
        "ledger_tags",
        Column("usage_id", BigInteger, primary_key=True, autoincrement=False),
        Column("tag", Text, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_receipts",
        Column("run_id", Text, primary_key=True),
        *_texts("tenant"),
        *_counts("at_ms"),
        Column("receipt", LargeBinary, nullable=False),
    )
    op.create_index("ledger_receipts_at", "ledger_receipts", ["at_ms"])
    op.create_table(
        "ledger_seen",
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        *_counts("latest_ms"),
    )
