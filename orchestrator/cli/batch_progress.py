"""How a batch is getting on, told on stderr: one line that is redrawn, log lines, or JSON."""

import json
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import click
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.amounts import usd
from orchestrator.batch.job import Order
from orchestrator.batch.parts import Scanned
from orchestrator.batch.work import Tally, Why
from orchestrator.cli.notes import note
from orchestrator.cli.text import count, seconds
from orchestrator.clock import Clock, SystemClock

Progress = Literal["auto", "plain", "json", "none"]

LOG_EVERY_S = 10.0
RECENT_S = 60.0  # how far back the rate looks
RECENT_ROWS = 20  # and further, where fewer rows than that have ended since
MARK_S = 1.0  # how often it is remembered how many rows had ended
SEPARATOR = " · "
WORDS: dict[str, str] = {
    "budget": "the limit of money is reached",
    "time": "the time is over",
    "interrupted": "interrupted (once more ends at once)",
    "failure": "something is wrong",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows end of late, and how long the rest will take; None while nobody can tell."""

    rows_per_s: float = 0.0
    left_s: float | None = None


class _Mark(NamedTuple):
    at_s: float
    ended: int


class Recent:
    """How fast rows end of late: in the last minute, or further back where they take longer.

    It begins when the first row is asked. Rows that had an outcome before are not counted.
    """

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque()

    def rows_per_s(self, tally: Tally, now_s: float) -> float:
        """Rows a second; to be asked every time that somebody looks."""
        ended = tally.answered + tally.failed
        self._mark(ended, now_s, is_idle=not ended and not tally.in_flight)
        first = self._marks[0]
        return (ended - first.ended) / (now_s - first.at_s) if now_s > first.at_s else 0.0

    def _mark(self, ended: int, now_s: float, *, is_idle: bool) -> None:
        marks = self._marks
        # A shard that begins anew elsewhere finds what it had answered: fewer have ended now.
        if is_idle or (marks and ended < marks[-1].ended):
            marks.clear()
        if not marks or (ended > marks[-1].ended and now_s >= marks[-1].at_s + MARK_S):
            marks.append(_Mark(now_s, ended))
        while len(marks) > 1 and _is_enough(marks[1], ended, now_s):
            marks.popleft()


def _is_enough(since: _Mark, ended: int, now_s: float) -> bool:
    return now_s - since.at_s >= RECENT_S and ended - since.ended >= RECENT_ROWS


def to_come(tally: Tally, kept: int = 0) -> int | None:
    """How many rows are still to be asked; None where nobody knows how many there are.

    Args:
        tally: How far it has come.
        kept: How many outcomes there were before that are not asked for again.
    """
    if tally.total is None:
        return None
    unread = max(0, tally.total - tally.read)
    # Where rows have changed nobody knows how many of those that come have an outcome that counts.
    passed_over = 0 if tally.changed else min(max(0, kept - tally.found), unread)
    return max(0, tally.total - tally.done - passed_over)


def line(tally: Tally, pace: Pace, cap_nanousd: int | None = None, width: int = sys.maxsize) -> str:
    """All of it in one line; where that is too wide, without what matters less."""
    parts = _parts(tally, pace, cap_nanousd)
    for name in ("rate", "in_flight"):
        if cell_len(_joined(parts)) > width:
            parts[name] = ""
    if parts["in_flight"]:
        parts["in_flight"] += _by_model(tally, width - cell_len(_joined(parts)))
    return _joined(parts)


def _parts(tally: Tally, pace: Pace, cap_nanousd: int | None) -> dict[str, str]:
    total = "" if tally.total is None else f"/{tally.total:,}"
    spent = usd(tally.spent_nanousd)
    alone = [f"{name} {state}" for name, state in sorted(tally.breakers.items())]
    batches = [f"{name} {state}" for name, state in sorted(tally.batches.items())]
    return {
        "rows": f"{tally.done:,}{total} rows",
        "failed": f"{tally.all_failed:,} failed" if tally.all_failed else "",
        "spent": spent if cap_nanousd is None else f"{spent} of {usd(cap_nanousd)}",
        "rate": _rate(pace.rows_per_s),
        "left": f"{seconds(pace.left_s)} left" if pace.left_s else "",
        "in_flight": f"{tally.in_flight:,} in flight",
        "breakers": ", ".join(alone),
        "batches": ", ".join(batches),
    }


def _joined(parts: dict[str, str]) -> str:
    return SEPARATOR.join(part for part in parts.values() if part)


def _rate(per_s: float) -> str:
    return f"{per_s * 60:.1f} rows/min" if 0 < per_s < 1 else f"{per_s:.1f} rows/s"


def _by_model(tally: Tally, room: int) -> str:
    """The calls of each model, the busiest first, as many of them as there is room for."""
    calls = sorted(tally.calls_in_flight.items(), key=lambda one: (-one[1], one[0]))
    named = [f"{name} {number:,}" for name, number in calls]
    for cut in range(len(named), 0, -1):
        shown = named if cut == len(named) else [*named[:cut], "…"]
        told = f" ({SEPARATOR.join(shown)})"
        if cell_len(told) <= room:
            return told
    return ""


class Silent:
    """Says what is not as it was, and that it stops; nothing of how it gets on."""

    period_s = 1.0

    def __init__(self, cap_nanousd: int | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._cap = cap_nanousd
        self._began_s = self._clock.monotonic()
        self._recent = Recent()
        self._kept = 0
        self._is_stopping = False

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        self._kept = scanned.index.answered if order.retries_failed else len(scanned.index)
        self._announce(scanned, changes(scanned, order, source_changed=source_changed))

    def _announce(self, scanned: Scanned, notes: list[str]) -> None:
        for said in notes:
            note(said)

    def show(self, tally: Tally) -> None:
        """Nothing is shown."""

    def stopping(self, why: Why, tally: Tally) -> None:
        self._is_stopping = True
        self._say_why(why, tally)

    def _say_why(self, why: Why, tally: Tally) -> None:
        if tally.in_flight and not tally.batches:
            note(f"{WORDS[why]}; what is under way ({count(tally.in_flight, 'row')}) ends first")

    def close(self) -> None:
        """Nothing more is shown."""

    @property
    def elapsed_s(self) -> float:
        return self._clock.monotonic() - self._began_s

    def _pace(self, tally: Tally) -> Pace:
        """How fast it goes; once it is to stop, what is under way is all that is left."""
        per_s = self._recent.rows_per_s(tally, self._clock.monotonic())
        rows = tally.in_flight if self._is_stopping else to_come(tally, self._kept)
        return Pace(per_s, rows / per_s if rows is not None and per_s else None)


class LogLines(Silent):
    """A line now and then."""

    def __init__(self, cap_nanousd: int | None = None, clock: Clock | None = None) -> None:
        super().__init__(cap_nanousd, clock)
        self._told_s = self._began_s

    def show(self, tally: Tally) -> None:
        now_s, pace = self._clock.monotonic(), self._pace(tally)
        if now_s - self._told_s >= LOG_EVERY_S:
            self._told_s = now_s
            click.echo(line(tally, pace, self._cap), err=True)


class JsonLines(Silent):
    """One object a second, for programs."""

    def _announce(self, scanned: Scanned, notes: list[str]) -> None:
        self._say({"event": "found", "rows": len(scanned.index), "notes": notes})

    def show(self, tally: Tally) -> None:
        self._say({"event": "progress", **self._about(tally)})

    def _say_why(self, why: Why, tally: Tally) -> None:
        self._say({"event": "stopping", "why": why, **self._about(tally)})

    def _about(self, tally: Tally) -> dict[str, Any]:
        pace = self._pace(tally)
        return as_object(tally) | {
            "cap_nanousd": self._cap,
            "elapsed_s": round(self.elapsed_s, 3),
            "rows_per_s": round(pace.rows_per_s, 3),
            "left_s": None if pace.left_s is None else round(pace.left_s, 1),
        }

    def _say(self, told: dict[str, Any]) -> None:
        click.echo(json.dumps(told), err=True)


class LiveLine(Silent):
    """One line on a terminal, redrawn in place."""

    period_s = 0.2

    def __init__(
        self, console: Console, cap_nanousd: int | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(cap_nanousd, clock)
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._is_drawn = False

    def show(self, tally: Tally) -> None:
        if not self._is_drawn:
            self._is_drawn = True
            self._live.start()
        told = line(tally, self._pace(tally), self._cap, self._live.console.width)
        self._live.update(Text(told, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _say_why(self, why: Why, tally: Tally) -> None:
        self.close()
        super()._say_why(why, tally)

    def close(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            self._live.stop()


def watcher(progress: Progress, cap_nanousd: int | None) -> Silent:
    """Who is told, as far as the terminal allows."""
    if progress == "none":
        return Silent(cap_nanousd)
    if progress == "json":
        return JsonLines(cap_nanousd)
    console = Console(stderr=True)
    if progress == "auto" and console.is_terminal and not console.is_dumb_terminal:
        return LiveLine(console, cap_nanousd)
    return LogLines(cap_nanousd)


def as_object(tally: Tally) -> dict[str, Any]:
    """How far it has come, for programs."""
    return {
        "total": tally.total,
        "done": tally.done,
        "found": tally.found,
        "answered": tally.answered,
        "failed": tally.all_failed,
        "repeated": tally.repeated,
        "changed": tally.changed,
        "in_flight": tally.in_flight,
        "calls_in_flight": tally.calls_in_flight,
        "spent_nanousd": tally.spent_nanousd,
        "breakers": tally.breakers,
        "batches": tally.batches,
    }


def changes(scanned: Scanned, order: Order, *, source_changed: bool) -> list[str]:
    """What is to be said before it goes on."""
    said = []
    kept = len(scanned.index)
    if kept:
        said.append(f"going on with {order.output}: {count(kept, 'row')} asked before")
    if source_changed and kept:
        said.append("the input has changed since; rows that are not as they were are asked again")
    if scanned.others:
        said.append(
            f"{count(scanned.others, 'outcome')} came of other options or another configuration, "
            "and are not used"
        )
    if scanned.broken:
        said.append(
            f"{count(scanned.broken, 'line')} in {order.output}.parts cannot be read any more; "
            "their rows are asked again"
        )
    return said
