"""Ask a gateway for everything that may tell a secret, with every log there is turned up.

    python tests/server/telling.py CONFIG KEYS < KEY-PRESENTED-ON-EACH-LINE

Every deployment of a configuration is asked for by every endpoint, whole and streamed, with each
key that is presented; then the pages are. Prints whatever comes of it, line, headers and body.
"""

import asyncio
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orchestrator import EnhancedOrchestrator, load_config
from orchestrator.server import logs
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from tests.asking import JSON_KIND, ask
from tests.telling import turn_everything_up

HELLO: list[Any] = [{"role": "user", "content": "Why?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "Why?"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/orchestrations": {"prompt": "Why?"},
}
PAGES = ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing")


async def show(gate: Gate, path: str, head: dict[str, str], body: object = None) -> None:
    """Ask, and print what is said."""
    method, sent = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    print((await ask(gate, method, path, sent, {**JSON_KIND, **head})).whole)


def heads(key: str) -> tuple[dict[str, str], ...]:
    """The key in each place where one is looked for."""
    return {"authorization": f"Bearer {key}"}, {"x-api-key": key}


async def tell(config_path: str, keys_path: str, presented: list[str]) -> None:
    config, (key, *others) = load_config(config_path), presented
    async with EnhancedOrchestrator(config, keeps_receipts=True) as engine:
        watch = (logs.AccessLog(),)
        gate = create_app(engine, keys=KeyFile(Path(keys_path)), watch=watch)
        # Two endpoints for each deployment, in turn: all four for all of them take too long.
        for place, name in enumerate(config.models):
            for path in list(BODIES)[place % 2 :: 2]:
                body = {**BODIES[path], "model": name, "stream": place % 4 < 2}
                await show(gate, path, heads(key)[place % 2], body)
            if place == 0:
                turn_everything_up()  # now that litellm is there
        for one, path in product((key, *others), (*PAGES, *BODIES)):
            for head in heads(one):
                await show(gate, path, head, BODIES.get(path))


if __name__ == "__main__":
    turn_everything_up()
    asyncio.run(tell(sys.argv[1], sys.argv[2], sys.stdin.read().split()), debug=True)
