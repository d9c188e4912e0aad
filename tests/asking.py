"""An ASGI application asked in process, without a socket or a client that would mend a request."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

JSON_KIND: Mapping[str, str] = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A reply as it was sent.

    Attributes:
        headers: By lower-case names, as they were given.
        body: All of it, a stream's pieces joined.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def whole(self) -> str:
        """Status, headers and body as one text, to be searched."""
        lines = [f"{name}: {value}" for name, value in self.headers]
        return "\n".join((str(self.status), *lines, self.body.decode("utf-8", "replace")))


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
) -> Said:
    """What an application says; whoever asks stays to the end.

    The path is taken as it stands, with its query: nothing is quoted or put in order.
    """
    given = headers.items() if isinstance(headers, Mapping) else headers
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": target,
        "query_string": query.encode("latin-1", "replace"),
        "headers": [
            (b"host", b"localhost"),
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in given),
        ],
    }
    sent: list[Any] = []
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if left:
            return left.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    return Said(
        status=start["status"],
        headers=tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in start["headers"]),
        body=b"".join(message["body"] for message in sent[1:]),
    )
