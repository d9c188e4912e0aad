"""OpenAI's chat completions."""

from typing import ClassVar

from adapters import _embedding
from adapters._provider import OpenAILikeAdapter


class OpenAIAdapter(OpenAILikeAdapter):
    """`api_base` is `https://api.openai.com/v1`; the key is `OPENAI_API_KEY`."""

    default_base = "https://api.openai.com/v1"
    key_variables: ClassVar = ("OPENAI_API_KEY",)
    embeds_as: ClassVar = _embedding.OPENAI
    embedding_clients: ClassVar = "sdk"

    def image_tokens(self) -> int:
        """The small 4o model bills many times the tokens of the others, at a low price."""
        return 50_000 if "4o-mini" in self.config.model else super().image_tokens()
