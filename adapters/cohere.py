"""Cohere's chat, version 2. litellm writes the request; the answer is read here.

litellm's reader raises on every real stream of this API, and loses tool calls, thinking and cached
tokens of plain answers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from adapters import _embedding, _formats
from adapters._provider import LiteLLMAdapter
from adapters._read import Reader, as_arguments, as_id, as_text
from adapters.types import Chunk, ToolCall, ToolCallDelta


class CohereAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.cohere.com`; the key is `COHERE_API_KEY` or `CO_API_KEY`."""

    prefix = "cohere_chat"
    wire = _formats.COHERE
    default_base = "https://api.cohere.com"
    path = "/v2/chat"
    key_variables: ClassVar = ("COHERE_API_KEY", "CO_API_KEY")
    clients: ClassVar = "seeded"
    preamble_tokens = 1_536  # counted, and not billed
    extra_fields: ClassVar = LiteLLMAdapter.extra_fields | {"documents"}
    ignored: ClassVar = frozenset(("user", "safety_identifier"))
    reads_itself = True
    embeds_as: ClassVar = _embedding.COHERE

    def write_fields(self, given: dict[str, Any]) -> dict[str, Any]:
        """litellm renames the sampling fields; the rest it would refuse or send misspelt."""
        written = _cohere_spelling(given)
        passed = [
            name for name in ("response_format", "tool_choice", "thinking") if name in written
        ]
        return {**written, "allowed_openai_params": passed} if passed else written

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        message = body["message"]
        parts = message.get("content") or ()
        calls = tuple(
            ToolCall(
                id=as_id(call.get("id")) or f"call_{position}",
                name=as_text(call["function"]["name"]),
                arguments=as_arguments(call["function"].get("arguments")),
            )
            for position, call in enumerate(message.get("tool_calls") or ())
        )
        return _joined(parts, "text"), _joined(parts, "thinking"), calls

    def reader(self) -> Reader:
        return _Reader()


class _Reader(Reader):
    """Reads Cohere's events."""

    def read(self, piece: Any) -> Chunk:
        return _read_event(piece)


def _cohere_spelling(given: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's fields in Cohere's words (docs.cohere.com/reference/chat)."""
    written = dict(given)
    if "top_k" in written:
        written["k"] = written.pop("top_k")
    if (effort := written.pop("reasoning_effort", None)) is not None:
        kind = "disabled" if effort == "none" else "enabled"
        written.setdefault("thinking", {"type": kind})
    if "budget_tokens" in (thinking := written.get("thinking", {})):
        renamed = {key: value for key, value in thinking.items() if key != "budget_tokens"}
        written["thinking"] = {**renamed, "token_budget": thinking["budget_tokens"]}
    schema = written.get("response_format", {}).get("json_schema")
    if schema is not None:
        written["response_format"] = {"type": "json_object", "json_schema": schema["schema"]}
    if isinstance(written.get("stop"), str):
        written["stop"] = [written["stop"]]
    choice = written.pop("tool_choice", None)
    if isinstance(choice, Mapping):  # Cohere can only be told to call some tool: leave it one
        name = choice["function"]["name"]
        written["tools"] = [t for t in written["tools"] if t["function"]["name"] == name]
        choice = "required"
    if choice in ("required", "none"):
        written["tool_choice"] = choice.upper()
    return written


def _read_event(event: Mapping[str, Any]) -> Chunk:
    delta = event.get("delta") or {}
    message = delta.get("message") or {}
    match event.get("type"):
        case "content-start" | "content-delta":
            content = message.get("content") or {}
            return Chunk(
                text=as_text(content.get("text")), reasoning=as_text(content.get("thinking"))
            )
        case "tool-call-start" | "tool-call-delta":
            return Chunk(
                tool_calls=(
                    _read_call(int(event.get("index") or 0), message.get("tool_calls") or {}),
                )
            )
    return Chunk()


def _read_call(index: int, call: Mapping[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(
        index=index,
        id=as_id(call.get("id")),
        name=as_text(function.get("name")) or None,
        arguments=as_arguments(function.get("arguments")),
    )


def _joined(parts: Any, kind: str) -> str:
    return "".join(as_text(part.get(kind)) for part in parts if part.get("type") == kind)
