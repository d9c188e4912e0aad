"""Answers of OpenAI-compatible hosts that say the same thing in another shape."""

from typing import Any

import httpx
import orjson
import pytest

from adapters import Completion, CompletionRequest, ModelConfig, collect, create_adapter
from adapters import _litellm as door

REQUEST = CompletionRequest(messages=[{"role": "user", "content": "hi"}])
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
HEAD = {"id": "one", "created": 1, "model": "m"}
PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]},
    {"type": "text", "text": "yes"},
]


def plain(message: dict[str, Any]) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return orjson.dumps(body)


def streamed(*deltas: dict[str, Any], **last: Any) -> bytes:
    lines = []
    for number, delta in enumerate(deltas, 1):
        is_last = number == len(deltas)
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if is_last else None}
        chunk = {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}
        lines.append(b"data: " + orjson.dumps({**chunk, **(last if is_last else {})}))
    return b"\n\n".join([*lines, b"data: [DONE]", b""])


async def ask(provider: str, content: bytes, *, stream: bool) -> Completion:
    base = "https://inference.example/v1" if provider == "custom" else None
    config = ModelConfig(provider=provider, model="m", api_key="test-key", api_base=base)  # type: ignore[arg-type]
    adapter = create_adapter(config)
    await door.load()
    kind = "text/event-stream" if stream else "application/json"

    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content, headers={"content-type": kind})

    connection: Any = adapter._connected()  # type: ignore[attr-defined]
    connection.pool = lambda: httpx.MockTransport(answer)
    if stream:
        return await collect(adapter.stream(REQUEST))
    return await adapter.complete(REQUEST)


@pytest.mark.parametrize("provider", ["openai", "custom"])
async def test_a_refusal_is_the_text_of_the_answer(provider: str) -> None:
    """A model that declines says so in a field of its own; the words are not lost."""
    body = plain({"content": None, "refusal": "I am sorry."})
    stream = streamed({"refusal": "I am"}, {"refusal": " sorry."}, usage=USAGE)

    assert (await ask(provider, body, stream=False)).text == "I am sorry."
    assert (await ask(provider, stream, stream=True)).text == "I am sorry."


@pytest.mark.parametrize("provider", ["openai", "custom"])
async def test_content_in_parts_is_text_and_reasoning(provider: str) -> None:
    """A list of parts is read as what it says, plain and streamed."""
    body = plain({"content": PARTS})
    stream = streamed({"content": PARTS[:1]}, {"content": "yes"}, usage=USAGE)

    for answer in (
        await ask(provider, body, stream=False),
        await ask(provider, stream, stream=True),
    ):
        assert (answer.text, answer.reasoning) == ("yes", "hmm")
        assert not answer.usage.estimated


async def test_usage_is_found_where_groq_puts_it() -> None:
    """A stream whose usage stands in `x_groq` needs no estimate."""
    stream = streamed({"content": "yes"}, x_groq={"id": "req", "usage": USAGE})

    answer = await ask("custom", stream, stream=True)

    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    assert not answer.usage.estimated


async def test_usage_under_an_id_of_its_own_is_kept() -> None:
    """Only events that say something are held to the answer's id."""
    deltas = [{"content": word} for word in ("one ", "two ", "three ", "four")]
    last = {"id": "another", "choices": [], "usage": USAGE}
    stream = streamed(*deltas).replace(
        b"data: [DONE]", b"data: " + orjson.dumps(last) + b"\n\ndata: [DONE]"
    )

    answer = await ask("custom", stream, stream=True)

    assert answer.text == "one two three four"
    assert not answer.usage.estimated
