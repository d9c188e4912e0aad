"""The gateway with keys: their limits, budgets and stored replies hold over HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters import MockAdapter
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.server.app import create_app
from orchestrator.server.keys import KeyFile

BODY = {"model": "gpt", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 50}
Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Clients of one gateway, each with a key that has the limits given."""
    price = {"input_usd": 1, "output_usd": 10}
    config = OrchestratorConfig.model_validate(
        {"models": {"gpt": {"provider": "openai", "model": "gpt", "price": price}}}
    )
    gpt = MockAdapter(["One.", "Two.", "Three."], config=config.models["gpt"], deployment="gpt")
    keys = KeyFile(tmp_path / "keys.json")
    gate = create_app(EnhancedOrchestrator(config, adapters={"gpt": gpt}), keys=keys)
    pages: Any = gate._inner

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with pages.router.lifespan_context(pages):
            yield

    def make(tenant: str = "acme", **limits: object) -> httpx.AsyncClient:
        key = keys.create(tenant, **limits).key
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(gate),
            base_url="http://127.0.0.1",
            headers={"authorization": f"Bearer {key}"},
        )

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running())
        yield make


async def ask(client: httpx.AsyncClient, key: str | None = None, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await client.post("/v1/chat/completions", json={**BODY, **more}, headers=headers)


async def test_a_keys_requests_a_minute_hold_over_http(client: Client) -> None:
    """429 with OpenAI's headers; another key goes on."""
    async with client(requests_per_minute=1) as one, client("beta") as other:
        first, second, third = await ask(one), await ask(one), await ask(other)

    assert [reply.status_code for reply in (first, second, third)] == [200, 429, 200]
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(second.headers["retry-after"]) > 50
    assert second.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_keys_money_for_a_day_holds_over_http(client: Client) -> None:
    """429 as for any budget; another tenant's key goes on."""
    async with client(money_usd_per_day="0.0001") as one, client("beta") as other:
        first, second = await ask(one), await ask(other)

    assert (first.status_code, second.status_code) == (429, 200)
    assert first.json()["error"]["code"] == "budget_exceeded"


async def test_streams_of_a_key_are_counted_until_they_end(client: Client) -> None:
    """One after another is no more than one at a time."""
    async with client(open_streams=1) as one:
        replies = [await ask(one, stream=True) for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200] * 3
    assert all(reply.text.endswith("data: [DONE]\n\n") for reply in replies)


async def test_an_idempotency_key_holds_over_http_and_for_its_sender_alone(client: Client) -> None:
    """The same reply to who sent it; a run of its own to another key of the tenant, or another's.

    What one key of a tenant may ask for another may not, and a stored reply is asked of nobody.
    """
    async with client() as one, client() as twin, client("beta") as other:
        first, second = await ask(one, "k-1"), await ask(one, "k-1")
        wrong = await ask(one, "k-1", max_tokens=51)
        beside = await ask(twin, "k-1")
        theirs = await ask(other, "k-1")

    assert second.headers["idempotent-replayed"] == "true"
    assert second.content == first.content
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "idempotency_error")
    for another in (beside, theirs):
        assert "idempotent-replayed" not in another.headers
        assert another.json()["id"] != first.json()["id"]


async def test_a_key_is_refused_from_the_moment_it_is_revoked(
    client: Client, tmp_path: Path
) -> None:
    """The next request of a client that was let in before."""
    async with client() as one:
        before = await ask(one)
        keys = KeyFile(tmp_path / "keys.json")
        keys.revoke(keys.list()[0].id)
        after = await ask(one)

    assert (before.status_code, after.status_code) == (200, 401)
