"""OpenAI's chat completions, and the same protocol as other hosts speak it (`custom`)."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

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
from orchestrator.simulator.logprobs import MOST, logprobs_of
from orchestrator.simulator.reply import Event
from orchestrator.simulator.wire_format import (
    DONE,
    WireFormat,
    count,
    event,
    integer,
    mapping,
    number,
    refuse_unknown,
    sequence,
    strings,
    take,
    text_of,
)

FINISH = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_KNOWN_FIELDS = """
audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
max_tokens messages metadata modalities model n parallel_tool_calls prediction presence_penalty
prompt_cache_key prompt_cache_retention reasoning_effort response_format safety_identifier seed
service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p
user verbosity web_search_options
"""
KNOWN = frozenset(_KNOWN_FIELDS.split())
# kind -> status, type, code, message
ERRORS: dict[ErrorKind, tuple[int, str, str | None, str]] = {
    "bad_request": (400, "invalid_request_error", None, "Invalid request."),
    "context": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        (
            "This model's maximum context length is {context} tokens. However, your messages "
            "resulted in {prompt} tokens. Please reduce the length of the messages."
        ),
    ),
    "prefill": (
        400,
        "invalid_request_error",
        "invalid_value",
        "Invalid value for 'messages': the last message must not have the role 'assistant'.",
    ),
    "filtered": (
        400,
        "invalid_request_error",
        "content_policy_violation",
        (
            "Your request was rejected as a result of our safety system. Your prompt may contain "
            "text that is not allowed by our safety system."
        ),
    ),
    "auth": (
        401,
        "invalid_request_error",
        "invalid_api_key",
        (
            "Incorrect API key provided{key}. You can find your API key at "
            "https://platform.openai.com/account/api-keys."
        ),
    ),
    "forbidden": (
        403,
        "invalid_request_error",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    "not_found": (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    "too_large": (
        413,
        "invalid_request_error",
        "request_too_large",
        "Maximum content size limit exceeded.",
    ),
    "rate": (
        429,
        "{which}",
        "rate_limit_exceeded",
        (
            "Rate limit reached for {model} in organization org-simulated on {which} per min "
            "({unit}): Limit {limit}, Used {limit}, Requested 1. Please try again in {wait}. Visit "
            "https://platform.openai.com/account/rate-limits to learn more."
        ),
    ),
    "quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        (
            "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, read the docs: "
            "https://platform.openai.com/docs/guides/error-codes/api-errors."
        ),
    ),
    "server": (
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    "bad_gateway": (502, "server_error", None, "Bad gateway."),
    "unavailable": (
        503,
        "server_error",
        None,
        "The engine is currently overloaded, please try again later.",
    ),
    "overloaded": (
        529,
        "server_error",
        "overloaded",
        "The model is overloaded, please try again later.",
    ),
}


class OpenAIFormat(WireFormat):
    """What https://api.openai.com/v1/chat/completions speaks."""

    provider = LLMProvider.OPENAI
    shows_thoughts: ClassVar[bool] = False
    strict_fields: ClassVar[bool] = True
    obfuscates: ClassVar[bool] = True

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        if self.strict_fields:
            refuse_unknown(body, KNOWN, "Unrecognized request argument supplied: {}")
        if (take(body, "n") or 1) != 1:
            raise BadAsk("The simulator gives one choice: 'n' must be 1.", param="n")
        return read_chat(body, self.provider, seed_name="seed")

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": _content(answer)}
        if self.shows_thoughts and answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = _calls(answer)
        message |= {"refusal": None, "annotations": []}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs(ask, answer, answer.pieces),
            "finish_reason": FINISH[answer.finish],
        }
        body = {
            "id": _id(answer),
            "object": "chat.completion",
            "created": answer.created,
            "model": answer.model,
            "choices": [] if answer.no_content == "absent" else [choice],
        }
        if answer.tokens is not None:
            body["usage"] = usage(answer.tokens)
        body |= {"service_tier": "default", "system_fingerprint": f"fp_{answer.nonce[:10]}"}
        return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        opening = {"role": "assistant", "content": None if answer.calls else "", "refusal": None}
        events = [Event("open", self._chunk(ask, answer, opening))]
        if answer.no_content == "absent":
            events = [Event("open", self._chunk(ask, answer, None))]
        if self.shows_thoughts:
            events += [
                Event("content", self._chunk(ask, answer, {"reasoning_content": thought}))
                for thought in answer.thoughts
            ]
        events += [
            Event("content", self.content_event(ask, answer, piece)) for piece in answer.pieces
        ]
        for index, call in enumerate(answer.calls):
            for delta in _call_deltas(answer, index, call.name):
                events.append(Event("content", self._chunk(ask, answer, {"tool_calls": [delta]})))
        if answer.no_content != "absent":
            finish = self._chunk(ask, answer, {}, finish=FINISH[answer.finish])
            events.append(Event("finish", finish))
        if ask.include_usage and answer.tokens is not None:
            events.append(Event("usage", self._usage_chunk(ask, answer)))
        return [*events, DONE]

    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        return self._chunk(ask, answer, {"content": text}, _logprobs(ask, answer, [text]))

    def refuse(self, wrong: Wrong) -> Refusal:
        status, kind, code, message = ERRORS[wrong.kind]
        fill = _fillings(wrong)
        error = {
            "message": wrong.message or message.format(**fill),
            "type": kind.format(**fill),
            "param": wrong.param,
            "code": code,
        }
        return Refusal(status=status, body={"error": error})

    def error_event(self, kind: ErrorKind) -> bytes:
        return event(self.refuse(Wrong(kind=kind, model="the model")).body)

    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        return openai_listing(models)

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        nonce = answer.nonce if answer else "0" * 32
        return (
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", "12"),
            ("x-request-id", f"req_{nonce[:32]}"),
            *self.limit_headers(allowance),
        )

    def limit_headers(self, allowance: Allowance) -> Headers:
        headers = (
            ("x-ratelimit-limit-requests", str(allowance.limit_requests)),
            ("x-ratelimit-limit-tokens", str(allowance.limit_tokens)),
            ("x-ratelimit-remaining-requests", str(allowance.remaining_requests)),
            ("x-ratelimit-remaining-tokens", str(allowance.remaining_tokens)),
            ("x-ratelimit-reset-requests", duration(allowance.reset_requests_s)),
            ("x-ratelimit-reset-tokens", duration(allowance.reset_tokens_s)),
        )
        if allowance.retry_after_s is None:
            return headers
        wait_s = allowance.retry_after_s
        return (
            ("retry-after", str(ceil(wait_s))),
            ("retry-after-ms", str(round(wait_s * 1000))),
            *headers,
        )

    def _chunk(
        self,
        ask: Ask,
        answer: Answer,
        delta: Mapping[str, Any] | None,
        logprobs: Mapping[str, Any] | None = None,
        *,
        finish: str | None = None,
    ) -> bytes:
        chunk = self._frame(answer)
        chunk["choices"] = (
            []
            if delta is None
            else [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        )
        if ask.include_usage and answer.tokens is not None:
            chunk["usage"] = None
        return event(self._padded(chunk, len(str(delta))))

    def _usage_chunk(self, ask: Ask, answer: Answer) -> bytes:
        assert answer.tokens is not None
        chunk = self._frame(answer) | {"choices": [], "usage": usage(answer.tokens)}
        return event(self._padded(chunk, 7))

    def _padded(self, chunk: dict[str, Any], size: int) -> dict[str, Any]:
        """The chunk with letters that hide how long its text is."""
        if self.obfuscates:
            chunk["obfuscation"] = "x7Qm2ZkV9bNw4TfR"[: 1 + size * 5 % 16]
        return chunk

    def _frame(self, answer: Answer) -> dict[str, Any]:
        return {
            "id": _id(answer),
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.model,
            "service_tier": "default",
            "system_fingerprint": f"fp_{answer.nonce[:10]}",
        }


class CustomFormat(OpenAIFormat):
    """Any OpenAI-compatible host: takes unknown fields, shows its thinking."""

    provider = LLMProvider.CUSTOM
    shows_thoughts = True
    strict_fields = False
    obfuscates = False

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        return self.limit_headers(allowance) if allowance.retry_after_s is not None else ()


def read_chat(body: Mapping[str, Any], provider: LLMProvider, *, seed_name: str) -> Ask:
    """A request in OpenAI's shape, which Mistral and Cohere share in the main.

    Raises:
        BadAsk: the provider would refuse it.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadAsk("you must provide a model parameter", param="model")
    wanted = mapping(body.get("response_format"), "response_format")
    schema = mapping(wanted.get("json_schema"), "response_format.json_schema")
    effort = take(body, "reasoning_effort")
    return Ask(
        provider=provider,
        model=model,
        turns=read_turns(body.get("messages")),
        streamed=bool(body.get("stream")),
        tools=read_tools(body.get("tools")),
        tool_choice=_tool_choice(body.get("tool_choice")),
        parallel=body.get("parallel_tool_calls") is not False,
        json=wanted.get("type") in ("json_object", "json_schema"),
        schema=take(schema, "schema") if wanted.get("type") == "json_schema" else None,
        max_tokens=count(body, "max_completion_tokens", "max_tokens"),
        temperature=number(body, "temperature", low=0, high=2),
        stop=strings(take(body, "stop"), "stop"),
        seed=integer(body, seed_name),
        thinks=effort not in (None, "none"),
        logprobs=_wanted_logprobs(body),
        include_usage=bool(
            mapping(body.get("stream_options"), "stream_options").get("include_usage")
        ),
    )


def read_turns(messages: Any) -> tuple[Turn, ...]:
    """The conversation, in OpenAI's shape."""
    found = sequence(messages, "messages")
    if not found:
        raise BadAsk("[] is too short - 'messages'", param="messages")
    turns = []
    for index, message in enumerate(found):
        where = f"messages[{index}]"
        message = mapping(message, where)
        role = ROLES.get(message.get("role", ""))
        if role is None:
            raise BadAsk(
                f"Invalid value: {message.get('role')!r}. Supported values are: 'system', "
                "'assistant', 'user', 'function', 'tool', and 'developer'.",
                param=f"{where}.role",
            )
        text, images = text_of(message.get("content"), f"{where}.content")
        if message.get("tool_calls"):
            text += orjson.dumps(message["tool_calls"]).decode()
        turns.append(Turn(role, text, images))
    return tuple(turns)


def read_tools(tools: Any) -> tuple[Tool, ...]:
    """The functions on offer, in OpenAI's shape."""
    found = []
    for index, tool in enumerate(sequence(tools, "tools")):
        function = mapping(mapping(tool, "tools").get("function"), f"tools[{index}].function")
        if not isinstance(function.get("name"), str):
            raise BadAsk(
                f"Missing required parameter: 'tools[{index}].function.name'.",
                param=f"tools[{index}].function.name",
            )
        parameters = mapping(function.get("parameters"), f"tools[{index}].function.parameters")
        found.append(Tool(function["name"], str(function.get("description") or ""), parameters))
    return tuple(found)


def usage(tokens: Tokens) -> dict[str, Any]:
    """Usage in OpenAI's shape."""
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def openai_listing(models: Sequence[str]) -> dict[str, Any]:
    """A list of models in OpenAI's shape."""
    about = {"object": "model", "created": 1_767_225_600, "owned_by": "simulator"}
    return {"object": "list", "data": [{"id": model, **about} for model in models]}


def duration(seconds: float) -> str:
    """A time as OpenAI's headers spell it: `17ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{int(seconds // 60)}m{int(seconds % 60)}s"


def split_arguments(text: str, size: int = 6) -> list[str]:
    """A call's arguments as they are streamed."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def _fillings(wrong: Wrong) -> dict[str, object]:
    allowance = wrong.allowance
    by_tokens = allowance.which == "tokens"
    return {
        "model": wrong.model,
        "key": f": {wrong.key}" if wrong.key else "",
        "prompt": wrong.prompt_tokens,
        "context": wrong.context_tokens,
        "which": allowance.which,
        "unit": "TPM" if by_tokens else "RPM",
        "limit": allowance.limit_tokens if by_tokens else allowance.limit_requests,
        "wait": duration(allowance.retry_after_s or 0.0),
    }


def _tool_choice(choice: Any) -> str:
    if isinstance(choice, dict):
        return str(mapping(choice.get("function"), "tool_choice.function").get("name", "required"))
    return {"any": "required", "REQUIRED": "required", "NONE": "none"}.get(choice, choice or "auto")


def _wanted_logprobs(body: Mapping[str, Any]) -> int | None:
    others = number(body, "top_logprobs", low=0, high=MOST)
    if body.get("logprobs") is True:
        return int(others or 0)
    if others is not None:
        raise BadAsk(
            "'top_logprobs' is only allowed when 'logprobs' is enabled.", param="top_logprobs"
        )
    return None


def _logprobs(ask: Ask, answer: Answer, pieces: Sequence[str]) -> dict[str, Any] | None:
    if ask.logprobs is None or not answer.text:
        return None
    return logprobs_of(pieces, nonce=answer.nonce, others=ask.logprobs)


def _content(answer: Answer) -> str | None:
    return None if answer.no_content or (answer.calls and not answer.text) else answer.text


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{answer.call_id(index)}",
            "type": "function",
            "function": {"name": call.name, "arguments": answer.arguments(index)},
        }
        for index, call in enumerate(answer.calls)
    ]


def _call_deltas(answer: Answer, index: int, name: str) -> list[dict[str, Any]]:
    opening = {
        "index": index,
        "id": f"call_{answer.call_id(index)}",
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
    pieces = split_arguments(answer.arguments(index))
    return [opening, *({"index": index, "function": {"arguments": piece}} for piece in pieces)]


def _id(answer: Answer) -> str:
    return f"chatcmpl-{answer.nonce[:29]}"
