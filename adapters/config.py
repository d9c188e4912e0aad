"""How one deployment is configured: which provider, which model, whose key, at what price."""

import os
import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

ENV_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class LLMProvider(StrEnum):
    """The companies we know how to call; `custom` is any OpenAI-compatible endpoint."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    COHERE = "cohere"
    MISTRAL = "mistral"
    CUSTOM = "custom"


class PriceConfig(BaseModel):
    """Money for a million tokens, in US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
    output_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
    cached_input_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None
    cache_write_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None
    reasoning_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None


class RatesConfig(BaseModel):
    """How fast a deployment may be called; what is not given is not limited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    concurrency: Annotated[int, Field(gt=0)] | None = None


class ModelConfig(BaseModel):
    """One deployment: a model of a provider, reached with a key.

    `api_key` and `api_base` may hold `${NAME}`; the environment is read when a call is made, not
    when the file is read. Without `api_key` the provider's own variable is used
    (`OPENAI_API_KEY`, ...).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: LLMProvider
    model: Annotated[str, Field(min_length=1)]
    api_key: SecretStr | None = None
    api_base: str | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    price: Literal["free"] | PriceConfig | None = None
    context_tokens: Annotated[int, Field(gt=0)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    media_urls: Literal["refuse", "allow"] | None = None
    done_without_finish: Literal["broken", "complete"] = "broken"
    rates: RatesConfig = RatesConfig()
    prefill: bool = False  # it goes on with an answer that is given to it begun
    _is_batched: bool = PrivateAttr(default=False)

    @property
    def is_batched(self) -> bool:
        """Whether it is asked in its provider's batches, for half the price."""
        return self._is_batched

    def batched(self) -> Self:
        """The same deployment as it is asked in its provider's batches."""
        other = self.model_copy()
        other._is_batched = True  # noqa: SLF001 - it is of this class, and nobody else has it
        return other

    @model_validator(mode="after")
    def _custom_needs_a_base(self) -> Self:
        if self.provider is LLMProvider.CUSTOM and not self.api_base:
            raise ValueError(
                "provider 'custom' needs api_base, for example http://127.0.0.1:8080/v1"
            )
        return self


class MissingVariable(ValueError):
    """A `${NAME}` names an environment variable that is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"environment variable {name} is not set")
        self.name = name


def resolve_references(text: str) -> str:
    """Replace every `${NAME}` by the environment's value.

    Raises:
        MissingVariable: a name is not set, or set to nothing.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not found:
            raise MissingVariable(match[1])
        return found

    return ENV_REFERENCE.sub(value, text)


def first_set(names: tuple[str, ...]) -> str | None:
    """The value of the first of these environment variables that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
