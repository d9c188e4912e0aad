"""The sixteen faults of the README's table, by the stock openai SDK over the gateway's socket."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from adapters import ModelConfig
from orchestrator import OrchestratorConfig
from orchestrator.config import RouteConfig, TimeoutsConfig
from orchestrator.simulator import SIMULATED_KEY, Simulator
from tests.benchmarks.rescues import FAULTS, MODELS, QUESTION, Bench, Call, Fault
from tests.serving import served

# What the first deployment is waited for; the second answers within milliseconds.
PATIENCE = TimeoutsConfig(connect_s=2, first_content_s=2, gap_s=2, total_s=2)
SILENT = ("silence", "slow first token", "stream stalls")
FILTERED = "BadRequestError: content_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault, and whether a stream is asked for."""

    fault: Fault
    is_streamed: bool

    @property
    def route(self) -> str:
        named = re.sub(r"[^a-zA-Z0-9]+", "-", self.fault.name).strip("-")
        return f"{named}.{'streamed' if self.is_streamed else 'plain'}"

    @property
    def is_long(self) -> bool:
        """Whether nothing but the end of its patience tells the gateway of it."""
        return self.fault.name in SILENT


CASES = [Case(fault=fault, is_streamed=how) for fault in FAULTS for how in (False, True)]


def configured(bench: Bench) -> OrchestratorConfig:
    """A route for each case: a deployment with the fault, and one to fall back on."""
    models: dict[str, ModelConfig] = {}
    for case in CASES:
        # Under another address a fault counts its calls anew.
        bases = bench.bases(case.fault, *(("0ms",) if case.is_streamed else ()))
        pair = zip(("first", "second"), MODELS.items(), bases, strict=True)
        for place, (provider, model), base in pair:
            models[f"{place}.{case.route}"] = ModelConfig(
                provider=provider,
                model=model,
                api_key=SIMULATED_KEY,
                api_base=base,
                context_tokens=100_000 if place == "first" else None,
                prefill=place == "second",
            )
    routes = {
        case.route: RouteConfig(models=(f"first.{case.route}",), fallback=(f"second.{case.route}",))
        for case in CASES
    }
    return OrchestratorConfig(models=models, routes=routes, timeouts=PATIENCE)


async def ask(client: openai.AsyncOpenAI, case: Case) -> Call:
    """What the SDK gives whoever asks once."""
    asked: dict[str, Any] = {
        "model": case.route,
        "messages": [{"role": "user", "content": QUESTION}],
        "seed": 1,
    }
    text = ""
    try:
        if not case.is_streamed:
            whole = await client.chat.completions.create(**asked)
            return Call(whole.choices[0].message.content, tokens=whole.usage.total_tokens)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        tokens, finished = 0, []
        async for chunk in await client.chat.completions.create(**asked):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finished += [choice.finish_reason] if choice.finish_reason else []
            tokens = chunk.usage.total_tokens if chunk.usage else tokens
    except openai.APIError as error:
        return Call(text, f"{type(error).__name__}: {error.code}")
    assert finished == ["stop"]
    return Call(text, tokens=tokens)


async def outcomes(client: openai.AsyncOpenAI, bench: Bench) -> dict[str, str]:
    """What becomes of each case. Few are asked at once, but for those that wait."""
    few = asyncio.Semaphore(4)

    async def outcome(case: Case) -> str:
        if case.is_long:
            return bench.judge(await ask(client, case))
        async with few:
            made = [await ask(client, case) for _ in range(case.fault.calls)]
        judged = {bench.judge(call) for call in made}
        return ", ".join(sorted(judged))

    cases = sorted(CASES, key=lambda case: not case.is_long)
    found = await asyncio.gather(*(outcome(case) for case in cases))
    return {case.route: told for case, told in zip(cases, found, strict=True)}


@pytest.fixture
async def bench(simulator: Simulator) -> Bench:
    made = Bench(simulator)
    await made.begin()
    return made


async def test_every_fault_is_rescued_over_http(bench: Bench) -> None:
    """A whole answer, plain and streamed; for the content filter a clean error of the SDK's."""
    with served(configured(bench)) as gateway:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0
        ) as client:
            found = await outcomes(client, bench)

    for case in CASES:
        print(f"{case.route:<40} {found[case.route]}")
    wanted = {
        case.route: FILTERED if case.fault.name == "content filter" else "whole" for case in CASES
    }
    assert found == wanted


async def test_a_broken_stream_is_accounted_for_over_http(bench: Bench) -> None:
    """The usage at its end is at least what both providers have counted."""
    case = next(case for case in CASES if case.fault.counts and case.is_streamed)
    before = bench.simulator.tally()
    with served(configured(bench)) as gateway:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0
        ) as client:
            call = await ask(client, case)
    await bench.simulator.settled()
    after = bench.simulator.tally()

    due = after.prompt_tokens + after.completion_tokens
    due -= before.prompt_tokens + before.completion_tokens
    print(f"{call.tokens} of {due} tokens")
    assert call.tokens >= due > 0
