"""Keys of the gateway's own: who may call, with which budget, how often, for which models.

A key is 256 random bits, shown once when it is made. What is kept is its id and its SHA-256, which
needs no salt and no slow hash at that entropy.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.config import Count, Money
from orchestrator.errors import OrchestratorError

PREFIX = "orc"
ID_BYTES, SECRET_BYTES = 6, 32
LONGEST = 256  # characters of what is taken for a key at all
_NOBODY = hashlib.sha256(b"nobody").digest()


class KeysError(OrchestratorError):
    """The file of keys cannot be used, or has no such key."""


class KeyRecord(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    sha256: str
    tenant: str
    created: datetime
    models: tuple[str, ...] = ()  # patterns such as `fast` or `*/council`; none: any
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    money_usd_per_day: Money | None = None
    open_streams: Annotated[int, Field(gt=0)] = 100
    revoked: datetime | None = None

    def may_ask(self, model: str) -> bool:
        """Whether this key may ask for a model of that name."""
        return not self.models or any(fnmatchcase(model, one) for one in self.models)


_RECORDS: TypeAdapter[tuple[KeyRecord, ...]] = TypeAdapter(tuple[KeyRecord, ...])


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; this is the only time that it is known."""

    record: KeyRecord
    key: str


class KeyFile:
    """The keys in a file, read again whenever it has changed.

    Args:
        path: JSON, mode 0600. A file that is not there holds no keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._records: dict[str, KeyRecord] = {}

    def find(self, presented: str | bytes | None) -> KeyRecord | None:
        """Whose key it is. The same work is done for one that nobody has.

        Raises:
            KeysError: the file cannot be read.
        """
        self._refresh()
        written = (
            presented.encode("utf-8", "surrogateescape")
            if isinstance(presented, str)
            else (presented or b"")
        )
        parts = written[:LONGEST].split(b"-", 2)
        name = parts[1].decode("ascii", "replace") if len(parts) == 3 else ""
        record = self._records.get(name)
        digest = hashlib.sha256(written).digest()
        kept = bytes.fromhex(record.sha256) if record else _NOBODY
        is_it = hmac.compare_digest(digest, kept)
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
        """Make a key for somebody."""
        name = secrets.token_hex(ID_BYTES)
        key = f"{PREFIX}-{name}-{secrets.token_urlsafe(SECRET_BYTES)}"
        record = KeyRecord.model_validate(
            {
                "id": name,
                "sha256": hashlib.sha256(key.encode()).hexdigest(),
                "tenant": tenant,
                "created": datetime.now(UTC),
                **limits,
            }
        )
        with self._changing():
            self._records[name] = record
        return NewKey(record, key)

    def revoke(self, name: str) -> KeyRecord:
        """Take a key back; requests from now on are refused.

        Raises:
            KeysError: there is none of that id.
        """
        with self._changing():
            found = self._records.get(name)
            if found is None:
                raise KeysError(f"There is no key {name!r}; `orchestrator keys list` shows them")
            if found.revoked is None:
                found = found.model_copy(update={"revoked": datetime.now(UTC)})
            self._records[name] = found
        return found

    def _refresh(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._records = None, {}
            return
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        if os.name == "posix" and stat.st_mode & 0o077:
            raise KeysError(f"{self.path} is open to others; make it mode 600")
        try:
            records = _RECORDS.validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise KeysError(f"{self.path} cannot be read as the gateway's keys") from error
        self._seen, self._records = seen, {record.id: record for record in records}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Read the file, change it and put the new one into its place, alone."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with os.fdopen(_private(lock), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._refresh()
            yield
            draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
            text = json.dumps(_RECORDS.dump_python(tuple(self._records.values()), mode="json"))
            with os.fdopen(_private(draft, os.O_EXCL), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            self._seen = None


def _private(path: Path, flags: int = 0) -> int:
    """Open a file that nobody else may read, to write it."""
    return os.open(path, os.O_CREAT | os.O_WRONLY | flags, 0o600)
