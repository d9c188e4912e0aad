"""Every provider has its adapter, and every adapter is what it says."""

import inspect
from typing import Any

import pytest

import adapters
from adapters import (
    ADAPTERS,
    AuthenticationFailed,
    BaseAdapter,
    InvalidRequest,
    LLMProvider,
    ModelConfig,
    create_adapter,
)
from adapters._provider import LiteLLMAdapter
from tests.adapters.wires import ASK, KEY, MODELS, PROVIDERS


def config(provider: LLMProvider, **more: Any) -> ModelConfig:
    given = {"provider": provider, "model": MODELS[provider], **more}
    if provider is LLMProvider.CUSTOM:
        given.setdefault("api_base", "https://models.example/v1")
    return ModelConfig(**given)


def test_every_provider_has_an_adapter() -> None:
    """One row for each member of the enumeration."""
    assert set(ADAPTERS) == set(LLMProvider)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_adapter_knows_its_deployment(provider: LLMProvider) -> None:
    """It stands in every error."""
    adapter = create_adapter(config(provider), deployment="river")

    assert type(adapter) is ADAPTERS[provider]
    assert adapter.config.provider is provider
    assert adapter.deployment == "river"
    assert adapter.named() == {"provider": provider.value, "deployment": "river"}


def test_the_public_names_are_there_and_nothing_else() -> None:
    """`__all__` is sorted, complete, and importable."""
    public = [name for name in vars(adapters) if not name.startswith("_")]
    modules = {name for name in public if inspect.ismodule(getattr(adapters, name))}

    assert adapters.__all__ == sorted(
        adapters.__all__, key=lambda name: (name.upper() != name, name)
    )
    assert set(adapters.__all__) == set(public) - modules


@pytest.mark.parametrize(
    ("provider", "base", "variables"),
    [
        ("openai", "https://api.openai.com/v1", ["OPENAI_API_KEY"]),
        ("anthropic", "https://api.anthropic.com", ["ANTHROPIC_API_KEY"]),
        (
            "google",
            "https://generativelanguage.googleapis.com",
            ["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        ),
        ("cohere", "https://api.cohere.com", ["COHERE_API_KEY", "CO_API_KEY"]),
        ("mistral", "https://api.mistral.ai/v1", ["MISTRAL_API_KEY"]),
    ],
)
def test_the_docstring_says_where_the_base_and_the_key_come_from(
    provider: str, base: str, variables: list[str]
) -> None:
    """And it is so."""
    adapter = ADAPTERS[LLMProvider(provider)]
    assert issubclass(adapter, LiteLLMAdapter)

    assert adapter.default_base == base
    assert list(adapter.key_variables) == variables
    assert f"`{base}`" in (adapter.__doc__ or "")
    assert f"`{variables[0]}`" in (adapter.__doc__ or "")


@pytest.mark.parametrize("provider", [p for p in PROVIDERS if p is not LLMProvider.CUSTOM])
async def test_without_a_key_nothing_is_called(
    provider: LLMProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable; litellm is not even asked."""
    adapter = create_adapter(config(provider), deployment="river")
    assert isinstance(adapter, LiteLLMAdapter)
    names = adapter.key_variables

    assert not adapter.is_available()
    with pytest.raises(AuthenticationFailed, match=f"river: no key: set {' or '.join(names)}, or"):
        await adapter.complete(ASK)

    for name in reversed(names):  # each alone is enough
        with monkeypatch.context() as patch:
            patch.setenv(name, KEY)
            assert adapter.is_available()
    assert not adapter.is_available()


async def test_a_key_may_be_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read when a call is made, not when the file is read."""
    adapter = create_adapter(config(LLMProvider.OPENAI, api_key="${RIVER_KEY}"))

    assert not adapter.is_available()
    with pytest.raises(AuthenticationFailed, match="RIVER_KEY is not set"):
        await adapter.complete(ASK)

    monkeypatch.setenv("RIVER_KEY", KEY)
    assert adapter.is_available()


async def test_an_address_may_be_a_reference() -> None:
    """One that is not set is the configuration's fault."""
    adapter = create_adapter(
        config(LLMProvider.CUSTOM, api_base="http://${RIVER_HOST}/v1"), deployment="river"
    )

    assert adapter.is_available()  # a server of one's own needs no key
    with pytest.raises(InvalidRequest, match="river: environment variable RIVER_HOST is not set"):
        await adapter.complete(ASK)


async def test_an_adapter_that_never_called_closes() -> None:
    """There is nothing to give up."""
    adapter: BaseAdapter = create_adapter(config(LLMProvider.OPENAI, api_key=KEY))

    await adapter.aclose()
    await adapter.aclose()
