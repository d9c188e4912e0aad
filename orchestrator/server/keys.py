"""Keys of the gateway's own: who may call, with which budget, how often, for which models.

A key is 256 random bits, shown once when it is made. What is kept is its id and its SHA-256, which
needs no salt and no slow hash at that entropy.
"""

import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.clock import Clock, SystemClock
from orchestrator.config import Count, Money, state_dir
from orchestrator.errors import KeysError

if sys.platform != "win32":
    from fcntl import LOCK_EX, flock

__all__ = ["KeyFile", "KeyRecord", "KeysError", "NewKey", "keys_file"]

PREFIX = "orc"
ID_BYTES, SECRET_BYTES = 6, 32
LONGEST = 256  # bytes of what is taken for a key at all
MOST_PATTERNS = 100
_NAME = r"^[^\p{C}\s](?:[^\p{C}\p{Zl}\p{Zp}]*[^\p{C}\s])?$"  # one line that can be read
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


class KeyRecord(BaseModel):
    """What is kept of a key.

    Attributes:
        id: Its public half, by which it is looked up and revoked.
        tenant: On whose behalf it asks; keys of one tenant share its budgets and cached answers.
        models: What may be asked for, as names or patterns such as `*/council`; none: anything.
        open_streams: How many replies may be streaming at a time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * ID_BYTES}}}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    tenant: Annotated[str, Field(pattern=_NAME, max_length=256)]
    created: datetime
    models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
        Field(max_length=MOST_PATTERNS),
    ] = ()
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    money_usd_per_day: Money | None = None
    open_streams: Count = 100
    revoked: datetime | None = None

    def may_ask(self, model: str) -> bool:
        """Whether this key may ask for a model of that name."""
        return not self.models or any(fnmatchcase(model, one) for one in self.models)


_RECORDS: TypeAdapter[tuple[KeyRecord, ...]] = TypeAdapter(tuple[KeyRecord, ...])
_Seen = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; this is the only time that it is known."""

    record: KeyRecord
    key: str


def keys_file() -> Path:
    """Where the gateway's keys are kept unless somebody says otherwise."""
    return state_dir() / "keys.json"


class KeyFile:
    """The keys in a file, read again whenever it has changed.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     keys = KeyFile(Path(folder) / "keys.json")
    ...     made = keys.create("acme", models=("fast",))
    ...     found = keys.find(made.key)
    >>> found.tenant, found.may_ask("fast"), found.may_ask("council")
    ('acme', True, False)

    Args:
        path: JSON, mode 0600. A file that is not there holds no keys.
        clock: Where the time comes from.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._seen: _Seen | None = None
        self._records: Mapping[str, KeyRecord] = {}

    def find(self, presented: str | bytes | None) -> KeyRecord | None:
        """Whose key it is. The same work is done for one that nobody has.

        Raises:
            KeysError: the file cannot be read.
        """
        self._refresh()
        written = _written(presented)
        record = self._records.get(_id_in(written))
        kept = bytes.fromhex(record.sha256 if record else _NOBODY)
        is_it = hmac.compare_digest(hashlib.sha256(written).digest(), kept)
        return record if is_it and record is not None and record.revoked is None else None

    @property
    def has_any(self) -> bool:
        """Whether there is any key that has not been revoked."""
        self._refresh()
        return any(record.revoked is None for record in self._records.values())

    def list(self) -> list[KeyRecord]:
        """All of them, the oldest first, revoked ones included."""
        self._refresh()
        return sorted(self._records.values(), key=lambda record: record.created)

    def create(self, tenant: str, **limits: object) -> NewKey:
        """Make a key for somebody.

        Args:
            tenant: On whose behalf it asks.
            limits: Fields of `KeyRecord`.

        Raises:
            ValidationError: pydantic's, for a limit that is none.
            KeysError: the file that is there cannot be read.
        """
        name = secrets.token_hex(ID_BYTES)
        key = f"{PREFIX}-{name}-{secrets.token_urlsafe(SECRET_BYTES)}"
        record = KeyRecord.model_validate(
            {
                "id": name,
                "sha256": hashlib.sha256(key.encode()).hexdigest(),
                "tenant": tenant,
                "created": self._clock.now(),
                **limits,
            }
        )
        self._change(lambda known: {**known, name: record})
        return NewKey(record, key)

    def revoke(self, name: str) -> KeyRecord:
        """Take a key back; requests from now on are refused.

        Raises:
            KeysError: there is none of that id, or the file cannot be read.
        """
        return self._change(lambda known: {**known, name: self._revoked(known, name)})[name]

    def _revoked(self, known: Mapping[str, KeyRecord], name: str) -> KeyRecord:
        found = known.get(name)
        if found is None:
            raise KeysError(f"There is no key {name!r}; `orchestrator keys list` shows the ids")
        if found.revoked is not None:
            return found
        return found.model_copy(update={"revoked": self._clock.now()})

    def _refresh(self) -> None:
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            if os.name == "posix" and stat.st_mode & 0o077:
                raise KeysError(
                    f"{self.path} is open to others (mode {stat.st_mode & 0o777:o}); make it "
                    "mode 600, and its keys anew if anybody could change them"
                )
            self._records = _by_id(_RECORDS.validate_json(self.path.read_bytes()))
        except FileNotFoundError:
            self._seen, self._records = None, {}
        except OSError as error:
            raise KeysError(f"{self.path}: {(error.strerror or 'unreadable').lower()}") from error
        except ValueError as error:
            raise KeysError(
                f"{self.path} cannot be read as the gateway's keys ({_fault(error)}); put a copy "
                "of it back, or remove it and make the keys anew"
            ) from None  # what is in the file is not repeated
        else:
            self._seen = seen

    def _change(
        self, change: Callable[[Mapping[str, KeyRecord]], Mapping[str, KeyRecord]]
    ) -> Mapping[str, KeyRecord]:
        """Read the file, change what is in it, and put the new one into its place, alone."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.path.with_name(f".{self.path.name}.lock")):
            self._refresh()
            changed = change(self._records)
            _replace(self.path, _RECORDS.dump_json(tuple(changed.values()), indent=1))
        return changed


def _written(presented: str | bytes | None) -> bytes:
    """What was presented as bytes, whatever it is; nothing for what is too long to be a key."""
    given = presented or b""
    written = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
    return written if len(written) <= LONGEST else b""


def _id_in(written: bytes) -> str:
    parts = written.split(b"-", 2)
    return parts[1].decode("ascii", "replace") if len(parts) == 3 else ""


def _by_id(records: Iterable[KeyRecord]) -> Mapping[str, KeyRecord]:
    found: dict[str, KeyRecord] = {}
    for record in records:
        if record.id in found:
            raise ValueError(f"two keys have the id {record.id}")
        found[record.id] = record
    return found


def _fault(error: ValueError) -> str:
    """Where the file is wrong, without anything that stands in it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg'].partition(': ')[0]}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all who change the same file; the file of the lock stays."""
    with os.fdopen(_open_private(path), "w") as held:
        if sys.platform != "win32":
            flock(held, LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(_open_private(draft, os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _open_private(path: Path, flags: int = 0) -> int:
    """Open a file that nobody else may read, to write it."""
    return os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | flags, 0o600)
