"""Text from outside is shown without secrets, without control characters, and not without end."""

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters._scrub import MESSAGE_CHARACTERS, scrub, secrets_in

SECRET = "k3y+Zq7/Wm2=Xv9Rt4Lp8N"


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_url_base64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "bare": str,
    "in quotes": repr,
    "in a URL": lambda secret: quote(secret, safe=""),
    "in a URL, in small letters": lambda secret: quote(secret, safe="").lower(),
    "in a form": quote_plus,
    "in a URL, twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "in JSON": json.dumps,
    "in HTML": html.escape,
    "in base64": in_base64,
    "in base64 without its end": lambda secret: in_base64(secret).rstrip("="),
    "in base64 for URLs": in_url_base64,
    "in base64 for URLs, without its end": lambda secret: in_url_base64(secret).rstrip("="),
    "in base64 behind a name": lambda secret: in_base64(f"user:{secret}"),
    "in base64 behind a longer name": lambda secret: in_base64(f"user2:{secret}"),
    "in base64 behind another name": lambda secret: in_base64(f"user23:{secret}:more"),
    "in hex": lambda secret: secret.encode().hex(),
    "in capital hex": lambda secret: secret.encode().hex().upper(),
    "as a bearer": lambda secret: f"Bearer {secret}",
    "in userinfo": lambda secret: f"https://user:{quote(secret, safe='')}@host/",
    "in a query": lambda secret: f"https://host/?key={secret}&x=1",
    "cut short": lambda secret: secret[:12] + "...",
    "its end": lambda secret: "..." + secret[-9:],
    "from its middle": lambda secret: f"({secret[4:14]})",
}


def runs(secret: str, length: int = 8) -> set[str]:
    """Every piece of this length."""
    return {secret[start : start + length] for start in range(len(secret) - length + 1)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["{}", "invalid key {}, sorry", "{}{}", "x{}x", "\x00{}\x1b[0m"])
def test_a_planted_secret_is_not_seen_again(form: str, place: str) -> None:
    """In no encoding that servers and libraries use, and no eight characters of it."""
    text = place.replace("{}", FORMS[form](SECRET))

    scrubbed = scrub(text, (SECRET,))

    encodings = (SECRET, quote(SECRET, safe=""), SECRET.encode().hex())
    for encoded in (*encodings, in_base64(SECRET)[:-4], in_url_base64(SECRET)[:-4]):
        found = {run for run in runs(encoded) if run in scrubbed}
        assert not found, scrubbed
    assert "***" in scrubbed


@given(
    st.text("abcXYZ019-_+/=.~", min_size=8, max_size=80), st.text(max_size=40), st.text(max_size=40)
)
def test_no_secret_is_seen_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    """Any key, any text."""
    scrubbed = scrub(before + secret + after, (secret,))

    around = before + after
    assert not {run for run in runs(secret) if run in scrubbed and run not in around}


def test_what_stands_between_secrets_stays() -> None:
    """Even characters that nobody should send."""
    assert scrub(f"a\0{SECRET}\0b{SECRET}", (SECRET,)) == "a *** b***"


def test_a_mask_is_no_leak() -> None:
    """Some providers show the first and last characters of a key that they refuse."""
    text = "Incorrect API key provided: k3y+****Lp8N."

    assert scrub(text, (SECRET,)) == text


def test_a_short_secret_is_taken_out_whole() -> None:
    """Keys of local servers are what somebody typed."""
    assert scrub("key 1234 refused", ("1234",)) == "key *** refused"
    assert scrub("key: none", ("none",)) == "key: ***"
    assert scrub("a cat", ("a",)) == "a cat"  # too short to be one: nothing would be left
    assert scrub("no key", ("",)) == "no key"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "sk-ant-api03-abc_def-ghijkl",
        "gsk-abcdefgh12345678",
        "gsk_abcdefgh12345678",
        "xai-abcdefgh12345678",
        "AIzaSyA-abcdefghijklmnopqrstuvwxyz012",
        "hf_abcdefghijklmnopqrst",
        "Bearer abcdefgh12345678",
        "bearer abcdefgh12345678",
        "Basic dXNlcjpwYXNzd29yZA==",
        "https://user:password@host/",
        "https://host/?key=abc123",
        "https://host/?x=1&api_key=abc123&y=2",
        "https://host/?access_token=abc123",
    ],
)
def test_what_looks_like_a_key_is_taken_out_unknown(secret: str) -> None:
    """It may be another deployment's, or the caller's own."""
    scrubbed = scrub(f"refused: {secret} (see docs)", ())

    assert "***" in scrubbed
    assert scrubbed.startswith("refused: ")
    assert scrubbed.endswith(" (see docs)")
    for part in ("abcdefgh", "abc123", "abc_def", "password", "dXNlcj"):
        assert part not in scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "The model `gpt-4.1-mini` does not exist.",
        "co-operate with key-value stores; risk-adverse",
        "Visit https://platform.openai.com/account/rate-limits to learn more.",
        "Limit 30000, Used 28039. Please try again in 3.89s.",
        "10:30@noon and a/b:c",
        "Ünïcode ✓ \u4e2d\u6587",
    ],
)
def test_plain_words_stay(text: str) -> None:
    """A message that says nothing helps nobody."""
    assert scrub(text, (SECRET,)) == text


@given(st.text())
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    """Nor does a text become longer than it may."""
    scrubbed = scrub(text, ())

    kept = {"\t", "\n"}
    assert not [c for c in scrubbed if (c < " " or "\x7f" <= c <= "\x9f") and c not in kept]
    assert len(scrubbed) <= MESSAGE_CHARACTERS + 3


def test_a_long_text_is_cut_after_the_secrets_are_out() -> None:
    """No secret is half cut, and the cut can be seen."""
    text = "x" * (MESSAGE_CHARACTERS - 10) + SECRET + "y" * 5000

    scrubbed = scrub(text, (SECRET,))

    assert len(scrubbed) == MESSAGE_CHARACTERS + 3
    assert scrubbed.endswith("...")
    assert SECRET[:8] not in scrubbed


@pytest.mark.parametrize("filling", ["a", "sk-", "//a:", "k3y+Zq7", "?key=", "Bearer "])
def test_scrubbing_takes_time_in_proportion(filling: str) -> None:
    """The text is a stranger's, and may be long."""
    text = filling * (200_000 // len(filling))
    started = time.process_time()

    scrub(text, (SECRET,))

    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://api.example.com/v1", set()),
        ("https://us%20er:p%40ss@host:8/v1", {"us%20er", "us er", "p%40ss", "p@ss"}),
        ("https://host/v1?key=ab%2Bc&plain#part", {"ab%2Bc", "ab+c"}),
        ("https://token@host/a@b", {"token"}),
        ("no address at all", set()),
    ],
)
def test_what_an_address_hides_is_found(address: str, found: set[str]) -> None:
    """A user, a password and fields, as they are written and as they are meant."""
    assert secrets_in(address) == found
