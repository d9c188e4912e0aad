"""How the gateway ends: nobody comes in, whoever is in has a while, and then all is over."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from adapters import MockAdapter
from adapters.mock import Reply
from orchestrator.clock import FakeClock
from orchestrator.server.admission import Admission
from orchestrator.wire.errors import Refused

Serving = Callable[..., AbstractAsyncContextManager[Any]]


async def test_what_is_under_way_ends_while_nobody_else_is_let_in(
    serving: Serving, slow: MockAdapter, held: Any
) -> None:
    """A drain keeps its promise to who was in, and says to the others when to come again."""
    async with serving(mocks={"one": slow}) as gateway:
        asked = asyncio.create_task(gateway.chat())
        await held.began.wait()
        gateway.server.end()
        await asyncio.sleep(0)
        ready = await gateway.client.get("/ready")
        health = await gateway.client.get("/health")
        late = await gateway.chat()
        held.ends.set()
        answered = await asked
        await gateway.serving

    assert (ready.status_code, health.status_code, late.status_code) == (503, 200, 503)
    assert late.headers["retry-after"] == ready.headers["retry-after"] == "1"
    assert late.json()["error"]["code"] == "shutting_down"
    assert answered.json()["choices"][0]["message"]["content"] == "At last."


async def test_what_takes_longer_than_the_drain_is_told_so(
    serving: Serving, slow: MockAdapter, held: Any
) -> None:
    """At its end a plain request gets an error that says to come again, and its call is ended."""
    async with serving(mocks={"one": slow}, drain_s=0.01) as gateway:
        asked = asyncio.create_task(gateway.chat())
        await held.began.wait()
        gateway.server.end()
        answered = await asked
        await gateway.serving

    assert answered.status_code == 503
    assert answered.json()["error"]["code"] == "shutting_down"
    assert held.cancelled.is_set()


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", 'data: {"error":{"message":'),
        ("/v1/messages", 'data: {"type":"error","error":{"type":'),
    ],
)
async def test_a_stream_that_is_cut_off_says_so(
    serving: Serving, held: Any, path: str, last: str
) -> None:
    """The second wish to end ends at once; who reads a stream gets an error as its last event."""
    reply = Reply(text="One word and another", gap_s=1)
    async with serving(mocks={"one": MockAdapter([reply], sleep=held)}) as gateway:
        said = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
        body = {"model": "one", "stream": True, **said}
        async with gateway.client.stream("POST", path, json=body) as answer:
            lines = answer.aiter_lines()
            first = await anext(lines)
            gateway.server.end()
            gateway.server.end()
            rest = [line async for line in lines if line]
        await gateway.serving

    assert (answer.status_code, first.partition(":")[0] in ("data", "event")) == (200, True)
    assert rest[-1].startswith(last)
    assert "shutting_down" in rest[-1]
    assert "data: [DONE]" not in rest


def test_so_many_are_let_in_and_no_more() -> None:
    """One above the limit is refused, and one below it is not."""
    admission = Admission(2)
    with admission.request():
        with admission.request():
            with pytest.raises(Refused, match="Too many") as refused, admission.request():
                pass
            assert (refused.value.status, dict(refused.value.headers)) == (
                503,
                {"retry-after": "1"},
            )
        with admission.request():
            assert admission.in_flight == 2
    assert admission.in_flight == 0


async def test_a_drain_of_nobody_ends_at_once() -> None:
    """No clock is waited for where nothing is under way."""
    admission, clock = Admission(1), FakeClock()

    await admission.drain(clock, 30)

    assert clock.monotonic() == 0
    with pytest.raises(Refused, match="shutting down"), admission.request():
        pass


async def test_work_that_comes_after_the_cut_is_cancelled_too() -> None:
    """A request that was let in before all was cut off does not begin to cost after it."""
    admission = Admission(1)
    admission.cut()
    work = asyncio.ensure_future(asyncio.Event().wait())

    with admission.cuttable(work.cancel):
        await asyncio.wait({work})

    assert work.cancelled()
