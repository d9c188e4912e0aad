"""Where progress is shown: a live board on a terminal, plain lines elsewhere, nothing if quiet."""

from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.cli.progress import LOADING, Board, Call, Stage, log_line
from orchestrator.cli.text import count, neutralise, one_line, seconds
from orchestrator.events import Event

MARKS = {"ok": ("✓", "green"), "unusable": ("!", "yellow"), "failed": ("✗", "red")}
STAGE_MARKS = {"ok": ("✓", "green"), "degraded": ("!", "yellow"), "failed": ("✗", "red")}


class Watcher(Protocol):
    """Somebody who is told every event of a run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, event: Event) -> None:
        """An event has happened."""

    def make_room(self) -> None:
        """The answer is about to be written on the same screen: leave what stands, draw no more."""

    @property
    def is_live(self) -> bool:
        """Whether somebody is looking on."""

    def expect(self, what: str) -> None:
        """The run is expected to come to so much."""


class Silent:
    """Shows nothing."""

    is_live = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def show(self, event: Event) -> None:
        return None

    def make_room(self) -> None:
        return None

    def expect(self, what: str) -> None:
        return None


class LogLines(Silent):
    """One line on stderr for what is worth a line, as it happens.

    On a terminal without a cursor to move (`TERM=dumb`) the answer's own lines are not broken
    into: what happens while it is written is left out there.
    """

    def __init__(self, *, on_screen: bool = False) -> None:
        self._on_screen = on_screen
        self._is_answering = False
        self._told_of_loading = False

    def make_room(self) -> None:
        self._is_answering = self._on_screen

    def show(self, event: Event) -> None:
        line = None if self._is_answering else log_line(event)
        if line == LOADING:  # every member waits for it, and one line is enough
            line = None if self._told_of_loading else line
            self._told_of_loading = True
        if line is not None:
            click.echo(neutralise(line, terminal=True), err=True)


class LiveBoard(Silent):
    """The board of a run, redrawn in place on stderr."""

    is_live = True

    def __init__(self, console: Console) -> None:
        self._board = Board()
        self._spinner = Spinner("dots")
        self._is_last = False
        # Drawn from a thread of rich's own: the spinners turn while the event loop waits.
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=10,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        self._board.apply(event)

    def expect(self, what: str) -> None:
        self._board.expected = what

    def make_room(self) -> None:
        self._is_last = True
        self._live.stop()  # draws once more

    def _draw(self) -> RenderableType:
        return draw(self._board, None if self._is_last else self._spinner)


def watcher(*, quiet: bool) -> Watcher:
    """The watcher that fits where stderr goes."""
    if quiet:
        return Silent()
    console = stderr_console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveBoard(console)
    return LogLines(on_screen=console.is_terminal)


def stderr_console() -> Console:
    """A console for everything that is not the answer."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def draw(board: Board, spinner: Spinner | None) -> RenderableType:
    """The board as it stands: ended stages on one line each, the members of a running one below.

    Without a spinner it is the last picture, to be left above the answer: nothing in it waits.
    Called from the drawing thread while events arrive in another, hence the copies.
    """
    title = Text(one_line(board.title, 200), style="bold")
    if board.title and board.expected:
        title.append(f" · {board.expected}", style="dim")
    lines: list[RenderableType] = [title]
    lines += [Text(one_line(f"! {step}", 200), style="yellow") for step in tuple(board.shrunk)]
    for stage in tuple(board.stages):
        lines.append(_stage_row(stage, spinner))
        if spinner is not None and not stage.status:
            lines += [_call_row(call, spinner) for call in tuple(stage.calls.values())]
    if spinner is None:
        return Group(*lines, "")
    lines += [Text(f"· {name}", style="dim") for name in board.waiting]
    if board.written:
        lines.append(Text(f"  the answer: {count(board.written, 'character')}", style="dim"))
    return Group(*lines)


def _stage_row(stage: Stage, spinner: Spinner | None) -> RenderableType:
    asked = len(stage.calls)
    if spinner is None and not stage.status:
        return _row(0, Text("↓", style="cyan"), stage.name, ", ".join(stage.calls), "")
    if spinner is not None and not stage.status:
        said = f"{stage.answered} of {asked}" if asked else ""
        return _row(0, spinner, stage.name, said, "")
    mark = Text(*STAGE_MARKS.get(stage.status, ("·", "dim")))
    said = one_line(stage.summary, 120) or f"{stage.answered} of {asked}"
    return _row(0, mark, stage.name, said, seconds(stage.elapsed_s))


def _call_row(call: Call, spinner: Spinner) -> RenderableType:
    if call.state == "waiting":
        return _row(2, Text("·", style="dim"), call.member, call.message, "")
    if call.state == "asked":
        said = count(call.characters, "character") if call.characters else "waiting"
        return _row(2, spinner, call.member, call.message or said, "")
    said = one_line(call.message, 120) or count(call.tokens, "token")
    return _row(2, Text(*MARKS[call.state]), call.member, said, seconds(call.elapsed_s))


def _row(indent: int, mark: RenderableType, name: str, said: str, time: str) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=indent)
    row.add_column(width=1)
    row.add_column(width=18, no_wrap=True)
    row.add_column(width=48, no_wrap=True, overflow="ellipsis")
    row.add_column(justify="right", no_wrap=True)
    row.add_row("", mark, Text(one_line(name, 64)), Text(said, style="dim"), Text(time))
    return row
