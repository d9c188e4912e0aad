"""OpenAI's chat completions."""

from typing import ClassVar

from adapters._provider import OpenAILikeAdapter


class OpenAIAdapter(OpenAILikeAdapter):
    """`api_base` is `https://api.openai.com/v1`; the key is `OPENAI_API_KEY`."""

    default_base = "https://api.openai.com/v1"
    key_variables: ClassVar = ("OPENAI_API_KEY",)
