"""Server-sent events: the pieces of a reply as they come, and what keeps it alive meanwhile."""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from orchestrator.clock import Clock
from orchestrator.endpoints.calls import Reply, Service, fault
from orchestrator.events import Event
from orchestrator.wire.errors import Fault
from orchestrator.wire.writing import dump

STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
HEARTBEAT = b": working\n\n"
DONE = b"data: [DONE]\n\n"
MOST_TOGETHER = 64  # pieces that wait to be written; then whoever writes them waits
BEGINS_S = 1.0  # a stream with nothing to say yet begins all the same, with a heartbeat


def data(value: Any) -> bytes:
    """A server-sent event that has no name."""
    return b"data: " + dump(value) + b"\n\n"


def named(name: str, json: bytes) -> bytes:
    """A server-sent event of this name, its data written already."""
    return b"event: " + name.encode() + b"\ndata: " + json + b"\n\n"


def _as_data(told: Fault) -> bytes:
    return data(told.body)


async def streamed(
    service: Service,
    pieces: AsyncGenerator[bytes, None],
    *,
    headers: Mapping[str, str] | None = None,
    failure: Callable[[Fault], bytes] = _as_data,
) -> Reply:
    """A reply that begins with its first piece, or with a heartbeat if that takes long.

    Args:
        service: How often a heartbeat is due.
        pieces: The events. An error before the first of them is raised, and can have a status of
            its own; one after it is an event.
        headers: What the reply says beside its content type.
        failure: Such an error as an event.
    """
    reader = _Reader(pieces)
    try:
        begun = await reader.take(service.clock, BEGINS_S)
    except BaseException:
        await reader.aclose()
        raise
    body = _alive(service, reader, HEARTBEAT if begun is None else begun, failure)
    await anext(body)  # from here on closing it ends the run, be it read or not
    return Reply(headers={**STREAM, **(headers or {})}, body=body)


async def _alive(
    service: Service, reader: "_Reader", begun: bytes, failure: Callable[[Fault], bytes]
) -> AsyncGenerator[bytes, None]:
    """The pieces, a comment wherever there is none for long, and an error as an event.

    Before all that it stops once, for nobody: a generator that was not begun is not closed either.
    """
    try:
        yield b""
        yield begun
        while not reader.is_over:
            piece = await reader.take(service.clock, service.heartbeat_s)
            if piece != b"":  # as it is at the very end
                yield HEARTBEAT if piece is None else piece
    except Exception as error:  # noqa: BLE001 - the reply has begun: it is told in the stream
        yield failure(fault(error))
    finally:
        await reader.aclose()


class _Reader:
    """Reads pieces in a task of its own: to stop waiting for one does not end what writes them.

    What has come together is taken together, in one write.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._read: list[bytes] = []
        self._news: Future[None] = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        try:
            async for piece in self._pieces:
                self._read.append(piece)
                self._tell()
                if len(self._read) >= MOST_TOGETHER:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._tell()

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    @property
    def is_over(self) -> bool:
        """Whether everything was taken, and nothing was wrong with it."""
        return self._task.done() and not self._read and self._task.exception() is None

    async def take(self, clock: Clock, limit_s: float) -> bytes | None:
        """What has been read by now or will be first; None if nothing comes within the limit.

        At the end, where nothing is left, that is no bytes.

        Raises:
            Exception: what reading has ended with, once everything was taken.
        """
        if not await clock.first_done({self._news}, limit_s):
            return None
        if not self._read:
            await self._task  # it is at its end
        taken = b"".join(self._read)
        self._read.clear()
        self._room.set()
        if not self._task.done():
            self._news = asyncio.get_running_loop().create_future()
        return taken

    async def aclose(self) -> None:
        """Stop reading, and end what writes."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # told, or nobody is left to be told
        await self._pieces.aclose()


async def merged(
    streams: Sequence[AsyncGenerator[Event, None]],
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several runs as they come, each with the number of its run."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    coming = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                index = coming.pop(one)
                try:
                    event = one.result()
                except StopAsyncIteration:
                    continue
                yield index, event
                coming[asyncio.ensure_future(anext(streams[index]))] = index
    finally:
        for one in coming:
            one.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
