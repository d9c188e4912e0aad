"""OpenAI's chat completions."""

from typing import ClassVar

from adapters import _formats
from adapters.base import LiteLLMAdapter


class OpenAIAdapter(LiteLLMAdapter):
    """`api_base` is `https://api.openai.com/v1`; the key is `OPENAI_API_KEY`."""

    prefix = "openai"
    wire = _formats.OPENAI
    default_base = "https://api.openai.com/v1"
    key_variables: ClassVar = ("OPENAI_API_KEY",)
    clients: ClassVar = "sdk"
    asks_for_usage = True
