"""How model text and figures are written for people: harmless to a terminal, short, with units."""

import contextlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

# A model's text may hold escape sequences that repaint the screen, carriage returns that overwrite
# a line, and direction controls that make text read as what it is not.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ESCAPES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # what even a file should not hold
_SURROGATES = re.compile("[\ud800-\udfff]")  # half a character; no encoding can write it


def neutralise(text: str, *, terminal: bool) -> str:
    r"""The text without what could do something rather than be read.

    >>> neutralise("red\x1b[31m alert\r", terminal=True)
    'red[31m alert'
    """
    controls = _CONTROLS if terminal else _ESCAPES
    return _SURROGATES.sub("\ufffd", controls.sub("", text))


def one_line(text: str, width: int) -> str:
    r"""The text on one line, cut to `width` characters.

    >>> one_line("two\n lines", 7)
    'two li…'
    """
    line = " ".join(neutralise(text, terminal=True).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, or nothing.

    >>> did_you_mean("aks", ["ask", "chat"])
    "; did you mean 'ask'?"
    """
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def program() -> str:
    """What to type to call this command again: its name, or the path where no shell finds that."""
    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    if called.name != "orchestrator" or (found and Path(found).samefile(called)):
        return "orchestrator"
    with contextlib.suppress(ValueError):  # not below this folder
        called = called.absolute().relative_to(Path.cwd())
    return shlex.quote(str(called))


def seconds(duration_s: float) -> str:
    """A duration.

    >>> seconds(0.25), seconds(12.34), seconds(75), seconds(36_730)
    ('0.25 s', '12.3 s', '1 min 15 s', '10 h 12 min')
    """
    if duration_s < 9.995:
        return f"{duration_s:.2f} s"
    if duration_s < 59.95:
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(duration_s / 60), 60)
    return f"{hours} h {minutes} min"


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "call"), count(12345, "token")
    ('1 call', '12,345 tokens')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bar(start: float, length: float, whole: float, width: int) -> str:
    """When something ran within a whole, drawn to scale.

    >>> bar(1, 2, 4, 8)
    '  ████  '
    """
    if whole < 0.001:
        return " " * width
    left = min(width - 1, int(min(start, whole) / whole * width))
    filled = max(1, min(width - left, round(min(length, whole) / whole * width)))
    return " " * left + "█" * filled + " " * (width - left - filled)
