"""Measure what a call found in the cache costs, beside a bare diskcache.

    python tests/benchmarks/cache.py [--calls 2000] [--rounds 15] [--characters 2000]

Prints the median and the best round, in microseconds a call, and the ratio of the medians of our
`get` and of diskcache's for a value of the same size. `hit` is what the engine does for an answer
that is there: its key, its place in the single flight, the answer.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import diskcache

from adapters import Completion, CompletionRequest, ModelConfig, Usage
from orchestrator.cache import CompletionCache, SingleFlight, cache_key
from orchestrator.cache_files import seal
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig

Round = Callable[[int], Awaitable[None]]

SECRET = bytes(32)
WRITES = 20  # one write for so many reads: they take longer
MODEL = ModelConfig(provider="openai", model="gpt-5-mini", api_base="http://127.0.0.1:1/v1")


def completion(characters: int) -> Completion:
    words = "Rayleigh scattering grows with the fourth power of the frequency. "
    text = (words * (characters // len(words) + 1))[:characters]
    usage = Usage(prompt_tokens=characters // 4, completion_tokens=characters // 4)
    return Completion(text=text, finish_reason="stop", model="gpt-5-mini", usage=usage)


def request(characters: int) -> CompletionRequest:
    messages = [
        {"role": "system", "content": "You are a careful physicist."},
        {"role": "user", "content": completion(characters).text},
    ]
    return CompletionRequest(messages=messages, temperature=0.5, max_tokens=1000)


def rounds(  # noqa: C901 - six small things to measure
    cache: CompletionCache, bare: diskcache.Cache, characters: int
) -> dict[str, Round]:
    """What is measured; each does its work `count` times."""
    answer, asked = completion(characters), request(characters)
    key = cache_key(asked, MODEL, tenant="")
    sealed = seal(SECRET, key, answer, at_ms=0)
    flights = SingleFlight()

    async def bare_get(count: int) -> None:
        for _ in range(count):
            assert bare.get(key) is not None

    async def get(count: int) -> None:
        for _ in range(count):
            assert cache.get(key) is not None

    async def make_key(count: int) -> None:
        for _ in range(count):
            cache_key(asked, MODEL, tenant="")

    async def hit(count: int) -> None:
        for _ in range(count):
            found = cache_key(asked, MODEL, tenant="")
            async with flights.join(found):
                assert cache.get(found) is not None

    async def bare_set(count: int) -> None:
        for _ in range(count // WRITES):
            await asyncio.to_thread(bare.set, key, sealed, expire=3600)

    async def put(count: int) -> None:
        for _ in range(count // WRITES):
            await cache.put(key, answer)

    bare.set(key, sealed)
    return {
        "diskcache get": bare_get,
        "get": get,
        "cache_key": make_key,
        "hit": hit,
        "diskcache set, in a thread": bare_set,
        "put": put,
    }


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    cache = CompletionCache(folder / "ours", CacheConfig(), SECRET, clock=SystemClock())
    with diskcache.Cache(str(folder / "bare")) as bare:
        works = rounds(cache, bare, arguments.characters)
        took_us: dict[str, list[float]] = {name: [] for name in works}
        key = cache_key(request(arguments.characters), MODEL, tenant="")
        await cache.put(key, completion(arguments.characters))
        for number in range(arguments.rounds + 1):
            for name, work in works.items():  # interleaved: a slow moment hits them all
                started = time.perf_counter()
                await work(arguments.calls)
                elapsed_s = time.perf_counter() - started
                done = arguments.calls // (WRITES if name.endswith(("thread", "put")) else 1)
                if number:  # the first warms the disk
                    took_us[name].append(elapsed_s / done * 1e6)
    await cache.aclose()
    return took_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--characters", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        took_us = asyncio.run(measure(arguments, Path(folder)))
    for name, took in took_us.items():
        print(f"{name}: median {statistics.median(took):.1f} us, best {min(took):.1f} us a call")
    ratio = statistics.median(took_us["get"]) / statistics.median(took_us["diskcache get"])
    print(f"get over diskcache get: {ratio:.1f}x")


if __name__ == "__main__":
    main()
