"""Take secrets out of text that a person or a file may come to see."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

MESSAGE_CHARACTERS = 1000
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:sk|pk|rk|gsk|xai|co|key)-[A-Za-z0-9_\-]{8,}",
        r"\bAIza[0-9A-Za-z_\-]{20,}",
        r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}",
        r"(?i)(?<=[?&])(?:key|api_key|token)=[^&\s]+",
        r"(?<=//)[^/\s@:]+:[^/\s@]+(?=@)",
    )
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, in any common encoding, and without what looks like one.

    Control characters become spaces and the length is bounded: this is text from outside.
    """
    for secret in secrets:
        if len(secret) >= 4:
            for form in _forms(secret):
                text = text.replace(form, "***")
    for pattern in _PATTERNS:
        text = pattern.sub("***", text)
    text = _CONTROL.sub(" ", text)
    if len(text) > MESSAGE_CHARACTERS:
        text = text[:MESSAGE_CHARACTERS] + "..."
    return text


def _forms(secret: str) -> tuple[str, ...]:
    raw = secret.encode()
    encoded = base64.b64encode(raw).decode().rstrip("=")
    return (secret, quote(secret, safe=""), encoded, base64.urlsafe_b64encode(raw).decode())
