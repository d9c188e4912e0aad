"""litellm prepares our calls in the loop's own thread, where that is quick, and nobody else's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adapters import CompletionRequest, LLMProvider, ModelConfig, collect
from adapters import _litellm as door
from adapters._in_place import MOST_TOGETHER, sort_of
from orchestrator.simulator import Simulator
from tests.adapters.conftest import Opened

MODELS = {
    LLMProvider.OPENAI: "gpt-4.1-mini",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: "command-a-03-2025",
    LLMProvider.MISTRAL: "mistral-small-latest",
    LLMProvider.CUSTOM: "gpt-4.1-mini",
}
QUESTION = {"role": "user", "content": "Which river is longest?"}
SHORT = CompletionRequest(messages=[QUESTION])
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


class Counting(ThreadPoolExecutor):
    """A thread pool that knows how much was given to it."""

    given = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        self.given += 1
        return super().submit(function, *arguments, **named)


@pytest.fixture
async def pool() -> AsyncIterator[Counting]:
    """The loop's own, so that whatever is handed to a thread is seen."""
    await door.load("sdk")
    pool = Counting()
    asyncio.get_running_loop().set_default_executor(pool)
    yield pool
    pool.shutdown()


def config_of(provider: LLMProvider, simulator: Simulator) -> ModelConfig:
    return ModelConfig(
        provider=provider,
        model=MODELS[provider],
        api_key="simulated-key",  # type: ignore[arg-type]  # pydantic makes it a secret
        api_base=simulator.base_url(provider),
    )


@pytest.mark.parametrize("provider", MODELS)
async def test_a_call_is_prepared_where_it_is_made(
    provider: LLMProvider, pool: Counting, opened: Opened
) -> None:
    """All but the first of its sort, which may import."""
    async with Simulator() as simulator:
        adapter = opened(config_of(provider, simulator))
        await adapter.complete(SHORT)
        await collect(adapter.stream(SHORT))
        before = pool.given
        await asyncio.gather(*(adapter.complete(SHORT) for _ in range(5)))
        await collect(adapter.stream(SHORT))

    assert pool.given == before


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": r, "content": "?"} for r in ["user", "assistant"] * (MOST_TOGETHER // 2)]
        + [QUESTION],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ],
            }
        ],
    ],
    ids=["many messages", "a picture"],
)
async def test_what_may_take_long_is_prepared_in_a_thread(
    messages: list[dict[str, Any]], pool: Counting, opened: Opened
) -> None:
    """Each time, so that whatever else the loop has to do goes on meanwhile."""
    async with Simulator() as simulator:
        adapter = opened(config_of(LLMProvider.ANTHROPIC, simulator))
        request = CompletionRequest(messages=messages)
        await adapter.complete(request)
        before = pool.given
        await adapter.complete(request)

    assert pool.given > before


async def test_calls_of_others_are_left_to_themselves(pool: Counting) -> None:
    """A program that runs litellm itself finds it as it is, with its threads and its bridge."""
    import litellm

    await litellm.acompletion(model="openai/none", messages=[QUESTION], mock_response="Hello.")
    checked, name = litellm.main.responses_api_bridge_check("responses/gpt-5", "openai")

    assert pool.given == 1
    assert (checked["mode"], name) == ("responses", "gpt-5")


def test_a_sort_is_of_one_provider_one_way_and_the_same_fields() -> None:
    """Other fields, other code, which may have something to import."""
    fields = {"model": "anthropic/claude", "messages": [QUESTION]}

    assert sort_of("sdk", fields) == sort_of("sdk", {**fields, "model": "anthropic/other"})
    assert sort_of("sdk", fields) != sort_of("sdk", {**fields, "model": "gemini/other"})
    assert sort_of("sdk", fields) != sort_of("handler", fields)
    assert sort_of("sdk", fields) != sort_of("sdk", {**fields, "stream": True})
    assert sort_of("sdk", {**fields, "tools": [{}] * MOST_TOGETHER}) is None
