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
HINT = 5  # so many characters in a row say that a text is worth searching for runs
SECRET_CHARACTERS = 4  # what is shorter is no secret, and taking it out would leave nothing
_READ_CHARACTERS = 8 * MESSAGE_CHARACTERS
# What looks like a secret, and what stands, in small letters, in every text that holds one: to look
# for these takes a twentieth of the time.
_PATTERNS = tuple(
    (re.compile(pattern), tuple(f"{name}{sign}" for name in names for sign in signs or ("",)))
    for pattern, names, signs in (
        (
            r"\b(?:sk|pk|rk|gsk|xai)[-_][A-Za-z0-9_\-]{8,}",
            ("sk", "pk", "rk", "gsk", "xai"),
            "-_",
        ),
        (
            r"\b(?:co|key|hf|r8|pplx|nvapi)[-_](?=[a-z\-_]{0,99}[A-Z0-9])[A-Za-z0-9_\-]{8,}",
            ("co", "key", "hf", "r8", "pplx", "nvapi"),
            "-_",
        ),
        (r"\bhf_[A-Za-z]{16,}", ("hf_",), ""),
        (r"\borc-[0-9a-f]{12}-[A-Za-z0-9_\-]{8,}", ("orc-",), ""),
        (r"\bAIza[0-9A-Za-z_\-]{20,}", ("aiza",), ""),
        (
            r"(?i)\b(?:bearer|basic)\s+(?=[^\s\d=]{0,99}[\d=])[A-Za-z0-9._~+/=\-]{8,}",
            ("bearer", "basic"),
            "",
        ),
        (
            r"(?i)(?<=[?&])(?:api[_-]?key|key|secret|(?:[a-z]{1,9}_)?token)=[^&\s]+",
            ("?key=", "&key=", "?api", "&api", "?secret=", "&secret=", "token="),
            "",
        ),
        (r"(?<=//)[^/\s@]+(?=@)", ("@",), ""),
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
        self._short = frozenset(form for form in forms if len(form) < RUN)
        self._runs = frozenset(
            piece for form in forms - self._short for piece in _pieces(form, RUN)
        )
        self._hints = frozenset(piece for run in self._runs for piece in _pieces(run, HINT))

    def __call__(self, text: str, *others: "Redactor") -> str:
        """The text without what is secret; `others`: whose known secrets are taken out as well."""
        searched = _in_small_letters(text)
        # Of any eight characters in a row, five that begin at a multiple of four are among these.
        hints = _pieces(searched, HINT, step=RUN - HINT + 1)
        known = (self, *others)
        found = [place for one in known for place in one._found(searched, hints)]  # noqa: SLF001
        if found:
            text = _hidden(text, found)
            searched = _in_small_letters(text)
        for pattern, marks in _PATTERNS:
            if any(map(searched.__contains__, marks)):  # faster than a loop
                text = pattern.sub("***", text)
        return text

    def _found(self, searched: str, hints: Iterable[str]) -> list[tuple[int, int]]:
        """From where to where runs stand in a text in small letters."""
        found = []
        if not self._hints.isdisjoint(hints):  # nearly always it is, and that is fast
            pieces = enumerate(_pieces(searched, RUN))
            found += [(at, at + RUN) for at, piece in pieces if piece in self._runs]
        for short in self._short:
            places = re.finditer(f"(?={re.escape(short)})", searched) if short in searched else ()
            found += [(place.start(), place.start() + len(short)) for place in places]
        return found


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


def _in_small_letters(text: str) -> str:
    """A text of the same length, whatever alphabets are in it."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def _pieces(text: str, length: int, *, step: int = 1) -> list[str]:
    return [text[at : at + length] for at in range(0, len(text) - length + 1, step)]


def _hidden(text: str, places: Iterable[tuple[int, int]]) -> str:
    """The text with stars in these places, three for as many as touch each other."""
    hidden = bytearray(len(text))
    for at, end in places:
        hidden[at:end] = b"\1" * (end - at)
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
