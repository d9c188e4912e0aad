"""Turn litellm's answers into ours. Duck-typed and pure: litellm is not imported here."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isfinite
from typing import Any, Literal

from adapters._formats import split_parts
from adapters._surrogates import whole
from adapters.types import Chunk, FinishReason, Logprob, ToolCall, ToolCallDelta, Usage

_THINK, _END_THINK = "<think>", "</think>"
# Text of more bytes a token than any tokenizer makes, beyond a little slack for short answers,
# was not written with so few tokens. Real answers have 2 to 6.
TOKEN_BYTES_MAX = 16
SLACK_BYTES = 64

_FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "complete", "eos", "end"), "stop"),
    **dict.fromkeys(("pause_turn", "finish_reason_stop"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("model_context_window_exceeded",), "length"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "error_toxic",
            "safety",
            "refusal",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "image_safety",
            "image_prohibited_content",
            "jailbreak",
            "guardrail_intervened",
            "language",
            "blocked_reason_unspecified",
            "block_reason_unspecified",
            "other",
        ),
        "content_filter",
    ),
}
# The provider itself says that what it sent is no answer.
_FAILED = frozenset(
    (
        *("error", "abort", "aborted", "cancelled", "insufficient_system_resource"),
        *("malformed_function_call", "malformed_response", "missing_thought_signature"),
        *("unexpected_tool_call", "too_many_tool_calls"),
    )
)


def finish_reason(said: str, *, has_tool_calls: bool, has_text: bool) -> FinishReason | None:
    """Our word for a provider's finish reason; `None` when it means that the answer failed.

    A word nobody knows is "length": the answer may be cut, so it is not called complete.
    """
    word = said.lower()
    if word in _FAILED:
        return None
    known = _FINISH.get(word, "length")
    if known == "stop" and has_tool_calls:  # Gemini and some gateways
        return "tool_calls"
    if known == "tool_calls" and not has_tool_calls and has_text:  # a schema sent as a tool
        return "stop"
    return known


def believable(usage: Usage | None, *, written: str, count: Callable[[], tuple[int, int]]) -> Usage:
    """The provider's usage, or an estimate where it sent none or none that can be true.

    Args:
        usage: What the provider sent, if it was plausible at all.
        written: What the model wrote, without reasoning, which not every provider counts.
        count: Our own count of prompt and completion tokens, made only when it is needed.
    """
    known = usage or Usage()
    least = max(0, len(written.encode("utf-8", "replace")) - SLACK_BYTES) // TOKEN_BYTES_MAX
    least = max(least, 1 if written else 0)
    if known.billed_completion_tokens is not None and known.billed_completion_tokens < least:
        known = replace(known, billed_prompt_tokens=None, billed_completion_tokens=None)
    if not known.prompt_tokens or known.completion_tokens < least:
        prompt, completion = count()
        known = replace(
            known,
            prompt_tokens=max(known.prompt_tokens, prompt),  # one untrue figure, and who knows
            completion_tokens=max(known.completion_tokens, completion),
            estimated=True,
        )
    cached = min(known.cached_tokens, known.prompt_tokens)
    written_tokens = min(known.cache_write_tokens, known.prompt_tokens - cached)
    return replace(known, cached_tokens=cached, cache_write_tokens=written_tokens)


def read_chunk(chunk: Any) -> Chunk:
    """One piece of a stream: text, reasoning, tool calls. The rest is read from the wire."""
    choice = next(iter(_get(chunk, "choices") or ()), None)
    delta = _get(choice, "delta")
    if delta is None:
        return Chunk(text=_get(chunk, "text") or "")
    return Chunk(
        text=_written(delta),
        reasoning=_reasoning(delta),
        tool_calls=tuple(_deltas(_get(delta, "tool_calls") or ())),
        logprobs=_logprobs(choice),
    )


def _deltas(calls: Iterable[Any]) -> Iterable[ToolCallDelta]:
    for position, call in enumerate(calls):
        function = _get(call, "function")
        index = _get(call, "index")
        index = position if index is None else int(index)
        name = as_text(_get(function, "name")) or None
        yield ToolCallDelta(
            index=index,
            id=as_id(_get(call, "id")) or (f"call_{index}" if name else None),
            name=name,
            arguments=as_arguments(_get(function, "arguments")),
        )


class Reader:
    """Turns the pieces of one stream into chunks: what they say, as it stands."""

    def read(self, piece: Any) -> Chunk:
        """One piece."""
        return read_chunk(piece)

    def end(self) -> Chunk:
        """What was held back until the stream was over."""
        return Chunk()


class ThinkingReader(Reader):
    """Moves thinking that stands in the text between think tags to where thinking belongs."""

    def __init__(self) -> None:
        self._tags = ThinkTags()

    def read(self, piece: Any) -> Chunk:
        chunk = read_chunk(piece)
        if not chunk.text:
            return chunk
        text, reasoning = self._tags.feed(chunk.text)
        return replace(chunk, text=text, reasoning=chunk.reasoning + reasoning)

    def end(self) -> Chunk:
        text, reasoning = self._tags.end()
        return Chunk(text=text, reasoning=reasoning)


class ThinkTags:
    """Splits a text that begins with `<think>...</think>`, in pieces of any size."""

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["before", "inside", "gap", "after"] = "before"

    def feed(self, piece: str) -> tuple[str, str]:
        """What is certain by now of the text and of the reasoning."""
        if self._state == "gap" and (piece := piece.lstrip("\n")):
            self._state = "after"
        if self._state in ("gap", "after"):
            return piece, ""
        self._held += piece
        if self._state == "before":
            start = self._held.lstrip()
            if len(start) < len(_THINK) and _THINK.startswith(start):
                return "", ""
            if not start.startswith(_THINK):
                text, self._held, self._state = self._held, "", "after"
                return text, ""
            self._held, self._state = start.removeprefix(_THINK), "inside"
        reasoning, tag, text = self._held.partition(_END_THINK)
        if tag:
            self._held, self._state = "", "gap"
            return self.feed(text)[0], reasoning
        certain = len(self._held) - len(_END_THINK) + 1  # a tag may have begun in the rest
        reasoning, self._held = self._held[: max(certain, 0)], self._held[max(certain, 0) :]
        return "", reasoning

    def end(self) -> tuple[str, str]:
        """The rest. Thinking that never ended is still thinking."""
        held, self._held = self._held, ""
        return ("", held) if self._state == "inside" else (held, "")


def split_thinking(text: str) -> tuple[str, str]:
    """The text and the reasoning of a whole answer."""
    tags = ThinkTags()
    first, rest = tags.feed(text), tags.end()
    return first[0] + rest[0], first[1] + rest[1]


def read_message(response: Any) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Text, reasoning and tool calls of a plain answer."""
    choice = next(iter(_get(response, "choices") or ()), None)
    message = _get(choice, "message")
    calls = tuple(
        ToolCall(
            id=as_id(_get(call, "id")) or f"call_{position}",
            name=as_text(_get(_get(call, "function"), "name")),
            arguments=as_arguments(_get(_get(call, "function"), "arguments")),
        )
        for position, call in enumerate(_get(message, "tool_calls") or ())
    )
    return _written(message), _reasoning(message), calls


def read_logprobs(response: Any) -> tuple[Logprob, ...]:
    """How probable each token of a plain answer was; nothing where that is not told."""
    return _logprobs(next(iter(_get(response, "choices") or ()), None))


def _logprobs(choice: Any) -> tuple[Logprob, ...]:
    """Those of a choice, or of its piece, in OpenAI's shape: what is not in it is left out."""
    told = _get(choice, "logprobs")
    if told is None:
        return ()
    listed = _get(told, "content") or _get(told, "refusal")
    if not isinstance(listed, list):  # older hosts have parallel lists there
        return ()
    return tuple(
        {**token, "top_logprobs": [one for one in map(_token, _listed(item)) if one is not None]}
        for item in listed
        if (token := _token(item)) is not None
    )


def _listed(item: Any) -> list[Any]:
    others = _get(item, "top_logprobs")
    return others if isinstance(others, list) else []


def _token(item: Any) -> Logprob | None:
    token, logprob, spelt = (_get(item, name) for name in ("token", "logprob", "bytes"))
    if not isinstance(token, str) or isinstance(logprob, bool):
        return None
    if not isinstance(logprob, (int, float)) or not isfinite(logprob):
        return None
    is_spelt = isinstance(spelt, list) and all(type(one) is int for one in spelt)
    return {
        "token": whole(token),
        "logprob": float(logprob),
        "bytes": list(spelt) if is_spelt else None,
    }


def as_text(value: Any) -> str:
    """Text where text belongs.

    Raises:
        TypeError: something else stands there.
    """
    if value is None or isinstance(value, str):
        return value or ""
    raise TypeError(f"text was expected, not {type(value).__name__}")


def as_id(value: Any) -> str | None:
    """The id of a tool call; some hosts send none, or a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return as_text(value) or None


def as_arguments(value: Any) -> str:
    """JSON text; some hosts send the object itself."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else as_text(value)


def is_json_object(text: str) -> bool:
    """Whether tool-call arguments are whole. No arguments at all count as whole."""
    if not text.strip():
        return True
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _written(place: Any) -> str:
    """What a message says: its content, or the words in which the model refused to answer."""
    return _text(_get(place, "content")) or _text(_get(place, "refusal"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return split_parts(content)[0] if isinstance(content, list) else ""


def _reasoning(place: Any) -> str:
    for name in ("reasoning_content", "reasoning"):
        found = _get(place, name)
        if isinstance(found, str) and found:
            return found
    content = _get(place, "content")
    return split_parts(content)[1] if isinstance(content, list) else ""


def _get(place: Any, name: str) -> Any:
    """A field of an object or of a mapping; `None` where there is none."""
    if place is None:
        return None
    return place.get(name) if isinstance(place, dict) else getattr(place, name, None)
