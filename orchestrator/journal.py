"""Keep a record of a run's finished calls, so that a killed run goes on without paying again.

One file a run, one line a fact, each line behind its checksum. The first line says what was asked
and by what chance (seed and nonce), so that the run can be made again with the very same prompts;
then comes a line for every call that was paid for, written before its answer is used; the last is
the receipt. A line that was torn by a crash is dropped, and its call made again.
"""

import contextlib
import errno
import json
import os
import re
import sys
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adapters.types import Completion
from orchestrator.amounts import Amount
from orchestrator.budget import Plan
from orchestrator.config import RequestConfig
from orchestrator.errors import JournalError
from orchestrator.responses import Receipt

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, flock

VERSION = 1
SUFFIX = ".jsonl"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
_COMPLETION: TypeAdapter[Completion] = TypeAdapter(Completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is needed to make a run again: the request, and every bit of chance in it.

    `plan` is what was left of the run so that it fits its budget; None if nothing gave way.
    `shrunk` says what did, one line each.
    """

    run_id: str
    started_at: str  # ISO 8601, UTC
    seed: int
    nonce: str
    config_hash: str
    request: RequestConfig
    plan: Plan | None = None
    shrunk: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidCall:
    """A finished call. `key` names it: the deployment and everything it was asked."""

    key: str
    deployment: str
    completion: Completion
    cost_nanousd: int | None  # None where the price is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a journal holds.

    Attributes:
        opening: What was asked.
        calls: The calls that were paid for, in the order they ended.
        receipt: The receipt, once the run has ended.
        broken: How many lines besides a torn last one could not be read.
        length: The bytes up to the end of the last whole line.
    """

    opening: Opening
    calls: tuple[PaidCall, ...] = ()
    receipt: Receipt | None = None
    broken: int = 0
    length: int = 0

    @property
    def paid(self) -> Amount:
        """What its calls have used up."""
        return sum(map(_amount, self.calls), Amount())


class RunJournal:
    """The journal of one run, open for writing. Only one process has it open at a time.

    Attributes:
        opening: What was asked.
        paid: What an earlier life of this run has paid for.
    """

    def __init__(
        self, path: Path, descriptor: int, record: Record, *, keeps_receipt: bool = True
    ) -> None:
        self.opening = record.opening
        self.path = path
        self._keeps_receipt = keeps_receipt
        self._file: int | None = descriptor
        self._length = record.length
        self.paid = record.paid
        self._paid: dict[str, deque[PaidCall]] = defaultdict(deque)
        for call in record.calls:
            self._paid[call.key].append(call)

    def holds(self, key: str) -> bool:
        """Whether `find` would find something."""
        return bool(self._paid.get(key))

    def find(self, key: str) -> PaidCall | None:
        """A call of an earlier life of this run that was paid for; each is found once."""
        calls = self._paid.get(key)
        return calls.popleft() if calls else None

    def append(self, call: PaidCall) -> None:
        """Write down a finished call, before anybody uses its answer.

        Raises:
            JournalError: it cannot be written. What was written before stands.
        """
        self.write("call", _call_to_json(call))

    def close(self, receipt: Receipt | None = None) -> None:
        """End the journal, with the receipt if there is one and it is to be kept here.

        Raises:
            JournalError: the receipt cannot be written. The journal is closed all the same.
        """
        try:
            if receipt is not None and self._keeps_receipt and self._file is not None:
                self.write("receipt", receipt.to_json(indent=None).decode())
        finally:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def write(self, kind: str, content: Any) -> None:
        """Add a line, or leave the file as it was.

        Raises:
            JournalError: it cannot be written.
        """
        if self._file is None:
            raise JournalError(f"{self.path} is closed")
        line = _line(kind, content)
        try:
            _write_whole(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):  # a half line is dropped when it is read as well
                os.ftruncate(self._file, self._length)
            raise JournalError(_unwritable(self.path, error)) from error
        self._length += len(line)


@dataclass(frozen=True, slots=True)
class Journal:
    """The journals of all runs: a folder, private to its owner.

    Attributes:
        folder: Where they are.
        keeps_receipts: Whether a run that has ended says so. One that does not can be gone on with
            after its end as well: everything that it had paid for is found again.
    """

    folder: Path
    keeps_receipts: bool = True

    def begin(self, opening: Opening, *, name: str = "") -> RunJournal:
        """Open a new run's journal.

        Args:
            opening: What is asked.
            name: What the journal is called; default: as the run.

        Raises:
            JournalError: it cannot be written, so the run must not begin.
        """
        path = self.path(name or opening.run_id)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise JournalError(_unwritable(path, error)) from error
        record = Record(opening=opening)
        run = RunJournal(path, descriptor, record, keeps_receipt=self.keeps_receipts)
        try:
            _lock(descriptor, path)
            run.write("run", _opening_to_json(opening))
        except JournalError:
            run.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return run

    def resume(self, run_id: str) -> RunJournal:
        """Open a run's journal again, to go on with it.

        Raises:
            JournalError: there is none, it cannot be read, it has ended, or another process has
                it open.
        """
        path = self.path(run_id)
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError as error:
            raise JournalError(f"There is no journal of run {run_id!r} in {self.folder}") from error
        except OSError as error:
            raise JournalError(_unwritable(path, error)) from error
        try:
            _lock(descriptor, path)
            record = _unfinished(path)
            os.ftruncate(descriptor, record.length)
        except (JournalError, OSError) as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise JournalError(_unwritable(path, error)) from error
            raise
        return RunJournal(path, descriptor, record, keeps_receipt=self.keeps_receipts)

    def is_in_use(self, run_id: str) -> bool:
        """Whether a process is at this run at the moment, as far as this system tells."""
        path = self.path(run_id)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            _lock(descriptor, path)
        except JournalError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read(self, run_id: str) -> Record:
        """What a run's journal holds.

        Raises:
            JournalError: there is none, or it cannot be read.
        """
        return read(self.path(run_id))

    def path(self, run_id: str) -> Path:
        """Where a run's journal is, or would be.

        Raises:
            JournalError: the id could mean something in a path.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise JournalError(f"{run_id!r} is no run id")
        return self.folder / f"{run_id}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one run's journal, by a name that is known before the run is.

    Whoever asks the same under the same name goes on with what was paid for under it.
    """

    journal: Journal
    name: str

    def begin(self, opening: Opening) -> RunJournal:
        """Open a new run's journal; as `Journal.begin`."""
        return self.journal.begin(opening, name=self.name)

    def resume(self) -> RunJournal | None:
        """Open what an earlier run has left; None if there is nothing that can be gone on with.

        Raises:
            JournalError: another process has it open, or it is in the way and cannot be removed.
        """
        if not self.path.exists():
            return None
        try:
            return self.journal.resume(self.name)
        except JournalError:
            if self.is_in_use():
                raise
        self.remove()
        return None

    def read(self) -> Record | None:
        """What it holds; None if there is none, or none that can be read."""
        if not self.path.exists():
            return None
        try:
            return read(self.path)
        except JournalError:
            return None

    def is_in_use(self) -> bool:
        """Whether a process is at it at the moment, as far as this system tells."""
        return self.journal.is_in_use(self.name)

    def remove(self) -> None:
        """Forget it.

        Raises:
            JournalError: it cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise JournalError(f"{self.path} cannot be removed: {_said(error)}") from error

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        return self.journal.path(self.name)


_FLAGS = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def read(path: Path) -> Record:
    """Everything in a journal that can be trusted.

    Raises:
        JournalError: there is no such file, or its first line does not say what was asked.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {_said(error)}") from error
    opening: Opening | None = None
    calls: list[PaidCall] = []
    receipt: Receipt | None = None
    broken = length = 0
    for line, ends_at, is_last in _lines(content):
        fact = _fact(line)
        if fact is None:
            broken += not is_last
        elif isinstance(fact, Opening):
            opening = opening or fact
        elif isinstance(fact, PaidCall):
            calls.append(fact)
        else:
            receipt = fact
        if fact is not None or not is_last:
            length = ends_at
    if opening is None:
        raise JournalError(f"{path} does not say what was asked, so its run cannot be made again")
    return Record(
        opening=opening, calls=tuple(calls), receipt=receipt, broken=broken, length=length
    )


def _unfinished(path: Path) -> Record:
    record = read(path)
    if record.receipt is not None:
        raise JournalError(f"Run {path.stem!r} has ended; there is nothing to go on with")
    return record


def _write_whole(descriptor: int, line: bytes) -> None:
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lines(content: bytes) -> Iterator[tuple[bytes, int, bool]]:
    """Every line, where it ends, and whether it is the last."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        stop = len(content) if end < 0 else end + 1
        yield content[start:stop], stop, stop == len(content)
        start = stop


def _line(kind: str, content: Any) -> bytes:
    text = json.dumps({"v": VERSION, kind: content}, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _fact(line: bytes) -> Opening | PaidCall | Receipt | None:
    """What a line says; None for one that is torn, damaged or of another version."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        content = json.loads(text)
        if content.pop("v") != VERSION:
            return None
        ((kind, value),) = content.items()
        return _READERS[kind](value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ValidationError):
        return None


def _opening_to_json(opening: Opening) -> dict[str, Any]:
    return {
        "run_id": opening.run_id,
        "started_at": opening.started_at,
        "seed": opening.seed,
        "nonce": opening.nonce,
        "config_hash": opening.config_hash,
        "request": opening.request.model_dump(mode="json", exclude_defaults=True),
        "plan": None if opening.plan is None else _PLAN.dump_python(opening.plan),
        "shrunk": opening.shrunk,
    }


def _opening_from_json(value: Any) -> Opening:
    plan = value["plan"]
    return Opening(
        **{
            **value,
            "request": RequestConfig.model_validate(value["request"]),
            "plan": None if plan is None else _PLAN.validate_python(plan),
            "shrunk": tuple(value.get("shrunk", ())),
        }
    )


def _amount(call: PaidCall) -> Amount:
    return Amount(
        money_nanousd=call.cost_nanousd or 0, tokens=call.completion.usage.total_tokens, calls=1
    )


def _call_to_json(call: PaidCall) -> dict[str, Any]:
    return {
        "key": call.key,
        "deployment": call.deployment,
        "cost_nanousd": call.cost_nanousd,
        "completion": _COMPLETION.dump_python(call.completion),
    }


def _call_from_json(value: Any) -> PaidCall:
    return PaidCall(**{**value, "completion": _COMPLETION.validate_python(value["completion"])})


_READERS: Mapping[str, Callable[[Any], Opening | PaidCall | Receipt]] = {
    "run": _opening_from_json,
    "call": _call_from_json,
    "receipt": Receipt.from_json,  # kept as its own text, so that it comes back byte for byte
}


def _lock(descriptor: int, path: Path) -> None:
    """Keep other processes out for as long as the file is open here."""
    if sys.platform == "win32":  # there two processes that resume one run are not told apart
        return
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(f"{path} is in use: another process is at this run") from error
    except OSError:  # a file system without locks
        return


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written: {_said(error)}; no call is made without a journal"


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
