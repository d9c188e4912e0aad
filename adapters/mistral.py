"""Mistral's chat completions."""

from typing import Any, ClassVar

from adapters import _embedding, _formats
from adapters._provider import LiteLLMAdapter

_UNKNOWN_TO_LITELLM = ("presence_penalty", "frequency_penalty")


class MistralAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.mistral.ai/v1`; the key is `MISTRAL_API_KEY`."""

    prefix = "mistral"
    wire = _formats.OPENAI
    default_base = "https://api.mistral.ai/v1"
    key_variables: ClassVar = ("MISTRAL_API_KEY",)
    ignored: ClassVar = frozenset(("user", "safety_identifier"))
    reads_itself = True
    embeds_as: ClassVar = _embedding.MISTRAL
    embedding_clients: ClassVar = "sdk"

    def write_fields(self, given: dict[str, Any]) -> dict[str, Any]:
        passed = [name for name in _UNKNOWN_TO_LITELLM if name in given]
        if isinstance(given.get("tool_choice"), dict):  # litellm would drop it without a word
            passed.append("tool_choice")
        return {**given, "allowed_openai_params": passed} if passed else given
