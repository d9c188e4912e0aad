"""Tell that a batch has ended and nothing has changed since, without loading what would run it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson


def folder_of(output: Path) -> Path:
    """Where the parts of an output are, or would be."""
    return output.with_name(f"{output.name}.parts")


def mark_of(output: Path) -> Path:
    """Where it is written down that a batch has ended, and what it came to."""
    return folder_of(output) / "finished.json"


def state_of(path: Path) -> str:
    """Which state a file or a folder is in; another one after any change."""
    try:
        status = path.stat()
    except OSError:
        return "none"
    return f"{status.st_size}|{status.st_mtime_ns}"


def states_of(paths: Iterable[Path]) -> dict[str, str]:
    """The states of several."""
    return {os.fspath(path.absolute()): state_of(path) for path in paths}


def read_mark(output: Path) -> dict[str, Any] | None:
    """What was written down when the batch ended; None if that is not so, or not as it was left."""
    try:
        mark = orjson.loads(mark_of(output).read_bytes())
    except (OSError, ValueError):
        return None
    is_whole = isinstance(mark, dict) and mark.get("output") == state_of(output)
    return mark if is_whole else None


def unchanged(output: Path, stamp: str) -> dict[str, Any] | None:
    """What a finished batch has come to, if it was started with the very same words.

    And if every file that had a say in it is as it was.

    Args:
        output: Where it was written.
        stamp: A digest of the words it is started with now.
    """
    mark = read_mark(output)
    if mark is None or not stamp or mark.get("stamp") != stamp:
        return None
    watched = mark.get("watched")
    if not isinstance(watched, dict):
        return None
    if any(state_of(Path(path)) != state for path, state in watched.items()):
        return None
    tally = mark.get("tally")
    return tally if isinstance(tally, dict) else None
