"""What calls cost: the list and the configuration, exactly, and never less than may be billed."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import CompletionRequest, LLMProvider, ModelConfig, Usage, _litellm, prices
from adapters.config import PriceConfig
from adapters.prices import FREE, Price, Rates, capacity_of, price_of
from orchestrator import load_config

ROOT = Path(__file__).parents[2]
EXAMPLES = [ROOT / "configs" / "orchestrator.yaml", *sorted((ROOT / "configs/examples").glob("*"))]
HELLO = CompletionRequest(messages=[{"role": "user", "content": "hello"}])
MILLION = Usage(prompt_tokens=10**6, completion_tokens=10**6)
Row = dict[str, Any]

GPT: Row = {
    "litellm_provider": "openai",
    "mode": "chat",
    "input_cost_per_token": 2.5e-07,
    "output_cost_per_token": 2e-06,
    "cache_read_input_token_cost": 2.5e-08,
    "input_cost_per_token_priority": 4.5e-07,
    "output_cost_per_token_priority": 3.6e-06,
    "cache_read_input_token_cost_priority": 4.5e-08,
    "input_cost_per_token_flex": 1.25e-07,
    "output_cost_per_token_flex": 1e-06,
    "max_input_tokens": 272_000,
    "max_output_tokens": 128_000,
}
CLAUDE: Row = {
    "litellm_provider": "anthropic",
    "mode": "chat",
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 5e-06,
    "cache_read_input_token_cost": 1e-07,
    "cache_creation_input_token_cost": 1.25e-06,
    "cache_creation_input_token_cost_above_1hr": 2e-06,
}
GEMINI: Row = {
    "litellm_provider": "gemini",
    "mode": "chat",
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 1e-05,
    "output_cost_per_reasoning_token": 1.2e-05,
    "cache_read_input_token_cost": 1e-07,
    "input_cost_per_token_above_200k_tokens": 2e-06,
    "output_cost_per_token_above_200k_tokens": 1.5e-05,
    "input_cost_per_audio_token": 3e-06,
}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Row]]:
    """A price list that a test writes before it asks for the first price."""
    rows: dict[str, Row] = {"m": GPT, "claude": CLAUDE, "gemini/g": GEMINI}
    monkeypatch.setattr(_litellm, "read_price_list", lambda: json.dumps(rows).encode())
    forget_prices()
    yield rows
    monkeypatch.undo()
    forget_prices()


def forget_prices() -> None:
    prices._rows.cache_clear()
    prices._list_price.cache_clear()


def model(name: str, provider: str = "openai", **given: Any) -> ModelConfig:
    return ModelConfig(provider=LLMProvider(provider), model=name, **given)


def known(price: Price | None) -> Price:
    assert price is not None
    return price


def dollars(price: Price | None, usage: Usage) -> float:
    return known(price).cost_nanousd(usage) / 10**9


def asking(content: Any = "hello", **given: Any) -> CompletionRequest:
    return CompletionRequest(messages=[{"role": "user", "content": content}], **given)


# The models that are there.


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_model_of_the_examples_has_a_price(path: Path) -> None:
    """A budget of money works with every file that comes with the package."""
    for name, config in load_config(path).models.items():
        assert price_of(config) is not None, name


@pytest.mark.parametrize(
    ("provider", "name", "expected"),
    [
        ("openai", "gpt-5-mini", 2.25),
        ("openai", "gpt-5-mini-2025-08-07", 2.25),
        ("openai", "gpt-5-mini-2099-01-01", 2.25),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc123", 1.5),
        ("anthropic", "claude-haiku-4-5", 6.0),
        ("anthropic", "claude-haiku-4-5-20251001", 6.0),
        ("anthropic", "claude-haiku-4-5-latest", 6.0),
        ("google", "gemini-2.5-flash", 2.8),
        ("google", "models/gemini-2.5-flash", 2.8),
        ("google", "gemini-2.5-flash-001", 2.8),
        ("cohere", "command-a-03-2025", 12.5),
        ("mistral", "mistral-small-latest", 0.75),
        ("mistral", "mistral-small-2603", 0.75),
        ("mistral", "ministral-8b", 0.3),
    ],
)
def test_a_model_is_found_under_the_name_it_is_asked_by(
    provider: str, name: str, expected: float
) -> None:
    """Plain, dated, latest, fine-tuned, and as Google writes it: a million tokens each way."""
    assert dollars(price_of(model(name, provider)), MILLION) == expected


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-nobody-knows"),
        ("openai", "claude-haiku-4-5"),  # another company's
        ("openai", "azure/gpt-4o"),
        ("openai", "gpt-4o-transcribe"),  # no chat
        ("openai", "text-embedding-3-small"),
        ("anthropic", "gpt-5-mini"),
        ("google", "vertex_ai/gemini-2.5-flash"),
        ("cohere", "command-a-plus-05-2026"),  # 0.0 in the list
        ("google", "gemma-3-27b-it"),  # 0 as well
        ("mistral", "mistral-small-2402"),  # not the small one of today
    ],
)
def test_what_the_list_does_not_price_has_no_price(provider: str, name: str) -> None:
    """Nothing is guessed from another provider's row, and zero is not a price."""
    assert price_of(model(name, provider)) is None


def test_a_custom_endpoint_has_the_price_that_is_written_or_none() -> None:
    """It may call its model gpt-5-mini and charge what it likes."""
    host = {"provider": "custom", "api_base": "http://127.0.0.1/v1"}

    assert price_of(model("gpt-5-mini", **host)) is None
    assert price_of(model("gpt-5-mini", price="free", **host)) == FREE
    own = PriceConfig(input_usd=Decimal(1), output_usd=Decimal(2))
    assert dollars(price_of(model("gpt-5-mini", price=own, **host)), MILLION) == 3.0


def test_what_is_written_comes_before_the_list() -> None:
    """What is not written costs as much as the rest."""
    some = PriceConfig(input_usd=Decimal(10), output_usd=Decimal(20))
    whole = PriceConfig(
        input_usd=Decimal(10),
        output_usd=Decimal(20),
        cached_input_usd=Decimal(1),
        cache_write_usd=Decimal(12),
        reasoning_usd=Decimal(30),
    )
    usage = Usage(
        prompt_tokens=3 * 10**6,
        cached_tokens=10**6,
        cache_write_tokens=10**6,
        completion_tokens=2 * 10**6,
        reasoning_tokens=10**6,
    )

    assert dollars(price_of(model("gpt-5-mini", price=some)), usage) == 70.0
    assert dollars(price_of(model("gpt-5-mini", price=whole)), usage) == 73.0
    assert dollars(price_of(model("gpt-5-mini", price=whole), answered_as="gpt-4o"), usage) == 73.0
    assert known(price_of(model("gpt-5-mini", price=whole))).worst_nanousd(1, 1) == 42_000
    assert known(price_of(model("gpt-5-mini", price="free"))).worst_nanousd(10**9, 10**9) == 0


def test_a_price_finer_than_a_token_can_cost_is_rounded_up() -> None:
    """A billionth of a dollar for a million tokens is still no present."""
    tiny = PriceConfig(input_usd=Decimal("1e-9"), output_usd=Decimal("1e-9"))

    assert known(price_of(model("m", price=tiny))).cost_nanousd(Usage(prompt_tokens=1)) == 1


def test_capacity_is_the_operators_word_then_the_lists() -> None:
    """None where nobody says."""
    found = capacity_of(model("gpt-5-mini"))
    smaller = capacity_of(model("gpt-5-mini", context_tokens=8_000))
    unknown = capacity_of(model("nobody-knows"))

    assert (found.context_tokens, found.max_output_tokens) == (272_000, 128_000)
    assert (smaller.context_tokens, smaller.max_output_tokens) == (8_000, 128_000)
    assert (unknown.context_tokens, unknown.max_output_tokens) == (None, None)


# What is in a row, and what it comes to.


@pytest.mark.parametrize("broken", [None, 0, 0.0, -1e-06, "free", True, []])
@pytest.mark.parametrize("name", ["input_cost_per_token", "output_cost_per_token"])
def test_a_price_that_is_none_is_unknown(listed: dict[str, Row], name: str, broken: Any) -> None:
    """Missing, zero, negative, text."""
    listed["m"] = {**GPT, name: broken}

    assert price_of(model("m")) is None


@pytest.mark.parametrize("usd", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_price(usd: float) -> None:
    """JSON has none of these; a list in another form may."""
    row = {**GPT, "input_cost_per_token": usd}

    assert prices._rates(row, 0, "", prices.Wishes(), always_caches=True) is None


def test_a_missing_rate_of_a_higher_tier_makes_the_price_unknown(listed: dict[str, Row]) -> None:
    """Half a tier would be billed at the cheaper rate."""
    half = {
        name: GEMINI[name] for name in GEMINI if name != "output_cost_per_token_above_200k_tokens"
    }
    listed["gemini/g"] = half

    assert price_of(model("g", "google")) is None


def test_rates_that_are_missing_cost_as_much_as_the_rest(listed: dict[str, Row]) -> None:
    """Cached, written and reasoning tokens are never cheaper for want of a figure."""
    listed["m"] = {name: GPT[name] for name in GPT if "cache" not in name}
    usage = Usage(
        prompt_tokens=10**6,
        cached_tokens=10**6,
        completion_tokens=10**6,
        reasoning_tokens=10**6,
    )

    assert dollars(price_of(model("m")), usage) == 2.25


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(prompt_tokens=200_000, completion_tokens=1_000), 0.21),
        (Usage(prompt_tokens=200_001, completion_tokens=1_000), 0.415002),  # all of it, higher
        (Usage(prompt_tokens=100_000, cached_tokens=100_000), 0.01),
        (Usage(prompt_tokens=300_000, cached_tokens=300_000), 0.6),  # no cached rate up there
        (Usage(completion_tokens=1_000, reasoning_tokens=400), 0.0108),
    ],
)
@pytest.mark.usefixtures("listed")
def test_a_long_prompt_is_billed_by_its_own_rates(usage: Usage, expected: float) -> None:
    """Every token of it, not only those above the step."""
    assert dollars(price_of(model("g", "google")), usage) == expected


@pytest.mark.usefixtures("listed")
def test_the_worst_case_knows_the_steps_it_can_reach() -> None:
    """A short prompt does not pay for the long one's rates; reasoning may be all there is."""
    price = known(price_of(model("g", "google")))

    assert price.worst_nanousd(200_000, 1_000) == 200_000 * 1_000 + 1_000 * 12_000
    assert price.worst_nanousd(200_001, 1_000) == 200_001 * 2_000 + 1_000 * 15_000
    assert price.worst_nanousd(-5, -5) == 0


@pytest.mark.usefixtures("listed")
def test_what_is_billed_comes_before_what_is_counted() -> None:
    """Cohere's own preamble is counted, cached, and not charged for."""
    usage = Usage(
        prompt_tokens=1_508,
        cached_tokens=1_472,
        completion_tokens=67,
        billed_prompt_tokens=98,
        billed_completion_tokens=35,
    )

    assert known(price_of(model("m"))).cost_nanousd(usage) == 98 * 250 + 35 * 2_000


@pytest.mark.usefixtures("listed")
def test_absurd_usage_gives_no_money_back() -> None:
    """Negative figures, parts larger than the whole."""
    price = known(price_of(model("m")))

    assert price.cost_nanousd(Usage(prompt_tokens=-5, completion_tokens=-5)) == 0
    assert price.cost_nanousd(Usage(prompt_tokens=10, cached_tokens=99)) == 250
    assert price.cost_nanousd(Usage(prompt_tokens=10, cached_tokens=-99)) == 2_500
    assert price.cost_nanousd(Usage(completion_tokens=10, reasoning_tokens=99)) == 20_000


def test_a_model_that_always_searches_costs_something_for_every_call(
    listed: dict[str, Row],
) -> None:
    """Whatever its tokens."""
    search = {"search_context_size_low": 0.01, "search_context_size_high": 0.025}
    listed["m-search"] = {**GPT, "search_context_cost_per_query": search}
    listed["m"] = {**GPT, "search_context_cost_per_query": search}

    assert dollars(price_of(model("m-search")), Usage()) == 0.025
    assert known(price_of(model("m-search"))).worst_nanousd(0, 0) == 25_000_000
    assert dollars(price_of(model("m")), Usage()) == 0.0


# Who answered, and what was asked.


def test_the_dearer_counts_when_another_model_answers(listed: dict[str, Row]) -> None:
    """Whichever that is for these tokens; an unknown one changes nothing."""
    listed["dear-to-ask"] = {**GPT, "input_cost_per_token": 1e-05, "output_cost_per_token": 1e-06}
    price = price_of(model("m"), answered_as="dear-to-ask")
    asked, answered = Usage(prompt_tokens=1_000), Usage(completion_tokens=1_000)

    assert dollars(price, asked) == 0.01
    assert dollars(price, answered) == 0.002
    assert known(price).worst_nanousd(1_000, 1_000) == 11_000_000
    assert price_of(model("m"), answered_as="who?") == price_of(model("m"))
    assert price_of(model("who?"), answered_as="m") == price_of(model("m"))
    assert price_of(model("m"), answered_as="m") == price_of(model("m"))


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        *((tier, 2.25) for tier in ("auto", "default", "standard_only", "flex", "", None)),
        ("priority", 4.05),
        ("Priority", 4.05),
        ("nobody-knows", None),
    ],
)
@pytest.mark.usefixtures("listed")
def test_a_dearer_tier_of_service_has_its_own_price(tier: str, expected: float | None) -> None:
    """A tier that the list does not know has none; a cheaper one is not counted on."""
    price = price_of(model("m"), request=asking(extra={"service_tier": tier}))

    assert (None if price is None else dollars(price, MILLION)) == expected


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "hello"}, 0.1),
        (PICTURE, 0.1),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}, 0.1),
        (SOUND, 0.3),
        ({"type": "file", "file": {"file_id": "files/abc"}}, 0.3),
        ({"type": "image_url", "image_url": {"url": "data:audio/wav;base64,AAAA"}}, 0.3),
        ({"type": "image_url", "image_url": "https://example.com/?"}, 0.3),
        ("odd", 0.1),
    ],
)
@pytest.mark.usefixtures("listed")
def test_what_may_be_sound_costs_as_much_as_sound(part: Any, expected: float) -> None:
    """The usage does not say how much of the prompt was sound."""
    price = price_of(model("g", "google"), request=asking([part]))

    assert dollars(price, Usage(prompt_tokens=100_000)) == expected
    assert known(price).worst_nanousd(100_000, 0) == expected * 10**9


def cached_for(ttl: str | None) -> dict[str, Any]:
    control = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
    return {"type": "text", "text": "hello", "cache_control": control}


@pytest.mark.parametrize(
    ("request_", "cost", "worst"),
    [
        (None, 1.25, 2.0),
        (HELLO, 1.25, 1.0),  # nothing is written that was not asked for
        (asking([cached_for(None)]), 1.25, 1.25),
        (asking([cached_for("5m")]), 1.25, 1.25),
        (asking([cached_for("1h")]), 2.0, 2.0),
        (
            asking(
                tools=[{"type": "function", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
            ),
            2.0,
            2.0,
        ),
        (asking([{"type": "tool_result", "content": (cached_for("1h"),)}]), 2.0, 2.0),
        (
            CompletionRequest(
                messages=[
                    {"role": "system", "content": "x", "cache_control": {"type": "ephemeral"}}
                ]
            ),
            1.25,
            1.25,
        ),
    ],
)
@pytest.mark.usefixtures("listed")
def test_writing_to_the_cache_costs_what_its_duration_does(
    request_: CompletionRequest | None, cost: float, worst: float
) -> None:
    """A million tokens written; the worst case is of those that this request can cause."""
    price = price_of(model("claude", "anthropic"), request=request_)

    written = Usage(prompt_tokens=10**6, cache_write_tokens=10**6)
    assert dollars(price, written) == cost
    assert known(price).worst_nanousd(10**6, 0) == worst * 10**9


@pytest.mark.parametrize(
    ("kind", "is_known"),
    [("function", True), ("custom", True), ("web_search_20250305", False), ("googleSearch", False)],
)
@pytest.mark.usefixtures("listed")
def test_tools_that_the_provider_runs_have_no_price(kind: str, *, is_known: bool) -> None:
    """They are charged by use, which no count of tokens tells. What is written is known."""
    request = asking(tools=[{"type": kind}])
    own = PriceConfig(input_usd=Decimal(1), output_usd=Decimal(2))

    assert (price_of(model("m"), request=request) is not None) is is_known
    assert price_of(model("m", price=own), request=request) is not None


# Exactness.

rates = st.integers(0, 10**9)
tokens = st.integers(0, 10**7)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Rates, ...]:
    steps = sorted(draw(st.sets(st.integers(1, 500_000), max_size=3)))
    found = []
    for above in (0, *steps):
        asked, cached, written = draw(rates), draw(rates), draw(rates)
        found.append(
            Rates(
                above_tokens=above,
                input=asked,
                cached=cached,
                cache_write=written,
                output=draw(rates),
                reasoning=draw(rates),
                input_max=max(asked, cached, written),
            )
        )
    return tuple(found)


usages = st.builds(
    Usage,
    prompt_tokens=tokens,
    completion_tokens=tokens,
    cached_tokens=tokens,
    cache_write_tokens=tokens,
    reasoning_tokens=tokens,
    billed_prompt_tokens=st.none() | tokens,
    billed_completion_tokens=st.none() | tokens,
)


def exactly(schedule: tuple[Rates, ...], usage: Usage) -> Fraction:
    """The same in fractions of a dollar, written down another way."""
    counted = usage.billed_prompt_tokens is None
    prompt = usage.prompt_tokens if counted else usage.billed_prompt_tokens or 0
    completion = usage.completion_tokens
    if usage.billed_completion_tokens is not None:
        completion = usage.billed_completion_tokens
    chosen = schedule[0]
    for step in schedule[1:]:
        if prompt > step.above_tokens:
            chosen = step
    cached = min(usage.cached_tokens, prompt) if counted else 0
    written = min(usage.cache_write_tokens, prompt - cached) if counted else 0
    thought = min(usage.reasoning_tokens, completion)
    counts = (prompt - cached - written, cached, written, completion - thought, thought)
    each = (chosen.input, chosen.cached, chosen.cache_write, chosen.output, chosen.reasoning)
    return sum((n * Fraction(r, 10**12) for n, r in zip(counts, each, strict=True)), Fraction())


@given(st.lists(schedules(), min_size=1, max_size=2), st.integers(0, 10**12), usages)
def test_a_cost_is_exact_and_rounded_up_once(
    given_schedules: list[tuple[Rates, ...]], call_pico: int, usage: Usage
) -> None:
    """Against fractions; and within the worst case of the tokens that are billed."""
    price = Price(tuple(given_schedules), call_pico)

    cost = price.cost_nanousd(usage)

    expected = max(exactly(schedule, usage) for schedule in given_schedules)
    expected += Fraction(call_pico, 10**12)
    assert cost == math.ceil(expected * 10**9)
    assert cost <= price.worst_nanousd(*prices._billed(usage))


@given(schedules(), tokens, tokens, tokens, tokens)
def test_the_worst_case_grows_with_the_tokens(
    schedule: tuple[Rates, ...], prompt: int, completion: int, more: int, longer: int
) -> None:
    """So a bound on the tokens is a bound on the money."""
    price = Price((schedule,))

    least = price.worst_nanousd(prompt, completion)

    assert least <= price.worst_nanousd(prompt + more, completion + longer)


@given(st.decimals(0, 10**6, places=9))
def test_a_configured_price_is_never_rounded_down(usd: Decimal) -> None:
    """And up by less than a pico-dollar a token."""
    pico = prices._configured(usd)

    assert 0 <= pico - Fraction(usd) * 10**6 < 1


def test_every_rate_of_the_list_is_a_whole_number_of_pico_dollars() -> None:
    """So nothing of a list price is rounded before the sum is."""
    for name, row in prices._rows().items():
        for key, value in row.items():
            if "_cost_per_token" in key or "token_cost" in key:
                assert (Decimal(repr(value)) * prices.PICO) % 1 == 0, (name, key)


# Nobody else's business.


async def test_changing_litellms_prices_changes_none_of_ours() -> None:
    """Its map is one for the whole process, and a field of a call can write into it."""
    before = price_of(model("gpt-5-mini"))
    await _litellm.load()
    cost_map = _litellm._litellm.model_cost
    kept = dict(cost_map["gpt-5-mini"])
    try:
        cost_map["gpt-5-mini"]["input_cost_per_token"] = 0.0
        _litellm._litellm.register_model({"gpt-5-mini": {"output_cost_per_token": 0.0}})
        forget_prices()

        assert price_of(model("gpt-5-mini")) == before
    finally:
        cost_map["gpt-5-mini"].clear()
        cost_map["gpt-5-mini"].update(kept)


def test_a_request_cannot_name_its_price() -> None:
    """A field that litellm would believe is not on our list, and not looked at."""
    field = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}

    assert price_of(model("gpt-5-mini"), request=asking(extra=field)) == price_of(
        model("gpt-5-mini")
    )


def test_prices_need_no_litellm() -> None:
    """A quote does not cost the seconds that importing it does."""
    code = (
        "import sys; from adapters import ModelConfig; from adapters.prices import price_of;"
        "assert price_of(ModelConfig(provider='openai', model='gpt-5-mini'));"
        "assert 'litellm' not in sys.modules and 'openai' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
