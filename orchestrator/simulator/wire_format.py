"""What a wire format must be able to do: read a request, say an answer, refuse in its own words."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.ask import (
    Allowance,
    Answer,
    Ask,
    BadAsk,
    ErrorKind,
    Headers,
    Refusal,
    Wrong,
)
from orchestrator.simulator.reply import Event


class WireFormat(ABC):
    """One provider's protocol. Stateless: the same arguments give the same bytes."""

    provider: ClassVar[LLMProvider]
    errors_as_streams: ClassVar[bool] = False  # a refused stream's error is called a stream
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    plain_type: ClassVar[str] = "application/json"
    comment: ClassVar[bytes] = b": keep-alive\n\n"
    line_end: ClassVar[bytes] = b"\n"

    @abstractmethod
    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        """Understand a request. `path` holds what the address says: model, stream, version.

        Raises:
            BadAsk: the provider would refuse it.
        """

    @abstractmethod
    def plain(self, ask: Ask, answer: Answer) -> bytes:
        """The body of a plain answer."""

    @abstractmethod
    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        """The events of a streamed answer, terminal ones included."""

    @abstractmethod
    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """One event that carries this much text."""

    @abstractmethod
    def refuse(self, wrong: Wrong) -> Refusal:
        """An error's status and body."""

    @abstractmethod
    def error_event(self, kind: ErrorKind) -> bytes:
        """An error in the middle of a stream whose status was 200."""

    @abstractmethod
    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        """The body of a list of models."""

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        """The provider's own headers of an answer."""
        return ()

    def limit_headers(self, allowance: Allowance) -> Headers:
        """The provider's own headers of a 429."""
        return ()


def event(data: Mapping[str, Any], *, name: str = "", padding: bytes = b"") -> bytes:
    """A server-sent event."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + orjson.dumps(data) + padding + b"\n\n"


DONE = Event("done", b"data: [DONE]\n\n")


def take(body: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is there and not null."""
    return next((body[name] for name in names if body.get(name) is not None), None)


def number(body: Mapping[str, Any], *names: str, low: float, high: float) -> float | None:
    """A number within its bounds, or None when it is not there."""
    value = take(body, *names)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAsk(f"Invalid type for '{names[0]}': expected a number.", param=names[0])
    if not low <= value <= high:
        raise BadAsk(
            f"Invalid value for '{names[0]}': expected a number between {low:g} and {high:g}, "
            f"got {value} instead.",
            param=names[0],
        )
    return float(value)


def count(body: Mapping[str, Any], *names: str) -> int | None:
    """A whole number of at least one."""
    value = number(body, *names, low=1, high=10**9)
    return None if value is None else int(value)


def integer(body: Mapping[str, Any], *names: str) -> int | None:
    """Any whole number."""
    value = number(body, *names, low=-(2**63), high=2**63)
    return None if value is None else int(value)


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """This, which must be an object; nothing becomes an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadAsk(f"Invalid type for '{name}': expected an object.", param=name)
    return value


def sequence(value: Any, name: str) -> Sequence[Any]:
    """This, which must be an array; nothing becomes an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadAsk(f"Invalid type for '{name}': expected an array.", param=name)
    return value


def strings(value: Any, name: str) -> tuple[str, ...]:
    """One string or several."""
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else sequence(value, name)
    if not all(isinstance(one, str) for one in found):
        raise BadAsk(f"Invalid type for '{name}': expected strings.", param=name)
    return tuple(found)


def text_of(content: Any, name: str) -> tuple[str, int]:
    """The text of a message's content and how many images it holds."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    texts, images = [], 0
    for part in sequence(content, name):
        part = {"type": "text", "text": part} if isinstance(part, str) else mapping(part, name)
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") in ("image", "image_url", "input_image"):
            images += 1
        elif "content" in part:  # a tool's result
            inner, more = text_of(part["content"], name)
            texts.append(inner)
            images += more
        elif "document" in part:
            texts.append(orjson.dumps(part["document"]).decode())
    return "\n".join(texts), images


def refuse_unknown(body: Mapping[str, Any], known: Collection[str], words: str) -> None:
    """Raise `BadAsk` for the first field that is not known; `words` has a `{}` for it."""
    for name in body:
        if name not in known:
            raise BadAsk(words.format(name), param=name)
