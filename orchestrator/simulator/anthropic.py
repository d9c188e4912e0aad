"""Anthropic's messages."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
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
    Role,
    Tokens,
    Tool,
    Turn,
    Wrong,
)
from orchestrator.simulator.openai import split_arguments
from orchestrator.simulator.reply import Event, EventKind
from orchestrator.simulator.wire_format import (
    WireFormat,
    count,
    event,
    mapping,
    number,
    refuse_unknown,
    sequence,
    strings,
    take,
    text_of,
)

_KNOWN_FIELDS = """
cache_control container context_management inference_geo max_tokens mcp_servers messages
metadata model output_config output_format service_tier speed stop_sequences stream system
temperature thinking tool_choice tools top_k top_p
"""
KNOWN = frozenset(_KNOWN_FIELDS.split())
STOP_REASONS = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# kind -> status, type, message
ERRORS: dict[ErrorKind, tuple[int, str, str]] = {
    "bad_request": (400, "invalid_request_error", "Invalid request."),
    "context": (
        400,
        "invalid_request_error",
        "prompt is too long: {prompt} tokens > {context} maximum",
    ),
    "prefill": (
        400,
        "invalid_request_error",
        (
            "This model does not support assistant message prefill. The conversation must end with "
            "a user message."
        ),
    ),
    "filtered": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "auth": (401, "authentication_error", "invalid x-api-key{key}"),
    "forbidden": (
        403,
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
    ),
    "not_found": (404, "not_found_error", "model: {model}"),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size"),
    "rate": (
        429,
        "rate_limit_error",
        (
            "This request would exceed your organization's rate limit of {limit} {which} per "
            "minute. For details, refer to: https://docs.claude.com/en/api/rate-limits."
        ),
    ),
    "quota": (
        429,
        "rate_limit_error",
        (
            "You have reached your API usage limits: your organization has crossed its monthly API "
            "usage threshold, set based on your organization's API tier. You will regain access on "
            "2027-01-01 at 00:00 UTC."
        ),
    ),
    "server": (500, "api_error", "Internal server error"),
    "bad_gateway": (502, "api_error", "Bad gateway"),
    "unavailable": (503, "api_error", "Service temporarily unavailable"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}


class AnthropicFormat(WireFormat):
    """What https://api.anthropic.com/v1/messages speaks."""

    provider = LLMProvider.ANTHROPIC
    comment = b'event: ping\ndata: {"type": "ping"}\n\n'

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        refuse_unknown(body, KNOWN, "{}: Extra inputs are not permitted")
        for name in ("model", "max_tokens", "messages"):
            if body.get(name) in (None, ""):
                raise BadAsk(f"{name}: Field required", param=name)
        choice = mapping(body.get("tool_choice"), "tool_choice")
        wanted = _json_format(body)
        thinking = mapping(body.get("thinking"), "thinking").get("type", "disabled")
        return Ask(
            provider=self.provider,
            model=str(body["model"]),
            turns=_turns(body),
            streamed=bool(body.get("stream")),
            tools=_tools(body.get("tools")),
            tool_choice=str(
                choice.get("name") or CHOICES.get(str(choice.get("type", "auto")), "auto")
            ),
            parallel=not choice.get("disable_parallel_tool_use"),
            json=wanted is not None,
            schema=wanted,
            max_tokens=count(body, "max_tokens"),
            temperature=number(body, "temperature", low=0, high=1),
            stop=strings(body.get("stop_sequences"), "stop_sequences"),
            thinks=thinking != "disabled",
        )

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        body: dict[str, Any] = {
            "model": answer.model,
            "id": _id(answer),
            "type": "message",
            "role": "assistant",
            "content": _blocks(answer),
            "stop_reason": STOP_REASONS[answer.finish],
            "stop_sequence": answer.stop_sequence,
            "stop_details": None,
        }
        if answer.tokens is not None:
            body["usage"] = _whole_usage(answer.tokens, answer.tokens.completion)
        return orjson.dumps(body)

    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        events = [self._named("open", "message_start", self._message_start(answer))]
        index = 0
        if answer.reasoning:
            deltas: list[dict[str, Any]] = [
                {"type": "thinking_delta", "thinking": thought} for thought in answer.thoughts
            ]
            deltas.append({"type": "signature_delta", "signature": _signature(answer)})
            opening: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
            events += self._block(index, opening, deltas)
            index += 1
        if answer.text:
            deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
            events += self._block(index, {"type": "text", "text": ""}, deltas)
            index += 1
        for number_, _ in enumerate(answer.calls):
            opening = _tool_use(answer, number_) | {"input": {}}
            pieces = ["", *split_arguments(answer.arguments(number_))]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            events += self._block(index, opening, deltas)
            index += 1
        if len(events) > 1:
            events.insert(2, Event("open", self.comment))
        finish: dict[str, Any] = {
            "type": "message_delta",
            "delta": {
                "stop_reason": STOP_REASONS[answer.finish],
                "stop_sequence": answer.stop_sequence,
                "stop_details": None,
            },
        }
        if answer.tokens is not None:
            finish["usage"] = _usage(answer.tokens, answer.tokens.completion)
        events.append(self._named("finish", "message_delta", finish))
        events.append(self._named("done", "message_stop", {"type": "message_stop"}))
        return events

    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        data = {"type": "content_block_delta", "index": 0, "delta": delta}
        return self._named("content", "content_block_delta", data).data

    def refuse(self, wrong: Wrong) -> Refusal:
        status, kind, message = ERRORS[wrong.kind]
        allowance = wrong.allowance
        by_tokens = allowance.which == "tokens"
        words = wrong.message or message.format(
            model=wrong.model,
            key=f": {wrong.key}" if wrong.key else "",
            prompt=wrong.prompt_tokens,
            context=wrong.context_tokens,
            which="input tokens" if by_tokens else "requests",
            limit=allowance.limit_tokens if by_tokens else allowance.limit_requests,
        )
        error: dict[str, Any] = {"type": kind, "message": words}
        if wrong.kind == "quota":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        body = {"type": "error", "error": error, "request_id": "req_011CsimulatedRequest"}
        retry = "true" if status in (429, 529) or status >= 500 else "false"
        return Refusal(status=status, body=body, headers=(("x-should-retry", retry),))

    def error_event(self, kind: ErrorKind) -> bytes:
        _, error_type, message = ERRORS[kind]
        words = message.format(model="", key="", prompt=0, context=0, which="requests", limit=50)
        data = {"type": "error", "error": {"type": error_type, "message": words}}
        return event(data, name="error")

    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        about = {"type": "model", "created_at": "2026-01-01T00:00:00Z"}
        listed = [{**about, "id": model, "display_name": model} for model in models]
        first, last = (models[0], models[-1]) if models else (None, None)
        return {"data": listed, "has_more": False, "first_id": first, "last_id": last}

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        nonce = answer.nonce if answer else "0" * 24
        request_id = ("request-id", f"req_011C{nonce[:20]}")
        if ask.streamed:
            return (request_id, ("cache-control", "no-cache"), *self.limit_headers(allowance))
        return (request_id, *self.limit_headers(allowance))

    def limit_headers(self, allowance: Allowance) -> Headers:
        requests_at = _instant(allowance.reset_requests_s)
        tokens_at = _instant(allowance.reset_tokens_s)
        headers = [
            ("anthropic-ratelimit-requests-limit", str(allowance.limit_requests)),
            ("anthropic-ratelimit-requests-remaining", str(allowance.remaining_requests)),
            ("anthropic-ratelimit-requests-reset", requests_at),
        ]
        for which in ("input-tokens", "output-tokens", "tokens"):
            headers += [
                (f"anthropic-ratelimit-{which}-limit", str(allowance.limit_tokens)),
                (f"anthropic-ratelimit-{which}-remaining", str(allowance.remaining_tokens)),
                (f"anthropic-ratelimit-{which}-reset", tokens_at),
            ]
        if allowance.retry_after_s is not None:
            headers.append(("retry-after", str(ceil(allowance.retry_after_s))))
        return tuple(headers)

    def _message_start(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {
            "model": answer.model,
            "id": _id(answer),
            "type": "message",
            "role": "assistant",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
        }
        if answer.tokens is not None:
            message["usage"] = _whole_usage(answer.tokens, 1)
        return {"type": "message_start", "message": message}

    def _block(
        self, index: int, opening: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]]
    ) -> list[Event]:
        name = "content_block_start"
        start = {"type": name, "index": index, "content_block": opening}
        events = [self._named("open", name, start)]
        name = "content_block_delta"
        for delta in deltas:
            data = {"type": name, "index": index, "delta": delta}
            events.append(self._named("content", name, data))
        name = "content_block_stop"
        return [*events, self._named("open", name, {"type": name, "index": index})]

    def _named(self, kind: EventKind, name: str, data: Mapping[str, Any]) -> Event:
        return Event(kind, event(data, name=name))


def _turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    system, images = text_of(body.get("system"), "system")
    if system:
        turns.append(Turn("system", system, images))
    found = sequence(body.get("messages"), "messages")
    if not found:
        raise BadAsk("messages: at least one message is required", param="messages")
    for index, message in enumerate(found):
        message = mapping(message, f"messages.{index}")
        if message.get("role") not in ("user", "assistant"):
            raise BadAsk(
                f"messages.{index}.role: Input should be 'user' or 'assistant'", param="messages"
            )
        content = message.get("content")
        text, images = text_of(content, f"messages.{index}.content")
        parts = content if isinstance(content, list) else []
        role: Role = "assistant" if message["role"] == "assistant" else "user"
        if any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts):
            role = "tool"
        turns.append(Turn(role, text, images))
    if turns[-1].role == "assistant" and turns[-1].text != turns[-1].text.rstrip():
        words = "messages: final assistant content cannot end with trailing whitespace"
        raise BadAsk(words, param="messages")
    return tuple(turns)


def _tools(tools: Any) -> tuple[Tool, ...]:
    found = []
    for index, tool in enumerate(sequence(tools, "tools")):
        tool = mapping(tool, f"tools.{index}")
        if not isinstance(tool.get("name"), str):
            raise BadAsk(f"tools.{index}.name: Field required", param="tools")
        schema = mapping(tool.get("input_schema"), f"tools.{index}.input_schema")
        found.append(Tool(tool["name"], str(tool.get("description") or ""), schema))
    return tuple(found)


def _json_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = mapping(body.get("output_config"), "output_config")
    wanted = mapping(take(config, "format") or body.get("output_format"), "output_config.format")
    return mapping(wanted.get("schema"), "output_config.format.schema") if wanted else None


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    if answer.no_content:
        return []
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        thinking = {"type": "thinking", "thinking": answer.reasoning}
        blocks.append({**thinking, "signature": _signature(answer)})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    blocks += [_tool_use(answer, index) for index in range(len(answer.calls))]
    return blocks


def _tool_use(answer: Answer, index: int) -> dict[str, Any]:
    call = answer.calls[index]
    return {
        "type": "tool_use",
        "id": f"toolu_01{answer.call_id(index, 22)}",
        "name": call.name,
        "input": call.arguments,
        "caller": {"type": "direct"},
    }


def _usage(tokens: Tokens, output: int | str) -> dict[str, Any]:
    fresh = tokens.prompt
    if isinstance(fresh, int) and isinstance(tokens.cached, int):
        fresh -= tokens.cached
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": output,
    }


def _whole_usage(tokens: Tokens, output: int | str) -> dict[str, Any]:
    usage = _usage(tokens, output)
    creation = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    whole = {
        **{name: usage[name] for name in list(usage)[:3]},
        "cache_creation": creation,
        "output_tokens": output,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
    if tokens.reasoning:
        whole["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    return whole


def _signature(answer: Answer) -> str:
    return b64encode(bytes.fromhex(answer.nonce) * 3).decode()


def _instant(after_s: float) -> str:
    after_s = min(max(after_s, 0.0), 10.0**8)
    return (datetime.now(UTC) + timedelta(seconds=after_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id(answer: Answer) -> str:
    return f"msg_01{answer.nonce[:22]}"
