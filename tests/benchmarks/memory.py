"""Measure whether memory stays flat over many calls, with every guard on.

    python tests/benchmarks/memory.py [--calls 100000] [--every 10000]

Streams and plain runs, journal, ledger in a file, cache, budgets; a mock answers. Prints, every so
many calls, what the process holds: all of it as the system counts it, files that are mapped
included, and the blocks that Python's objects take. Ends with the growth since the first tenth.
"""

import argparse
import asyncio
import gc
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from adapters import MockAdapter, Usage
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger

AT_ONCE = 20
NAMES = ("one", "two", "three")
USAGE = Usage(prompt_tokens=10, completion_tokens=20)


def configured(folder: Path) -> OrchestratorConfig:
    """Everything that can be switched on."""
    plenty = {"money_usd": 10**6, "tokens": 10**12, "calls": 10**9}
    price = {"input_usd": "0.01", "output_usd": "0.1"}
    rates = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12}
    return OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": "openai", "model": name, "price": price, "rates": rates}
                for name in NAMES
            },
            "routes": {"both": {"models": ["one", "two"], "hedge": True}},
            "panels": {"all": {"members": list(NAMES), "pattern": "compare"}},
            "budgets": {
                "per_run": plenty,
                "windows": [
                    {"scope": scope, "every": "day", **plenty}
                    for scope in ("global", "key", "deployment")
                ],
            },
            "cache": {"folder": str(folder / "cache"), "size_mb": 16},
        }
    )


@asynccontextmanager
async def engine(folder: Path) -> AsyncIterator[EnhancedOrchestrator]:
    """An engine with every guard on. Mocks forget what they were asked."""
    mocks = {
        name: Forgetful([Reply(text=f"{name}: " + "word " * 60, usage=USAGE)]) for name in NAMES
    }
    async with (
        Ledger(f"sqlite:///{folder}/ledger.db") as ledger,
        EnhancedOrchestrator(
            configured(folder), adapters=mocks, journal=Journal(folder / "runs"), ledger=ledger
        ) as made,
    ):
        yield made


class Forgetful(MockAdapter):
    """One that keeps nothing of what it was asked."""

    def _next_reply(self, request):  # type: ignore[no-untyped-def]
        reply = super()._next_reply(request)
        self.requests.clear()
        return reply


async def call(of: EnhancedOrchestrator, number: int, folder: Path) -> int:
    """One run, of one call or of four; how many calls it made."""
    model = ("one", "both", "all")[number % 3]
    tenant = f"tenant {number % 50}"
    request = RequestConfig(prompt=f"Why, {number}?", model=model, tenant=tenant, max_tokens=100)
    if number % 2:
        receipt = (await of.execute_request(request)).receipt
    else:
        async with aclosing(of.stream_request(request)) as events:
            receipt = [event async for event in events][-1].response.receipt  # type: ignore[union-attr]
    (folder / "runs" / f"{receipt.run_id}.jsonl").unlink()
    return receipt.calls


async def run(of: EnhancedOrchestrator, folder: Path, first: int, calls: int) -> int:
    """So many calls or a few more; the number of the next run."""
    made, number = 0, first
    while made < calls:
        numbers = range(number, number + AT_ONCE)
        made += sum(await asyncio.gather(*(call(of, one, folder) for one in numbers)))
        number += AT_ONCE
    return number


def blocks() -> int:
    """How many pieces of memory Python's objects take."""
    gc.collect()
    return sys.getallocatedblocks()


def resident_mb() -> float:
    """What the process holds now, or ever held where the system does not say."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


async def measure(calls: int, every: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with engine(folder) as of:
            number = await run(of, folder, 0, calls // 10)
            first_mb, first = resident_mb(), blocks()
            for made in range(0, calls + 1, every):
                print(f"{made:>9,} calls: {resident_mb():6.1f} MB, {blocks():,} blocks", flush=True)
                number = await run(of, folder, number, every)
            print(f"growth: {resident_mb() - first_mb:+.1f} MB, {blocks() - first:+,} blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=10_000)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.calls, arguments.every))


if __name__ == "__main__":
    main()
