"""Adapters for tests, closed when the test is over."""

from collections.abc import AsyncIterator, Callable

import pytest

from adapters import BaseAdapter, ModelConfig, create_adapter

Opened = Callable[[ModelConfig], BaseAdapter]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Makes adapters, and closes them at the end of the test."""
    adapters: list[BaseAdapter] = []

    def open_adapter(config: ModelConfig) -> BaseAdapter:
        adapters.append(create_adapter(config, deployment=f"test-{config.provider}"))
        return adapters[-1]

    yield open_adapter
    for adapter in adapters:
        await adapter.aclose()
