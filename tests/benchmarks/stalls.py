"""Measure for how long the gateway's loop stands still at most, while it is under load.

    python tests/benchmarks/stalls.py [--seconds 20] [--at-once 200] [--only NAME ...]

Keys, ledger, cache and budgets are on. Requests, plain and streamed, are answered by a mock; so are
the largest that are taken: ten megabytes of text, ten of values, as many messages as there may be;
and ten thousand at once, at random costs, and others while another process holds every database.
Then a provider in a process of its own sends what is too large, and what is just not.

Prints, for each kind alone and for some together, how late a task that wants to run every
millisecond was (the median, the 99.9th percentile, the worst), which under many callers counts the
line before it too; then the longest single step of the loop, by the clock and in processor time of
its thread, which line of ours was on in it, and how many steps took more than 100 ms of that.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from asyncio import events
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from adapters import MockAdapter, _litellm
from adapters.mock import Reply
from adapters.types import Usage
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.garbage import collect_at_rest
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from tests.asking import JSON_KIND, ask

TICK_S = 0.001
LOOK_S = 0.005  # how often it is looked what the loop is at
LONG_S = 0.1
HELD_S, FREE_S = 1.0, 0.2  # a database, by somebody else
ROOT = Path(__file__).parents[2]
USAGE = Usage(prompt_tokens=100, completion_tokens=100)
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
    "budgets": {"windows": [{"scope": "global", "every": "day", "money_usd": 10**6}]},
    "server": {"requests": 20_000},
}


def chat(model: str = "one", **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": HELLO, **more}).encode()


KINDS: Mapping[str, bytes] = {
    "ordinary": chat(),
    "streamed": chat(stream=True),
    "text of 9 MB": chat(messages=[{"role": "user", "content": "word " * 1_900_000}]),
    "values of 9 MB": chat(thinking={"a": [1] * 3_000_000}),
    "100,000 wrong values": chat(tools=[1] * 99_000),
    "10,000 messages": chat(messages=HELLO * 10_000),
}
# What a provider sends: the directive of the simulator, and whether it is streamed.
SENT: Mapping[str, tuple[str, bool]] = {
    "line of 50 MB, streamed": ("hugeline50", True),
    "line of 7 MB, streamed": ("hugeline7", True),
    "line of 50 MB, plain": ("big50", False),
    "line of 30 MB, plain": ("big30", False),
    "100,000 tiny chunks": ("tinyevents100000", True),
    "5 MB in chunks": ("long5000", True),
}
PROVIDERS = ("custom", "anthropic")


@dataclass
class Steps:
    """What the loop was at, and for how long at once.

    Attributes:
        wall_s: The longest step, by the clock.
        cpu_s: The longest of its thread's processor time, and `who` ran it.
        long: How many took more than 100 ms of that.
        lines: Where our own code was, whenever somebody looked, in steps that took long.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    who: str = ""
    long: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    began_s: float = 0.0  # 0: nothing is on
    is_over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure every step of a loop of asyncio's own inside."""
        run, thread = events.Handle._run, threading.get_ident()
        looking = threading.Thread(target=self._look, args=(thread,), daemon=True)

        def measured(handle: events.Handle) -> None:
            self.began_s = before_s = time.perf_counter()
            cpu_s = time.thread_time()
            run(handle)
            cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - before_s
            self.began_s = 0.0
            self.wall_s = max(self.wall_s, wall_s)
            self.long += cpu_s > LONG_S
            if cpu_s > self.cpu_s:
                self.cpu_s, self.who = cpu_s, _who(handle)

        events.Handle._run = measured  # type: ignore[method-assign]
        looking.start()
        try:
            yield
        finally:
            events.Handle._run = run  # type: ignore[method-assign]
            self.is_over.set()
            looking.join()

    def _look(self, thread: int) -> None:
        while not self.is_over.wait(LOOK_S):
            began_s = self.began_s
            if began_s and time.perf_counter() - began_s > LONG_S / 2:
                self.lines[_line(sys._current_frames().get(thread))] += 1


def _who(handle: events.Handle) -> str:
    """Whose step it is: a task's coroutine, or what is called back."""
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    what = task.get_coro() if isinstance(task, asyncio.Task) else callback
    return getattr(what, "__qualname__", repr(what))


def _line(frame: FrameType | None) -> str:
    """The innermost line of our own, and what it has called."""
    inner = frame.f_code.co_name if frame is not None else ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.parts[len(ROOT.parts)] != "tests":
            return f"{path.relative_to(ROOT)}:{frame.f_lineno} ({inner})"
        frame = frame.f_back
    return inner


@asynccontextmanager
async def gateway(folder: Path, models: Mapping[str, Any]) -> AsyncIterator[tuple[Gate, str]]:
    """A gateway with everything on, and a key to it."""
    keys = KeyFile(folder / "keys.json")
    key = keys.create("alice", tokens_per_minute=10**15, open_streams=20_000).key
    config = OrchestratorConfig.model_validate({**CONFIG, "models": {**CONFIG["models"], **models}})
    chance = Random(7)
    replies = [Reply(text="word " * chance.randrange(1, 200), usage=USAGE) for _ in range(99)]
    one = MockAdapter(replies, config=config.models["one"], deployment="one")
    async with EnhancedOrchestrator(config, adapters={"one": one}, keeps_receipts=True) as engine:
        yield create_app(engine, keys=keys), key


async def beat(late_s: list[float]) -> None:
    """Run every millisecond, and keep by how much that did not come true."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s.append(loop.time() - due_s)


async def load(
    gate: Gate, key: str, bodies: Sequence[bytes], *, at_once: int, seconds: float
) -> Counter[int]:
    """Ask for so long, so many at once; how many replies there were of each status."""
    head = {**JSON_KIND, "authorization": f"Bearer {key}"}
    loop, places, statuses = asyncio.get_running_loop(), count(), Counter[int]()
    ends_s = loop.time() + seconds

    async def caller() -> None:
        while True:
            body = bodies[next(places) % len(bodies)]
            said = await ask(gate, "POST", "/v1/chat/completions", body, head)
            statuses[said.status] += 1
            if loop.time() >= ends_s:
                return

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return statuses


async def measure(
    name: str,
    bodies: Sequence[bytes],
    *,
    at_once: int,
    seconds: float,
    models: Mapping[str, Any] | None = None,
    locked: bool = False,
) -> None:
    late_s, steps = list[float](), Steps()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as locks:
        os.environ["ORCHESTRATOR_HOME"] = folder
        async with gateway(Path(folder), models or {}) as (gate, key):
            await load(gate, key, [KINDS["ordinary"]], at_once=1, seconds=0.5)
            if models:  # a first call imports, in a thread
                warm = [chat(model) for model in models]
                await load(gate, key, warm, at_once=len(warm), seconds=0.5)
            if locked:
                locks.enter_context(holding(Path(folder)))
            beating = asyncio.create_task(beat(late_s))
            with steps.watched():
                answered = await load(gate, key, bodies, at_once=at_once, seconds=seconds)
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            locks.close()
    cuts = statistics.quantiles(late_s, n=1000) if len(late_s) > 1 else [0.0]
    lates = (statistics.median(late_s), cuts[-1], max(late_s))
    told = " ".join(f"{late * 1000:7.1f}" for late in lates)
    print(
        f"{name:34} {dict(answered)!s:28} late {told} ms | longest step {steps.wall_s * 1000:6.0f}"
        f" ms, cpu {steps.cpu_s * 1000:6.0f} ms in {steps.who}; {steps.long} over 100 ms",
        *(f"\n{'':34} {seen:4}x {line}" for line, seen in steps.lines.most_common(4)),
        flush=True,
    )


# Other processes: one that holds databases, and one that is a provider.


def hold(folder: str) -> None:
    """Hold every database below a folder, let go for a moment, and again until killed."""
    while True:
        with ExitStack() as held:
            for path in Path(folder).rglob("*.db"):
                database = held.enter_context(closing(sqlite3.connect(path, timeout=30)))
                with suppress(sqlite3.Error):
                    database.execute("begin immediate")
            time.sleep(HELD_S)
        time.sleep(FREE_S)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    assert list(folder.rglob("*.db")), "there is no database to be held"
    process = get_context("spawn").Process(target=hold, args=(str(folder),), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def provider() -> Iterator[Mapping[str, str]]:
    """The simulator in a process of its own, and its addresses by the providers' names."""
    command = (sys.executable, "-m", "orchestrator", "simulate", "--port", "0")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield dict(process.stdout.readline().split() for _ in range(6))
        finally:
            process.kill()


def models_of(bases: Mapping[str, str], directive: str) -> dict[str, Any]:
    """A deployment of each provider that sends what a directive says."""
    return {
        name: {
            "provider": name,
            "model": f"claude-haiku-4-5--{directive}",
            "api_base": bases[name],
            "api_key": "sk-0123456789",
            "price": "free",
        }
        for name in PROVIDERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=(), help="kinds whose names begin so")
    asked = parser.parse_args()
    collect_at_rest()  # as the server does
    chosen = tuple(asked.only) or ("",)
    some, short = [KINDS["ordinary"], KINDS["streamed"]], asked.seconds / len(KINDS)
    for name, body in KINDS.items():
        few = asked.at_once if name in ("ordinary", "streamed") else 1
        if name.startswith(chosen):
            asyncio.run(measure(name, [body], at_once=few, seconds=short))
    if "all".startswith(chosen):
        mixed = some * 100 + list(KINDS.values())
        asyncio.run(measure("all", mixed, at_once=asked.at_once, seconds=asked.seconds))
    if "10,000 at once".startswith(chosen):
        different = [chat(max_tokens=n, stream=n % 10 == 0) for n in range(1, 10_001)]
        asyncio.run(measure("10,000 at once", different, at_once=10_000, seconds=0))
    if "databases held".startswith(chosen):
        different = [chat(seed=n, stream=n % 2 == 0) for n in range(10_000)]
        held = measure("databases held", different, at_once=50, seconds=short, locked=True)
        asyncio.run(held)
    wanted = [name for name in SENT if name.startswith(chosen)]
    if not wanted:
        return
    asyncio.run(_litellm.load("sdk", "tokenizer"))
    with provider() as bases:
        for name in wanted:
            directive, is_streamed = SENT[name]
            models = models_of(bases, directive)
            for model in models:
                body = chat(model, stream=is_streamed)
                told = f"{name}, {model}"
                asyncio.run(measure(told, [body], at_once=1, seconds=short, models=models))


if __name__ == "__main__":
    main()
