"""The books of a ledger: what each transaction reads and writes, over one open connection."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from operator import attrgetter, itemgetter
from typing import Any, Literal

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Delete,
    Insert,
    RowMapping,
    Select,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from adapters.types import Usage
from orchestrator import windows
from orchestrator.amounts import DIMENSIONS, Amount, Caps, Dimension, Scope, say, whose
from orchestrator.errors import BudgetExceeded, ReservationClosed
from orchestrator.ledger_database import beginning
from orchestrator.ledger_schema import (
    HELD,
    SPENT,
    accounts,
    receipts,
    reservations,
    seen,
    tags,
    usage,
)
from orchestrator.owners import Owner, is_gone

NO_LIMIT = 2**62  # more than any sum of amounts that is let in
_UNLIMITED = Caps()
LARGEST = 10**15  # of one amount: a million dollars, or as many tokens as there ever were
TEXT_CHARACTERS = 500
KNOWN_ACCOUNTS = 4096  # how many are remembered to exist
_ADDED = tuple(f"add_{name}" for name in SPENT)
_TAKEN = tuple(f"take_{name}" for name in HELD)
_CAPPED = tuple(f"cap_{dimension}" for dimension in DIMENSIONS)
KEPT_IN_MEMORY = 10_000  # calls, receipts and finished runs, where the ledger is in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """What one call used up, for whom and for what: a line of the books that is never changed.

    Attributes:
        cost_nanousd: None if nobody knows the price.
        over_bound: The provider counted more than had been reserved. The ledger sets it too.
        recovered: Nobody was left to say what the call used up; all that was held is posted.
        at: When it ended; None for the moment it is written.
    """

    run_id: str = ""
    tenant: str = ""
    tags: tuple[str, ...] = ()
    deployment: str = ""
    provider: str = ""
    model: str = ""
    answered_as: str = ""
    pattern: str = ""
    stage: str = ""
    member: str = ""
    status: str = ""
    usage: Usage = Usage()
    cost_nanousd: int | None = None
    over_bound: bool = False
    recovered: bool = False
    at: datetime | None = None
    elapsed_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A reservation to be made: so much of every scope, for so long at most."""

    id: str
    needed: Amount
    scopes: tuple[Scope, ...]
    ttl_ms: int
    entry: UsageEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a scope stands in the window that is open now."""

    scope: Scope
    spent: Amount
    held: Amount


By = Literal["model", "pattern", "tag", "day", "deployment", "tenant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """What all calls of one kind used up together.

    Attributes:
        name: The model, pattern, tag, deployment or tenant; of a day its date, in UTC.
        calls: How many there were.
        failed: How many of them gave no answer.
        usage: Their tokens; `estimated` if some of them are.
        cost_nanousd: What they cost, as far as the price is known.
        unpriced: How many of them have no known price.
        over_bound: How many used up more than had been reserved.
        recovered: How many were posted in full because nobody was left to say more.
        elapsed_ms: How long they took, each counted by itself.
    """

    name: str
    calls: int
    failed: int
    usage: Usage
    cost_nanousd: int
    unpriced: int
    over_bound: int
    recovered: int
    elapsed_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReceipt:
    """A receipt as it was kept: the JSON of `Receipt.to_json`, and whose it is."""

    run_id: str
    tenant: str
    at: datetime
    receipt: bytes


Built = Insert | Update | Delete | Select[Any]
# The text of a statement, and how to pick its values in their order.
_Written = tuple[str, Callable[[Mapping[str, object]], tuple[object, ...]]]

# The statements of every call, written out once a process, for each kind of database.
_WRITTEN: dict[str, dict[Callable[[], Built], _Written]] = {}


class Book:
    """The operations of a ledger. `begin` and `commit` stand around those that write.

    An operation that raises an `OrchestratorError` has changed nothing. After any other error the
    whole transaction is to be rolled back.
    """

    def __init__(self, connection: Connection, owner: Owner) -> None:
        self.connection = connection
        self.now_ms = 0
        self._owner = owner
        self._owner_text = str(owner)
        self._beginning = beginning(connection)
        self._looked_at_ms = -1
        self._known: set[str] = set()
        # What was reserved here is not looked up again. Whether it is pending the database says.
        self._ours: dict[str, tuple[list[str], Amount]] = {}
        # SQLAlchemy writes the statements; for those of every call the driver runs them, which
        # saves nine tenths of the time. Names and types are the same either way.
        self._cursor = connection.connection.cursor()
        self._written = _WRITTEN.setdefault(connection.dialect.name, {})

    # Transactions.

    def begin(self, now_ms: int) -> None:
        """Begin to write; nobody else does until `commit` or `rollback`."""
        self._cursor.execute(self._beginning)
        self._look_at_the_clock(now_ms)

    def commit(self) -> None:
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """Undo what was done since `begin`, as far as the database has not done so itself."""
        self._looked_at_ms = -1
        with suppress(Exception):  # the error that led here is the one to tell
            self._cursor.execute("ROLLBACK")

    def see(self, now_ms: int) -> None:
        """It is so late, unless it has been later already."""
        self.now_ms = max(self.now_ms, now_ms)

    def _look_at_the_clock(self, now_ms: int) -> None:
        """Go by the latest time that anyone has seen; a clock that steps back opens no window.

        It is written down once a minute, which is the shortest window there is.
        """
        self.see(now_ms)
        minute_ms = windows.opened("minute", now_ms)
        if minute_ms == self._looked_at_ms:
            return
        latest_ms = self.connection.execute(select(seen.c.latest_ms)).scalar()
        if latest_ms is None:
            self.connection.execute(insert(seen).values(id=1, latest_ms=self.now_ms))
        elif latest_ms < self.now_ms:
            self.connection.execute(update(seen).values(latest_ms=self.now_ms))
        else:
            self.now_ms = latest_ms
        self._looked_at_ms = minute_ms

    # Reservations.

    def reserve(self, hold: Hold) -> None:
        """Hold an amount in every scope that has a limit, or in none.

        Raises:
            BudgetExceeded: it does not fit into one of them.
        """
        scopes = limited(hold.scopes, self.now_ms)
        self._make_accounts(scopes, [key for key in scopes if key not in self._known])
        is_held = self._hold(hold.needed, scopes)
        # One that was known may have been pruned since, or rolled back.
        if not is_held and len(self._rows(scopes)) < len(scopes):
            self._make_accounts(scopes, scopes)
            is_held = self._hold(hold.needed, scopes)
        if not is_held:
            raise self._refusal(hold.needed, scopes)
        values = {
            "id": hold.id,
            "accounts": orjson.dumps(list(scopes)).decode(),
            "made_ms": self.now_ms,
            "expires_ms": self.now_ms + hold.ttl_ms,
            "owner": self._owner_text,
            "entry": _to_json(hold.entry),
            **_columns(HELD, hold.needed),
        }
        self._execute(_insert_reservation, values)
        self._ours[hold.id] = (list(scopes), hold.needed)

    def _hold(self, needed: Amount, scopes: Mapping[str, Scope]) -> bool:
        """Hold it in every account, or in none if one of them has no room."""
        values: dict[str, object] = _columns(DIMENSIONS, needed)
        held: list[str] = []
        for key, scope in scopes.items():
            values.update(_caps(scope.caps), of=key)
            self._execute(_update_held, values)
            if not self._cursor.rowcount:
                self._post(held, spent=Amount(), held=needed)
                return False
            held.append(key)
        return True

    def _post(self, keys: Sequence[str], *, spent: Amount, held: Amount) -> None:
        """Give back what was held and add what was spent."""
        if keys:
            values = _columns(_ADDED, spent) | _columns(_TAKEN, held)
            self._execute_many(_update_posted, [{**values, "of": key} for key in keys])
            assert self._cursor.rowcount == len(keys), "an account with a hold is never removed"

    def _make_accounts(self, scopes: Mapping[str, Scope], keys: Collection[str]) -> None:
        """Make the rows that are not there yet; nothing is spent or held in them."""
        if not keys:
            return
        if len(self._known) > KNOWN_ACCOUNTS:
            self._known.clear()
        rows = [
            {
                "key": key,
                "kind": scopes[key].kind,
                "name": _clean(scopes[key].name),
                "every": scopes[key].every or "",
                "opens_ms": opened_ms(scopes[key], self.now_ms) or self.now_ms,
                **_columns(SPENT, Amount()),
                **_columns(HELD, Amount()),
            }
            for key in keys
        ]
        self._execute_many(_insert_account, rows)
        self._known.update(keys)

    def _refusal(self, needed: Amount, scopes: Mapping[str, Scope]) -> BudgetExceeded:
        for standing in self._standing(scopes):
            used_up = standing.spent + standing.held + needed
            if dimension := standing.scope.caps.exceeded_by(used_up):
                return refusal(standing, dimension, needed, self.now_ms)
        raise AssertionError("one of the scopes has refused")

    def settle(self, reservation_id: str, spent: Amount, entry: UsageEntry | None = None) -> None:
        """Post what a call used up, all of it, in the place of what was held for it.

        Raises:
            ReservationClosed: it is not pending; nothing is posted.
        """
        keys, held = self._resolve(reservation_id)
        self._post(keys, spent=spent, held=held)
        if entry is not None:
            over = spent.money_nanousd > held.money_nanousd or spent.tokens > held.tokens
            self._write(_row(entry) | ({"over_bound": 1} if over else {}))

    def release(self, reservation_id: str) -> None:
        """Give back what was held for a call that was not made.

        Raises:
            ReservationClosed: it is not pending; nothing is given back.
        """
        keys, held = self._resolve(reservation_id)
        self._post(keys, spent=Amount(), held=held)

    def _resolve(self, reservation_id: str) -> tuple[list[str], Amount]:
        found = self._ours.pop(reservation_id, None) or self._look_up(reservation_id)
        self._execute(_delete_reservation, {"of": reservation_id})
        if found is None or not self._cursor.rowcount:
            raise ReservationClosed(
                f"Reservation {reservation_id!r} is not pending: it has been settled or released, "
                "or it has expired and was settled in full"
            )
        return found

    def _look_up(self, reservation_id: str) -> tuple[list[str], Amount] | None:
        self._execute(_select_reservation, {"of": reservation_id})
        row = self._cursor.fetchone()
        if row is None:
            return None
        keys, *held = row
        return orjson.loads(keys), Amount(**dict(zip(DIMENSIONS, held, strict=True)))

    def recover(self, *, ours: bool = False) -> int:
        """Settle in full whatever nobody is left to settle, and say how many there were.

        That is what has expired, what was held by processes that have ended, and `ours`, when
        there is nobody here any more.
        """
        owners = self.connection.execute(select(reservations.c.owner).distinct()).scalars()
        gone = [
            owner
            for owner in owners
            if (ours if owner == self._owner_text else is_gone(owner, self._owner))
        ]
        left = or_(reservations.c.expires_ms <= self.now_ms, reservations.c.owner.in_(gone))
        rows = self.connection.execute(select(reservations).where(left)).all()
        for row in rows:
            keys, held = self._resolve(row.id)
            self._post(keys, spent=held, held=held)
            self._write(_row(_from_json(row.entry)) | _recovered(held))
        return len(rows)

    def standing(self, scopes: Sequence[Scope]) -> list[Standing]:
        """How scopes stand, limited or not."""
        return self._standing({key_of(scope, self.now_ms): scope for scope in scopes})

    def _standing(self, scopes: Mapping[str, Scope]) -> list[Standing]:
        rows = self._rows(scopes)
        nothing = (0,) * len(SPENT + HELD)
        return [
            Standing(
                scope=scope,
                spent=Amount(**dict(zip(DIMENSIONS, row[: len(SPENT)], strict=True))),
                held=Amount(**dict(zip(DIMENSIONS, row[len(SPENT) :], strict=True))),
            )
            for scope, row in ((scope, rows.get(key, nothing)) for key, scope in scopes.items())
        ]

    def _rows(self, keys: Iterable[str]) -> dict[str, Sequence[int]]:
        """What is spent and held in the accounts that there are."""
        rows: dict[str, Sequence[int]] = {}
        for key in keys:
            self._execute(_select_account, {"of": key})
            if row := self._cursor.fetchone():
                rows[key] = row
        return rows

    # Usage.

    def record(self, entry: UsageEntry) -> None:
        """Write down a call that nothing was reserved for."""
        self._write(_row(entry))

    def _write(self, row: Mapping[str, Any]) -> None:
        values = {**row, "at_ms": self.now_ms if row["at_ms"] is None else row["at_ms"]}
        named = values.pop("tags")
        if not named:
            self._execute(_insert_usage, values)
            return
        self._execute(_insert_tagged_usage, values)
        usage_id = (self._cursor.fetchone() or (None,))[0]
        self._execute_many(_insert_tag, [{"usage_id": usage_id, "tag": tag} for tag in named])

    def usage(
        self,
        by: By,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
    ) -> list[UsageSum]:
        """Sums of usage, the dearest first; days in their order. A call counts to all its tags."""
        name = _NAMES[by].label("grouped")
        query = select(name, *_SUMS).where(*_within(since, until, tenant=tenant))
        if by == "tag":
            query = query.join(tags, tags.c.usage_id == usage.c.id)
        rows = self.connection.execute(query.group_by("grouped")).mappings()
        sums = sorted(map(_sum, rows), key=lambda one: one.name)
        return sums if by == "day" else sorted(sums, key=lambda one: -one.cost_nanousd)

    def entries(self, *, run_id: str | None = None, limit: int = 100) -> list[UsageEntry]:
        """The newest entries, or those of a run, in the order they were written."""
        query = select(usage).where(*_within(None, None, run_id=run_id))
        newest = query.order_by(usage.c.id.desc()).limit(limit)
        rows = self.connection.execute(newest).mappings().all()
        named = select(tags).where(tags.c.usage_id.in_([row["id"] for row in rows]))
        of_entry: dict[int, list[str]] = {}
        for tag in self.connection.execute(named.order_by(tags.c.tag)):
            of_entry.setdefault(tag.usage_id, []).append(tag.tag)
        return [_entry(row, of_entry.get(row["id"], ())) for row in reversed(rows)]

    # Receipts.

    def keep_receipt(self, run_id: str, tenant: str, receipt: bytes) -> None:
        """Keep a run's receipt, in the place of an earlier one of the same run."""
        named = {"run_id": _clean(run_id), "tenant": _clean(tenant)}
        self._execute(_delete_receipt, named)
        self._execute(_insert_receipt, {**named, "at_ms": self.now_ms, "receipt": receipt})

    def receipt(self, run_id: str, tenant: str | None = None) -> bytes | None:
        """A run's receipt, if there is one and it is that tenant's; None is anybody's."""
        query = select(receipts.c.receipt).where(receipts.c.run_id == _clean(run_id))
        if tenant is not None:
            query = query.where(receipts.c.tenant == _clean(tenant))
        found = self.connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def receipts(self, limit: int, tenant: str | None = None) -> list[KeptReceipt]:
        """The newest receipts, the newest first."""
        query = select(receipts).order_by(receipts.c.at_ms.desc(), receipts.c.run_id.desc())
        if tenant is not None:
            query = query.where(receipts.c.tenant == _clean(tenant))
        return [
            KeptReceipt(
                run_id=row.run_id,
                tenant=row.tenant,
                at=windows.moment(row.at_ms),
                receipt=bytes(row.receipt),
            )
            for row in self.connection.execute(query.limit(limit))
        ]

    # Keeping it small.

    def prune(self, keep_days: int) -> None:
        """Forget what is older than so many days; what is held, and sums without a window, stay."""
        oldest_ms = self.now_ms - keep_days * windows.DAY_MS
        self._forget_usage(usage.c.at_ms < oldest_ms)
        self.connection.execute(delete(receipts).where(receipts.c.at_ms < oldest_ms))
        # A window may have opened long before it closed, a month at most.
        passes = or_(accounts.c.every != "", accounts.c.kind == "run")
        old = accounts.c.opens_ms < oldest_ms - 31 * windows.DAY_MS
        self.connection.execute(delete(accounts).where(passes, old, *_nothing_held()))

    def trim(self, keep: int = KEPT_IN_MEMORY) -> None:
        """Forget all but the newest calls, receipts and runs: memory is not for archives."""
        newest = self.connection.execute(select(func.max(usage.c.id))).scalar() or 0
        self._forget_usage(usage.c.id <= newest - keep)
        kept = select(receipts.c.run_id).order_by(receipts.c.at_ms.desc()).limit(keep)
        self.connection.execute(delete(receipts).where(receipts.c.run_id.not_in(kept)))
        is_run = accounts.c.kind == "run"
        latest = select(accounts.c.key).where(is_run).order_by(accounts.c.opens_ms.desc())
        others = accounts.c.key.not_in(latest.limit(keep))
        self.connection.execute(delete(accounts).where(is_run, others, *_nothing_held()))

    def _forget_usage(self, which: ColumnElement[bool]) -> None:
        old = select(usage.c.id).where(which)
        self.connection.execute(delete(tags).where(tags.c.usage_id.in_(old)))
        self.connection.execute(delete(usage).where(which))

    def _execute(self, build: Callable[[], Built], values: Mapping[str, object]) -> None:
        text, pick = self._written.get(build) or self._write_out(build)
        self._cursor.execute(text, pick(values))

    def _execute_many(
        self, build: Callable[[], Built], rows: Sequence[Mapping[str, object]]
    ) -> None:
        text, pick = self._written.get(build) or self._write_out(build)
        self._cursor.executemany(text, [pick(row) for row in rows])

    def _write_out(self, build: Callable[[], Built]) -> _Written:
        """One of the statements of every call as the driver wants it, and the order of values."""
        compiled = build().compile(dialect=self.connection.dialect)
        names = list(compiled.positiontup or ())
        pick = itemgetter(*names) if len(names) > 1 else (lambda values: (values[names[0]],))
        self._written[build] = (str(compiled), pick)
        return self._written[build]


# What the scopes of a reservation are called, and which of them count.


def key_of(scope: Scope, now_ms: int) -> str:
    """The account of a scope in the window that is open."""
    return f"{scope.kind}:{scope.every or ''}:{opened_ms(scope, now_ms)}:{_clean(scope.name)}"


def opened_ms(scope: Scope, now_ms: int) -> int:
    """When the window opened that is open; 0 for what has none."""
    return windows.opened(scope.every, now_ms - now_ms % windows.MINUTE_MS) if scope.every else 0


def limited(scopes: Iterable[Scope], now_ms: int) -> dict[str, Scope]:
    """The scopes that have a limit, by account and in one order; of two limits both hold."""
    found: dict[str, Scope] = {}
    for scope in scopes:
        if scope.caps != _UNLIMITED:
            key = key_of(scope, now_ms)
            found[key] = _both(found[key], scope) if key in found else scope
    return found if len(found) < 2 else dict(sorted(found.items()))


def _both(one: Scope, other: Scope) -> Scope:
    caps = {}
    for dimension in DIMENSIONS:
        given = {getattr(one.caps, dimension), getattr(other.caps, dimension)} - {None}
        caps[dimension] = min(given, default=None)
    return Scope(kind=one.kind, name=one.name, every=one.every, caps=Caps(**caps))


def refusal(
    standing: Standing, dimension: Dimension, needed: Amount, now_ms: int
) -> BudgetExceeded:
    """What is told to who asked for more than there is."""
    scope, cap = standing.scope, getattr(standing.scope.caps, dimension)
    shown = partial(say, dimension)
    spent, held = getattr(standing.spent, dimension), getattr(standing.held, dimension)
    wanted = getattr(needed, dimension)
    remedies = [_RAISE.get(scope.kind, _RAISE["window"]).format(_LIMITS[dimension])]
    if wanted <= cap and scope.every is not None:
        opens = windows.moment(windows.closes(scope.every, now_ms))
        remedies.insert(0, f"wait until {opens:%Y-%m-%d %H:%M} UTC")
    if dimension in {"money_nanousd", "tokens"}:
        remedies.append("lower max_tokens")
    return BudgetExceeded(
        f"The budget of {whose(scope)} is {shown(cap)}: {shown(spent)} spent, {shown(held)} held "
        f"for calls under way, up to {shown(wanted)} needed; {', or '.join(remedies)}",
        scope=scope,
        dimension=dimension,
        spent=standing.spent,
        held=standing.held,
        needed=needed,
    )


_LIMITS: Mapping[Dimension, str] = {
    "money_nanousd": "money_usd",
    "tokens": "tokens",
    "calls": "calls",
    "time_ms": "time_s",
}
_RAISE = {
    "run": "raise budgets.per_run.{0} or the limit of the request",
    "batch": "raise --max-cost",
    "window": "raise {0} in budgets.windows",
}


# Rows and what they mean.


_dimensions_of = attrgetter(*DIMENSIONS)


def _columns(names: Sequence[str], amount: Amount) -> dict[str, Any]:
    return dict(zip(names, _dimensions_of(amount), strict=True))


@lru_cache(maxsize=256)
def _caps(caps: Caps) -> Mapping[str, int]:
    limits = (NO_LIMIT if cap is None else cap for cap in _dimensions_of(caps))
    return dict(zip(_CAPPED, limits, strict=True))


_TEXTS = (
    "run_id",
    "tenant",
    "deployment",
    "provider",
    "model",
    "answered_as",
    "pattern",
    "stage",
    "member",
    "status",
)
_TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_texts_of = attrgetter(*_TEXTS)
_tokens_of = attrgetter(*_TOKENS)


def _row(entry: UsageEntry) -> dict[str, Any]:
    texts = _texts_of(entry)
    if not _is_clean("".join(texts)):
        texts = tuple(map(_clean, texts))
    row: dict[str, Any] = dict(zip(_TEXTS, texts, strict=True))
    row.update(zip(_TOKENS, _tokens_of(entry.usage), strict=True))
    row["estimated"] = int(entry.usage.estimated)
    row["over_bound"] = int(entry.over_bound)
    row["recovered"] = int(entry.recovered)
    row["at_ms"] = None if entry.at is None else windows.milliseconds(entry.at)
    row["cost_nanousd"] = entry.cost_nanousd
    row["elapsed_ms"] = entry.elapsed_ms
    row["tags"] = sorted({_clean(tag) for tag in entry.tags})
    return row


def _to_json(entry: UsageEntry) -> str:
    try:
        return orjson.dumps(entry).decode()
    except TypeError:  # a lone surrogate somewhere: JSON has none
        row = _row(entry)
        tidy = {name: row[name] for name in (*_TEXTS, "tags")}
        return orjson.dumps({**tidy, "usage": entry.usage}).decode()


def _from_json(text: str) -> UsageEntry:
    """What was meant to be written; what another version had to add to it is left out."""
    found = orjson.loads(text)
    tokens = {name: found["usage"][name] for name in _TOKENS}
    return UsageEntry(
        tags=tuple(found["tags"]), usage=Usage(**tokens), **{name: found[name] for name in _TEXTS}
    )


def _entry(values: RowMapping, named: Sequence[str]) -> UsageEntry:
    texts: dict[str, Any] = {name: values[name] for name in _TEXTS}
    return UsageEntry(
        **texts,
        over_bound=bool(values["over_bound"]),
        recovered=bool(values["recovered"]),
        tags=tuple(named),
        usage=Usage(
            **{name: values[name] for name in _TOKENS}, estimated=bool(values["estimated"])
        ),
        cost_nanousd=values["cost_nanousd"],
        at=windows.moment(values["at_ms"]),
        elapsed_ms=values["elapsed_ms"],
    )


def _recovered(held: Amount) -> dict[str, object]:
    """What is written where nobody can say how a call ended: all of it was used up."""
    return {
        "status": "unknown",
        "recovered": 1,
        "estimated": 1,
        "prompt_tokens": held.tokens,
        "completion_tokens": 0,
        "cost_nanousd": held.money_nanousd,
        "at_ms": None,
    }


def _clean(words: str) -> str:
    """What any database takes: no lone surrogates, no zero character, not without end."""
    if _is_clean(words):
        return words
    return words[:TEXT_CHARACTERS].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _is_clean(words: str) -> bool:
    return len(words) <= TEXT_CHARACTERS and words.isprintable()


def checked(amount: Amount) -> Amount:
    """An amount that can be counted.

    Raises:
        ValueError: a part of it is below nothing, or beyond all measure.
    """
    parts = _dimensions_of(amount)
    if min(parts) < 0 or max(parts) > LARGEST:
        raise ValueError(f"Each part of an amount must be from 0 to {LARGEST}: {amount}")
    return amount


def _nothing_held() -> list[ColumnElement[bool]]:
    return [accounts.c[column] == 0 for column in HELD]


def _within(
    since: datetime | None,
    until: datetime | None,
    *,
    tenant: str | None = None,
    run_id: str | None = None,
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        conditions.append(usage.c.at_ms >= windows.milliseconds(since))
    if until is not None:
        conditions.append(usage.c.at_ms < windows.milliseconds(until))
    if tenant is not None:
        conditions.append(usage.c.tenant == _clean(tenant))
    if run_id is not None:
        conditions.append(usage.c.run_id == _clean(run_id))
    return conditions


# What usage is summed up by, and what is summed up.
_DAY: ColumnElement[int] = usage.c.at_ms - usage.c.at_ms % windows.DAY_MS
_NAMES: Mapping[By, ColumnElement[Any]] = {
    "model": usage.c.model,
    "pattern": usage.c.pattern,
    "tag": tags.c.tag,
    "day": _DAY,
    "deployment": usage.c.deployment,
    "tenant": usage.c.tenant,
}
_SUMS = (
    func.count().label("calls"),
    func.sum(case((usage.c.status.in_(("failed", "cancelled", "unknown")), 1), else_=0)).label(
        "failed"
    ),
    *(func.sum(usage.c[name]).label(name) for name in _TOKENS),
    func.max(usage.c.estimated).label("estimated"),
    func.coalesce(func.sum(usage.c.cost_nanousd), 0).label("cost_nanousd"),
    func.sum(case((usage.c.cost_nanousd.is_(None), 1), else_=0)).label("unpriced"),
    func.sum(usage.c.over_bound).label("over_bound"),
    func.sum(usage.c.recovered).label("recovered"),
    func.sum(usage.c.elapsed_ms).label("elapsed_ms"),
)


def _sum(row: RowMapping) -> UsageSum:
    # PostgreSQL's sums of whole numbers are decimals.
    counts = {name: int(value) for name, value in row.items() if name != "grouped"}
    tokens = {name: counts.pop(name) for name in _TOKENS}
    counted = Usage(**tokens, estimated=bool(counts.pop("estimated")))
    name = row["grouped"]
    if not isinstance(name, str):
        name = f"{windows.moment(int(name)):%Y-%m-%d}"
    return UsageSum(name=name, usage=counted, **counts)


# The statements of every call.


def _insert_account() -> Built:
    # The words are the same in SQLite's dialect and in PostgreSQL's.
    return postgresql.insert(accounts).on_conflict_do_nothing()


def _select_account() -> Built:
    wanted = (accounts.c[name] for name in (*SPENT, *HELD))
    return select(*wanted).where(accounts.c.key == bindparam("of"))


def _update_held() -> Built:
    """Hold in one account, if it has room in every dimension."""
    rooms = [
        accounts.c[spent] + accounts.c[held] + _number(dimension) <= _number(f"cap_{dimension}")
        for spent, held, dimension in zip(SPENT, HELD, DIMENSIONS, strict=True)
    ]
    changes = {
        held: accounts.c[held] + _number(dimension)
        for held, dimension in zip(HELD, DIMENSIONS, strict=True)
    }
    return update(accounts).where(accounts.c.key == bindparam("of"), *rooms).values(changes)


def _update_posted() -> Built:
    changes = {
        **{name: accounts.c[name] + _number(f"add_{name}") for name in SPENT},
        **{name: accounts.c[name] - _number(f"take_{name}") for name in HELD},
    }
    return update(accounts).where(accounts.c.key == bindparam("of")).values(changes)


def _number(name: str) -> BindParameter[int]:
    return bindparam(name, type_=BigInteger())


def _insert_reservation() -> Built:
    return insert(reservations)


def _select_reservation() -> Built:
    wanted = (reservations.c.accounts, *(reservations.c[name] for name in HELD))
    return select(*wanted).where(reservations.c.id == bindparam("of"))


def _delete_reservation() -> Built:
    return delete(reservations).where(reservations.c.id == bindparam("of"))


def _delete_receipt() -> Built:
    return delete(receipts).where(receipts.c.run_id == bindparam("run_id"))


def _insert_receipt() -> Built:
    return insert(receipts)


def _insert_usage() -> Insert:
    # Without its number, which the database gives.
    names = (column.name for column in usage.columns)
    columns: dict[str, BindParameter[Any]] = {n: bindparam(n) for n in names if n != "id"}
    return insert(usage).values(columns)


def _insert_tagged_usage() -> Built:
    return _insert_usage().returning(usage.c.id)


def _insert_tag() -> Built:
    return insert(tags)
