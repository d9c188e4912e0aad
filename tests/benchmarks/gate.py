"""Measure what the breaker and the pace of a deployment add to one call.

    python tests/benchmarks/gate.py [--calls 20000] [--rounds 15]

Prints the median and the best round, in microseconds of CPU a call: of the breaker's `admit` and
`settle` after a success and after a failure, and of the pace's `enter` and `leave` where nothing is
limited and where requests and tokens are.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from adapters.config import RatesConfig
from orchestrator.breaker import Breaker, Outcome
from orchestrator.clock import SystemClock
from orchestrator.config import BreakerConfig
from orchestrator.pacing import Pace

PLENTY = RatesConfig(requests_per_minute=10**9, tokens_per_minute=10**12)

Round = Callable[[int], Awaitable[None]]


def through_the_breaker(outcome: Outcome) -> Round:
    config = BreakerConfig(failures=10**9, calls=10**9)  # it counts, and never opens
    breaker = Breaker(config, SystemClock(), deployment="gpt")

    async def calls(count: int) -> None:
        for _ in range(count):
            breaker.settle(breaker.admit(), outcome, "ProviderUnavailable")

    return calls


def through_the_pace(rates: RatesConfig) -> Round:
    clock = SystemClock()
    pace = Pace(rates, clock, deployment="gpt")

    async def calls(count: int) -> None:
        until_s = clock.monotonic() + 3600
        for _ in range(count):
            slot = await pace.enter(1000, until_s)
            slot.leave("ok", 700)

    return calls


ROUNDS: dict[str, Round] = {
    "breaker, success": through_the_breaker("success"),
    "breaker, failure": through_the_breaker("failure"),
    "pace, nothing limited": through_the_pace(RatesConfig()),
    "pace, requests and tokens": through_the_pace(PLENTY),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    took_us: dict[str, list[float]] = {name: [] for name in ROUNDS}
    for _ in range(arguments.rounds):  # interleaved: a slow moment of the machine hits them all
        for name, calls in ROUNDS.items():
            started = time.process_time()
            asyncio.run(calls(arguments.calls))
            took_us[name].append((time.process_time() - started) / arguments.calls * 1e6)
    for name, took in took_us.items():
        print(
            f"{name:26} median {statistics.median(took):5.2f} us, best {min(took):5.2f} us a call"
        )


if __name__ == "__main__":
    main()
