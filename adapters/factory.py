"""Which adapter serves which provider."""

from adapters.anthropic import AnthropicAdapter
from adapters.base import BaseAdapter
from adapters.cohere import CohereAdapter
from adapters.config import LLMProvider, ModelConfig
from adapters.custom import CustomAdapter
from adapters.google import GoogleAdapter
from adapters.mistral import MistralAdapter
from adapters.openai import OpenAIAdapter

ADAPTERS: dict[LLMProvider, type[BaseAdapter]] = {
    LLMProvider.OPENAI: OpenAIAdapter,
    LLMProvider.ANTHROPIC: AnthropicAdapter,
    LLMProvider.GOOGLE: GoogleAdapter,
    LLMProvider.COHERE: CohereAdapter,
    LLMProvider.MISTRAL: MistralAdapter,
    LLMProvider.CUSTOM: CustomAdapter,
}


def create_adapter(config: ModelConfig, *, deployment: str = "") -> BaseAdapter:
    """The adapter for a deployment; `deployment` is its configured name, for errors."""
    return ADAPTERS[config.provider](config, deployment=deployment)
