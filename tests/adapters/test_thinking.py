"""Thinking that stands in the text, between think tags, is moved to where thinking belongs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters._read import ThinkTags, split_thinking

pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "/think>", "thi", "\n", " ", "a", "Ü✓", "<think"])
)


@pytest.mark.parametrize(
    ("whole", "text", "reasoning"),
    [
        ("<think>so</think>\n\nyes", "yes", "so"),
        ("\n<think>\nso\n</think>yes", "yes", "\nso\n"),
        ("no tags at all", "no tags at all", ""),
        ("first <think>later</think>", "first <think>later</think>", ""),
        ("<think>never ended", "", "never ended"),
        ("<think></think>yes <think>again</think>", "yes <think>again</think>", ""),
        ("<thin", "<thin", ""),
        ("  ", "  ", ""),
        ("", "", ""),
    ],
)
def test_only_thinking_at_the_start_is_moved(whole: str, text: str, reasoning: str) -> None:
    """Tags elsewhere are the model's own words."""
    assert split_thinking(whole) == (text, reasoning)


@given(pieces)
def test_the_split_of_a_stream_does_not_matter(parts: list[str]) -> None:
    """Fed in pieces, the same text and reasoning come out as from the whole."""
    tags = ThinkTags()

    fed = [tags.feed(part) for part in parts] + [tags.end()]

    joined = "".join(text for text, _ in fed), "".join(reasoning for _, reasoning in fed)
    assert joined == split_thinking("".join(parts))


@given(pieces)
def test_nothing_but_tags_and_line_ends_is_lost(parts: list[str]) -> None:
    """Text and reasoning together hold every other character."""
    whole = "".join(parts)

    text, reasoning = split_thinking(whole)

    kept = (reasoning + text).replace("<think>", "").replace("</think>", "")
    wanted = whole.replace("<think>", "").replace("</think>", "")
    assert sorted(kept.replace("\n", "").replace(" ", "")) == sorted(
        wanted.replace("\n", "").replace(" ", "")
    )
