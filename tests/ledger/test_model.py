"""The books against a model of a few lines: any sequence of operations comes to the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Usage
from orchestrator import windows
from orchestrator.amounts import DIMENSIONS, Amount, Caps, Scope
from orchestrator.errors import BudgetExceeded, LedgerError
from orchestrator.ledger_book import Book, Hold, Standing, UsageEntry, key_of
from orchestrator.ledger_database import connect, find
from orchestrator.owners import Owner, this_process

NOON_MS = 1_800_000_000_000
HERE = this_process()
BYTES = 4  # of one step: what, which, how much, of what
STEPS = 500
SCOPES = (
    Scope(kind="run", name="r", caps=Caps(money_nanousd=60, calls=40)),
    Scope(kind="key", name="k", every="minute", caps=Caps(tokens=50, time_ms=90)),
    Scope(kind="deployment", name="d", every="hour", caps=Caps(money_nanousd=120)),
    Scope(kind="global", every="day", caps=Caps(money_nanousd=300, tokens=300, calls=90)),
    Scope(kind="key", name="free"),
)


@dataclass
class Model:
    """What a ledger is, without a database."""

    now_ms: int = NOON_MS
    spent: dict[str, Amount] = field(default_factory=dict)
    held: dict[str, Amount] = field(default_factory=dict)
    pending: dict[str, tuple[list[str], Amount, int, str]] = field(default_factory=dict)
    posted: list[Amount] = field(default_factory=list)
    recovered: int = 0

    def reserve(self, name: str, needed: Amount, scopes: tuple[Scope, ...], owner: str) -> bool:
        keys = {key_of(one, self.now_ms): one for one in scopes if not one.caps.is_empty}
        for key, scope in keys.items():
            total = self.spent.get(key, Amount()) + self.held.get(key, Amount()) + needed
            if scope.caps.exceeded_by(total):
                return False
        for key in keys:
            self.held[key] = self.held.get(key, Amount()) + needed
        self.pending[name] = (list(keys), needed, self.now_ms + 60_000, owner)
        return True

    def resolve(self, name: str, spent: Amount | None) -> bool:
        if name not in self.pending:
            return False
        keys, held, _, _ = self.pending.pop(name)
        for key in keys:
            self.held[key] = self.held[key] + held.times(-1)
            self.spent[key] = self.spent.get(key, Amount()) + (spent or Amount())
        if spent is not None:
            self.posted.append(spent)
        return True

    def recover(self, gone: str = "") -> None:
        for name, (_, held, expires_ms, owner) in list(self.pending.items()):
            if expires_ms <= self.now_ms or owner == gone:
                self.resolve(name, held)
                self.recovered += 1

    def standing(self, scope: Scope) -> Standing:
        key = key_of(scope, self.now_ms)
        return Standing(
            scope=scope,
            spent=self.spent.get(key, Amount()),
            held=self.held.get(key, Amount()),
        )


class Pair:
    """A ledger and its model, led through the same steps."""

    def __init__(self, url: str) -> None:
        self.connection = connect(find(url))
        self.process = 0
        self.names: list[str] = []
        self.model = Model()
        self.book = self.new_book()

    def owner(self) -> Owner:
        # A later process has the number of an earlier one, and was started at another time.
        return replace(HERE, boot="b", started=str(self.process))

    def new_book(self) -> Book:
        return Book(self.connection, self.owner())

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.book.begin(self.model.now_ms)
        try:
            yield
        finally:
            self.book.commit()

    def step(self, what: int, which: int, much: int, more: int) -> None:
        amount = Amount(
            money_nanousd=much % 16, tokens=more % 16, calls=much // 16 % 3, time_ms=more // 16
        )
        if what < 110:
            self.reserve(amount, which)
        elif what < 200:
            self.settle(amount, which)
        elif what < 225:
            self.release(which)
        elif what < 235:
            self.model.now_ms += much * 250
            self.recover("")
        elif what < 245:
            self.step_back(much)
        elif what < 250:
            self.roll_back(amount, which)
        else:
            self.die()

    def reserve(self, amount: Amount, which: int) -> None:
        scopes = tuple(scope for place, scope in enumerate(SCOPES) if which >> place & 1)
        name = f"h{len(self.names)}"
        expected = self.model.reserve(name, amount, scopes, str(self.owner()))
        hold = Hold(id=name, needed=amount, scopes=scopes, ttl_ms=60_000, entry=UsageEntry())
        with self.writing():
            if expected:
                self.book.reserve(hold)
                self.names.append(name)
            else:
                with pytest.raises(BudgetExceeded):
                    self.book.reserve(hold)

    def some(self, which: int) -> str:
        """Mostly one of the last, now and then one that has long been resolved."""
        if not self.names:
            return "never made"
        return self.names[-1 - which % min(len(self.names), 24)]

    def settle(self, amount: Amount, which: int) -> None:
        name = self.some(which)
        entry = UsageEntry(
            cost_nanousd=amount.money_nanousd, usage=Usage(prompt_tokens=amount.tokens)
        )
        with self.writing():
            if self.model.resolve(name, amount):
                self.book.settle(name, amount, entry)
            else:
                with pytest.raises(LedgerError):
                    self.book.settle(name, amount, entry)

    def release(self, which: int) -> None:
        name = self.some(which)
        with self.writing():
            if self.model.resolve(name, None):
                self.book.release(name)
            else:
                with pytest.raises(LedgerError):
                    self.book.release(name)

    def recover(self, gone: str) -> None:
        self.model.recover(gone)
        with self.writing():
            self.book.recover()

    def step_back(self, much: int) -> None:
        """The clock steps back; the ledger does not."""
        self.book.begin(self.model.now_ms - much * 60_000)
        self.book.commit()

    def roll_back(self, amount: Amount, which: int) -> None:
        """A transaction that is given up has never been."""
        self.book.begin(self.model.now_ms)
        try:
            self.book.settle(self.some(which), amount, UsageEntry())
        except LedgerError:
            pass
        finally:
            self.book.rollback()

    def die(self) -> None:
        """The process is killed, and the next one clears up behind it."""
        gone = str(self.owner())
        self.process += 1
        self.book = self.new_book()
        self.recover(gone)

    def compare(self) -> None:
        scopes = [scope for scope in SCOPES if not scope.caps.is_empty]
        with self.writing():
            standing = self.book.standing(scopes)
        assert standing == [self.model.standing(scope) for scope in scopes]

    def compare_at_the_end(self) -> None:
        self.model.now_ms += 3_600_000
        self.recover("")
        self.compare()
        sums = self.book.usage("model")
        posted = self.model.posted
        assert self.model.pending == {}
        assert sum(one.calls for one in sums) == len(posted)
        assert sum(one.recovered for one in sums) == self.model.recovered
        assert sum(one.cost_nanousd for one in sums) == sum(one.money_nanousd for one in posted)
        assert sum(one.usage.total_tokens for one in sums) == sum(one.tokens for one in posted)


def run(program: bytes, *, compare_every: int) -> int:
    """Lead a pair through a program; the number of steps."""
    pair = Pair("sqlite://")
    try:
        steps = [program[at : at + BYTES] for at in range(0, len(program) - BYTES + 1, BYTES)]
        for number, (what, which, much, more) in enumerate(steps):
            pair.step(what, which, much, more)
            if number % compare_every == 0:
                pair.compare()
        pair.compare_at_the_end()
    finally:
        pair.connection.close()
    return len(steps)


def test_the_books_agree_with_the_model(thorough: bool) -> None:
    """Reserving, settling, releasing, waiting, stepping back, failing and dying, in any order."""
    examples = 2000 if thorough else 200
    done = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @given(st.binary(min_size=STEPS * BYTES, max_size=STEPS * BYTES))
    def agrees(program: bytes) -> None:
        nonlocal done
        done += run(program, compare_every=10)

    agrees()

    print(f"{done} steps")
    assert done >= examples * STEPS


@given(st.binary(max_size=40 * BYTES))
def test_short_histories_agree_after_every_step(program: bytes) -> None:
    """The small ones, which hypothesis makes smaller still when one fails."""
    run(program, compare_every=1)


@given(
    st.integers(NOON_MS - 10**12, NOON_MS + 10**12),
    st.sampled_from(["minute", "hour", "day", "month"]),
)
def test_a_moment_is_in_one_window(moment_ms: int, every: str) -> None:
    """Windows follow each other without a gap, and open on whole units of UTC."""
    opens, closes = windows.opened(every, moment_ms), windows.closes(every, moment_ms)

    assert opens <= moment_ms < closes
    assert windows.opened(every, closes) == closes
    assert windows.closes(every, closes - 1) == closes
    assert windows.opened(every, opens) == opens
    start = windows.moment(opens)
    assert (start.second, start.microsecond) == (0, 0)
    assert every == "minute" or start.minute == 0
    assert every in {"minute", "hour"} or start.hour == 0
    assert every != "month" or start.day == 1


def test_every_dimension_is_drawn() -> None:
    """The steps move all four, so that none is compared at nothing only."""
    pair = Pair("sqlite://")
    pair.step(0, 0b11111, 0b0001_0101, 0b0010_0011)
    pair.connection.close()

    (_, held, _, _) = pair.model.pending["h0"]
    assert all(getattr(held, dimension) for dimension in DIMENSIONS)
