"""What a request passes before the engine hears of it: its address, its size, its key.

A plain ASGI application around another one, so that nothing reaches a route that was not let in.
Which paths are open to everybody is a table; everything else needs a key where there are any.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl

from orchestrator.clock import Clock, new_nonce
from orchestrator.config import ServerConfig
from orchestrator.endpoints import broken_off, refused, serves
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.endpoints.messages import speaks_anthropic
from orchestrator.garbage import rest
from orchestrator.redaction import PRESENTED
from orchestrator.server.admission import Admission, shutting_down
from orchestrator.server.idempotency import HEADER as IDEMPOTENCY_KEY
from orchestrator.server.keyed import Keyed
from orchestrator.server.keys import KeyFile, KeyRecord, KeysError
from orchestrator.server.repeats import Repeats
from orchestrator.wire.errors import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TO_ALL = frozenset(("/health", "/ready"))
HUNG_UP = 499
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_log = logging.getLogger(__name__)
_UNFIT = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and what has come of it so far.

    Attributes:
        path: As it was understood: decoded, without the query.
        request_id: The caller's own name for it, or ours.
        key_id: Whose key it came with; "" where that is nobody's.
        status: Of the reply; that of somebody who has hung up, until there is another.
        elapsed_s: How long it took.
    """

    method: str
    path: str
    request_id: str
    key_id: str = ""
    status: int = HUNG_UP
    elapsed_s: float = 0.0
    has_begun: bool = False


class Watch(Protocol):
    """Who is told of every request that has ended."""

    def ended(self, exchange: Exchange) -> None: ...


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
        endpoints: The engine, within the limits of keys.
        config: How large and how long.
        admission: How many.
        hosts: Under which names the server may be asked; none: any.
        keys: Whose keys are let in; None: everybody is.
        is_open: Whether everybody is let in as long as no key was ever made.
        repeats: Replies that may be given again.
        watch: Are told of every request that has ended.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        inner: App,
        endpoints: Keyed,
        config: ServerConfig,
        *,
        admission: Admission,
        hosts: frozenset[str],
        keys: KeyFile | None,
        is_open: bool = False,
        repeats: Repeats,
        watch: Sequence[Watch],
        clock: Clock,
    ) -> None:
        self._inner = inner
        self._endpoints = endpoints
        self._config = config
        self.admission = admission
        self._hosts = hosts
        self._keys = keys
        self._is_open = is_open
        self._watch = watch
        self._clock = clock
        self._repeats = repeats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)  # its lifespan; it has no sockets
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        exchange = Exchange(
            method=scope["method"],
            path=scope["path"],
            request_id=_request_id(headers.get("x-request-id", "")),
        )
        began_s = self._clock.monotonic()
        try:
            await self._serve(exchange, scope, headers, receive, _told(exchange, send))
        except Gone:
            exchange.status = HUNG_UP
        finally:
            exchange.elapsed_s = self._clock.monotonic() - began_s
            for watch in self._watch:
                watch.ended(exchange)

    async def _serve(
        self,
        exchange: Exchange,
        scope: Scope,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            self._check(scope, headers)
            if exchange.path in OPEN_TO_ALL:
                await self._inner(scope, receive, send)
                return
            caller = self._caller(headers)
            exchange.key_id = caller.key.id if caller.key else ""
            with self.admission.request():
                if serves(exchange.path):
                    await self._answer(scope, headers, caller, receive, send)
                else:
                    await self._inner(scope, receive, send)
            if not self.admission.in_flight:
                rest()
        except Gone:
            raise
        except Exception as error:
            if exchange.has_begun:
                raise
            await self._send(exchange.path, refused(exchange.path, error), receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > (
            self._config.header_kb * 1024
        ):
            raise Refused("The headers are too large", status=431, code="headers_too_large")
        if self._hosts and _name(headers.get("host", "")) not in self._hosts:
            raise Refused(
                "This server is not asked under that name; `server.hosts` lists its names",
                status=421,
                code="unknown_host",
            )

    def _caller(self, headers: dict[str, str]) -> Caller:
        """Who asks.

        Raises:
            Refused: nobody whom a key was given; always in the same words.
        """
        if self._keys is None:
            return Caller()
        try:
            if self._is_open and not self._keys.list():
                return Caller()
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            is_bearer = scheme.lower() == "bearer"
            presented = bearer.strip() if is_bearer else headers.get("x-api-key", "")
            PRESENTED.set(presented)
            record = self._keys.find(presented)
        except KeysError as error:
            _log.error("nobody can be let in: %s", error)
            raise Refused(
                "The gateway cannot read its keys; its log says more",
                status=503,
                kind="server_error",
                code="keys_unavailable",
            ) from error
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
            Refused: it is too large, comes too slowly, or is not what can be read; or the server
                ends.
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
            async with asyncio.timeout(self._config.read_s) as waiting:
                with self.admission.cuttable(partial(waiting.reschedule, 0)):
                    return await _read(receive, limit, self._config.body_mb)
        except TimeoutError:
            if self.admission.is_cut:
                raise shutting_down() from None
            raise Refused(
                f"The body did not come within {self._config.read_s:g} s",
                status=408,
                code="request_timeout",
            ) from None

    async def _answer(
        self,
        scope: Scope,
        headers: dict[str, str],
        caller: Caller,
        receive: Receive,
        send: Send,
    ) -> None:
        """Ask the engine; whoever hangs up meanwhile ends the run.

        Raises:
            Gone: that has happened.
            Refused: the body cannot be read, or the server ends before there is a reply.
        """
        body = await self._body(scope["method"], headers, receive)
        asked = None
        if not scope["query_string"] and IDEMPOTENCY_KEY not in headers:
            asked = self._repeats.asked(scope["path"], body, caller.key)
        if asked is not None and (repeated := self._repeats.find(asked)) is not None:
            await self._send(scope["path"], repeated, receive, send)
            return
        call = Call(
            method=scope["method"],
            path=scope["path"],
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"))),
            headers=headers,
            body=body,
            tenant=caller.tenant,
            key_id=caller.key.id if caller.key else "",
            may_ask=caller.may_ask,
        )
        answering = asyncio.ensure_future(self._endpoints.answer(call, caller.key))
        await self._while_there(answering, receive)
        reply = answering.result()
        if asked is not None:
            self._repeats.keep(asked, reply)
        await self._send(call.path, reply, receive, send)

    async def _send(self, path: str, reply: Reply, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), _fit(value)) for name, value in reply.headers.items()]
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        if isinstance(reply.body, bytes):
            headers.append((b"content-length", b"%d" % len(reply.body)))
            await send(start)
            await send({"type": "http.response.body", "body": reply.body})
            return
        try:
            await send(start)
            writing = asyncio.ensure_future(_write(reply.body, send))
            await self._while_there(writing, receive)
            with suppress(OSError):  # the line broke while something was written
                writing.result()
        except Refused as error:
            piece = broken_off(path, error)
            await send({"type": "http.response.body", "body": piece})
        finally:
            await reply.body.aclose()

    async def _while_there(self, working: "asyncio.Future[Any]", receive: Receive) -> None:
        """Wait for some work, as long as somebody waits for what comes of it.

        Raises:
            Gone: nobody does; the work was ended.
            Refused: the server is to end, and the work was ended.
        """
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            with self.admission.cuttable(working.cancel):
                await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Gone
            if working.cancelled():
                raise shutting_down()
        finally:
            await _end(working, gone)


# Where clients look for the name of a request; whether they are Anthropic's.
_NAME_HEADERS: Mapping[bool, tuple[bytes, ...]] = {
    False: (b"x-request-id",),
    True: (b"x-request-id", b"request-id"),
}


def _told(exchange: Exchange, send: Send) -> Send:
    """The same `send`, which keeps what becomes of a request and gives the reply its name."""
    name = exchange.request_id.encode()
    named = [(header, name) for header in _NAME_HEADERS[speaks_anthropic(exchange.path)]]

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status, exchange.has_begun = message["status"], True
            message = {**message, "headers": [*message["headers"], *named]}
        await send(message)

    return told


async def _write(pieces: AsyncGenerator[bytes, None], send: Send) -> None:
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


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


def _name(host: str) -> str:
    """The name in a `host` header, without its port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).lower()


def _fit(value: str) -> bytes:
    """What can stand in a header: no end of a line above all."""
    return _UNFIT.sub("?", value).encode("latin-1")


def _request_id(given: str) -> str:
    """The caller's own name for a request, where it can stand in a header and a log."""
    is_fit = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if is_fit else f"req_{new_nonce()}"
