"""A gateway on a port of its own, in a thread of its own, for those who wait for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from adapters import preload
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.blocking import LoopThread
from orchestrator.clock import SystemClock, new_nonce
from orchestrator.server.app import create_app
from orchestrator.server.keys import KeyFile
from orchestrator.server.protocol import protocol
from orchestrator.server.run import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A gateway that runs. `engine` belongs to the loop of `thread`."""

    engine: EnhancedOrchestrator
    port: int
    thread: LoopThread

    @property
    def base_url(self) -> str:
        """What the SDKs of Anthropic's kind are pointed at; those of OpenAI's add `/v1`."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(
    config: OrchestratorConfig,
    *,
    nonce: Callable[[], str] = new_nonce,
    keys: KeyFile | None = None,
) -> Iterator[Served]:
    """The gateway over an engine, for as long as a block lasts."""
    thread, ready = LoopThread(), threading.Event()
    thread.run(preload())  # whoever asks first waits for an answer, and not for litellm
    engine = EnhancedOrchestrator(config, nonce=nonce, keeps_receipts=True)
    gate = create_app(engine, keys=keys, is_open=True)
    settings = uvicorn.Config(
        gate,
        port=0,
        http=protocol(head_s=60, head_bytes=2**17),
        ws="none",
        lifespan="on",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = Server(settings, gate, drain_s=1, started=ready.set, signals=(), clock=SystemClock())
    serving = thread.submit(server.serve())
    try:
        assert ready.wait(60)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(engine=engine, port=port, thread=thread)
    finally:
        thread.run(_end(server))
        serving.result(60)
        thread.stop()


async def _end(server: Server) -> None:
    server.end()
    server.end()
