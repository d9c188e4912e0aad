"""Functions, as tools were called once: what is asked with them, and calls as their askers read."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.types import ToolCall, ToolCallDelta
from orchestrator.wire.errors import Refused

Json = dict[str, Any]


def as_tools(functions: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The tools that functions are."""
    return [{"type": "function", "function": dict(function)} for function in functions]


def as_choice(call: str | Mapping[str, Any] | None) -> str | Json | None:
    """What `function_call` asks for, in the words of `tool_choice`."""
    if not isinstance(call, Mapping):
        return call
    return {"type": "function", "function": dict(call)}


def with_tool_messages(messages: Sequence[Json]) -> list[Json]:
    """The messages with every function call, and every result of one, as those of a tool.

    Raises:
        Refused: a result of a function that nobody has called.
    """
    told: list[Json] = []
    called: dict[str, str] = {}  # a function's name -> the id of its last call
    for place, message in enumerate(messages):
        match message:
            case {"role": "assistant", "tool_calls": [*calls]} if calls:
                called |= _ids(calls)
                told.append({key: message[key] for key in message if key != "function_call"})
            case {"role": "assistant", "function_call": {"name": str() as name} as call}:
                called[name] = f"call_{place}"
                told.append(_calling(message, call, called[name]))
            case {"role": "function"}:
                told.append(_result(message, called, f"messages[{place}]"))
            case _:
                told.append(message)
    return told


def _ids(calls: Sequence[Any]) -> dict[str, str]:
    """Which call has which id, of those that have the shape of one."""
    found = {}
    for call in calls:
        match call:
            case {"id": str() as call_id, "function": {"name": str() as name}}:
                found[name] = call_id
    return found


def _calling(message: Json, call: Json, call_id: str) -> Json:
    kept = {key: value for key, value in message.items() if key != "function_call"}
    return {**kept, "tool_calls": [{"id": call_id, "type": "function", "function": call}]}


def _result(message: Json, called: Mapping[str, str], at: str) -> Json:
    name = message.get("name")
    if not isinstance(name, str) or name not in called:
        raise Refused(
            f"Invalid '{at}.name': no message before it calls a function of that name",
            param=f"{at}.name",
            code="invalid_value",
        )
    content = message.get("content")
    return {
        "role": "tool",
        "tool_call_id": called[name],
        "content": "" if content is None else content,
    }


def call_json(calls: Sequence[ToolCall]) -> Json:
    """The first of the calls, as a message told it."""
    return {"name": calls[0].name, "arguments": calls[0].arguments}


def call_delta(pieces: Sequence[ToolCallDelta]) -> Json | None:
    """What pieces say of the first of the calls, as a chunk told it."""
    own = [piece for piece in pieces if piece.index == 0]
    if not own:
        return None
    named = next((piece.name for piece in own if piece.name is not None), None)
    told: Json = {"arguments": "".join(piece.arguments for piece in own)}
    return told if named is None else {"name": named, **told}
