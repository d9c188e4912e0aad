"""Open the database of a ledger: find or make it, bring it up to date, say what is wrong."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from orchestrator.clock import new_nonce
from orchestrator.errors import LedgerError
from orchestrator.ledger_schema import REVISIONS, VERSION_TABLE, metadata

# How long the database itself waits for a lock, before we look whether to wait on.
LOCK_S = 1.0
# Reading a whole file to see that it is sound takes a second for some hundred megabytes.
CHECKED_BYTES = 32 * 2**20
# Any number that nothing else in the database locks: "ledger" in ASCII.
POSTGRES_LOCK = 0x6C6564676572

SQLITE = "sqlite"
POSTGRES = "postgresql"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ledger is.

    Attributes:
        url: For SQLAlchemy; may hold a password.
        name: For people; holds none.
        file: The file of an SQLite database that is one.
    """

    url: URL
    name: str
    file: Path | None = None

    @property
    def is_memory(self) -> bool:
        return self.url.get_backend_name() == SQLITE and self.file is None


def find(url: str) -> Address:
    """Where a URL leads.

    Raises:
        LedgerError: it leads nowhere; the message does not repeat it, for it may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LedgerError(
            "The ledger's URL cannot be read; write sqlite:///ledger.db or "
            "postgresql://user@host/database"
        ) from None
    if parsed.drivername == SQLITE and not parsed.query:
        if parsed.database in {None, "", ":memory:"}:
            return Address(parsed.set(database=None), "the ledger in memory")
        file = Path(str(parsed.database)).expanduser().absolute()
        return Address(parsed.set(database=str(file)), f"ledger {str(file)!r}", file)
    if parsed.drivername in {POSTGRES, f"{POSTGRES}+psycopg"}:
        place = "/".join(filter(None, (parsed.host, parsed.database)))
        return Address(parsed.set(drivername=f"{POSTGRES}+psycopg"), f"ledger {place!r}")
    raise LedgerError(
        f"The ledger's URL begins with {parsed.drivername!r}"
        f"{' and has options after a ?' if parsed.query else ''}; what works is "
        "sqlite:///ledger.db and postgresql://user@host/database"
    )


def connect(address: Address) -> Connection:
    """A connection to a ledger of the newest schema; the database is made if there is none.

    Transactions on it begin and end with `BEGIN` and `COMMIT`, which cost a tenth of SQLAlchemy's.

    Raises:
        LedgerError: it was made by a newer version, is damaged, or lacks a driver.
        Exception: anything else; see `explained`.
    """
    if address.file is not None:
        if not address.file.exists():
            _make_file(address, address.file)
        elif not address.file.stat().st_size:
            raise LedgerError(
                f"{address.name} is empty, and a ledger never is: what it said is lost. Put a "
                "backup in its place, or delete it to begin anew"
            )
    connection = _engine(address.url).connect()
    try:
        _prepare(connection, address)
    except BaseException:
        drop(connection)
        raise
    return connection


def drop(connection: Connection) -> None:
    """Close a connection of which nothing good is expected any more."""
    with suppress(Exception):  # what is wrong with it is known, and told elsewhere
        connection.invalidate()
        connection.close()


def _engine(url: URL) -> Engine:
    is_sqlite = url.get_backend_name() == SQLITE
    try:
        return create_engine(
            url,
            poolclass=NullPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            paramstyle="qmark" if is_sqlite else "format",  # by place: drivers look up no names
            connect_args={"timeout": LOCK_S} if is_sqlite else _postgres_arguments(url),
        )
    except ModuleNotFoundError as error:
        raise LedgerError(
            f"PostgreSQL needs the package {error.name!r}: "
            "pip install 'llm-orchestrator-gateway[postgres]'"
        ) from error


def _postgres_arguments(url: URL) -> dict[str, object]:
    wait = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
    return {**wait, "application_name": "orchestrator"}


def _prepare(connection: Connection, address: Address) -> None:
    if address.url.get_backend_name() == SQLITE:
        if connection.dialect.server_version_info < (3, 35):  # type: ignore[operator]
            raise LedgerError("The ledger needs SQLite 3.35 or later")
        connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
        if address.file and address.file.stat().st_size <= CHECKED_BYTES:
            _check(connection, address)
    else:
        connection.exec_driver_sql(f"SET lock_timeout = {round(LOCK_S * 1000)}")
    bring_up_to_date(connection, address)


def _check(connection: Connection, address: Address) -> None:
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise LedgerError(_damaged(address, str(found)))


def _make_file(address: Address, file: Path) -> None:
    """Make a database beside its place and move it there: nobody ever sees half of one."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{new_nonce()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with _engine(address.url.set(database=str(draft))).connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            bring_up_to_date(connection, address)
        _move(draft, file)
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _move(draft: Path, file: Path) -> None:
    """Put a file into its place, unless another process was faster: its file is as good."""
    with suppress(FileExistsError):
        try:
            os.link(draft, file)
        except (PermissionError, NotImplementedError):  # a file system without links
            if not file.exists():
                draft.rename(file)


# The schema.


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Be the only one who writes to the ledger, and undo it all if that fails."""
    connection.exec_driver_sql(beginning(connection))
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(DBAPIError):  # a full disk has ended it already, or the line is dead
            connection.exec_driver_sql("ROLLBACK")
        raise


def beginning(connection: Connection) -> str:
    """The statement that begins to write.

    Whoever writes is alone: a transaction of several reservations would otherwise take rows that
    another one waits for, in another order. What is to be had by more at once is small, for they
    all wait for the row of a global limit anyhow.
    """
    if connection.dialect.name == SQLITE:
        return "BEGIN IMMEDIATE"
    return f"BEGIN; SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"


def bring_up_to_date(connection: Connection, address: Address) -> None:
    """Make the tables, or change them from those of an older version.

    Raises:
        LedgerError: they are those of a newer version.
    """
    if revision(connection) == REVISIONS[-1]:
        return
    with transaction(connection):
        found = revision(connection)  # another process may have been faster
        if found is None:
            metadata.create_all(connection)
            _stamp(connection)
        elif found == "" or found in REVISIONS[:-1]:
            _upgrade(connection)
        elif found != REVISIONS[-1]:
            raise LedgerError(
                f"{address.name} was written by a newer version (its schema is {found!r}, "
                f"the newest known here {REVISIONS[-1]!r}); upgrade llm-orchestrator-gateway"
            )


def revision(connection: Connection) -> str | None:
    """The schema's revision; None if there is no ledger, empty if one has no revision yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    # The table is alembic's; its name is a constant of ours.
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return connection.execute(query).scalar() or ""


def _stamp(connection: Connection) -> None:
    """Say what `create_all` has made, as alembic would: importing it takes longer than the rest."""
    connection.exec_driver_sql(
        f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
        f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
    )
    connection.execute(
        text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"),  # noqa: S608
        {"revision": REVISIONS[-1]},
    )


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 (a second, for what happens once a release)
    from alembic.config import Config  # noqa: PLC0415

    folder = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


# What went wrong.

# By the beginning of SQLite's name for it, or of PostgreSQL's number.
_ADVICE = {
    "SQLITE_BUSY": "is locked by another program, a backup perhaps; end that and try again",
    "SQLITE_LOCKED": "is locked by another program, a backup perhaps; end that and try again",
    "SQLITE_FULL": "has no room left; free some space on its disk",
    "SQLITE_READONLY": "may not be written; allow it, or name another place",
    "SQLITE_PERM": "may not be written; allow it, or name another place",
    "SQLITE_CANTOPEN": "cannot be opened; its folder must exist and be writable",
    "SQLITE_IOERR": "cannot be read or written; look at its disk",
    "55P03": "is locked by another program, a backup perhaps; end that and try again",
    "53100": "has no room left; free some space on its disk",
    "25006": "may only be read; name a server that may be written",
    "28": "refuses the user or the password in its URL",
    "3D000": "does not exist; create it: createdb NAME",
    "42501": "does not let this user make or change tables; grant it",
    "08": "cannot be reached, or broke off",
    "57P": "is shutting down or starting; try again",
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40P01", "40001")


def explained(error: Exception, address: Address) -> LedgerError:
    """What an error of the database means, and what to do about it."""
    if isinstance(error, LedgerError):
        return error
    code, reason = _code(error), _first_line(error)
    if address.url.password:  # no driver repeats it today
        reason = reason.replace(str(address.url.password), "***")
    if code.startswith(_DAMAGE):
        return LedgerError(_damaged(address, reason))
    advice = next((advice for start, advice in _ADVICE.items() if code.startswith(start)), "")
    return LedgerError(f"{address.name} {advice or 'cannot be used'} ({reason})")


def is_locked(error: Exception) -> bool:
    """Whether another program was in the way, so that the same may work a moment later."""
    return _code(error).startswith(_LOCKED)


def is_lost(error: Exception, connection: Connection) -> bool:
    """Whether the server is gone, so that the same may work on a new connection."""
    raw = connection.connection.dbapi_connection
    origin = error.orig if isinstance(error, DBAPIError) else error
    driver = connection.dialect.loaded_dbapi
    return isinstance(origin, driver.Error) and connection.dialect.is_disconnect(origin, raw, None)


def _damaged(address: Address, reason: str) -> str:
    message = (
        f"{address.name} is damaged ({reason}). Nothing was changed: put a backup in its place"
    )
    if address.file is not None:
        message += (
            f", or save what can be read: sqlite3 {str(address.file)!r} .recover | "
            f"sqlite3 {str(address.file.with_suffix('.saved.db'))!r}"
        )
    return message


def _code(error: Exception) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(origin, "sqlite_errorname", None) or getattr(origin, "sqlstate", None)
    return str(name or "")


def _first_line(error: Exception) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return (str(origin).strip() or type(origin).__name__).splitlines()[0]
