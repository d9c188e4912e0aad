"""The first real call finds litellm ready: what is slow about it was done in the loading thread."""

import subprocess
import sys

FIRST_CALLS = """
import asyncio, sys
import httpx
from adapters import CompletionRequest, LLMProvider, ModelConfig, ProviderError, create_adapter

ASK = CompletionRequest(messages=[{"role": "user", "content": "hi"}])

async def main():
    late = 0
    for provider in LLMProvider:
        base = "http://127.0.0.1/v1" if provider == "custom" else None
        config = ModelConfig(provider=provider, model="m", api_key="none", api_base=base)
        adapter = create_adapter(config)
        transport = httpx.MockTransport(lambda request: httpx.Response(400, json={}))
        adapter._connected().pool = lambda: transport
        await adapter.warm(ASK)
        ready = set(sys.modules)
        try:
            await adapter.complete(ASK)
        except ProviderError:
            pass
        late += len(set(sys.modules) - ready)
    print(late, "litellm.litellm_core_utils.default_encoding" in sys.modules)

asyncio.run(main())
"""


def test_first_calls_import_next_to_nothing() -> None:
    """Six first calls load a handful of modules; unprepared, OpenAI's alone loads 470."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True
    )

    late, has_read_the_tokenizer = done.stdout.split()
    assert int(late) < 60
    assert has_read_the_tokenizer == "False"
