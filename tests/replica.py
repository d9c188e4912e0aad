"""A gateway in a process of its own, as `orchestrator serve` runs it, with models that say a word.

    python tests/replica.py CONFIG KEYS FOLDER

It says its port. A model named `held` touches the file `held` in FOLDER, and answers once there is
a file `let-go`.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters import MockAdapter
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator
from orchestrator.config import load_config
from orchestrator.server import run


def main() -> None:
    config, keys, folder = map(Path, sys.argv[1:])

    async def until_let_go(_: float) -> None:
        (folder / "held").touch()
        while not (folder / "let-go").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)

    models = {
        name: MockAdapter([Reply(text="Word.", delay_s=float(name == "held"))], config=model)
        for name, model in load_config(config).models.items()
    }
    models["held"]._sleep = until_let_go
    run.EnhancedOrchestrator = partial(  # type: ignore[misc]
        EnhancedOrchestrator, adapters=models
    )
    planned = run.plan(config, host="127.0.0.1", keys=keys)
    with run.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        run.serve(planned, listening, started=lambda: print(port, flush=True))


if __name__ == "__main__":
    main()
