"""Keep what rows have come to: part files that are the result and the log to resume from at once.

One file a process and a start, one line an outcome, each line behind its checksum and written at
once. The first line of a file says which batch it is a part of. A line that a crash has torn is
dropped, and its row is asked again. No file is ever written to by a second process: the numbers of
the files tell which is older.
"""

import contextlib
import errno
import json
import os
import sys
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.batch.finished import folder_of, mark_of
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.errors import BatchError, BatchInUse
from orchestrator.owners import is_gone, this_process

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, flock

VERSION = 1

_NEW = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | os.O_APPEND
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What a part file is a part of.

    Attributes:
        batch: The id of the batch: the same over all its resumptions.
        config: What decides on answers: a digest of the configuration and the options.
        source: Where the rows are from, and which state of it: `rows.jsonl|1234|1767225600`.
        start: Of a shard, the first byte of the input that one of its rows may begin in.
        end: The first byte behind those; None where the rows may be from anywhere.
    """

    batch: str
    config: str
    source: str
    start: int = 0
    end: int | None = None

    def may_overlap(self, other: "Heading") -> bool:
        """Whether a part with the other heading may hold rows that this one is about."""
        if self.source != other.source:
            return True  # nobody knows where those rows are now
        return (self.end is None or other.start < self.end) and (
            other.end is None or self.start < other.end
        )


class Place(NamedTuple):
    """Where an outcome stands: in which part, and from which byte on."""

    part: int
    offset: int


class Entry(NamedTuple):
    """What is known of a row without reading its outcome."""

    key: int
    is_failed: bool
    place: Place


class Record(NamedTuple):
    """An outcome as it is read back, and where it stands."""

    outcome: Outcome
    place: Place


def key_of(digest: str) -> int:
    """What the index keeps of a row's digest: enough to see that the row has changed."""
    return int(digest[:16] or "0", 16)


class Index:
    """Which rows have an outcome, and where it stands: some twenty bytes a row.

    Of several outcomes of one row the first answer counts; where there is none, the last failure.
    What was asked of a row since it has changed goes before what was asked of it before.
    """

    def __init__(self) -> None:
        self._keys = array("Q")
        self._parts = array("I")
        self._offsets = array("Q")
        self._states = bytearray()

    def add(self, outcome: Outcome, place: Place) -> None:
        """Take note of an outcome; they come in the order in which they were written."""
        position, key = outcome.position, key_of(outcome.digest)
        self._make_room(position)
        is_same = self._states[position] and self._keys[position] == key
        if is_same and self._states[position] == _ANSWERED:
            return
        self._keys[position] = key
        self._parts[position] = place.part
        self._offsets[position] = place.offset
        self._states[position] = _FAILED if outcome.status == "failed" else _ANSWERED

    def find(self, position: int) -> Entry | None:
        """What is known of the row at a position."""
        if position >= len(self._states) or not self._states[position]:
            return None
        return Entry(
            self._keys[position],
            self._states[position] == _FAILED,
            Place(self._parts[position], self._offsets[position]),
        )

    def __len__(self) -> int:
        return len(self._states) - self._states.count(0)

    @property
    def answered(self) -> int:
        """How many rows have an answer; the others that have an outcome failed."""
        return self._states.count(_ANSWERED)

    def places(self) -> Iterator[tuple[int, Place]]:
        """Every row's position with the place of its outcome, in the order of the input."""
        for position, state in enumerate(self._states):
            if state:
                yield position, Place(self._parts[position], self._offsets[position])

    def _make_room(self, position: int) -> None:
        missing = position + 1 - len(self._states)
        if missing > 0:
            self._keys.frombytes(bytes(8 * missing))
            self._parts.frombytes(bytes(self._parts.itemsize * missing))
            self._offsets.frombytes(bytes(8 * missing))
            self._states.extend(bytes(missing))


_ANSWERED, _FAILED = 1, 2


@dataclass(slots=True)
class Scanned:
    """What the parts of a batch hold.

    Attributes:
        index: The outcomes that belong to the present configuration.
        heading: That of the newest part; None where there is no part.
        others: How many outcomes were asked for with another configuration.
        broken: How many lines besides torn last ones could not be read.
        cost_nanousd: What all of it has cost.
    """

    index: Index
    heading: Heading | None = None
    others: int = 0
    broken: int = 0
    cost_nanousd: int = 0


class Part:
    """A part file, open for the one process that writes it; made when the first outcome comes.

    Args:
        path: Where it is to be.
        heading: What it is a part of.
        gives_way: Whether it takes the next number that is free where another process was faster:
            several may begin a part of one batch at once.

    Raises:
        BatchError: it cannot be written. What was written before stands, and nothing more is.
    """

    def __init__(self, path: Path, heading: Heading, *, gives_way: bool = False) -> None:
        self.path = path
        self.number = _number(path)
        self._heading = heading
        self._gives_way = gives_way
        self._file: int | None = None
        self._length = 0
        self._is_synced = True
        self._broke: BatchError | None = None

    def append(self, outcome: Outcome) -> Place:
        """Write down what has come of a row; where it stands."""
        if self._file is None:
            self._begin()
        place = Place(self.number, self._length)
        self._write(_line("row", outcome))
        return place

    def read(self, place: Place) -> Outcome:
        """What was written at a place, in this part or an older one."""
        return read_at(self.path.parent, place)

    def sync(self) -> None:
        """See that a machine that loses its power keeps what was written."""
        if self._file is None or self._is_synced:
            return
        self._is_synced = True
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Nothing more is written."""
        if self._file is not None:
            with contextlib.suppress(BatchError):
                self.sync()
            os.close(self._file)
            self._file = None

    def _begin(self) -> None:
        if self._broke is not None:
            raise self._broke
        try:
            self._file = self._created()
        except OSError as error:
            raise self._failure(error) from error
        self._write(_line("batch", asdict(self._heading)))
        _sync_folder(self.path.parent)

    def _created(self) -> int:
        while True:
            try:
                return os.open(self.path, _NEW, 0o600)
            except FileExistsError:
                if not self._gives_way:
                    raise
                self.number += 1
                self.path = part_path(self.path.parent, self.number)

    def _write(self, line: bytes) -> None:
        """Add a line, or leave the file as it was and write nothing more."""
        assert self._file is not None
        if self._broke is not None:
            raise self._broke
        try:
            _write_whole(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):  # a half line is dropped when it is read as well
                os.ftruncate(self._file, self._length)
            self._broke = self._failure(error)
            raise self._broke from error
        self._length += len(line)
        self._is_synced = False

    def _failure(self, error: OSError) -> BatchError:
        return BatchError(
            f"{self.path} cannot be written: {_said(error)}; no row is asked whose answer could "
            "not be kept. Make room, or see to the folder, and run the same command again: it "
            "goes on where it stopped"
        )


class PartsFolder:
    """The folder beside an output that holds its parts."""

    def __init__(self, output: Path) -> None:
        self.path = folder_of(output)
        self.mark = mark_of(output)
        self.shards = self.path / "shards.json"

    def paths(self) -> list[Path]:
        """The part files, the oldest first."""
        return sorted(self.path.glob("part-*.jsonl"), key=_number)

    def next_number(self) -> int:
        """The number of the next part."""
        return max(map(_number, self.paths()), default=0) + 1

    def part(self, number: int) -> Path:
        """Where the part of a number is, or would be."""
        return part_path(self.path, number)

    def scan(self, config: str, shard: Heading | None = None) -> Scanned:
        """Read all parts, or all that may hold rows of a shard.

        Args:
            config: The digest of the present configuration and options.
            shard: The heading of its parts.

        Raises:
            BatchError: they cannot be read, or a newer program has written them.
        """
        found = Scanned(Index())
        for path in self.paths():
            with _opened(path) as lines:
                is_ours = False
                for offset, fact in _facts(lines):
                    match fact:
                        case Heading():
                            if shard is not None and not shard.may_overlap(fact):
                                break
                            found.heading = fact
                            is_ours = fact.config == config
                        case Outcome():
                            found.cost_nanousd += fact.cost_nanousd
                            found.others += not is_ours
                            if is_ours:
                                found.index.add(fact, Place(_number(path), offset))
                        case None:
                            found.broken += 1
        return found

    def clear(self) -> None:
        """Forget everything; only who holds the lock may."""
        for path in (self.mark, self.shards, *self.paths()):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str = "lock") -> Iterator[None]:
        """Keep other processes from this output for as long as the block runs.

        Args:
            name: What the file is called that says so; that of a shard is its own.

        Raises:
            BatchInUse: another process is at it; the message says which.
            BatchError: the folder cannot be made or written.
        """
        path = self.path / name
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise BatchError(
                f"{self.path} cannot be written: {_said(error)}; answers are kept there as they "
                "come, so choose an output in a folder that can be written"
            ) from error
        try:
            _take(descriptor, path)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)  # on another machine nobody could see that we are gone
        finally:
            os.close(descriptor)

    def read(self, places: Iterator[Place]) -> Iterator[Outcome]:
        """The outcomes at these places, one after another."""
        with contextlib.ExitStack() as stack:
            files: dict[int, Any] = {}
            for place in places:
                if place.part not in files:
                    files[place.part] = stack.enter_context(_opened(self.part(place.part)))
                yield _read_at(files[place.part], place)


def part_path(folder: Path, number: int) -> Path:
    """Where the part of a number is, or would be, in a folder of parts."""
    return folder / f"part-{number:05d}.jsonl"


def read_part(path: Path) -> Iterator[Record]:
    """Every outcome of one part, and where it stands; none, if there is no such file."""
    if not path.exists():
        return
    number = _number(path)
    with _opened(path) as lines:
        for offset, fact in _facts(lines):
            if isinstance(fact, Outcome):
                yield Record(fact, Place(number, offset))


def read_at(folder: Path, place: Place) -> Outcome:
    """The outcome at a place.

    Raises:
        BatchError: there is none any more.
    """
    with _opened(part_path(folder, place.part)) as lines:
        return _read_at(lines, place)


def _read_at(lines: Any, place: Place) -> Outcome:
    lines.seek(place.offset)
    fact = _fact(lines.readline())
    if not isinstance(fact, Outcome):
        raise BatchError(
            f"{lines.name} has changed at byte {place.offset} since it was read; run the same "
            "command again"
        )
    return fact


def _number(path: Path) -> int:
    number = path.stem.removeprefix("part-")
    return int(number) if number.isdecimal() else 0


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as lines:
            yield lines
    except OSError as error:
        raise BatchError(f"{path} cannot be read: {_said(error)}") from error


def _facts(lines: Any) -> Iterator[tuple[int, Heading | Outcome | None]]:
    """What every line says, and where it begins; a torn last one says nothing and is left out."""
    offset = 0
    for line in lines:
        fact = _fact(line)
        if fact is not None or line.endswith(b"\n"):
            yield offset, fact
        offset += len(line)


def _line(kind: str, content: Any) -> bytes:
    fact = {"v": VERSION, kind: content}
    try:
        text = orjson.dumps(fact, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a character, which nothing can write, or a number of many digits
        plain = fact if isinstance(content, dict) else fact | {kind: asdict(content)}
        told = json.dumps({"v": VERSION, "plain": plain[kind]}, ensure_ascii=False)
        text = told.encode("utf-8", "replace")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _fact(line: bytes) -> Heading | Outcome | None:
    """What a line says; None for one that is torn or damaged.

    Raises:
        BatchError: a newer program has written it.
    """
    checksum, _, text = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    content = orjson.loads(text)
    if content["v"] != VERSION:
        raise BatchError(
            f"the parts were written in format {content['v']!r}, and this version reads "
            f"{VERSION}; go on with the version that began, or begin anew with --fresh"
        )
    if "batch" in content:
        return Heading(**content["batch"])
    return _outcome(json.loads(text)["plain"] if "plain" in content else content["row"])


def _outcome(told: dict[str, Any]) -> Outcome:
    failure = told["failure"]
    told |= {
        "tool_calls": tuple(told["tool_calls"]),
        "use": tuple(ModelUse(**use) for use in told["use"]),
        "causes": tuple(told["causes"]),
        "failure": None if failure is None else Failure(**failure),
    }
    return Outcome(**told)


def _take(descriptor: int, path: Path) -> None:
    """Make a lock file ours.

    The kernel gives back the lock of a process that ends, however it ends. Where it knows no such
    locks, the owner's name stands in the file, and it is looked whether that process still runs.
    """
    here = this_process()
    owner = os.read(descriptor, 4096).decode("utf-8", "replace")
    try:
        is_free = _flock(descriptor) or not owner or is_gone(owner, here)
    except (BlockingIOError, ValueError):
        is_free = False
    if not is_free:
        who = owner.split("|")[3] if owner.count("|") == 5 else "?"
        raise BatchInUse(
            f"{path.parent} is in use: process {who} is at this batch. Wait until it has ended, "
            "or choose another output"
        )
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, str(here).encode())


def _flock(descriptor: int) -> bool:
    """Whether the kernel has given us the lock; false where it has none to give."""
    if sys.platform == "win32":
        return False
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True


def _write_whole(descriptor: int, line: bytes) -> None:
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync_folder(folder: Path) -> None:
    """See that a new file is found again after a loss of power, where that can be asked for."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
