"""Measure for how long the gateway's loop stands still at most, while it is under load.

    python tests/benchmarks/stalls.py [--seconds 20] [--at-once 200]

Keys, ledger and cache are on and a mock answers. Beside ordinary requests, plain and streamed, come
the largest that are taken: ten megabytes of text, ten of values, as many messages as there may be.
Prints, for each kind alone and for all together, how late a task that wants to run every
millisecond was: the median, the 99.9th percentile, the worst.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from adapters import MockAdapter
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.garbage import collect_seldom
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from tests.asking import JSON_KIND, ask

TICK_S = 0.001
HELLO: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
CONFIG: Mapping[str, Any] = {
    "models": {
        "one": {
            "provider": "openai",
            "model": "gpt-5-mini",
            "price": {"input_usd": "0.001", "output_usd": "0.001"},
        }
    },
    "ledger": {},
    "cache": {},
}


def chat(**more: Any) -> bytes:
    return json.dumps({"model": "one", "messages": HELLO, **more}).encode()


KINDS: Mapping[str, bytes] = {
    "ordinary": chat(),
    "streamed": chat(stream=True),
    "text of 9 MB": chat(messages=[{"role": "user", "content": "word " * 1_900_000}]),
    "values of 9 MB": chat(thinking={"a": [1] * 3_000_000}),
    "100,000 wrong values": chat(tools=[1] * 99_000),
    "10,000 messages": chat(messages=HELLO * 10_000),
}


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Gate, str]]:
    """A gateway with everything on, and a key to it."""
    keys = KeyFile(folder / "keys.json")
    key = keys.create("alice", tokens_per_minute=10**15).key
    config = OrchestratorConfig.model_validate(CONFIG)
    one = MockAdapter(["word " * 100], config=config.models["one"], deployment="one")
    async with EnhancedOrchestrator(config, adapters={"one": one}, keeps_receipts=True) as engine:
        yield create_app(engine, keys=keys), key


async def beat(late_s: list[float]) -> None:
    """Run every millisecond, and keep by how much that did not come true."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s.append(loop.time() - due_s)


async def load(gate: Gate, key: str, bodies: list[bytes], *, at_once: int, seconds: float) -> int:
    """Ask for so long, so many at once; how many were answered."""
    head = {**JSON_KIND, "authorization": f"Bearer {key}"}
    loop, places = asyncio.get_running_loop(), count()
    ends_s = loop.time() + seconds

    async def caller() -> None:
        while loop.time() < ends_s:
            body = bodies[next(places) % len(bodies)]
            await ask(gate, "POST", "/v1/chat/completions", body, head)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return next(places)


async def measure(name: str, bodies: list[bytes], *, at_once: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORCHESTRATOR_HOME"] = folder
        async with gateway(Path(folder)) as (gate, key):
            await load(gate, key, [KINDS["ordinary"]], at_once=1, seconds=0.5)
            late_s: list[float] = []
            beating = asyncio.create_task(beat(late_s))
            answered = await load(gate, key, bodies, at_once=at_once, seconds=seconds)
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
    cuts = statistics.quantiles(late_s, n=1000)
    figures = (statistics.median(late_s), cuts[-1], max(late_s))
    told = "  ".join(f"{figure * 1000:8.1f}" for figure in figures)
    print(f"{name:22} {answered:6} answered   {told} ms late: median, 99.9 %, worst", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--at-once", type=int, default=200)
    asked = parser.parse_args()
    collect_seldom()  # as the server does
    for name, body in KINDS.items():
        few = asked.at_once if name in ("ordinary", "streamed") else 1
        asyncio.run(measure(name, [body], at_once=few, seconds=asked.seconds / len(KINDS)))
    mixed = [KINDS["ordinary"], KINDS["streamed"]] * 100 + list(KINDS.values())
    asyncio.run(measure("all", mixed, at_once=asked.at_once, seconds=asked.seconds))


if __name__ == "__main__":
    main()
