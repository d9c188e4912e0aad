"""Find media URLs that must not be sent on: someone would fetch them from inside our network."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

_URL_KEYS = frozenset(("url", "file_url", "image_url", "video_url", "audio_url", "document_url"))
# What the model reads or wrote, and what names things: nobody fetches any of it.
_TEXT_KEYS = frozenset(
    (
        *("text", "content", "refusal", "thinking", "signature"),
        *("reasoning", "reasoning_content", "type", "role", "name", "id", "tool_call_id"),
    )
)
_CALL_KEYS = frozenset(("arguments", "input"))  # of a tool; whatever their shape
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.\-]*:", re.IGNORECASE)
_FETCHED_ID = re.compile(r"\s*(?:https?://|www\.)", re.IGNORECASE)
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".localdomain", ".lan", ".home.arpa")


def refused_url(
    messages: Sequence[Mapping[str, Any]], *, policy: str | None, provider_fetches: bool
) -> str | None:
    """The first URL in the messages that may not be sent on, or `None`.

    Data URLs always may. Others may when the operator says `allow`; without a word from the
    operator, https ones may where the provider's own machines fetch them. An https URL as a
    `file_id` is not sent on: litellm would download it here.
    """
    if policy == "allow":
        return None
    for key, url in _urls(list(messages)):
        is_https = url.lower().startswith("https://") and key != "file_id"
        if policy == "refuse" or not provider_fetches or not is_https:
            return url.strip().split("?")[0][:200]
    return None


@lru_cache(maxsize=1024)
def is_local(url: str) -> bool:
    """Whether a URL names this machine or a private network, or nothing that can be read."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return True
    address = _address(host)
    if address is not None:
        return not address.is_global
    return "." not in host or host.endswith(_LOCAL_NAMES)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address in any spelling the system's resolver takes: 127.1, 0x7f000001, 017700000001."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _urls(messages: list[Any]) -> Iterator[tuple[str, str]]:
    """Every URL with the key it stands at, at any depth: litellm looks in unexpected places."""
    rest: list[tuple[str, Any]] = [("", messages)]
    while rest:
        key, value = rest.pop()
        if isinstance(value, Mapping):
            inside = [item for item in value.items() if item[0] not in _CALL_KEYS]
            rest.extend(reversed(inside))
        elif isinstance(value, (list, tuple)):
            rest.extend((key, inner) for inner in reversed(value))
        elif isinstance(value, str) and key not in _TEXT_KEYS and _is_url(key, value):
            yield key, value


def _is_url(key: str, value: str) -> bool:
    if value.startswith("data:") and "://" not in value:
        return False
    if key == "file_id" and _FETCHED_ID.match(value):
        return True
    return key in _URL_KEYS or ("://" in value and _SCHEME.match(value) is not None)
