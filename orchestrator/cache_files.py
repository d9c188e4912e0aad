"""Keep answers in files that are not believed on their word: sealed envelopes in a diskcache.

diskcache keeps, expires and evicts the rows. Reading is one SELECT on a connection of our own:
diskcache's would be opened where it is first used, on the event loop, and may wait there for a lock
for a minute. Everything here blocks, and raises whatever goes wrong.
"""

import dataclasses
import hashlib
import hmac
import json
import logging
import os
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache
import orjson

from adapters.types import Completion, ToolCall, Usage

SCHEMA = 1  # of keys and of envelopes; raising it makes a miss of everything that was kept before

LOCK_READ_S = 0.005  # on the event loop; writers do not block readers, so hardly ever
LOCK_WRITE_S = 1.0

_log = logging.getLogger(__name__)


# Files.

_DATABASE: str = diskcache.core.DBNAME
_SELECT = "SELECT value FROM Cache WHERE key = ? AND raw = 1 AND mode = 1 AND filename IS NULL"

# Where SQLite fails for these, the world around the database is at fault and not its content.
_SURROUNDINGS = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_TOOBIG,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An answer to be kept, and when it came."""

    key: str
    completion: Completion
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Files:
    """An open cache. Two threads may use it: one to read, and the one that opened it for the rest.

    Attributes:
        inode: The database's. Once the path leads to another one, what is written is lost.
        secret: What envelopes are sealed with.
    """

    folder: Path
    store: Any  # diskcache.Cache
    reader: sqlite3.Connection
    inode: int
    secret: bytes

    def read(self, key: str, *, now_ms: int, ttl_s: float) -> Completion | None:
        """The answer under a key. Waits for nothing."""
        row = self.reader.execute(_SELECT, (key,)).fetchone()
        return row and unseal(self.secret, key, row[0], now_ms=now_ms, ttl_s=ttl_s)

    def close_reader(self) -> None:
        """Where it is read."""
        self.reader.close()

    def write(self, entries: Sequence[Entry], *, ttl_s: float) -> None:
        """Keep answers, all in one transaction; not those larger than all the room there is."""
        if _inode(self.folder) != self.inode:
            raise FileNotFoundError("its database was removed")
        with self.store.transact():
            for entry in entries:
                envelope = seal(self.secret, entry.key, entry.completion, at_ms=entry.at_ms)
                if len(envelope) < self.store.size_limit:
                    self.store.set(entry.key, envelope, expire=ttl_s)
        if self.store.volume() > self.store.size_limit:  # a large answer among many small ones
            self.store.cull()

    def measure(self) -> tuple[int, int]:
        """How many answers there are, and how many bytes they take up."""
        return len(self.store), self.store.volume()

    def empty(self) -> int:
        """Remove every answer and what was moved aside; how many answers it were."""
        removed: int = self.store.clear()
        for path in _set_aside(self.folder):
            path.unlink(missing_ok=True)
        return removed

    def close(self) -> None:
        """Where it was opened; what is kept stays."""
        self.store.close()


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes in the database, under a text, and nothing else.

    diskcache's own unpickles what a row says is a pickle, and reads and removes the file that a
    row names, wherever that is. Every row may have been planted.
    """

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError("a key is text")
        return key, True

    def get(self, key: object, raw: object) -> object:
        if not raw or type(key) is not str:
            raise OSError("a key is text")
        return key

    def store(
        self, value: object, read: object, key: object = None
    ) -> tuple[int, int, None, memoryview]:
        if type(value) is not bytes or read:
            raise TypeError("a value is bytes")
        return 0, diskcache.core.MODE_RAW, None, memoryview(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        if mode != diskcache.core.MODE_RAW or filename is not None or read:
            raise OSError("a value lies in the database")  # diskcache takes this for a miss
        if type(value) is not bytes:
            raise OSError("a value is bytes")
        return value

    def remove(self, file_path: object) -> None:
        """There is no file of ours to remove."""


def open_files(folder: Path, secret: bytes, *, limit_bytes: int, damaged: int | None) -> Files:
    """Open the cache in a folder, or make it; a damaged one is moved aside and begun anew.

    Args:
        damaged: The inode of the database in which damage was met, if there was.
    """
    if "$" in str(folder):
        raise OSError("the name of its folder has a $ in it, which diskcache would replace")
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077 and os.name == "posix":
        raise PermissionError(f"its folder is open to others (mode {mode:o}); make it mode 700")
    if damaged is not None and _inode(folder) == damaged:  # else another process was faster
        _move_aside(folder)
    try:
        return _open_database(folder, secret, limit_bytes)
    except Exception as error:
        if not is_damage(error):
            raise
        _log.warning("The cache in %s is damaged; it begins anew: %s", folder, reason(error))
    _move_aside(folder)
    return _open_database(folder, secret, limit_bytes)


def _open_database(folder: Path, secret: bytes, limit_bytes: int) -> Files:
    database = folder / _DATABASE
    # diskcache waits for a lock for a minute when it opens: find out before whether there is one.
    with closing(sqlite3.connect(database, timeout=LOCK_WRITE_S, isolation_level=None)) as trial:
        trial.execute("BEGIN IMMEDIATE")
        trial.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        trial.execute("ROLLBACK")
    store = diskcache.Cache(
        str(folder),
        timeout=LOCK_WRITE_S,
        disk=_BytesDisk,
        size_limit=limit_bytes,
        statistics=0,
        tag_index=0,
        eviction_policy="least-recently-stored",  # any other writes when it reads
        cull_limit=2,  # for one that is written: the oldest go one by one, not by the dozen
        sqlite_mmap_size=0,  # a mapped file that is cut short ends the process
        sqlite_cell_size_check=1,
        sqlite_trusted_schema=0,
    )
    try:
        reader = _open_reader(database)
    except BaseException:
        store.close()
        raise
    return Files(folder=folder, store=store, reader=reader, inode=_inode(folder), secret=secret)


def _open_reader(database: Path) -> sqlite3.Connection:
    """A connection for the event loop, which is to wait for nothing."""
    reader = sqlite3.connect(
        database, timeout=LOCK_READ_S, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in ("query_only = 1", "cell_size_check = 1", "trusted_schema = 0"):
            reader.execute(f"PRAGMA {pragma}")
        reader.execute(_SELECT, ("",)).fetchone()  # the statement and the schema are read here
    except BaseException:
        reader.close()
        raise
    return reader


def _inode(folder: Path) -> int:
    """Which database lies in a folder; 0 is none."""
    try:
        return (folder / _DATABASE).stat().st_ino
    except FileNotFoundError:
        return 0


def _move_aside(folder: Path) -> None:
    """Keep the last damaged database to be looked at; its like before it is dropped."""
    for path, aside in zip(_database_files(folder), _set_aside(folder), strict=True):
        with suppress(FileNotFoundError):
            path.replace(aside)


def _database_files(folder: Path) -> list[Path]:
    return [folder / f"{_DATABASE}{end}" for end in ("", "-wal", "-shm")]


def _set_aside(folder: Path) -> list[Path]:
    return [path.with_name(f"damaged-{path.name}") for path in _database_files(folder)]


def is_damage(error: Exception) -> bool:
    """Whether it is the content of the database that is wrong.

    diskcache acts on settings that it reads there, so damage can look like an error of any kind.
    """
    if isinstance(error, sqlite3.Error):
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF not in _SURROUNDINGS
    return not isinstance(error, (OSError, MemoryError, diskcache.Timeout))


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, diskcache.Timeout):
        return "its database is locked"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or type(error).__name__


# The envelope: magic and version, when it was sealed, the seal, the answer.

_HEAD = struct.Struct(">4sQ")
_MAGIC = b"OCC" + bytes([SCHEMA])
_SEAL_END = _HEAD.size + hashlib.sha256().digest_size


def seal(secret: bytes, key: str, completion: Completion, *, at_ms: int) -> bytes:
    """An answer in an envelope that is good for one key."""
    head = _HEAD.pack(_MAGIC, at_ms)
    payload = _dump(completion)
    return head + _signature(secret, key, head, payload) + payload


def unseal(
    secret: bytes, key: str, envelope: object, *, now_ms: int, ttl_s: float
) -> Completion | None:
    """The answer in an envelope, if we sealed it, for this key, and not too long ago."""
    if not isinstance(envelope, bytes) or len(envelope) < _SEAL_END:
        return None
    head, payload = envelope[: _HEAD.size], envelope[_SEAL_END:]
    signature = envelope[_HEAD.size : _SEAL_END]
    if not hmac.compare_digest(signature, _signature(secret, key, head, payload)):
        return None
    magic, at_ms = _HEAD.unpack(head)
    if magic != _MAGIC or not 0 <= now_ms - at_ms < 1000 * ttl_s:
        return None
    try:
        return _load(payload)
    except (KeyError, TypeError, ValueError):  # a later version of ourselves wrote it
        return None


def _signature(secret: bytes, key: str, head: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, head + key.encode() + b"\0" + payload, "sha256")


def _dump(completion: Completion) -> bytes:
    """The answer as JSON. Halves of characters are no UTF-8, and still come back as they were."""
    try:
        return orjson.dumps(completion)
    except TypeError:
        text = json.dumps(dataclasses.asdict(completion), ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")


def _load(payload: bytes) -> Completion:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        fields = json.loads(payload.decode("utf-8", "surrogatepass"))
    fields["tool_calls"] = tuple([ToolCall(**call) for call in fields["tool_calls"]])
    fields["usage"] = Usage(**fields["usage"])
    fields["logprobs"] = tuple(fields.get("logprobs", ()))  # earlier versions kept none
    return Completion(**fields)
