"""Which stop sequence ended an answer: told where the provider says it and it was asked for."""

from dataclasses import replace
from typing import Any

import pytest

from adapters import collect
from tests.adapters.wires import ASK, data, wire

USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


def vllm(said: Any, finish: str = "stop") -> tuple[Any, bytes]:
    """An answer in one piece, and as a stream."""
    ended = {"index": 0, "finish_reason": finish, "stop_reason": said}
    plain = {**ended, "message": {"role": "assistant", "content": "The Nile"}}
    pieces: list[Any] = [{"index": 0, "delta": {"content": "The Nile"}}, {**ended, "delta": {}}]
    events: list[Any] = [{"id": "c", "model": "qwen3", "choices": [piece]} for piece in pieces]
    return (
        {"id": "c", "model": "qwen3", "choices": [plain], "usage": USAGE},
        data(*events, {"id": "c", "choices": [], "usage": USAGE}, "[DONE]"),
    )


def anthropic(said: Any) -> tuple[Any, bytes]:
    """The same in Anthropic's words."""
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    stop = {"stop_reason": "stop_sequence", "stop_sequence": said}
    usage = {"input_tokens": 12, "output_tokens": 3}
    text = {"type": "text", "text": "The Nile"}
    opening = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    return (
        {**message, "content": [text], **stop, "usage": usage},
        data(
            {"type": "message_start", "message": opening},
            {"type": "content_block_start", "index": 0, "content_block": {**text, "text": ""}},
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "The Nile"},
            },
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ),
    )


@pytest.mark.parametrize(
    ("provider", "answer", "told"),
    [
        ("anthropic", anthropic("END"), "END"),
        ("custom", vllm("END"), "END"),
        ("custom", vllm("."), "."),
        ("custom", vllm("another"), None),
        ("custom", vllm(128_009), None),
        ("custom", vllm(None), None),
        ("custom", vllm("END", "length"), None),
    ],
)
async def test_it_is_told_where_it_was_asked_for(
    provider: str, answer: tuple[Any, bytes], told: str | None
) -> None:
    """Plain and streamed; the number of a token, or a text that nobody gave, is none."""
    request = replace(ASK, stop=["END", "."])

    plain = await (await wire(provider, answer[0])).adapter.complete(request)
    folded = await collect((await wire(provider, answer[1])).adapter.stream(request))

    assert plain == folded
    assert plain.stop_sequence == told
