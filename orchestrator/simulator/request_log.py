"""What was asked of the simulator and what came of it; never a key."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import orjson

PROMPT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. Times are seconds after the simulator's start.

    Attributes:
        index: The order of arrival, from 0.
        provider: The wire format; empty for an address that none of them has.
        model: The model that was asked for, without directives.
        faults: The faults that struck, by name.
        closed_by_client: Whether the client went away before the reply was complete.
        closed_early_s: When that was noticed.
        prompt: What the user said last, shortened; not written to the file.
    """

    index: int
    at_s: float
    elapsed_s: float
    provider: str
    path: str
    model: str
    streamed: bool
    status: int  # 0 when no status line was sent
    faults: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sent_bytes: int = 0
    has_key: bool = False
    closed_by_client: bool = False
    closed_early_s: float | None = None
    prompt: str = ""


class RequestLog:
    """The newest records in memory, all of them in a file if one is named."""

    def __init__(self, keep: int, path: Path | None) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=keep)
        self._file: IO[bytes] | None = path.open("ab") if path is not None else None
        self.total = 0

    def add(self, record: RequestRecord) -> None:
        self._records.append(record)
        self.total += 1
        if self._file is not None:
            self._file.write(as_line(record))
            self._file.flush()

    def clear(self) -> None:
        """Forget the records in memory."""
        self._records.clear()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(tuple(self._records))

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]


def as_line(record: RequestRecord) -> bytes:
    """The record as a line of JSON, without the prompt."""
    fields = asdict(record)
    del fields["prompt"]
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
