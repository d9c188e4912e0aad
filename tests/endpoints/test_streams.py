"""Streams: when they begin, what keeps them alive, and that closing one ends what writes it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from adapters.errors import RateLimited
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.clock import FakeClock
from orchestrator.endpoints.calls import Reply, Service
from orchestrator.endpoints.streams import (
    BEGINS_S,
    HEARTBEAT,
    MOST_TOGETHER,
    data,
    merged,
    named,
    streamed,
)
from orchestrator.events import Event, TextDelta

BEAT_S = 15.0


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    config = OrchestratorConfig(models={"a": {"provider": "openai", "model": "a"}})  # type: ignore[dict-item]
    async with EnhancedOrchestrator(config) as engine:
        yield Service(engine, heartbeat_s=BEAT_S, clock=FakeClock())


class Writer:
    """Writes pieces when it is let; says whether it was ended."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.go = [asyncio.Event() for _ in pieces]
        self.is_ended = False

    async def write(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece, go in zip(self._pieces, self.go, strict=True):
                await go.wait()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.is_ended = True


def body_of(reply: Reply) -> AsyncGenerator[bytes, None]:
    assert not isinstance(reply.body, bytes)
    return reply.body


async def passing(clock: Any, seconds: float) -> None:
    """Let that much time pass, once somebody waits for it."""
    for _ in range(5):
        await asyncio.sleep(0)
    clock.advance(seconds)


async def test_a_stream_begins_with_its_first_piece(service: Service) -> None:
    """Nothing comes before it."""
    writer = Writer(b"one", b"two")
    writer.go[0].set()
    reply = await streamed(service, writer.write(), headers={"x-a": "b"})
    writer.go[1].set()

    assert [piece async for piece in body_of(reply)] == [b"one", b"two"]
    assert reply.headers["x-a"] == "b"
    assert reply.headers["content-type"].startswith("text/event-stream")


async def test_pieces_that_come_together_are_written_together(service: Service) -> None:
    """In their order, and no more of them than whoever writes may be ahead."""
    writer = Writer(*(b"%d " % number for number in range(MOST_TOGETHER * 2)))
    for go in writer.go:
        go.set()
    reply = await streamed(service, writer.write())
    pieces = [piece async for piece in body_of(reply)]

    assert [piece.count(b" ") for piece in pieces] == [MOST_TOGETHER] * 2
    assert b"".join(pieces).split() == [b"%d" % number for number in range(MOST_TOGETHER * 2)]


async def test_a_stream_with_nothing_to_say_shows_that_it_is_alive(service: Service) -> None:
    """A comment when it begins, and one after every pause."""
    writer = Writer(b"one")
    beginning = asyncio.ensure_future(streamed(service, writer.write()))
    await passing(service.clock, BEGINS_S)
    async with aclosing(body_of(await beginning)) as body:
        assert await anext(body) == HEARTBEAT
        for _ in range(2):
            coming = asyncio.ensure_future(anext(body))
            await passing(service.clock, BEAT_S)
            assert await coming == HEARTBEAT
        writer.go[0].set()
        assert await anext(body) == b"one"


async def test_an_error_before_the_first_piece_is_raised(service: Service) -> None:
    """It can have a status of its own."""
    writer = Writer(RateLimited("slow down"))
    writer.go[0].set()
    with pytest.raises(RateLimited):
        await streamed(service, writer.write())

    assert writer.is_ended


async def test_an_error_after_the_beginning_is_the_last_event(service: Service) -> None:
    """The reply has begun: the error is told in it."""
    writer = Writer(b"one", RateLimited("slow down"))
    for go in writer.go:
        go.set()
    reply = await streamed(service, writer.write())
    pieces = [piece async for piece in body_of(reply)]

    assert pieces[0] == b"one"
    assert b'"code":"rate_limit_exceeded"' in pieces[1]
    assert writer.is_ended


@pytest.mark.parametrize("read", [0, 1])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_closing_a_stream_ends_what_writes_it(
    service: Service, read: int, has_begun: bool
) -> None:
    """Read or never read, with a first piece or only a heartbeat."""
    writer = Writer(b"one", b"two")
    if has_begun:
        writer.go[0].set()
    beginning = asyncio.ensure_future(streamed(service, writer.write()))
    await passing(service.clock, BEGINS_S)
    body = body_of(await beginning)
    for _ in range(read):
        await anext(body)
    await body.aclose()

    assert writer.is_ended


async def test_whoever_leaves_before_a_stream_begins_ends_what_writes_it(service: Service) -> None:
    """Nobody is there to close anything later."""
    writer = Writer(b"one")
    beginning = asyncio.ensure_future(streamed(service, writer.write()))
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning

    assert writer.is_ended


async def test_merged_streams_come_as_they_come_and_end_together() -> None:
    """Each with its number; when one fails, the others are ended."""
    ended: list[str] = []

    async def tell(name: str, fails: bool) -> AsyncGenerator[Event, None]:
        try:
            yield TextDelta(text=name)
            await asyncio.sleep(0 if fails else 60)
            if fails:
                raise RateLimited("slow down")
        finally:
            ended.append(name)

    heard: list[tuple[int, Event]] = []

    async def listen() -> None:
        async with aclosing(merged([tell("a", False), tell("b", True)])) as events:
            async for index, event in events:
                heard.append((index, event))

    with pytest.raises(RateLimited):
        await listen()

    assert sorted(heard) == [(0, TextDelta(text="a")), (1, TextDelta(text="b"))]
    assert sorted(ended) == ["a", "b"]


def test_events_are_written_on_a_line_each() -> None:
    """No line break of a text can end an event early."""
    assert data({"a": "x\ny\r\u2028"}).count(b"\n") == 2
    assert named("done", b"{}") == b"event: done\ndata: {}\n\n"
