"""Any OpenAI-compatible endpoint: a local server, a gateway, a host without an adapter of its own."""

from typing import ClassVar

from adapters import _formats
from adapters._media import is_local
from adapters.base import LiteLLMAdapter


class CustomAdapter(LiteLLMAdapter):
    """`api_base` is required. Without a key a placeholder is sent: local servers want none."""

    prefix = "openai"
    wire = _formats.OPENAI
    default_base = ""
    clients: ClassVar = "sdk"
    asks_for_usage = True

    def fallback_key(self) -> str:
        return "none"

    def fetches_media(self) -> bool:
        return not is_local(self._api_base())
