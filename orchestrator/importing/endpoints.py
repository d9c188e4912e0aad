"""Decide which provider of ours serves what another system calls by its own prefix."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a prefix leads.

    Attributes:
        provider: Our name of the provider.
        base: The address, where the provider does not know it by itself.
        path: What an address must end in.
        key: The variable that holds the key where the file names none.
        is_free: Whether calls cost nothing.
        caveat: What to look at.
    """

    provider: str
    base: str | None = None
    path: str = ""
    key: str = ""
    is_free: bool = False
    caveat: str = ""


def _compatible(base: str, key: str) -> Endpoint:
    return Endpoint("custom", base, key=key)


_SERVER = Endpoint("custom")
_OLLAMA = Endpoint("custom", "http://127.0.0.1:11434/v1", path="/v1", is_free=True)
_AZURE = Endpoint(
    "custom",
    "${AZURE_API_BASE}/openai/v1",
    path="/openai/v1",
    key="AZURE_API_KEY",
    caveat="Azure is asked at its OpenAI-compatible address; model is the name of the deployment"
    " there, and price is best written",
)
_VERTEX = Endpoint(
    "google",
    caveat="Vertex AI's project and account are not used: Gemini is asked with GEMINI_API_KEY",
)

ENDPOINTS: Mapping[str, Endpoint] = {
    "openai": Endpoint("openai"),
    "chatgpt": Endpoint("openai"),
    "anthropic": Endpoint("anthropic"),
    "claude": Endpoint("anthropic"),
    "gemini": Endpoint("google"),
    "google": Endpoint("google"),
    "vertex_ai": _VERTEX,
    "vertex_ai_beta": _VERTEX,
    "cohere": Endpoint("cohere"),
    "cohere_chat": Endpoint("cohere"),
    "mistral": Endpoint("mistral"),
    "azure": _AZURE,
    "azure_ai": _AZURE,
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "custom": _SERVER,
    "custom_openai": _SERVER,
    "openai_like": _SERVER,
    "hosted_vllm": _SERVER,
    "vllm": _SERVER,
    "lm_studio": _SERVER,
    "llamafile": _SERVER,
    "xinference": _SERVER,
    "litellm_proxy": _SERVER,
    "cerebras": _compatible("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "codestral": _compatible("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "deepinfra": _compatible("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": _compatible("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": _compatible("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "groq": _compatible("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "nvidia_nim": _compatible("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "openrouter": _compatible("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": _compatible("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": _compatible("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": _compatible("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": _compatible("https://api.x.ai/v1", "XAI_API_KEY"),
}

# Whose model it is where nothing but its id is given.
_BY_ID: tuple[tuple[str, str], ...] = (
    (r"(gpt-|chatgpt-|o\d\b)", "openai"),
    (r"claude-", "anthropic"),
    (r"gemini-", "gemini"),
    (r"command-|c4ai-", "cohere"),
    (r"(open-)?(mistral|mixtral|ministral|magistral|pixtral|devstral)-", "mistral"),
    (r"codestral-", "mistral"),
)


def split(model: str, provider: str | None) -> tuple[str, str]:
    """The prefix and the provider's own id of `azure/gpt-4o`; an empty prefix where none is.

    Args:
        model: As the file has it.
        provider: The prefix, where the file gives it apart.

    >>> split("azure/gpt-4o", None), split("claude-haiku-4-5", None), split("a/b", "openrouter")
    (('azure', 'gpt-4o'), ('anthropic', 'claude-haiku-4-5'), ('openrouter', 'a/b'))
    """
    prefix, slash, rest = model.partition("/")
    if provider:
        return provider, rest if slash and prefix == provider else model
    if slash:
        return prefix, rest
    guessed = (prefix for pattern, prefix in _BY_ID if re.match(pattern, model))
    return next(guessed, ""), model


def endpoint_of(prefix: str, base: str | None, model: str) -> Endpoint | None:
    """Where a prefix leads, given the address that the file may have; None where nobody knows."""
    if not prefix and base:
        return _SERVER
    if prefix in {"openai", "chatgpt"} and base and "//api.openai.com" not in base:
        return _SERVER  # how other systems write any endpoint that speaks like OpenAI
    if prefix.startswith("vertex_ai") and not model.startswith("gemini"):
        return None
    if prefix == "azure_ai" and model.startswith("claude"):
        return None  # it is served there by Anthropic's protocol alone
    return ENDPOINTS.get(prefix)


def address(endpoint: Endpoint, base: str | None) -> str | None:
    """The address to write: the file's with what it must end in, else the one that is known.

    >>> address(ENDPOINTS["azure"], "https://eu.openai.azure.com/")
    'https://eu.openai.azure.com/openai/v1'
    """
    if base is None or not endpoint.path:
        return base or endpoint.base
    first = "/" + endpoint.path.split("/")[1]
    cut = re.sub(rf"(?<=[^/:]){re.escape(first)}(/.*)?$", "", base.rstrip("/"))
    return cut.rstrip("/") + endpoint.path
