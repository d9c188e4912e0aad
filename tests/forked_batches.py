"""Batches that a test may kill: each in a process of its own, forked from one that is warm.

    python tests/forked_batches.py

Reads one line of JSON for each batch from the standard input, and answers with its process's
number.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters import _litellm
from orchestrator import OrchestratorConfig
from orchestrator.batch.job import run_batch
from tests import batching


def run(told: dict[str, Any]) -> None:
    config = OrchestratorConfig.model_validate(told["config"])
    rows, output = Path(told["rows"]), Path(told["output"])
    run_batch(batching.order(config, rows, output, **told["more"]), batching.Watching())


def serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    asyncio.run(_litellm.load())
    print("warm", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run(json.loads(line))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
