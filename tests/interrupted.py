"""Runs that a test may kill: each in a process of its own, forked from one that is warm.

    python tests/interrupted.py

Reads one line of JSON for each run from the standard input, and answers with its process's number.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters import _litellm
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.events import Event, RunFinished
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.responses import OrchestratorResponse


def engine(config: OrchestratorConfig, folder: Path, ledger: Ledger) -> EnhancedOrchestrator:
    """One whose fences are the same in every process, so that equal runs ask the same."""
    return EnhancedOrchestrator(
        config, journal=Journal(folder / "runs"), ledger=ledger, nonce=lambda: "0" * 32
    )


def ledger_in(folder: Path) -> Ledger:
    return Ledger(f"sqlite:///{folder / 'ledger.db'}")


async def answer(events: AsyncGenerator[Event, None]) -> OrchestratorResponse:
    """What a run comes to. It is streamed, as one that is resumed is."""
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, RunFinished):
                return event.response
    raise AssertionError("a run ends with RunFinished or with an error")


async def run(order: dict[str, Any]) -> None:
    folder = Path(order["folder"])
    config = OrchestratorConfig.model_validate(order["config"])
    request = RequestConfig.model_validate(order["request"])
    async with ledger_in(folder) as ledger, engine(config, folder, ledger) as made:
        await answer(made.stream_request(request))


def serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    asyncio.run(_litellm.load())
    print("warm", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(run(json.loads(line)))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
