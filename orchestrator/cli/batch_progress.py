"""How a batch is getting on, told on stderr: one line that is redrawn, log lines, or JSON."""

import json
from typing import Any, Literal

import click
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
WORDS: dict[str, str] = {
    "budget": "the limit of money is reached",
    "time": "the time is over",
    "interrupted": "interrupted (once more ends at once)",
    "failure": "something is wrong",
}


def rate(tally: Tally, elapsed_s: float) -> float:
    """Rows a second, those that had an outcome before left out."""
    return (tally.answered + tally.failed) / elapsed_s if elapsed_s > 0 else 0.0


def left_s(tally: Tally, elapsed_s: float) -> float | None:
    """How long the rest will take at that rate; None while nobody can tell."""
    per_s = rate(tally, elapsed_s)
    if tally.total is None or not per_s:
        return None
    return max(0, tally.total - tally.done) / per_s


def line(tally: Tally, elapsed_s: float, cap_nanousd: int | None = None) -> str:
    """All of it in one line."""
    total = "" if tally.total is None else f"/{tally.total:,}"
    spent = usd(tally.spent_nanousd)
    rest_s = left_s(tally, elapsed_s)
    alone = [f"{name} {state}" for name, state in sorted(tally.breakers.items())]
    parts = (
        f"{tally.done:,}{total} rows",
        f"{tally.all_failed:,} failed" if tally.all_failed else "",
        spent if cap_nanousd is None else f"{spent} of {usd(cap_nanousd)}",
        f"{rate(tally, elapsed_s):.1f} rows/s",
        "" if rest_s is None else f"{seconds(rest_s)} left",
        f"{tally.in_flight} in flight",
        ", ".join(alone),
        ", ".join(f"{name} {state}" for name, state in sorted(tally.batches.items())),
    )
    return " · ".join(part for part in parts if part)


class Silent:
    """Says what is not as it was, and that it stops; nothing of how it gets on."""

    period_s = 1.0

    def __init__(self, cap_nanousd: int | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._cap = cap_nanousd
        self._began_s = self._clock.monotonic()

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        for said in changes(scanned, order, source_changed=source_changed):
            note(said)

    def show(self, tally: Tally) -> None:
        """Nothing is shown."""

    def stopping(self, why: Why, tally: Tally) -> None:
        if tally.in_flight and not tally.batches:
            note(f"{WORDS[why]}; what is under way ({count(tally.in_flight, 'row')}) ends first")

    def close(self) -> None:
        """Nothing more is shown."""

    @property
    def elapsed_s(self) -> float:
        return self._clock.monotonic() - self._began_s


class LogLines(Silent):
    """A line now and then."""

    def __init__(self, cap_nanousd: int | None = None, clock: Clock | None = None) -> None:
        super().__init__(cap_nanousd, clock)
        self._told_s = self._began_s

    def show(self, tally: Tally) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._told_s >= LOG_EVERY_S:
            self._told_s = now_s
            click.echo(line(tally, self.elapsed_s, self._cap), err=True)


class JsonLines(Silent):
    """One object a second, for programs."""

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        notes = changes(scanned, order, source_changed=source_changed)
        self._say({"event": "found", "rows": len(scanned.index), "notes": notes})

    def show(self, tally: Tally) -> None:
        self._say({"event": "progress", **self._about(tally)})

    def stopping(self, why: Why, tally: Tally) -> None:
        self._say({"event": "stopping", "why": why, **self._about(tally)})

    def _about(self, tally: Tally) -> dict[str, Any]:
        rest_s = left_s(tally, self.elapsed_s)
        return as_object(tally) | {
            "cap_nanousd": self._cap,
            "elapsed_s": round(self.elapsed_s, 3),
            "rows_per_s": round(rate(tally, self.elapsed_s), 3),
            "left_s": None if rest_s is None else round(rest_s, 1),
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
        told = Text(line(tally, self.elapsed_s, self._cap), no_wrap=True, overflow="ellipsis")
        self._live.update(told, refresh=True)

    def stopping(self, why: Why, tally: Tally) -> None:
        self.close()
        super().stopping(why, tally)

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
