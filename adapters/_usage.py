"""Read how many tokens a call used, from the words of each protocol into ours.

Nothing here goes through litellm, which turns what is missing into estimates that look real. Odd
shapes count as nothing said; whether the figures can be true is judged elsewhere.
"""

import math
from collections.abc import Mapping
from typing import Any

from adapters.types import Usage

Said = Mapping[str, Any]


def openai_usage(said: Said) -> Usage:
    """OpenAI's, Mistral's, and what compatible hosts make of it."""
    asked, answered = said.get("prompt_tokens_details"), said.get("completion_tokens_details")
    return Usage(
        prompt_tokens=_count(said, "prompt_tokens"),
        completion_tokens=_count(said, "completion_tokens"),
        cached_tokens=_count(asked, "cached_tokens") or _count(said, "prompt_cache_hit_tokens"),
        cache_write_tokens=_count(asked, "cache_write_tokens", "cache_creation_tokens")
        or _count(said, "cache_creation_input_tokens"),
        reasoning_tokens=_count(answered, "reasoning_tokens"),
    )


def anthropic_usage(said: Said) -> Usage:
    """Anthropic counts what it reads from its cache and writes to it apart from the rest."""
    cached = _count(said, "cache_read_input_tokens")
    written = _count(said, "cache_creation_input_tokens")
    return Usage(
        prompt_tokens=_count(said, "input_tokens") + cached + written,
        completion_tokens=_count(said, "output_tokens"),
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=_count(said.get("output_tokens_details"), "thinking_tokens"),
    )


def google_usage(said: Said) -> Usage:
    """Google counts thinking apart from the answer, unless the total says otherwise."""
    prompt = _count(said, "promptTokenCount") + _count(said, "toolUsePromptTokenCount")
    answered, thought = _count(said, "candidatesTokenCount"), _count(said, "thoughtsTokenCount")
    is_whole = prompt + answered == _count(said, "totalTokenCount")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answered if is_whole else answered + thought,
        cached_tokens=_count(said, "cachedContentTokenCount"),
        reasoning_tokens=thought,
    )


def cohere_usage(said: Said) -> Usage:
    """Cohere counts tokens, a preamble of its own among them, and bills fewer units."""
    counted, billed = said.get("tokens"), said.get("billed_units")
    prompt, completion = _count(billed, "input_tokens"), _count(billed, "output_tokens")
    return Usage(
        prompt_tokens=_count(counted, "input_tokens") or prompt,
        completion_tokens=_count(counted, "output_tokens") or completion,
        cached_tokens=_count(said, "cached_tokens"),
        reasoning_tokens=_count(counted, "reasoning_tokens"),
        billed_prompt_tokens=prompt or None,
        billed_completion_tokens=completion or None,
    )


def _count(place: Any, *names: str) -> int:
    """The first of these figures that is one."""
    values = [place.get(name) for name in names] if isinstance(place, Mapping) else []
    return next((count for value in values if (count := _as_count(value))), 0)


def _as_count(value: Any) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value < math.inf else 0
