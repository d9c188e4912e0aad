"""Server-sent events: the pieces of a reply as they come, and what keeps it alive meanwhile."""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from orchestrator.endpoints.calls import Reply, Service, fault
from orchestrator.events import Event
from orchestrator.wire.errors import Fault
from orchestrator.wire.writing import dump

STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
HEARTBEAT = b": working\n\n"
DONE = b"data: [DONE]\n\n"
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
    first: Future[bytes] = asyncio.ensure_future(anext(pieces))
    try:
        await service.clock.first_done({first}, BEGINS_S)
        begun = first.result() if first.done() else None
    except BaseException:
        await _drop(first, pieces)
        raise
    body = _alive(service, pieces, None if first.done() else first, begun, failure)
    await anext(body)  # from here on closing it ends the run, be it read or not
    return Reply(headers={**STREAM, **(headers or {})}, body=body)


async def _alive(
    service: Service,
    pieces: AsyncGenerator[bytes, None],
    coming: "Future[bytes] | None",
    begun: bytes | None,
    failure: Callable[[Fault], bytes],
) -> AsyncGenerator[bytes, None]:
    """The pieces, a comment wherever there is none for long, and an error as an event.

    Before all that it stops once, for nobody: a generator that was not begun is not closed either.
    """
    try:
        yield b""
        yield HEARTBEAT if begun is None else begun
        while True:
            coming = coming or asyncio.ensure_future(anext(pieces))
            while not await service.clock.first_done({coming}, service.heartbeat_s):
                yield HEARTBEAT
            piece, coming = coming.result(), None
            yield piece
    except StopAsyncIteration:
        return
    except Exception as error:  # noqa: BLE001 - the reply has begun: it is told in the stream
        yield failure(fault(error))
    finally:
        await _drop(coming, pieces)


async def _drop(coming: "Future[bytes] | None", pieces: AsyncGenerator[bytes, None]) -> None:
    """Stop reading, and end what writes."""
    if coming is not None and not coming.done():
        coming.cancel()
        await asyncio.wait({coming})
    await pieces.aclose()


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
