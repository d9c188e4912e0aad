"""The gateway on a port of its own, with models that answer from a script."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from adapters import BaseAdapter, MockAdapter, ModelConfig
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.clock import SystemClock
from orchestrator.config import LedgerConfig, PanelConfig, ServerConfig
from orchestrator.server.app import LOOPBACK, create_app
from orchestrator.server.gate import Exchange, Gate
from orchestrator.server.keys import KeyFile
from orchestrator.server.protocol import protocol
from orchestrator.server.run import Server

Serving = Callable[..., AbstractAsyncContextManager["Gateway"]]


class Held:
    """A pause that lasts until it is let go: in the place of a sleep."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ends = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, _: float) -> None:
        self.began.set()
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass(kw_only=True)
class Gateway:
    """A gateway that runs.

    Attributes:
        client: Asks it, without a key.
        mocks: Its models.
        seen: What its watchers were told.
    """

    server: Server
    gate: Gate
    engine: EnhancedOrchestrator
    port: int
    client: httpx.AsyncClient
    mocks: Mapping[str, BaseAdapter]
    keys: KeyFile
    serving: "asyncio.Task[None]"
    seen: list[Exchange] = field(default_factory=list)

    async def chat(self, *, model: str = "one", **more: Any) -> httpx.Response:
        """Ask a model."""
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; what comes back until the server hangs up or is done."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-len")),
                0,
            )
            return head + await reader.readexactly(length)
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """A file of keys, without any yet."""
    return KeyFile(tmp_path / "keys" / "keys.json")


@pytest.fixture
def serving(keys: KeyFile) -> Serving:
    """Starts a gateway, for as long as a block lasts."""

    @asynccontextmanager
    async def start(
        *,
        mocks: Mapping[str, BaseAdapter] | None = None,
        config: OrchestratorConfig | None = None,
        drain_s: float = 5.0,
        own_hosts: frozenset[str] = frozenset(LOOPBACK),
        **settings: Any,
    ) -> AsyncIterator[Gateway]:
        adapters = mocks or ({} if config else {"one": MockAdapter(["Hello there."])})
        limits = ServerConfig(**settings)
        config = config or OrchestratorConfig(
            models={
                name: ModelConfig(provider="openai", model=name, price="free") for name in adapters
            },
            panels={"all": PanelConfig(members=tuple(adapters))},
            ledger=LedgerConfig(),
        )
        config = config.model_copy(update={"server": limits})
        engine = EnhancedOrchestrator(config, adapters=adapters, keeps_receipts=True)
        told: list[Exchange] = []
        gate = create_app(engine, keys=keys, is_open=True, hosts=own_hosts, watch=(_Watch(told),))
        settled = uvicorn.Config(
            gate,
            port=0,
            http=protocol(head_s=limits.read_s, head_bytes=2 * limits.header_kb * 1024),
            ws="none",
            lifespan="on",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        ready = asyncio.Event()
        server = Server(
            settled, gate, drain_s=drain_s, started=ready.set, signals=(), clock=SystemClock()
        )
        task = asyncio.create_task(server.serve())
        await ready.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            try:
                yield Gateway(
                    server=server,
                    gate=gate,
                    engine=engine,
                    port=port,
                    client=client,
                    mocks=adapters,
                    keys=keys,
                    serving=task,
                    seen=told,
                )
            finally:
                await client.aclose()
                server.end()
                server.end()
                await task

    return start


class _Watch:
    def __init__(self, told: list[Exchange]) -> None:
        self._told = told

    def ended(self, exchange: Exchange) -> None:
        self._told.append(exchange)


@pytest.fixture
async def gateway(serving: Serving) -> AsyncIterator[Gateway]:
    """A gateway that lets everybody in, with one model."""
    async with serving() as running:
        yield running


@pytest.fixture
def held() -> Held:
    """A pause in the hands of the test."""
    return Held()


@pytest.fixture
def slow(held: Held) -> MockAdapter:
    """A model that does not begin to answer before it is let go."""
    return MockAdapter([Reply(text="At last.", delay_s=1)], sleep=held)
