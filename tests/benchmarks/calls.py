"""Measure the CPU time of a call and of a streamed chunk beside bare `litellm.acompletion`.

    python tests/benchmarks/calls.py [--rounds 10] [--concurrency 1 32 256] [--who custom ...]

`custom` and `openai` are the adapters alone; `guarded-...` the same through the orchestrator with
everything on: budgets of the run and of the day, ledger and cache on disk, breaker and pace.

Prints, for each concurrency, the median of microseconds a call and a chunk, and of their ratios to
litellm's own in the same round. Rounds take turns, every turn is a process of its own, and imports
and first calls are left out. The provider is the simulator, in a process of its own too.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from itertools import count
from typing import Any

from adapters import CompletionRequest, LLMProvider, ModelConfig, create_adapter
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.events import TextDelta

MODEL = "gpt-4.1-mini--0ms"
KEY = "simulated-key"
MESSAGES = [{"role": "user", "content": "Which river is the longest?"}]
REQUEST = CompletionRequest(messages=MESSAGES)
CALLS, CHUNKED_CALLS = 400, 40

Asked = Callable[[], Awaitable[int]]  # makes one call, says how many chunks came


def bare(base: str, *, streamed: bool) -> Asked:
    """litellm as it is shipped, on its path for OpenAI."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    fields: dict[str, Any] = {
        "model": f"openai/{MODEL}",
        "messages": MESSAGES,
        "api_base": base,
        "api_key": KEY,
        "max_retries": 0,
    }

    async def call() -> int:
        return len((await litellm.acompletion(**fields)).choices)

    async def stream() -> int:
        chunks = await litellm.acompletion(stream=True, **fields)
        return sum(
            [1 async for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        )

    return stream if streamed else call


def ours(provider: LLMProvider, base: str, *, streamed: bool) -> Asked:
    """The same through an adapter."""
    config = {"provider": provider, "model": MODEL, "api_key": KEY, "api_base": base}
    adapter = create_adapter(ModelConfig.model_validate(config))

    async def call() -> int:
        return len((await adapter.complete(REQUEST)).text) and 1

    async def stream() -> int:
        async with aclosing(adapter.stream(REQUEST)) as chunks:
            return sum([1 async for chunk in chunks if chunk.text])

    return stream if streamed else call


def guarded(provider: LLMProvider, base: str, *, streamed: bool) -> Asked:
    """The same through the orchestrator, every guard on. No two questions are equal."""
    config = {"provider": provider, "model": MODEL, "api_key": KEY, "api_base": base}
    price = {"input_usd": "0.40", "output_usd": "1.60"}
    about = OrchestratorConfig.model_validate(
        {
            "models": {"gpt": {**config, "price": price}},
            "budgets": {
                "per_run": {"money_usd": 1},
                "windows": [{"scope": "global", "every": "day", "money_usd": 1000}],
            },
            "ledger": {},
            "cache": {},
        }
    )
    orchestrator = EnhancedOrchestrator(about)
    numbers = count()

    def question() -> RequestConfig:
        return RequestConfig(prompt=f"Which river is the longest? ({next(numbers)})", model="gpt")

    async def call() -> int:
        return len((await orchestrator.execute_request(question())).content) and 1

    async def stream() -> int:
        async with aclosing(orchestrator.stream_request(question())) as events:
            return sum([1 async for event in events if isinstance(event, TextDelta)])

    return stream if streamed else call


def asker(who: str, base: str, *, streamed: bool) -> Asked:
    if who == "litellm":
        return bare(base, streamed=streamed)
    name = who.removeprefix("guarded-")
    make = ours if name == who else guarded
    return make(LLMProvider(name), base, streamed=streamed)


async def turn(ask: Asked, concurrency: int, *, streamed: bool) -> float:
    """Microseconds of CPU time a call, or a chunk."""
    await together(ask, concurrency, max(concurrency, 40))
    before = cpu_s()
    made = await together(ask, concurrency, CHUNKED_CALLS if streamed else CALLS)
    for _ in range(100):  # what goes on behind the answers belongs to their price
        if len(asyncio.all_tasks()) <= 2:
            break
        await asyncio.sleep(0.01)
    return (cpu_s() - before) / made * 1e6


async def together(ask: Asked, concurrency: int, calls: int) -> int:
    """So many calls, so many at a time; the sum of what they say."""
    rest = iter(range(calls))

    async def one_after_another() -> int:
        return sum([await ask() for _ in rest])

    return sum(await asyncio.gather(*(one_after_another() for _ in range(concurrency))))


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def simulator() -> Iterator[str]:
    """A simulator in a process of its own: its base address for OpenAI's protocol."""
    command = [sys.executable, "-m", "orchestrator", "simulate", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        bases = dict(process.stdout.readline().split() for _ in LLMProvider)
        try:
            yield bases["openai"]
        finally:
            process.terminate()


def take_turn(*words: str) -> float:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, "--turn", *words]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ORCHESTRATOR_HOME": home}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32, 256])
    everybody = ["custom", "openai", "guarded-custom", "guarded-openai"]
    parser.add_argument("--who", nargs="+", default=everybody)
    parser.add_argument("--kinds", nargs="+", default=["call", "chunk"])
    parser.add_argument("--turn", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.turn is not None:
        who, base, concurrency, kind = asked.turn
        streamed = kind == "chunk"
        made = asker(who, base, streamed=streamed)
        print(json.dumps(asyncio.run(turn(made, int(concurrency), streamed=streamed))), flush=True)
        os._exit(0)  # litellm leaves sessions open and says so
    with simulator() as base:
        for kind in asked.kinds:
            for concurrency in asked.concurrency:
                report(base, asked, concurrency, kind)


def report(base: str, asked: argparse.Namespace, concurrency: int, kind: str) -> None:
    """A line for each: microseconds, and the ratio to bare litellm."""
    names = ["litellm", *asked.who]
    rounds = [
        {name: take_turn(name, base, str(concurrency), kind) for name in names}
        for _ in range(asked.rounds)
    ]
    for name in names:
        used = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one["litellm"] for one in rounds)
        print(f"{kind:6} x{concurrency:<4} {name:15} {used:8.0f} us  {ratio:6.3f}", flush=True)


if __name__ == "__main__":
    main()
