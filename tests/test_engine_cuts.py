"""Streams cut anywhere and gone on with by another model: every answer whole, and nothing twice."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random

import httpx
import pytest
import yaml  # with vcrpy, which writes the recordings

from adapters import (
    BaseAdapter,
    CompletionRequest,
    EmptyAnswer,
    LLMProvider,
    MockAdapter,
    ModelConfig,
    _litellm,
    collect,
    create_adapter,
)
from adapters._provider import LiteLLMAdapter
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import RetryConfig, RouteConfig
from orchestrator.simulator import Simulator
from tests.adapters.test_recordings import VARIABLE, missing, read_rows
from tests.adapters.wires import ASK, Bytes, rewire
from tests.routed import PROVIDERS, Heard, another, deployment, hear

CUTS_OF_A_STREAM, CUTS_OF_A_STREAM_THOROUGH = 17, 167  # of 60 streams
CUTS_OF_A_RECORDING, CUTS_OF_A_RECORDING_THOROUGH = 20, 200
AT_ONCE = 20
GENEROUS = RetryConfig(fallback_ratio=1, budget_ratio=1)  # here everything breaks off
PROMPTS = (
    "In one sentence: which river is the longest?",
    "Which river is the longest, and why?",
    "What is 17 * 23?",
    'Answer in JSON with the keys "river" and "length_km".',
    "Compare tea and coffee as a list.",
)
SAID = {"prose": "0ms", "odd": "oddtext"}  # the same with odd characters in the middle
# How a model goes on: at once, or with the last characters first, or with all of them. Fewer than
# are listed here may well be meant, so they are not taken out.
WAYS = ("0ms", "overlap24", "overlap32", "overlap45", "overlap200", "startover")


@dataclass(frozen=True)
class Stream:
    """An answer in one wire format."""

    provider: LLMProvider
    prompt: str
    said: str

    @property
    def request(self) -> RequestConfig:
        return RequestConfig(prompt=self.prompt, seed=1)


@dataclass(frozen=True)
class Cut:
    """Where a stream breaks off, how, and how the next model goes on."""

    name: str
    at: int  # bytes
    is_clean: bool
    way: str
    prefill: bool

    @property
    def directive(self) -> str:
        return f"cutat{self.at}{'clean' if self.is_clean else ''}"


def drawn(rng: Random, count: int, size: int) -> Iterator[Cut]:
    for number in range(count):
        yield Cut(
            name=f"cut-{number}",
            at=rng.randrange(size),
            is_clean=rng.random() < 0.5,
            way=rng.choice(WAYS),
            prefill=rng.random() < 0.5,
        )


async def whole_of(simulator: Simulator, stream: Stream, provider: LLMProvider) -> tuple[str, int]:
    """An answer that nobody cuts, and the bytes it takes to send it."""
    models = {"it": deployment(simulator, provider, SAID[stream.said])}
    async with EnhancedOrchestrator(OrchestratorConfig(models=models)) as engine:
        heard = await hear(engine, stream.request, streamed=True)
    await simulator.settled()
    assert heard.response is not None
    return heard.response.content, simulator.requests[-1].sent_bytes


def configured(simulator: Simulator, stream: Stream, cuts: Sequence[Cut]) -> OrchestratorConfig:
    """A route for each cut: to a stream that breaks off, and to a model that goes on with it."""
    models: dict[str, ModelConfig] = {}
    routes: dict[str, RouteConfig] = {}
    for cut in cuts:
        first, second = f"{cut.name}-first", f"{cut.name}-second"
        asked = (cut.directive, SAID[stream.said])
        models[first] = deployment(simulator, stream.provider, *asked)
        models[second] = deployment(
            simulator, another(stream.provider), cut.way, prefill=cut.prefill
        )
        routes[cut.name] = RouteConfig(models=(first, second))
    return OrchestratorConfig(models=models, routes=routes, retry=GENEROUS)


async def cut_many(stream: Stream, count: int, rng: Random) -> tuple[Counter[str], list[str]]:
    """How many cuts of a stream came to what, and which of them to something wrong."""
    prose = replace(stream, said="prose")
    async with Simulator() as simulator:
        # Asked first, these are what the simulator goes on with, should another begin alike.
        own, size = await whole_of(simulator, stream, stream.provider)
        same, _ = await whole_of(simulator, prose, stream.provider)
        cuts = [*drawn(rng, count, size)]
        async with EnhancedOrchestrator(configured(simulator, stream, cuts)) as engine:
            asked = [stream.request.model_copy(update={"model": cut.name}) for cut in cuts]
            heard = await hear_all(engine, asked)
        other, _ = await whole_of(simulator, prose, another(stream.provider))
    came: Counter[str] = Counter()
    wrong = []
    for cut, one in zip(cuts, heard, strict=True):
        outcome = outcome_of(cut, one)
        came[outcome] += 1
        wholes = [other] if outcome == "rescued" else [own, same]  # one until the odd characters
        if fault := amiss(one, wholes):
            wrong.append(f"{stream} {cut} {outcome}: {fault}")
    return came, wrong


async def hear_all(engine: EnhancedOrchestrator, asked: Sequence[RequestConfig]) -> list[Heard]:
    """Streams, some of them at once: no more than the budget of fallbacks has room for."""
    heard: list[Heard] = []
    for start in range(0, len(asked), AT_ONCE):
        group = asked[start : start + AT_ONCE]
        heard += await asyncio.gather(*(hear(engine, one, streamed=True) for one in group))
    return heard


def outcome_of(cut: Cut, heard: Heard) -> str:
    if heard.response is None:
        return type(heard.error).__name__
    last = heard.attempts(cut.name)[-1]
    if last.deployment == f"{cut.name}-first":
        return "itself"
    return "continued" if last.continues else "rescued"


def amiss(heard: Heard, wholes: Sequence[str]) -> str:
    """What is wrong with what was heard, if anything is."""
    shown = heard.shown
    if not any(all(whole.startswith(text) for text in shown) for whole in wholes):
        return f"{shown[-1]!r} was shown of {wholes}"
    if heard.response is None:
        return f"{heard.error} after {shown[-1]!r} of {wholes}"
    content = heard.response.content
    return "" if content == shown[-1] and content in wholes else f"{content!r} is not {wholes}"


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_cut_anywhere_comes_to_its_whole_answer(
    provider: LLMProvider, prompt: str, thorough: bool
) -> None:
    """However the next model goes on: no half answer, no character twice, and none missing."""
    count = CUTS_OF_A_STREAM_THOROUGH if thorough else CUTS_OF_A_STREAM
    rng = Random(f"{provider} {prompt}")
    came: Counter[str] = Counter()
    wrong: list[str] = []

    for said in SAID:
        outcomes, faults = await cut_many(Stream(provider, prompt, said), count, rng)
        came += outcomes
        wrong += faults

    print(f"{came.total()} cuts: {dict(came)}, {len(wrong)} wrong")
    assert wrong == []
    assert came["continued"]


# Recorded streams.


@dataclass(frozen=True)
class Recording:
    """A stream of a real provider: its bytes, and what they say."""

    path: str
    config: ModelConfig
    body: bytes
    text: str


async def recordings(folder: Path) -> AsyncIterator[Recording]:
    """The recorded streams whose text is long enough to be cut."""
    for row in read_rows(folder):
        expected = row["expect"]
        if not row["stream"] or expected["error"] or expected["tool_calls"]:
            continue
        cassette = yaml.safe_load((folder / row["path"]).read_text("utf-8"))
        body = cassette["interactions"][0]["response"]["body"]["string"].encode()
        base = {"api_base": row["api_base"]} if row["provider"] == "custom" else {}
        config = ModelConfig(provider=row["provider"], model=row["model"], api_key="k", **base)
        text = (await collect(replaying(config, [body], None).stream(ASK))).text
        if len(text) > 8:
            yield Recording(row["path"], config, body, text)


def replaying(
    config: ModelConfig, parts: Sequence[bytes], failure: Exception | None
) -> LiteLLMAdapter:
    """An adapter whose provider sends these bytes, and then ends or breaks."""
    adapter = create_adapter(config)
    assert isinstance(adapter, LiteLLMAdapter)

    async def respond(request: httpx.Request) -> httpx.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=Bytes(parts, failure))

    rewire(adapter, httpx.MockTransport(respond))
    return adapter


def in_parts(rng: Random, body: bytes) -> list[bytes]:
    """The bytes as a network may deliver them."""
    places = sorted(
        {0, len(body), *(rng.randrange(len(body) + 1) for _ in range(rng.randrange(9)))}
    )
    return [body[start:end] for start, end in pairwise(places)]


def going_on(text: str, rng: Random) -> MockAdapter:
    """A model that knows how an answer goes on, and goes on with it in one of several ways."""
    way, repeats = rng.choice(("on", "repeating", "anew")), rng.randrange(24, 200)

    def script(request: CompletionRequest) -> Reply:
        *_, last = request.messages
        if len(request.messages) == 1:
            return Reply(text=text)
        is_prefilled = last["role"] == "assistant"
        begun = str(last["content"] if is_prefilled else request.messages[-2]["content"])
        start = len(begun)
        if way == "anew":
            start = 0
        elif way == "repeating":
            start = max(0, start - repeats)
        elif not is_prefilled:
            start = begun.rindex(str(last["content"]).partition(":\n\n")[2])
        rest = text[start:]
        return Reply(text=rest) if rest else Reply(error=EmptyAnswer("there is nothing to add"))

    return MockAdapter(script)


async def cut_recording(recording: Recording, count: int, rng: Random) -> list[str]:
    """Which cuts of a recorded stream did not come to its whole text."""
    models: dict[str, ModelConfig] = {}
    routes: dict[str, RouteConfig] = {}
    adapters: dict[str, BaseAdapter] = {}
    places = [rng.randrange(len(recording.body)) for _ in range(count)]
    for place in places:
        parts = in_parts(rng, recording.body[:place])
        failure = httpx.ReadError("connection lost") if rng.random() < 0.5 else None
        first, second = f"first-{len(routes)}", f"second-{len(routes)}"
        adapters[first] = replaying(recording.config, parts, failure)
        adapters[second] = going_on(recording.text, rng)
        models[first] = recording.config
        models[second] = adapters[second].config.model_copy(update={"prefill": rng.random() < 0.5})
        routes[f"route-{len(routes)}"] = RouteConfig(models=(first, second))
    config = OrchestratorConfig(models=models, routes=routes, retry=GENEROUS)
    async with EnhancedOrchestrator(config, adapters=adapters) as engine:
        asked = [RequestConfig(prompt="?", model=name) for name in routes]
        heard = await hear_all(engine, asked)
    return [
        f"{recording.path} at {place}: {fault}"
        for place, one in zip(places, heard, strict=True)
        if (fault := amiss(one, [recording.text]))
    ]


async def test_a_recorded_stream_cut_anywhere_comes_to_its_whole_text(thorough: bool) -> None:
    """As real providers send them, in pieces of any size."""
    named = os.environ.get(VARIABLE)
    if not named or not (Path(named) / "EXPECTED.jsonl").is_file():
        missing(named, in_ci=bool(os.environ.get("CI")))
        return
    await _litellm.load()
    rng = Random(1)
    streams = cuts = 0
    wrong: list[str] = []

    async for recording in recordings(Path(named)):
        count = CUTS_OF_A_RECORDING_THOROUGH if thorough else CUTS_OF_A_RECORDING
        wrong += await cut_recording(recording, count, rng)
        streams, cuts = streams + 1, cuts + count

    print(f"{cuts} cuts of {streams} recorded streams, {len(wrong)} wrong")
    assert wrong == []
    assert streams
