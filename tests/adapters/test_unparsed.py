"""What is larger than it may be is refused by its size; nobody tries to make sense of it.

What is large and may be lets others have their turn.
"""

import asyncio
from typing import Any

import httpx
import pytest

from adapters import LLMProvider, MalformedResponse, _wire
from adapters.types import Limits
from tests.adapters.wires import ASK, Bytes, wire

LIMITS = Limits(event_bytes=10_000, body_bytes=100_000)
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}'


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes at a time were read as JSON."""
    sizes: list[int] = []

    def counted(raw: bytes) -> Any:
        sizes.append(len(raw))
        return loads(raw)

    loads = _wire.loads
    monkeypatch.setattr(_wire, "loads", counted)
    return sizes


@pytest.mark.parametrize("end", [b"", b"\n\n"])
async def test_a_line_that_is_too_long_is_not_parsed(parsed: list[int], end: bytes) -> None:
    """Be it ended or not: what came before it was, and no more."""
    parts = [CHUNK % b"A word." + b"\n\n", CHUNK % (b"w" * 10_000) + end]
    wired = await wire(LLMProvider.CUSTOM, httpx.Response(200, stream=Bytes(parts)))
    stream = wired.adapter.stream(ASK, limits=LIMITS)
    first = await anext(stream)

    with pytest.raises(MalformedResponse, match="an event is larger than 10,000 bytes"):
        await anext(stream)
    assert first.text == "A word."

    assert parsed == [len(CHUNK % b"A word.") - len(b"data: ")]


@pytest.mark.parametrize("provider", [LLMProvider.CUSTOM, LLMProvider.ANTHROPIC])
async def test_an_answer_that_is_too_large_is_not_parsed(
    parsed: list[int], provider: LLMProvider
) -> None:
    """Not even to see what is wrong with it."""
    wired = await wire(provider, b'{"content": "%s"}' % (b"w" * 100_000))

    with pytest.raises(MalformedResponse, match="the answer is larger than 100,000 bytes"):
        await wired.adapter.complete(ASK, limits=LIMITS)

    assert parsed == []


@pytest.mark.parametrize(("size", "is_large"), [(10, False), (_wire.LARGE_BYTES, True)])
async def test_a_large_answer_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch, size: int, *, is_large: bool
) -> None:
    """After it was parsed, and before anything is made of it; a small one does not wait."""
    steps: list[str] = []
    loads, note = _wire.loads, _wire._note

    def parsed(raw: bytes) -> Any:
        steps.append("parsed")
        asyncio.get_running_loop().call_soon(steps.append, "others")
        return loads(raw)

    def noted(*given: Any) -> bool:
        steps.append("noted")
        return note(*given)

    monkeypatch.setattr(_wire, "loads", parsed)
    monkeypatch.setattr(_wire, "_note", noted)
    answer = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}' % (b"w" * size)
    wired = await wire(LLMProvider.CUSTOM, httpx.Response(200, stream=Bytes([answer])))
    await wired.adapter.complete(ASK)

    assert steps[:2] == (["parsed", "others"] if is_large else ["parsed", "noted"])
