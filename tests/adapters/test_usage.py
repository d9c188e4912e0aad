"""How many tokens a call used, as each protocol says it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Usage, collect
from adapters._usage import Said, anthropic_usage, cohere_usage, google_usage, openai_usage
from tests.adapters.wires import ASK, data, events, plain, stream, wire

READERS = (openai_usage, anthropic_usage, google_usage, cohere_usage)
SAID: list[tuple[Callable[[Said], Usage], Any, Usage]] = [
    (
        openai_usage,
        {
            "prompt_tokens": 12,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        Usage(
            prompt_tokens=12,
            completion_tokens=5,
            cached_tokens=4,
            cache_write_tokens=6,
            reasoning_tokens=3,
        ),
    ),
    (openai_usage, {"prompt_cache_hit_tokens": 7}, Usage(cached_tokens=7)),  # DeepSeek
    (  # gateways over Anthropic
        openai_usage,
        {"prompt_tokens": 12, "cache_creation_input_tokens": 7},
        Usage(prompt_tokens=12, cache_write_tokens=7),
    ),
    (openai_usage, {"prompt_tokens": None}, Usage()),
    (openai_usage, {"prompt_tokens": -1, "completion_tokens": "5"}, Usage()),
    (openai_usage, {"prompt_tokens": 1.9, "completion_tokens": True}, Usage(prompt_tokens=1)),
    (openai_usage, {"prompt_tokens_details": None}, Usage()),
    (openai_usage, {"prompt_tokens_details": [{"cached_tokens": 1}]}, Usage()),
    (
        anthropic_usage,
        {
            "input_tokens": 3,
            "cache_creation_input_tokens": 2_000,
            "cache_read_input_tokens": 1_000,
            "output_tokens": 44,
            "output_tokens_details": {"thinking_tokens": 23},
        },
        Usage(
            prompt_tokens=3_003,
            completion_tokens=44,
            cached_tokens=1_000,
            cache_write_tokens=2_000,
            reasoning_tokens=23,
        ),
    ),
    (
        google_usage,
        {
            "promptTokenCount": 12,
            "toolUsePromptTokenCount": 3,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 7,
            "cachedContentTokenCount": 4,
            "totalTokenCount": 27,
        },
        Usage(prompt_tokens=15, completion_tokens=12, cached_tokens=4, reasoning_tokens=7),
    ),
    (  # the total says that thinking is counted already
        google_usage,
        {
            "promptTokenCount": 12,
            "candidatesTokenCount": 12,
            "thoughtsTokenCount": 7,
            "totalTokenCount": 24,
        },
        Usage(prompt_tokens=12, completion_tokens=12, reasoning_tokens=7),
    ),
    (
        cohere_usage,
        {
            "billed_units": {"input_tokens": 98, "output_tokens": 35},
            "tokens": {"input_tokens": 1_508, "output_tokens": 67, "reasoning_tokens": 9},
            "cached_tokens": 1_472,
        },
        Usage(
            prompt_tokens=1_508,
            completion_tokens=67,
            cached_tokens=1_472,
            reasoning_tokens=9,
            billed_prompt_tokens=98,
            billed_completion_tokens=35,
        ),
    ),
    (
        cohere_usage,
        {"billed_units": {"input_tokens": 9, "output_tokens": 5, "search_units": 1}},
        Usage(
            prompt_tokens=9, completion_tokens=5, billed_prompt_tokens=9, billed_completion_tokens=5
        ),
    ),
    (
        cohere_usage,
        {"tokens": {"input_tokens": 12, "output_tokens": 5}},
        Usage(prompt_tokens=12, completion_tokens=5),
    ),
]


@pytest.mark.parametrize(("read", "said", "expected"), SAID)
def test_usage_is_read_in_the_words_of_each_protocol(
    read: Callable[[Said], Usage], said: Said, expected: Usage
) -> None:
    """A flag is not one token, a string is not a number, and no detail is counted twice."""
    assert read(said) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
NAMES = sorted({name for _, said, _ in SAID for name in said})


@given(st.sampled_from(READERS), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_odd_usage_is_nothing_said(read: Callable[[Said], Usage], said: Said) -> None:
    """Whatever stands there: no error, and no count below zero."""
    found = read(said)

    assert min(found.prompt_tokens, found.completion_tokens, found.cache_write_tokens) >= 0


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "cohere", "mistral"])
async def test_streams_and_plain_answers_report_the_same_usage(provider: str) -> None:
    """Twelve in, five out, none of it estimated."""
    whole = await (await wire(provider, plain(provider))).adapter.complete(ASK)
    folded = await collect((await wire(provider, stream(provider))).adapter.stream(ASK))

    assert whole.usage == folded.usage == Usage(prompt_tokens=12, completion_tokens=5)


async def test_anthropics_cache_is_part_of_the_prompt_in_streams_too() -> None:
    """The beginning of a stream says what was read and written, its end only what was answered."""
    said = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 2_000,
        "cache_read_input_tokens": 1_000,
        "output_tokens": 1,
    }
    pieces = events("anthropic")
    pieces[0]["message"]["usage"] = said
    expected = Usage(
        prompt_tokens=3_003, completion_tokens=5, cached_tokens=1_000, cache_write_tokens=2_000
    )

    folded = await collect((await wire("anthropic", data(*pieces))).adapter.stream(ASK))
    body = plain("anthropic", usage={**said, "output_tokens": 5})
    whole = await (await wire("anthropic", body)).adapter.complete(ASK)

    assert folded.usage == expected
    assert whole.usage == expected
