"""A call that is given up leaves nothing behind, whenever that happens."""

import asyncio
import gc
import warnings

import pytest

from adapters import CompletionRequest, LLMProvider, ModelConfig, collect, create_adapter
from adapters import _litellm as door
from orchestrator.simulator import Simulator

REQUEST = CompletionRequest(messages=[{"role": "user", "content": "Which river is longest?"}])
MODELS = {
    LLMProvider.OPENAI: "gpt-4.1-mini",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: "command-a-03-2025",
    LLMProvider.MISTRAL: "mistral-small-latest",
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", MODELS)
async def test_a_call_cancelled_at_any_moment_leaves_no_coroutine_behind(
    provider: LLMProvider, streamed: bool
) -> None:
    """Cancelled 0 to 20 ms after it began: while litellm prepares, sends, waits and reads."""
    await door.load()
    async with Simulator() as simulator:
        config = ModelConfig(
            provider=provider,
            model=f"{MODELS[provider]}--10ms",
            api_key="simulated-key",  # type: ignore[arg-type]  # pydantic makes it a secret
            api_base=simulator.base_url(provider),
        )
        adapter = create_adapter(config)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for moment in range(40):
                asked = collect(adapter.stream(REQUEST)) if streamed else adapter.complete(REQUEST)
                task = asyncio.ensure_future(asked)
                await asyncio.wait({task}, timeout=moment / 2000)
                task.cancel()
                await asyncio.wait({task})
            gc.collect()
        await adapter.aclose()

    assert [str(one.message) for one in seen if "never awaited" in str(one.message)] == []


async def test_a_call_cancelled_before_its_request_sends_none() -> None:
    """What nobody waits for any more is not asked, and not paid."""
    await door.load()
    async with Simulator() as simulator:
        config = ModelConfig(
            provider=LLMProvider.ANTHROPIC,
            model="claude-haiku-4-5",
            api_key="simulated-key",  # type: ignore[arg-type]  # pydantic makes it a secret
            api_base=simulator.base_url(LLMProvider.ANTHROPIC),
        )
        adapter = create_adapter(config)
        task = asyncio.ensure_future(adapter.complete(REQUEST))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await simulator.settled()
        await adapter.aclose()

        assert task.cancelled()
        assert list(simulator.requests) == []


async def test_whoever_gives_a_call_up_does_not_wait_for_litellm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread may be slow; closing the adapter waits, so that nothing is left behind."""
    await door.load()
    is_let_go = asyncio.Event()

    async def slow(**fields: object) -> None:
        await is_let_go.wait()
        raise ValueError("nobody is interested")

    config = ModelConfig(
        provider=LLMProvider.ANTHROPIC,
        model="claude-haiku-4-5",
        api_key="simulated-key",  # type: ignore[arg-type]  # pydantic makes it a secret
    )
    adapter = create_adapter(config)
    with monkeypatch.context() as patched:
        patched.setattr(door._litellm, "acompletion", slow)
        task = asyncio.ensure_future(adapter.complete(REQUEST))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled()

    closing = asyncio.ensure_future(adapter.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    is_let_go.set()
    await closing
