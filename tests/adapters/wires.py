"""Scripted providers: what each wire format says, and adapters wired to a script."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from adapters import CompletionRequest, LLMProvider, _litellm, create_adapter
from adapters._provider import LiteLLMAdapter
from adapters.config import ModelConfig

Json = dict[str, Any]
Answer = (
    bytes
    | Json
    | list[Any]
    | httpx.Response
    | Exception
    | Callable[[httpx.Request], httpx.Response]
)

KEY = "k3y-Zq7Wm2Xv9Rt4Lp8N"  # planted; must never be seen again
PROVIDERS = tuple(LLMProvider)
MODELS = {
    LLMProvider.OPENAI: "gpt-4.1-mini",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: "command-a-03-2025",
    LLMProvider.MISTRAL: "mistral-small-latest",
    LLMProvider.CUSTOM: "qwen3",
}
ASK = CompletionRequest(messages=[{"role": "user", "content": "Which river is the longest?"}])
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
ARGUMENTS = '{"city":"Paris"}'


@dataclass
class Bytes(httpx.AsyncByteStream):
    """A body in the given parts, ended or broken; remembers whether it was closed."""

    parts: Iterable[bytes]
    failure: Exception | None = None
    is_closed: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        if self.failure is not None:
            raise self.failure

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class Wired:
    """An adapter whose provider is a script, and what the provider was asked."""

    adapter: LiteLLMAdapter
    answer: Answer  # it may be changed between calls
    requests: list[httpx.Request] = field(default_factory=list)

    @property
    def body(self) -> Json:
        """The JSON of the only request."""
        (request,) = self.requests
        found: Json = json.loads(request.content)
        return found


async def wire(provider: LLMProvider | str, answer: Answer, **config: Any) -> Wired:
    """An adapter that gets this answer to every request, and makes no connection."""
    await _litellm.load()
    provider = LLMProvider(provider)
    given: Json = {"model": MODELS[provider], "api_key": KEY, **config}
    if provider is LLMProvider.CUSTOM:
        given.setdefault("api_base", "https://models.example/v1")
    adapter = create_adapter(ModelConfig(provider=provider, **given), deployment="river")
    assert isinstance(adapter, LiteLLMAdapter)
    wired = Wired(adapter, answer)

    async def answered(request: httpx.Request) -> httpx.Response:
        wired.requests.append(request)
        return _response(wired.answer, request)

    rewire(adapter, httpx.MockTransport(answered))
    return wired


def rewire(adapter: LiteLLMAdapter, transport: httpx.AsyncBaseTransport) -> None:
    """Let the adapter call over this transport instead of the network."""
    connection: Any = adapter._connected()
    connection.pool = lambda: transport


def _response(answer: Answer, request: httpx.Request) -> httpx.Response:
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, httpx.Response):
        return answer
    if isinstance(answer, bytes):
        kind = "text/event-stream" if b"data:" in answer[:200] else "application/json"
        return httpx.Response(200, headers={"content-type": kind}, stream=Bytes([answer]))
    if isinstance(answer, dict | list):
        return httpx.Response(200, json=answer)
    return answer(request)


def refusal(status: int, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
    """A provider that says no."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: httpx.Response(status, headers=dict(headers or {}), content=content)


def in_parts(*parts: bytes, failure: Exception | None = None) -> Answer:
    """A streamed answer that arrives in these parts."""
    headers = {"content-type": "text/event-stream"}
    return lambda request: httpx.Response(200, headers=headers, stream=Bytes(parts, failure))


# What a whole answer looks like.


def plain(
    provider: LLMProvider | str, text: str = "The Nile.", *, tool: bool = False, usage: Any = None
) -> Json:
    """A whole answer: text, or a call of `get_weather`; 12 tokens in, 5 out."""
    match LLMProvider(provider):
        case LLMProvider.ANTHROPIC:
            return {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude-haiku-4-5-20251001",
                "content": [
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": "get_weather",
                        "input": json.loads(ARGUMENTS),
                    }
                    if tool
                    else {"type": "text", "text": text}
                ],
                "stop_reason": "tool_use" if tool else "end_turn",
                "usage": usage or {"input_tokens": 12, "output_tokens": 5},
            }
        case LLMProvider.GOOGLE:
            return _google(text, tool=tool, usage=usage, finish="STOP")
        case LLMProvider.COHERE:
            message: Json = {"role": "assistant", "content": [{"type": "text", "text": text}]}
            if tool:
                message = {"role": "assistant", "tool_calls": [_call()]}
            return {
                "id": "c1",
                "message": message,
                "finish_reason": "TOOL_CALL" if tool else "COMPLETE",
                "usage": usage or {"tokens": {"input_tokens": 12, "output_tokens": 5}},
            }
    content = {"content": None, "tool_calls": [_call()]} if tool else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "answered-by",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **content},
                "finish_reason": "tool_calls" if tool else "stop",
            }
        ],
        "usage": usage or {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }


def _call() -> Json:
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    return {"id": "call_1", "type": "function", "function": function}


def _google(text: str, *, tool: bool, usage: Any, finish: str | None) -> Json:
    part: Json = {"text": text}
    if tool:
        part = {"functionCall": {"name": "get_weather", "args": json.loads(ARGUMENTS)}}
    candidate: Json = {"index": 0, "content": {"role": "model", "parts": [part]}}
    body: Json = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash"}
    if finish is not None:
        candidate["finishReason"] = finish
        body["usageMetadata"] = usage or {
            "promptTokenCount": 12,
            "candidatesTokenCount": 5,
            "totalTokenCount": 17,
        }
    return body


def events(
    provider: LLMProvider | str,
    texts: Iterable[str] = ("The ", "Nile."),
    *,
    tool: bool = False,
    usage: Any = None,
) -> list[Json]:
    """The events of a whole stream, without `[DONE]`."""
    match LLMProvider(provider):
        case LLMProvider.ANTHROPIC:
            return _anthropic_events(texts, tool=tool, usage=usage)
        case LLMProvider.GOOGLE:
            *some, last = texts
            return [
                *(_google(text, tool=False, usage=None, finish=None) for text in some),
                _google(last, tool=tool, usage=usage, finish="STOP"),
            ]
        case LLMProvider.COHERE:
            return _cohere_events(texts, tool=tool, usage=usage)
    deltas: list[Json] = [{"content": text} for text in texts]
    if tool:
        first, second = ARGUMENTS[:5], ARGUMENTS[5:]
        call = {**_call(), "index": 0, "function": {"name": "get_weather", "arguments": first}}
        deltas = [
            {"tool_calls": [call]},
            {"tool_calls": [{"index": 0, "function": {"arguments": second}}]},
        ]
    counted = usage or {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    head["model"] = "answered-by"
    finish = "tool_calls" if tool else "stop"
    return [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        *({**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas),
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
        {**head, "choices": [], "usage": counted},
    ]


def _anthropic_events(texts: Iterable[str], *, tool: bool, usage: Any) -> list[Json]:
    block: Json = {"type": "text", "text": ""}
    deltas: list[Json] = [{"type": "text_delta", "text": text} for text in texts]
    if tool:
        block = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
        deltas = [
            {"type": "input_json_delta", "partial_json": piece}
            for piece in (ARGUMENTS[:5], ARGUMENTS[5:])
        ]
    message: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [],
        "usage": usage or {"input_tokens": 12, "output_tokens": 1},
    }
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use" if tool else "end_turn"},
            "usage": usage or {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


def _cohere_events(texts: Iterable[str], *, tool: bool, usage: Any) -> list[Json]:
    if tool:
        calls = [
            ("tool-call-start", {**_call(), "function": {"name": "get_weather", "arguments": ""}}),
            ("tool-call-delta", {"function": {"arguments": ARGUMENTS[:5]}}),
            ("tool-call-delta", {"function": {"arguments": ARGUMENTS[5:]}}),
        ]
        content = [
            {"type": kind, "index": 0, "delta": {"message": {"tool_calls": call}}}
            for kind, call in calls
        ]
    else:
        content = [
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}
            for text in texts
        ]
    end = {
        "finish_reason": "TOOL_CALL" if tool else "COMPLETE",
        "usage": usage or {"tokens": {"input_tokens": 12, "output_tokens": 5}},
    }
    return [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
        *content,
        {"type": "message-end", "delta": end},
    ]


def as_json(text: str) -> Any:
    """What a JSON text says: how it is spaced is its writer's affair."""
    return json.loads(text)


def data(*pieces: Json | str) -> bytes:
    """These events as server-sent events, in the way of each: Anthropic and Cohere name theirs."""
    return b"".join(_event(piece) for piece in pieces)


def _event(piece: Json | str) -> bytes:
    text = piece if isinstance(piece, str) else json.dumps(piece, ensure_ascii=False)
    name = piece.get("type") if isinstance(piece, dict) else None
    line = f"event: {name}\n" if isinstance(name, str) else ""
    return f"{line}data: {text}\n\n".encode()


def stream(
    provider: LLMProvider | str, *texts: str, tool: bool = False, usage: Any = None
) -> bytes:
    """A whole streamed answer."""
    provider = LLMProvider(provider)
    body = data(*events(provider, texts or ("The ", "Nile."), tool=tool, usage=usage))
    ends = provider in (LLMProvider.OPENAI, LLMProvider.MISTRAL, LLMProvider.CUSTOM)
    return body + (b"data: [DONE]\n\n" if ends else b"")
