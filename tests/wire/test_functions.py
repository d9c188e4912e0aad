"""Functions as tools were called once: asked for, called, and answered in those words."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator import AsyncOpenAI
from orchestrator.simulator import Simulator
from orchestrator.wire.chat import Asked, ChatBody, asked_of
from orchestrator.wire.reading import read_body
from tests.faces import ASKS_TOOL, TOOL, configured

FUNCTIONS: list[Any] = [TOOL["function"]]
CALL = {"name": "weather", "arguments": '{"city": "Paris"}'}
RESULT: dict[str, Any] = {"role": "function", "name": "weather", "content": "Rain"}


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(config=configured(simulator)) as client:
        yield client


def asked(**fields: Any) -> Asked:
    body = {"model": "alpha", "messages": ASKS_TOOL, **fields}
    return asked_of(read_body(ChatBody, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("call", "choice"),
    [
        ({}, {}),
        ({"function_call": "none"}, {"tool_choice": "none"}),
        (
            {"function_call": {"name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
    ],
)
def test_functions_are_tools_in_other_words(call: Any, choice: Any) -> None:
    """Both ask for the very same run, so that caches and limits know no difference."""
    tool = {"type": "function", "function": TOOL["function"]}

    older, newer = asked(functions=FUNCTIONS, **call), asked(tools=[tool], **choice)

    assert older.requests == newer.requests
    assert older.ignored == newer.ignored == {}


async def test_a_call_is_told_as_that_of_a_function(client: AsyncOpenAI) -> None:
    """Beside the tool call that it is, plain and streamed, with the finish reason of then."""
    create = client.chat.completions.create
    reply = await create(model="alpha", messages=ASKS_TOOL, functions=FUNCTIONS)
    chunks = [
        chunk
        async for chunk in await create(
            model="alpha", messages=ASKS_TOOL, functions=FUNCTIONS, stream=True
        )
    ]

    (choice,) = reply.choices
    call = choice.message.function_call
    assert call is not None
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "function_call"
    (tool_call,) = choice.message.tool_calls or ()
    assert tool_call.type == "function"
    assert tool_call.function.model_dump() == call.model_dump()
    pieces = [chunk.choices[0].delta.function_call for chunk in chunks]
    told = [piece for piece in pieces if piece is not None]
    assert [piece.name for piece in told if piece.name] == ["weather"]
    assert "".join(piece.arguments or "" for piece in told) == call.arguments


def test_a_result_belongs_to_the_last_call_of_its_function() -> None:
    """Calls of then have no ids: they are given some."""
    calling = {"role": "assistant", "content": None, "function_call": CALL}
    conversation = [*ASKS_TOOL, calling, RESULT, calling, {**RESULT, "content": None}]

    messages = asked(messages=conversation).requests[0].messages or ()

    assert [message.get("tool_call_id") for message in messages] == [
        *(None, None, "call_1"),
        *(None, "call_3"),
    ]
    assert [call["id"] for m in messages for call in m.get("tool_calls", ())] == [
        "call_1",
        "call_3",
    ]
    assert all("function_call" not in message for message in messages)
    assert messages[-1]["content"] == ""


def test_a_message_that_has_both_has_the_tools_calls() -> None:
    """That is what our own replies look like, when they come back."""
    calls = [{"id": "c1", "type": "function", "function": CALL}]
    calling = {"role": "assistant", "content": None, "function_call": CALL, "tool_calls": calls}

    messages = asked(messages=[*ASKS_TOOL, calling, RESULT]).requests[0].messages or ()

    assert messages[1]["tool_calls"] == calls
    assert messages[2]["tool_call_id"] == "c1"


def test_tools_that_are_not_allowed_are_not_told() -> None:
    """Of all tools, those that the choice names, whole."""
    clock = {"type": "function", "function": {"name": "clock"}}
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
    }

    (request,) = asked(tools=[TOOL, clock], tool_choice=choice).requests

    assert list(request.tools or ()) == [TOOL]
    assert request.tool_choice == "required"
