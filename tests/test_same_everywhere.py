"""One question, every way in: the same text, the same tool calls, usage and cost."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from orchestrator import (
    AsyncOpenAI,
    EnhancedOrchestrator,
    OpenAI,
    OrchestratorResponse,
    RequestConfig,
    load_config,
)
from orchestrator.cli import main
from orchestrator.events import RunFinished, TextDelta
from orchestrator.simulator import SIMULATED_KEY, Simulator
from tests.faces import ASKS_TOOL, HELLO, TOOL, simulated_elsewhere
from tests.serving import served

# Where the fences around drafts are the same, the simulator's answers are.
SAME: dict[str, Any] = {"nonce": lambda: "4f1c"}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
ASKS_PERSON: list[Any] = [{"role": "user", "content": "Ada is 36. Who is it?"}]
YAML = """
models:
  alpha: {{provider: openai, model: gpt-5-mini, api_key: {key}, api_base: "{alpha}"}}
  beta: {{provider: anthropic, model: claude-haiku-4-5, api_key: {key}, api_base: "{beta}"}}
  gamma: {{provider: google, model: gemini-2.5-flash, api_key: {key}, api_base: "{gamma}"}}
  broken: {{provider: openai, model: gpt-5-mini, api_key: {key}, api_base: "{broken}"}}
  cut: {{provider: openai, model: gpt-5-mini, api_key: {key}, api_base: "{cut}"}}
routes:
  spare: {{models: [broken], fallback: [beta]}}
  mended: {{models: [cut], fallback: [beta]}}
panels:
  all: {{members: [alpha, beta], synthesizer: gamma, quorum: 2, pattern: compare}}
  short: {{members: [alpha, broken], synthesizer: beta, quorum: 1, pattern: compare}}
retry: {{attempts: 1}}
breaker: {{failures: 1000, calls: 1000}}
"""


@dataclass(frozen=True, slots=True)
class House:
    """One configuration: its file, our client over it, and openai's over the gateway's socket."""

    file: Path
    client: OpenAI
    base_url: str
    http: openai.OpenAI


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    file = tmp_path_factory.mktemp("same") / "orchestrator.yaml"
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for module in ("orchestrator.client", "orchestrator.cli.setting"):
            same = partial(EnhancedOrchestrator, **SAME)
            patch.setattr(f"{module}.EnhancedOrchestrator", same)
        simulator = stack.enter_context(simulated_elsewhere())
        file.write_text(YAML.format(key=SIMULATED_KEY, **bases(simulator)), "utf-8")
        gateway = stack.enter_context(served(load_config(file), **SAME))
        base_url = f"{gateway.base_url}/v1"
        client = stack.enter_context(OpenAI(config=file))
        http = stack.enter_context(openai.OpenAI(base_url=base_url, api_key="none", max_retries=0))
        yield House(file, client, base_url, http)


def bases(simulator: Simulator) -> dict[str, str]:
    """Where the simulator has each deployment, and what is wrong with it."""
    places = {"alpha": ("openai",), "beta": ("anthropic",), "gamma": ("google",)}
    faulty = {"broken": ("openai", "e500"), "cut": ("openai", "cutmid")}
    return {name: simulator.base_url(*place) for name, place in (places | faulty).items()}


# What must not depend on the way in.


@dataclass(frozen=True, slots=True)
class Told:
    """An answer. Providers differ in the white space around what tools are called with."""

    text: str
    calls: tuple[tuple[str, str], ...]
    finish: str
    usage: tuple[int, int]
    cost_nanousd: int
    status: str


def calls_of(named: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(json.loads(arguments))) for name, arguments in named)


def of_response(response: OrchestratorResponse) -> Told:
    return Told(
        text=response.content,
        calls=calls_of((call.name, call.arguments) for call in response.tool_calls),
        finish=response.finish_reason,
        usage=(response.usage.prompt_tokens, response.usage.completion_tokens),
        cost_nanousd=response.cost_nanousd,
        status=response.status,
    )


def of_completion(reply: Any, told: dict[str, Any]) -> Told:
    choice = reply.choices[0]
    asked = choice.message.tool_calls or ()
    return Told(
        text=choice.message.content or "",
        calls=calls_of((call.function.name, call.function.arguments) for call in asked),
        finish=choice.finish_reason,
        usage=(reply.usage.prompt_tokens, reply.usage.completion_tokens),
        cost_nanousd=round(told["cost_usd"] * 10**9),
        status=told["status"],
    )


def of_json(told: dict[str, Any], receipt: dict[str, Any]) -> Told:
    """What the command line prints, and `/v1/orchestrations` replies."""
    return Told(
        text=told["content"],
        calls=calls_of((call["name"], call["arguments"]) for call in told["tool_calls"]),
        finish=told["finish_reason"],
        usage=(receipt["usage"]["prompt_tokens"], receipt["usage"]["completion_tokens"]),
        cost_nanousd=receipt["cost_nanousd"],
        status=told["status"],
    )


# The ways in.

Asked = dict[str, Any]
Ways = dict[str, Told]
STREAMED: Asked = {"stream_options": {"include_usage": True}}


async def awaited(house: House, asked: Asked) -> Ways:
    """The engine, whole and by its events; clients, whole and streamed, here and by the socket."""
    async with (
        EnhancedOrchestrator(load_config(house.file), **SAME) as engine,
        AsyncOpenAI(config=house.file) as client,
        openai.AsyncOpenAI(base_url=house.base_url, api_key="none", max_retries=0) as http,
    ):
        request = RequestConfig.model_validate(asked)
        return {
            "engine": of_response(await engine.execute_request(request)),
            "engine, streamed": await by_events(engine, request),
            "async client": whole(await client.chat.completions.create(**asked)),
            "async client, streamed": await by_async_chunks(client, asked),
            "async http, streamed": await by_async_chunks(http, asked),
        }


async def by_events(engine: EnhancedOrchestrator, request: RequestConfig) -> Told:
    async with aclosing(engine.stream_request(request)) as stream:
        events = [event async for event in stream]
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    told = of_response(finished.response)
    return replace(told, text="".join(e.text for e in events if isinstance(e, TextDelta)))


async def by_async_chunks(client: openai.AsyncOpenAI, asked: Asked) -> Told:
    async with client.chat.completions.stream(**asked, **STREAMED) as stream:
        events = [event async for event in stream]
        return of_completion(await stream.get_final_completion(), end_of(events))


def waited_for(house: House, asked: Asked) -> Ways:
    """The same by who does not await, and the orchestrator's own words over the socket."""
    native = house.http.post("/orchestrations", body=asked, cast_to=dict[str, Any])
    return {
        "client": whole(house.client.chat.completions.create(**asked)),
        "client, streamed": by_chunks(house.client, asked),
        "http": whole(house.http.chat.completions.create(**asked)),
        "http, streamed": by_chunks(house.http, asked),
        "http, native": of_json(native, native["receipt"]),
    }


def by_chunks(client: openai.OpenAI, asked: Asked) -> Told:
    with client.chat.completions.stream(**asked, **STREAMED) as stream:
        events = [*stream]
        return of_completion(stream.get_final_completion(), end_of(events))


def whole(reply: Any) -> Told:
    return of_completion(reply, reply.model_extra["orchestration"])


def end_of(events: Sequence[Any]) -> dict[str, Any]:
    """What the one chunk with usage says of the run."""
    chunks = [event.chunk for event in events if event.type == "chunk"]
    (last,) = [chunk for chunk in chunks if chunk.usage is not None]
    told: dict[str, Any] = last.model_extra["orchestration"]
    return told


def by_command(house: House, asked: Asked) -> Told:
    """`orchestrator ask --json`; it has no words for tools."""
    words = ["ask", asked["messages"][0]["content"], "-m", asked["model"], "--json", "--quiet"]
    words += ["--seed", str(asked["seed"]), "--config", str(house.file)]
    if "response_format" in asked:
        schema = house.file.with_name("person.json")
        schema.write_text(json.dumps(asked["response_format"]), "utf-8")
        words += ["--schema", str(schema)]
    result = CliRunner().invoke(main, words, prog_name="orchestrator")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    return of_json(told, told)


TOOLS: Asked = {"messages": ASKS_TOOL, "tools": [TOOL]}
SCHEMA: Asked = {"messages": ASKS_PERSON, "response_format": FORMAT}
ROWS: dict[str, Asked] = {
    "deployment": {"model": "alpha"},
    "route whose first fails": {"model": "spare"},
    "panel by a pattern": {"model": "critique/all"},
    "panel of which one fails": {"model": "short"},
    "tools of a route": {"model": "spare", **TOOLS},
    "tools of a panel": {"model": "all", **TOOLS},
    "schema for a deployment": {"model": "gamma", **SCHEMA},
    "schema for a panel": {"model": "all", **SCHEMA},
}


def everywhere(house: House, asked: Asked) -> Ways:
    ways = asyncio.run(awaited(house, asked)) | waited_for(house, asked)
    return ways if "tools" in asked else {**ways, "command": by_command(house, asked)}


@pytest.mark.parametrize("row", ROWS)
def test_every_way_in_gives_the_same(house: House, row: str) -> None:
    """Text, tool calls, usage, nano-dollars and status, over a real socket as in the process."""
    asked: Asked = {"messages": HELLO, "seed": 5, **ROWS[row]}
    ways = everywhere(house, asked)

    told = ways["engine"]
    assert {name: way for name, way in ways.items() if way != told} == {}
    assert told.cost_nanousd > 0
    assert bool(told.calls) == ("tools" in asked)
    assert (told.status == "degraded") == (row == "panel of which one fails")
    if "response_format" in asked:
        assert set(json.loads(told.text)) == {"name", "age"}


def test_what_is_watched_is_gone_on_with_and_what_is_not_is_begun_anew(house: House) -> None:
    """The one difference: words that were sent stay. All who watch get one answer, all others too.

    The command line watches: an answer of which it has shown the beginning has to end as well.
    """
    ways = everywhere(house, {"model": "mended", "messages": HELLO, "seed": 5})

    watched = {told for name, told in ways.items() if "streamed" in name or name == "command"}
    unwatched = set(ways.values()) - watched
    assert len(watched) == len(unwatched) == 1
    assert {told.status for told in ways.values()} == {"complete"}
    assert {told.finish for told in ways.values()} == {"stop"}
