"""A provider that tells everybody the secrets it was sent, in every place that it can think of."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

SENTENCE = "Databases keep an index beside the rows so that a read need not look at every one. "


class Echoing:
    """Answers in the way that the model's name asks for: `m-<place>`.

    Attributes:
        port: Where it listens.
        seen: Everything it was sent, for tests that want to know whether the secrets came.
    """

    def __init__(self) -> None:
        self.port = 0
        self.seen = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            raw = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            sent = [lines[0], *raw.values()]
            self.seen += " ".join(sent) + "\n"
            model = lines[0] if "/models/" in lines[0] else str(json.loads(body).get("model"))
            writer.write(reply(place_in(model), told(sent)))
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def place_in(model: str) -> str:
    """Where the model's name wants the echo."""
    return next((place for place in PLACES if f"m-{place}" in model), "")


def told(sent: list[str]) -> str:
    """What came, as it stands and in the usual disguises."""
    texts = [part for text in sent for part in text.split()]
    texts += [decoded for text in texts if (decoded := from_base64(text))]
    forms: tuple[Callable[[str], str], ...] = (
        str,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: quote(text, safe=""),
        lambda text: text[len(text) // 3 :],
        str.upper,
        lambda text: text.encode().hex(),
    )
    return " ".join(form(text) for text in texts if len(text) > 7 for form in forms)


def from_base64(text: str) -> str:
    """What basic authentication holds."""
    with suppress(ValueError):
        return base64.b64decode(text, validate=True).decode()
    return ""


def error(status: int) -> Callable[[str], bytes]:
    """An error that quotes, in the shape of most providers; the others read it too."""

    def of(echo: str) -> bytes:
        said = {"message": f"Wrong: {echo}", "type": "invalid", "code": "invalid", "param": None}
        return http(status, json.dumps({"error": said, "message": f"Wrong: {echo}"}))

    return of


def http(
    status: int,
    body: str,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    given = {"content-type": kind, "connection": "close", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    content = body.encode()
    head = f"HTTP/1.1 {status} No\r\n{lines}content-length: {len(content)}\r\n\r\n"
    return head.encode("latin-1", "replace") + content


def stream(*events: str) -> bytes:
    return http(200, "".join(f"data: {event}\n\n" for event in events), "text/event-stream")


def piece(**about: Any) -> str:
    """The beginning of a stream in OpenAI's shape, which is nonsense in the others."""
    delta = {"delta": {"content": SENTENCE}, "index": 0, "finish_reason": None}
    return json.dumps({"id": "1", "object": "chat.completion.chunk", "choices": [delta], **about})


def answered(model: str = "m", finish: str = "stop") -> str:
    """A whole answer that every reader of ours understands in part."""
    message = {"role": "assistant", "content": SENTENCE}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "modelVersion": model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29},
        }
    )


PLACES: Mapping[str, Callable[[str], bytes]] = {
    **{f"error{status}": error(status) for status in (400, 401, 403, 404, 429, 500, 503)},
    "page": lambda echo: http(502, f"<html><body>{echo}</body></html>", "text/html"),
    "text": lambda echo: http(400, echo, "text/plain"),
    "redirect": lambda echo: http(
        302, "", headers={"location": f"http://127.0.0.1:9/?key={quote(echo[:900])}"}
    ),
    "header": lambda echo: http(
        429, "{}", headers={"retry-after": echo[:900], "x-request-id": echo[:900]}
    ),
    "json": lambda echo: http(200, '{"choices": [{"message": ' + json.dumps(echo)),
    "shape": lambda echo: http(200, json.dumps({"choices": echo, "content": echo, "id": echo})),
    "model": lambda echo: http(200, answered(model=echo)),
    "finish": lambda echo: http(200, answered(finish=echo)),
    "failed": lambda echo: http(
        200, answered(finish="error")[:-1] + f', "error": "{echo[:900]}"}}'
    ),
    "event": lambda echo: stream(piece(), json.dumps({"error": {"message": echo, "code": 500}})),
    "broken": lambda echo: stream(piece(), '{"choices": [' + json.dumps(echo)),
    "naming": lambda echo: stream(piece(model=echo), piece(id=echo), "[DONE]"),
    "nonsense": lambda echo: stream(json.dumps({"type": echo, "event": echo}), echo),
}


def reply(place: str, echo: str) -> bytes:
    return PLACES[place](echo) if place else error(404)(echo)
