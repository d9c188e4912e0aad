"""Cohere's chat, version 2."""

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
from orchestrator.simulator.openai import read_tools, read_turns, split_arguments
from orchestrator.simulator.reply import Event, EventKind
from orchestrator.simulator.wire_format import (
    DONE,
    WireFormat,
    count,
    event,
    integer,
    mapping,
    number,
    strings,
    take,
)

FINISH = {
    "stop": "COMPLETE",
    "stop_sequence": "STOP_SEQUENCE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR_TOXIC",
}
CHOICES = {"REQUIRED": "required", "NONE": "none"}
PREAMBLE_TOKENS = 480  # Cohere counts its own preamble in `tokens`, not in `billed_units`
# kind -> status, message
ERRORS: dict[ErrorKind, tuple[int, str]] = {
    "bad_request": (400, "invalid request"),
    "context": (
        400,
        (
            "too many tokens: total number of tokens in the prompt cannot exceed {context} - "
            "received {prompt}. Try using a shorter prompt."
        ),
    ),
    "prefill": (400, "invalid request: the last message must have the role 'user' or 'tool'."),
    "filtered": (400, "invalid request: the message was blocked by the content filter."),
    "auth": (
        401,
        (
            "Incorrect API key provided: {key}. You can find your API key at "
            "https://dashboard.cohere.com/api-keys."
        ),
    ),
    "forbidden": (403, "this API key may not access the model."),
    "not_found": (
        404,
        (
            "model '{model}' not found, make sure the correct model ID was used and that you have "
            "access to the model."
        ),
    ),
    "too_large": (413, "request entity too large"),
    "rate": (
        429,
        (
            "You are using a Production key, which is limited to {limit} API calls / minute. "
            "Please wait and try again later."
        ),
    ),
    "quota": (
        429,
        (
            "You are using a Trial key, which is limited to 1000 API calls / month. You can "
            "continue to use the Trial key for free or upgrade to a Production key with higher "
            "rate limits at 'https://dashboard.cohere.com/api-keys'."
        ),
    ),
    "server": (500, "internal server error, this has been reported to our developers."),
    "bad_gateway": (502, "bad gateway"),
    "unavailable": (503, "service unavailable, please try again later"),
    "overloaded": (529, "the service is overloaded, please try again later"),
}


class CohereFormat(WireFormat):
    """What https://api.cohere.com/v2/chat speaks."""

    provider = LLMProvider.COHERE
    stream_type = "text/event-stream"

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadAsk("invalid request: model is required.", param="model")
        wanted = mapping(body.get("response_format"), "response_format")
        schema = take(wanted, "json_schema", "schema")
        thinking = mapping(body.get("thinking"), "thinking").get("type", "disabled")
        choice = body.get("tool_choice")
        return Ask(
            provider=self.provider,
            model=model,
            turns=read_turns(body.get("messages")),
            streamed=bool(body.get("stream")),
            tools=read_tools(body.get("tools")),
            tool_choice=CHOICES.get(choice, "auto") if isinstance(choice, str) else "auto",
            json=wanted.get("type") == "json_object",
            schema=mapping(schema, "response_format.json_schema") if schema else None,
            max_tokens=count(body, "max_tokens"),
            temperature=number(body, "temperature", low=0, high=2),
            stop=strings(take(body, "stop_sequences"), "stop_sequences"),
            seed=integer(body, "seed"),
            thinks=thinking == "enabled",
        )

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        message: dict[str, Any] = {"role": "assistant"}
        if answer.calls:
            message["tool_plan"] = answer.text
            message["tool_calls"] = _calls(answer)
            if answer.reasoning:
                message["content"] = _thinking(answer)
        else:
            message["content"] = _content(answer)
        body: dict[str, Any] = {
            "id": _id(answer),
            "message": message,
            "finish_reason": FINISH[answer.finish],
        }
        if answer.tokens is not None:
            body["usage"] = _usage(answer.tokens)
        return orjson.dumps(body)

    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}
        start: dict[str, Any] = {"id": _id(answer), "type": "message-start"}
        start["delta"] = {"message": {**empty, "citations": []}}
        events = [_event("open", start)]
        index = 0
        if answer.reasoning:
            events += _block(index, "thinking", answer.thoughts)
            index += 1
        if answer.calls:
            events += [
                _typed("content", "tool-plan-delta", None, {"tool_plan": piece})
                for piece in answer.pieces
            ]
        elif answer.text:
            events += _block(index, "text", answer.pieces)
        for number_ in range(len(answer.calls)):
            events += _call_events(answer, number_)
        end: dict[str, Any] = {"finish_reason": FINISH[answer.finish]}
        if answer.tokens is not None:
            end["usage"] = _usage(answer.tokens)
        events.append(_event("finish", {"type": "message-end", "delta": end}))
        return [*events, DONE]

    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        return _typed("content", "content-delta", 0, {"content": {"text": text}}).data

    def refuse(self, wrong: Wrong) -> Refusal:
        status, message = ERRORS[wrong.kind]
        words = wrong.message or message.format(
            model=wrong.model,
            key=wrong.key or "***********",
            prompt=wrong.prompt_tokens,
            context=wrong.context_tokens,
            limit=wrong.allowance.limit_requests,
        )
        identity = "2d4609a6-d1f9-4cf4-8d09-000000000000"
        return Refusal(status=status, body={"id": identity, "message": words})

    def error_event(self, kind: ErrorKind) -> bytes:
        words = self.refuse(Wrong(kind=kind)).body["message"]
        delta = {"finish_reason": "ERROR", "error": words}
        return _event("error", {"type": "message-end", "delta": delta}).data

    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        about = {"endpoints": ["chat"], "finetuned": False, "context_length": 256_000}
        return {"models": [{"name": model, **about} for model in models]}

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        trace = answer.nonce[:32] if answer else "0" * 32
        headers = (
            ("cache-control", "no-cache, no-store, no-transform, must-revalidate, private"),
            ("x-debug-trace-id", trace),
        )
        if ask.streamed or answer is None:
            return headers
        return (
            *headers,
            ("num-chars", str(sum(len(turn.text) for turn in ask.turns))),
            ("num-tokens", str(ask.prompt_tokens())),
        )

    def limit_headers(self, allowance: Allowance) -> Headers:
        return (
            ("x-endpoint-monthly-call-limit", "1000"),
            ("x-trial-endpoint-call-limit", str(allowance.limit_requests)),
            ("x-trial-endpoint-call-remaining", str(allowance.remaining_requests)),
        )


def _content(answer: Answer) -> list[dict[str, Any]]:
    if answer.no_content:
        return []
    return [*_thinking(answer), {"type": "text", "text": answer.text}]


def _thinking(answer: Answer) -> list[dict[str, Any]]:
    return [{"type": "thinking", "thinking": answer.reasoning}] if answer.reasoning else []


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{call.name}_{answer.call_id(index, 12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": answer.arguments(index)},
        }
        for index, call in enumerate(answer.calls)
    ]


def _call_events(answer: Answer, index: int) -> list[Event]:
    call = answer.calls[index]
    opening = {
        "id": f"{call.name}_{answer.call_id(index, 12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    events = [_typed("content", "tool-call-start", index, {"tool_calls": opening})]
    for piece in split_arguments(answer.arguments(index)):
        delta = {"tool_calls": {"function": {"arguments": piece}}}
        events.append(_typed("content", "tool-call-delta", index, delta))
    return [*events, _event("open", {"type": "tool-call-end", "index": index})]


def _block(index: int, kind: str, pieces: Sequence[str]) -> list[Event]:
    opening = {"content": {"type": kind, kind: ""}}
    events = [_typed("open", "content-start", index, opening)]
    events += [
        _typed("content", "content-delta", index, {"content": {kind: piece}}) for piece in pieces
    ]
    return [*events, _event("open", {"type": "content-end", "index": index})]


def _typed(kind: EventKind, name: str, index: int | None, message: Mapping[str, Any]) -> Event:
    data: dict[str, Any] = {"type": name}
    if index is not None:
        data["index"] = index
    return _event(kind, data | {"delta": {"message": message}})


def _event(kind: EventKind, data: Mapping[str, Any]) -> Event:
    return Event(kind, event(data, name=str(data["type"])))


def _usage(tokens: Tokens) -> dict[str, Any]:
    real = tokens.prompt
    if isinstance(real, int) and real > 0:
        real += PREAMBLE_TOKENS
    billed = {"input_tokens": tokens.prompt, "output_tokens": tokens.completion}
    counted: dict[str, Any] = {"input_tokens": real, "output_tokens": tokens.completion}
    if tokens.reasoning:
        counted["reasoning_tokens"] = tokens.reasoning
    return {"billed_units": billed, "tokens": counted, "cached_tokens": tokens.cached}


def _id(answer: Answer) -> str:
    nonce = answer.nonce
    return f"{nonce[:8]}-{nonce[8:12]}-{nonce[12:16]}-{nonce[16:20]}-{nonce[20:32]}"
