"""Characters that a host sends in halves arrive whole."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters._surrogates import Halves, dumps, loads, whole
from tests.adapters.test_odd_hosts import ask, plain, streamed

anything = st.text(st.characters(categories=("L", "So", "Cs", "Zs")), max_size=8)


def escaped(content: bytes) -> bytes:
    """The same JSON, in ASCII."""
    return content.replace("😀".encode(), b"\\ud83d\\ude00")


@pytest.mark.parametrize("raw", [b"{", b"[1,]", b"\xff", b'"\\ud83', b'{"a": NaN, "b": 1}'])
def test_what_is_no_json_is_still_refused(raw: bytes) -> None:
    """Leniency is for halves of characters only."""
    with pytest.raises(json.JSONDecodeError):
        loads(raw)


def test_deep_nesting_with_a_half_is_refused() -> None:
    """The lenient reader's own limit is an error, not a crash."""
    with pytest.raises(ValueError, match="nested too deep"):
        loads(b"[" * 200_000 + b'"\\ud83d"')


@given(anything)
def test_json_with_halves_survives_the_trip(text: str) -> None:
    """What was read can be written again."""
    assert loads(json.dumps(text).encode()) == json.loads(json.dumps(text))
    assert json.loads(dumps([text])) == json.loads(json.dumps([text]))


@given(st.lists(anything))
def test_pieces_come_to_what_the_whole_comes_to(pieces: list[str]) -> None:
    """However a text is cut, the same characters come out, and all can be encoded."""
    halves = Halves()

    joined = "".join([*map(halves.feed, pieces), halves.end()])

    assert joined == whole("".join(pieces))
    joined.encode()


@pytest.mark.parametrize("provider", ["openai", "custom", "mistral"])
async def test_an_emoji_in_two_events_is_one_character(provider: str) -> None:
    """A host that cuts between the escapes loses nothing."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    stream = streamed({"content": "a😀"}, {"content": "b"}, usage=usage)
    first, second = b'"a\\ud83d"}', b'"\\ude00b"}'
    stream = escaped(stream).replace(b'"a\\ud83d\\ude00"}', first).replace(b'"b"}', second)

    assert (await ask(provider, stream, stream=True)).text == "a😀b"


async def test_a_lone_half_is_replaced() -> None:
    """It cannot be written to any file, so it is no text."""
    content = plain({"content": "a😀b"})
    content = escaped(content).replace(b"\\ude00", b"")

    assert (await ask("openai", content, stream=False)).text == "a\ufffdb"
