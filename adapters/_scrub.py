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
        r"\borc-[0-9a-f]{12}-[A-Za-z0-9_\-]{8,}",
        r"\bAIza[0-9A-Za-z_\-]{20,}",
        r"(?i)\b(?:bearer|basic)\s+(?=[^\s\d=]{0,99}[\d=])[A-Za-z0-9._~+/=\-]{8,}",
        r"(?i)(?<=[?&])(?:api[_-]?key|key|secret|(?:[a-z]{1,9}_)?token)=[^&\s]+",
        r"(?<=//)[^/\s@]+(?=@)",
    )
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # keeps the length


class Redactor:
    """Takes secrets out of text: known ones in any common encoding, and what looks like one.

    No eight characters of a known secret in a row are left, in small or in capital letters.

    >>> Redactor(["correct horse"])("ask for correct%20horse, or Bearer abcd1234efgh")
    'ask for ***, or ***'

    Args:
        secrets: The known ones; what is shorter than four characters is none.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = frozenset(one for one in secrets if len(one) >= SECRET_CHARACTERS)
        forms = {form.translate(_LOWER) for secret in self.secrets for form in _forms(secret)}
        self._runs = frozenset(run for form in forms for run in _runs(form))
        self._lengths = sorted({len(run) for run in self._runs})

    def __call__(self, text: str) -> str:
        text = self.without_known(text)
        for pattern in _PATTERNS:
            text = pattern.sub("***", text)
        return text

    def without_known(self, text: str) -> str:
        """The text without the known secrets and their runs."""
        searched = text.translate(_LOWER)
        found = list(self._found(searched))
        if not found:
            return text
        hidden = bytearray(len(text))
        for at, end in found:
            hidden[at:end] = b"\1" * (end - at)
        groups = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
        return "".join("***" if h else "".join(c for c, _ in group) for h, group in groups)

    def _found(self, searched: str) -> Iterator[tuple[int, int]]:
        """From where to where runs stand in a text in small letters."""
        for length in self._lengths:
            pieces = [searched[at : at + length] for at in range(len(searched) - length + 1)]
            if not self._runs.isdisjoint(pieces):  # nearly always it is, and that is fast
                for at, piece in enumerate(pieces):
                    if piece in self._runs:
                        yield at, at + length


def scrub(text: str, secrets: Iterable[str]) -> str:
    """What a `Redactor` leaves of text from outside, made harmless and short.

    Control characters become spaces and the length is bounded.
    """
    text = _CONTROL.sub(" ", Redactor(secrets)(text[:_READ_CHARACTERS]))
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


def _runs(form: str) -> Iterator[str]:
    return (form[at : at + RUN] for at in range(max(1, len(form) - RUN + 1)))


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
