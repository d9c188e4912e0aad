"""Whether messages, tools and answer formats have OpenAI's shapes, before anybody is asked.

What is wrong is told by its exact path, `messages[2].content[0].text`. Providers look no closer
than they must, and each in words of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.wire.errors import Refused

Json = Mapping[str, Any]

ROLES = ("developer", "system", "user", "assistant", "tool")
CHOICES = ("none", "auto", "required")
FORMATS = ("text", "json_object", "json_schema")

# The parts of a content: where each has what it is about, and of which kind that is.
_PARTS: Mapping[str, tuple[str, type, str]] = {
    "text": ("text", str, ""),
    "refusal": ("refusal", str, ""),
    "image_url": ("image_url", dict, "url"),
    "input_audio": ("input_audio", dict, "data"),
    "file": ("file", dict, ""),
}
_NAMES: Mapping[type, str] = {str: "a string", dict: "an object", list: "an array", bool: "a bool"}


def check_messages(messages: Sequence[Json]) -> None:
    """Raise `Refused` for the first message that is none."""
    for place, message in enumerate(messages):
        at = f"messages[{place}]"
        role = message.get("role")
        if role not in ROLES:
            raise _invalid(f"{at}.role", f"wanted one of {', '.join(ROLES)}")
        if message.get("name") is not None:
            _need(message, "name", str, at)
        if message.get("tool_calls") is not None:
            _check_calls(message, at)
        if role == "tool":
            _need(message, "tool_call_id", str, at)
        _check_content(message, at)


def _check_content(message: Json, at: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant" and (message.get("tool_calls") or message.get("refusal")):
            return
        raise _missing(f"{at}.content")
    if not isinstance(content, list):
        raise _invalid(f"{at}.content", "wanted a string or an array of parts")
    if not content:
        raise _invalid(f"{at}.content", "an array without parts says nothing")
    for place, part in enumerate(content):
        _check_part(part, f"{at}.content[{place}]")


def _check_part(part: object, at: str) -> None:
    if not isinstance(part, dict):
        raise _invalid(at, "wanted an object")
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise _invalid(f"{at}.type", f"wanted one of {', '.join(_PARTS)}")
    key, wanted, within = _PARTS[kind]
    _need(part, key, wanted, at)
    if within:
        _need(part[key], within, str, f"{at}.{key}")


def _check_calls(message: Json, at: str) -> None:
    for place, call in enumerate(_need(message, "tool_calls", list, at)):
        here = f"{at}.tool_calls[{place}]"
        if not isinstance(call, dict):
            raise _invalid(here, "wanted an object")
        _need(call, "id", str, here)
        if call.get("type", "function") != "function":
            raise _invalid(f"{here}.type", "wanted 'function'")
        function = _need(call, "function", dict, here)
        _need(function, "name", str, f"{here}.function")
        _need(function, "arguments", str, f"{here}.function")


def check_tools(tools: Sequence[Json]) -> None:
    """Raise `Refused` for the first tool that is no function."""
    for place, tool in enumerate(tools):
        at = f"tools[{place}]"
        if _need(tool, "type", str, at) != "function":
            raise Refused(
                f"Invalid '{at}.type': only functions can be called",
                param=f"{at}.type",
                code="unsupported_value",
            )
        _check_function(_need(tool, "function", dict, at), f"{at}.function")


def _check_function(function: Json, at: str) -> None:
    if not _need(function, "name", str, at):
        raise _invalid(f"{at}.name", "wanted a name")
    for key, wanted in (("description", str), ("parameters", dict), ("strict", bool)):
        if function.get(key) is not None:
            _need(function, key, wanted, at)


def check_functions(functions: Sequence[Json], choice: str | Json | None) -> None:
    """Raise `Refused` for the first function that is none, or a choice that is not among them."""
    for place, function in enumerate(functions):
        _check_function(function, f"functions[{place}]")
    if isinstance(choice, str) and choice not in ("none", "auto"):
        raise _invalid("function_call", "wanted 'none', 'auto' or a function")
    if isinstance(choice, Mapping):
        name = _need(choice, "name", str, "function_call")
        if name not in [function["name"] for function in functions]:
            raise _invalid("function_call.name", "no function is called that")


def check_choice(choice: str | Json, tools: Sequence[Json]) -> None:
    """Raise `Refused` for a choice that is not among the tools."""
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise _invalid("tool_choice", f"wanted one of {', '.join(CHOICES)}, or a function")
        return
    names = [tool["function"]["name"] for tool in tools]
    if choice.get("type") == "allowed_tools":
        _check_allowed(_need(choice, "allowed_tools", dict, "tool_choice"), names)
        return
    if choice.get("type") != "function":
        raise _invalid("tool_choice.type", "wanted 'function' or 'allowed_tools'")
    function = _need(choice, "function", dict, "tool_choice")
    name = _need(function, "name", str, "tool_choice.function")
    if name not in names:
        raise _invalid("tool_choice.function.name", "no tool is called that")


def _check_allowed(allowed: Json, names: Sequence[str]) -> None:
    at = "tool_choice.allowed_tools"
    if _need(allowed, "mode", str, at) not in ("auto", "required"):
        raise _invalid(f"{at}.mode", "wanted 'auto' or 'required'")
    few = _need(allowed, "tools", list, at)
    if not few:
        raise _invalid(f"{at}.tools", "an array without tools allows nothing")
    for place, tool in enumerate(few):
        here = f"{at}.tools[{place}]"
        if not isinstance(tool, dict):
            raise _invalid(here, "wanted an object")
        function = _need(tool, "function", dict, here)
        if _need(function, "name", str, f"{here}.function") not in names:
            raise _invalid(f"{here}.function.name", "no tool is called that")


def check_format(format_: Json) -> None:
    """Raise `Refused` for a format of answers that there is none of."""
    if format_.get("type") not in FORMATS:
        raise _invalid("response_format.type", f"wanted one of {', '.join(FORMATS)}")
    if format_["type"] == "json_schema":
        described = _need(format_, "json_schema", dict, "response_format")
        _need(described, "name", str, "response_format.json_schema")
        if described.get("schema") is not None:
            _need(described, "schema", dict, "response_format.json_schema")


def _need(value: Json, key: str, wanted: type, at: str) -> Any:
    """What stands under a key, of the kind that is wanted."""
    found = value.get(key)
    if found is None:
        raise _missing(f"{at}.{key}")
    if not isinstance(found, wanted):
        raise _invalid(f"{at}.{key}", f"wanted {_NAMES[wanted]}")
    return found


def _missing(param: str) -> Refused:
    return Refused(
        f"Missing required parameter: '{param}'", param=param, code="missing_required_parameter"
    )


def _invalid(param: str, why: str) -> Refused:
    return Refused(f"Invalid '{param}': {why}", param=param, code="invalid_value")
