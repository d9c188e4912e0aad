"""A key's money for a day: no two requests overspend it, and nobody else's is touched."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson
import pytest

from adapters import Chunk, CompletionRequest, Limits, MockAdapter, ProviderUnavailable, Usage
from adapters.mock import Reply as Scripted
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import NANO, Caps, Scope
from orchestrator.clock import FakeClock
from orchestrator.config import TenantWindow
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.errors import BudgetExceeded
from orchestrator.ledger import Ledger

MAX_TOKENS = 100
USAGE = Usage(prompt_tokens=20, completion_tokens=MAX_TOKENS)


class Held(MockAdapter):
    """Answers once it is let go; counts who has asked."""

    def __init__(self, reply: Scripted, **about: Any) -> None:
        super().__init__(lambda _: reply, **about)
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        self.asked.release()
        await self.go_on.wait()
        async for chunk in super().stream(request, limits=limits):
            yield chunk


def configured(**budgets: Any) -> OrchestratorConfig:
    price = {"input_usd": 1, "output_usd": 10}
    return OrchestratorConfig.model_validate(
        {
            "models": {"gpt": {"provider": "openai", "model": "gpt", "price": price}},
            "budgets": {"shrink": [], **budgets},
            "retry": {"attempts": 1},
        }
    )


class Bench:
    """An engine over one deployment, and its ledger."""

    def __init__(self, config: OrchestratorConfig, reply: Scripted | None = None) -> None:
        self.ledger = Ledger()
        self.gpt = Held(
            reply or Scripted(text="An answer.", usage=USAGE),
            config=config.models["gpt"],
            deployment="gpt",
        )
        self.engine = EnhancedOrchestrator(
            config, adapters={"gpt": self.gpt}, ledger=self.ledger, clock=FakeClock()
        )
        self.endpoints = Endpoints(self.engine)

    async def call_usd(self) -> float:
        """The most that one call may cost."""
        quote = await self.engine.quote(request())
        money = quote.full.amount.money_nanousd
        assert money
        return money / NANO

    async def spent_usd(self, tenant: str) -> float:
        scope = Scope(kind="key", name=tenant, every="day", caps=Caps(money_nanousd=10**18))
        (standing,) = await self.ledger.standing([scope])
        assert standing.held.money_nanousd == 0
        return standing.spent.money_nanousd / NANO

    async def answer(self, window: TenantWindow, *, tenant: str = "acme", **about: Any) -> Reply:
        body = {
            "model": "gpt",
            "messages": [{"role": "user", "content": "Why?"}],
            "max_tokens": MAX_TOKENS,
            **about,
        }
        return await self.endpoints.answer(
            Call(
                method="POST",
                path="/v1/chat/completions",
                body=orjson.dumps(body),
                tenant=tenant,
                tenant_windows=(window,),
            )
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(configured())
    async with made.ledger, made.engine:
        yield made


def request(**about: Any) -> RequestConfig:
    return RequestConfig(
        prompt="Why?", model="gpt", max_tokens=MAX_TOKENS, cache="off", **{"tenant": "acme"} | about
    )


def a_day(dollars: float) -> TenantWindow:
    return TenantWindow(every="day", money_usd=round(dollars, 9))


async def test_two_requests_at_once_cannot_overspend_a_key(bench: Bench) -> None:
    """While the first may still cost all that is left, the second is refused."""
    window = a_day(1.5 * await bench.call_usd())
    bench.gpt.go_on.clear()
    first = asyncio.create_task(bench.engine.execute_request(request(tenant_windows=(window,))))
    await bench.gpt.asked.acquire()

    with pytest.raises(BudgetExceeded, match=r"key 'acme' for a day"):
        await bench.engine.execute_request(request(tenant_windows=(window,)))
    bench.gpt.go_on.set()

    assert (await first).status == "complete"
    assert 0 < await bench.spent_usd("acme") <= float(window.money_usd or 0)


async def test_another_key_is_not_affected(bench: Bench) -> None:
    """Neither one with a budget of its own nor one that has none."""
    window = a_day(1.5 * await bench.call_usd())
    bench.gpt.go_on.clear()
    runs = [
        asyncio.create_task(bench.engine.execute_request(request(**about)))
        for about in (
            {"tenant_windows": (window,)},
            {"tenant_windows": (window,), "tenant": "beta"},
            {"tenant": "free"},
        )
    ]
    for _ in runs:
        await bench.gpt.asked.acquire()
    bench.gpt.go_on.set()

    assert [response.status for response in await asyncio.gather(*runs)] == ["complete"] * 3
    assert await bench.spent_usd("acme") == await bench.spent_usd("beta") > 0


async def test_a_hundred_at_once_spend_what_there_is_and_no_more(bench: Bench) -> None:
    """Those that fit are answered; the rest are told 429 in OpenAI's shape."""
    window = a_day(10.5 * await bench.call_usd())

    replies = await asyncio.gather(
        *(bench.answer(window, stream=bool(number % 2)) for number in range(100))
    )
    for reply in replies:
        if not isinstance(reply.body, bytes):
            assert (await reply.body.__anext__()).startswith(b"data: ")
            async for _ in reply.body:
                pass

    statuses = [reply.status for reply in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 10
    refused = next(reply for reply in replies if reply.status == 429)
    assert isinstance(refused.body, bytes)
    assert orjson.loads(refused.body)["error"]["code"] == "budget_exceeded"
    assert await bench.spent_usd("acme") <= float(window.money_usd or 0)


@pytest.mark.parametrize(("ours", "keys"), [(0.5, 5), (5, 0.5)])
async def test_of_the_configurations_limit_and_the_keys_the_lower_holds(
    ours: float, keys: float
) -> None:
    """A key cannot widen what the operator has set for every key."""
    window = {"scope": "key", "every": "day", "money_usd": ours * 0.001}
    bench = Bench(configured(windows=[window]))
    async with bench.ledger, bench.engine:
        with pytest.raises(BudgetExceeded, match=r"is \$0\.0005"):
            await bench.engine.execute_request(request(tenant_windows=(a_day(keys * 0.001),)))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/orchestrations"])
async def test_no_caller_sets_windows_over_the_wire(bench: Bench, path: str) -> None:
    """They are the key's; a field of that name is one that nobody knows."""
    body = {"model": "gpt", "tenant_windows": [{"every": "day", "money_usd": 10**6}]}
    said = {"messages": [{"role": "user", "content": "Why?"}]}

    reply = await bench.endpoints.answer(
        Call(method="POST", path=path, body=orjson.dumps({**body, **said}))
    )

    assert reply.status == 400
    assert isinstance(reply.body, bytes)
    assert orjson.loads(reply.body)["error"]["param"] == "tenant_windows"


def test_a_run_that_is_gone_on_with_keeps_its_windows() -> None:
    """A journal writes a request down as JSON."""
    asked = request(tenant_windows=(a_day(2.5),))

    kept = RequestConfig.model_validate_json(asked.model_dump_json(exclude_defaults=True))

    assert kept == asked


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/orchestrations"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_runs_have_used_is_counted(bench: Bench, path: str, stream: bool) -> None:
    """The tokens of every call of a run, told once, whichever way it was asked."""
    used: list[int] = []
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Why?"}], "stream": stream}

    reply = await bench.endpoints.answer(
        Call(method="POST", path=path, body=orjson.dumps(body), count=used.append)
    )
    if not isinstance(reply.body, bytes):
        async for _ in reply.body:
            pass

    assert reply.status == 200
    assert used == [USAGE.total_tokens]


async def test_a_stream_that_fails_counts_what_it_has_used() -> None:
    """Which is nothing, where the provider has refused."""
    used: list[int] = []
    bench = Bench(configured(), Scripted(error=ProviderUnavailable("down")))
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Why?"}], "stream": True}
    async with bench.ledger, bench.engine:
        reply = await bench.endpoints.answer(
            Call(
                method="POST",
                path="/v1/chat/completions",
                body=orjson.dumps(body),
                count=used.append,
            )
        )

    assert reply.status >= 500
    assert used == [0]
