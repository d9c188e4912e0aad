"""litellm's answers and the providers' events, read into ours."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Chunk, ToolCall, ToolCallDelta, Usage
from adapters._formats import is_plausible
from adapters._read import (
    as_arguments,
    as_id,
    as_text,
    believable,
    finish_reason,
    is_json_object,
    read_chunk,
    read_message,
)
from tests.adapters.wires import as_json


def as_object(value: Any) -> Any:
    """The same as objects with attributes, as litellm and openai hand it out."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})
    return [as_object(inner) for inner in value] if isinstance(value, list) else value


FINISHES: dict[str, str | None] = {
    # OpenAI and its kin
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "eos": "stop",
    "insufficient_system_resource": None,
    "error": None,
    "abort": None,
    # Anthropic
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    # Google
    "STOP": "stop",
    "FINISH_REASON_STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "OTHER": "content_filter",
    "MALFORMED_FUNCTION_CALL": None,
    "UNEXPECTED_TOOL_CALL": None,
    "TOO_MANY_TOOL_CALLS": None,
    "MALFORMED_RESPONSE": None,
    # Cohere
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
    # Mistral
    "model_length": "length",
    # Nobody's
    "a word nobody knows": "length",
    "": "length",
}


@pytest.mark.parametrize("said", FINISHES)
def test_every_providers_finish_is_one_of_ours(said: str) -> None:
    """A word nobody knows may mean a cut; some say that there is no answer."""
    expected = FINISHES[said]
    has_calls = expected == "tool_calls"

    assert finish_reason(said, has_tool_calls=has_calls, has_text=not has_calls) == expected


@pytest.mark.parametrize(
    ("said", "has_tool_calls", "has_text", "expected"),
    [
        ("STOP", True, False, "tool_calls"),  # Gemini
        ("stop", True, True, "tool_calls"),
        ("tool_calls", False, True, "stop"),  # a schema that was sent as a tool
        ("tool_calls", False, False, "tool_calls"),
        ("length", True, False, "length"),  # they may be cut
        ("content_filter", True, True, "content_filter"),
        ("error", True, True, None),
    ],
)
def test_tool_calls_are_why_it_stopped(
    said: str, expected: str | None, *, has_tool_calls: bool, has_text: bool
) -> None:
    """Where there are some, and only there."""
    assert finish_reason(said, has_tool_calls=has_tool_calls, has_text=has_text) == expected


def never() -> tuple[int, int]:
    raise AssertionError("nothing needs to be counted")


def test_usage_that_can_be_true_is_kept_and_nothing_is_counted() -> None:
    """Counting costs."""
    usage = Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=4, reasoning_tokens=3)

    assert believable(usage, written="The Nile.", count=never) == usage


def test_an_answer_of_nothing_may_have_no_tokens() -> None:
    """A prompt that was blocked."""
    usage = Usage(prompt_tokens=12)

    assert believable(usage, written="", count=never) == usage


def test_more_cached_than_asked_is_clamped() -> None:
    """Cached tokens are a part of the prompt's."""
    usage = Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=99)

    assert believable(usage, written="x", count=never).cached_tokens == 12
    assert believable(Usage(cached_tokens=99), written="x", count=lambda: (3, 1)).cached_tokens == 3


def test_more_written_to_the_cache_than_was_not_read_from_it_is_clamped() -> None:
    """Each token of the prompt is billed once."""
    usage = Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=8, cache_write_tokens=99)

    found = believable(usage, written="x", count=never)

    assert (found.cached_tokens, found.cache_write_tokens) == (8, 4)


@pytest.mark.parametrize(("billed", "expected"), [(35, 35), (5, None), (0, None)])
def test_a_bill_for_less_than_was_written_is_not_believed(
    billed: int, expected: int | None
) -> None:
    """What was counted is charged then."""
    usage = Usage(
        prompt_tokens=500,
        completion_tokens=90,
        billed_prompt_tokens=12,
        billed_completion_tokens=billed,
    )

    found = believable(usage, written="word " * 100, count=never)

    assert found.billed_completion_tokens == expected
    assert found.billed_prompt_tokens == (None if expected is None else 12)
    assert not found.estimated


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, (7, 3)),
        (Usage(), (7, 3)),
        (Usage(prompt_tokens=12), (12, 3)),
        (Usage(completion_tokens=5), (7, 5)),
        (Usage(prompt_tokens=12, completion_tokens=1), (12, 3)),
        (Usage(prompt_tokens=1, completion_tokens=1), (7, 3)),
    ],
)
def test_what_is_missing_is_counted_and_flagged(
    usage: Usage | None, expected: tuple[int, int]
) -> None:
    """What the provider did say is the least; the text cannot have so few tokens."""
    found = believable(usage, written="word " * 100, count=lambda: (7, 3))

    assert (found.prompt_tokens, found.completion_tokens) == expected
    assert found.estimated


@given(
    st.builds(
        Usage,
        prompt_tokens=st.integers(0, 10**8),
        completion_tokens=st.integers(0, 10**8),
        cached_tokens=st.integers(0, 10**8),
        cache_write_tokens=st.integers(0, 10**8),
        reasoning_tokens=st.integers(0, 10**8),
    ),
    st.text(max_size=200),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_what_is_believed_hangs_together(
    usage: Usage, written: str, prompt: int, completion: int
) -> None:
    """Never less than was said, never more cached than asked, and an estimate says so."""
    found = believable(usage, written=written, count=lambda: (prompt, completion))

    assert found.prompt_tokens >= (usage.prompt_tokens or prompt)
    assert found.completion_tokens >= usage.completion_tokens
    assert found.cached_tokens + found.cache_write_tokens <= found.prompt_tokens
    assert found.estimated or found.total_tokens == usage.total_tokens


PLAUSIBLE: list[tuple[Any, bool]] = [
    ({}, True),
    ({"prompt_tokens": 0}, True),
    ({"prompt_tokens": 100_000_000}, True),
    ({"prompt_tokens": 100_000_001}, False),
    ({"prompt_tokens": -1}, False),
    ({"prompt_tokens": 1e12}, False),
    ({"prompt_tokens": math.nan}, False),
    ({"prompt_tokens": "12"}, False),
    ({"prompt_tokens": True}, False),
    ({"prompt_tokens": [12]}, False),
    ({"prompt_tokens": None}, True),
    ({"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": -1}}, False),
    ({"prompt_tokens_details": None, "prompt_tokens": 3.0}, True),
    ({"promptTokenCount": -1}, False),
    ({"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}]}, True),
    ({"tokens": {"input_tokens": -1}}, False),
    ({"billed_units": {"input_tokens": 3, "search_units": 10**12}}, True),
    ({"cost": -0.5, "queue_time": -1, "is_byok": True, "size": "low", "ticks": 10**15}, True),
    (None, False),
    ([], False),
    ("12", False),
    (12, False),
]


@pytest.mark.parametrize(("usage", "expected"), PLAUSIBLE)
def test_only_counts_of_tokens_have_to_be_plausible(usage: Any, *, expected: bool) -> None:
    """At any depth, in any provider's spelling."""
    assert is_plausible(usage) is expected


DELTA: dict[str, Any] = {
    "content": "The Nile",
    "reasoning_content": "hm",
    "tool_calls": [
        {"index": 1, "id": "a", "function": {"name": "get_weather", "arguments": '{"ci'}},
        {"index": 1, "function": {"arguments": 'ty":1}'}},
    ],
}


@pytest.mark.parametrize("shape", [dict, as_object])
def test_a_chunk_is_read_from_objects_and_from_mappings(shape: Any) -> None:
    """Text, reasoning, tool calls; finish and usage come from the wire."""
    found = read_chunk(shape({"choices": [{"delta": DELTA, "finish_reason": "x"}], "usage": {}}))

    assert found == Chunk(
        text="The Nile",
        reasoning="hm",
        tool_calls=(
            ToolCallDelta(index=1, id="a", name="get_weather", arguments='{"ci'),
            ToolCallDelta(index=1, arguments='ty":1}'),
        ),
    )


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ({}, Chunk()),
        ({"choices": []}, Chunk()),
        ({"choices": None, "usage": None}, Chunk()),
        ({"choices": [{}]}, Chunk()),
        ({"choices": [{"delta": {}}]}, Chunk()),
        ({"choices": [{"delta": {"content": None, "tool_calls": None}}]}, Chunk()),
        ({"text": "litellm's own"}, Chunk(text="litellm's own")),
        ({"choices": [{"delta": {"refusal": "I will not."}}]}, Chunk(text="I will not.")),
        ({"choices": [{"delta": {"reasoning": "hm"}}]}, Chunk(reasoning="hm")),
        ({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}, Chunk(text="a")),
        (
            {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}}]},
            Chunk(text="a"),
        ),
        (
            {
                "choices": [
                    {"delta": {"tool_calls": [{"function": {"name": "f", "arguments": None}}]}}
                ]
            },
            Chunk(tool_calls=(ToolCallDelta(index=0, id="call_0", name="f"),)),
        ),
    ],
)
def test_what_a_chunk_does_not_say_is_nothing(chunk: Any, expected: Chunk) -> None:
    """Missing, null, or somewhere else."""
    assert read_chunk(chunk) == expected


@pytest.mark.parametrize("shape", [dict, as_object])
def test_a_message_is_read_from_objects_and_from_mappings(shape: Any) -> None:
    """A tool call without an id is given one."""
    message = {
        "content": "The Nile",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "a", "function": {"name": "get_weather", "arguments": "{}"}},
            {"id": None, "function": {"name": "get_time", "arguments": None}},
        ],
    }

    found = read_message(shape({"choices": [{"message": message}]}))

    assert found == (
        "The Nile",
        "hm",
        (
            ToolCall(id="a", name="get_weather", arguments="{}"),
            ToolCall(id="call_1", name="get_time", arguments=""),
        ),
    )


@pytest.mark.parametrize("response", [{}, {"choices": []}, {"choices": [{"message": None}]}, None])
def test_a_response_without_a_message_says_nothing(response: Any) -> None:
    """Whether that is an error is decided elsewhere."""
    assert read_message(response) == ("", "", ())


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", True),
        ("  \n", True),
        ("{}", True),
        (' {"city": "Paris"} ', True),
        ('{"city": "Par', False),
        ('{"city": "Paris"}}', False),
        ("[]", False),
        ("null", False),
        ("7", False),
        ('"{}"', False),
        ("{'city': 1}", False),
        ("[" * 100_000, False),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, False),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_arguments_are_whole_when_they_are_an_object(text: str, *, is_whole: bool) -> None:
    """No arguments at all count as whole; no depth makes it fall over."""
    assert is_json_object(text) is is_whole


@given(
    st.dictionaries(
        st.text(max_size=9), st.one_of(st.text(), st.integers(), st.booleans()), max_size=4
    )
)
def test_no_cut_object_is_whole(value: dict[str, Any]) -> None:
    """Cut anywhere."""
    text = json.dumps(value)

    assert is_json_object(text)
    assert not any(is_json_object(text[:end]) for end in range(1, len(text)))


@pytest.mark.parametrize("value", [1, 1.5, True, ["x"], {"a": 1}, b"x", object()])
def test_something_else_where_text_belongs_is_refused(value: Any) -> None:
    """It would come out as its repr."""
    with pytest.raises(TypeError, match="text was expected"):
        as_text(value)


def test_text_ids_and_arguments_may_be_missing() -> None:
    """Some hosts send null, numbers for ids, objects for arguments."""
    assert (as_text(None), as_text(""), as_text("x")) == ("", "", "x")
    assert (as_id(None), as_id(""), as_id("x"), as_id(7)) == (None, None, "x", "7")
    assert (as_arguments(None), as_arguments("{")) == ("", "{")
    assert as_json(as_arguments({"city": "Zürich"})) == {"city": "Zürich"}
    with pytest.raises(TypeError):
        as_id(value=True)
