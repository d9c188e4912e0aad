"""Which wire format an address belongs to, and what it asks of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from adapters.config import LLMProvider
from orchestrator.simulator.anthropic import AnthropicFormat
from orchestrator.simulator.cohere import CohereFormat
from orchestrator.simulator.embeddings import EMBEDDINGS
from orchestrator.simulator.google import GoogleFormat
from orchestrator.simulator.mistral import MistralFormat
from orchestrator.simulator.openai import CustomFormat, OpenAIFormat
from orchestrator.simulator.wire_format import WireFormat

FORMATS: dict[LLMProvider, WireFormat] = {
    LLMProvider.OPENAI: OpenAIFormat(),
    LLMProvider.ANTHROPIC: AnthropicFormat(),
    LLMProvider.GOOGLE: GoogleFormat(),
    LLMProvider.COHERE: CohereFormat(),
    LLMProvider.MISTRAL: MistralFormat(),
    LLMProvider.CUSTOM: CustomFormat(),
}
BASES: dict[LLMProvider, str] = {
    LLMProvider.OPENAI: "/openai/v1",
    LLMProvider.ANTHROPIC: "/anthropic",
    LLMProvider.GOOGLE: "/google",
    LLMProvider.COHERE: "/cohere",
    LLMProvider.MISTRAL: "/mistral/v1",
    LLMProvider.CUSTOM: "/custom/v1",
}
HOSTS: dict[str, LLMProvider] = {
    "api.openai.com": LLMProvider.OPENAI,
    "api.anthropic.com": LLMProvider.ANTHROPIC,
    "generativelanguage.googleapis.com": LLMProvider.GOOGLE,
    "api.cohere.com": LLMProvider.COHERE,
    "api.cohere.ai": LLMProvider.COHERE,
    "api.mistral.ai": LLMProvider.MISTRAL,
}
ELSEWHERE = "/elsewhere"  # where redirects lead: answered like any other address

_GEMINI = re.compile(
    r"(?:/(?P<version>v1|v1beta|v1alpha))?/models/(?P<model>[^:]+):"
    r"(?P<method>generateContent|streamGenerateContent|batchEmbedContents)"
)
_CHAT: dict[LLMProvider, re.Pattern[str]] = {
    LLMProvider.OPENAI: re.compile(r"(?:/v1)?/chat/completions"),
    LLMProvider.CUSTOM: re.compile(r"(?:/v1)?/chat/completions"),
    LLMProvider.MISTRAL: re.compile(r"(?:/v1)?/chat/completions"),
    LLMProvider.ANTHROPIC: re.compile(r"(?:/v1)?/messages"),
    LLMProvider.COHERE: re.compile(r"(?:/v2)?/chat"),
    LLMProvider.GOOGLE: _GEMINI,
}
_EMBEDDING: dict[LLMProvider, re.Pattern[str]] = {
    LLMProvider.OPENAI: re.compile(r"(?:/v1)?/embeddings"),
    LLMProvider.CUSTOM: re.compile(r"(?:/v1)?/embeddings"),
    LLMProvider.MISTRAL: re.compile(r"(?:/v1)?/embeddings"),
    LLMProvider.COHERE: re.compile(r"(?:/v2)?/embed"),
    LLMProvider.GOOGLE: re.compile(r"(?:/v1|/v1beta|/v1alpha)?/models/[^:]+:batchEmbedContents"),
}
_LISTING = re.compile(r"(?:/v1|/v1beta|/v1alpha|/v2)?/models")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `about` is what the address says: model, method, version."""

    wire: WireFormat
    action: Literal["complete", "list", "unknown"]
    about: Mapping[str, str] = field(default_factory=dict)
    directives: tuple[str, ...] = ()


def find_route(method: str, path: str, host: str) -> Route:
    """The route for an address; `unknown` in the wire format that is the likeliest."""
    directives: tuple[str, ...] = ()
    if path.startswith("/~"):
        head, _, rest = path[2:].partition("/")
        directives, path = tuple(head.split("~")), "/" + rest
    path = path.removeprefix(ELSEWHERE)
    provider, rest = _provider(path, host.partition(":")[0].lower())
    wire = FORMATS[provider]
    if method == "GET" and _LISTING.fullmatch(rest):
        return Route(wire, "list", directives=directives)
    match = _CHAT[provider].fullmatch(rest)
    embedding = _EMBEDDING.get(provider)
    if embedding is not None and (found := embedding.fullmatch(rest)):
        wire, match = EMBEDDINGS[provider], match or found
    if match is None or method != "POST":
        return Route(wire, "unknown", directives=directives)
    about = {name: value or "v1beta" for name, value in match.groupdict().items()}
    return Route(wire, "complete", about, directives)


def _provider(path: str, host: str) -> tuple[LLMProvider, str]:
    first, _, rest = path[1:].partition("/")
    if first in FORMATS:
        return LLMProvider(first), "/" + rest
    if _GEMINI.fullmatch(path):
        return LLMProvider.GOOGLE, path
    if path in ("/v1/messages", "/messages"):
        return LLMProvider.ANTHROPIC, path
    if path in ("/v2/chat", "/v2/embed"):
        return LLMProvider.COHERE, path
    return HOSTS.get(host, LLMProvider.OPENAI), path


def key_of(provider: LLMProvider, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key a request carries in its provider's way, or nothing."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else ""
    if provider is LLMProvider.ANTHROPIC:
        return headers.get("x-api-key", "") or key
    if provider is LLMProvider.GOOGLE:
        return headers.get("x-goog-api-key", "") or query.get("key", "") or key
    return key
