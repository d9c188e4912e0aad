"""Which adapter serves which provider."""

from contextlib import suppress

from adapters._scrub import secrets_in
from adapters.anthropic import AnthropicAdapter
from adapters.base import BaseAdapter
from adapters.cohere import CohereAdapter
from adapters.config import LLMProvider, MissingVariable, ModelConfig, first_set, resolve_references
from adapters.custom import CustomAdapter
from adapters.google import GoogleAdapter
from adapters.mistral import MistralAdapter
from adapters.openai import OpenAIAdapter

__all__ = ["ADAPTERS", "create_adapter", "secrets_in", "secrets_of"]

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


def secrets_of(config: ModelConfig) -> frozenset[str]:
    """What nobody may be told of what a deployment is called with, as far as it is set now."""
    found = set[str]()
    with suppress(MissingVariable):  # then no call is made with it
        if config.api_key is not None:
            found.add(resolve_references(config.api_key.get_secret_value()))
    if config.api_key is None:
        variables: tuple[str, ...] = getattr(ADAPTERS[config.provider], "key_variables", ())
        found.add(first_set(variables) or "")
    with suppress(MissingVariable):
        found |= secrets_in(resolve_references(config.api_base or ""))
    return frozenset(found) - {""}
