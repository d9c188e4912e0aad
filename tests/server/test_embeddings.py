"""Embeddings over a socket, as openai's own clients ask for them."""

import asyncio

import openai

from tests.server.conftest import Serving

TEXTS = ["a tree", "a house"]


async def test_both_stock_clients_get_the_same_vectors(serving: Serving) -> None:
    """The synchronous one, and the asynchronous one."""
    async with serving() as gateway:
        about = {"api_key": "k", "base_url": f"http://127.0.0.1:{gateway.port}/v1"}
        async with openai.AsyncOpenAI(**about, max_retries=0) as client:  # type: ignore[arg-type]
            found = await client.embeddings.create(model="one", input=TEXTS)
        with openai.OpenAI(**about, max_retries=0) as waiting:  # type: ignore[arg-type]
            same = await asyncio.to_thread(
                waiting.embeddings.create, model="one", input=TEXTS, encoding_format="float"
            )

    assert [len(one.embedding) for one in found.data] == [8, 8]
    assert same.data == found.data
    assert [exchange.path for exchange in gateway.seen] == ["/v1/embeddings"] * 2
