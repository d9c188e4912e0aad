"""Do everything that may tell a secret, with every log there is turned up, for a test to read.

    python tests/telling.py CONFIG

Runs every deployment of a configuration, in one piece and streamed, with journal, ledger and cache,
and prints whatever comes of it.
"""

import asyncio
import logging
import sys
import traceback
from contextlib import aclosing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator import EnhancedOrchestrator, RequestConfig, load_config
from orchestrator.config import runs_folder
from orchestrator.journal import Journal


def turn_everything_up() -> None:
    """Show what all loggers say, those of litellm and of what it is built on too."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
        logger.propagate = True


async def ask(engine: EnhancedOrchestrator, name: str, *, is_live: bool) -> None:
    """One run; everything about it is printed."""
    request = RequestConfig(prompt=f"Why, {name}? {is_live}", model=name, max_tokens=50)
    try:
        if not is_live:
            print((await engine.execute_request(request)).receipt.to_json().decode())
            return
        async with aclosing(engine.stream_request(request)) as events:
            async for event in events:
                print(event)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is shown whole
        traceback.print_exception(error)
        print(repr(error), vars(error))


async def tell(path: str) -> None:
    config = load_config(path)
    async with EnhancedOrchestrator(config, journal=Journal(runs_folder())) as engine:
        for place, name in enumerate(config.models):
            await ask(engine, name, is_live=False)
            if place < 2:
                turn_everything_up()  # now that litellm is there
            await ask(engine, name, is_live=True)
        print(engine.breakers(), engine.list_models().keys())
        print((await engine.quote(RequestConfig(prompt="Why?", model=name))).to_json().decode())


if __name__ == "__main__":
    turn_everything_up()
    asyncio.run(tell(sys.argv[1]), debug=True)
