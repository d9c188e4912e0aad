"""Find media URLs that must not be sent on: someone would fetch them from inside our network."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

_URL_KEYS = ("url", "file_url", "image_url", "video_url", "audio_url", "document_url", "file_id")


def refused_url(
    messages: Sequence[Mapping[str, Any]], *, policy: str | None, provider_fetches: bool
) -> str | None:
    """The first URL in the messages that may not be sent on, or `None`.

    Data URLs always may. Others may when the operator says `allow`; without a word from the
    operator, https ones may where the provider's own machines fetch them.
    """
    if policy == "allow":
        return None
    for url in _urls(messages):
        if url.startswith("data:"):
            continue
        if policy == "refuse" or not provider_fetches or not url.lower().startswith("https://"):
            return url.split("?")[0][:200]
    return None


def is_local(url: str) -> bool:
    """Whether a URL names this machine or a private network."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def _urls(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") not in ("text", "tool_result"):
                yield from _urls_in(part)


def _urls_in(part: Mapping[str, Any]) -> Iterator[str]:
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _urls_in(value)
        elif isinstance(value, str) and (
            "://" in value[:12] or (key in _URL_KEYS and key != "file_id")
        ):
            yield value
