"""Answer a call from disk if its like was answered before, and equal calls under way only once.

A cache is a convenience. Whatever is wrong with it, the call goes to its provider: nothing here
raises into a run, and no answer waits for a disk for long.
"""

import asyncio
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import sqlite3
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import TypeVar

import orjson

from adapters.config import MissingVariable, ModelConfig, resolve_references
from adapters.types import Chunk, Completion, CompletionRequest, ToolCallDelta
from orchestrator.cache_files import SCHEMA, Entry, Files, is_damage, open_files, reason
from orchestrator.clock import Clock, new_nonce
from orchestrator.config import CacheConfig, state_dir
from orchestrator.errors import CacheError

T = TypeVar("T")

SECRET_BYTES = 32
PIECE = 256  # characters of a chunk of a replayed answer, unless they were too many:
MOST_PIECES = 1_000  # of its text; all of them may be handed on at once
LARGEST = 4 * 2**20  # characters of an answer that is kept: one is read while the loop waits

OPEN_S = 2.0  # what a call waits for the cache to open, or for an answer to be written
TOGETHER = 64  # answers written in one transaction, so that other processes come in between
MOST_WAITING = 2048  # answers that wait to be written; what comes more is not kept
CLEAR_S = 600.0  # what the command that empties it waits
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
    content = (
        SCHEMA,
        tenant,
        sample,
        _given(request, _ASKED),
        _given(model, _ANSWERS_BY),
        _resolved(model.api_base),
    )
    return hashlib.sha256(_canonical(content)).hexdigest()


def _given(of: object, names: Sequence[str]) -> dict[str, object]:
    return {name: value for name in names if (value := getattr(of, name)) is not None}


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
        if b"null" not in written:  # which orjson writes for a number that is none as well
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Unwritten:
    """An answer that waits to be written; `done` is for who waits with it."""

    entry: Entry
    done: "Future[None]"


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
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._files: Files | None = None
        self._opening: Future[Files | Exception] | None = None
        self._closing: concurrent.futures.Future[object] | None = None
        self._unwritten: list[_Unwritten] = []
        self._writing: Future[Exception | None] | None = None
        self._writing_since_s = 0.0
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
            self._opening = self._start(self._open_files)
            self._opening.add_done_callback(self._adopt)
        opening = self._opening
        if opening not in await self._clock.first_done({opening}, OPEN_S):
            self._turn_off(TimeoutError(f"it is not open after {OPEN_S:g} s"))

    def _open_files(self) -> Files:
        """In the worker thread."""
        secret = self._secret
        if isinstance(secret, Path):
            if secret.resolve().is_relative_to(self.folder.resolve()):
                raise OSError(f"its secret, {secret}, must not lie in its folder")
            secret = secret_key(secret)
        return open_files(self.folder, secret, limit_bytes=self._limit_bytes, damaged=self._damaged)

    @property
    def _is_off(self) -> bool:
        return self._clock.monotonic() < self._off_until_s

    def get(self, key: str) -> Completion | None:
        """The answer that is kept under a key. Never waits, never raises."""
        files = self._files
        if files is None or self._pid != os.getpid():
            return None
        try:
            found = files.read(key, now_ms=self._now_ms(), ttl_s=self._config.ttl_s)
        except Exception as error:  # noqa: BLE001 - a file that anything may have happened to
            self._fail(files, error)
            found = None
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        return found

    async def put(self, key: str, completion: Completion) -> None:
        """Keep an answer, if it is fit for that. Waits for the disk a little, and never raises."""
        await self.open()
        if not await self._clock.first_done({self.keep(key, completion)}, OPEN_S):
            self._look_at_the_disk()

    def keep(self, key: str, completion: Completion) -> "Future[None]":
        """Begin to keep a whole answer that is not too long, if the cache is open. Never raises.

        What comes while others are written is written after them, all together. The future is done
        once the answer is kept, or given up: nobody needs to know which.
        """
        done: Future[None] = asyncio.get_running_loop().create_future()
        is_ours = self._files is not None and self._pid == os.getpid()
        is_fit = is_whole(completion) and _characters(completion) <= LARGEST
        if is_ours and is_fit and len(self._unwritten) < MOST_WAITING:
            entry = Entry(key=key, completion=completion, at_ms=self._now_ms())
            self._unwritten.append(_Unwritten(entry=entry, done=done))
            self._write_on()
        else:
            done.set_result(None)
        return done

    def _write_on(self) -> None:
        """Have what waits be written, unless something is being written already."""
        files = self._files
        if self._writing is not None and not self._writing.get_loop().is_closed():
            self._look_at_the_disk()
        elif files is not None and self._unwritten:
            batch, self._unwritten = self._unwritten[:TOGETHER], self._unwritten[TOGETHER:]
            entries = [one.entry for one in batch]
            self._writing_since_s = self._clock.monotonic()
            self._writing = self._start(partial(files.write, entries, ttl_s=self._config.ttl_s))
            self._writing.add_done_callback(partial(self._written, files, batch))

    def _written(
        self, files: Files, batch: Sequence[_Unwritten], writing: "Future[Exception | None]"
    ) -> None:
        self._writing = None
        error = writing.result()
        if error is not None:
            self._fail(files, error)
        _resolve(batch)
        self._write_on()

    def _look_at_the_disk(self) -> None:
        """See that what is being written does not take too long."""
        files, took_s = self._files, self._clock.monotonic() - self._writing_since_s
        if files is not None and self._writing is not None and took_s > OPEN_S:
            self._fail(files, TimeoutError(f"writing takes more than {OPEN_S:g} s"))

    async def stats(self) -> CacheStats:
        """What is in it.

        Raises:
            CacheError: it cannot be looked into.
        """
        answers, size_bytes = await self._administer(Files.measure)
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
        return await self._administer(Files.empty)

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
            await self._clock.first_done({asyncio.wrap_future(self._closing)}, OPEN_S)
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

    async def _administer(self, job: Callable[[Files], T]) -> T:
        try:
            try:
                return await self._use(job)
            except Exception as error:
                if not is_damage(error):
                    raise
            return await self._use(job)  # with the one that was begun anew
        except Exception as error:
            message = f"the cache in {self.folder} cannot be used: {reason(error)}"
            raise CacheError(message) from error

    async def _use(self, job: Callable[[Files], T]) -> T:
        await self.open()
        files = self._files
        if files is None:
            raise OSError(self.fault or "it is closed")
        try:
            return await self._finish(partial(job, files), CLEAR_S)
        except Exception as error:
            self._fail(files, error)
            raise

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

    def _adopt(self, opening: "Future[Files | Exception]") -> None:
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

    def _fail(self, files: Files, error: Exception) -> None:
        """The files cannot be relied on: close them, and begin anew now or after a while."""
        if self._files is not files:  # somebody else has said so
            return
        self._let_go()
        if is_damage(error):
            self._damaged = files.inode
            self._warn(error, "is damaged and will be moved aside; it begins anew, empty")
        else:
            self._turn_off(error)

    def _turn_off(self, error: Exception) -> None:
        self._off_until_s = self._clock.monotonic() + PAUSE_S
        self.fault = reason(error)
        self._warn(error, f"is off, and tried again after {PAUSE_S:g} s; answers are not affected")

    def _warn(self, error: Exception, what: str) -> None:
        kind = getattr(error, "sqlite_errorname", type(error).__name__)
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("The cache in %s %s: %s", self.folder, what, reason(error))

    def _let_go(self) -> None:
        """Close the files: the reader here, the store where it belongs."""
        files, self._files = self._files, None
        waiting, self._unwritten = self._unwritten, []
        _resolve(waiting)
        if files is not None:
            with suppress(sqlite3.Error):
                files.close_reader()
            self._closing = self._worker.submit(_outcome, files.close)


def _characters(completion: Completion) -> int:
    called = sum(len(call.arguments) for call in completion.tool_calls)
    return len(completion.text) + len(completion.reasoning) + called


def _resolve(several: Sequence[_Unwritten]) -> None:
    """They are written, or will not be."""
    for one in several:
        if not (one.done.done() or one.done.get_loop().is_closed()):
            one.done.set_result(None)


def _outcome(job: Callable[[], T]) -> T | Exception:
    try:
        return job()
    except Exception as error:  # noqa: BLE001 - whoever waits decides what it means
        return error


# A stored answer as a stream.


def replay(completion: Completion) -> Iterator[Chunk]:
    """An answer in pieces, as if it were being written; their fold is the answer again."""
    model = completion.model
    for piece in _pieces(completion.reasoning):
        yield Chunk(reasoning=piece, model=model)
    if completion.logprobs:
        yield Chunk(logprobs=completion.logprobs, model=model)
    for piece in _pieces(completion.text):
        yield Chunk(text=piece, model=model)
    for index, call in enumerate(completion.tool_calls):
        delta = ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
        yield Chunk(tool_calls=(delta,), model=model)
    yield Chunk(
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        model=model,
        stop_sequence=completion.stop_sequence,
    )


def _pieces(text: str) -> Iterator[str]:
    size = max(PIECE, ceil(len(text) / MOST_PIECES))
    return (text[start : start + size] for start in range(0, len(text), size))


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
