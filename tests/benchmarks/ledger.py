"""Measure what reserving and settling cost.

    python tests/benchmarks/ledger.py [--url sqlite:///PATH] [--pairs 5000] [--rounds 5]

One after another as one caller waits for both, then 32 and 256 callers at once. Each pair counts
to three limits (a run's, a key's day and a month of all) and leaves a line of usage. Prints, of
the best round, the median of a pair and the CPU of the process per pair, both threads together.
Before that what nothing could save: two empty trips to a thread and back, and the same statements
on the books themselves in one thread.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path
from queue import SimpleQueue

from adapters.types import Usage
from orchestrator.amounts import NANO, Amount, Caps, Scope
from orchestrator.ledger import Ledger, UsageEntry
from orchestrator.ledger_book import Book, Hold
from orchestrator.ledger_database import connect, find
from orchestrator.owners import this_process

SCOPES = (
    Scope(kind="run", name="r1", caps=Caps(money_nanousd=10**6 * NANO, calls=10**9)),
    Scope(kind="key", name="alice", every="day", caps=Caps(money_nanousd=10**6 * NANO)),
    Scope(kind="global", every="month", caps=Caps(tokens=10**12)),
)
NEEDED = Amount(money_nanousd=4_000_000, tokens=9_000, calls=1, time_ms=120_000)
SPENT = Amount(money_nanousd=1_000_000, tokens=2_000, calls=1, time_ms=1_500)
ENTRY = UsageEntry(
    run_id="r1",
    tenant="alice",
    deployment="gpt",
    provider="openai",
    model="gpt-5-mini",
    answered_as="gpt-5-mini-2025-08-07",
    stage="drafts",
    member="gpt",
    status="ok",
    usage=Usage(prompt_tokens=1_800, completion_tokens=200),
    cost_nanousd=1_000_000,
    elapsed_ms=1_500,
)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def round_of(ledger: Ledger, pairs: int, callers: int) -> tuple[float, float]:
    """The median seconds of a pair, and the CPU seconds of each."""
    elapsed: list[float] = []

    async def call() -> None:
        for _ in range(pairs // callers):
            began = time.perf_counter()
            held = await ledger.reserve(NEEDED, SCOPES, entry=ENTRY)
            await ledger.settle(held, SPENT, ENTRY)
            elapsed.append(time.perf_counter() - began)

    before_s = cpu_s()
    await asyncio.gather(*(call() for _ in range(callers)))
    return statistics.median(elapsed), (cpu_s() - before_s) / len(elapsed)


async def two_trips(pairs: int) -> float:
    """The median seconds of two trips to a thread that does nothing, and back."""
    loop = asyncio.get_running_loop()
    todo: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    def answer() -> None:
        while (future := todo.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, None)

    thread = threading.Thread(target=answer)
    thread.start()
    elapsed = []
    for _ in range(pairs):
        began = time.perf_counter()
        for _ in range(2):
            future: asyncio.Future[None] = loop.create_future()
            todo.put(future)
            await future
        elapsed.append(time.perf_counter() - began)
    todo.put(None)
    thread.join()
    return statistics.median(elapsed)


def the_books_alone(url: str, pairs: int) -> float:
    """The median seconds of a pair without a thread, each half in a transaction of its own."""
    book = Book(connect(find(url)), this_process("0" * 32))
    elapsed = []
    for number in range(pairs):
        began = time.perf_counter()
        now_ms = int(time.time() * 1000)
        hold = Hold(id=f"b-{number}", needed=NEEDED, scopes=SCOPES, ttl_ms=900_000, entry=ENTRY)
        book.begin(now_ms)
        book.reserve(hold)
        book.commit()
        book.begin(now_ms)
        book.settle(hold.id, SPENT, ENTRY)
        book.commit()
        elapsed.append(time.perf_counter() - began)
    book.connection.close()
    return statistics.median(elapsed)


async def measure(url: str, pairs: int, rounds: int) -> None:
    print(f"two empty trips to a thread: median {await two_trips(pairs) * 1e6:6.0f} us")
    print(f"the books alone, no thread:  median {the_books_alone(url, pairs) * 1e6:6.0f} us a pair")
    began = time.perf_counter()
    async with Ledger(url) as ledger:
        print(f"opened in {(time.perf_counter() - began) * 1e3:.0f} ms")
        for callers in (1, 32, 256):
            found = [await round_of(ledger, pairs, callers) for _ in range(rounds)]
            median_s, cpu_each_s = min(found), min(cpu for _, cpu in found)
            print(
                f"{callers:4d} at once: median {median_s[0] * 1e6:6.0f} us a pair, "
                f"CPU {cpu_each_s * 1e6:4.0f} us a pair"
            )
        (standing,) = await ledger.standing(SCOPES[2:])
        assert standing.held == Amount()
        assert standing.spent.calls == sum(one.calls for one in await ledger.usage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.url or f"sqlite:///{Path(folder) / 'ledger.db'}"
        asyncio.run(measure(url, asked.pairs, asked.rounds))


if __name__ == "__main__":
    main()
