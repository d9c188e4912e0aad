"""`Idempotency-Key`: who sends the same request again is given the same reply, and pays once.

The rules are Stripe's. A key belongs to whoever sends it, a tenant by one of its keys of the
gateway, because another may not ask for the same; and to one request: its method, path and body.
While that is being answered, a second one is told 409; afterwards it is given the stored reply, and
another request under the same key is told 422. What was refused before anything was started is
not stored. A stream is refused with 400: it is delivered once, as it is written.
"""

import hashlib
import json
import os
import sqlite3
from asyncio import wrap_future
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.clock import Clock, SystemClock, new_nonce
from orchestrator.config import state_dir
from orchestrator.endpoints import refused
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.owners import is_gone, this_process
from orchestrator.server.limits import load_of
from orchestrator.wire.errors import Refused

HEADER = "idempotency-key"
REPLAYED = "idempotent-replayed"
LONGEST_KEY = 255
LARGEST_BODY = 2**19  # of a reply; a larger one is not stored, and says so
MOST_KEPT = 10_000  # replies of one tenant; the oldest give way
TTL_S = 24 * 3600.0
LOCK_WAIT_S = 5.0

# Errors that came of a run, which may have been paid for. Any other was there before it.
_STORED_ERRORS = frozenset((500, 502, 504))

T = TypeVar("T")
Answer = Callable[[Call], Awaitable[Reply]]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    name TEXT PRIMARY KEY,      -- digest of the tenant, by which of its keys, and the request's key
    tenant TEXT NOT NULL,       -- digest
    request TEXT NOT NULL,      -- digest of method, path and body
    claim TEXT NOT NULL,        -- of whoever answers, or has answered
    owner TEXT NOT NULL,        -- their process
    began_ms INTEGER NOT NULL,
    status INTEGER,             -- none while it is being answered
    headers TEXT,
    body BLOB
);
CREATE INDEX IF NOT EXISTS replies_by_age ON replies (tenant, began_ms, status);
"""


def replies_file() -> Path:
    """Where stored replies are kept unless somebody says otherwise."""
    return state_dir() / "idempotency.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What a stored reply is found by, and who asks for it now."""

    name: str
    tenant: str
    digest: str
    claim: str


class Idempotency:
    """Answers requests that carry an `Idempotency-Key` once.

    Args:
        answer: Who answers, `Endpoints.answer`.
        path: An SQLite file, which several workers may share. It is made when it is needed.
        clock: Where the time comes from.
        ttl_s: How long a reply is kept.
    """

    def __init__(
        self, answer: Answer, path: Path, *, clock: Clock | None = None, ttl_s: float = TTL_S
    ) -> None:
        self._answer = answer
        self._clock = clock or SystemClock()
        self._store = _Store(path, ttl_ms=int(ttl_s * 1000))
        # SQLite may wait for a lock, but not on the event loop. One thread keeps things in order.
        self._thread = ThreadPoolExecutor(1, "idempotency")

    async def answer(self, call: Call) -> Reply:
        """The reply to a request, the stored one if there is one; every error is a reply."""
        if call.method != "POST" or HEADER not in call.headers:
            return await self._answer(call)
        try:
            return await self._answer_once(call, _request(call))
        except sqlite3.Error as error:
            told = Refused(
                "Stored replies cannot be looked into, so nothing was started; leave out "
                "Idempotency-Key, or try again later",
                status=503,
                kind="server_error",
                code="idempotency_unavailable",
            )
            told.__cause__ = error
            return refused(call.path, told)
        except Refused as error:
            return refused(call.path, error)

    async def aclose(self) -> None:
        """Close the file once everything is written."""
        with suppress(RuntimeError):  # a second time does nothing
            await wrap_future(self._thread.submit(self._store.close))
        self._thread.shutdown()

    async def _answer_once(self, call: Call, request: _Request) -> Reply:
        try:
            stored = await self._do(lambda: self._store.claim(request, self._now_ms()))
            if stored is not None:
                return replace(stored, headers={**stored.headers, REPLAYED: "true"})
            reply = await self._answer(call)
            if not isinstance(reply.body, bytes) or not _is_stored(reply.status):
                return reply
            if len(reply.body) > LARGEST_BODY:
                return replace(reply, headers=_not_used(reply))
            await self._do(lambda: self._store.keep(request, reply))
            return reply
        finally:
            # Whatever happened, cancellation included: nobody answers under this claim any more.
            with suppress(
                RuntimeError
            ):  # closed meanwhile: this process will be seen to have ended
                self._thread.submit(self._store.forget, request)

    async def _do(self, job: Callable[[], T]) -> T:
        future: Future[T] = self._thread.submit(job)
        return await wrap_future(future)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _request(call: Call) -> _Request:
    """What a call's reply is stored under.

    Raises:
        Refused: the key is none, or the reply cannot be stored.
    """
    key = call.headers[HEADER]
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Refused(
            f"Idempotency-Key must be 1 to {LONGEST_KEY} printable characters of ASCII",
            code="idempotency_key_invalid",
        )
    if load_of(call.body).is_streamed:
        raise Refused(
            "A stream is not stored; leave out Idempotency-Key or `stream`",
            param="stream",
            code="idempotency_of_stream",
        )
    return _Request(
        name=_digest(call.tenant.encode(), call.key_id.encode(), key.encode()),
        tenant=_digest(call.tenant.encode()),
        digest=_digest(call.method.encode(), call.path.encode(), call.body),
        claim=new_nonce(),
    )


def _digest(*parts: bytes) -> str:
    """One digest of several values, none of which can pass for a part of another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def _is_stored(status: int) -> bool:
    return status < 400 or status in _STORED_ERRORS


def _not_used(reply: Reply) -> dict[str, str]:
    """The headers of a reply that is too large to be stored."""
    others = reply.headers.get("x-orchestrator-ignored")
    named = HEADER if others is None else f"{others}, {HEADER}"
    return {**reply.headers, "x-orchestrator-ignored": named}


class _Store:
    """The file. All of it blocks, and belongs to one thread."""

    def __init__(self, path: Path, *, ttl_ms: int) -> None:
        self._path = path
        self._ttl_ms = ttl_ms
        self._owner = this_process()
        self._opened: sqlite3.Connection | None = None

    def claim(self, request: _Request, now_ms: int) -> Reply | None:
        """The reply that is stored; none, and from now on the request is being answered.

        Raises:
            Refused: it is being answered already, or the key belongs to another request.
        """
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM replies WHERE began_ms <= ?", (now_ms - self._ttl_ms,))
            row = database.execute(
                "SELECT request, owner, status, headers, body FROM replies WHERE name = ?",
                (request.name,),
            ).fetchone()
            if row is not None and not (row[2] is None and is_gone(row[1], self._owner)):
                return _found(request, *row)
            database.execute(
                "INSERT OR REPLACE INTO replies (name, tenant, request, claim, owner, began_ms) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(request.name, request.tenant, request.digest, request.claim),
                    *(str(self._owner), now_ms),
                ),
            )
            database.execute(
                "DELETE FROM replies WHERE name IN (SELECT name FROM replies WHERE tenant = ? "
                "AND status IS NOT NULL ORDER BY began_ms DESC LIMIT -1 OFFSET ?)",
                (request.tenant, MOST_KEPT - 1),
            )
        return None

    def keep(self, request: _Request, reply: Reply) -> None:
        """Store the reply to a request that was being answered."""
        with self._database() as database:
            database.execute(
                "UPDATE replies SET status = ?, headers = ?, body = ? WHERE name = ? AND claim = ?",
                (
                    *(reply.status, json.dumps(dict(reply.headers)), reply.body),
                    *(request.name, request.claim),
                ),
            )

    def forget(self, request: _Request) -> None:
        """The request is not being answered any more; a reply that was stored stays."""
        with suppress(sqlite3.Error), self._database() as database:
            database.execute(
                "DELETE FROM replies WHERE name = ? AND claim = ? AND status IS NULL",
                (request.name, request.claim),
            )

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _database(self) -> sqlite3.Connection:
        """The open file, to be used as a transaction."""
        if self._opened is None:
            self._opened = _open(self._path)
        return self._opened


def _found(
    request: _Request, digest: str, _: str, status: int | None, headers: str, body: bytes
) -> Reply:
    """What a row tells who asks under its key.

    Raises:
        Refused: nothing but that it has to wait, or belongs to another request.
    """
    if digest != request.digest:
        raise Refused(
            "This Idempotency-Key was used for another request; a key is for one path and one "
            "body, so send a new one",
            status=422,
            kind="idempotency_error",
            code="idempotency_error",
        )
    if status is None:
        raise Refused(
            "A request with this Idempotency-Key is being answered; ask again when it is",
            status=409,
            kind="idempotency_error",
            code="idempotency_in_progress",
            headers={"retry-after": "1"},
        )
    return Reply(status=status, headers=json.loads(headers), body=bytes(body))


def _open(path: Path) -> sqlite3.Connection:
    """The file, made if it is not there, readable by its owner alone."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error
    database = sqlite3.connect(path, timeout=LOCK_WAIT_S)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "trusted_schema = OFF"):
            with closing(database.execute(f"PRAGMA {pragma}")):
                pass
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
