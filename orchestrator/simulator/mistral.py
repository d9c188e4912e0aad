"""Mistral's chat completions."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.ask import (
    Allowance,
    Answer,
    Ask,
    BadAsk,
    ErrorKind,
    Headers,
    Refusal,
    Tokens,
    Wrong,
)
from orchestrator.simulator.openai import FINISH, openai_listing, read_chat
from orchestrator.simulator.reply import Event
from orchestrator.simulator.wire_format import DONE, WireFormat, event, refuse_unknown

_KNOWN_FIELDS = """
frequency_penalty guardrails max_tokens messages metadata model n parallel_tool_calls prediction
presence_penalty prompt_cache_key prompt_mode random_seed reasoning_effort response_format
safe_prompt stop stream stream_options temperature tool_choice tools top_p
"""
KNOWN = frozenset(_KNOWN_FIELDS.split())
# kind -> status, type, code, message
ERRORS: dict[ErrorKind, tuple[int, str, str | None, str]] = {
    "bad_request": (400, "invalid_request_error", None, "Invalid request."),
    "context": (
        400,
        "invalid_request_prompt",
        "3051",
        (
            "Prompt contains {prompt} tokens and 0 draft tokens, too large for model with "
            "{context} maximum context length"
        ),
    ),
    "prefill": (
        400,
        "invalid_request_message_order",
        "3230",
        (
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got "
            "assistant"
        ),
    ),
    "filtered": (400, "invalid_request_error", "1920", "The prompt was blocked by moderation."),
    "too_large": (413, "invalid_request_error", None, "Request entity too large"),
    "not_found": (400, "invalid_model", "1500", "Invalid model: {model}"),
    "rate": (429, "rate_limited", "1300", "Rate limit exceeded"),
    "quota": (429, "rate_limited", "1300", "Monthly usage limit reached"),
    "server": (500, "internal_server_error", "3000", "Internal server error"),
    "bad_gateway": (502, "internal_server_error", None, "Bad gateway."),
    "unavailable": (503, "internal_server_error", "3800", "Service unavailable."),
    "overloaded": (529, "internal_server_error", "3505", "Service tier capacity exceeded."),
}


class MistralFormat(WireFormat):
    """What https://api.mistral.ai/v1/chat/completions speaks."""

    provider = LLMProvider.MISTRAL

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        refuse_unknown(body, KNOWN, "Extra inputs are not permitted: {}")
        ask = read_chat(body, self.provider, seed_name="random_seed")
        if ask.prefilled and not body["messages"][-1].get("prefix"):
            raise BadAsk(ERRORS["prefill"][3], param="messages")
        return ask

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        choice = {
            "index": 0,
            "finish_reason": FINISH[answer.finish],
            "message": {
                "role": "assistant",
                "tool_calls": self._calls(answer) or None,
                "content": self._content(answer),
            },
        }
        body: dict[str, Any] = {
            "id": answer.nonce[:32],
            "created": answer.created,
            "model": answer.model,
        }
        if answer.tokens is not None:
            body["usage"] = _usage(answer.tokens)
        body["object"] = "chat.completion"
        body["choices"] = [] if answer.no_content == "absent" else [choice]
        return orjson.dumps(body)

    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        if answer.no_content == "absent":
            return [Event("open", event(_frame(answer) | {"choices": []})), DONE]
        opening = _chunk(answer, {"role": "assistant", "content": ""})
        events = [Event("open", event(opening))]
        for index, thought in enumerate(answer.thoughts):
            part: dict[str, Any] = {"type": "thinking"}
            part["thinking"] = [{"type": "text", "text": thought}]
            if index:
                part["closed"] = True
            events.append(Event("content", event(_chunk(answer, {"content": [part]}))))
        events += [
            Event("content", self.content_event(ask, answer, piece)) for piece in answer.pieces
        ]
        last: dict[str, Any] = {"content": ""}
        if answer.calls:
            last = {"tool_calls": self._calls(answer)}
        closing = _chunk(answer, last, finish=FINISH[answer.finish])
        if answer.tokens is not None:
            closing["usage"] = _usage(answer.tokens)
        return [*events, Event("finish", event(closing)), DONE]

    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        padding = "abcdefghijklmnopqrstuvwxyz"[: 4 + len(text) * 7 % 20]
        return event(_chunk(answer, {"content": text}) | {"p": padding})

    def refuse(self, wrong: Wrong) -> Refusal:
        if wrong.kind == "auth":
            detail = f"Unauthorized: {wrong.key}" if wrong.key else "Unauthorized"
            return Refusal(status=401, body={"detail": detail})
        if wrong.kind == "forbidden":
            return Refusal(status=403, body={"detail": "Forbidden"})
        status, kind, code, message = ERRORS[wrong.kind]
        words = wrong.message or message.format(
            model=wrong.model, prompt=wrong.prompt_tokens, context=wrong.context_tokens
        )
        body: dict[str, Any] = {
            "object": "error",
            "message": words,
            "type": kind,
            "param": None,
            "code": code,
        }
        if status >= 500:
            body["raw_status_code"] = status
        return Refusal(status=status, body=body)

    def error_event(self, kind: ErrorKind) -> bytes:
        return event(self.refuse(Wrong(kind=kind)).body)

    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        return openai_listing(models)

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        nonce = answer.nonce if answer else "0" * 32
        identity = f"{nonce[:8]}-{nonce[8:12]}-{nonce[12:16]}-{nonce[16:20]}-{nonce[20:32]}"
        headers = (("mistral-correlation-id", identity), ("x-kong-request-id", identity))
        return headers if ask.streamed else (*headers, *self.limit_headers(allowance))

    def limit_headers(self, allowance: Allowance) -> Headers:
        return (
            ("x-ratelimit-limit-req-minute", str(allowance.limit_requests)),
            ("x-ratelimit-limit-tokens-minute", str(allowance.limit_tokens)),
            ("x-ratelimit-remaining-req-minute", str(allowance.remaining_requests)),
            ("x-ratelimit-remaining-tokens-minute", str(allowance.remaining_tokens)),
        )

    def _content(self, answer: Answer) -> Any:
        if answer.no_content:
            return None
        if not answer.reasoning:
            return answer.text
        thinking = {
            "type": "thinking",
            "thinking": [{"type": "text", "text": answer.reasoning}],
            "closed": True,
        }
        return [thinking, {"type": "text", "text": answer.text}]

    def _calls(self, answer: Answer) -> list[dict[str, Any]]:
        return [
            {
                "id": answer.call_id(index, 9),
                "type": "function",
                "function": {"name": call.name, "arguments": answer.arguments(index)},
                "index": index,
            }
            for index, call in enumerate(answer.calls)
        ]


def _frame(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.nonce[:32],
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.model,
    }


def _chunk(
    answer: Answer, delta: Mapping[str, Any], *, finish: str | None = None
) -> dict[str, Any]:
    return _frame(answer) | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.prompt,
        "total_tokens": tokens.total,
        "completion_tokens": tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "service_tier": "standard",
    }
