"""Every fault does what its name says, in every wire format where it exists."""

import json
import re
from typing import Any

import pytest

from adapters.config import LLMProvider
from orchestrator.simulator import FAULTS, Simulator, SimulatorConfig, UnknownDirective
from orchestrator.simulator.directives import parse_directives, read_model
from orchestrator.simulator.routes import BASES
from tests.simulator.calling import (
    KEY,
    QUESTION,
    Caller,
    request,
    said,
    streamed_text,
    tools,
)

P = LLMProvider
SMALL = {"hugeline": "1", "big": "1", "tinyevents": "300", "long": "64", "deepjson": "500"}
SILENT = {"stall0", "stallhead", "stallopen", "stallmid", "drip", "pingdrip"}
RESET = {"cut0", "cuthead", "cuthalfhead", "cutmid"}
CASES = [
    (provider, fault.name, streamed)
    for fault in FAULTS.values()
    for provider in P
    for streamed in (False, True)
    if fault.applies(provider, streamed=streamed)
]


def cases(name: str) -> pytest.MarkDecorator:
    """Every provider and mode in which a fault exists."""
    found = [(provider, streamed) for provider, fault, streamed in CASES if fault == name]
    return pytest.mark.parametrize(("provider", "streamed"), found)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_ends_the_way_it_should(caller: Caller, fault: str) -> None:
    """Silence for stalls, a reset for cuts, an orderly message for all others."""
    model = f"sim--{fault}{SMALL.get(fault, '')}"
    for provider, name, streamed in CASES:
        if name != fault:
            continue
        wait_s = 0.05 if fault in SILENT else 5.0
        got = await caller.ask(provider, model=model, streamed=streamed, wait_s=wait_s)

        wanted = "silent" if fault in SILENT else "reset" if fault in RESET else "whole"
        if fault == "cutmidclose" and not streamed:
            wanted = "eof"
        assert got.end == wanted, (provider, streamed)
        kind = re.match(r"e?(\d{3})", fault.removeprefix("echo").removeprefix("redir"))
        if kind and kind[1] not in ("401", "404") and fault != "redir3":
            assert got.status == int(kind[1])


@pytest.mark.parametrize("provider", P)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_can_be_cut_at_any_byte(
    simulator: Simulator, caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """By a reset or in an orderly way, the first N bytes come and no more."""
    path, body = request(provider, "sim", QUESTION, streamed=streamed)
    whole = simulator.render(BASES[provider] + path, body)

    for place in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        broken = await caller.ask(provider, model=f"sim--cutat{place}", streamed=streamed)
        clean = await caller.ask(provider, model=f"sim--cutat{place}clean", streamed=streamed)

        seen_whole = place == len(whole) and not streamed  # nothing tells it from a whole one
        assert (broken.body, broken.end) == (whole[:place], "whole" if seen_whole else "reset")
        assert (clean.body, clean.end) == (whole[:place], "whole")


@cases("endnofinish")
async def test_without_its_finish_a_stream_still_has_all_of_its_text(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """The text is whole and nothing says so."""
    whole = await caller.ask(provider, streamed=streamed)
    cut = await caller.ask(provider, model="sim--endnofinish", streamed=streamed)

    assert streamed_text(provider, cut) == streamed_text(provider, whole)
    assert not re.search(rb'"(finish_?[rR]eason|stop_reason)":"|\[DONE\]|message_stop', cut.body)


@cases("donenofinish")
async def test_the_last_event_can_come_without_a_finish_reason(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """Text, terminal event, no reason."""
    got = await caller.ask(provider, model="sim--donenofinish", streamed=streamed)

    assert re.search(rb"\[DONE\]|message_stop", got.body)
    assert not re.search(rb'"(finish_reason|stop_reason)":"', got.body)


@cases("cutmidclose")
async def test_half_of_the_text_can_end_in_good_order(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """A part of the text, no finish."""
    whole = await caller.ask(provider, streamed=streamed)
    got = await caller.ask(provider, model="sim--cutmidclose", streamed=streamed)

    assert whole.body.startswith(got.body) or streamed
    assert 0 < len(got.body) < len(whole.body)
    if streamed:
        text = streamed_text(provider, got)
        assert 0 < len(text) < len(streamed_text(provider, whole))


@cases("stallopen")
async def test_a_stream_can_be_silent_before_its_text(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """What comes before the text comes, and nothing after it."""
    got = await caller.ask(provider, model="sim--stallopen", streamed=streamed, wait_s=0.5)

    assert (got.status, got.end) == (200, "silent")
    assert bool(got.events) == (provider is not P.GOOGLE)  # which begins with the text
    assert streamed_text(provider, got) == ""


@cases("errevent")
async def test_an_error_can_come_in_mid_stream(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """The last event is an error in the provider's own words."""
    got = await caller.ask(provider, model="sim--errevent", streamed=streamed)

    assert got.status == 200
    last = json.dumps(got.events[-1][1])
    assert re.search(r"error|ERROR|overloaded", last)
    assert len(got.events) > 3


@cases("errfirst")
async def test_an_error_can_be_the_first_event(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """A rate limit after a status of 200, and nothing else."""
    got = await caller.ask(provider, model="sim--errfirst", streamed=streamed)

    assert got.status == 200
    assert len(got.events) == 1
    assert re.search("(?i)rate.?limit|quota|limited", got.body.decode())


@cases("nochoices")
async def test_an_answer_can_be_without_any_content(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """Well-formed and empty."""
    got = await caller.ask(provider, model="sim--nochoices", streamed=streamed)

    if streamed:
        assert all(data == "[DONE]" or data for _, data in got.events)
    else:
        assert got.json
    assert b"database" not in got.body


@cases("splitchunk")
async def test_torn_characters_are_whole_when_put_together(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """The odd characters are in the text; CRLF and a byte order mark surround them."""
    got = await caller.ask(provider, model="sim--splitchunk", streamed=streamed)

    for odd in ("東京", "\u2028", "\x85", "👩‍👩‍👧"):
        assert odd in got.body.decode()
    if streamed:
        assert got.body.startswith(b"\xef\xbb\xbf")
        assert b"\r\n\r\n" in got.body
        assert not re.search(rb"(?<!\r)\n", got.body)


@pytest.mark.parametrize("provider", P)
async def test_usage_can_lie(caller: Caller, provider: LLMProvider) -> None:
    """Missing, nought, negative, text, vast, double: each is to be seen in the body."""

    async def body(fault: str) -> str:
        return (await caller.ask(provider, model=f"sim--{fault}")).body.decode().lower()

    assert "usage" not in await body("nousage")
    assert re.search(r'"(total_tokens|totaltokencount|output_tokens)": ?0', await body("zerousage"))
    assert re.search(r": ?-34", await body("negusage"))
    assert re.search(r'": ?"\d+"', await body("strusage"))
    assert "1000000000000" in await body("hugeusage")
    assert await body("doubleusage") != await body("e500")


@cases("length")
async def test_a_limit_can_cut_the_text(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """A part of the text, and a finish that says so."""
    got = await caller.ask(provider, model="sim--length", streamed=streamed)

    assert re.search(rb'"(length|max_tokens|MAX_TOKENS)"', got.body)


@cases("filter")
async def test_a_filter_can_cut_the_text(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """A finish that names the filter."""
    got = await caller.ask(provider, model="sim--filter", streamed=streamed)

    assert re.search(rb'"(content_filter|refusal|SAFETY|ERROR_TOXIC)"', got.body)


@cases("toolcut")
async def test_a_tool_calls_arguments_can_end_half_way(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """The pieces together are no JSON."""
    prompt = "What is the weather in Oslo?"
    got = await caller.ask(
        provider, model="sim--toolcut", prompt=prompt, streamed=streamed, **tools(provider)
    )

    texts = re.findall(r'"(?:arguments|partial_json)": ?"((?:[^"\\]|\\.)*)"', got.body.decode())
    arguments = json.loads('"' + "".join(texts) + '"')
    assert arguments.startswith('{"')
    with pytest.raises(ValueError, match=r"Unterminated|delimiter|Expecting"):
        json.loads(arguments)


@pytest.mark.parametrize("provider", P)
async def test_a_key_is_echoed_only_when_asked_for(caller: Caller, provider: LLMProvider) -> None:
    """What providers do carelessly, we do on request."""
    careless = await caller.ask(provider, model="sim--echo401")
    careful = await caller.ask(provider, model="sim--e401")

    assert KEY in careless.body.decode()
    assert KEY not in careful.body.decode()


@pytest.mark.parametrize("provider", P)
async def test_a_redirect_leads_to_another_host_that_would_answer(
    simulator: Simulator, caller: Caller, provider: LLMProvider
) -> None:
    """Who follows it is seen in the log."""
    got = await caller.ask(provider, model="sim--redir3")
    where = got.headers["location"]
    followed = await caller.post(where.removeprefix(f"http://localhost:{simulator.port}"), {})
    await simulator.settled()

    assert got.status == 307
    assert where.startswith(f"http://localhost:{simulator.port}/elsewhere/{provider.value}/")
    assert followed.status >= 200
    assert simulator.requests[-1].path.startswith("/elsewhere/")


@pytest.mark.parametrize("provider", P)
async def test_a_rate_limit_says_how_long_in_the_providers_way(
    caller: Caller, provider: LLMProvider
) -> None:
    """A header, or a detail of the body."""
    got = await caller.ask(provider, model="sim--e429--after7s")

    assert got.status == 429
    if provider is P.GOOGLE:
        assert '"retryDelay":"7s"' in got.body.decode()
        assert "Please retry in 7s." in got.json["error"]["message"]
    elif provider in (P.OPENAI, P.CUSTOM):
        assert (got.headers["retry-after"], got.headers["retry-after-ms"]) == ("7", "7000")
    elif provider is P.ANTHROPIC:
        assert got.headers["retry-after"] == "7"
    else:
        assert "retry-after" not in got.headers


@pytest.mark.parametrize(
    ("fault", "header", "value"),
    [
        ("e429-seconds", "retry-after", r"2"),
        ("e429-float", "retry-after", r"1\.5"),
        ("e429-zero", "retry-after", r"0"),
        ("e429-date", "retry-after", r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"),
        ("e429-past", "retry-after", r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"),
        ("e429-ms", "retry-after-ms", r"1500"),
        ("e429-duration", "retry-after", r"6m0s"),
        ("e429-reset", "x-ratelimit-reset-requests", r"6m0s"),
        ("e429-negative", "retry-after", r"-5"),
        ("e429-huge", "retry-after", r"1000000000"),
        ("e429-garbage", "retry-after", r"soon"),
    ],
)
async def test_the_wait_is_spelled_in_many_ways(
    caller: Caller, fault: str, header: str, value: str
) -> None:
    """One header, no other hint."""
    got = await caller.ask(P.OPENAI, model=f"sim--{fault}")

    hints = {name: text for name, text in got.headers.items() if re.search("retry|reset", name)}
    assert list(hints) == [header]
    assert re.fullmatch(value, hints[header])


@pytest.mark.parametrize("provider", P)
async def test_an_answer_begun_by_the_caller_can_be_refused(
    caller: Caller, provider: LLMProvider
) -> None:
    """Only where there is one."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Well"},
    ]
    contents = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"text": "Well"}]},
    ]
    fields: dict[str, Any] = {"messages": turns}
    if provider is P.MISTRAL:
        turns[-1]["prefix"] = True
    if provider is P.GOOGLE:
        fields = {"contents": contents}

    refused = await caller.ask(provider, model="sim--prefill400", **fields)
    taken = await caller.ask(provider, model="sim--prefill400")
    begun = await caller.ask(provider, **fields)

    assert (refused.status, taken.status, begun.status) == (400, 200, 200)


async def test_faults_can_strike_now_and_then(caller: Caller) -> None:
    """Every third request, or the first two."""
    flapping = [(await caller.ask(P.OPENAI, model="sim--flap3--e503")).status for _ in range(6)]
    starting = [(await caller.ask(P.OPENAI, model="sim--first2")).status for _ in range(4)]

    assert flapping == [200, 200, 503, 200, 200, 503]
    assert starting == [500, 500, 200, 200]


async def test_faults_can_be_combined(caller: Caller) -> None:
    """One changes the answer, another what it bills, a third its bytes."""
    got = await caller.ask(P.OPENAI, model="sim--refuse--nousage--unknownfields")

    assert said(P.OPENAI, got) == "I'm sorry, but I can't help with that."
    assert "usage" not in got.json
    assert got.json["x_simulated"]


async def test_faults_can_be_configured_by_model() -> None:
    """For one model, for all others, and by the address."""
    faults: dict[str, tuple[str, ...]] = {"broken": ("e503",), "*": ("e529",)}
    async with Simulator(SimulatorConfig(faults=faults)) as simulator:
        caller = Caller(simulator)
        broken = await caller.ask(P.ANTHROPIC, model="broken")
        other = await caller.ask(P.ANTHROPIC, model="other")
        path, body = request(P.ANTHROPIC, "broken", QUESTION)
        address = simulator.base_url(P.ANTHROPIC, "e500", "10ms")
        here = address.removeprefix(f"http://127.0.0.1:{simulator.port}")
        both = await caller.post(here + path, body)

    assert (broken.status, other.status) == (503, 529)
    assert here == "/~e500~10ms/anthropic"
    assert both.status == 500


async def test_a_fault_that_does_not_exist_here_is_refused(caller: Caller) -> None:
    """Rather than ignored."""
    unknown = await caller.ask(P.OPENAI, model="sim--cutmidd")
    elsewhere = await caller.ask(P.OPENAI, model="sim--gemcut", streamed=True)
    plain = await caller.ask(P.GOOGLE, model="sim--gemcut")

    assert unknown.status == elsewhere.status == plain.status == 400
    assert "did you mean 'cutmid'?" in unknown.json["error"]["message"]
    assert "does not exist for streams of openai" in elsewhere.json["error"]["message"]
    assert "does not exist for plain answers of google" in plain.json["error"]["message"]


def test_a_models_name_is_what_stands_before_the_directives() -> None:
    """Everything after it is how to behave."""
    plan = read_model("gpt-5-mini--cutmid--200ms--gap5ms--flap4--cutat12clean--after0.5s")

    assert plan.model == "gpt-5-mini"
    assert plan.faults == (("cutmid", None),)
    assert (plan.latency_s, plan.gap_s, plan.every) == (0.2, 0.005, 4)
    assert (plan.cut_at, plan.cut_clean, plan.retry_after_s) == (12, True, 0.5)
    assert read_model("org/model-1.5").model == "org/model-1.5"


@pytest.mark.parametrize("directive", ["nonsense", "200", "flap0", "e5000", "cutat", "cutmid7"])
def test_a_directive_that_means_nothing_is_refused(directive: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UnknownDirective, match=directive):
        parse_directives([directive])


def test_sizes_follow_the_names_of_faults() -> None:
    """`hugeline8` is an event of eight MiB; not every fault has a size."""
    assert parse_directives(["hugeline8"]).faults == (("hugeline", 8),)
    assert {fault.name for fault in FAULTS.values() if fault.sized} == {
        "hugeline",
        "big",
        "tinyevents",
        "deepjson",
        "long",
        "usagex",
        "overlap",
    }
