"""Keep which rows are with a provider: written down before they are sent, and until they are back.

Each line stands behind its checksum. What a crash has torn is as if it had not been written.
"""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from orchestrator.batch.parts import Index, key_of
from orchestrator.errors import BatchError

NAME = "submitted.jsonl"
_NEW = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A batch at a provider, or about to be.

    Attributes:
        key: What it is tagged with there.
        deployment: The deployment that is asked.
        config: The digest of what decides on its answers.
        rows: The digests of its rows, by position.
        worst_nanousd: The most that it can cost; 0 where nobody reckons.
        id: What the provider calls it; "" while nobody has heard of that.
    """

    key: str
    deployment: str
    config: str
    rows: Mapping[int, str]
    worst_nanousd: int = 0
    id: str = ""

    def missing(self, index: Index) -> frozenset[int]:
        """The positions of its rows that have no outcome yet."""
        entries = (
            (position, digest, index.find(position)) for position, digest in self.rows.items()
        )
        return frozenset(
            position
            for position, digest, entry in entries
            if entry is None or entry.key != key_of(digest)
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What is written down: batches that are not done with, and what was paid for nothing."""

    batches: tuple[Submitted, ...] = ()
    unused_nanousd: int = 0


class Journal:
    """Where it is written down, for the one process that holds the output's lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def planned(self, batch: Submitted) -> None:
        """It is about to be submitted."""
        rows = [[position, digest] for position, digest in batch.rows.items()]
        told = {"key": batch.key, "deployment": batch.deployment, "config": batch.config}
        self._write({"planned": told | {"worst_nanousd": batch.worst_nanousd, "rows": rows}})

    def submitted(self, key: str, batch_id: str) -> None:
        """The provider has it."""
        self._write({"submitted": {"key": key, "id": batch_id}})

    def ended(self, key: str, *, unused_nanousd: int = 0) -> None:
        """All of its rows have their outcomes, or it never came to be.

        Args:
            key: Which one.
            unused_nanousd: What it cost besides those: for rows that have changed meanwhile.
        """
        self._write({"ended": {"key": key, "unused_nanousd": unused_nanousd}})

    def read(self) -> Known:
        """What is written down.

        Raises:
            BatchError: it cannot be read.
        """
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return Known()
        except OSError as error:
            raise self._failure(error, "read") from error
        found: dict[str, Submitted] = {}
        unused_nanousd = 0
        for fact in map(_fact, lines):
            match fact:
                case {"planned": told}:
                    found[told["key"]] = Submitted(**(told | {"rows": dict(told["rows"])}))
                case {"submitted": {"key": key, "id": batch_id}} if key in found:
                    found[key] = replace(found[key], id=batch_id)
                case {"ended": {"key": key, "unused_nanousd": unused}}:
                    found.pop(key, None)
                    unused_nanousd += unused
        return Known(tuple(found.values()), unused_nanousd)

    def clear(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)

    def _write(self, fact: dict[str, Any]) -> None:
        text = orjson.dumps(fact)
        try:
            file = os.open(self._path, _NEW, 0o600)
            try:
                # A line that was torn before must not take this one with it.
                line = b"\n%08x %s\n" % (zlib.crc32(text), text)
                if os.write(file, line) < len(line):
                    raise OSError(28, "no space left on device")
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise self._failure(error, "written") from error

    def _failure(self, error: OSError, what: str) -> BatchError:
        return BatchError(
            f"{self._path} cannot be {what}: {error.strerror or error}; it says which rows are "
            "with a provider. Make room, or see to the folder, and run the same command again"
        )


def _fact(line: bytes) -> Any:
    """What a line says; None for one that is torn or empty."""
    checksum, _, text = line.partition(b" ")
    return orjson.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None
