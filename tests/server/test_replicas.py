"""Two gateways in processes of their own that share one Redis, one ledger and stored replies."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.server.keys import KeyFile
from tests.redis_server import RedisServer

CONFIG = """\
models:
  first: {{{model}, rates: {{requests_per_minute: 8}}}}
  second: {{{model}, rates: {{requests_per_minute: 8}}}}
  third: {{{model}, rates: {{requests_per_minute: 8}}}}
  often: {{{model}, rates: {{requests_per_minute: 1000000}}}}
  held: {{{model}}}
timeouts: {{first_content_s: 30, run_s: 30, total_s: 30}}
limits: {{url: "{url}", timeout_s: 40}}
"""
MODEL = 'provider: custom, model: m, api_base: "http://127.0.0.1:9/v1", price: free'
PROGRAM = Path(__file__).parents[1] / "replica.py"
Clients = Sequence[httpx.AsyncClient]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both have what they share."""
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def keys(folder: Path) -> KeyFile:
    """The keys of both; there is one, so that everybody needs one."""
    file = KeyFile(folder / "keys.json")
    file.create("first")
    return file


@pytest.fixture(scope="module")
def ports(redis_server: RedisServer, keys: KeyFile, folder: Path) -> Iterator[list[int]]:
    """Two gateways, started together."""
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(model=MODEL, url=redis_server.url))
    words = [str(word) for word in (PROGRAM, config, keys.path, folder)]
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(folder / "home")}
    running = [
        subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    try:
        yield [int(process.stdout.readline()) for process in running if process.stdout]
    finally:
        for process in running:
            process.terminate()
        assert [process.wait() for process in running] == [0, 0]
        for process in running:
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
async def replicas(ports: list[int], keys: KeyFile) -> AsyncIterator[Clients]:
    """Clients of both, with a key of this test."""
    async with AsyncExitStack() as stack:
        headers = {"authorization": f"Bearer {keys.create('acme').key}"}
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)
            )
            for port in ports
        ]


async def chat(client: httpx.AsyncClient, model: str, **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return await client.post("/v1/chat/completions", json=body, headers=headers)


async def answered(clients: Clients, model: str, **headers: str) -> int:
    """How many of six calls at once of each gateway are answered; none is answered otherwise."""
    replies = await asyncio.gather(
        *(chat(client, model, **headers) for client in clients for _ in range(6))
    )
    assert {reply.status_code for reply in replies} <= {200, 429}
    return sum(reply.status_code == 200 for reply in replies)


async def ready(client: httpx.AsyncClient) -> Any:
    reply = await client.get("/ready")
    assert reply.status_code == 200
    return reply.json()


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happens():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)


async def test_rates_hold_over_all_replicas_and_without_redis_calls_go_on(
    replicas: Clients, redis_server: RedisServer
) -> None:
    """Killed in the middle it costs nobody an answer, and when it is back it counts again."""
    together = await answered(replicas, "first")
    for client in replicas:  # by now each has heard of the other
        assert (await chat(client, "often")).status_code == 200
    fine = [await ready(client) for client in replicas]

    redis_server.kill()
    alone = [await answered([client], "second") for client in replicas]
    told = [await ready(client) for client in replicas]
    metrics = [(await client.get("/metrics")).text for client in replicas]

    redis_server.start()
    async with asyncio.timeout(60):
        for client in replicas:
            while "limits" in await ready(client):
                assert (await chat(client, "often")).status_code == 200
    again = await answered(replicas, "third")

    assert together == 8
    assert fine == [{"status": "ok"}] * 2
    assert alone == [4, 4]  # a half each
    assert [list(said) for said in told] == [["status", "limits"]] * 2
    assert all("orchestrator_limits_alone 1.0" in text for text in metrics)
    assert again == 8


async def test_limits_of_a_key_hold_over_all_replicas(replicas: Clients, keys: KeyFile) -> None:
    """Whichever is asked, the key has its minute once, and its headers tell of all."""
    made = keys.create("acme", requests_per_minute=7).key
    headers = {"authorization": f"Bearer {made}"}

    total = await answered(replicas, "often", **headers)
    refused = [await chat(client, "often", **headers) for client in replicas]

    assert total == 7
    assert [reply.status_code for reply in refused] == [429, 429]
    assert {reply.headers["x-ratelimit-remaining-requests"] for reply in refused} == {"0"}


async def test_a_key_of_idempotency_is_one_for_all_replicas(
    replicas: Clients, folder: Path
) -> None:
    """A twin of what another is answering is told so; afterwards it is given that reply."""
    one, other = replicas
    headers = {"idempotency-key": "once"}
    answering = asyncio.create_task(chat(one, "held", **headers))
    await until((folder / "held").exists)

    twin = await chat(other, "held", **headers)
    (folder / "let-go").touch()
    answer = await answering
    replayed = await chat(other, "held", **headers)

    assert (twin.status_code, twin.json()["error"]["code"]) == (409, "idempotency_in_progress")
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (200, "true")
    assert replayed.content == answer.content
