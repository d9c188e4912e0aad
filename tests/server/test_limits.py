"""What a key may take a minute, and at a time: told in OpenAI's words, given back where unused."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clock import FakeClock
from orchestrator.server.keys import KeyRecord
from orchestrator.server.limits import KeyLimits, Load, Ticket, duration, load_of
from orchestrator.wire.errors import Refused


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limits(clock: FakeClock) -> KeyLimits:
    return KeyLimits(clock)


def record(place: int = 1, **given: Any) -> KeyRecord:
    return KeyRecord(
        id=f"{place:012x}",
        sha256="0" * 64,
        tenant="acme",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        **given,
    )


def refused(limits: KeyLimits, key: KeyRecord, load: Load) -> Refused:
    with pytest.raises(Refused) as found:
        limits.enter(key, load)
    return found.value


ONE = Load(tokens=1)
STREAM = Load(tokens=1, is_streamed=True)


def test_requests_beyond_a_minutes_are_refused_until_there_is_room(
    limits: KeyLimits, clock: FakeClock
) -> None:
    """With a 429 that says when, and which every client of OpenAI understands."""
    key = record(requests_per_minute=3)
    for _ in range(3):
        limits.enter(key, ONE).leave()
        clock.advance(10)

    error = refused(limits, key, ONE)

    assert (error.status, error.kind, error.code) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert "used up its 3 requests a minute; there is room in 30.0 s" in str(error)
    assert error.headers["retry-after"] == "31"
    assert error.headers["x-ratelimit-limit-requests"] == "3"
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.headers["x-ratelimit-reset-requests"] == "50.001s"
    clock.advance(31)
    limits.enter(key, ONE)


def test_a_refused_request_counts_for_nothing(limits: KeyLimits, clock: FakeClock) -> None:
    """Whoever tries again and again does not lengthen the wait."""
    key = record(requests_per_minute=1, tokens_per_minute=100)
    limits.enter(key, ONE)
    for _ in range(50):
        clock.advance(1)
        refused(limits, key, ONE)

    clock.advance(10.1)

    assert limits.enter(key, ONE).headers["x-ratelimit-remaining-tokens"] == "99"


def test_tokens_beyond_a_minutes_are_refused(limits: KeyLimits) -> None:
    """By the estimate, before anything is called; requests are not counted for it."""
    key = record(requests_per_minute=10, tokens_per_minute=1000)
    limits.enter(key, Load(tokens=800))

    error = refused(limits, key, Load(tokens=300))

    assert "1,000 tokens a minute" in str(error)
    assert error.headers["x-ratelimit-limit-tokens"] == "1000"
    assert error.headers["x-ratelimit-remaining-tokens"] == "200"
    assert error.headers["x-ratelimit-remaining-requests"] == "9"
    limits.enter(key, Load(tokens=200))


def test_a_request_that_never_fits_is_not_told_to_come_again(limits: KeyLimits) -> None:
    """Waiting makes it no smaller; the next smaller one is let in."""
    key = record(tokens_per_minute=1000)

    error = refused(limits, key, Load(tokens=1001))

    assert (error.status, error.code) == (429, "request_too_large")
    assert "may use 1,001 tokens, and its key has 1,000 a minute; lower max_tokens" in str(error)
    assert error.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.headers
    limits.enter(key, Load(tokens=1000))


def test_what_was_not_used_is_given_back(limits: KeyLimits) -> None:
    """The estimate is of the longest answer there may be; few are so long."""
    key = record(tokens_per_minute=1000)
    with limits.enter(key, Load(tokens=900)) as ticket:
        ticket.count(40)
        ticket.count(60)

    with limits.enter(key, Load(tokens=900)) as ticket:
        assert ticket.headers["x-ratelimit-remaining-tokens"] == "0"
        ticket.count(0)

    assert limits.enter(key, ONE).headers["x-ratelimit-remaining-tokens"] == "899"


def test_without_a_count_the_estimate_stands(limits: KeyLimits) -> None:
    """Nothing is free because nobody knows what it took."""
    key = record(tokens_per_minute=1000)
    limits.enter(key, Load(tokens=900)).leave()

    assert "used up" in str(refused(limits, key, Load(tokens=101)))


def test_more_than_was_estimated_is_counted_too(limits: KeyLimits, clock: FakeClock) -> None:
    """A panel uses many times what one request seems to need: the next one waits."""
    key = record(tokens_per_minute=1000)
    with limits.enter(key, Load(tokens=10)) as ticket:
        ticket.count(2500)

    error = refused(limits, key, ONE)

    assert error.headers["x-ratelimit-remaining-tokens"] == "0"
    clock.advance(61)
    limits.enter(key, Load(tokens=1000))


def test_only_so_many_streams_are_open_at_a_time(limits: KeyLimits) -> None:
    """Whole replies are not counted; a stream that has ended makes room."""
    key = record(open_streams=2)
    first, _ = limits.enter(key, STREAM), limits.enter(key, STREAM)

    error = refused(limits, key, STREAM)

    assert (error.status, error.code) == (429, "too_many_streams")
    assert "2 streams open" in str(error)
    limits.enter(key, ONE)
    first.leave()
    limits.enter(key, STREAM)
    refused(limits, key, STREAM)


def test_a_stream_that_is_refused_takes_nothing_of_the_minute(limits: KeyLimits) -> None:
    """One limit is looked at before another is drawn on."""
    key = record(open_streams=1, requests_per_minute=2)
    limits.enter(key, STREAM)
    refused(limits, key, STREAM)

    assert limits.enter(key, ONE).headers["x-ratelimit-remaining-requests"] == "0"


def test_leaving_twice_makes_room_once(limits: KeyLimits) -> None:
    """Or a key could have more streams open each time."""
    key = record(open_streams=1, tokens_per_minute=100)
    first = limits.enter(key, STREAM)
    first.leave()
    second = limits.enter(key, STREAM)
    first.leave()
    refused(limits, key, STREAM)

    with pytest.raises(RuntimeError), second:
        raise RuntimeError
    limits.enter(key, STREAM)


def test_keys_do_not_draw_on_each_other(limits: KeyLimits) -> None:
    """Not even two keys of one tenant: these limits are of keys."""
    one, other = (record(n, requests_per_minute=1, open_streams=1) for n in (1, 2))
    limits.enter(one, STREAM)

    limits.enter(other, STREAM)

    refused(limits, one, ONE)
    refused(limits, other, ONE)


def test_without_limits_nothing_is_said_and_nothing_refused(limits: KeyLimits) -> None:
    """No header tells of a limit that is not there; no key, no limits."""
    key = record()

    assert {str(limits.enter(key, Load(tokens=10**6)).headers) for _ in range(50)} == {"{}"}
    assert {str(limits.enter(None, STREAM).headers) for _ in range(500)} == {"{}"}


def test_a_limit_that_was_changed_holds_from_the_next_request(limits: KeyLimits) -> None:
    """And what an earlier request gives back does not widen the new one."""
    before = limits.enter(record(tokens_per_minute=1000), Load(tokens=1000, is_streamed=True))
    after = record(tokens_per_minute=100, open_streams=1)
    refused(limits, after, STREAM)
    limits.enter(after, Load(tokens=90))

    before.count(0)
    before.leave()

    refused(limits, after, Load(tokens=11))
    limits.enter(after, Load(tokens=10, is_streamed=True))


@pytest.mark.parametrize(
    ("body", "tokens", "is_streamed"),
    [
        ({"max_tokens": 100}, 100, False),
        ({"max_completion_tokens": 100, "n": 3}, 300, False),
        ({"max_output_tokens": 7, "stream": True}, 7, True),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9, False),
        ({"max_tokens": -5, "n": 0}, 0, False),
        ({"max_tokens": True, "n": "many"}, 0, False),
        ({"stream": "true"}, 0, False),
        ({"max_tokens": 10**18}, 10**15, False),
    ],
)
def test_a_request_weighs_its_bytes_and_the_longest_answers(
    body: dict[str, object], tokens: int, is_streamed: bool
) -> None:
    """A token for four bytes of it, and all that it lets the model write."""
    written = json.dumps(body).encode()
    length = -(-len(written) // 4)

    load = load_of(written)

    assert load == Load(tokens=min(tokens + length, 10**15), is_streamed=is_streamed)


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 10**5) | st.just(b"[1]"))
def test_what_is_no_request_weighs_nothing(body: bytes) -> None:
    """It is refused where it is read, in words that say why."""
    assert load_of(body).tokens <= len(body) + 1


def test_what_holds_too_much_is_not_read_to_be_weighed() -> None:
    """It will be refused; meanwhile it would hold everybody up."""
    assert load_of(b'{"max_tokens": 5}') != Load()
    assert load_of(b'{"max_tokens": 5, "x": [' + b"1," * 10**5 + b"1]}") == Load()


Act = tuple[int, int, int, bool]
ACTS: st.SearchStrategy[list[Act]] = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 60), st.integers(0, 120), st.booleans()),
    max_size=40,
)


@given(acts=ACTS)
def test_no_minute_ever_takes_more_than_it_may(acts: list[Act]) -> None:
    """However requests come and end: 3 requests, 100 tokens by their estimates, 2 streams."""
    clock = FakeClock()
    limits = KeyLimits(clock)
    key = record(requests_per_minute=3, tokens_per_minute=100, open_streams=2)
    entered: list[tuple[float, int]] = []
    streams: list[Ticket] = []
    for pause_s, tokens, used, is_streamed in acts:
        clock.advance(pause_s)
        now_s = clock.monotonic()
        try:
            ticket = limits.enter(key, Load(tokens=tokens, is_streamed=is_streamed))
        except Refused as error:
            if wait := error.headers.get("retry-after"):
                assert 1 <= int(wait) <= 61
            if streams:
                streams.pop().leave()
            continue
        if is_streamed:
            streams.append(ticket)
            entered.append((now_s, tokens))
        else:
            ticket.count(min(used, tokens))
            ticket.leave()
            entered.append((now_s, min(used, tokens)))

        recent = [amount for at_s, amount in entered if now_s - at_s < 59.9]
        assert len(recent) <= 3
        assert sum(recent) <= 100
        assert len(streams) <= 2


@given(st.floats(min_value=0, max_value=10**6))
def test_a_time_in_openais_words_is_never_too_short(seconds: float) -> None:
    """Whoever waits so long finds room."""
    text = duration(seconds)
    minutes, _, rest = text.rpartition("m") if not text.endswith("ms") else ("", "", text)
    told = int(minutes or 0) * 60 + (
        int(rest[:-2]) / 1000 if rest.endswith("ms") else float(rest[:-1])
    )

    assert -1e-6 <= told - seconds < 0.0011
