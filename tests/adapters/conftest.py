"""Adapters for tests, and nothing of theirs left on the loop afterwards."""

import asyncio
import gc
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
    adapters.clear()
    await sweep_the_loop()


async def sweep_the_loop() -> None:
    """End what litellm and the openai SDK leave behind: a worker, and streams nobody closed."""
    gc.collect(1)
    for _ in range(20):  # a generator inside a generator takes a turn each
        await asyncio.sleep(0)
    workers = [task for task in asyncio.all_tasks() if "LoggingWorker" in repr(task.get_coro())]
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
