"""The tables of the ledger."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from orchestrator.amounts import DIMENSIONS

# Every revision of the schema, oldest first; the last one is what `metadata` makes. The names are
# those of the files in `orchestrator/migrations/versions`.
REVISIONS = ("0001",)
VERSION_TABLE = "ledger_version"

SPENT = tuple(f"spent_{dimension}" for dimension in DIMENSIONS)
HELD = tuple(f"held_{dimension}" for dimension in DIMENSIONS)

metadata = MetaData()
# SQLite numbers rows by itself only where the key is called INTEGER, which holds 64 bits there.
_NUMBERED = BigInteger().with_variant(Integer, "sqlite")


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


# What a scope has spent and holds in one of its windows, made when it is first used. `opens_ms` is
# when the window began; for what has no window, when the row was made.
accounts = Table(
    "ledger_accounts",
    metadata,
    Column("key", Text, primary_key=True),
    _text("kind"),
    _text("name"),
    _text("every"),
    _count("opens_ms"),
    *map(_count, (*SPENT, *HELD)),
    *(
        CheckConstraint(f"{column} >= 0", name=f"ledger_accounts_{column}")
        for column in (*SPENT, *HELD)
    ),
    sqlite_with_rowid=False,  # one tree to write to instead of two
)

# What is pending and nothing else: a row goes when it is settled or released. `accounts` is a list
# of keys in JSON, `entry` what the books say of the call if nobody is left to settle it.
reservations = Table(
    "ledger_reservations",
    metadata,
    Column("id", Text, primary_key=True),
    _text("accounts"),
    *map(_count, HELD),
    _count("made_ms"),
    _count("expires_ms"),
    _text("owner"),
    _text("entry"),
    sqlite_with_rowid=False,
)

# One row a call, written once.
usage = Table(
    "ledger_usage",
    metadata,
    Column("id", _NUMBERED, primary_key=True),
    _count("at_ms"),
    _text("run_id"),
    _text("tenant"),
    _text("deployment"),
    _text("provider"),
    _text("model"),
    _text("answered_as"),
    _text("pattern"),
    _text("stage"),
    _text("member"),
    _text("status"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    _count("cached_tokens"),
    _count("cache_write_tokens"),
    _count("reasoning_tokens"),
    Column("cost_nanousd", BigInteger),  # null: nobody knows
    _count("estimated"),
    _count("over_bound"),
    _count("recovered"),
    _count("elapsed_ms"),
    Index("ledger_usage_at", "at_ms"),
)

tags = Table(
    "ledger_tags",
    metadata,
    Column("usage_id", BigInteger, primary_key=True, autoincrement=False),
    Column("tag", Text, primary_key=True),
    sqlite_with_rowid=False,
)

receipts = Table(
    "ledger_receipts",
    metadata,
    Column("run_id", Text, primary_key=True),
    _text("tenant"),
    _count("at_ms"),
    Column("receipt", LargeBinary, nullable=False),
    Index("ledger_receipts_at", "at_ms"),
)

# One row: the latest time of day that any process has seen.
seen = Table(
    "ledger_seen",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _count("latest_ms"),
)
