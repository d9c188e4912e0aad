"""A client that sees every byte, and requests in every wire format."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from adapters.config import LLMProvider
from orchestrator.simulator import Simulator
from orchestrator.simulator.routes import BASES

KEY = "sk-planted-0123456789"
QUESTION = "Explain how a database index speeds up reads but slows down writes."
TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@dataclass(frozen=True, slots=True)
class Got:
    """What came back: status (0 for none), headers, the body without its framing, the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    end: str  # "whole", "eof", "reset" or "silent"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events: name and data, parsed if it is JSON."""
        found = []
        for block in self.body.replace(b"\r\n", b"\n").decode().split("\n\n"):
            lines = dict(line.partition(": ")[::2] for line in block.split("\n") if line)
            if "data" in lines:
                data = lines["data"]
                parsed = data if data == "[DONE]" else json.loads(data)
                found.append((lines.get("event", ""), parsed))
        return found


class Caller:
    """Requests to a simulator in any of the wire formats, over a plain socket."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def ask(
        self,
        provider: LLMProvider,
        *,
        model: str = "sim",
        prompt: str = QUESTION,
        streamed: bool = False,
        wait_s: float = 5.0,
        **fields: Any,
    ) -> Got:
        """One question in the provider's own shape; `fields` go into the body as they are."""
        path, body = request(provider, model, prompt, streamed=streamed)
        return await self.post(BASES[provider] + path, body | fields, wait_s=wait_s)

    async def post(
        self,
        path: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 5.0,
    ) -> Got:
        """One POST on a connection of its own, until the reply is whole or `wait_s` is over."""
        sent = {"authorization": f"Bearer {KEY}", "x-api-key": KEY, "x-goog-api-key": KEY}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in (sent if headers is None else headers).items()
        )
        port = self.simulator.port
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{lines}"
        head += f"content-length: {len(data)}\r\n\r\n"
        return await self.send(head.encode() + data, wait_s=wait_s)

    async def send(self, data: bytes, *, wait_s: float = 5.0) -> Got:
        """These very bytes, and what comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.simulator.port)
        try:
            writer.write(data)
            return await receive(reader, wait_s)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def receive(reader: asyncio.StreamReader, wait_s: float = 5.0) -> Got:
    """Read one reply."""
    got, end = bytearray(), "silent"
    try:
        async with asyncio.timeout(wait_s):
            while not _is_whole(got):
                data = await reader.read(2**20)
                if not data:
                    end = "eof"
                    break
                got += data
            else:
                end = "whole"
    except TimeoutError:
        pass
    except ConnectionError:
        end = "reset"
    status, headers, body = _split(bytes(got))
    return Got(status, headers, body, end)


def request(
    provider: LLMProvider, model: str, prompt: str, *, streamed: bool = False
) -> tuple[str, dict[str, Any]]:
    """Path and body of a question in the provider's own shape."""
    messages = [{"role": "user", "content": prompt}]
    if provider is LLMProvider.GOOGLE:
        method = "streamGenerateContent?alt=sse" if streamed else "generateContent"
        contents = [{"role": "user", "parts": [{"text": prompt}]}]
        return f"/v1beta/models/{model}:{method}", {"contents": contents}
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": streamed}
    if provider is LLMProvider.ANTHROPIC:
        return "/v1/messages", body | {"max_tokens": 4096}
    if provider is LLMProvider.COHERE:
        return "/v2/chat", body
    if streamed and provider is not LLMProvider.MISTRAL:
        body["stream_options"] = {"include_usage": True}
    return "/chat/completions", body


def tools(provider: LLMProvider) -> dict[str, Any]:
    """The weather tool in the provider's own shape."""
    if provider is LLMProvider.ANTHROPIC:
        bare = {name: value for name, value in TOOL.items() if name != "parameters"}
        return {"tools": [{**bare, "input_schema": TOOL["parameters"]}]}
    if provider is LLMProvider.GOOGLE:
        return {"tools": [{"functionDeclarations": [TOOL]}]}
    return {"tools": [{"type": "function", "function": TOOL}]}


def thinking(provider: LLMProvider) -> dict[str, Any]:
    """The wish to see the model think, in the provider's own shape."""
    wishes: dict[LLMProvider, dict[str, Any]] = {
        LLMProvider.ANTHROPIC: {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        LLMProvider.GOOGLE: {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
        LLMProvider.COHERE: {"thinking": {"type": "enabled"}},
    }
    return wishes.get(provider, {"reasoning_effort": "low"})


def schema(provider: LLMProvider, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The wish for JSON of this schema, in the provider's own shape."""
    if provider is LLMProvider.ANTHROPIC:
        return {"output_config": {"format": {"type": "json_schema", "schema": wanted}}}
    if provider is LLMProvider.GOOGLE:
        kind = "application/json"
        return {"generationConfig": {"responseMimeType": kind, "responseJsonSchema": wanted}}
    if provider is LLMProvider.COHERE:
        return {"response_format": {"type": "json_object", "json_schema": wanted}}
    inner = {"name": "wanted", "schema": wanted, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


def said(provider: LLMProvider, got: Got) -> str:
    """The text of a plain answer."""
    body = got.json
    if provider is LLMProvider.ANTHROPIC:
        return "".join(block.get("text", "") for block in body["content"])
    if provider is LLMProvider.GOOGLE:
        parts = body["candidates"][0]["content"].get("parts", [])
        return "".join(part["text"] for part in parts if "text" in part and "thought" not in part)
    if provider is LLMProvider.COHERE:
        return "".join(part.get("text", "") for part in body["message"].get("content", []))
    content = body["choices"][0]["message"]["content"]
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def streamed_text(provider: LLMProvider, got: Got) -> str:
    """The text of a streamed answer."""
    pieces = []
    for _, data in got.events:
        if data == "[DONE]":
            continue
        if provider is LLMProvider.ANTHROPIC:
            pieces.append(data.get("delta", {}).get("text", ""))
        elif provider is LLMProvider.GOOGLE:
            parts = data["candidates"][0]["content"].get("parts", [])
            pieces += [part["text"] for part in parts if "text" in part and "thought" not in part]
        elif provider is LLMProvider.COHERE:
            content = data.get("delta", {}).get("message", {}).get("content", {})
            pieces.append(content.get("text", "") if isinstance(content, dict) else "")
        else:
            for choice in data["choices"]:
                content = choice["delta"].get("content") or ""
                pieces.append(content if isinstance(content, str) else "")
    return "".join(pieces)


def _is_whole(got: bytes | bytearray) -> bool:
    head, found, body = bytes(got).partition(b"\r\n\r\n")
    if not found:
        return False
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    length = lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(length) and len(body) >= int(length)


def _split(got: bytes) -> tuple[int, dict[str, str], bytes]:
    head, found, body = got.partition(b"\r\n\r\n")
    if not found:
        return 0, {}, got
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.partition(": ")[::2] for line in lines[1:])
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return int(lines[0].split()[1]), headers, body


def _unchunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size, found, rest = body.partition(b"\r\n")
        if not found or int(size, 16) == 0:
            break
        pieces.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(pieces)
