"""An answer that broke off and its continuation become one text, without a gap or a repetition."""

import itertools
import json
import timeit
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapters.types import CompletionRequest
from orchestrator.continuation import (
    LEAST_LETTERS,
    LEAST_OVERLAP,
    LEAST_WHOLE,
    Seam,
    asks_for_json,
    continuation_request,
    is_prefilled,
    is_whole_json,
)
from orchestrator.errors import Diverged

PROSE = (
    "The capital of France is Paris. It lies on the Seine, in the north of the country, and has "
    "about two million inhabitants.\n\nIts best known building is the Eiffel Tower; the Louvre is "
    "the most visited museum in the world.  Ho ho ho! Nothing else is quite like it … believe me."
)
CODE = (
    "```python\ndef total(rows):\n    result = 0\n    for row in rows:\n        if row:\n"
    "            result += row.value\n        else:\n            result += "
    "0.3333333333333333333333333333333333333333333333\n"
    "    return result\n```\nha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha\n\n\n\nand "
    "1000000000000000000000000."
)
TABLE = (
    "| city   | people  |\n| ------ | ------- |\n| Paris  | 2100000 |\n| Lyon   | 500000  |\n"
    "| Nice   | 340000  |\n|        |         |\n|        |         |\n\n---\n\n- a\n- b\n- c\n"
)
OTHERS = (
    "Überall 東京は日本の首都です。人口は約千四百万人。 👩\u200d👩\u200d👧 "
    "é e\u0301 \u202e\x00\ud83d مرحبا بالعالم"
)
SAMPLES = (PROSE, CODE, TABLE, OTHERS)

letters = st.characters(categories=["L", "Nd"]) | st.characters() | st.sampled_from("abc .\n")
scripts = st.text(letters, min_size=LEAST_OVERLAP, max_size=200)
texts = st.text(max_size=80) | st.text("ab \n.", max_size=80)


def pieces(text: str, *cuts: int) -> list[str]:
    """The text in pieces cut at these places, wherever they are."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def joined(delivered: str, continuation: Iterable[str], *, anchored: bool = False) -> str:
    """What the listener has in the end."""
    seam = Seam(delivered, anchored=anchored)
    return delivered + "".join(seam.feed(piece) for piece in continuation) + seam.end()


def outcome(delivered: str, continuation: Sequence[str], *, anchored: bool = False) -> str | None:
    """The same, or None where the continuation was refused."""
    try:
        return joined(delivered, continuation, anchored=anchored)
    except Diverged:
        return None


# Joining.


@pytest.mark.parametrize("text", SAMPLES)
def test_an_exact_continuation_is_handed_out_as_it_is(text: str) -> None:
    """Wherever the cut was: in a word, in white space, between two repetitions."""
    for cut in range(len(text)):
        assert joined(text[:cut], list(text[cut:])) == text, f"cut at {cut}"


@pytest.mark.parametrize("text", SAMPLES)
def test_repeated_words_are_handed_out_once(text: str, thorough: bool) -> None:
    """Whatever was repeated, from the least that counts to the whole answer."""
    tried, step = 0, 1 if thorough else 7
    for cut in range(len(text)):
        for repeated in {*range(LEAST_OVERLAP, cut + 1, step), cut}:
            overlap = text[cut - repeated : cut]
            if len(overlap.strip(" .…\n")) < LEAST_OVERLAP or is_ambiguous(text, cut, repeated):
                continue
            tried += 1
            assert joined(text[:cut], [text[cut - repeated :]]) == text, (cut, repeated)

    assert tried > 20


@pytest.mark.parametrize("text", ["1  \n2  \n3", "2 + 2 = 4", "(a) or (b)?", "x > 0.5: yes"])
def test_a_short_answer_begun_again_is_handed_out_once(text: str) -> None:
    """All of it in the same order is no accident, however few of its characters are letters."""
    for cut in range(4, len(text) + 1):
        if len(text[:cut].strip(" .…\n")) >= LEAST_WHOLE:
            assert joined(text[:cut], list(text)) == text, cut


def is_ambiguous(text: str, cut: int, repeated: int) -> bool:
    """Whether nobody could tell what was repeated: it is a pattern, has no words, or more fits."""
    known, rest = text[:cut].rstrip(), text[cut - repeated :].lstrip(" .…\n")
    longest = next(count for count in range(len(known), 0, -1) if rest.startswith(known[-count:]))
    steps = range(1, min(longest, len(known) // 2) + 1)
    ends = ((step, known[-max(longest, 2 * step) :]) for step in steps)
    wordless = sum(letter.isalnum() for letter in known[-longest:]) < LEAST_LETTERS
    return longest > repeated or wordless or any(end[step:] == end[:-step] for step, end in ends)


@given(text=scripts, cut=st.integers(0), data=st.data())
def test_any_text_with_any_overlap_joins_to_itself(text: str, cut: int, data: Any) -> None:
    """0 characters missing, 0 twice, in whatever script."""
    cut = LEAST_OVERLAP + cut % (len(text) - LEAST_OVERLAP + 1)
    repeated = data.draw(st.integers(LEAST_OVERLAP, cut))
    assume(len(text[cut - repeated : cut].strip().strip(" .…")) >= LEAST_OVERLAP)
    assume(not is_ambiguous(text, cut, repeated))

    cuts = data.draw(st.lists(st.integers(0), max_size=5))

    assert joined(text[:cut], pieces(text[cut - repeated :], *cuts)) == text


@given(
    delivered=texts,
    again=st.integers(0, 80),
    continuation=texts,
    cuts=st.lists(st.integers(0, 99), max_size=9),
    anchored=st.booleans(),
)
def test_the_pieces_of_a_continuation_change_nothing(
    delivered: str, again: int, continuation: str, cuts: list[int], anchored: bool
) -> None:
    """One model sends words, another one letters; the answer is the same."""
    continuation = delivered[len(delivered) - again % (len(delivered) + 1) :] + continuation
    at_once = outcome(delivered, [continuation], anchored=anchored)

    assert outcome(delivered, pieces(continuation, *cuts), anchored=anchored) == at_once
    assert outcome(delivered, list(continuation), anchored=anchored) == at_once


@given(delivered=texts, again=st.integers(0, 80), continuation=texts)
def test_what_was_handed_out_stays_and_only_repetition_goes(
    delivered: str, again: int, continuation: str
) -> None:
    """Whatever comes: the rest of the continuation is there, whole and in order."""
    continuation = delivered[len(delivered) - again % (len(delivered) + 1) :] + continuation

    final = outcome(delivered, [continuation])

    assume(final is not None)
    assert final is not None
    assert final.startswith(delivered)
    added = final[len(delivered) :]
    assert continuation.endswith(added)
    left_out = continuation[: len(continuation) - len(added)]
    assert left_out.strip(" .…\n\t\r\v\f") in delivered


def test_an_answer_that_begins_again_the_same_way_goes_on() -> None:
    """It is repeated whole, then it is new."""
    assert joined(PROSE[:50], [PROSE]) == PROSE
    assert joined("Yes, ", ["Yes, it is."]) == "Yes, it is."
    assert joined("\n\nYes,", ["Yes, it is."]) == "\n\nYes, it is."


@pytest.mark.parametrize("begun_again", ["The capital of France was Rome once.", PROSE[:30]])
def test_another_answer_is_refused_before_anything_is_handed_out(begun_again: str) -> None:
    """Two beginnings make no answer."""
    seam, handed_out = Seam(PROSE[:90]), list[str]()

    def listen() -> None:
        for letter in begun_again:
            handed_out.append(seam.feed(letter))
        handed_out.append(seam.end())

    with pytest.raises(Diverged):
        listen()
    assert not any(handed_out)


def test_a_line_that_begins_like_the_answer_is_no_other_answer() -> None:
    """Rows begin alike; two of them have shown it."""
    rows = [f'{{"name": "Albert", "number": {number}}}\n' for number in range(4)]

    assert joined(rows[0] + rows[1], [rows[2], rows[3]]) == "".join(rows)


def test_dots_before_repeated_words_go_with_them() -> None:
    """Some show that way that they go on; dots without a repetition are the author's."""
    delivered = "She looked out of the window and saw"

    assert joined(delivered, ["… of the window and saw", " him."]) == f"{delivered} him."
    assert joined(delivered, ["... ", "nothing."]) == f"{delivered}... nothing."
    assert joined("...a", ["...", "and so on"], anchored=True) == "...and so on"


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n"])
@pytest.mark.parametrize("after", ["", " ", "\n", "\n\n"])
def test_white_space_at_the_cut_is_handed_out_once(before: str, after: str) -> None:
    """A model that repeats words may set the space behind them anew."""
    words = "first of all the ingredients"

    final = joined(words + before, [words, after, "200 g flour"])

    longer = max(before, after, key=len)
    assert final.split() == [*words.split(), "200", "g", "flour"] or not longer
    assert len(final) <= len(words + before + after + "200 g flour")
    assert after not in {before, ""} or final == f"{words}{before}200 g flour"
    assert joined(words + before, [words, after, "200", "\n", "\n", " g"]).endswith("200\n\n g")


def test_nothing_is_held_back_longer_than_it_must_be() -> None:
    """A continuation that repeats nothing, or too little, is handed out within a word or two."""
    seam = Seam(PROSE)

    held = next(count for count, letter in enumerate("Quite so, and more.") if seam.feed(letter))

    assert held < 3
    assert Seam(PROSE).feed("believe") == "believe"


def test_a_long_answer_is_joined_in_no_time() -> None:
    """The loop serves others: 100 kB that begin again stall nobody for a tenth of a second."""
    text = "".join(f"{number} is the number of this line.\n" for number in range(3000))

    taken_s = min(timeit.repeat(lambda: joined(text, [text, "end"]), number=1, repeat=3))
    same_s = min(timeit.repeat(lambda: joined("a" * 10**5, ["a" * 10**5]), number=1, repeat=3))

    print(
        f"\n{len(text)} characters: {taken_s * 1000:.1f} ms, all the same: {same_s * 1000:.1f} ms"
    )
    assert max(taken_s, same_s) < 1.0


# Asking.


def request(**fields: Any) -> CompletionRequest:
    return CompletionRequest(messages=[{"role": "user", "content": "Capital of France?"}], **fields)


def test_a_prefill_is_the_last_message() -> None:
    """The deployment has said that it goes on with an answer that is begun."""
    asked = continuation_request(request(), "It is Par", prefill=True)

    assert is_prefilled(asked)
    assert asked.messages[-1] == {"role": "assistant", "content": "It is Par", "prefix": True}


def test_an_instruction_shows_the_text_and_its_last_words() -> None:
    """The last words stand there again, from the beginning of one."""
    asked = continuation_request(request(), PROSE, prefill=False)

    question, shown, wanted = asked.messages
    assert not is_prefilled(asked)
    assert question == request().messages[0]
    assert shown == {"role": "assistant", "content": PROSE}
    anchor = wanted["content"].rpartition("\n\n")[2]
    assert wanted["role"] == "user"
    assert PROSE.endswith(" " + anchor)
    assert joined(PROSE, [anchor, " And so on."]) == f"{PROSE} And so on."


@pytest.mark.parametrize("text", SAMPLES)
def test_whoever_begins_with_the_last_words_is_understood(text: str) -> None:
    """Wherever the cut was, and however few or often repeated the words are."""
    for cut in range(1, len(text)):
        asked = continuation_request(request(), text[:cut], prefill=False)
        anchor = asked.messages[-1]["content"].partition("words:\n\n")[2]
        known = text[:cut].rstrip()
        assert known.endswith(anchor)
        assert joined(text[:cut], list(anchor + text[len(known) :]), anchored=True) == text, cut


@pytest.mark.parametrize("text", [PROSE, OTHERS])
def test_whoever_goes_straight_on_is_understood_as_well(text: str) -> None:
    """Not every model does as it is told."""
    for cut in range(len(text)):
        assert joined(text[:cut], list(text[cut:]), anchored=True) == text, cut


@pytest.mark.parametrize(
    ("delivered", "fields"),
    [
        ("It is ", {}),
        ("It is\n", {}),
        (" It", {}),
        ("It is", {"reasoning_effort": "high"}),
        ("It is", {"extra": {"thinking": {"type": "enabled", "budget_tokens": 2000}}}),
    ],
)
def test_where_a_prefill_would_be_refused_it_is_asked_for(
    delivered: str, fields: dict[str, Any]
) -> None:
    """White space at its end, too little to know it again, or thinking before it."""
    assert not is_prefilled(continuation_request(request(**fields), delivered, prefill=True))


def test_an_answer_the_caller_began_stays_in_one_piece() -> None:
    """Two messages of the assistant in a row would be refused."""
    begun = CompletionRequest(
        messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "It "}]
    )

    asked = continuation_request(begun, "is Par", prefill=True)

    assert [message["content"] for message in asked.messages] == ["?", "It is Par"]


def test_a_continuation_is_text_and_nothing_else() -> None:
    """Half an object fits no grammar, and a tool call is not continued."""
    wanted = request(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="auto",
        response_format={"type": "json_object"},
        temperature=0.5,
        extra={"parallel_tool_calls": False, "user": "u"},
    )

    asked = continuation_request(wanted, "{", prefill=True)

    assert (asked.tools, asked.tool_choice, asked.response_format) == (None, None, None)
    assert (asked.temperature, asked.extra) == (0.5, {"user": "u"})


@pytest.mark.parametrize(
    ("limit", "delivered", "prefill", "left"),
    [
        (None, "x" * 400, True, None),
        (1000, "x" * 400, True, 900),
        (100, "x" * 400, True, 16),
        (5, "x" * 400, True, 5),
        (1000, "x" * 400, False, 920),  # the last words are written once more
    ],
)
def test_the_limit_is_lowered_by_what_was_handed_out(
    limit: int | None, delivered: str, prefill: bool, left: int | None
) -> None:
    """An estimate, and never nothing."""
    asked = continuation_request(request(max_tokens=limit), delivered, prefill=prefill)

    assert asked.max_tokens == left


@pytest.mark.parametrize("delivered", ["", " \n", "…"])
def test_with_nothing_to_go_on_with_the_request_is_made_again(delivered: str) -> None:
    """White space and dots are no beginning of an answer."""
    assert continuation_request(request(), delivered, prefill=True) == request()


# Whole JSON.


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=8,
    ),
    cut=st.integers(0),
)
def test_an_object_is_whole_or_it_is_not(value: object, cut: int) -> None:
    """Every proper beginning of an object is refused."""
    text = json.dumps({"answer": value})

    assert is_whole_json(text)
    assert is_whole_json(f" {text}\n")
    assert not is_whole_json(text[: cut % len(text)])
    assert not is_whole_json(text + text)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 10**5, "", "{'a': 1}"])
def test_what_only_looks_like_json_is_refused(text: str) -> None:
    """Python reads more than the standard allows."""
    assert not is_whole_json(text)


def test_a_very_long_number_is_a_number() -> None:
    """Python refuses to count beyond 4300 digits; JSON does not."""
    assert is_whole_json("1" * 5000)


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (None, False),
        ({"type": "text"}, False),
        ({"type": "json_object"}, True),
        ({"type": "json_schema", "json_schema": {}}, True),
    ],
)
def test_two_formats_are_json(response_format: dict[str, Any] | None, expected: bool) -> None:
    """With a schema or without."""
    assert asks_for_json(response_format) is expected
