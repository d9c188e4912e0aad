"""Anthropic's messages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from adapters import _formats
from adapters._provider import LiteLLMAdapter
from adapters._read import Reader
from adapters.types import Chunk, ToolCall, ToolCallDelta

_SERVER_TOOL = "srvtoolu_"  # ids of tools that Anthropic runs itself: nothing for us to call


class AnthropicAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.anthropic.com`; the key is `ANTHROPIC_API_KEY`."""

    prefix = "anthropic"
    wire = _formats.ANTHROPIC
    default_base = "https://api.anthropic.com"
    path = "/v1/messages"
    key_variables: ClassVar = ("ANTHROPIC_API_KEY",)
    ignored: ClassVar = frozenset(("seed", "safety_identifier"))

    def image_tokens(self) -> int:
        """A picture is made smaller until it comes to no more."""
        return 5_000

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        text, reasoning, calls = super().read_answer(response, body)
        return text, reasoning, tuple(c for c in calls if not c.id.startswith(_SERVER_TOOL))

    def reader(self) -> Reader:
        return _Reader()


class _Reader(Reader):
    """Leaves Anthropic's own tool calls out of one stream and numbers the others from 0."""

    def __init__(self) -> None:
        self._indices: dict[int, int | None] = {}

    def read(self, piece: Any) -> Chunk:
        chunk = super().read(piece)
        if not chunk.tool_calls:
            return chunk
        kept = (self._renumbered(delta) for delta in chunk.tool_calls)
        return replace(chunk, tool_calls=tuple(delta for delta in kept if delta is not None))

    def _renumbered(self, delta: ToolCallDelta) -> ToolCallDelta | None:
        if delta.index not in self._indices:
            ours = not (delta.id or "").startswith(_SERVER_TOOL)
            count = sum(index is not None for index in self._indices.values())
            self._indices[delta.index] = count if ours else None
        index = self._indices[delta.index]
        return None if index is None else replace(delta, index=index)
