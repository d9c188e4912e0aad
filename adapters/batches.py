"""What providers' own batches say of themselves: their state, and the lines that came of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from adapters._formats import Json, WireFormat, read_error
from adapters._usage import openai_usage
from adapters.types import Usage

TAG = "orchestrator_batch"  # the field of a batch's metadata that it is found again by
ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000  # of one batch, as OpenAI has it
MOST_BYTES = 200 * 10**6

_OVER = frozenset(("completed", "failed", "expired", "cancelled"))
_EXPIRED, _CANCELLED = 504, 503  # what HTTP would call a line that nobody came to
_LIMITED, _REFUSED, _MISSING = 429, 400, 502

# Objects and lists of them; what they hold is judged by who reads them.
OBJECTS = WireFormat(
    name="objects",
    finish=lambda body: None,
    error=read_error,
    usage_holder=lambda body: None,
    usage=openai_usage,
    model=lambda body: None,
    has_answer=lambda body: "id" in body or isinstance(body.get("data"), list),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """How a batch is getting on at its provider.

    Attributes:
        id: What the provider calls it.
        state: Where it is on its way; another word of the provider's counts as under way.
        total: How many lines it has, as far as the provider has counted them.
        completed: How many of them are answered.
        failed: How many of them are not, and will not be.
        files: The ids of the files with what came of it: answers, then errors.
        problem: Why it has failed as a whole.
        code: The same in one word.
        tag: What it was tagged with when it was submitted.
    """

    id: str
    state: str
    total: int = 0
    completed: int = 0
    failed: int = 0
    files: tuple[str, ...] = ()
    problem: str = ""
    code: str = ""
    tag: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in _OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReply:
    """What came of one line: the answer that a call would have had, byte for byte.

    Attributes:
        status: Its status.
        body: Its body.
    """

    status: int
    body: bytes

    @property
    def usage(self) -> Usage:
        """What it says of its tokens; none where it says nothing."""
        said = _object(orjson.loads(self.body)).get("usage")
        return openai_usage(said) if isinstance(said, dict) else Usage()


def write_line(custom_id: str, body: bytes) -> bytes:
    """A line of a batch, its end included."""
    head = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT}
    return orjson.dumps(head | {"body": orjson.Fragment(body)}) + b"\n"


def read_status(body: Mapping[str, Any]) -> BatchStatus:
    """What an object says of a batch."""
    counts, errors = _object(body.get("request_counts")), _object(body.get("errors")).get("data")
    first = _object(errors[0]) if isinstance(errors, list) and errors else {}
    files = (body.get("output_file_id"), body.get("error_file_id"))
    return BatchStatus(
        id=str(body["id"]),
        state=str(body.get("status") or ""),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        files=tuple(file for file in files if isinstance(file, str) and file),
        problem=str(first.get("message") or ""),
        code=str(first.get("code") or ""),
        tag=str(_object(body.get("metadata")).get(TAG) or ""),
    )


def read_replies(content: bytes) -> Iterator[tuple[str, BatchReply]]:
    """The replies in a file, each with the id of its line.

    Raises:
        ValueError: a line is none of a batch.
    """
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            said = orjson.loads(line)
            if not isinstance(said, dict) or not isinstance(said.get("custom_id"), str):
                raise ValueError(f"line {number} is none of a batch")
            yield said["custom_id"], _reply(said)


def missing_reply(status: BatchStatus) -> BatchReply:
    """What to take for the reply of a line that no file has."""
    if status.problem or status.state == "failed":
        limited = "limit" in status.code
        words = status.problem or "the provider refused the batch and gave no reason"
        return _refusal(_LIMITED if limited else _REFUSED, words, status.code)
    if status.state in _WORDS:
        return _refusal(*_WORDS[status.state], f"batch_{status.state}")
    return _refusal(_MISSING, "the provider's batch has ended without a word on this row")


_WORDS = {
    "expired": (_EXPIRED, "the provider's batch has expired before it came to this row"),
    "cancelled": (_CANCELLED, "the provider's batch was cancelled before it came to this row"),
}


def forgotten_reply(batch_id: str) -> BatchReply:
    """What to take for the reply of every line of a batch that the provider does not know."""
    return _refusal(_MISSING, f"the provider does not know its batch {batch_id} any more")


def _reply(said: Json) -> BatchReply:
    response, error = _object(said.get("response")), _object(said.get("error"))
    body, status = response.get("body"), response.get("status_code")
    if isinstance(body, dict) and isinstance(status, int):
        return BatchReply(status=status, body=orjson.dumps(body))
    code = str(error.get("code") or "")
    words = str(error.get("message") or "the provider gave no reason")
    return _refusal(_BY_CODE.get(code, _MISSING), words, code)


_BY_CODE = {"batch_expired": _EXPIRED, "batch_cancelled": _CANCELLED}


def _refusal(status: int, message: str, code: str = "") -> BatchReply:
    error = {"message": message, "type": "batch_error", "code": code or None}
    return BatchReply(status=status, body=orjson.dumps({"error": error}))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
