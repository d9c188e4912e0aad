"""Where the lines of a conversation come from: a prompt with history, or plain stdin."""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.config import state_dir

PROMPT = "> "
CONTINUED = "… "
KEPT_LINES = 2000  # of the history file

ReadLine = Callable[[], str]


@contextlib.contextmanager
def open_lines(words: Sequence[str]) -> Iterator[ReadLine]:
    """A function that returns the next thing said and raises `EOFError` at the end.

    Args:
        words: What the tabulator key completes.
    """
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        yield lambda: _joined(_read_piped)
        return
    with _line_editing(words):
        yield lambda: _joined(_ask)


def _joined(read: Callable[[str], str]) -> str:
    r"""One line, or several where all but the last end in `\`."""
    line = read(PROMPT)
    while line.endswith("\\"):
        line = line[:-1] + "\n" + read(CONTINUED)
    return line


def _read_piped(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _ask(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)  # stdout is for answers
    return input()


@contextlib.contextmanager
def _line_editing(words: Sequence[str]) -> Iterator[None]:
    """Arrow keys, history over sessions and completion, where Python has readline."""
    try:
        readline: Any = importlib.import_module("readline")
    except ImportError:  # Windows
        yield
        return
    path = state_dir() / "chat_history"
    with contextlib.suppress(OSError):
        _make_private(path)
        readline.read_history_file(path)
    readline.set_history_length(KEPT_LINES)
    readline.set_completer_delims(" ")
    readline.set_completer(_completer(words))
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _completer(words: Sequence[str]) -> Callable[[str, int], str | None]:
    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if word.startswith(text)]
        return found[state] if state < len(found) else None

    return complete
