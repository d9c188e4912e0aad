"""Cohere's chat, version 2. litellm writes the request; the answer is read here.

litellm's reader raises on every real stream of this API, and loses tool calls, thinking and cached
tokens of plain answers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from adapters import _formats
from adapters.base import LiteLLMAdapter
from adapters.types import Chunk, ToolCall, ToolCallDelta, Usage


class CohereAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.cohere.com`; the key is `COHERE_API_KEY` or `CO_API_KEY`."""

    prefix = "cohere_chat"
    wire = _formats.COHERE
    default_base = "https://api.cohere.com"
    path = "/v2/chat"
    key_variables: ClassVar = ("COHERE_API_KEY", "CO_API_KEY")
    clients: ClassVar = "seeded"
    extra_fields: ClassVar = LiteLLMAdapter.extra_fields | {"documents"}
    reads_events_itself = True

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        message = body["message"]
        parts = message.get("content") or ()
        calls = tuple(
            ToolCall(
                id=call.get("id", ""),
                name=call["function"]["name"],
                arguments=call["function"].get("arguments") or "",
            )
            for call in message.get("tool_calls") or ()
        )
        return _joined(parts, "text"), _joined(parts, "thinking"), calls

    def read_usage(self, response: Any, body: Mapping[str, Any]) -> Any:
        return _usage_fields(body.get("usage"))

    def read_event(self, event: Mapping[str, Any]) -> Chunk:
        delta = event.get("delta") or {}
        message = delta.get("message") or {}
        match event.get("type"):
            case "content-start" | "content-delta":
                content = message.get("content") or {}
                return Chunk(
                    text=content.get("text") or "", reasoning=content.get("thinking") or ""
                )
            case "tool-call-start" | "tool-call-delta":
                call = message.get("tool_calls") or {}
                function = call.get("function") or {}
                return Chunk(
                    tool_calls=(
                        ToolCallDelta(
                            index=event.get("index") or 0,
                            id=call.get("id"),
                            name=function.get("name"),
                            arguments=function.get("arguments") or "",
                        ),
                    )
                )
            case "message-end":
                found = _usage_fields(delta.get("usage"))
                return Chunk(usage=_usage(found) if found else None)
        return Chunk()


def _joined(parts: Any, kind: str) -> str:
    return "".join(part.get(kind) or "" for part in parts if part.get("type") == kind)


def _usage_fields(usage: Any) -> dict[str, Any] | None:
    """Cohere counts tokens and bills fewer units; tokens are what the other providers report."""
    if not isinstance(usage, Mapping):
        return None
    counted = usage.get("tokens") or usage.get("billed_units") or {}
    return {
        "prompt_tokens": int(counted.get("input_tokens") or 0),
        "completion_tokens": int(counted.get("output_tokens") or 0),
        "prompt_tokens_details": {"cached_tokens": int(usage.get("cached_tokens") or 0)},
    }


def _usage(fields: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=fields["prompt_tokens"],
        completion_tokens=fields["completion_tokens"],
        cached_tokens=fields["prompt_tokens_details"]["cached_tokens"],
    )
