"""Google's Gemini API."""

from typing import Any, ClassVar

from adapters import _embedding, _formats
from adapters._provider import LiteLLMAdapter


class GoogleAdapter(LiteLLMAdapter):
    """`api_base` is `https://generativelanguage.googleapis.com`; the key is `GEMINI_API_KEY`."""

    prefix = "gemini"
    wire = _formats.GOOGLE
    default_base = "https://generativelanguage.googleapis.com"
    path = "/v1beta"
    key_variables: ClassVar = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    ignored: ClassVar = frozenset(("user", "safety_identifier"))
    embeds_as: ClassVar = _embedding.GOOGLE
    embedding_clients: ClassVar = "seeded_for_google"

    def write_fields(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("service_tier") == "auto":  # litellm would ask for the dearer tier
            del given["service_tier"]
        if "top_logprobs" in given:  # which litellm sends, and yet refuses without this
            return {**given, "allowed_openai_params": ["top_logprobs"]}
        return given

    def fetches_media(self) -> bool:
        return False  # litellm would download them here and send the bytes
