"""Where receipts are kept: one file a run, private to its owner, written whole or not at all."""

import contextlib
import os
import re
import secrets
from pathlib import Path

from pydantic import ValidationError

from orchestrator.config import state_dir
from orchestrator.errors import InvalidRun
from orchestrator.responses import Receipt

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def short(run_id: str) -> str:
    """The part of an id that people are told: `load` takes it as well."""
    return run_id.partition("-")[2] or run_id


def directory() -> Path:
    """The folder of all receipts; it may not exist yet."""
    return state_dir() / "runs"


def save(receipt: Receipt) -> Path:
    """Keep a receipt, readable by its owner alone.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{_checked(receipt.run_id)}.json"
    write_private(path, receipt.to_json())
    return path


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


def load(run: str) -> Receipt:
    """The receipt of a run, named by its id or by the beginning of either half of it.

    Raises:
        InvalidRun: no run, or more than one, has such an id, or its receipt cannot be read.
    """
    wanted = _checked(run)
    found = [path for path in paths() if _begins(path.stem, wanted)]
    exact = [path for path in found if path.stem == wanted]
    if not found:
        raise InvalidRun(f"no run {run!r} in {directory()}; `orchestrator show --list` lists runs")
    if len(found) > 1 and not exact:
        names = ", ".join(path.stem for path in found[:5])
        raise InvalidRun(f"{len(found)} runs begin with {run!r}: {names}; give more of the id")
    return read((exact or found)[0])


def latest() -> Receipt:
    """The receipt of the last run.

    Raises:
        InvalidRun: there is none yet.
    """
    newest = next(iter(paths()), None)
    if newest is None:
        raise InvalidRun('no run yet; try `orchestrator ask "..."` or `orchestrator demo`')
    return read(newest)


def paths() -> list[Path]:
    """The files of all receipts, newest first."""
    dated = []
    for path in directory().glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # removed while we look
            dated.append((path.stat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(dated, reverse=True)]


def read(path: Path) -> Receipt:
    """One receipt file.

    Raises:
        InvalidRun: it holds no receipt.
    """
    try:
        return Receipt.from_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidRun(f"{path} is no receipt, or of another version") from error


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
