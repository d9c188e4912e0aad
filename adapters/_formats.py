"""Read what a provider's JSON says about itself: is it an error, is it the end, whose usage.

Pure functions over parsed JSON, one `WireFormat` a protocol. They judge whether an answer can be
trusted; turning it into text and tool calls stays litellm's work.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters._usage import anthropic_usage, cohere_usage, google_usage, openai_usage
from adapters.types import Usage

Json = dict[str, Any]

TOKENS_MAX = 100_000_000  # no context window comes near; a larger figure is nonsense
_NOTHING: Json = {}


@dataclass(frozen=True, slots=True)
class WireError:
    """An error a provider reported in its own words."""

    message: str
    code: str = ""  # every machine-readable word of the error, in lower case
    status: int | None = None
    details: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """How to read one protocol. Every function takes a parsed body or one parsed event."""

    name: str
    finish: Callable[[Json], str | None]  # the provider's own finish reason, when this says one
    stop: Callable[[Json], Any] = lambda body: None  # which sequence has stopped it, likewise
    error: Callable[[Json], WireError | None]
    usage_holder: Callable[[Json], tuple[Json, str] | None]  # (object, key) where usage stands
    usage: Callable[[Json], Usage]  # what stands there
    model: Callable[[Json], str | None]
    is_last: Callable[[Json], bool] = lambda event: False  # nothing follows this event
    has_answer: Callable[[Json], bool]  # a plain body holds at least one candidate answer
    fault: Callable[[Json], str | None] = lambda body: None  # what breaks the protocol in it
    usage_key: str = "usage"  # of a plain body
    empty_usage: Any = None  # what replaces usage that is nonsense or missing


def read_error(body: Json) -> WireError | None:
    """The error in a body or event, in any of the shapes providers and gateways use."""
    error = body.get("error")
    if isinstance(error, Mapping) and error:
        return _from_object(error)
    if isinstance(error, str) and error:
        return WireError(error, _words(body.get("code"), body.get("type")), _status(body))
    if body.get("object") == "error" or body.get("type") == "error":
        return _from_object(body)
    return None


def _from_object(error: Mapping[str, Any]) -> WireError:
    words = _words(error.get("type"), error.get("code"), error.get("status"), error.get("reason"))
    details = error.get("details")
    return WireError(
        said(error.get("message")) or "the provider gave no reason",
        " ".join(part for part in (words, _words(*_reasons(details))) if part),
        _status(error),
        details,
    )


def said(message: Any, depth: int = 3) -> str:
    """The words of a message that may be an object or, as FastAPI has it, a list of faults."""
    if isinstance(message, str) or depth == 0:
        return message if isinstance(message, str) else ""
    if isinstance(message, Mapping):
        inner = message.get("msg") or message.get("detail") or message.get("message")
        words = said(inner, depth - 1)
        place = message.get("loc")
        at = ".".join(str(part) for part in place) if isinstance(place, list) else ""
        return f"{at}: {words}" if at and words else words
    if isinstance(message, list):
        return "; ".join(words for part in message if (words := said(part, depth - 1)))
    return ""


def _reasons(details: Any) -> Iterator[Any]:
    """The machine-readable words in an error's details: Google's list, Anthropic's object."""
    if isinstance(details, Mapping):
        yield from details.values()
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping):
            yield detail.get("reason")
            violations = detail.get("violations")
            for violation in violations if isinstance(violations, list) else ():
                if isinstance(violation, Mapping):
                    yield violation.get("quotaId")


def _words(*values: Any) -> str:
    return " ".join(str(v).lower() for v in values if isinstance(v, (str, int)) and v != "")


def _status(error: Mapping[str, Any]) -> int | None:
    for key in ("status_code", "raw_status_code", "code", "status"):
        value = error.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def _choices(body: Json) -> Iterator[Json]:
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            yield choice


def _openai_finish(body: Json) -> str | None:
    return next((str(c["finish_reason"]) for c in _choices(body) if c.get("finish_reason")), None)


def _openai_stop(body: Json) -> Any:
    """vLLM's word for it, and of those who followed it; OpenAI itself does not say."""
    return next((found for c in _choices(body) if (found := c.get("stop_reason"))), None)


def _openai_usage_holder(body: Json) -> tuple[Json, str] | None:
    if body.get("usage") is not None:
        return body, "usage"
    groq = body.get("x_groq")  # Groq's streams, unless asked for usage in OpenAI's way
    return (groq, "usage") if isinstance(groq, dict) and groq.get("usage") is not None else None


def _own_model(body: Json) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def split_parts(parts: list[Any]) -> tuple[str, str]:
    """The text and the reasoning in a list of content parts."""
    text, reasoning = [], []
    for part in parts:
        if isinstance(part, dict):
            text.append(str(part.get("text") or ""))
            inner = part.get("thinking")
            reasoning.append(split_parts(inner)[0] if isinstance(inner, list) else inner or "")
    return "".join(text), "".join(reasoning)


def _content_fault(body: Json) -> str | None:
    """Some hosts answer a JSON schema with an object where text belongs."""
    for choice in _choices(body):
        message = choice.get("message")
        if isinstance(message, dict) and isinstance(message.get("content"), dict):
            return "an object stands where the answer's text belongs"
    return None


def _anthropic_finish(body: Json) -> str | None:
    place = body.get("delta") if body.get("type") == "message_delta" else body
    reason = place.get("stop_reason") if isinstance(place, dict) else None
    return str(reason) if reason else None


def _anthropic_stop(body: Json) -> Any:
    place = body.get("delta") if body.get("type") == "message_delta" else body
    return place.get("stop_sequence") if isinstance(place, dict) else None


def _anthropic_usage_holder(body: Json) -> tuple[Json, str] | None:
    message = body.get("message")
    place = message if isinstance(message, dict) else body
    return (place, "usage") if place.get("usage") is not None else None


def _anthropic_model(body: Json) -> str | None:
    message = body.get("message")
    return _own_model(message if isinstance(message, dict) else body)


def _candidates(body: Json) -> Iterator[Json]:
    candidates = body.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        if isinstance(candidate, dict):
            yield candidate


def _blocked(body: Json) -> str | None:
    feedback = body.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return str(reason) if reason else None


def _google_finish(body: Json) -> str | None:
    reasons = (str(c["finishReason"]) for c in _candidates(body) if c.get("finishReason"))
    return next(reasons, None) or _blocked(body)


def _google_usage_holder(body: Json) -> tuple[Json, str] | None:
    return (body, "usageMetadata") if body.get("usageMetadata") is not None else None


def _google_model(body: Json) -> str | None:
    model = body.get("modelVersion")
    return model if isinstance(model, str) else None


def _cohere_finish(body: Json) -> str | None:
    place = body.get("delta") if body.get("type") == "message-end" else body
    reason = place.get("finish_reason") if isinstance(place, dict) else None
    return str(reason) if reason else None


def _cohere_error(body: Json) -> WireError | None:
    if (found := read_error(body)) is not None:
        return found
    message = body.get("message")
    if isinstance(message, str) and message:  # an answer holds an object there
        return WireError(message)
    if _cohere_finish(body) in ("ERROR", "ERROR_LIMIT", "TIMEOUT"):
        place = body.get("delta") or body
        reason = place.get("error")
        return WireError(str(reason) if reason else "the provider broke the answer off")
    return None


def _cohere_usage_holder(body: Json) -> tuple[Json, str] | None:
    delta = body.get("delta")
    place = delta if isinstance(delta, dict) else body
    return (place, "usage") if place.get("usage") is not None else None


OPENAI = WireFormat(
    name="openai",
    finish=_openai_finish,
    stop=_openai_stop,
    error=read_error,
    usage_holder=_openai_usage_holder,
    usage=openai_usage,
    model=_own_model,
    has_answer=lambda body: any("message" in choice for choice in _choices(body)),
    fault=_content_fault,
)
ANTHROPIC = WireFormat(
    name="anthropic",
    finish=_anthropic_finish,
    stop=_anthropic_stop,
    error=read_error,
    usage_holder=_anthropic_usage_holder,
    usage=anthropic_usage,
    model=_anthropic_model,
    is_last=lambda event: event.get("type") == "message_stop",
    has_answer=lambda body: isinstance(body.get("content"), list),
    empty_usage={"input_tokens": 0, "output_tokens": 0},
)
GOOGLE = WireFormat(
    name="google",
    finish=_google_finish,
    error=read_error,
    usage_holder=_google_usage_holder,
    usage=google_usage,
    model=_google_model,
    has_answer=lambda body: any(_candidates(body)) or _blocked(body) is not None,
    usage_key="usageMetadata",
    empty_usage={},
)
COHERE = WireFormat(
    name="cohere",
    finish=_cohere_finish,
    error=_cohere_error,
    usage_holder=_cohere_usage_holder,
    usage=cohere_usage,
    model=lambda body: None,  # Cohere does not say which model answered
    is_last=lambda event: event.get("type") == "message-end",
    has_answer=lambda body: isinstance(body.get("message"), dict),
    empty_usage={},
)


def is_plausible(usage: Any) -> bool:
    """Whether every figure of tokens in a usage object is one that a provider could mean.

    Other figures are not looked at: hosts put costs, times and flags beside the tokens.
    """
    return isinstance(usage, dict) and all(_plausible(key, value) for key, value in usage.items())


def _plausible(key: str, value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plausible(inner_key, inner) for inner_key, inner in value.items())
    if "token" not in key.lower() or key.lower().endswith("details") or value is None:
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0 <= value <= TOKENS_MAX
    return False
