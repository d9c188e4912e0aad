"""Values that cross the boundary: folds, sums, and what they promise."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import (
    Chunk,
    Completion,
    CompletionRequest,
    Limits,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from adapters.types import CompletionFold, FinishReason

FINISHES: tuple[FinishReason, ...] = ("stop", "length", "tool_calls", "content_filter")
COUNTS = st.integers(0, 10**9)
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    estimated=st.booleans(),
)
WORDS = st.text(max_size=20)
COMPLETIONS = st.builds(
    Completion,
    text=WORDS,
    reasoning=WORDS,
    tool_calls=st.lists(
        st.builds(ToolCall, id=st.text(min_size=1), name=st.text(min_size=1), arguments=WORDS),
        max_size=3,
    ).map(tuple),
    finish_reason=st.sampled_from(FINISHES),
    model=st.text(min_size=1),
    usage=USAGES,
)


async def each(chunks: Sequence[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def as_chunks(completion: Completion, places: list[int]) -> list[Chunk]:
    """The completion as a provider might stream it, cut at these places."""
    first = [
        Chunk(reasoning=piece, model=completion.model)
        for piece in cut(completion.reasoning, places)
    ]
    second = [Chunk(text=piece) for piece in cut(completion.text, places)]
    third = [
        Chunk(
            tool_calls=(
                ToolCallDelta(
                    index=index,
                    id=call.id if number == 0 else None,
                    name=call.name if number == 0 else None,
                    arguments=piece,
                ),
            )
        )
        for index, call in enumerate(completion.tool_calls)
        for number, piece in enumerate(cut(call.arguments, places))
    ]
    last = Chunk(finish_reason=completion.finish_reason, usage=completion.usage)
    return [*first, *second, *third, last]


@given(COMPLETIONS, st.lists(st.integers(0, 50), max_size=6))
async def test_the_fold_of_any_stream_is_the_completion(
    completion: Completion, places: list[int]
) -> None:
    """However it is cut."""
    assert completion == await collect(each(as_chunks(completion, places)))


async def test_tool_calls_may_be_written_in_turns() -> None:
    """The index says which call a piece belongs to; the order is the index's."""
    deltas = (
        ToolCallDelta(index=1, id="b", name="second", arguments='{"x"'),
        ToolCallDelta(index=0, id="a", name="first", arguments="{"),
        ToolCallDelta(index=1, id="other", name="other", arguments=":1}"),
        ToolCallDelta(index=0, arguments="}"),
    )
    chunks = [*(Chunk(tool_calls=(delta,)) for delta in deltas), Chunk(finish_reason="tool_calls")]

    completion = await collect(each(chunks))

    assert completion.tool_calls == (
        ToolCall(id="a", name="first", arguments="{}"),
        ToolCall(id="b", name="second", arguments='{"x":1}'),
    )


async def test_a_stream_that_ends_without_a_finish_is_no_completion() -> None:
    """Nobody takes a truncated answer for a whole one."""
    with pytest.raises(ValueError, match="without a finish reason"):
        await collect(each([Chunk(text="The N")]))


async def test_a_stream_without_usage_is_flagged() -> None:
    """Zero tokens that nobody counted are an estimate."""
    completion = await collect(each([Chunk(text="x"), Chunk(finish_reason="stop")]))

    assert completion.usage == Usage(estimated=True)
    assert completion.model == ""


async def test_what_a_stream_raises_is_raised() -> None:
    """A fold hides nothing."""

    async def broken() -> AsyncIterator[Chunk]:
        yield Chunk(text="The N")
        raise ConnectionError("cut")

    with pytest.raises(ConnectionError, match="cut"):
        await collect(broken())


@pytest.mark.parametrize(
    ("chunk", "has_content"),
    [
        (Chunk(), False),
        (Chunk(text="x"), True),
        (Chunk(reasoning="x"), True),
        (Chunk(tool_calls=(ToolCallDelta(index=0),)), True),
        (Chunk(finish_reason="stop", usage=Usage(), model="m"), False),
    ],
)
def test_content_is_text_reasoning_or_a_tool_call(chunk: Chunk, *, has_content: bool) -> None:
    """It is what the clocks count; a fold has it when a chunk had it."""
    fold = CompletionFold()
    fold.add(chunk)

    assert chunk.has_content is has_content
    assert fold.has_content is has_content


def test_a_fold_tells_what_it_has_so_far() -> None:
    """A broken stream's error carries the text."""
    fold = CompletionFold()
    fold.add(Chunk(text="The ", model="m"))
    fold.add(Chunk(text="N", reasoning="hm", usage=Usage(prompt_tokens=1), model="other"))

    assert (fold.text, fold.reasoning, fold.model) == ("The N", "hm", "m")
    assert fold.usage == Usage(prompt_tokens=1)
    assert fold.finish_reason is None
    assert fold.tool_calls == ()


@given(USAGES, USAGES, USAGES)
def test_usage_adds_up_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    """Every field; a sum is estimated when a part of it is."""
    total = a + b

    assert total == b + a
    assert (a + b) + c == a + (b + c)
    assert total.total_tokens == a.total_tokens + b.total_tokens
    assert total.cached_tokens == a.cached_tokens + b.cached_tokens
    assert total.reasoning_tokens == a.reasoning_tokens + b.reasoning_tokens
    assert total.estimated is (a.estimated or b.estimated)
    assert a + Usage() == a


@pytest.mark.parametrize(
    "value",
    [
        CompletionRequest(messages=[]),
        Limits(),
        Usage(),
        ToolCall(id="", name="", arguments=""),
        ToolCallDelta(index=0),
        Chunk(),
        Completion(text="", finish_reason="stop", model=""),
    ],
)
def test_values_do_not_change(value: object) -> None:
    """Frozen, and without room for a misspelt field."""
    name = dataclasses.fields(value)[0].name  # type: ignore[arg-type]

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize(
    ("one", "other", "billed"),
    [
        (Usage(prompt_tokens=5), Usage(prompt_tokens=7), None),
        (Usage(prompt_tokens=500, billed_prompt_tokens=5), Usage(prompt_tokens=7), 12),
        (
            Usage(prompt_tokens=500, billed_prompt_tokens=5),
            Usage(prompt_tokens=700, billed_prompt_tokens=0),
            5,
        ),
    ],
)
def test_what_is_billed_is_summed_with_what_is_counted_elsewhere(
    one: Usage, other: Usage, billed: int | None
) -> None:
    """A provider that bills as it counts says nothing more."""
    assert (one + other).billed_prompt_tokens == billed
    assert (other + one).billed_prompt_tokens == billed
    assert (one + other).billed_completion_tokens is None
