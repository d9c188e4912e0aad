"""Every fault of a provider through the engine, with one deployment to fall back on.

    python tests/test_engine_faults.py [FAULT ...]

prints what was expected and what came of it, for every wire format and every way to be asked.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import patch

import pytest

from adapters import Limits, LLMProvider, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import PanelConfig, RouteConfig, TimeoutsConfig
from orchestrator.errors import NoDeploymentLeft
from orchestrator.ledger import Ledger
from orchestrator.simulator import FAULTS, Simulator, SimulatorConfig, closed_port, full_backlog
from tests.routed import BUDGETS, PROVIDERS, Heard, amiss_at_rest, another, deployment, hear

Form = Literal["plain", "streamed", "member", "streamed member", "writer"]
FORMS: tuple[Form, ...] = ("plain", "streamed", "member", "streamed member", "writer")
QUESTION = "Which river is the longest, and why does that depend on who measures it?"
WEATHER: dict[str, object] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

PATIENT = TimeoutsConfig(first_content_s=60, gap_s=60, total_s=60, run_s=240)
# Long enough for a sound answer on a busy machine, short enough to be waited for.
HASTY = TimeoutsConfig(connect_s=0.5, first_content_s=1, gap_s=1, total_s=1.4, run_s=60)
SLOW = {"stall0", "stallhead", "stallopen", "stallmid", "drip", "pingdrip", "hangs"}
DIRECTIVES = {"hugeline": "hugeline2", "big": "big3", "tinyevents": "tinyevents400"}
DIRECTIVES["long"] = "long3000"  # all small enough to be quick
EVENTS = {"tinyevents": 300}
UNREACHABLE = ("refused", "hangs", "untrusted", "unknown")  # before there is a word of HTTP

SAID_OTHERWISE = {"splitchunk", "oddtext", "length", "filter", "refuse", "inject", "big", "long"}
SAID_OTHERWISE |= {"tinyevents", "toolcut", "dupchunks"}  # Gemini's first event holds text


@dataclass(frozen=True)
class Expected:
    """What a fault comes to.

    `itself`: the answer of the deployment that has the fault, which it did not spoil. `rescued`:
    the whole answer of the other one. `continued`: what the first had said, and the rest from the
    other. `missing`: no usable draft, and the run says so. `draft`: nobody wrote, so the best
    draft is the answer, and the run says so. Else the name of an error.
    """

    plain: str
    streamed: str
    member: str
    writer: str = ""

    def of(self, form: Form) -> str:
        if form == "writer":
            return self.writer or self.streamed
        return {"plain": self.plain, "streamed": self.streamed}.get(form, self.member)


ITSELF = Expected("itself", "itself", "itself")
RESCUED = Expected("rescued", "rescued", "rescued")
CONTINUED = Expected("rescued", "continued", "rescued")
ENDLESS = Expected("rescued", "MalformedResponse", "rescued", "draft")
EXPECTED: dict[str, Expected] = {
    # the connection
    **dict.fromkeys(UNREACHABLE, RESCUED),
    **dict.fromkeys(("cut0", "cuthead", "cuthalfhead", "stall0", "stallhead"), RESCUED),
    **dict.fromkeys(("stallopen", "pingdrip"), RESCUED),
    **dict.fromkeys(("cutmid", "cutmidclose", "stallmid", "drip"), CONTINUED),
    **dict.fromkeys(("splitchunk", "oddtext", "crlf", "bom"), ITSELF),
    # streams that lie
    **dict.fromkeys(("endnofinish", "anthcut", "gemcut", "donenofinish", "badjson"), CONTINUED),
    **dict.fromkeys(("errevent", "antherr"), CONTINUED),
    "errfirst": RESCUED,
    **dict.fromkeys(("dupchunks", "unknownfields", "foreignid"), ITSELF),
    # nothing in it
    **dict.fromkeys(("empty", "nochoices", "nullcontent", "blank"), RESCUED),
    # not what the protocol says
    **dict.fromkeys(("html200", "arrayjson", "errin200", "hugeline"), RESCUED),
    **dict.fromkeys(("halfjson", "deepjson"), CONTINUED),
    **dict.fromkeys(("big", "tinyevents", "long"), ENDLESS),
    # errors
    **dict.fromkeys(("e400", "e400ctx", "e401", "echo401", "e402", "e403", "e404"), RESCUED),
    "e413": RESCUED,
    "filter400": Expected("ContentFiltered", "ContentFiltered", "missing", "draft"),
    "prefill400": ITSELF,  # nobody has begun the answer
    **{name: RESCUED for name in FAULTS if name.startswith(("e429", "e5", "redir"))},
    # usage
    **dict.fromkeys(("nousage", "zerousage", "lowusage", "negusage", "strusage"), ITSELF),
    **dict.fromkeys(("hugeusage", "doubleusage", "usagex", "wrongmodel"), ITSELF),
    # the answer
    "length": ITSELF,
    "filter": Expected("itself", "itself", "missing", "draft"),
    "toolcut": Expected("rescued", "MalformedResponse", ""),
    "refuse": Expected("itself", "itself", "missing", "draft"),
    "inject": ITSELF,
    # the rest of an answer begun
    **dict.fromkeys(("overlap", "startover", "anew"), ITSELF),
}


# What is asked.


@dataclass(frozen=True)
class Case:
    """One way of asking a deployment that has a fault."""

    fault: str
    provider: LLMProvider
    form: Form

    @property
    def name(self) -> str:
        return f"{self.form}-{self.provider}".replace(" ", "-")

    @property
    def is_plain(self) -> bool:
        """Whether the route itself is asked, and no panel."""
        return self.form in ("plain", "streamed")

    @property
    def is_streamed(self) -> bool:
        return self.form not in ("plain", "member")

    @property
    def exists(self) -> bool:
        if self.fault == "toolcut" and not self.is_plain:  # drafts get no tools
            return False
        known = FAULTS.get(self.fault)
        return known is None or known.applies(self.provider, streamed=self.is_streamed)

    @property
    def request(self) -> RequestConfig:
        about: dict[str, Any] = {"prompt": QUESTION, "seed": 1}
        if self.fault == "toolcut":
            about["prompt"] = "What is the weather in Paris?"
            about |= {"tools": (WEATHER,), "tool_choice": "required"}
        model = self.name if self.is_plain else f"compare/panel-{self.name}"
        return RequestConfig(model=model, **about)


@asynccontextmanager
async def faulty(simulator: Simulator, case: Case) -> AsyncIterator[ModelConfig]:
    """The deployment with the fault."""
    fault, provider = case.fault, case.provider
    about: dict[str, object] = {"context_tokens": 100_000}
    asked: list[str] = []
    async with AsyncExitStack() as stack:
        if fault == "refused":
            about["api_base"] = f"http://127.0.0.1:{closed_port()}/v1"
        elif fault == "hangs":
            about["api_base"] = f"http://127.0.0.1:{stack.enter_context(full_backlog())}/v1"
        elif fault == "untrusted":
            other = await stack.enter_async_context(Simulator(SimulatorConfig(tls=True)))
            about["api_base"] = other.base_url(provider)
        elif fault == "unknown":
            stack.enter_context(nobody_is_called("no-such-host.invalid"))
            about["api_base"] = "http://no-such-host.invalid/v1"
        else:
            asked = [DIRECTIVES.get(fault, fault)] + ["gap100ms"] * (fault == "drip")
        yield deployment(simulator, provider, *asked, **about)


@contextmanager
def nobody_is_called(name: str) -> Iterator[None]:
    """A resolver that does not know a host."""
    kind = asyncio.base_events.BaseEventLoop
    resolve = kind.getaddrinfo

    async def lookup(loop: Any, host: Any, *about: Any, **more: Any) -> Any:
        if host == name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await resolve(loop, host, *about, **more)

    with patch.object(kind, "getaddrinfo", lookup):
        yield


@contextmanager
def small_limits(fault: str) -> Iterator[None]:
    """Limits of size that a test can afford to exceed."""
    limits = TimeoutsConfig.limits

    def smaller(self: TimeoutsConfig) -> Limits:
        events = EVENTS.get(fault, 500_000)
        return replace(limits(self), body_bytes=2**21, event_bytes=2**20, events=events)

    with patch.object(TimeoutsConfig, "limits", smaller):
        yield


async def configured(
    stack: AsyncExitStack, simulator: Simulator, cases: Sequence[Case]
) -> OrchestratorConfig:
    """For each case a deployment with the fault, and a route from it to a sound one."""
    models: dict[str, ModelConfig] = {}
    routes: dict[str, RouteConfig] = {}
    panels: dict[str, PanelConfig] = {}
    for case in cases:
        name, sound, true = case.name, f"sound-{case.provider}", f"true-{case.provider}"
        larger = {"context_tokens": 1_000_000}
        models[sound] = deployment(simulator, another(case.provider), **larger)
        models[true] = deployment(simulator, case.provider, **larger)
        models[f"faulty-{name}"] = await stack.enter_async_context(faulty(simulator, case))
        routes[name] = RouteConfig(models=(f"faulty-{name}",), fallback=(sound,))
        first, writer = (true, name) if case.form == "writer" else (name, sound)
        panels[f"panel-{name}"] = PanelConfig(members=(first, sound), synthesizer=writer, quorum=2)
    return OrchestratorConfig(
        models=models,
        routes=routes,
        panels=panels,
        timeouts=HASTY if cases[0].fault in SLOW else PATIENT,
        budgets=BUDGETS,
    )


# What came of it.


@dataclass(frozen=True)
class Result:
    """What a case came to, and whatever else is not as it has to be."""

    case: Case
    got: str
    amiss: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        return EXPECTED[self.case.fault].of(self.case.form)


def outcome(case: Case, heard: Heard) -> str:
    """One of the words that `Expected` explains."""
    if heard.error is not None:
        return type(heard.error).__name__
    assert heard.response is not None
    last = heard.attempts(case.name, "answer" if case.form == "writer" else None)[-1]
    if last.status != "ok" or not (last.usable or case.is_plain):
        return "missing" if case.name in heard.response.receipt.missing else "draft"
    if last.deployment == f"faulty-{case.name}":
        return "itself"
    return "continued" if last.continues else "rescued"


def amiss(case: Case, heard: Heard, got: str, whole: dict[str, str]) -> Iterator[str]:
    """What is wrong with an answer, given the whole ones."""
    message = str(heard.error)
    if "simulated-key" in message:
        yield "the key is in the message"
    if heard.response is None:
        return
    content, status = heard.response.content, heard.response.status
    if case.is_streamed and heard.shown[-1] != content:
        yield f"shown was {heard.shown[-1]!r} and the answer is {content!r}"
    if case.is_plain and any(not content.startswith(text) for text in heard.shown):
        yield "what was shown did not stand"
    if got in ("missing", "draft") and status == "complete":
        yield "nobody says that something is missing"
    if case.is_plain and (status == "partial") is not (case.fault in ("length", "filter")):
        yield f"the answer is {status}"
    by = f"sound-{case.provider}" if got == "rescued" else f"true-{case.provider}"
    is_known = got == "rescued" or case.fault not in SAID_OTHERWISE
    if case.is_plain and is_known and content != whole[by]:
        yield f"{content!r} is not {whole[by]!r}"


_whole: dict[tuple[str, str | None], str] = {}  # by model and prompt: they do not change


async def whole_answer(engine: EnhancedOrchestrator, name: str, request: RequestConfig) -> str:
    """What a deployment without a fault says."""
    known = engine.config.models[name].model, request.prompt
    if known not in _whole:
        response = await engine.execute_request(request.model_copy(update={"model": name}))
        _whole[known] = response.content
    return _whole[known]


async def results(fault: str, cases: Sequence[Case]) -> list[Result]:
    """What all cases of a fault come to, at once, and what is left when they are over."""
    ledger = Ledger()
    async with Simulator() as simulator, AsyncExitStack() as stack:
        stack.enter_context(small_limits(fault))
        config = await configured(stack, simulator, cases)
        async with ledger, EnhancedOrchestrator(config, ledger=ledger) as engine:
            heard = await asyncio.gather(
                *(hear(engine, case.request, streamed=case.is_streamed) for case in cases)
            )
            unfinished = () if EXPECTED[fault].plain == "itself" else (fault,)
            at_rest = await amiss_at_rest(engine, simulator, ledger, unfinished=unfinished)
            sound = [name for name in config.models if not name.startswith("faulty-")]
            whole = {name: await whole_answer(engine, name, cases[0].request) for name in sound}
    found = []
    for case, one in zip(cases, heard, strict=True):
        got = outcome(case, one)
        found.append(Result(case, got, tuple(amiss(case, one, got, whole))))
    if at_rest:
        found[0] = replace(found[0], amiss=(*found[0].amiss, *at_rest))
    return found


# The tests.


def cases_of(fault: str, *, all_formats: bool) -> list[Case]:
    """Every way of asking, in every wire format that has the fault; or each way in one of them."""
    found = [Case(fault, provider, form) for form in FORMS for provider in PROVIDERS]
    found = [case for case in found if case.exists]
    if all_formats:
        return found
    turn = [*EXPECTED].index(fault)
    return [
        here[(turn + place) % len(here)]
        for place, form in enumerate(FORMS)
        if (here := [case for case in found if case.form == form])
    ]


def test_every_fault_of_the_simulator_has_an_expected_outcome() -> None:
    """A fault added to the simulator must be judged here."""
    assert set(EXPECTED) == {*FAULTS, *UNREACHABLE}


@pytest.mark.parametrize("fault", EXPECTED)
async def test_a_fault_is_rescued_or_a_clean_error(fault: str, thorough: bool) -> None:
    """The text is whole or there is an error; every hold, place and permit is given back."""
    found = await results(fault, cases_of(fault, all_formats=thorough))

    assert found
    assert [one for one in found if one.got != one.expected or one.amiss] == []


# Faults of both.


async def streamed(first: str, second: str, **about: object) -> Heard:
    """A stream of a route whose first deployment has a fault, and the second perhaps another."""
    async with Simulator() as simulator:
        config = OrchestratorConfig(
            models={
                "first": deployment(simulator, LLMProvider.OPENAI, first, context_tokens=100_000),
                "second": deployment(simulator, LLMProvider.ANTHROPIC, second, **about),
                "true": deployment(simulator, LLMProvider.OPENAI),
            },
            routes={"route": RouteConfig(models=("first", "second"))},
        )
        async with EnhancedOrchestrator(config) as engine:
            request = RequestConfig(prompt=QUESTION, model="route", seed=1)
            heard = await hear(engine, request, streamed=True)
            whole = await whole_answer(engine, "true", request)
    if heard.response is not None:
        assert heard.response.content == heard.shown[-1] == whole
    assert all(whole.startswith(text) for text in heard.shown)
    return heard


def asked(heard: Heard) -> list[tuple[str, str, bool]]:
    """Whom, what came of it, and whether it went on with what was there."""
    made = heard.attempts("route")
    return [(one.deployment, one.error or one.status, one.continues) for one in made]


async def test_who_refuses_a_prefill_is_asked_without() -> None:
    """The configuration says that the model takes one, and its host does not."""
    heard = await streamed("cutmid", "prefill400", prefill=True)

    assert asked(heard) == [
        ("first", "StreamBroken", False),
        ("second", "InvalidRequest", True),
        ("second", "ok", True),
    ]


@pytest.mark.parametrize("how", ["overlap40", "startover", "200ms"])
@pytest.mark.parametrize("prefill", [True, False])
async def test_however_a_model_goes_on_nothing_is_said_twice(how: str, *, prefill: bool) -> None:
    """It repeats the last words, or all of them, or goes straight on."""
    heard = await streamed("cutmid", how, prefill=prefill)

    assert asked(heard)[-1] == ("second", "ok", True)


async def test_a_model_that_goes_on_with_something_else_is_not_listened_to() -> None:
    """Half of one answer and half of another are none."""
    heard = await streamed("cutmid", "anew")

    assert type(heard.error).__name__ == "Diverged"
    assert heard.shown[-1]


async def test_an_answer_that_broke_off_after_its_last_word_is_whole() -> None:
    """To a prefill there is nothing to add; asked without, the model repeats the last words."""
    heard = await streamed("endnofinish", "200ms", prefill=True)

    assert asked(heard) == [
        ("first", "StreamBroken", False),
        ("second", "EmptyAnswer", True),
        ("second", "ok", True),
    ]


@pytest.mark.parametrize("nothing", ["empty", "nochoices", "nullcontent", "blank"])
async def test_half_an_answer_is_not_whole_because_nobody_adds_to_it(nothing: str) -> None:
    """A provider that always says nothing says nothing about the answer either."""
    heard = await streamed("cutmid", nothing, prefill=True)

    assert type(heard.error).__name__ == "EmptyAnswer"
    assert heard.shown[-1]


async def test_a_prompt_too_long_is_not_sent_to_a_smaller_window() -> None:
    """It would be refused there, too."""
    heard = await streamed("e400ctx", "200ms", context_tokens=50_000)

    assert type(heard.error).__name__ == "ContextWindowExceeded"


async def test_while_all_are_left_alone_the_answer_is_immediate() -> None:
    """Nobody is called, and the error says when somebody may be."""
    async with Simulator() as simulator:
        config = OrchestratorConfig(
            models={
                "first": deployment(simulator, LLMProvider.OPENAI, "e401"),
                "second": deployment(simulator, LLMProvider.ANTHROPIC, "e403"),
            },
            routes={"route": RouteConfig(models=("first",), fallback=("second",))},
        )
        async with EnhancedOrchestrator(config) as engine:
            request = RequestConfig(prompt=QUESTION, model="route")
            await hear(engine, request, streamed=False)
            calls = len(simulator.requests)
            waits = []
            for streamed in (False, True, False, True):
                began_s = time.perf_counter()
                refused = await hear(engine, request, streamed=streamed)
                waits.append(time.perf_counter() - began_s)

    assert isinstance(refused.error, NoDeploymentLeft)
    assert refused.error.retry_after_s == pytest.approx(300, abs=5)
    assert len(simulator.requests) == calls == 2
    assert min(waits) < 0.01


async def _print_table(faults: Sequence[str]) -> int:
    wrong = 0
    print(f"{'fault':16}{'provider':11}{'asked':17}{'expected':20}got")
    for fault in faults:
        for one in await results(fault, cases_of(fault, all_formats=True)):
            case, remarks = one.case, [*one.amiss]
            if one.got != one.expected:
                remarks.append("differs")
            wrong += bool(remarks)
            told = "  ".join([one.got, *remarks])
            print(f"{fault:16}{case.provider:11}{case.form:17}{one.expected:20}{told}")
    print(f"{wrong} rows differ")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, asyncio.run(_print_table(sys.argv[1:] or [*EXPECTED]))))
