"""A run that is cancelled, at whatever point, leaves nothing behind; nor do many runs pile up."""

import asyncio
from asyncio import Task
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapters import (
    CompletionRequest,
    MockAdapter,
    ModelConfig,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from adapters.config import LLMProvider, PriceConfig
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount
from orchestrator.clock import Clock, FakeClock, SystemClock
from orchestrator.config import PanelConfig
from orchestrator.errors import NoDeploymentLeft, OrchestratorError
from orchestrator.events import RunFailed, RunFinished
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.patterns import PatternLibrary
from orchestrator.responses import Receipt
from orchestrator.simulator import Simulator, simulated
from tests.benchmarks import memory
from tests.books import pending, read_accounts
from tests.cancelling import WHO, Who, cancel_at

NAMES = ("gpt", "claude", "gemini")
STORY = "Once upon a time there was a gateway that never lost a word, and never said one twice."
MOST = 5_000  # a run that waits more often than that does not end

Script = Callable[[str, int], Reply]  # of what is asked, and how often it was asked before


@dataclass(frozen=True, kw_only=True)
class World:
    """An engine with every guard on, and what is looked into afterwards."""

    engine: EnhancedOrchestrator
    ledger: Ledger
    journals: Path
    clock: Clock
    simulator: Simulator | None = None

    async def check(self, before: "set[Task[Any]]") -> None:
        """Nothing of a run is left once what was cancelled has had its turns."""
        await no_tasks_but(before)
        await self.ledger.drain()
        assert await pending(self.ledger) == 0
        for account in await read_accounts(self.ledger):
            assert account.held == Amount(), account
        for name, one in self.engine._deployments.items():
            pace = one.pace
            assert (pace.in_flight, len(pace._line), pace._tokens_in_line) == (0, 0, 0), name
            assert one.breaker._probe is None, name
        recall = self.engine._recall
        if recall._keeping:
            await asyncio.wait(recall._keeping, timeout=5)
        assert not recall._flights._flights
        assert not recall._fresh
        assert not recall._keeping
        assert not self.engine._running
        assert not open_files(self.journals)
        if self.simulator is not None:
            await asyncio.wait_for(self.simulator.settled(), 5)


async def no_tasks_but(before: "set[Task[Any]]") -> None:
    """Wait for what may take a moment, such as an answer on its way into the cache."""
    left = set[Task[Any]]()
    for pause_s in (0, 0, 0, 0, 0.001, 0.01, 0.05, 0.2, 1.0):
        left = {task for task in asyncio.all_tasks() - before if not outlives_a_run(task)}
        if not left:
            return
        await asyncio.sleep(pause_s)
    raise AssertionError(f"tasks are left: {left}")


def outlives_a_run(task: "Task[Any]") -> bool:
    """Whether it is litellm's own, or the simulator's end of a connection that is kept."""
    work = repr(task.get_coro())
    return "LoggingWorker" in work or "_Connection._serve" in work


def open_files(folder: Path) -> list[str]:
    """Which files in a folder this process has open, where the system says so."""
    listing = Path("/proc/self/fd")
    entries = listing.iterdir() if listing.is_dir() else ()
    links = [str(entry.readlink()) for entry in entries if entry.is_symlink()]
    return [name for name in links if name.startswith(str(folder))]


# What is cancelled: one scenario for each way that a run can take.


def answers(_: str, __: int) -> Reply:
    return Reply(text=STORY, delay_s=0.01, gap_s=0.001)


def slowly(_: str, __: int) -> Reply:
    return Reply(text=STORY, delay_s=10.0)


def after(*first: Reply | ProviderError) -> Script:
    """To every question these come first, then answers."""

    def script(asked: str, seen: int) -> Reply:
        if seen >= len(first):
            return answers(asked, seen)
        reply = first[seen]
        return Reply(error=reply, delay_s=0.01) if isinstance(reply, ProviderError) else reply

    return script


def half(error: ProviderError | None = None) -> Reply:
    return Reply(text=STORY, delay_s=0.01, gap_s=0.001, cut_after=40, error=error)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run, or several at once.

    Attributes:
        model: What is asked.
        scripts: How deployments answer that do not simply answer.
        is_live: Whether the answer is streamed.
        callers: How many ask the same at once; the first one is cancelled.
        repeats: Whether the very same has been asked before.
        about: Of the configuration.
        is_late: Whether the first deployment is much slower than it used to be.
        is_probe: Whether the first deployment's breaker is open, and a probe may go.
        shows: What stands in the receipts of the runs that are not cancelled.
    """

    model: str = "gpt"
    scripts: dict[str, Script] | None = None
    is_live: bool = True
    callers: int = 1
    repeats: bool = False
    about: dict[str, Any] | None = None
    is_late: bool = False
    is_probe: bool = False
    shows: tuple[str, ...] = ("ok",)


SCENARIOS = {
    "a plain call": Scenario(is_live=False),
    "a stream": Scenario(),
    "a retry": Scenario(
        scripts={"gpt": after(RateLimited("slow down", retry_after_s=1.0))}, shows=("failed", "ok")
    ),
    "a fallback": Scenario(
        model="fast",
        scripts={"gpt": after(ProviderUnavailable("down"))},
        shows=("failed", "ok"),
    ),
    "a continuation": Scenario(
        model="fast", scripts={"gpt": after(half())}, shows=("failed", "ok", "continued")
    ),
    "a failure": Scenario(
        model="fast", scripts=dict.fromkeys(NAMES, after(*[half()] * 9)), shows=("failed",)
    ),
    "a hedge": Scenario(
        model="hedged", scripts={"gpt": slowly}, is_late=True, shows=("ok", "cancelled")
    ),
    "a probe": Scenario(is_probe=True),
    "a wait for a place": Scenario(
        callers=3, about={"models": {"gpt": {"rates": {"concurrency": 1}}}, "cache": None}
    ),
    "a hit in the cache": Scenario(repeats=True, shows=("cache",)),
    "a shared call": Scenario(callers=3, shows=("call", "shared")),
    "a panel": Scenario(model="compare/council"),
    "a panel with a straggler": Scenario(
        model="compare/council",
        scripts={"gemini": slowly},
        shows=("ok", "cancelled"),
    ),
    **{
        f"the pattern {name}": Scenario(model=f"{name}/council", is_live=place % 2 == 0)
        for place, name in enumerate(PatternLibrary())
        if name != "compare"
    },
}


def configured(scenario: Scenario) -> OrchestratorConfig:
    """Three deployments, every kind of budget, a cache; breakers and retries that do not tire."""
    about = dict(scenario.about or {})
    models = about.pop("models", {})
    price = {"input_usd": "0.01", "output_usd": "0.10"}
    plenty = {"money_usd": 1000, "tokens": 10**12, "calls": 10**9}
    scopes = ("key", "deployment", "global")
    return OrchestratorConfig.model_validate(
        {
            "models": {
                name: {
                    "provider": "openai",
                    "model": name,
                    "price": price,
                    "rates": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9},
                }
                | models.get(name, {})
                for name in NAMES
            },
            "routes": {
                "fast": {"models": ["gpt", "claude"], "fallback": ["gemini"]},
                "hedged": {"models": ["gpt", "claude"], "hedge": True},
            },
            "panels": {
                "council": {
                    "members": list(NAMES),
                    "synthesizer": "claude",
                    "quorum": 2,
                    "grace_s": 1,
                }
            },
            "budgets": {
                "per_run": plenty,
                "windows": [{"scope": scope, "every": "day", **plenty} for scope in scopes],
            },
            "retry": {"budget_ratio": 1, "fallback_ratio": 1, "hedge_ratio": 1, "burst": 10**6},
            "breaker": {"failures": 1 if scenario.is_probe else 10**6, "calls": 10**6},
            "cache": {},
            **about,
        }
    )


def mock(name: str, script: Script, clock: Clock) -> MockAdapter:
    seen = Counter[str]()

    def reply(request: CompletionRequest) -> Reply:
        asked = str(request.messages[0]["content"])
        seen[asked] += 1
        return script(asked, seen[asked] - 1)

    async def sleep(seconds: float) -> None:
        """In steps, so that others have their turns meanwhile."""
        while seconds > 0:
            await clock.sleep(min(seconds, 0.05))
            seconds -= 0.05

    return MockAdapter(reply, deployment=name, sleep=sleep)


@asynccontextmanager
async def world(scenario: Scenario, folder: Path) -> AsyncIterator[World]:
    clock = FakeClock()
    scripts = scenario.scripts or {}
    config = configured(scenario)
    mocks = {name: mock(name, scripts.get(name, answers), clock) for name in NAMES}
    async with (
        Ledger(f"sqlite:///{folder}/ledger.db", clock=clock) as ledger,
        EnhancedOrchestrator(
            config,
            adapters=mocks,
            clock=clock,
            journal=Journal(folder / "runs"),
            ledger=ledger,
        ) as engine,
    ):
        yield World(engine=engine, ledger=ledger, journals=folder / "runs", clock=clock)


def prepare(world: World, scenario: Scenario) -> None:
    """Bring the first deployment into the state that the scenario begins with."""
    gpt = world.engine._deployments["gpt"]
    gpt.pace._refusals = 0  # of runs that were cancelled before their success; a pause would grow
    if scenario.is_late:
        for _ in range(20):
            gpt.times(is_live=scenario.is_live).add(0.0001)
    if scenario.is_probe:
        while gpt.breaker.is_ready:
            gpt.breaker.settle(gpt.breaker.admit(), "failure", "ProviderUnavailable")
        assert isinstance(world.clock, FakeClock)
        world.clock.advance(1000)


async def run(world: World, request: RequestConfig, *, is_live: bool) -> Receipt:
    """Ask as a caller would, to the end; a failed run's receipt too."""
    if not is_live:
        return (await world.engine.execute_request(request)).receipt
    receipt: Receipt | None = None
    async with aclosing(world.engine.stream_request(request)) as events:
        with suppress(ProviderError, NoDeploymentLeft):
            async for event in events:
                if isinstance(event, RunFinished):
                    receipt = event.response.receipt
                elif isinstance(event, RunFailed):
                    receipt = event.receipt
    assert receipt is not None
    return receipt


async def run_several(world: World, request: RequestConfig, scenario: Scenario) -> list[Receipt]:
    """Callers who ask the same at the same time; the first one is this very task."""
    others = [
        asyncio.create_task(run(world, request, is_live=scenario.is_live))
        for _ in range(scenario.callers - 1)
    ]
    try:
        first = await run(world, request, is_live=scenario.is_live)
    finally:  # what the others come to is of no interest unless this one comes to something
        for other in others:
            other.add_done_callback(lambda done: done.cancelled() or done.exception())
    return [first, *await asyncio.gather(*others)]


def facts(receipts: Sequence[Receipt]) -> set[str]:
    """What became of the attempts, and where their answers are from."""
    made = [one for receipt in receipts for stage in receipt.stages for one in stage.attempts]
    told = {said for one in made for said in (one.status, one.source)}
    return told | {"continued" for one in made if one.continues}


def question(scenario: Scenario, number: int) -> RequestConfig:
    prompt = "Why?" if scenario.repeats else f"Why, for the {number}th time?"
    return RequestConfig(prompt=prompt, model=scenario.model, max_tokens=200, seed=7)


def unexpected(error: BaseException | None) -> bool:
    known = (OrchestratorError, ProviderError, asyncio.CancelledError)
    return error is not None and not isinstance(error, known)


async def cancel_everywhere(
    there: World,
    work: Callable[[int], Coroutine[Any, Any, object]],
    who: Who,
    *,
    every: int,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Cancel a piece of work at its first suspension, its second, and so on; how many there are.

    Args:
        there: Where to look for what is left.
        work: What to do; it is told the how many-th time it is.
        who: Who is cancelled.
        every: Try one in so many suspensions only, beginning elsewhere for each `who`.
        prepare: What to do before each time.
    """
    before = asyncio.all_tasks()
    for number in count(1 + WHO.index(who), every):
        assert number < MOST
        prepare()
        reached, error = await cancel_at(number, who, partial(work, number))
        assert not unexpected(error), (number, error)
        await there.check(before)
        if not reached:
            return number
    raise AssertionError


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_run_that_is_cancelled_leaves_nothing(
    name: str, who: Who, tmp_path: Path, thorough: bool
) -> None:
    """At whatever point: no hold, place, ticket, shared call, task or open file; others go on."""
    scenario = SCENARIOS[name]
    async with world(scenario, tmp_path) as there:
        before = asyncio.all_tasks()
        if scenario.repeats:
            await run(there, question(scenario, 0), is_live=True)
            await there.check(before)

        tried = await cancel_everywhere(
            there,
            lambda number: run_several(there, question(scenario, number), scenario),
            who,
            every=1 if thorough else 7,
            prepare=partial(prepare, there, scenario),
        )

        prepare(there, scenario)
        receipts = await run_several(there, question(scenario, 0), scenario)
        assert facts(receipts) >= set(scenario.shows)
    print(f"{name}, {who}: cancelled at up to {tried} suspensions, nothing left")


WIRES = tuple(LLMProvider)


def on_the_wire(simulator: Simulator) -> OrchestratorConfig:
    """A deployment for every wire format, and a panel of all."""
    models = {
        provider.value: ModelConfig(
            provider=provider,
            model="sim--1ms",
            price=PriceConfig(input_usd=Decimal("0.01"), output_usd=Decimal("0.1")),
            api_base="http://placeholder.invalid/v1",
        )
        for provider in WIRES
    }
    settings = configured(Scenario(about={"cache": None, "routes": {}, "panels": {}}))
    panel = PanelConfig(members=tuple(models), pattern="critique")
    config = settings.model_copy(update={"models": models, "panels": {"all": panel}})
    return simulated(config, simulator)


@pytest.mark.parametrize("who", ["the caller", "the caller, twice"])  # its own tasks nobody reaches
@pytest.mark.parametrize("is_live", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", [*WIRES, "all"])
async def test_a_call_that_is_cancelled_leaves_no_connection(
    simulator: Simulator, name: str, is_live: bool, who: Who, tmp_path: Path, thorough: bool
) -> None:
    """Over the real wire: the provider is left alone, and nothing is open once all is closed."""
    config = on_the_wire(simulator)
    clock = SystemClock()
    step = (1 if thorough else 11) * (5 if name == "all" else 1)
    async with (
        Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=clock) as ledger,
        EnhancedOrchestrator(config, journal=Journal(tmp_path / "runs"), ledger=ledger) as engine,
    ):
        there = World(
            engine=engine,
            ledger=ledger,
            journals=tmp_path / "runs",
            clock=clock,
            simulator=simulator,
        )
        await run(there, RequestConfig(prompt="Hello", model=name, max_tokens=50), is_live=is_live)

        tried = await cancel_everywhere(
            there,
            lambda number: run(
                there,
                RequestConfig(prompt=f"Why, {number}?", model=name, max_tokens=50),
                is_live=is_live,
            ),
            who,
            every=step,
        )

    print(f"{name}, {who}: cancelled at up to {tried} suspensions, nothing left")


async def test_memory_stays_flat_over_thousands_of_calls(tmp_path: Path) -> None:
    """With everything on: what a run takes it gives back, but for what is kept and has a limit."""
    warm, calls = 1_500, 2_500
    async with memory.engine(tmp_path) as engine:
        number = await memory.run(engine, tmp_path, 0, warm)
        first_mb, first = memory.resident_mb(), memory.blocks()
        await memory.run(engine, tmp_path, number, calls)
        grown_mb, grown = memory.resident_mb() - first_mb, memory.blocks() - first

    assert grown < 2 * calls
    assert grown_mb < 30
    print(f"{calls:,} calls: {grown_mb:+.1f} MB, {grown:+,} blocks")
