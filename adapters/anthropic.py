"""Anthropic's messages."""

from typing import ClassVar

from adapters import _formats
from adapters.base import LiteLLMAdapter


class AnthropicAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.anthropic.com`; the key is `ANTHROPIC_API_KEY`."""

    prefix = "anthropic"
    wire = _formats.ANTHROPIC
    default_base = "https://api.anthropic.com"
    path = "/v1/messages"
    key_variables: ClassVar = ("ANTHROPIC_API_KEY",)
    unsupported: ClassVar = frozenset(("seed",))  # Claude takes none
