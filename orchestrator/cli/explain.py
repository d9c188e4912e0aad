"""A receipt told to people: who was asked, what each said, how it was decided, what it took."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from orchestrator.amounts import usd
from orchestrator.cli.answers import call_cost, outcome
from orchestrator.cli.progress import SIMULATED, SOURCES, cost, spent
from orchestrator.cli.text import bar, count, neutralise, one_line, seconds
from orchestrator.journal import PaidCall, Record
from orchestrator.prompts import conversation, question_text
from orchestrator.responses import AttemptRecord, Receipt, StageRecord

BAR_WIDTH = 24
BAR_WIDTH_MIN = 6  # less than that shows nothing
ELASTIC_WIDTH_MIN = 16  # of a column that may be cut or wrapped
UNBOUNDED = 10_000  # columns
FILE_WIDTH = 100  # columns where stdout is no terminal
UNFINISHED, UNDER_WAY = "unfinished", "under way"  # of a run that has no receipt yet
STATUS_STYLES = {
    "complete": "green",
    "degraded": "yellow",
    "partial": "yellow",
    "failed": "red",
    UNFINISHED: "yellow",
    UNDER_WAY: "cyan",
}
OUTCOME_STYLES = {"ok": "green", "not usable": "yellow"}


def receipt_view(receipt: Receipt, *, drafts: bool) -> RenderableType:
    """The whole run on a page. With `drafts`, every text a model wrote on the way."""
    parts: list[RenderableType] = [_head(receipt)]
    for stage in receipt.stages:
        parts += ["", _stage_title(stage)]
        if stage.attempts:
            parts.append(AttemptsTable(stage.attempts, receipt.elapsed_s))
        parts += [Padding(line, (0, 0, 0, 2)) for line in _decision(stage)]
        if drafts:
            parts += [_draft(attempt) for attempt in stage.attempts if attempt.text]
    if receipt.status != "failed" or receipt.content:
        parts += ["", Rule("answer", align="left", style="dim"), safe(receipt.content.strip()), ""]
    parts += [Text(f"Note: {one_line(note, 400)}", style="dim") for note in receipt.notes]
    return Group(*parts)


def unfinished_view(record: Record, status: str, *, drafts: bool) -> RenderableType:
    """A run that has not ended: what was asked, and the calls it has paid for."""
    opening, request = record.opening, record.opening.request
    rows = {
        "run": opening.run_id,
        "when": when_utc(opening.started_at, "seconds"),
        "question": one_line(question_text(conversation(request)), 300),
        "asked": request.model or ", ".join(request.members or ()) or "the default",
        "pattern": request.pattern or "",
        "seed": f"{opening.seed} · configuration {opening.config_hash[:12]}",
    }
    parts: list[RenderableType] = [_head_table(rows, status), ""]
    if record.calls:
        parts.append(Listing(_paid_table(record.calls)))
    else:
        parts.append(Text("no call has been paid for yet", style="dim"))
    if drafts:
        parts += [_text_of(call.deployment, call.completion.text) for call in record.calls]
    return Group(*parts)


def _paid_table(calls: Sequence[PaidCall]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("paid for", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for name in ("tokens", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for call in calls:
        table.add_row(
            one_line(call.deployment, 60),
            one_line(call.completion.model, 60),
            f"{call.completion.usage.total_tokens:,}",
            "?" if call.cost_nanousd is None else usd(call.cost_nanousd),
        )
    return table


@dataclass(frozen=True, slots=True)
class AttemptsTable:
    """One row a call: who, which model, what came of it, tokens, money, and when, drawn to scale.

    The drawing takes the room that is left: where there is little, the words come first.
    """

    attempts: tuple[AttemptRecord, ...]
    run_s: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        words = _attempts_table(self.attempts, self.run_s, 0)
        room = options.max_width - _width(words, console, options)
        if room < 0:
            yield _stacked(words)
        else:  # 3: what stands between two columns
            yield _attempts_table(self.attempts, self.run_s, min(BAR_WIDTH, room - 3))


@dataclass(frozen=True, slots=True)
class Listing:
    """A table where it fits, and a few lines a row where the screen is too narrow for it.

    The columns whose header is in `elastic` may be narrower than what stands in them.
    """

    table: Table
    elastic: frozenset[str] = frozenset()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        saved = sum(
            max(0, _column_width(column, console, options) - ELASTIC_WIDTH_MIN)
            for column in self.table.columns
            if column.header in self.elastic
        )
        fits = _width(self.table, console, options) - saved <= options.max_width
        yield self.table if fits else _stacked(self.table)


def _width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """How wide a table wants to be, whatever room there is."""
    return Measurement.get(console, options.update(width=UNBOUNDED), table).maximum


def _column_width(column: Column, console: Console, options: ConsoleOptions) -> int:
    free = options.update(width=UNBOUNDED)
    cells = (column.header, *column.cells)
    return max(Measurement.get(console, free, cell).maximum for cell in cells)


def _stacked(table: Table) -> RenderableType:
    """Every row as its first cell, and the others below it with their headers."""
    lines: list[RenderableType] = []
    cells = [list(column.cells) for column in table.columns]
    for first, *others in zip(*cells, strict=True):
        named = [
            Text.assemble((f"{column.header} ", "dim"), cell)
            for column, cell in zip(table.columns[1:], others, strict=True)
            if isinstance(cell, (str, Text)) and str(cell)
        ]
        lines += [first, Padding(Text(" · ").join(named), (0, 0, 0, 2))]
    return Group(*lines)


def _attempts_table(attempts: tuple[AttemptRecord, ...], run_s: float, bar_width: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="dim"
    )
    drawn = bar_width >= BAR_WIDTH_MIN
    table.add_column("member", no_wrap=True)
    table.add_column("provider/model", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("cost", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    if drawn:
        table.add_column("", no_wrap=True, width=bar_width)
    for attempt in attempts:
        result = outcome(attempt)
        label = f" ({attempt.label})" if attempt.label else ""
        role = f" as {attempt.role}" if attempt.role else ""
        row: list[RenderableType] = [
            one_line(attempt.member + label + role, 60),
            one_line(f"{attempt.provider}/{attempt.model}", 60),
            Text(" · ".join((result, *marks(attempt))), style=OUTCOME_STYLES.get(result, "red")),
            f"{attempt.usage.total_tokens:,}" + ("~" if attempt.usage.estimated else ""),
            call_cost(attempt),
            seconds(attempt.elapsed_s),
        ]
        if drawn:
            when = bar(attempt.started_s, attempt.elapsed_s, run_s, bar_width)
            row.append(Text(when, style="cyan"))
        table.add_row(*row)
    return table


def marks(attempt: AttemptRecord) -> Iterator[str]:
    """What else is to be known of a call, in a word or two each."""
    if attempt.source != "call":
        yield SOURCES[attempt.source]
    if attempt.continues:
        yield "continued"
    if attempt.over_bound:
        yield "over its bound"


def print_page(*parts: RenderableType) -> None:
    """Print on stdout; rich fills lines up with spaces, which a file does not need."""
    if sys.stdout.isatty():
        _console(None).print(*parts, sep="\n")
        return
    console = _console(FILE_WIDTH)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _console(width: int | None) -> Console:
    """A console that reads no markup in what it is given."""
    return Console(width=width, highlight=False, markup=False, emoji=False)


def safe(text: str) -> Text:
    """Model text for rich: no markup is read in it, and nothing in it acts on the terminal."""
    return Text(neutralise(text, terminal=True))


def _head(receipt: Receipt) -> RenderableType:
    usage = receipt.usage
    spending = spent(receipt)
    if SIMULATED in receipt.notes:
        spending += f"; of real models it would be {cost(receipt)}"
    if receipt.unpriced:
        spending += f" (price not known: {', '.join(receipt.unpriced)})"
    rows = {
        "run": receipt.run_id,
        "when": when_utc(receipt.started_at, "seconds"),
        "question": one_line(receipt.prompt, 300),
        "asked": receipt.model or "the default",
        "pattern": receipt.pattern or "none (one model)",
        "took": f"{seconds(receipt.elapsed_s)}, {count(receipt.calls, 'call')}, "
        f"{count(usage.total_tokens, 'token')} ({usage.prompt_tokens:,} in, "
        f"{usage.completion_tokens:,} out{', partly estimated' if usage.estimated else ''})",
        "cost": spending,
        "budget": "; ".join(receipt.shrunk),
        "for": " · ".join((*filter(None, [receipt.tenant]), *receipt.tags)),
        "seed": f"{receipt.seed} · configuration {receipt.config_hash[:12]}",
        "missing": ", ".join(receipt.missing),
    }
    return _head_table(rows, receipt.status, receipt.causes)


def _head_table(rows: Mapping[str, str], status: str, causes: Sequence[str] = ()) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, safe(value))
    table.add_row("status", Text(status, style=STATUS_STYLES[status]))
    for cause in causes:
        table.add_row("cause", safe(one_line(cause, 400)))
    return table


def when_utc(started_at: str, timespec: str) -> str:
    """A receipt's time for people: `2026-11-22 12:00:00 UTC`."""
    try:
        moment = datetime.fromisoformat(started_at).astimezone(UTC)
    except ValueError:  # written by another hand
        return one_line(started_at, 40)
    return f"{moment.replace(tzinfo=None).isoformat(' ', timespec)} UTC"


def _stage_title(stage: StageRecord) -> Text:
    how = f" · {stage.combine}" if stage.combine else ""
    style = "bold" if stage.status == "ok" else "bold yellow"
    return Text(f"{stage.name}{how} · {stage.status} · {seconds(stage.elapsed_s)}", style=style)


def _decision(stage: StageRecord) -> Iterator[Text]:
    """What the stage decided and why, and what went wrong in it, one line each."""
    for name, value in _flat(stage.outcome):
        yield safe(one_line(f"{name.replace('_', ' ')}: {_said(value)}", 400))
    for attempt in stage.attempts:
        if attempt.error or attempt.message:
            status = f" ({attempt.status_code})" if attempt.status_code else ""
            said = attempt.message.removeprefix(f"{attempt.member}: ")
            why = f"{attempt.error or attempt.status}{status}: {said}"
            yield safe(one_line(f"{attempt.member}: {why}", 400))
    told = [attempt.message for attempt in stage.attempts if attempt.message]
    for cause in stage.causes:
        if any(message in cause for message in told):
            continue
        yield safe(one_line(f"because {cause}", 400))


def _flat(outcome: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is worth a line: no empty value, no count of nothing, a field of texts by itself."""
    for name, value in outcome.items():
        if not value:
            continue
        if isinstance(value, Mapping) and not all(_is_figure(item) for item in value.values()):
            yield from _flat(value)
        else:
            yield name, value


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float))


def _said(value: Any) -> str:
    """A decision's value in words: `gpt 3, claude 1` for votes and scores."""
    if isinstance(value, Mapping):
        ordered = sorted(value.items(), key=_by_size)
        return ", ".join(f"{name} {_said(item)}" for name, item in ordered)
    if isinstance(value, (list, tuple)):
        texts = [_said(item) for item in value]
        return ("; " if any(" " in text for text in texts) else ", ").join(texts)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _by_size(item: tuple[str, Any]) -> tuple[float, str]:
    """Largest figure first; what is no figure keeps to its name."""
    name, value = item
    figure = float(value) if _is_figure(value) else 0.0
    return (-figure, str(name))


def _draft(attempt: AttemptRecord) -> RenderableType:
    role = f" as {attempt.role}" if attempt.role else ""
    return _text_of(f"{attempt.member}{role}", attempt.text)


def _text_of(whose: str, text: str) -> RenderableType:
    title = Text(one_line(whose, 60), style="cyan")
    return Padding(Group(title, safe(text.strip())), (1, 0, 0, 2))
