"""Take secrets out of text that a person or a file may come to see."""

import base64
import re
import string
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from urllib.parse import quote, unquote

MESSAGE_CHARACTERS = 1000
RUN = 8  # so many characters of a secret in a row are a leak; masks such as `sk-a***f9` are not
SECRET_CHARACTERS = 4  # what is shorter is no secret, and taking it out would leave nothing
_READ_CHARACTERS = 8 * MESSAGE_CHARACTERS
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:sk|pk|rk|gsk|xai)[-_][A-Za-z0-9_\-]{8,}",
        r"\b(?:co|key|hf|r8|pplx|nvapi)[-_](?=[a-z\-_]{0,99}[A-Z0-9])[A-Za-z0-9_\-]{8,}",
        r"\bhf_[A-Za-z]{16,}",
        r"\bAIza[0-9A-Za-z_\-]{20,}",
        r"(?i)\b(?:bearer|basic)\s+(?=[^\s\d=]{0,99}[\d=])[A-Za-z0-9._~+/=\-]{8,}",
        r"(?i)(?<=[?&])(?:api[_-]?key|key|secret|(?:[a-z]{1,9}_)?token)=[^&\s]+",
        r"(?<=//)[^/\s@]+(?=@)",
    )
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # keeps the length


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, in any common encoding, and without what looks like one.

    No eight characters of a secret in a row are left. Control characters become spaces and the
    length is bounded: this is text from outside.
    """
    text = text[:_READ_CHARACTERS]
    for secret in secrets:
        if len(secret) >= SECRET_CHARACTERS:
            text = _without(text, secret)
    for pattern in _PATTERNS:
        text = pattern.sub("***", text)
    text = _CONTROL.sub(" ", text)
    if len(text) > MESSAGE_CHARACTERS:
        text = text[:MESSAGE_CHARACTERS] + "..."
    return text


@lru_cache(maxsize=256)
def secrets_in(address: str) -> frozenset[str]:
    """What an address holds besides where it leads: a user, a password, fields behind a `?`."""
    before, _, query = address.partition("?")
    found = [field.partition("=")[2] for field in query.partition("#")[0].split("&")]
    found += before.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")[::2]
    return frozenset((*found, *map(unquote, found))) - {""}


def _without(text: str, secret: str) -> str:
    """The text without this secret and its runs, written in small or in capital letters."""
    forms = [form.translate(_LOWER) for form in _forms(secret)]
    runs = {form[at : at + RUN] for form in forms for at in range(max(1, len(form) - RUN + 1))}
    lengths = {len(run) for run in runs}
    searched = text.translate(_LOWER)
    hidden = bytearray(len(text))
    for at in range(len(text)):
        for length in lengths:
            run = searched[at : at + length]  # shorter than that at the text's end
            if run in runs:
                hidden[at : at + len(run)] = b"\1" * len(run)
    groups = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join("***" if h else "".join(c for c, _ in group) for h, group in groups)


def _forms(secret: str) -> Iterator[str]:
    """How servers and libraries write a secret; forms too short to tell from words are left out."""
    raw = secret.encode("utf-8", "replace")
    once = quote(secret, safe="", errors="replace")
    yield from (secret, once, quote(once, safe=""))
    for form in (raw.hex(), *_in_base64(raw)):
        if len(form) >= RUN:
            yield form


def _in_base64(raw: bytes) -> Iterator[str]:
    """Its base64, wherever it begins in what was encoded, without the characters it shares."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode()
        end = len(encoded) if (before + len(raw)) % 3 == 0 else len(encoded.rstrip("=")) - 1
        own = encoded[(0, 2, 3)[before] : end]
        yield own
        yield own.replace("+", "-").replace("/", "_")
