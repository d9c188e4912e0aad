"""No budget is overspent, by however many at once, whatever fails, is cancelled, killed or lies."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from adapters import (
    Chunk,
    CompletionRequest,
    Limits,
    MockAdapter,
    ModelConfig,
    ProviderError,
    Usage,
)
from adapters.config import LLMProvider, PriceConfig
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount
from orchestrator.clock import FakeClock
from orchestrator.errors import OrchestratorError
from orchestrator.events import TextDelta
from orchestrator.ledger import Ledger
from orchestrator.simulator import Simulator, simulated
from tests import spender
from tests.books import pending, read_accounts
from tests.postgres import binaries, make_database, server
from tests.spending import (
    NOTHING,
    WORDS,
    Provider,
    Replayed,
    WatchedLedger,
    amount_of,
    is_within,
    replay,
)

NAMES = ("gpt", "claude", "gemini")
# Prices of many digits: a rounding that goes wrong anywhere shows in the sum.
PRICES = {
    "gpt": {"input_usd": "0.0137", "output_usd": "0.1073"},
    "claude": {"input_usd": "0.0291", "output_usd": "0.2119"},
    "gemini": {"input_usd": "0.0071", "output_usd": "0.0533"},
}
TENANTS = ("one", "two", "three")
PLENTY = {"money_usd": 10**6, "tokens": 10**12, "calls": 10**9, "time_s": 10**9}


def configured(*, tight: Mapping[str, float], keys_share: float = 0.5) -> OrchestratorConfig:
    """Budgets of every scope; of what is tight every key may use a share."""
    of_key = {
        name: much * keys_share if name == "money_usd" else int(much * keys_share)
        for name, much in tight.items()
    }
    return OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": "openai", "model": name, "price": PRICES[name]} for name in NAMES
            },
            "routes": {"fast": {"models": ["gpt", "claude"], "fallback": ["gemini"]}},
            "panels": {"council": {"members": list(NAMES), "synthesizer": "claude"}},
            "budgets": {
                "per_run": {"money_usd": 10, "tokens": 10**6, "calls": 7},
                "windows": [
                    {"scope": "global", "every": "day", **PLENTY, **tight},
                    {"scope": "key", "every": "day", **PLENTY, **of_key},
                    {"scope": "deployment", "every": "month", **PLENTY},
                ],
                "shrink": [],
            },
            "timeouts": {"run_s": 10**6},
            "retry": {"attempts": 2, "base_s": 0.001, "cap_s": 0.001, "burst": 10**6},
            "breaker": {"failures": 10**6, "calls": 10**6},
        }
    )


def engine(
    config: OrchestratorConfig, ledger: WatchedLedger, seed: int, clock: FakeClock, **about: Any
) -> tuple[EnhancedOrchestrator, dict[str, Provider]]:
    providers = {
        name: Provider(name, model, seed, **about) for name, model in config.models.items()
    }
    made = EnhancedOrchestrator(config, adapters=providers, clock=clock, ledger=ledger)
    return made, providers


def some_request(rng: Random, number: int) -> RequestConfig:
    """Of any kind, with limits of its own now and then."""
    return RequestConfig.model_validate(
        {
            "prompt": f"Question {number}: " + "why? " * rng.randrange(40),
            "model": rng.choice(("gpt", "claude", "fast", "compare/council", "critique/council")),
            "max_tokens": rng.randint(16, 400),
            "tenant": rng.choice(TENANTS),
            "max_calls": rng.choice((None, None, 3)),
            "max_cost_usd": rng.choice((None, None, "0.0002")),
            "max_run_tokens": rng.choice((None, None, 2000)),
        }
    )


async def ask(of: EnhancedOrchestrator, rng: Random, number: int, outcomes: Counter[str]) -> None:
    """One request, a tenth of them cancelled at some moment."""
    request = some_request(rng, number)
    patience = rng.randrange(60) if rng.random() < 0.1 else None
    asking = asyncio.create_task(of.execute_request(request))
    if patience is not None:
        for _ in range(patience):
            await asyncio.sleep(0)
        asking.cancel()
    try:
        outcomes[(await asking).status] += 1
    except asyncio.CancelledError:
        outcomes["cancelled"] += 1
    except (OrchestratorError, ProviderError) as error:
        outcomes[type(error).__name__] += 1


async def watch(ledger: WatchedLedger, counted: Counter[str]) -> None:
    """Look at the books again and again: nothing is ever more than full."""
    while True:
        for account in await read_accounts(ledger):
            limit = ledger.caps.get((account.kind, account.name, account.every))
            if limit is not None:
                counted["accounts"] += 1
                assert is_within(account.spent + account.held, limit), account
        counted["reads"] += 1
        await asyncio.sleep(0.01)


def check_every_call(
    books: Replayed, providers: Mapping[str, Provider], config: OrchestratorConfig
) -> Counter[str]:
    """Hold what was posted for each call against the provider's own bill of it."""
    bills = {key: bill for one in providers.values() for key, bill in one.bills.items()}
    counted: Counter[str] = Counter()
    for key, posted in books.posted.items():
        reserved = books.reserved[key]
        assert is_within(posted, reserved), (key, posted, reserved)
        bill = bills.pop(key, None)
        counted["not sent" if bill is None else bill.ended] += 1
        if bill is not None:
            due = amount_of(bill, config.models[bill.deployment])
            same = (posted.money_nanousd, posted.tokens, posted.calls)
            if bill.ended == "whole":
                assert same == (due.money_nanousd, due.tokens, due.calls), (key, posted, bill)
            assert is_within(due, posted), (key, posted, bill)
    assert not bills, "a call was made without a reservation"
    return counted


# What of each there is, on average, for one request of the mix: too little for all of them.
TIGHT = {"money_usd": 2.5e-5, "tokens": 250, "calls": 0.5, "time_s": 60}


@pytest.mark.parametrize(
    ("dimension", "requests"),
    [("money_usd", 1_000), ("tokens", 200), ("calls", 200), ("time_s", 200)],
)
async def test_a_thousand_at_once_overspend_nothing(
    dimension: str, requests: int, thorough: bool
) -> None:
    """Random costs, a tenth cancelled, a tenth failing, nested caps: exact to the last digit."""
    requests *= 10 if thorough else 1
    much = TIGHT[dimension] * requests
    tight = {dimension: much if dimension == "money_usd" else int(much)}
    config, clock, rng = configured(tight=tight), FakeClock(), Random(dimension)
    outcomes: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    async with WatchedLedger("sqlite://", clock) as ledger:
        made, providers = engine(config, ledger, 7, clock, failing=0.1)
        async with made:
            watching = asyncio.create_task(watch(ledger, reads))
            await asyncio.gather(*(ask(made, rng, number, outcomes) for number in range(requests)))
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await ledger.drain()
            accounts = await read_accounts(ledger)
            assert await pending(ledger) == 0

    books = replay(ledger.steps)
    counted = check_every_call(books, providers, config)
    for account in accounts:
        assert account.held == NOTHING
        key = (account.kind, account.name, account.every)
        assert account.spent == books.spent.get(key, NOTHING)
    assert outcomes["BudgetExceeded"] > requests // 20
    assert outcomes["cancelled"] > 0
    assert counted["whole"] > requests // 10
    assert counted["refused"] + counted["cut"] > 0
    assert reads["reads"] > 1
    print(f"{dimension}: {dict(outcomes)}; calls {dict(counted)}, {books.refused} refused; {reads}")


@pytest.mark.parametrize("dimension", ["money_usd", "tokens", "calls"])
async def test_a_budget_can_be_used_up(dimension: str) -> None:
    """Where calls come to what was reserved for them, 95 % of a cap and more is of use."""
    requests = 300
    much = TIGHT[dimension] * requests / 4
    tight = {dimension: much if dimension == "money_usd" else int(much)}
    config, clock, rng = configured(tight=tight, keys_share=1), FakeClock(), Random(dimension)
    outcomes: Counter[str] = Counter()
    async with WatchedLedger("sqlite://", clock) as ledger:
        made, _ = engine(config, ledger, 7, clock, is_full=True)
        async with made:
            asking = (
                made.execute_request(
                    RequestConfig(prompt="why? " * rng.randrange(9), model="gpt", max_tokens=150)
                )
                for _ in range(requests)
            )
            for answer in await asyncio.gather(*asking, return_exceptions=True):
                outcomes[type(answer).__name__] += 1
            await ledger.drain()

    books = replay(ledger.steps)
    (cap,) = (caps for key, caps in ledger.caps.items() if key[0] == "global")
    spent = books.spent["global", "", "day"]
    name = {"money_usd": "money_nanousd"}.get(dimension, dimension)
    assert outcomes["BudgetExceeded"] > 0
    assert 0.95 * getattr(cap, name) <= getattr(spent, name) <= getattr(cap, name)


# Usage that cannot be, or was not to be.


@pytest.mark.parametrize("times", [2, 10, 10**5])
async def test_who_lies_is_posted_in_full_and_stopped(times: int) -> None:
    """What is over the cap is over by the calls that were under way, and every one is flagged."""
    config, clock = configured(tight={"money_usd": 0.001}, keys_share=1), FakeClock()
    outcomes: Counter[str] = Counter()
    async with WatchedLedger("sqlite://", clock) as ledger:
        made, providers = engine(config, ledger, 7, clock, lie=times)
        async with made:
            for _ in range(20):  # of ten at a time
                asking = (
                    made.execute_request(RequestConfig(prompt="Why?", model="gpt", max_tokens=50))
                    for _ in range(10)
                )
                for answer in await asyncio.gather(*asking, return_exceptions=True):
                    outcomes[type(answer).__name__] += 1
            await ledger.drain()
            entries = await ledger.entries(limit=1000)

    books = replay(ledger.steps)  # which allows no reservation that does not fit
    (cap,) = (caps.money_nanousd for key, caps in ledger.caps.items() if key[0] == "global")
    assert cap is not None
    over = [
        books.posted[key].money_nanousd - books.reserved[key].money_nanousd for key in books.posted
    ]
    assert set(outcomes) == {"OrchestratorResponse", "BudgetExceeded"}
    assert all(entry.over_bound for entry in entries)
    assert len(entries) == len(providers["gpt"].bills) == outcomes["OrchestratorResponse"]
    assert books.spent["global", "", "day"].money_nanousd - cap <= sum(sorted(over)[-10:])
    assert books.refused > 0


ABSURD = [
    None,
    Usage(),
    Usage(prompt_tokens=10),
    Usage(prompt_tokens=-5, completion_tokens=-700),
    Usage(prompt_tokens=10, completion_tokens=-700),
    Usage(prompt_tokens=10**12, completion_tokens=10**18),
    Usage(prompt_tokens=10, completion_tokens=20, cached_tokens=-(10**9)),
    Usage(prompt_tokens=10, completion_tokens=20, billed_completion_tokens=-1),
]


class Silent(MockAdapter):
    """An adapter of somebody else's, which reports this usage or none at all."""

    def __init__(self, usage: Usage | None) -> None:
        super().__init__([Reply(text=WORDS)], deployment="gpt")
        self._usage = usage

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(request, limits=limits):
            yield replace(chunk, usage=None if chunk.usage is None else self._usage)


@pytest.mark.parametrize("usage", ABSURD, ids=str)
async def test_absurd_usage_is_counted_instead(usage: Usage | None) -> None:
    """Whatever an adapter reports: no less than what came is posted, and no nonsense."""
    config, clock = configured(tight={}), FakeClock()
    async with WatchedLedger("sqlite://", clock) as ledger:
        adapters = {"gpt": Silent(usage)}
        async with EnhancedOrchestrator(
            config, adapters=adapters, clock=clock, ledger=ledger
        ) as made:
            response = await made.execute_request(
                RequestConfig(prompt="Why?", model="gpt", max_tokens=500)
            )
            await ledger.drain()
            (entry,) = await ledger.entries()

    posted = replay(ledger.steps).spent["global", "", "day"]
    assert len(WORDS.split()) <= posted.tokens < 500
    assert 0 < posted.money_nanousd < 100_000
    assert entry.usage.estimated
    assert response.usage == entry.usage
    assert response.cost_nanousd == posted.money_nanousd


LIES = ("nousage", "zerousage", "lowusage", "negusage", "strusage", "hugeusage")


@pytest.mark.parametrize("is_live", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("provider", LLMProvider)
async def test_no_lie_on_the_wire_lowers_what_is_posted(
    simulator: Simulator, provider: LLMProvider, is_live: bool
) -> None:
    """No usage, none that can be, too little: our count of the text stands. Too much is posted."""
    faults = {"honest": (), **{lie: (lie,) for lie in LIES}, "hundredfold": ("usagex100",)}
    settings = configured(tight={})
    model = ModelConfig(
        provider=provider,
        model="sim",
        price=PriceConfig.model_validate(PRICES["gpt"]),
        api_base="http://placeholder.invalid/v1",
    )
    config = simulated(
        settings.model_copy(
            update={"models": dict.fromkeys(faults, model), "routes": {}, "panels": {}}
        ),
        simulator,
        directives=faults,
    )
    request = RequestConfig(prompt="Why?", model="honest", max_tokens=300)
    asked = {name: request.model_copy(update={"model": name}) for name in faults}
    async with (
        Ledger() as ledger,
        EnhancedOrchestrator(config, ledger=ledger) as made,
    ):
        told = {name: await finish(made, one, is_live=is_live) for name, one in asked.items()}
        await ledger.drain()
        entries = {entry.deployment: entry for entry in await ledger.entries()}

    honest = entries.pop("honest").usage
    lied = entries.pop("hundredfold")
    assert set(entries) == set(LIES)
    for name, entry in entries.items():
        counted = len(told[name].split())
        assert entry.usage.estimated, name
        assert entry.usage.completion_tokens >= counted > 20, name
        assert entry.usage.prompt_tokens >= 1, name
        assert not entry.over_bound, name
    assert lied.usage.completion_tokens >= 100 * honest.completion_tokens
    assert lied.over_bound


async def finish(of: EnhancedOrchestrator, request: RequestConfig, *, is_live: bool) -> str:
    """The text of an answer, streamed or in one piece."""
    if not is_live:
        return (await of.execute_request(request)).content
    async with aclosing(of.stream_request(request)) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


# Several processes, some of them killed.


@pytest.fixture(scope="module")
def postgres_socket() -> Iterator[Path]:
    """A PostgreSQL server; skips without its programs, which CI must have."""
    programs = binaries()
    if programs is None:
        missing = "PostgreSQL's server is not installed (Debian: apt install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with server(programs) as socket:
        yield socket


@pytest.fixture
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return make_database(request.getfixturevalue("postgres_socket"), "spent_by_four")


async def start_spender(url: str, bills: Path, seed: int) -> asyncio.subprocess.Process:
    program = Path(__file__).with_name("spender.py")
    return await asyncio.create_subprocess_exec(
        sys.executable, str(program), url, str(bills), str(seed), stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("shared_url", ["sqlite", "postgres"], indirect=True)
async def test_killed_processes_overspend_nothing(
    shared_url: str, tmp_path: Path, thorough: bool
) -> None:
    """Four spend from one budget, some die: never over the cap, and nothing held at the end."""
    kills, rng, bills = 20 if thorough else 3, Random(5), tmp_path / "bills"
    cap = Amount(money_nanousd=spender.CAP_NANOUSD, tokens=10**12, calls=10**9, time_ms=10**15)
    reads = killed = 0
    async with Ledger(shared_url) as ledger:
        running = [await start_spender(shared_url, bills, seed) for seed in range(4)]
        while any(one.returncode is None for one in running):
            spent = 0
            for account in await read_accounts(ledger):
                reads += 1
                spent = account.spent.money_nanousd
                assert is_within(account.spent + account.held, cap), account
            if killed < kills and spent > cap.money_nanousd * (killed + 1) / (kills + 2):
                place = rng.randrange(len(running))
                running[place].kill()
                await running[place].communicate()
                killed += 1
                running[place] = await start_spender(shared_url, bills, 100 + killed)
            await asyncio.sleep(0.01)
        for one in running:
            _, complaint = await one.communicate()
            assert one.returncode == 0, complaint.decode()
    async with Ledger(shared_url) as ledger:  # which settles what the dead have left behind
        (account,) = await read_accounts(ledger)
        assert await pending(ledger) == 0
        recovered = sum(one.recovered for one in await ledger.usage())

    due = sum(map(int, bills.read_text().split()))
    assert account.held == NOTHING
    assert due <= account.spent.money_nanousd <= cap.money_nanousd
    assert account.spent.money_nanousd > cap.money_nanousd * 0.95
    assert killed == kills
    assert recovered > 0 or not thorough  # of a few kills none may strike amid a call
    print(f"{reads} reads, {killed} kills, {recovered} holds settled in full, {due} due, {account}")
