"""Anthropic's messages, content blocks and tools, in the shapes that adapters take."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Never, TypeVar

from pydantic import Field, StrictBool

from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import Body, read_part

Json = dict[str, Any]
Part = TypeVar("Part", bound=Body)

# Why what is taken inside a message or a tool has no effect. Each is reported in the reply.
_UNUSED: Mapping[str, str] = {
    "allowed_callers": "every tool is called by the model itself",
    "cache_control": "the providers' prompt caches are not steered from here",
    "citations": "no citations are asked for, and none are kept",
    "defer_loading": "all tools are shown from the beginning",
    "eager_input_streaming": "a tool's input comes as its provider sends it",
    "input_examples": "no provider behind the gateway is told",
    "transformations": "pictures are passed on as they are",
}
_THINKING_LEFT_OUT = "earlier thinking is not sent on: no provider's signature of it is kept"


class _Cacheable(Body):
    """What Anthropic's users may mark for its prompt cache."""

    cache_control: Json | None = None


class _Message(Body):
    role: Literal["user", "assistant", "system"]
    content: str | list[Any]


class _Text(_Cacheable):
    type: Literal["text"]
    text: str
    citations: Any = None


class _Image(_Cacheable):
    type: Literal["image"]
    source: Json
    transformations: Json | None = None


class _Document(_Cacheable):
    type: Literal["document"]
    source: Json
    title: str | None = None
    context: str | None = None
    citations: Json | None = None


class _Picture(Body):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Pdf(Body):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: str


class _Url(Body):
    type: Literal["url"]
    url: str


class _PlainText(Body):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class _ToolResult(_Cacheable):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Any] = ""
    is_error: StrictBool = False
    toolset_name: None = None


class _Caller(Body):
    type: Literal["direct"]


class _ToolUse(_Cacheable):
    type: Literal["tool_use"]
    id: str
    name: str
    input: Json
    caller: _Caller | None = None
    toolset_name: None = None


class _Thinking(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str


class _RedactedThinking(Body):
    type: Literal["redacted_thinking"]
    data: str


class _Tool(_Cacheable):
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128)]
    input_schema: Json
    description: str | None = None
    strict: StrictBool | None = None
    allowed_callers: list[str] | None = None
    defer_loading: StrictBool | None = None
    eager_input_streaming: StrictBool | None = None
    input_examples: list[Json] | None = None


Kinds = Mapping[str, type[Body]]
_SYSTEM: Kinds = {"text": _Text}
_SHOWN: Kinds = {"text": _Text, "image": _Image, "document": _Document}
_USER: Kinds = {**_SHOWN, "tool_result": _ToolResult}
_ASSISTANT: Kinds = {
    "text": _Text,
    "tool_use": _ToolUse,
    "thinking": _Thinking,
    "redacted_thinking": _RedactedThinking,
}
_PICTURES: Kinds = {"base64": _Picture, "url": _Url}
_FILES: Kinds = {"base64": _Pdf, "text": _PlainText}


class Conversation:
    """Reads the messages and tools of one request.

    Attributes:
        ignored: What was given in what has been read so far and has no effect, and why.
    """

    def __init__(self) -> None:
        self.ignored: dict[str, str] = {}

    def messages(self, system: str | list[Any] | None, messages: Sequence[Json]) -> list[Json]:
        """The whole conversation.

        Raises:
            Refused: something in it is not what is wanted, or cannot be passed on.
        """
        told = [] if not system else [self._system(system, "system")]
        for place, written in enumerate(messages):
            at = f"messages[{place}]"
            message = read_part(_Message, written, within=at)
            at = f"{at}.content"
            match message.role:
                case "system":
                    told.append(self._system(message.content, at))
                case "user":
                    told.extend(self._user(message.content, at))
                case "assistant":
                    told.extend(self._assistant(message.content, at))
        return told

    def tools(self, tools: Sequence[Any]) -> list[Json]:
        """The tools that the caller runs.

        Raises:
            Refused: one of them is not what is wanted, or is one of those that Anthropic runs.
        """
        return [self._tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]

    def _tool(self, written: Any, at: str) -> Json:
        kind = written.get("type") if isinstance(written, dict) else None
        if kind not in (None, "custom"):
            raise Refused(
                f"Invalid '{at}.type': only tools that the caller runs are known here; leave "
                "'type' out, and send 'name' and 'input_schema'",
                param=f"{at}.type",
                code="unsupported_value",
            )
        tool = self._read(_Tool, written, at)
        function: Json = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.strict is not None:
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def _system(self, content: str | list[Any], at: str) -> Json:
        if isinstance(content, list):
            blocks = [block for _, block in self._blocks(content, _SYSTEM, at)]
            content = "\n\n".join(block.text for block in blocks if isinstance(block, _Text))
        return {"role": "system", "content": content}

    def _user(self, content: str | list[Any], at: str) -> list[Json]:
        """Results of tools, a message each, and then what the user says."""
        if isinstance(content, str):
            return [{"role": "user", "content": content}]
        results: list[Json] = []
        parts: list[Json] = []
        for place, block in self._blocks(content, _USER, at):
            if not isinstance(block, _ToolResult):
                parts.append(self._part(block, place))
            elif parts:
                _refuse(place, "the results of tools come before everything else in a message")
            else:
                results.append(self._result(block, place))
        if not results and not parts:
            _refuse(at, "a message of the user must say something")
        return [*results, {"role": "user", "content": _simple(parts)}] if parts else results

    def _assistant(self, content: str | list[Any], at: str) -> list[Json]:
        """What the model said and which tools it called, without what it thought."""
        if isinstance(content, str):
            return [{"role": "assistant", "content": content}]
        text, calls = "", []
        for _, block in self._blocks(content, _ASSISTANT, at):
            if isinstance(block, _Text):
                text += block.text
            elif isinstance(block, _ToolUse):
                calls.append(_call(block))
            else:
                self.ignored["messages.thinking"] = _THINKING_LEFT_OUT
        if not text and not calls:  # an empty turn says nothing, and few providers take one
            return []
        message: Json = {"role": "assistant", "content": text or None}
        return [{**message, "tool_calls": calls} if calls else message]

    def _result(self, result: _ToolResult, at: str) -> Json:
        content: str | list[Json] = ""
        if isinstance(result.content, str):
            content = result.content
        else:
            shown = self._blocks(result.content, _SHOWN, f"{at}.content")
            content = _simple([self._part(block, place) for place, block in shown])
        if result.is_error:  # OpenAI's shape has no mark for it, so the model is told in words
            content = _failed(content)
        return {"role": "tool", "tool_call_id": result.tool_use_id, "content": content}

    def _part(self, block: Body, at: str) -> Json:
        """A text, a picture or a file."""
        match block:
            case _Text():
                return _text(block.text)
            case _Image():
                source = self._one_of(_PICTURES, block.source, f"{at}.source")
                return {"type": "image_url", "image_url": {"url": _address(source)}}
            case _Document():
                return self._document(block, at)
        raise AssertionError(f"{type(block).__name__} is in no table of what is shown")

    def _document(self, document: _Document, at: str) -> Json:
        source = self._one_of(_FILES, document.source, f"{at}.source")
        if isinstance(source, _PlainText):
            told = (document.title, document.context, source.data)
            return _text("\n\n".join(part for part in told if part))
        if document.context is not None:
            self.ignored["context"] = "of a file only the title is passed on"
        file = {"filename": document.title or "document.pdf", "file_data": _address(source)}
        return {"type": "file", "file": file}

    # Reading.

    def _blocks(self, content: list[Any], kinds: Kinds, at: str) -> list[tuple[str, Body]]:
        """Every block, and where it stands."""
        places = [f"{at}[{place}]" for place in range(len(content))]
        return [
            (place, self._one_of(kinds, block, place))
            for place, block in zip(places, content, strict=True)
        ]

    def _one_of(self, kinds: Kinds, value: Any, at: str) -> Body:
        """The value as the kind that its `type` says."""
        kind = value.get("type") if isinstance(value, dict) else None
        found = kinds.get(kind) if isinstance(kind, str) else None
        if found is None:
            raise Refused(
                f"Invalid '{at}.type': wanted one of {', '.join(kinds)}",
                param=f"{at}.type",
                code="unsupported_value",
            )
        return self._read(found, value, at)

    def _read(self, kind: type[Part], value: Any, at: str) -> Part:
        read = read_part(kind, value, within=at)
        for name in _UNUSED.keys() & read.model_fields_set:
            if getattr(read, name) not in (None, False, [], {}, ["direct"], {"enabled": False}):
                self.ignored[name] = _UNUSED[name]
        return read


def _refuse(at: str, wanted: str) -> Never:
    raise Refused(f"Invalid '{at}': {wanted}", param=at, code="invalid_value")


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _simple(parts: list[Json]) -> str | list[Json]:
    """One text alone is just that: everybody takes it."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts or ""


def _failed(content: str | list[Json]) -> str | list[Json]:
    if isinstance(content, str):
        return f"The tool failed: {content}" if content else "The tool failed."
    return [_text("The tool failed:"), *content]


def _address(source: Body) -> str:
    if isinstance(source, _Url):
        return source.url
    assert isinstance(source, (_Picture, _Pdf))
    return f"data:{source.media_type};base64,{source.data}"


def _call(block: _ToolUse) -> Json:
    arguments = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}
