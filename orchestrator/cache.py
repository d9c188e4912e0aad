"""Answer a call from disk if its like was answered before, and equal calls under way only once.

A cache is a convenience. Whatever is wrong with it, the call goes to its provider: nothing here
raises into a run, and nothing on the way to an answer waits for a disk. And it is never believed
on its word: an answer is used only if the envelope that it lies in was sealed by us, for this very
key. diskcache keeps, expires and evicts the rows; reading is one SELECT on a connection of our own,
because diskcache's would be opened where it is first used, on the event loop, and may wait for a
lock for a minute there.
"""

import asyncio
import dataclasses
import hashlib
import hmac
import json
import logging
import os
import secrets
import sqlite3
import struct
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import orjson

from adapters.config import MissingVariable, ModelConfig, resolve_references
from adapters.types import Chunk, Completion, CompletionRequest, ToolCall, ToolCallDelta, Usage
from orchestrator.clock import Clock, new_nonce
from orchestrator.config import CacheConfig, state_dir
from orchestrator.errors import CacheError

T = TypeVar("T")

SCHEMA = 1  # of keys and of envelopes; raising it makes a miss of everything that was kept before
SECRET_BYTES = 32
PIECE = 256  # characters of a chunk of a replayed answer

OPEN_S = 2.0  # what a call waits for the cache to open, or for an answer to be written
CLEAR_S = 600.0  # what the command that empties it waits
LOCK_READ_S = 0.005  # on the event loop; writers do not block readers, so hardly ever
LOCK_WRITE_S = 1.0
PAUSE_S = 30.0  # how long it is off after a fault

_log = logging.getLogger(__name__)


# Which calls are equal.

_ASKED = tuple(field.name for field in dataclasses.fields(CompletionRequest))
# What of a deployment can change its answer, or whether there is to be one. Who pays and how much,
# how fast it may be called, how heavy its voice is and how it is continued cannot.
_ANSWERS_BY = (
    "provider",
    "model",
    "api_base",
    "max_tokens",
    "media_urls",
    "done_without_finish",
)


def cache_key(
    request: CompletionRequest, model: ModelConfig, *, tenant: str, sample: int = 0
) -> str:
    """What calls have in common that one answer serves: 64 hex digits.

    The order of keys does not count. Numbers count as they are written: 1, 1.0 and true differ, so
    do a field that is null and one that is not there; only a field of the request itself that is
    None is the same as not given. A `${NAME}` in `api_base` counts as it is written and by what it
    stands for. `sample` tells answers apart that are wanted to the same question.
    """
    asked = {name: given for name in _ASKED if (given := getattr(request, name)) is not None}
    answers_by = [getattr(model, name) for name in _ANSWERS_BY]
    base = _resolved(model.api_base)
    content = (SCHEMA, tenant, sample, base, answers_by, asked)
    return hashlib.sha256(_canonical(content)).hexdigest()


def _resolved(base: str | None) -> str:
    """What an address with references stands for; only a hash of it is ever kept."""
    if base is None or "${" not in base:
        return ""
    with suppress(MissingVariable):
        return resolve_references(base)
    return ""


def _canonical(content: object) -> bytes:
    """The one way to write this as JSON.

    What JSON cannot say is not equal to anything: it is written as what nobody will write again.
    """
    with suppress(TypeError):  # a half of a character, an integer of more than 64 bits, too deep
        written = orjson.dumps(content, default=_plain, option=orjson.OPT_SORT_KEYS)
        if b"null" not in written:  # orjson writes null for a number that is none
            return written
    try:
        text = json.dumps(
            content, default=_plain, sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
    except (TypeError, ValueError, RecursionError):
        return new_nonce().encode()
    return text.encode("utf-8", "surrogatepass")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# What is kept, and where.


def folder_of(config: CacheConfig) -> Path:
    """The folder of a cache."""
    return Path(config.folder).expanduser() if config.folder else state_dir() / "cache"


def default_secret() -> Path:
    """Where the secret lies that answers are sealed with: beside the cache, never inside it."""
    return state_dir() / "secret"


def secret_key(path: Path) -> bytes:
    """The secret in this file; it is made, readable by its owner alone, if it is not there.

    Of several who make it at once one is first, and all of them get that one's.

    Raises:
        OSError: it can neither be read nor made.
        ValueError: the file holds something else.
    """
    if not path.exists():
        _make_secret(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path} is no secret of {SECRET_BYTES} bytes; remove it")
    return secret


def _make_secret(path: Path) -> None:
    """Write it under a passing name, and link it into its place whole unless one is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(passing, "xb", opener=partial(os.open, mode=0o600)) as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(passing, path)
    finally:
        passing.unlink(missing_ok=True)


def is_whole(completion: Completion) -> bool:
    """Whether an answer is worth keeping: it is neither cut nor filtered nor empty."""
    if completion.finish_reason not in {"stop", "tool_calls"}:
        return False
    return bool(completion.tool_calls or completion.text.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What is in a cache, and how often this one object found something there."""

    folder: Path
    answers: int  # those whose time is over included, until the room is needed
    size_bytes: int
    limit_bytes: int
    ttl_s: float
    hits: int = 0
    misses: int = 0


# The cache.


@dataclass(frozen=True, slots=True, eq=False)
class _Files:
    """An open cache. The store belongs to the worker thread, the reader to the event loop."""

    store: Any  # diskcache.Cache
    reader: sqlite3.Connection
    inode: int  # of the database: another one, and it is no longer ours that is on the disk
    secret: bytes


# What a fork brought along. SQLite's connections must be neither used nor closed in the child, and
# to drop the last reference would be to close them.
_inherited: list[object] = []


class CompletionCache:
    """Complete answers by key, on disk. `open` it before the first `get`, which finds none else.

    After a fault it is off for a while and then tried again; a damaged database is moved aside and
    begun anew. Each kind of fault is warned of once, and `fault` says why it is off. In a forked
    child it opens files of its own.

    An answer is as old as `clock` says, and time never runs backwards here: a wall clock that is
    set back does not bring back an answer whose time was over, and what claims to be from the
    future is not used. Only a step back while nothing ran cannot be seen.
    """

    def __init__(
        self, folder: Path, config: CacheConfig, secret: bytes | Path, *, clock: Clock
    ) -> None:
        """Nothing is touched yet. `secret` is 32 bytes, or the file for `secret_key`."""
        self.folder = folder.absolute()
        self.fault = ""
        self.hits = 0
        self.misses = 0
        self._config = config
        self._secret = secret
        self._clock = clock
        self._began = (clock.now().timestamp(), clock.monotonic())
        self._warned: set[str] = set()
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._files: _Files | None = None
        self._opening: Future[_Files | Exception] | None = None
        self._closing: Future[object] | None = None
        self._damaged: int | None = None  # the database that was, by its inode
        self._off_until_s = float("-inf")

    async def open(self) -> None:
        """Open the files if they are not, off the event loop. Costs nothing once they are."""
        if self._pid != os.getpid():
            _inherited.append((self._files, self._worker, self._opening))
            self._begin()
        if self._files is not None or self._is_closed or self._is_off:
            return
        if self._opening is None:
            job = partial(
                _open_files, self.folder, self._config, self._secret, damaged=self._damaged
            )
            self._opening = self._start(job)
            self._opening.add_done_callback(self._adopt)
        opening = self._opening
        if opening not in await self._clock.first_done({opening}, OPEN_S):
            self._turn_off(TimeoutError(f"it is not open after {OPEN_S:g} s"))

    @property
    def _is_off(self) -> bool:
        return self._clock.monotonic() < self._off_until_s

    def get(self, key: str) -> Completion | None:
        """The answer that is kept under a key. Never waits, never raises."""
        files = self._files
        if files is None or self._pid != os.getpid():
            return None
        try:
            row = files.reader.execute(_SELECT, (key,)).fetchone()
            found = row and _unseal(
                files.secret, key, row[0], now_ms=self._now_ms(), ttl_s=self._config.ttl_s
            )
        except Exception as error:  # noqa: BLE001 - a file that anything may have happened to
            self._fail(files, error)
            found = None
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        return found

    async def put(self, key: str, completion: Completion) -> None:
        """Keep an answer, if it is whole. Waits for the disk a little, and never raises."""
        if not is_whole(completion):
            return
        await self.open()
        files = self._files
        if files is None:
            return
        envelope = _seal(files.secret, key, completion, at_ms=self._now_ms())
        if len(envelope) >= self._limit_bytes:
            return
        try:
            await self._finish(
                partial(_write, files, self.folder, key, envelope, self._config.ttl_s), OPEN_S
            )
        except Exception as error:  # noqa: BLE001 - as for reading
            self._fail(files, error)

    async def stats(self) -> CacheStats:
        """What is in it.

        Raises:
            CacheError: it cannot be looked into.
        """
        answers, size_bytes = await self._administer(
            lambda files: (len(files.store), files.store.volume())
        )
        return CacheStats(
            folder=self.folder,
            answers=answers,
            size_bytes=size_bytes,
            limit_bytes=self._limit_bytes,
            ttl_s=self._config.ttl_s,
            hits=self.hits,
            misses=self.misses,
        )

    async def clear(self) -> int:
        """Remove every answer, and what was moved aside; how many answers it were.

        Raises:
            CacheError: it cannot be done.
        """
        return await self._administer(partial(_empty, self.folder))

    async def aclose(self) -> None:
        """Let go of the files. What is kept stays."""
        self._is_closed = True
        if self._pid != os.getpid():
            _inherited.append((self._files, self._worker, self._opening))
            return
        if self._opening is not None:
            await self._clock.first_done({self._opening}, OPEN_S)
        self._let_go()
        if self._closing is not None:
            await self._clock.first_done({self._closing}, OPEN_S)
        if self._opening is None:  # else the thread is still needed, to close what it opens
            self._worker.shutdown(wait=False)

    @property
    def _limit_bytes(self) -> int:
        return self._config.size_mb * 2**20

    def _now_ms(self) -> int:
        """The wall clock in milliseconds, or where it would be had nobody set it back."""
        wall_s, monotonic_s = self._began
        counted_s = wall_s + self._clock.monotonic() - monotonic_s
        return int(1000 * max(counted_s, self._clock.now().timestamp()))

    async def _administer(self, job: Callable[[_Files], T]) -> T:
        await self.open()
        files = self._files
        if files is None:
            raise CacheError(f"the cache in {self.folder} cannot be used: {self.fault or 'closed'}")
        try:
            return await self._finish(partial(job, files), CLEAR_S)
        except Exception as error:
            self._fail(files, error)
            message = f"the cache in {self.folder} cannot be used: {_reason(error)}"
            raise CacheError(message) from error

    # The worker thread.

    def _start(self, job: Callable[[], T]) -> "Future[T | Exception]":
        """Begin a job in the worker thread; what it raises is what it comes to.

        A caller that is cancelled leaves nobody to look at the future, and asyncio would complain
        of an exception in it.
        """
        return asyncio.get_running_loop().run_in_executor(self._worker, _outcome, job)

    async def _finish(self, job: Callable[[], T], limit_s: float) -> T:
        future = self._start(job)
        if future not in await self._clock.first_done({future}, limit_s):
            future.cancel()  # it may not have begun
            raise TimeoutError(f"it takes more than {limit_s:g} s")
        outcome = future.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _adopt(self, opening: "Future[_Files | Exception]") -> None:
        """What came of opening, also where nobody waits for it any more."""
        self._opening = None
        outcome = opening.result()
        if isinstance(outcome, Exception):
            self._turn_off(outcome)
            return
        self._files = outcome
        self._damaged = None
        self._off_until_s = float("-inf")
        self.fault = ""
        if self._is_closed:
            self._let_go()
            self._worker.shutdown(wait=False)

    # Faults.

    def _fail(self, files: _Files, error: Exception) -> None:
        """The files cannot be relied on: close them, and begin anew now or after a while."""
        if self._files is not files:  # somebody else has said so
            return
        self._let_go()
        if _is_damage(error):
            self._damaged = files.inode
            self._warn(error, "is damaged and will be moved aside; it begins anew, empty")
        else:
            self._turn_off(error)

    def _turn_off(self, error: Exception) -> None:
        self._off_until_s = self._clock.monotonic() + PAUSE_S
        self.fault = _reason(error)
        self._warn(error, f"is off, and tried again after {PAUSE_S:g} s; answers are not affected")

    def _warn(self, error: Exception, what: str) -> None:
        kind = getattr(error, "sqlite_errorname", type(error).__name__)
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("The cache in %s %s: %s", self.folder, what, _reason(error))

    def _let_go(self) -> None:
        """Close the files: the reader here, the store where it belongs."""
        files, self._files = self._files, None
        if files is not None:
            with suppress(sqlite3.Error):
                files.reader.close()
            self._closing = self._start(files.store.close)


# In the worker thread: files and SQLite.

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


def _outcome(job: Callable[[], T]) -> T | Exception:
    try:
        return job()
    except Exception as error:  # noqa: BLE001 - whoever waits decides what it means
        return error


def _open_files(
    folder: Path, config: CacheConfig, secret: bytes | Path, *, damaged: int | None
) -> _Files:
    """Open the cache in a folder; one that is damaged is moved aside first."""
    _check_places(folder, secret)
    key = secret if isinstance(secret, bytes) else secret_key(secret)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077 and os.name == "posix":
        raise PermissionError(f"its folder is open to others (mode {mode:o}); make it mode 700")
    if damaged is not None and _inode(folder) == damaged:  # else another process was faster
        _move_aside(folder)
    try:
        return _open_database(folder, config, key)
    except Exception as error:
        if not _is_damage(error):
            raise
        _log.warning("The cache in %s is damaged; it begins anew: %s", folder, _reason(error))
    _move_aside(folder)
    return _open_database(folder, config, key)


def _check_places(folder: Path, secret: bytes | Path) -> None:
    if "$" in str(folder):
        raise OSError("the name of its folder has a $ in it, which diskcache would replace")
    if isinstance(secret, Path) and secret.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"its secret, {secret}, must not lie in its folder")


def _open_database(folder: Path, config: CacheConfig, secret: bytes) -> _Files:
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
        size_limit=config.size_mb * 2**20,
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
    return _Files(store, reader, _inode(folder), secret)


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


def _write(files: _Files, folder: Path, key: str, envelope: bytes, ttl_s: float) -> None:
    if _inode(folder) != files.inode:
        raise FileNotFoundError("its database was removed")
    files.store.set(key, envelope, expire=ttl_s)
    if files.store.volume() > files.store.size_limit:  # a large answer among many small ones
        files.store.cull()


def _empty(folder: Path, files: _Files) -> int:
    removed: int = files.store.clear()
    for path in _set_aside(folder):
        path.unlink(missing_ok=True)
    return removed


def _inode(folder: Path) -> int:
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


def _is_damage(error: Exception) -> bool:
    """Whether it is the content of the database that is wrong.

    diskcache acts on settings that it reads there, so damage can look like an error of any kind.
    """
    if isinstance(error, sqlite3.Error):
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF not in _SURROUNDINGS
    return not isinstance(error, (OSError, MemoryError, diskcache.Timeout))


def _reason(error: Exception) -> str:
    if isinstance(error, diskcache.Timeout):
        return "its database is locked"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or type(error).__name__


# The envelope: magic and version, when it was sealed, the seal, the answer.

_HEAD = struct.Struct(">4sQ")
_MAGIC = b"OCC" + bytes([SCHEMA])
_SEAL_END = _HEAD.size + hashlib.sha256().digest_size


def _seal(secret: bytes, key: str, completion: Completion, *, at_ms: int) -> bytes:
    head = _HEAD.pack(_MAGIC, at_ms)
    payload = _dump(completion)
    return head + _signature(secret, key, head, payload) + payload


def _unseal(
    secret: bytes, key: str, envelope: object, *, now_ms: int, ttl_s: float
) -> Completion | None:
    """The answer in an envelope, if we sealed it, for this key, and not too long ago."""
    if not isinstance(envelope, bytes) or len(envelope) < _SEAL_END:
        return None
    head, payload = envelope[: _HEAD.size], envelope[_SEAL_END:]
    seal = envelope[_HEAD.size : _SEAL_END]
    if not hmac.compare_digest(seal, _signature(secret, key, head, payload)):
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
    return Completion(**fields)


# A stored answer as a stream.


def replay(completion: Completion) -> Iterator[Chunk]:
    """An answer in pieces, as if it were being written; their fold is the answer again."""
    model = completion.model
    for start in range(0, len(completion.reasoning), PIECE):
        yield Chunk(reasoning=completion.reasoning[start : start + PIECE], model=model)
    for start in range(0, len(completion.text), PIECE):
        yield Chunk(text=completion.text[start : start + PIECE], model=model)
    for index, call in enumerate(completion.tool_calls):
        delta = ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
        yield Chunk(tool_calls=(delta,), model=model)
    yield Chunk(finish_reason=completion.finish_reason, usage=completion.usage, model=model)


# Equal calls at the same time.


class SingleFlight:
    """Of equal calls under way one is made, and the others are given its answer.

    The first to join leads. If it leaves without an answer, because it failed or was cancelled,
    one of those who wait leads in its place: an error is not shared, and while a provider fails
    the others do not all run into it at once, but one after another, each until its own deadline.

        async with flights.join(key) as flight:
            completion = await flight.result()
            if completion is None:  # this one leads
                completion = await call()
                flight.give(completion)

    Look into the cache right before `join`, without an `await` between them, and `put` before
    `give`: then nobody finds both of them empty.
    """

    def __init__(self) -> None:
        self._flights: dict[str, dict[Flight, None]] = {}  # in the order they came; the first leads

    @asynccontextmanager
    async def join(self, key: str) -> AsyncIterator["Flight"]:
        """Take part in the call of this key. Leaving hands the lead on, whatever the reason."""
        flight = Flight(self, key)
        self._flights.setdefault(key, {})[flight] = None
        try:
            yield flight
        finally:
            self._leave(flight)

    def leader(self, key: str) -> "Flight | None":
        """Whose the call is to make."""
        return next(iter(self._flights.get(key, ())), None)

    def land(self, key: str, completion: Completion) -> None:
        """Give everybody who waits the answer; who comes later begins anew."""
        for flight in self._flights.pop(key, ()):
            flight.resolve(completion)

    def _leave(self, flight: "Flight") -> None:
        waiting = self._flights.get(flight.key, {})
        if flight not in waiting:  # it has landed
            return
        del waiting[flight]
        if not waiting:
            del self._flights[flight.key]
        elif (leader := self.leader(flight.key)) is not None:
            leader.resolve(None)


class Flight:
    """One caller's part in a call that it may share with others."""

    __slots__ = ("_flights", "_outcome", "key")

    def __init__(self, flights: SingleFlight, key: str) -> None:
        self.key = key
        self._flights = flights
        self._outcome: Future[Completion | None] = asyncio.get_running_loop().create_future()

    @property
    def leads(self) -> bool:
        """Whether the call is this one's to make."""
        return self._flights.leader(self.key) is self

    async def result(self) -> Completion | None:
        """The leader's answer, or None as soon as this one leads."""
        return None if self.leads else await self._outcome

    def give(self, completion: Completion) -> None:
        """Share the answer of the call. Only who leads may."""
        assert self.leads, "only the leader makes the call"
        self._flights.land(self.key, completion)

    def resolve(self, outcome: Completion | None) -> None:
        """End the waiting, if there is any."""
        if not self._outcome.done():
            self._outcome.set_result(outcome)
