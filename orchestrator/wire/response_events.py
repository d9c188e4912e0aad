"""OpenAI's Responses API: the events of a run to those of a stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.types import Logprob, ToolCallDelta
from orchestrator.events import (
    Event,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    TextDelta,
    TextReset,
    ToolCallsDelta,
)
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire import orchestration
from orchestrator.wire.chat import Json
from orchestrator.wire.errors import Fault, Refused
from orchestrator.wire.responses import (
    CALL,
    MESSAGE,
    Asked,
    Kind,
    finished,
    in_progress,
    last_status,
    spelt,
    thinking,
    with_logprobs,
)


@dataclass(slots=True, kw_only=True)
class _Item:
    """An item of the output as it is written."""

    kind: Kind
    id: str
    place: int
    about: Json
    status: str = "in_progress"
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)

    @property
    def json(self) -> Json:
        item = self.kind.item(self.id, self.status, "".join(self.pieces), self.about)
        return with_logprobs(item, self.logprobs) if self.logprobs else item


@dataclass(slots=True)
class _Call:
    """A tool call as it comes; it is told once it is known what is called."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    item: _Item | None = None


class ResponseEvents:
    """Turns the events of a run into those of a response, numbered as they come.

    Nothing is told before there is something to tell: what fails until then is no stream.

    Args:
        asked: What the stream is to tell.
        at: When it began, seconds since 1970.
    """

    def __init__(self, asked: Asked, *, at: int) -> None:
        self._asked = asked
        self._at = at
        self._response: Json = {}  # as it began
        self._run_id = ""
        self._number = 0
        self._items: list[_Item] = []
        self._message: _Item | None = None
        self._reasoning: _Item | None = None
        self._calls: dict[int, _Call] = {}

    def of(self, event: Event) -> list[Json]:
        """What an event is to somebody who reads the stream.

        Raises:
            Refused: what was sent is withdrawn, which no stream of this kind can say.
        """
        match event:
            case RunStarted():
                self._run_id = event.run_id
                self._response = in_progress(self._asked, event.run_id, at=self._at)
                return []
            case TextDelta():
                return self._text(event)
            case ReasoningDelta():
                return self._thought(event.text)
            case ToolCallsDelta():
                return [told for piece in event.tool_calls for told in self._called(piece)]
            case TextReset():
                return self._reset()
            case RunFinished():
                return self._end(event.response)
            case _:
                return self._progress(event)

    def failed(self, fault: Fault) -> list[Json]:
        """The end of a stream that fails: the response as far as it came, and what was wrong.

        The last event is one that OpenAI's clients raise an error for.
        """
        told = self._begin() if self._response else []
        if self._response:
            for item in self._items:
                item.status = "completed" if item.status == "completed" else "incomplete"
            response = {
                **self._response,
                "status": "failed",
                "error": {"code": _response_code(fault), "message": fault.message},
                "output": [item.json for item in self._items],
            }
            told.append(self._tell("response.failed", {"response": response}))
        about = {"code": fault.code, "message": fault.message, "param": fault.param}
        return [*told, self._tell("error", {**about, **fault.body})]

    # What each event comes to.

    def _text(self, event: TextDelta) -> list[Json]:
        told: list[Json] = []
        if self._message is None:
            self._message, told = self._add(MESSAGE)
        self._message.logprobs += event.logprobs
        delta = self._delta(self._message, event.text)
        if event.logprobs:
            delta["logprobs"] = spelt(event.logprobs)
        return [*told, delta]

    def _thought(self, text: str) -> list[Json]:
        if self._reasoning is not None:
            return [self._delta(self._reasoning, text)]
        self._reasoning, told = self._add(thinking(self._asked))
        return [*told, self._delta(self._reasoning, text)]

    def _called(self, piece: ToolCallDelta) -> list[Json]:
        call = self._calls.setdefault(piece.index, _Call())
        call.id, call.name = call.id or piece.id or "", call.name or piece.name or ""
        if call.item is not None:
            return [self._delta(call.item, piece.arguments)] if piece.arguments else []
        call.pieces.append(piece.arguments)
        return self._add_call(call) if call.id and call.name else []

    def _add_call(self, call: _Call) -> list[Json]:
        call.item, told = self._add(CALL, {"call_id": call.id, "name": call.name})
        arguments = "".join(call.pieces)
        return [*told, self._delta(call.item, arguments)] if arguments else told

    def _reset(self) -> list[Json]:
        if self._message is not None or any(call.item for call in self._calls.values()):
            raise Refused(
                "The writer of the answer broke off, and nobody could go on with it",
                status=502,
                kind="server_error",
                code="stream_broken",
            )
        self._calls.clear()
        return self._close_reasoning("incomplete")

    def _end(self, response: OrchestratorResponse) -> list[Json]:
        told: list[Json] = []
        for _, call in sorted(self._calls.items()):
            if call.item is None:
                told += self._add_call(call)
        if not self._items:
            told += self._add(MESSAGE)[1]
        status = last_status(response)
        for item in self._items:
            if item.status == "in_progress":
                told += self._close(item, status if item is self._items[-1] else "completed")
        whole = finished(self._asked, self._response, [item.json for item in self._items], response)
        return [*told, self._tell(f"response.{status}", {"response": whole})]

    def _progress(self, event: Event) -> list[Json]:
        told = orchestration.progress(event) if self._asked.with_progress else None
        if told is None:
            return []
        about = {"response": self._response, "orchestration": told}
        return [*self._begin(), self._tell("response.in_progress", about)]

    # How it is told.

    def _tell(self, name: str, about: Mapping[str, Any]) -> Json:
        told = {"type": name, "sequence_number": self._number, **about}
        self._number += 1
        return told

    def _begin(self) -> list[Json]:
        """The first events, unless they have been told."""
        if self._number:
            return []
        return [
            self._tell(name, {"response": self._response})
            for name in ("response.created", "response.in_progress")
        ]

    def _add(self, kind: Kind, about: Json | None = None) -> tuple[_Item, list[Json]]:
        """A new item of the output; whoever speaks has done with thinking."""
        told = [*self._begin(), *self._close_reasoning("completed")]
        place = len(self._items)
        item = _Item(
            kind=kind, id=kind.item_id(self._run_id, place), place=place, about=about or {}
        )
        self._items.append(item)
        empty = kind.item(item.id, item.status, None, item.about)
        told.append(
            self._tell("response.output_item.added", {"output_index": place, "item": empty})
        )
        if kind.part is not None:
            told.append(self._about(item, f"{kind.parts}.added", {"part": kind.part("")}))
        return item, told

    def _close_reasoning(self, status: str) -> list[Json]:
        item, self._reasoning = self._reasoning, None
        return [] if item is None else self._close(item, status)

    def _close(self, item: _Item, status: str) -> list[Json]:
        item.status = status
        kind, text = item.kind, "".join(item.pieces)
        if kind.part is None:
            ended = {kind.holds: text, "name": item.about["name"]}
            told = [self._about(item, f"{kind.deltas}.done", ended)]
        else:
            part, ended = item.json[kind.holds][0], {"text": text, **kind.beside}
            if item.logprobs:
                ended["logprobs"] = part["logprobs"]
            told = [
                self._about(item, f"{kind.deltas}.done", ended),
                self._about(item, f"{kind.parts}.done", {"part": part}),
            ]
        about = {"output_index": item.place, "item": item.json}
        return [*told, self._tell("response.output_item.done", about)]

    def _delta(self, item: _Item, text: str) -> Json:
        item.pieces.append(text)
        return self._about(item, f"{item.kind.deltas}.delta", {"delta": text, **item.kind.beside})

    def _about(self, item: _Item, name: str, about: Mapping[str, Any]) -> Json:
        """An event about what an item holds."""
        which = {item.kind.place: 0} if item.kind.place else {}
        return self._tell(name, {"item_id": item.id, "output_index": item.place, **which, **about})


def _response_code(fault: Fault) -> str:
    """OpenAI's word, of the few that a response knows, for why it failed."""
    if fault.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if fault.status < 500 else "server_error"
