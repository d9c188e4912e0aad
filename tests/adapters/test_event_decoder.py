"""Bytes into events, and events into lines that litellm can read."""

import json
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Limits
from adapters._surrogates import dumps
from adapters._wire import EventDecoder, LimitExceeded, _one_line

LINES = st.one_of(
    st.sampled_from(
        (
            b"",
            b"",
            b"data: {}",
            b"data:x",
            b"data",
            b"data: ",
            b": ping",
            b"event: e",
            b"id:1",
            b"junk",
        )
    ),
    st.text("ab\u0085\u2028\u2029\u00e9\U0001f600: ", max_size=6).map(
        lambda text: b"data:" + text.encode()
    ),
)
ENDS = st.sampled_from((b"\n", b"\r\n", b"\r"))
BODIES = st.tuples(
    st.sampled_from((b"", b"\xef\xbb\xbf")),
    st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=30).map(b"".join),
).map(b"".join)


def decode(parts: Iterable[bytes], limits: Limits = Limits()) -> list[bytes]:
    """The events of these parts, in order."""
    decoder = EventDecoder(limits)
    return [event for part in parts for event in decoder.feed(part)]


def decode_plainly(body: bytes) -> list[bytes]:
    """The standard's algorithm over the whole text, except that empty data lines say nothing."""
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, lines = [], list[str]()
    for line in text.split("\n")[:-1]:  # what follows the last line end is no line yet
        field, _, value = line.partition(":")
        if field == "data" and value.removeprefix(" "):
            lines.append(value.removeprefix(" "))
        elif not line and lines:
            events.append("\n".join(lines).encode())
            lines = []
    return events


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    """The body in parts, cut at these places."""
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


@given(BODIES)
def test_events_are_what_the_standard_says(body: bytes) -> None:
    """Whatever the line ends, byte order marks, comments and other fields."""
    assert decode_plainly(body) == decode([body])


@given(BODIES, st.lists(st.integers(0, 10_000), max_size=12))
def test_where_the_bytes_are_cut_makes_no_difference(body: bytes, places: list[int]) -> None:
    """Inside a line end, a character, a field name; into parts of nothing at all."""
    assert decode([body]) == decode(cut(body, places))


@given(BODIES)
def test_bytes_may_come_one_by_one(body: bytes) -> None:
    """The most cuts there can be."""
    assert decode([body]) == decode(bytes([byte]) for byte in body)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\r\rdata: b\r\n\r\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: {\ndata: }\n\n", [b"{\n}"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b": keep-alive\n\n: keep-alive\n\n", []),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"data: a\xc2\x85b\xe2\x80\xa8c\n\n", ["a\u0085b\u2028c".encode()]),
        (b"data: unfinished", []),
        (b"data: unfinished\n", []),
        (b"data\ndata:\n\n", []),
        (b" data: not a field\n\n", []),
        (b"data: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    ],
)
def test_events_end_at_an_empty_line(body: bytes, events: list[bytes]) -> None:
    """The cases of the standard, one by one."""
    assert events == decode([body])


def test_a_line_end_may_be_cut_around_nothing() -> None:
    """CR, an empty part, LF is one line end."""
    assert decode([b"data: a\r", b"", b"\n\r\n"]) == [b"a"]


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        (Limits(event_bytes=10), [b"data: 12345678901\n\n"]),
        (Limits(event_bytes=10), [b"data: 123456\n", b"data: 789012\n"]),
        (Limits(event_bytes=10), [b"data: ", b"1234567890", b"1234567890"]),
        (Limits(event_bytes=10), [b": a comment that never ends"]),
        (Limits(body_bytes=20), [b"data: a\n\n"] * 3),
        (Limits(body_bytes=20), [b"\n" * 21]),
        (Limits(events=2), [b"data: a\n\n" * 3]),
        (Limits(events=2), [b"data: a\n\n"] * 3),
    ],
)
def test_every_size_has_a_limit(limits: Limits, parts: list[bytes]) -> None:
    """One event, a line that never ends, the sum, the number of events."""
    with pytest.raises(LimitExceeded, match=r"larger than|more than"):
        decode(parts, limits)


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        (Limits(event_bytes=10), [b"data: 1234567890\n\n"] * 3),
        (Limits(body_bytes=27), [b"data: a\n\n"] * 3),
        (Limits(events=3), [b"data: a\n\n"] * 3),
    ],
)
def test_a_limit_may_be_reached(limits: Limits, parts: list[bytes]) -> None:
    """It is the next byte or event that is too many."""
    assert len(decode(parts, limits)) == 3


@pytest.mark.parametrize(
    "parts",
    [
        [b"data:x\n" * 150_000],
        [b"data: " + b"x" * 100_000, *([b"x" * 10] * 60_000)],
        [b"x" * 10] * 100_000,
    ],
    ids=["many-data-lines", "a-long-line-in-small-parts", "a-line-of-nothing-in-small-parts"],
)
def test_decoding_takes_time_in_proportion(parts: list[bytes]) -> None:
    """A provider cannot hold up the event loop with an event in very many pieces."""
    started = time.process_time()

    decode(parts)

    assert time.process_time() - started < 2.0  # quadratic: minutes


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.text('[DONE]\u0085\u2028\u2029\x1c\x0b\x0c\n\r\\"a'),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("[DONE]\u2028a", max_size=6), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_one_line_is_the_same_json_on_one_line(value: object) -> None:
    """Equal when read; no reader of lines breaks it, and none finds `[DONE]` in it."""
    line = _one_line(dumps(value))

    assert json.loads(line) == value
    assert len(line.decode().splitlines()) == 1
    assert b"[DONE]" not in line
