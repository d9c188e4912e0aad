"""What was asked of the simulator and what came of it; never a key."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
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
        prompt_tokens: What the usage said.
        billed_prompt_tokens: What is due for it, whatever the usage said.
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
    billed: bool = False
    billed_prompt_tokens: int = 0
    billed_completion_tokens: int = 0
    sent_bytes: int = 0
    has_key: bool = False
    closed_by_client: bool = False
    closed_early_s: float | None = None
    prompt: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What requests came to.

    Attributes:
        calls: How many completions were asked for, refused ones included.
        billed: How many of them cost anything.
        prompt_tokens: The tokens that are due, of prompts.
        completion_tokens: Those of answers.
    """

    calls: int = 0
    billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, record: RequestRecord) -> None:
        self.calls += 1
        self.billed += record.billed
        self.prompt_tokens += record.billed_prompt_tokens
        self.completion_tokens += record.billed_completion_tokens


class RequestLog:
    """The newest records in memory, all of them in a file if one is named."""

    def __init__(self, keep: int, path: Path | None) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=keep)
        self._file: IO[bytes] | None = path.open("ab") if path is not None else None
        self.total = 0
        self._tallies: dict[str, Tally] = {}

    def add(self, record: RequestRecord) -> None:
        self._records.append(record)
        self.total += 1
        if record.provider:
            self._tallies.setdefault(record.model, Tally()).add(record)
        if self._file is not None:
            self._file.write(as_line(record))
            self._file.flush()

    def tally(self, model: str | None = None) -> Tally:
        """The sums over all records there ever were, or over those of one model."""
        if model is not None:
            return replace(self._tallies.get(model, Tally()))
        whole = Tally()
        for part in self._tallies.values():
            whole.calls += part.calls
            whole.billed += part.billed
            whole.prompt_tokens += part.prompt_tokens
            whole.completion_tokens += part.completion_tokens
        return whole

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
