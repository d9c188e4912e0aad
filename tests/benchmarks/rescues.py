"""Compare what becomes of sixteen faults, here and with litellm's Router.

    python tests/benchmarks/rescues.py [--write] [--only WORD]

Every fault strikes the first of two deployments of a route, OpenAI's and Anthropic's wire format,
both on one simulator, and a stream is asked for. The Router runs in a process of its own, without
any of our settings, with the same deployments, fallback, and limits of time, and two retries.
What each handed out is held against the whole answers. `--write` puts the table into the README.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters import LLMProvider, ModelConfig, ProviderError
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import RouteConfig, TimeoutsConfig
from orchestrator.errors import OrchestratorError
from orchestrator.events import RunFinished, TextDelta
from orchestrator.simulator import SIMULATED_KEY, Simulator

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- rescues: begin -->", "<!-- rescues: end -->"
QUESTION = "Which river is the longest, and why does that depend on who measures it?"
FIRST_CONTENT_S, TOTAL_S = 1.0, 5.0
PATIENCE_S = 30.0  # of whoever asks; it fits two deployments, two retries each, and their waits
MODELS = {LLMProvider.OPENAI: "gpt-4.1-mini", LLMProvider.ANTHROPIC: "claude-haiku-4-5"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with the first deployment, and perhaps with the second."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    calls: int = 1
    counts: bool = False  # what is compared is how many tokens are accounted for


FAULTS = (
    Fault("429 with retry-after", ("e429-seconds",)),
    Fault("429 without", ("e429-none",)),
    Fault("500 once", ("e500", "first1")),
    Fault("503", ("e503",)),
    Fault("connection reset", ("cut0",)),
    Fault("silence", ("stall0",)),
    Fault("slow first token", ("20s",)),
    Fault("stream cut", ("cutmid",)),
    Fault("stream stalls", ("stallmid",)),
    Fault("malformed chunk", ("badjson",)),
    Fault("ends early without [DONE]", ("cutat4000clean",)),
    Fault("prompt too long", ("e400ctx",)),
    Fault("content filter", ("filter400",)),
    Fault("fallback refuses a prefill", ("cutmid",), ("prefill400",)),
    Fault("flapping, 10 calls", ("e500", "flap"), calls=10),
    Fault("accounting of a cut stream", ("cutmid",), counts=True),
)


@dataclass(frozen=True)
class Call:
    """What one call gave whoever made it."""

    text: str = ""
    error: str = ""
    tokens: int = 0  # that are accounted for


@dataclass(frozen=True)
class Row:
    """What became of a fault."""

    outcome: str
    attempts: int
    elapsed_s: float

    def __str__(self) -> str:
        return f"{self.outcome} | {self.attempts} | {self.elapsed_s:.2f}"


class Bench:
    """A simulator, and the whole answers of both models."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._wholes: tuple[str, str] = ("", "")

    def bases(self, fault: Fault, *also: str) -> tuple[str, str]:
        """Where the two deployments are found; under another address a fault counts anew."""
        first = self.simulator.base_url(LLMProvider.OPENAI, *also, *fault.first)
        return first, self.simulator.base_url(LLMProvider.ANTHROPIC, *also, *fault.second)

    async def begin(self) -> None:
        """Learn the whole answers; the first calls of a process are slow, too."""
        nothing = Fault("nothing", ())
        async with engine(self.bases(nothing)) as of:
            calls = [await ask(of, name, patience_s=300) for name in ("first", "second")]
        assert not any(call.error for call in calls), calls
        self._wholes = (calls[0].text, calls[1].text)

    async def measure(self, fault: Fault, calls: Any) -> Row:
        """What became of a fault; `calls` makes them."""
        arrived, before = self.simulator.arrived, self.simulator.tally()
        made, elapsed_s = await calls()
        with suppress(TimeoutError):  # the Router may leave a silent stream open
            async with asyncio.timeout(1):
                await self.simulator.settled()
        after = self.simulator.tally()
        due = after.prompt_tokens + after.completion_tokens
        due -= before.prompt_tokens + before.completion_tokens
        if fault.counts:
            outcome = f"{made[0].tokens} of {due} tokens"
        elif fault.calls > 1:
            outcome = f"{sum(self.judge(call) == 'whole' for call in made)} of {len(made)} whole"
        else:
            outcome = self.judge(made[0])
        return Row(outcome, self.simulator.arrived - arrived, elapsed_s)

    def judge(self, call: Call) -> str:
        """What whoever asked was given, held against the whole answers."""
        if call.error == "TimeoutError":
            return f"**nothing more for {PATIENCE_S:g} s** after {len(call.text)} characters"
        if call.error:
            return f"{call.error} after {len(call.text)} characters" if call.text else call.error
        if call.text in self._wholes:
            return "whole"
        if any(whole.startswith(call.text) for whole in self._wholes):
            return "**cut, told as whole**" if call.text else "**nothing, told as whole**"
        return "**garbled, told as whole**"


# Ours.


@asynccontextmanager
async def engine(bases: tuple[str, str]) -> AsyncIterator[EnhancedOrchestrator]:
    """An engine with a route over the two deployments."""
    first, second = (
        ModelConfig(provider=provider, model=model, api_key=SIMULATED_KEY, api_base=base)
        for (provider, model), base in zip(MODELS.items(), bases, strict=True)
    )
    config = OrchestratorConfig(
        models={
            "first": first.model_copy(update={"context_tokens": 100_000}),
            "second": second.model_copy(update={"prefill": True}),
        },
        routes={"route": RouteConfig(models=("first",), fallback=("second",))},
        timeouts=TimeoutsConfig(
            connect_s=FIRST_CONTENT_S,
            first_content_s=FIRST_CONTENT_S,
            gap_s=FIRST_CONTENT_S,
            total_s=TOTAL_S,
        ),
    )
    async with EnhancedOrchestrator(config) as made:
        yield made


async def ask(of: EnhancedOrchestrator, model: str, *, patience_s: float = PATIENCE_S) -> Call:
    """One stream."""
    text = ""
    request = RequestConfig(prompt=QUESTION, model=model, seed=1)
    try:
        async with asyncio.timeout(patience_s), aclosing(of.stream_request(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, RunFinished):
                    return Call(text, tokens=event.response.usage.total_tokens)
    except (ProviderError, OrchestratorError, TimeoutError) as error:
        return Call(text, type(error).__name__)
    raise AssertionError("a stream ends in RunFinished or in an error")


async def ours(bench: Bench, fault: Fault) -> Row:
    """What becomes of a fault here."""

    async def calls() -> tuple[list[Call], float]:
        async with engine(bench.bases(fault)) as of:
            began_s = time.perf_counter()
            made = [await ask(of, "route") for _ in range(fault.calls)]
            return made, time.perf_counter() - began_s

    return await bench.measure(fault, calls)


# litellm's Router, in a process of its own.


class Router:
    """The process: a line with a fault in, a line with what came of it out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def row(self, bench: Bench, fault: Fault) -> Row:
        """What becomes of a fault there."""

        async def calls() -> tuple[list[Call], float]:
            asked = json.dumps({"bases": bench.bases(fault, "0ms"), "calls": fault.calls})
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(f"{asked}\n".encode())
            answer = json.loads(await self._process.stdout.readline())
            return [Call(**call) for call in answer["calls"]], answer["elapsed_s"]

        return await bench.measure(fault, calls)


@asynccontextmanager
async def router() -> AsyncIterator[Router]:
    """The Router's process, ended in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--router",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=2**24,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    try:
        yield Router(process)
    finally:
        process.terminate()
        await process.wait()


async def serve_router() -> None:
    """Be that process: this part of the file knows litellm and nothing of ours."""
    import litellm

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # litellm prints
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        made = litellm.Router(
            model_list=[
                _deployment("first", "openai/gpt-4.1-mini", asked["bases"][0]),
                _deployment("second", "anthropic/claude-haiku-4-5", asked["bases"][1]),
            ],
            fallbacks=[{"first": ["second"]}],
            context_window_fallbacks=[{"first": ["second"]}],
            num_retries=2,
            timeout=TOTAL_S,
            stream_timeout=FIRST_CONTENT_S,
        )
        began_s = time.perf_counter()
        calls = [await _routed(made) for _ in range(asked["calls"])]
        elapsed_s = time.perf_counter() - began_s
        found = {"calls": [asdict(call) for call in calls], "elapsed_s": elapsed_s}
        print(json.dumps(found), file=answers, flush=True)


def _deployment(name: str, model: str, base: str) -> dict[str, Any]:
    # For Anthropic litellm wants the whole address.
    where = f"{base}/v1/messages" if model.startswith("anthropic/") else base
    params = {"model": model, "api_key": SIMULATED_KEY, "api_base": where}
    return {"model_name": name, "litellm_params": params}


async def _routed(of: Any) -> Call:
    text, tokens = "", 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            stream = await of.acompletion(
                model="first",
                messages=[{"role": "user", "content": QUESTION}],
                stream=True,
                stream_options={"include_usage": True},
                seed=1,
                drop_params=True,
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                usage = getattr(chunk, "usage", None)
                tokens = usage.total_tokens if usage else tokens
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is compared
        return Call(text, type(error).__name__)
    return Call(text, tokens=tokens)


# The table.


async def compared(faults: Sequence[Fault]) -> AsyncIterator[tuple[Fault, Row, Row]]:
    """Each fault with what became of it, here and there."""
    async with Simulator() as simulator, router() as other:
        bench = Bench(simulator)
        await bench.begin()
        await other.row(bench, Fault("nothing", ()))  # its first call is slow, too
        await other.row(bench, Fault("nothing", ("e500",)))
        for fault in faults:
            yield fault, await ours(bench, fault), await other.row(bench, fault)


async def printed(faults: Sequence[Fault]) -> list[str]:
    """The table, printed as it comes."""
    lines = [
        "| fault | here | attempts | seconds | litellm's Router | attempts | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    print(*lines, sep="\n")
    async for fault, here, there in compared(faults):
        lines.append(f"| {fault.name} | {here} | {there} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--router", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.router:
        asyncio.run(serve_router())
        return
    lines = asyncio.run(printed([fault for fault in FAULTS if asked.only in fault.name]))
    if asked.write:
        text = README.read_text("utf-8")
        table = "\n".join((BEGIN, *lines, END))
        pattern = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
        README.write_text(re.sub(pattern, lambda _: table, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
