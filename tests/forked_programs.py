"""Programs that a test may kill: each in a process of its own, forked from one that is warm.

    python tests/forked_programs.py

Reads one line of JSON for each program from the standard input, `{"module", "words"}`: the module's
`main` is called with the words, as a shell would. Answers with its process's number.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters import _litellm

LOADED = (
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "orchestrator.batch.cluster",
    "orchestrator.cli.batch_run",
    "orchestrator.enhanced",
)


def run(told: dict[str, Any]) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for one in (0, 1, 2):
        os.dup2(nowhere, one)
    importlib.import_module(told["module"]).main(told["words"])


def serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for module in LOADED:
        importlib.import_module(module)
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
