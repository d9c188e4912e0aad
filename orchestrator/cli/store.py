"""Where runs are found again: their journals, and the receipts that earlier versions kept."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import ValidationError

from orchestrator.config import runs_folder
from orchestrator.errors import InvalidRun, JournalError
from orchestrator.journal import SUFFIX, Journal, Record
from orchestrator.journal import read as read_journal
from orchestrator.responses import Receipt

EARLIER = ".json"  # a receipt by itself, as versions without a journal kept it
COMPLETED = 20  # how many runs a shell is offered
SEARCHED = 100  # how many are looked into for one that has not ended
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A run as it was written down.

    Attributes:
        receipt: What it came to; None if it has not ended.
        record: Its journal; None where an earlier version kept the receipt alone.
    """

    run_id: str
    receipt: Receipt | None
    record: Record | None = None


def short(run_id: str) -> str:
    """The part of an id that people are told: `load` takes it as well."""
    return run_id.partition("-")[2] or run_id


def journal() -> Journal:
    """Where the runs of the command line are written down; the folder may not exist yet."""
    return Journal(runs_folder())


def is_kept(run_id: str) -> bool:
    """Whether a run can be found again."""
    return journal().path(run_id).is_file()


def as_text(receipt: Receipt) -> str:
    """A receipt as programs read it and `show --json` prints it: JSON in ASCII, a line at its end.

    In letters that no terminal obeys.
    """
    return json.dumps(json.loads(receipt.to_json()), indent=2) + "\n"


def write_private(path: Path, content: bytes) -> None:
    """Write a whole file under a passing name, mode 0600, and move it into its place."""
    passing = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(passing, "xb", opener=_open_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            passing.unlink()


def load(run: str) -> Kept:
    """A run, named by its id or by the beginning of either half of it.

    Raises:
        InvalidRun: no run, or more than one, has such an id, or what was kept cannot be read.
    """
    wanted = _checked(run)
    found = [path for path in paths() if _begins(path.stem, wanted)]
    exact = [path for path in found if path.stem == wanted]
    if not found:
        raise InvalidRun(
            f"no run {run!r} in {runs_folder()}; `orchestrator show --list` lists runs"
        )
    if len(found) > 1 and not exact:
        names = ", ".join(path.stem for path in found[:5])
        raise InvalidRun(f"{len(found)} runs begin with {run!r}: {names}; give more of the id")
    return read((exact or found)[0])


def latest() -> Kept:
    """The last run.

    Raises:
        InvalidRun: there is none yet.
    """
    newest = next(iter(paths()), None)
    if newest is None:
        raise InvalidRun('no run yet; try `orchestrator ask "..."` or `orchestrator demo`')
    return read(newest)


def paths() -> list[Path]:
    """The files of all runs, newest first."""
    dated = {}
    for suffix in (EARLIER, SUFFIX):  # of a run that has both, the journal counts
        for path in runs_folder().glob(f"*{suffix}"):
            with contextlib.suppress(FileNotFoundError):  # removed while we look
                dated[path.stem] = (path.stat().st_mtime_ns, path.name, path)
    return [path for _, _, path in sorted(dated.values(), reverse=True)]


def read(path: Path) -> Kept:
    """One run, from its file.

    Raises:
        InvalidRun: it holds none.
    """
    try:
        if path.suffix == SUFFIX:
            record = read_journal(path)
            return Kept(run_id=path.stem, receipt=record.receipt, record=record)
        return Kept(run_id=path.stem, receipt=Receipt.from_json(path.read_bytes()))
    except (ValidationError, JournalError) as error:
        raise InvalidRun(f"{path} holds no run, or one of another version") from error


def unfinished() -> Iterator[Kept]:
    """The runs that have not ended, of the last ones, newest first."""
    for path in paths()[:SEARCHED]:
        with contextlib.suppress(InvalidRun, OSError):
            kept = read(path)
            if kept.receipt is None:
                yield kept


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of the last runs, as they are told, for a shell."""
    names = (short(path.stem) for path in paths()[:COMPLETED])
    return [name for name in names if name.startswith(incomplete)]


def complete_unfinished(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The same of those that can be gone on with."""
    names = (short(kept.run_id) for kept in unfinished())
    return [name for name in names if name.startswith(incomplete)][:COMPLETED]


def _begins(run_id: str, wanted: str) -> bool:
    """An id is a time and a chance part; people remember the one or the other."""
    return run_id.startswith(wanted) or run_id.partition("-")[2].startswith(wanted)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _checked(run_id: str) -> str:
    """A run id becomes a file name, so it may hold nothing that means something in a path."""
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidRun(f"{run_id!r} is no run id; `orchestrator show --list` lists runs")
    return run_id
