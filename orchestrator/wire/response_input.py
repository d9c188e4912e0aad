"""What is asked of OpenAI's Responses API, in the words of its chat completions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.wire.chat import MOST_MESSAGES, Json
from orchestrator.wire.errors import Refused

Ignored = dict[str, str]  # what was given and has no effect, and why

# The conversation.


def messages_of(instructions: str | None, given: Any) -> tuple[list[Json], Ignored]:
    """The messages that instructions and input amount to, and what of them has no effect.

    Raises:
        Refused: an item is not understood, or a call and its result do not belong together.
    """
    conversation = _Conversation()
    if instructions:
        conversation.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        conversation.messages.append({"role": "user", "content": given})
        return conversation.messages, {}
    for index, item in enumerate(_items(given)):
        place = f"input[{index}]"
        kind = _kind_of(item, _ITEMS, place)
        conversation.check_names(item, _ITEM_NAMES[kind], place)
        _ITEMS[kind](conversation, item, place)
    for call_id, place in conversation.unanswered.items():
        raise Refused(
            f"There is no function_call_output for the call {call_id!r} of '{place}'; add it",
            param="input",
            code="invalid_value",
        )
    if not conversation.messages:
        raise Refused(
            "'input' holds no message; send what is to be answered",
            param="input",
            code="invalid_value",
        )
    return conversation.messages, conversation.ignored


def _items(given: Any) -> list[Any]:
    if given is None:
        raise Refused(
            "Missing required parameter: 'input'", param="input", code="missing_required_parameter"
        )
    if not isinstance(given, list):
        raise _wrong(given, "input", "a text or a list of items")
    if len(given) > MOST_MESSAGES:
        raise Refused(
            f"Invalid 'input': {len(given)} items are more than the {MOST_MESSAGES} that are read",
            param="input",
            code="invalid_value",
        )
    return given


class _Conversation:
    """Messages as they come together, an item at a time."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.ignored: Ignored = {}
        self.called: set[str] = set()
        self.unanswered: dict[str, str] = {}  # a call's id -> where it stands

    def check_names(self, value: Json, names: "_Names", place: str) -> None:
        """Refuse names that nobody knows; remember those that have no effect."""
        for name in value.keys() - names.understood:
            if name not in names.unused:
                known = ", ".join(sorted(names.understood))
                raise Refused(
                    f"Unknown parameter: '{place}.{name}'; known: {known}",
                    param=f"{place}.{name}",
                    code="unknown_parameter",
                )
            if value[name] not in (None, [], {}):
                self.ignored[f"input.{name}"] = names.unused[name]

    def content(self, value: Any, place: str) -> str | list[Json]:
        """A message's content, as one text where it is no more than that."""
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise _wrong(value, place, "a text or a list of parts")
        parts = [self._part(part, f"{place}[{index}]") for index, part in enumerate(value)]
        if len(parts) <= 1 and all(part["type"] == "text" for part in parts):
            return "".join(part["text"] for part in parts)
        return parts

    def _part(self, part: Any, place: str) -> Json:
        kind = _kind_of(part, _PARTS, place)
        self.check_names(part, _PART_NAMES[kind], place)
        return _PARTS[kind](self, part, place)


class _Names:
    """The fields that a thing may have.

    Attributes:
        understood: Used, or no more than how OpenAI knows the thing again.
        unused: Names to why they have no effect.
    """

    def __init__(self, *understood: str, **unused: str) -> None:
        self.understood = frozenset(understood) | {"type", "id", "status"}
        self.unused = unused


_ONE_CALLER = "functions are called by the model alone"
_ITEM_NAMES: Mapping[str, _Names] = {
    "message": _Names("role", "content", phase="no provider behind the gateway is told"),
    "function_call": _Names(
        *("call_id", "name", "arguments", "parsed_arguments"),
        caller=_ONE_CALLER,
        namespace="functions have one name",
    ),
    "function_call_output": _Names(
        *("call_id", "output", "name"), caller=_ONE_CALLER, namespace="functions have one name"
    ),
    "reasoning": _Names("summary", "content", "encrypted_content"),
}
_CACHE = "the cache has settings of its own"
_PART_NAMES: Mapping[str, _Names] = {
    "input_text": _Names("text", prompt_cache_breakpoint=_CACHE),
    "output_text": _Names("text", "annotations", "logprobs", "parsed"),
    "refusal": _Names("refusal"),
    "input_image": _Names("image_url", "file_id", "detail", prompt_cache_breakpoint=_CACHE),
    "input_file": _Names(
        *("file_data", "file_id", "file_url", "filename"),
        detail="no provider behind the gateway is told",
        prompt_cache_breakpoint=_CACHE,
    ),
}


def _kind_of(value: Any, known: Mapping[str, object], place: str) -> str:
    """What kind of item or part this is.

    Raises:
        Refused: none that is known.
    """
    if not isinstance(value, dict):
        raise _wrong(value, place, "an object")
    kind = value.get("type")
    if kind is None:
        kind = "message" if "role" in value else "item_reference"
    if kind == "item_reference" and kind not in known:
        raise Refused(
            f"Nothing is stored that '{place}' could refer to; send the item itself",
            param=place,
            code="unsupported_value",
        )
    if not isinstance(kind, str) or kind not in known:
        raise Refused(
            f"Invalid '{place}.type': {_shown(kind)} is not understood here; "
            f"wanted one of {', '.join(known)}",
            param=f"{place}.type",
            code="unsupported_value",
        )
    return kind


_ROLES = ("user", "assistant", "system", "developer")


def _add_message(conversation: _Conversation, item: Json, place: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise Refused(
            f"Invalid '{place}.role': wanted one of {', '.join(_ROLES)}",
            param=f"{place}.role",
            code="invalid_value",
        )
    content = conversation.content(item.get("content"), f"{place}.content")
    if role == "assistant":
        content = _as_text(content, f"{place}.content")
        last = conversation.messages[-1] if conversation.messages else {}
        # What it said and what it called are one message, in whichever order they are told.
        if last.get("tool_calls") and last["content"] is None:
            last["content"] = content
            return
    conversation.messages.append({"role": role, "content": content})


def _as_text(content: str | list[Json], place: str) -> str:
    """What an assistant has said, as one text."""
    if isinstance(content, str):
        return content
    for part in content:
        if part["type"] != "text":
            raise _wrong(part["type"], place, "what an assistant says to be text")
    return "".join(part["text"] for part in content)


def _add_call(conversation: _Conversation, item: Json, place: str) -> None:
    call_id = _text(item, "call_id", place)
    conversation.called.add(call_id)
    conversation.unanswered[call_id] = place
    call = {
        "id": call_id,
        "type": "function",
        "function": {
            "name": _text(item, "name", place),
            "arguments": _text(item, "arguments", place),
        },
    }
    last = conversation.messages[-1] if conversation.messages else {}
    if last.get("role") == "assistant":
        last.setdefault("tool_calls", []).append(call)
    else:
        conversation.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _add_result(conversation: _Conversation, item: Json, place: str) -> None:
    call_id = _text(item, "call_id", place)
    if call_id not in conversation.called:
        raise Refused(
            f"There is no function_call before '{place}' with the call_id {_shown(call_id)}",
            param=f"{place}.call_id",
            code="invalid_value",
        )
    conversation.unanswered.pop(call_id, None)
    content = conversation.content(item.get("output"), f"{place}.output")
    conversation.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})


def _add_reasoning(conversation: _Conversation, _item: Json, _place: str) -> None:
    conversation.ignored["input.reasoning"] = "reasoning of earlier answers is not sent on"


_ITEMS: Mapping[str, Callable[[_Conversation, Json, str], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_result,
    "reasoning": _add_reasoning,
}


def _text_part(_: _Conversation, part: Json, place: str) -> Json:
    return {"type": "text", "text": _text(part, "text", place)}


def _refusal_part(_: _Conversation, part: Json, place: str) -> Json:
    return {"type": "text", "text": _text(part, "refusal", place)}


_DETAILS = ("auto", "low", "high", "original")


def _image_part(conversation: _Conversation, part: Json, place: str) -> Json:
    _refuse_stored(part, place, instead="image_url")
    image = {"url": _text(part, "image_url", place)}
    detail = part.get("detail")
    if detail not in (None, *_DETAILS):
        raise _wrong(detail, f"{place}.detail", f"one of {', '.join(_DETAILS)}")
    if detail == "original":
        conversation.ignored["input.detail"] = "'high' is sent for 'original'"
        detail = "high"
    return {"type": "image_url", "image_url": image | ({"detail": detail} if detail else {})}


def _file_part(_: _Conversation, part: Json, place: str) -> Json:
    _refuse_stored(part, place, instead="file_data")
    if part.get("file_url") is not None:
        raise Refused(
            f"'{place}.file_url' is not fetched here; send file_data, a data: URL",
            param=f"{place}.file_url",
            code="unsupported_value",
        )
    file = {"file_data": _text(part, "file_data", place)}
    if part.get("filename") is not None:
        file["filename"] = _text(part, "filename", place)
    return {"type": "file", "file": file}


def _refuse_stored(part: Json, place: str, *, instead: str) -> None:
    if part.get("file_id") is not None:
        raise Refused(
            f"There are no stored files that '{place}.file_id' could name; send {instead}",
            param=f"{place}.file_id",
            code="unsupported_value",
        )


_PARTS: Mapping[str, Callable[[_Conversation, Json, str], Json]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "refusal": _refusal_part,
    "input_image": _image_part,
    "input_file": _file_part,
}


# Tools.

_TOOL_NAMES = ("type", "name", "description", "parameters", "strict")
_TOOL_UNUSED: Mapping[str, str] = {
    "allowed_callers": _ONE_CALLER,
    "defer_loading": "every tool is told at once",
    "output_schema": "no provider behind the gateway is told",
}


def tools_of(tools: Sequence[Json]) -> tuple[list[Json], Ignored]:
    """The function tools, as chat completions write them, and what of them has no effect.

    Raises:
        Refused: one is no function tool.
    """
    ignored: Ignored = {}
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if _text(tool, "type", place) != "function":
            raise Refused(
                f"Invalid '{place}.type': {_shown(tool['type'])} runs at OpenAI and not here; "
                "send a tool of type 'function' and run it yourself",
                param=f"{place}.type",
                code="unsupported_value",
            )
        _text(tool, "name", place)
        for name in tool.keys() - set(_TOOL_NAMES):
            if name not in _TOOL_UNUSED:
                raise Refused(
                    f"Unknown parameter: '{place}.{name}'; known: {', '.join(_TOOL_NAMES)}",
                    param=f"{place}.{name}",
                    code="unknown_parameter",
                )
            if tool[name]:
                ignored[f"tools.{name}"] = _TOOL_UNUSED[name]
        _check_tool(tool, place)
    return [_chat_tool(tool) for tool in tools], ignored


_TOOL_KINDS: Mapping[str, tuple[type, str]] = {
    "description": (str, "a text"),
    "parameters": (dict, "a JSON Schema"),
    "strict": (bool, "true or false"),
}


def _check_tool(tool: Json, place: str) -> None:
    for name, (kind, wanted) in _TOOL_KINDS.items():
        if tool.get(name) is not None and not isinstance(tool[name], kind):
            raise _wrong(tool[name], f"{place}.{name}", wanted)


def _chat_tool(tool: Json) -> Json:
    told = {
        name: tool[name]
        for name in ("name", "description", "parameters", "strict")
        if tool.get(name) is not None
    }
    return {"type": "function", "function": told}


_CHOICES = ("none", "auto", "required")


def choice_of(
    choice: str | Json | None, tools: Sequence[Json]
) -> tuple[list[Json], str | Json | None]:
    """The tools that may be called, and which of them has to be, as chat completions write it.

    Raises:
        Refused: a choice of something that is not there.
    """
    match choice:
        case None:
            return list(tools), None
        case str() if choice in _CHOICES:
            if not tools and choice == "required":
                raise _choice_refused("'required' needs tools to choose from")
            # Without tools the other two go without saying, and providers refuse to hear them.
            return list(tools), choice if tools else None
        case {"type": "function", "name": str() as name}:
            _find(name, tools)
            return list(tools), {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": [*few]} if few:
            return [_find(_allowed(one), tools) for one in few], mode
    raise _choice_refused(
        "wanted 'none', 'auto', 'required', a function by its name, or allowed_tools with a mode "
        "and tools; built-in tools do not run here"
    )


def _allowed(one: Any) -> str:
    match one:
        case {"type": "function", "name": str() as name}:
            return name
    raise _choice_refused("allowed_tools may name function tools only")


def _find(name: str, tools: Sequence[Json]) -> Json:
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    raise _choice_refused(f"there is no function {_shown(name)} among 'tools'")


def _choice_refused(why: str) -> Refused:
    return Refused(f"Invalid 'tool_choice': {why}", param="tool_choice", code="invalid_value")


# What is wrong with a value.


def _text(value: Json, name: str, place: str) -> str:
    found = value.get(name)
    if found is None:
        raise Refused(
            f"Missing required parameter: '{place}.{name}'",
            param=f"{place}.{name}",
            code="missing_required_parameter",
        )
    if not isinstance(found, str):
        raise _wrong(found, f"{place}.{name}", "a text")
    return found


def _wrong(found: Any, place: str, wanted: str) -> Refused:
    return Refused(
        f"Invalid '{place}': wanted {wanted}, found {_shown(found)}",
        param=place,
        code="invalid_value",
    )


def _shown(found: Any) -> str:
    """A short text as it is; of anything else, what it is."""
    if isinstance(found, str):
        return repr(found) if len(found) <= 64 else "a long text"
    return _KINDS.get(type(found), "nothing")


_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
