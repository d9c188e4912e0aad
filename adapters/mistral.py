"""Mistral's chat completions."""

from typing import ClassVar

from adapters import _formats
from adapters.base import LiteLLMAdapter


class MistralAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.mistral.ai/v1`; the key is `MISTRAL_API_KEY`."""

    prefix = "mistral"
    wire = _formats.OPENAI
    default_base = "https://api.mistral.ai/v1"
    key_variables: ClassVar = ("MISTRAL_API_KEY",)
