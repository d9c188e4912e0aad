"""What a request passes before the engine hears of it: its address, its size, its key.

A plain ASGI application around another one, so that nothing reaches a route that was not let in.
Which paths are open to everybody is a table; everything else needs a key where there are any.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from orchestrator.clock import Clock, new_nonce
from orchestrator.config import ServerConfig
from orchestrator.endpoints import Endpoints, refused, serves
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server.keys import KeyFile, KeyRecord
from orchestrator.wire.errors import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TO_ALL = frozenset(("/health", "/ready"))
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_log = logging.getLogger(__name__)


class Watch(Protocol):
    """Who is told of every request that has ended."""

    def ended(self, *, method: str, path: str, status: int, elapsed_s: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. Without keys that is nobody in particular."""

    tenant: str = ""
    key: KeyRecord | None = None

    def may_ask(self, model: str) -> bool:
        """Whether this caller may ask for a model of that name."""
        return self.key is None or self.key.may_ask(model)


class Gone(Exception):
    """Whoever asked has hung up."""


class Gate:
    """Lets requests in, and takes replies out.

    Args:
        inner: Serves what is not an endpoint of the engine: pages, metrics.
        endpoints: The engine.
        config: How large and how many.
        hosts: Under which names the server may be asked; none: any.
        keys: Whose keys are let in; None: everybody is.
        watch: Is told of every request that has ended.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        inner: App,
        endpoints: Endpoints,
        config: ServerConfig,
        *,
        hosts: frozenset[str],
        keys: KeyFile | None,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._inner = inner
        self._endpoints = endpoints
        self._config = config
        self._hosts = hosts
        self._keys = keys
        self._watch = watch
        self._clock = clock
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)  # its lifespan; it has no sockets
            return
        began_s, status = self._clock.monotonic(), 499
        self.in_flight += 1

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._serve(scope, receive, told)
        except Gone:
            pass
        finally:
            self.in_flight -= 1
            self._watch.ended(
                method=scope["method"],
                path=scope["path"],
                status=status,
                elapsed_s=self._clock.monotonic() - began_s,
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        request_id = _request_id(headers.get("x-request-id", ""))
        try:
            self._check(scope, headers)
            caller = self._caller(scope["path"], headers)
            if not serves(scope["path"]):
                await self._inner(scope, receive, send)
                return
            body = await self._body(scope["method"], headers, receive)
            reply = await self._answer(scope, headers, body, caller, receive)
        except Refused as error:
            reply = refused(scope["path"], error)
        await _send(reply, request_id, receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > (
            self._config.header_kb * 1024
        ):
            raise Refused("The headers are too large", status=431, code="headers_too_large")
        host = headers.get("host", "").rpartition("@")[2]
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts and name.lower() not in self._hosts:
            raise Refused(
                "This server is not asked under that name; `server.hosts` lists its names",
                status=421,
                code="unknown_host",
            )
        if self.in_flight > self._config.requests:
            raise Refused(
                "Too many requests are being answered; try again in a second",
                status=503,
                kind="server_error",
                code="overloaded",
                headers={"retry-after": "1"},
            )

    def _caller(self, path: str, headers: dict[str, str]) -> Caller:
        """Who asks.

        Raises:
            Refused: nobody whom a key was given; always in the same words.
        """
        if self._keys is None or path in OPEN_TO_ALL:
            return Caller()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        presented = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        record = self._keys.find(presented)
        if record is None:
            raise Refused(
                "No such key; send one that `orchestrator keys create` has made, as "
                "'Authorization: Bearer ...'",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return Caller(tenant=record.tenant, key=record)

    async def _body(self, method: str, headers: dict[str, str], receive: Receive) -> bytes:
        """All of it.

        Raises:
            Refused: it is too large, comes too slowly, or is not what can be read.
            Gone: whoever sends it has hung up.
        """
        if method in BODILESS:
            return b""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("Send the body as it is", status=415, code="unsupported_encoding")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(
                "The body must be JSON: content-type: application/json",
                status=415,
                code="unsupported_media_type",
            )
        limit = self._config.body_mb * 2**20
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise _too_large(self._config.body_mb)
        try:
            async with asyncio.timeout(self._config.read_s):
                return await _read(receive, limit, self._config.body_mb)
        except TimeoutError:
            raise Refused(
                f"The body did not come within {self._config.read_s:g} s",
                status=408,
                code="request_timeout",
            ) from None

    async def _answer(
        self,
        scope: Scope,
        headers: dict[str, str],
        body: bytes,
        caller: Caller,
        receive: Receive,
    ) -> Reply:
        """The reply; whoever hangs up meanwhile ends the run.

        Raises:
            Gone: that has happened.
        """
        call = Call(
            method=scope["method"],
            path=scope["path"],
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"))),
            headers=headers,
            body=body,
            tenant=caller.tenant,
            may_ask=caller.may_ask,
        )
        answering = asyncio.ensure_future(self._endpoints.answer(call))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Gone
            return answering.result()
        finally:
            await _end(answering, gone)


async def _send(reply: Reply, request_id: str, receive: Receive, send: Send) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers.items()]
    headers.append((b"x-request-id", request_id.encode()))
    is_whole = isinstance(reply.body, bytes)
    if isinstance(reply.body, bytes):
        headers.append((b"content-length", str(len(reply.body)).encode()))
    start = {"type": "http.response.start", "status": reply.status, "headers": headers}
    if is_whole:
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})
        return
    assert not isinstance(reply.body, bytes)
    pieces = reply.body

    async def write() -> None:
        await send(start)
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    writing = asyncio.ensure_future(write())
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            raise Gone
        with suppress(OSError):  # the line broke while something was written
            writing.result()
    finally:
        await _end(writing, gone)
        await pieces.aclose()


async def _read(receive: Receive, limit: int, limit_mb: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit_mb)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit_mb: int) -> Refused:
    return Refused(
        f"The body is larger than {limit_mb} MB; `server.body_mb` says how large it may be",
        status=413,
        code="body_too_large",
    )


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel what still runs, and wait until it has ended."""
    running = {task for task in tasks if not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _request_id(given: str) -> str:
    """The caller's own name for a request, where it can stand in a header and a log."""
    is_fit = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if is_fit else f"req_{new_nonce()}"
