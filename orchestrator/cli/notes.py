"""What is said on stderr beside the answer: wrapped on a terminal, one line each elsewhere."""

import shutil
import sys
import textwrap

import click


def note(text: str) -> None:
    """Something the user is to know."""
    click.echo(wrapped(f"Note: {text}"), err=True)


def warn(text: str) -> None:
    """Something that is less than it was meant to be."""
    click.echo(click.style(wrapped(f"Warning: {text}"), fg="yellow"), err=True)


def wrapped(text: str) -> str:
    """The text for stderr. A terminal would break it within words; a log wants it on one line.

    What has lines of its own, such as a list of mistakes with their places, keeps them.
    """
    if "\n" in text or sys.stderr is None or not sys.stderr.isatty():
        return text
    width = max(20, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
