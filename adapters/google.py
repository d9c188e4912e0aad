"""Google's Gemini API."""

from typing import ClassVar

from adapters import _formats
from adapters._provider import LiteLLMAdapter


class GoogleAdapter(LiteLLMAdapter):
    """`api_base` is `https://generativelanguage.googleapis.com`; the key is `GEMINI_API_KEY`."""

    prefix = "gemini"
    wire = _formats.GOOGLE
    default_base = "https://generativelanguage.googleapis.com"
    path = "/v1beta"
    key_variables: ClassVar = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    ignored: ClassVar = frozenset(("user", "safety_identifier"))

    def fetches_media(self) -> bool:
        return False  # litellm would download them here and send the bytes
