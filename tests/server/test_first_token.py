"""Nothing of a stream is kept back on its way from the provider's socket to the caller's."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator import OrchestratorConfig
from tests.server.conftest import Serving

HANGS_S = 60
WORDS = ("One ", "word ", "after ", "the ", "other.")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ASKED = [{"role": "user", "content": "Count."}]


def event(**choice: Any) -> bytes:
    """A chunk as OpenAI writes it."""
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class Provider:
    """Sends a word only once the one before it has come to the caller of the gateway."""

    def __init__(self) -> None:
        self.heard = asyncio.Semaphore(1)
        self.sent = 0

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for word in WORDS:
            await self.heard.acquire()
            writer.write(event(delta={"role": "assistant", "content": word}))
            self.sent += 1
        await self.heard.acquire()
        writer.write(event(finish_reason="stop") + b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(provider: Provider) -> AsyncIterator[str]:
    server = await asyncio.start_server(provider, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def of_chat(told: dict[str, Any]) -> str:
    """The text in a chunk."""
    return "".join(one["delta"].get("content") or "" for one in told.get("choices", []))


def of_response(told: dict[str, Any]) -> str:
    return str(told["delta"]) if told.get("type") == "response.output_text.delta" else ""


def of_message(told: dict[str, Any]) -> str:
    return str(told["delta"]["text"]) if told.get("type") == "content_block_delta" else ""


@pytest.mark.parametrize("kind", ["openai", "custom"])
@pytest.mark.parametrize(
    ("path", "body", "text_of"),
    [
        ("/v1/chat/completions", {"messages": ASKED}, of_chat),
        ("/v1/responses", {"input": "Count."}, of_response),
        ("/v1/messages", {"messages": ASKED, "max_tokens": 99}, of_message),
    ],
)
async def test_each_piece_comes_before_the_next_one_is_sent(
    serving: Serving, kind: str, path: str, body: dict[str, Any], text_of: Callable[..., str]
) -> None:
    """One write each: a provider that waits for its words to arrive waits for nothing else."""
    provider = Provider()
    pieces: list[str] = []
    async with asyncio.timeout(HANGS_S), listening(provider) as base:
        model = {"provider": kind, "model": "m", "api_base": base, "api_key": "k", "price": "free"}
        config = OrchestratorConfig.model_validate({"models": {"one": model}})
        async with serving(config=config) as gateway:
            asking = {"model": "one", "stream": True, **body}
            async with gateway.client.stream("POST", path, json=asking, timeout=HANGS_S) as reply:
                async for line in reply.aiter_lines():
                    if line.startswith("data: {") and (text := text_of(json.loads(line[6:]))):
                        pieces.append(text)
                        assert len(pieces) == provider.sent
                        provider.heard.release()

    assert pieces == list(WORDS)
