"""Streams cut anywhere and gone on with by another model: every answer whole, and nothing twice."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from adapters import LLMProvider, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import RetryConfig, RouteConfig
from orchestrator.simulator import Simulator
from tests.routed import PROVIDERS, Heard, another, deployment, hear

CUTS_PER_STREAM, CUTS_PER_STREAM_THOROUGH = 17, 167  # of 60 streams
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


STREAMS = [
    Stream(provider, prompt, said) for provider in PROVIDERS for prompt in PROMPTS for said in SAID
]


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
    generous = RetryConfig(fallback_ratio=1, budget_ratio=1)
    return OrchestratorConfig(models=models, routes=routes, retry=generous)


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
            heard = await asyncio.gather(*(hear(engine, one, streamed=True) for one in asked))
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


async def test_a_stream_cut_anywhere_comes_to_its_whole_answer(thorough: bool) -> None:
    """However the next model goes on: no half answer, no character twice, and none missing."""
    count = CUTS_PER_STREAM_THOROUGH if thorough else CUTS_PER_STREAM
    rng = Random(1)
    came: Counter[str] = Counter()
    wrong: list[str] = []

    for stream in STREAMS:
        outcomes, faults = await cut_many(stream, count, rng)
        came += outcomes
        wrong += faults

    print(f"{came.total()} cuts: {dict(came)}, {len(wrong)} wrong")
    assert wrong == []
    assert came["continued"] > came.total() / 2
