"""Calls within the limits of their keys: refused as OpenAI would, counted, left on every path."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.clock import FakeClock
from orchestrator.config import TenantWindow
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server.keyed import Keyed
from orchestrator.server.keys import KeyRecord


class Answering:
    """Answers as it is told, and keeps the calls."""

    def __init__(self, status: int = 200, used: int | None = None, pieces: int = 0) -> None:
        self.status, self.used, self.pieces = status, used, pieces
        self.calls: list[Call] = []
        self.closed = 0

    async def __call__(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.used is not None and call.count is not None:
            call.count(self.used)
        body = self._stream() if self.pieces else b"{}"
        return Reply(status=self.status, headers={"x-own": "1"}, body=body)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(self.pieces):
                yield b"piece"
        finally:
            self.closed += 1


def key(**limits: Any) -> KeyRecord:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return KeyRecord(id="0" * 12, sha256="0" * 64, tenant="acme", created=created, **limits)


def call(method: str = "POST", path: str = "/v1/chat/completions", **body: Any) -> Call:
    return Call(method=method, path=path, body=json.dumps(body).encode())


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/chat/completions", None), ("/v1/messages", "error")]
)
async def test_the_next_request_is_refused_in_its_callers_shape(
    path: str, kind: str | None
) -> None:
    """Before anybody is asked, with the headers that every client knows."""
    answering = Answering()
    keyed, limited = Keyed(answering, FakeClock()), key(requests_per_minute=1)
    first = await keyed.answer(call(path=path), limited)

    second = await keyed.answer(call(path=path), limited)

    assert (first.status, first.headers["x-own"]) == (200, "1")
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert (second.status, len(answering.calls)) == (429, 1)
    assert {"retry-after", "x-ratelimit-limit-requests"} <= set(second.headers)
    assert isinstance(second.body, bytes)
    assert json.loads(second.body)["error"]["type"] == "rate_limit_error"
    assert json.loads(second.body).get("type") == kind


async def test_looking_at_models_is_not_counted_nor_is_who_has_no_key() -> None:
    """A minute's requests are those that ask for a run."""
    keyed, limited = Keyed(Answering(), FakeClock()), key(requests_per_minute=1)

    replies = [await keyed.answer(call("GET"), limited) for _ in range(3)]
    replies += [await keyed.answer(call(), None) for _ in range(3)]

    assert [reply.status for reply in replies] == [200] * 6


async def test_the_money_of_a_key_goes_with_the_call() -> None:
    """As a window of its tenant; a key without any brings none."""
    answering = Answering()
    keyed = Keyed(answering, FakeClock())

    await keyed.answer(call(), key(money_usd_per_day="2.5"))
    await keyed.answer(call(), key())

    window = TenantWindow(every="day", money_usd=Decimal("2.5"))
    assert [one.tenant_windows for one in answering.calls] == [(window,), ()]


@pytest.mark.parametrize(
    ("status", "used", "left"),
    [(200, 30, "969"), (200, None, "797"), (400, None, "999"), (502, None, "797")],
)
async def test_what_was_used_is_counted_in_the_place_of_the_estimate(
    status: int, used: int | None, left: str
) -> None:
    """Nothing where nothing was started; the estimate where nobody knows."""
    keyed, limited = Keyed(Answering(status, used), FakeClock()), key(tokens_per_minute=1000)
    await keyed.answer(call(max_tokens=195, ab=1), limited)

    reply = await keyed.answer(call(), limited)

    assert reply.headers["x-ratelimit-remaining-tokens"] == left


@pytest.mark.parametrize("read", [0, 1, 3])
async def test_a_stream_is_open_until_it_is_closed(read: int) -> None:
    """Read to its end, or left in the middle, or never begun."""
    answering = Answering(pieces=2)
    keyed, limited = Keyed(answering, FakeClock()), key(open_streams=1)
    first = await keyed.answer(call(stream=True), limited)
    assert not isinstance(first.body, bytes)

    refused = await keyed.answer(call(stream=True), limited)
    for _ in range(read):
        await anext(first.body, None)
    await first.body.aclose()
    second = await keyed.answer(call(stream=True), limited)

    assert (refused.status, second.status) == (429, 200)
    assert answering.closed == (1 if read else 0)


async def test_a_stream_that_fails_or_is_stopped_makes_room() -> None:
    """Whichever way it ends."""
    keyed, limited = Keyed(Answering(pieces=2), FakeClock()), key(open_streams=1)
    first = await keyed.answer(call(stream=True), limited)
    assert not isinstance(first.body, bytes)
    await anext(first.body)
    with pytest.raises(RuntimeError, match="stop"):
        await first.body.athrow(RuntimeError("stop"))

    assert (await keyed.answer(call(stream=True), limited)).status == 200


async def test_a_call_that_is_cancelled_makes_room() -> None:
    """Whoever hangs up before the reply holds nothing."""
    begun = asyncio.Event()

    async def forever(_: Call) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    keyed, limited = Keyed(forever, FakeClock()), key(open_streams=1)
    for _ in range(2):
        begun.clear()
        task = asyncio.create_task(keyed.answer(call(stream=True), limited))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
