"""Any OpenAI-compatible endpoint: a local server, a gateway, another host."""

from typing import ClassVar

from adapters import _embedding
from adapters._media import is_local
from adapters._provider import OpenAILikeAdapter


class CustomAdapter(OpenAILikeAdapter):
    """`api_base` is required. Without a key a placeholder is sent: local servers want none."""

    prefix = "aiohttp_openai"  # litellm's leanest path, without openai's client inside
    clients: ClassVar = "session"
    default_base = ""
    embeds_as: ClassVar = _embedding.CUSTOM
    embedding_clients: ClassVar = "sdk"

    def fallback_key(self) -> str:
        return "none"

    def fetches_media(self) -> bool:
        return not is_local(self._api_base())
