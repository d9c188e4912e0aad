"""A stream cut anywhere is never a whole answer.

Streams of all five wire formats are recorded once, then replayed to the adapter cut at every byte,
by a clean end and by a broken connection.
"""

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from adapters import (
    BaseAdapter,
    Completion,
    CompletionRequest,
    LLMProvider,
    ModelConfig,
    ProviderError,
    StreamBroken,
    collect,
    create_adapter,
)
from orchestrator.simulator import Simulator

PROVIDERS = ("openai", "anthropic", "google", "cohere", "mistral")
MODELS = {
    "openai": "gpt-4.1-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "cohere": "command-a-03-2025",
    "mistral": "mistral-small-latest",
}
# Every byte when it counts; on a user's machine every fifth, which takes seconds.
STEP = int(os.environ.get("ORCHESTRATOR_CUT_STEP", "1" if os.environ.get("CI") else "5"))
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
REQUESTS = {
    "text": CompletionRequest(
        messages=[{"role": "user", "content": "Which river is the longest? Ünïcode ✓"}],
        max_tokens=6,
        seed=1,
    ),
    "tools": CompletionRequest(
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        seed=1,
    ),
}


class _Recording(httpx.AsyncBaseTransport):
    """Passes a call on and keeps the bytes of its answer."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.body = b""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        self.body = b"".join([part async for part in response.aiter_raw()])
        await response.aclose()
        return httpx.Response(200, headers=response.headers, stream=_Bytes(self.body))


@dataclass
class _Bytes(httpx.AsyncByteStream):
    """These bytes, then a clean end or a broken connection."""

    content: bytes
    is_broken: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.content:
            yield self.content
        if self.is_broken:
            raise httpx.ReadError("connection lost")


def _over(adapter: BaseAdapter, transport: httpx.AsyncBaseTransport) -> None:
    """Let the adapter call over this transport instead of the network."""
    connection: Any = adapter._connected()  # type: ignore[attr-defined]
    connection.pool = lambda: transport


async def _answer(adapter: BaseAdapter, request: CompletionRequest) -> Completion:
    return await collect(adapter.stream(request))


async def _record(simulator: Simulator, provider: str, request: CompletionRequest) -> bytes:
    config = ModelConfig(
        provider=LLMProvider(provider),
        model=MODELS[provider],
        api_key="simulated-key",
        api_base=simulator.base_url(LLMProvider(provider)),
    )
    adapter = create_adapter(config)
    connection: Any = adapter._connected()  # type: ignore[attr-defined]
    from adapters import _litellm

    await _litellm.load()
    recording = _Recording(connection.pool())
    real_pool: Callable[[], Any] = connection.pool
    connection.pool = lambda: recording
    try:
        await _answer(adapter, request)
    finally:
        await real_pool().aclose()
    return recording.body


def _is_whole(answer: Completion, whole: Completion) -> bool:
    return _said(answer) == _said(whole)


def _said(answer: Completion) -> tuple[object, ...]:
    """All of an answer but the ids of its calls, which Gemini does not send and litellm invents."""
    calls = [(call.name, call.arguments) for call in answer.tool_calls]
    return answer.text, answer.reasoning, calls, answer.finish_reason


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", sorted(REQUESTS))
async def test_no_cut_stream_is_taken_for_a_whole_answer(provider: str, kind: str) -> None:
    """Cut after any byte, a stream gives the whole answer or an error, and no wrong text."""
    request = REQUESTS[kind]
    async with Simulator() as simulator:
        body = await _record(simulator, provider, request)
    config = ModelConfig(
        provider=LLMProvider(provider), model=MODELS[provider], api_key="simulated-key"
    )
    adapter = create_adapter(config)

    def replay(content: bytes, *, is_broken: bool) -> None:
        async def respond(_: httpx.Request) -> httpx.Response:
            headers = {"content-type": "text/event-stream"}
            return httpx.Response(200, headers=headers, stream=_Bytes(content, is_broken))

        _over(adapter, httpx.MockTransport(respond))

    replay(body, is_broken=False)
    whole = await _answer(adapter, request)
    passed_off = []
    for position in range(0, len(body), STEP):
        replay(body[:position], is_broken=position % 2 == 1)
        try:
            answer = await _answer(adapter, request)
        except ProviderError as error:
            if isinstance(error, StreamBroken) and not whole.text.startswith(error.partial_text):
                passed_off.append((position, error.partial_text))
            continue
        if not _is_whole(answer, whole):
            passed_off.append((position, answer.text))

    assert passed_off == []
    print(f"{provider} {kind}: {len(range(0, len(body), STEP))} cuts of {len(body)} bytes")
