"""OpenAI's files and batches: lines in, a few looks later what came of them. No clock."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.ask import Wrong
from orchestrator.simulator.directives import Plan, UnknownDirective, parse_directives
from orchestrator.simulator.http import Request
from orchestrator.simulator.replies import refusal_reply
from orchestrator.simulator.reply import Event, Reply
from orchestrator.simulator.routes import FORMATS, key_of

CHAT = "/v1/chat/completions"
CREATED = 1_767_225_600  # as good as any moment
POLLS = 3  # looks at a batch until it is over, where nobody says
UNDER_WAY = ("validating", "in_progress", "finalizing")
_PLACE = re.compile(
    r"(?P<base>(?:/~(?P<directives>[^/]+))?(?:/(?P<provider>openai|custom))?(?:/v1)?)"
    r"/(?P<kind>files|batches)(?:/(?P<id>[^/]+)(?:/(?P<what>content|cancel))?)?"
)


@dataclass(slots=True)
class SimulatedBatch:
    """One batch.

    Attributes:
        id: Its name.
        base: Where its lines go: the beginning of the address it was submitted at.
        provider: Whose that is, as far as the address says it.
        input_id: The file that its lines came in.
        lines: Its lines as they came.
        plan: How it is treated.
        metadata: What its owner wrote on it.
        looks: How often somebody has looked at it.
        state: Where it is.
        problem: Why it has failed as a whole.
        answered: The lines of its files: answers, and errors.
    """

    id: str
    base: str
    provider: str | None
    input_id: str
    lines: list[dict[str, Any]]
    plan: Plan
    metadata: Mapping[str, Any]
    looks: int = 0
    state: str = "validating"
    problem: str = ""
    answered: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.state not in UNDER_WAY


class Batches:
    """Everything that was uploaded and submitted.

    Args:
        answer: What a single request comes to.

    Attributes:
        all: The batches, the oldest first.
    """

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.all: list[SimulatedBatch] = []
        self._answer = answer
        self._files: dict[str, bytes] = {}

    def of(self, request: Request) -> tuple[LLMProvider, Reply] | None:
        """What a request for files or batches comes to; None for any other."""
        place = _PLACE.fullmatch(request.target)
        if place is None:
            return None
        provider = LLMProvider(place["provider"] or "openai")
        wire = FORMATS[provider]
        if not key_of(provider, request.headers, request.query):
            return provider, refusal_reply(wire, Wrong(kind="auth"))
        do = _ACTIONS.get((request.method, place["kind"], bool(place["id"]), place["what"] or ""))
        try:
            found = None if do is None else do(self, request, place)
        except (UnknownDirective, ValueError, KeyError, TypeError) as error:
            wrong = Wrong(kind="bad_request", message=f"Invalid request: {error}")
            return provider, refusal_reply(wire, wrong)
        if found is None:
            words = f"No such {place['kind']} object: {request.method} {request.target}."
            return provider, refusal_reply(wire, Wrong(kind="not_found", message=words))
        if isinstance(found, bytes):
            kind = "application/octet-stream"
            return provider, Reply(content_type=kind, events=(Event("body", found),))
        return provider, Reply(events=(Event("body", orjson.dumps(found)),))

    def upload(self, request: Request, place: re.Match[str]) -> dict[str, Any]:
        """Keep a file."""
        content = _file_in(request)
        file_id = self._keep(content)
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": CREATED,
            "filename": "batch.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def content(self, request: Request, place: re.Match[str]) -> bytes | None:
        """What is in a file."""
        return self._files.get(place["id"])

    def submit(self, request: Request, place: re.Match[str]) -> dict[str, Any]:
        """Begin a batch."""
        asked = orjson.loads(request.body)
        content = self._files.get(asked["input_file_id"])
        if content is None or asked["endpoint"] != CHAT or asked["completion_window"] != "24h":
            raise ValueError("input_file_id, endpoint or completion_window")
        batch = SimulatedBatch(
            id=f"batch_{len(self.all):06d}",
            base=place["base"],
            provider=place["provider"],
            input_id=asked["input_file_id"],
            lines=[orjson.loads(line) for line in content.splitlines()],
            plan=parse_directives((place["directives"] or "").split("~")),
            metadata=asked.get("metadata") or {},
        )
        batch.problem = _refused(batch)
        self.all.append(batch)
        return _told(batch)

    def look(self, request: Request, place: re.Match[str]) -> dict[str, Any] | None:
        """How a batch is getting on; every look brings it further."""
        batch = next((one for one in self.all if one.id == place["id"]), None)
        if batch is None:
            return None
        batch.looks += 1
        if not batch.is_over:
            self._go_on(batch, request)
        return _told(batch, self._result(batch))

    def _go_on(self, batch: SimulatedBatch, request: Request) -> None:
        if batch.problem:
            batch.state = "failed"
            return
        looks_left = (batch.plan.polls or POLLS) - batch.looks
        if batch.plan.batch == "stays" or looks_left > 1:
            batch.state = "in_progress"
        elif looks_left == 1:
            batch.state = "finalizing"
        else:
            self._end(batch, request, "expired" if batch.plan.batch == "expires" else "completed")

    def _end(self, batch: SimulatedBatch, request: Request, state: str) -> None:
        """Answer its lines: all of them, or every other one where time was short."""
        batch.state = state
        for number, line in enumerate(batch.lines):
            if state == "completed" or (state == "expired" and number % 2 == 0):
                self._answer_line(batch, request, line)
            else:
                message = "This request could not be executed before the completion window expired."
                error = {"code": f"batch_{state}", "message": message}
                batch.refused.append(_line(line, number, None, error))

    def _answer_line(
        self, batch: SimulatedBatch, request: Request, line: Mapping[str, Any]
    ) -> None:
        body = orjson.dumps(line["body"])
        target = batch.base.removesuffix("/v1") + CHAT
        asked = replace(request, method="POST", target=target, body=body)
        reply = self._answer(asked)
        response = {
            "status_code": reply.status,
            "request_id": f"req_{_digest(body)}",
            "body": orjson.loads(reply.body),
        }
        lines = batch.answered if reply.status == 200 else batch.refused
        lines.append(_line(line, len(lines), response, None))

    def cancel(self, request: Request, place: re.Match[str]) -> dict[str, Any] | None:
        """Have no more of its lines answered."""
        batch = next((one for one in self.all if one.id == place["id"]), None)
        if batch is None:
            return None
        if not batch.is_over:
            self._end(batch, request, "cancelled")
        return _told(batch, self._result(batch))

    def listing(self, request: Request, place: re.Match[str]) -> dict[str, Any]:
        """The batches of a provider, the newest first."""
        newest = [one for one in reversed(self.all) if one.provider == place["provider"]]
        ids = [one.id for one in newest]
        after = request.query.get("after")
        first = ids.index(after) + 1 if after in ids else 0
        limit = int(request.query.get("limit", "20"))
        page = newest[first : first + limit]
        return {
            "object": "list",
            "data": [_told(one, self._result(one)) for one in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": first + limit < len(newest),
        }

    def _result(self, batch: SimulatedBatch) -> tuple[str | None, str | None]:
        """The ids of its two files; none for one with nothing in it."""
        if not batch.is_over:
            return None, None
        answered, refused = (b"".join(lines) for lines in (batch.answered, batch.refused))
        return (
            self._keep(answered) if answered else None,
            self._keep(refused) if refused else None,
        )

    def _keep(self, content: bytes) -> str:
        file_id = f"file-{_digest(content)}"
        self._files[file_id] = content
        return file_id


_Action = Callable[[Batches, Request, re.Match[str]], "dict[str, Any] | bytes | None"]
_ACTIONS: Mapping[tuple[str, str, bool, str], _Action] = {
    ("POST", "files", False, ""): Batches.upload,
    ("GET", "files", True, "content"): Batches.content,
    ("POST", "batches", False, ""): Batches.submit,
    ("GET", "batches", False, ""): Batches.listing,
    ("GET", "batches", True, ""): Batches.look,
    ("POST", "batches", True, "cancel"): Batches.cancel,
}


def _refused(batch: SimulatedBatch) -> str:
    """Why the whole batch is refused, once somebody looks."""
    if batch.plan.batch == "fails":
        return "Enqueued token limit reached for the model in organization org-simulated."
    ids = [line.get("custom_id") for line in batch.lines]
    if len(set(ids)) < len(ids) or not all(isinstance(one, str) for one in ids):
        return "The custom_id of a line is missing, or that of another."
    if any(line.get("url") != CHAT or line.get("method") != "POST" for line in batch.lines):
        return "The url or the method of a line is not that of the batch."
    if len({line["body"].get("model") for line in batch.lines}) > 1:
        return "The lines of a batch are to be of one model."
    return "" if batch.lines else "The file is empty."


def _told(
    batch: SimulatedBatch, files: tuple[str | None, str | None] = (None, None)
) -> dict[str, Any]:
    code = "token_limit_exceeded" if batch.plan.batch == "fails" else "invalid_request"
    error = {"code": code, "message": batch.problem, "param": None, "line": None}
    has_failed = batch.state == "failed"
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": CHAT,
        "errors": {"object": "list", "data": [error]} if has_failed else None,
        "input_file_id": batch.input_id,
        "completion_window": "24h",
        "status": batch.state,
        "output_file_id": files[0],
        "error_file_id": files[1],
        "created_at": CREATED,
        "expires_at": CREATED + 86_400,
        "request_counts": {
            "total": 0 if has_failed else len(batch.lines),
            "completed": len(batch.answered),
            "failed": len(batch.refused),
        },
        "metadata": dict(batch.metadata),
    }


def _line(line: Mapping[str, Any], number: int, response: Any, error: Any) -> bytes:
    told = {
        "id": f"batch_req_{number}",
        "custom_id": line["custom_id"],
        "response": response,
        "error": error,
    }
    return orjson.dumps(told) + b"\n"


def _file_in(request: Request) -> bytes:
    """The file in a form of several parts (RFC 7578)."""
    _, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    if boundary:
        for part in request.body.split(b"--" + boundary.strip('"').encode()):
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                return content.removesuffix(b"\r\n")
    raise ValueError("a form with a part called 'file' was expected")


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=12).hexdigest()
