"""The loopback server: reads requests, plays replies byte by byte, notices who goes away."""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.ask import Wrong
from orchestrator.simulator.batches import Batches
from orchestrator.simulator.config import SimulatorConfig
from orchestrator.simulator.faults import FAULTS
from orchestrator.simulator.http import (
    HEAD_BYTES,
    LAST_CHUNK,
    HttpError,
    Request,
    chunk,
    head_bytes,
    read_request,
)
from orchestrator.simulator.outcome import Outcome, Outcomes
from orchestrator.simulator.replies import refusal_reply
from orchestrator.simulator.reply import Event, Reply, schedule
from orchestrator.simulator.request_log import (
    PROMPT_CHARACTERS,
    RequestLog,
    RequestRecord,
    Tally,
    as_line,
)
from orchestrator.simulator.routes import BASES, find_route

CERTIFICATE = Path(__file__).with_name("localhost.pem")
TOGETHER_S = 0.001  # events due this close to each other are written at once
BEFORE_RESET_S = 0.002  # lets the client read what was sent
BUFFER_BYTES = 256 * 1024


class Simulator:
    """A provider on the loopback, for as long as the block lasts.

    >>> async def address() -> str:
    ...     async with Simulator(SimulatorConfig(seed=7)) as simulator:
    ...         return simulator.base_url(LLMProvider.OPENAI, "200ms")
    >>> asyncio.run(address()).endswith("/~200ms/openai/v1")
    True

    Attributes:
        requests: The log: a record of every finished request, the newest ones.
        arrived: How many requests have come.
        in_flight: Requests that are being answered.
        batches: What was submitted to be answered later.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.requests = RequestLog(self.config.keep_requests, self.config.log_path)
        self.arrived = 0
        self.in_flight = 0
        self._outcomes = Outcomes(self.config)
        self.batches = Batches(lambda line: self._outcomes.of(line, self.elapsed_s()).reply)
        self._started_s = time.monotonic()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._connections: set[_Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._occupied = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen. `port` is known from here on."""
        loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._server = await loop.create_server(
            lambda: _Connection(self, loop),
            self.config.host,
            self.config.port,
            ssl=_tls_context() if self.config.tls else None,
            backlog=4096,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def serve_forever(self) -> None:
        """Answer until cancelled."""
        assert self._server is not None, "start() comes first"
        await self._server.serve_forever()

    async def aclose(self) -> None:
        """Stop listening, drop every connection, close the log."""
        if self._server is not None:
            self._server.close()
        tasks = [connection.task for connection in self._connections if connection.task]
        for connection in tuple(self._connections):
            connection.drop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        self.requests.close()

    @property
    def port(self) -> int:
        assert self._port, "the simulator has not been started"
        return self._port

    def base_url(self, provider: LLMProvider, *directives: str) -> str:
        """The address to use as `api_base`; directives in it treat every request that comes."""
        scheme = "https" if self.config.tls else "http"
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        asked = f"/~{'~'.join(directives)}" if directives else ""
        return f"{scheme}://{host}:{self.port}{asked}{BASES[provider]}"

    def elapsed_s(self) -> float:
        """The time on the clock of the request log."""
        return time.monotonic() - self._started_s

    async def occupied(self) -> None:
        """Wait until a request is being answered."""
        await self._occupied.wait()

    async def settled(self) -> None:
        """Wait until no request is being answered and all are in the log."""
        await self._idle.wait()

    def render(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole body that this request would be answered with. Nothing is counted."""
        carried = {"authorization": "Bearer simulated-key", "x-goog-api-key": "simulated-key"}
        target, _, _ = path.partition("?")
        request = Request("POST", target, {}, carried | dict(headers or {}), orjson.dumps(body))
        return self._outcomes.of(request, self.elapsed_s(), peek=True).reply.body

    def outcome(self, request: Request) -> Outcome:
        """What a request comes to, now."""
        own = self._own_page(request) or self._batched(request)
        return own if own is not None else self._outcomes.of(request, self.elapsed_s())

    def _batched(self, request: Request) -> Outcome | None:
        """What has to do with files and batches."""
        found = self.batches.of(request)
        if found is None:
            return None
        provider, reply = found
        return Outcome(reply=reply, provider=provider, has_key=True)

    def tally(self, model: str | None = None) -> Tally:
        """What all requests came to that are over, or those for one model.

        What is due is the simulator's own count, to be compared with anybody's ledger: of a stream
        that broke off or was left, what had been sent; of a plain answer, all of it, received or
        not; nothing for an error. Faults in the usage do not touch it.
        """
        return self.requests.tally(model)

    def begin(self) -> int:
        """A request has arrived; its number."""
        self.in_flight += 1
        self._idle.clear()
        self._occupied.set()
        self.arrived += 1
        return self.arrived - 1

    def end(self, record: RequestRecord) -> None:
        """A request is over."""
        self.in_flight -= 1
        self.requests.add(record)
        if self.in_flight == 0:
            self._idle.set()
            self._occupied.clear()

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    def _own_page(self, request: Request) -> Outcome | None:
        """`/-/requests` and `/-/faults`: for people who look at a running simulator."""
        if request.method != "GET" or not request.target.startswith("/-/"):
            return None
        status, body = 404, b"There are /-/requests and /-/faults.\n"
        if request.target == "/-/requests":
            status, body = 200, b"".join(as_line(record) for record in self.requests)
        elif request.target == "/-/faults":
            told = {fault.name: fault.description for fault in FAULTS.values()}
            status, body = 200, orjson.dumps(told, option=orjson.OPT_INDENT_2)
        reply = Reply(status=status, events=(Event("body", body),))
        return Outcome(reply=reply, provider=LLMProvider.CUSTOM)


class _Connection(asyncio.StreamReaderProtocol):
    """One client's connection: requests one after another, and whether the client is there."""

    def __init__(self, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
        self._streams = asyncio.StreamReader(limit=HEAD_BYTES, loop=loop)
        super().__init__(self._streams, loop=loop)
        self._simulator = simulator
        self._loop = loop
        self._gone_s: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sent_bytes = 0
        self._sent_contents = 0
        self._writer: asyncio.StreamWriter
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._writer = asyncio.StreamWriter(transport, self, self._streams, self._loop)
        self._simulator.opened(self)
        self.task = self._loop.create_task(self._serve())

    def eof_received(self) -> bool | None:
        self._left()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    def _left(self) -> None:
        if self._gone_s is None:
            self._gone_s = self._simulator.elapsed_s()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _serve(self) -> None:
        try:
            while self._gone_s is None and await self._serve_one():
                pass
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._simulator.closed(self)
            self._writer.close()
            with suppress(Exception):  # whatever the socket says, it is closed now
                await self._writer.wait_closed()

    async def _serve_one(self) -> bool:
        """Answer one request; whether another may follow on this connection."""
        try:
            limit = self._simulator.config.body_bytes
            request = await read_request(self._streams, self._writer, limit)
        except HttpError as error:
            await self._refuse(error)
            return False
        if request is None:
            return False
        at_s = self._simulator.elapsed_s()
        outcome = self._simulator.outcome(request)
        index = self._simulator.begin()
        whole = False
        self._sent_bytes = self._sent_contents = 0
        try:
            whole = await self._play(outcome, request)
        except ConnectionError:
            self._left()
        finally:
            self._simulator.end(self._record(index, at_s, request, outcome, whole=whole))
        return whole and request.keeps_alive and outcome.reply.ending == "whole"

    async def _play(self, outcome: Outcome, request: Request) -> bool:
        """Send the reply; whether the client stayed for all of it."""
        reply, start_s = outcome.reply, self._loop.time()
        chunked = reply.streamed and reply.status == 200 and request.version == "HTTP/1.1"
        head = self._head(reply, request, chunked=chunked)
        times = schedule(reply, outcome.latency_s, outcome.gap_s)
        at_once = not (any(times) or outcome.latency_s or reply.flush_each)
        if at_once and reply.ending == "whole" and len(reply.events) < 1000:
            await self._write(head + _framed(reply, chunked=chunked))
            self._sent_contents = len(reply.events)
            return True
        share = 0.25 if reply.streamed else 1.0
        if not await self._pause(start_s + share * outcome.latency_s):
            return False
        await self._write(head)
        if not await self._send_events(reply, times, start_s, chunked=chunked):
            return False
        if reply.ending == "whole":
            await self._write(LAST_CHUNK if chunked else b"")
            return True
        return await self._break_off(reply)

    async def _send_events(
        self, reply: Reply, times: list[float], start_s: float, *, chunked: bool
    ) -> bool:
        pending: list[bytes] = []
        for event, due_s in zip(reply.events, times, strict=True):
            late = start_s + due_s > self._loop.time() + TOGETHER_S
            if pending and (late or reply.flush_each or len(pending) > 64):
                await self._write(b"".join(pending))
                pending.clear()
            if late or reply.flush_each:
                due_at = start_s + due_s if late else self._loop.time() + TOGETHER_S / 2
                if not await self._pause(due_at):
                    return False
            if event.data:
                pending.append(chunk(event.data) if chunked else event.data)
                self._sent_contents += event.kind == "content"
        if pending:
            await self._write(b"".join(pending))
        return self._gone_s is None

    async def _break_off(self, reply: Reply) -> bool:
        """Leave the connection as the fault wants it."""
        if reply.ending == "stall":
            return not await self._wait_for_leaving()
        stayed = await self._pause(self._loop.time() + BEFORE_RESET_S)
        transport = self._writer.transport
        if reply.ending == "reset":
            sock = transport.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            self._writer.close()
        return stayed

    def _head(self, reply: Reply, request: Request, *, chunked: bool) -> bytes:
        if reply.head == "none":
            return b""
        headers = [("content-type", reply.content_type), *reply.headers]
        if chunked:
            headers.append(("transfer-encoding", "chunked"))
        elif not reply.streamed or reply.status != 200:
            length = reply.length
            if length is None:
                length = sum(len(event.data) for event in reply.events)
            headers.append(("content-length", str(length)))
        alive = request.keeps_alive and (chunked or not reply.streamed)
        headers.append(("connection", "keep-alive" if alive else "close"))
        head = head_bytes(reply.status, headers)
        return head[: len(head) // 2] if reply.head == "half" else head

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        self._sent_bytes += len(data)
        self._writer.write(data)
        await self._writer.drain()

    async def _pause(self, until_s: float) -> bool:
        """Wait until then on the loop's clock; whether the client is still there."""
        if self._gone_s is not None:
            return False
        wait_s = until_s - self._loop.time()
        if wait_s <= 0:
            return True
        waiter = self._waiter = self._loop.create_future()
        handle = self._loop.call_later(wait_s, _set, waiter)
        try:
            await waiter
        finally:
            handle.cancel()
            self._waiter = None
        return self._gone_s is None

    async def _wait_for_leaving(self) -> bool:
        while self._gone_s is None:
            await self._pause(self._loop.time() + 3600)
        return True

    async def _refuse(self, error: HttpError) -> None:
        """The request could not even be read."""
        wire = find_route("POST", "/", "").wire
        kind = Wrong(kind="too_large" if error.status == 413 else "bad_request", message=str(error))
        reply = refusal_reply(wire, kind)
        length = ("content-length", str(len(reply.body)))
        headers = [("content-type", reply.content_type), length, ("connection", "close")]
        with suppress(ConnectionError):
            await self._write(head_bytes(error.status, headers) + reply.body)

    def _record(
        self, index: int, at_s: float, request: Request, outcome: Outcome, *, whole: bool
    ) -> RequestRecord:
        early = self._gone_s is not None and not whole
        ask = outcome.ask
        prompt, completion = outcome.tokens
        bill = outcome.bill.so_far(self._sent_contents) if outcome.bill else None
        return RequestRecord(
            index=index,
            at_s=at_s,
            elapsed_s=self._simulator.elapsed_s() - at_s,
            provider=outcome.provider.value,
            path=request.target,
            model=outcome.model,
            streamed=bool(ask and ask.streamed),
            status=outcome.reply.status if self._sent_bytes else 0,
            faults=outcome.faults,
            prompt_tokens=prompt,
            completion_tokens=completion,
            billed=bill is not None,
            billed_prompt_tokens=bill.prompt_tokens if bill else 0,
            billed_completion_tokens=bill.completion_tokens if bill else 0,
            sent_bytes=self._sent_bytes,
            has_key=outcome.has_key,
            closed_by_client=early,
            closed_early_s=self._gone_s if early else None,
            prompt=ask.question[:PROMPT_CHARACTERS] if ask else "",
        )


def _framed(reply: Reply, *, chunked: bool) -> bytes:
    if not chunked:
        return reply.body
    return b"".join([chunk(event.data) for event in reply.events if event.data]) + LAST_CHUNK


def _set(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context
