"""Google's Gemini: generateContent and streamGenerateContent."""

from base64 import b64encode
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
    Role,
    Tokens,
    Tool,
    Turn,
    Wrong,
)
from orchestrator.simulator.reply import Event
from orchestrator.simulator.wire_format import (
    WireFormat,
    count,
    integer,
    mapping,
    number,
    refuse_unknown,
    sequence,
    strings,
    take,
)

_KNOWN_FIELDS = """
contents tools toolConfig tool_config safetySettings safety_settings systemInstruction
system_instruction generationConfig generation_config cachedContent cached_content labels model
serviceTier service_tier store
"""
KNOWN = frozenset(_KNOWN_FIELDS.split())
FINISH = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}
MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
RPC = "type.googleapis.com/google.rpc."
# kind -> code, status, message
ERRORS: dict[ErrorKind, tuple[int, str, str]] = {
    "bad_request": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "context": (
        400,
        "INVALID_ARGUMENT",
        (
            "The input token count ({prompt}) exceeds the maximum number of tokens allowed "
            "({context})."
        ),
    ),
    "prefill": (
        400,
        "INVALID_ARGUMENT",
        (
            "Please ensure that single turn requests end with a user role or the role field is "
            "empty; this model does not support ending with a model turn."
        ),
    ),
    "filtered": (400, "INVALID_ARGUMENT", "The prompt was blocked by the safety filters."),
    "auth": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.{key}"),
    "forbidden": (
        403,
        "PERMISSION_DENIED",
        "Your project has been denied access. Please contact support.",
    ),
    "not_found": (
        404,
        "NOT_FOUND",
        (
            "models/{model} is not found for API version {version}, or is not supported for "
            "generateContent. Call ListModels to see the list of available models and their "
            "supported methods."
        ),
    ),
    "too_large": (
        413,
        "INVALID_ARGUMENT",
        "Request payload size exceeds the limit: 20971520 bytes.",
    ),
    "rate": (
        429,
        "RESOURCE_EXHAUSTED",
        (
            "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, head to: "
            "https://ai.google.dev/gemini-api/docs/rate-limits. "
            "\n* Quota exceeded for metric: {metric}, limit: {limit}, model: {model}\n"
            "Please retry in {wait}s."
        ),
    ),
    "quota": (
        429,
        "RESOURCE_EXHAUSTED",
        (
            "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, head to: "
            "https://ai.google.dev/gemini-api/docs/rate-limits. "
            "\n* Quota exceeded for metric: {metric}, limit: {limit}, model: {model}"
        ),
    ),
    "server": (
        500,
        "INTERNAL",
        (
            "An internal error has occurred. Please retry or report in "
            "https://developers.generativeai.google/guide/troubleshooting"
        ),
    ),
    "bad_gateway": (502, "UNAVAILABLE", "Bad gateway."),
    "unavailable": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "overloaded": (529, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}


class GoogleFormat(WireFormat):
    """What https://generativelanguage.googleapis.com/v1beta/models speaks."""

    provider = LLMProvider.GOOGLE
    errors_as_streams = True
    stream_type = "text/event-stream"
    plain_type = "application/json; charset=UTF-8"
    comment = b": ping\r\n\r\n"
    line_end = b"\r\n"

    def read(self, body: Mapping[str, Any], path: Mapping[str, str]) -> Ask:
        words = 'Invalid JSON payload received. Unknown name "{}": Cannot find field.'
        refuse_unknown(body, KNOWN, words)
        settings = mapping(take(body, "generationConfig", "generation_config"), "generationConfig")
        schema = take(
            settings, *(f"response{end}" for end in ("JsonSchema", "Schema")), "response_schema"
        ) or take(settings, "response_json_schema", "_responseJsonSchema")
        kind = take(settings, "responseMimeType", "response_mime_type")
        thinking = mapping(take(settings, "thinkingConfig", "thinking_config"), "thinkingConfig")
        return Ask(
            provider=self.provider,
            model=path["model"],
            turns=_turns(body),
            streamed=path["method"] == "streamGenerateContent",
            tools=_tools(body.get("tools")),
            tool_choice=_tool_choice(take(body, "toolConfig", "tool_config")),
            json=kind == "application/json" or schema is not None,
            schema=mapping(schema, "generationConfig.responseSchema") if schema else None,
            max_tokens=count(settings, "maxOutputTokens", "max_output_tokens"),
            temperature=number(settings, "temperature", low=0, high=2),
            stop=strings(take(settings, "stopSequences", "stop_sequences"), "stopSequences"),
            seed=integer(settings, "seed"),
            thinks=bool(take(thinking, "includeThoughts", "include_thoughts")),
            api_version=path["version"],
        )

    def plain(self, ask: Ask, answer: Answer) -> bytes:
        parts = _thought_parts(answer) + ([{"text": answer.text}] if answer.text else [])
        candidate = self._candidate(answer, parts + _call_parts(answer), last=True)
        body = self._frame(answer, [candidate], last=True)
        return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def events(self, ask: Ask, answer: Answer) -> list[Event]:
        thoughts = _thought_parts(answer)
        groups: list[list[dict[str, Any]]] = [[part] for part in thoughts]
        groups += [[{"text": piece}] for piece in answer.pieces]
        if answer.calls:
            groups.append(_call_parts(answer))
        if not groups:
            groups = [[]]
        events = []
        for index, parts in enumerate(groups):
            last = index == len(groups) - 1
            candidate = self._candidate(answer, parts, last=last)
            data = self._event(self._frame(answer, [candidate], last=last))
            events.append(Event("finish" if last else "content", data))
        return events

    def content_event(self, ask: Ask, answer: Answer, text: str) -> bytes:
        candidate = self._candidate(answer, [{"text": text}], last=False)
        return self._event(self._frame(answer, [candidate], last=False))

    def refuse(self, wrong: Wrong) -> Refusal:
        code, status, message = ERRORS[wrong.kind]
        fill = _fillings(wrong)
        error: dict[str, Any] = {
            "code": code,
            "message": wrong.message or message.format(**fill),
            "status": status,
        }
        details = _details(wrong, fill)
        if details:
            error["details"] = details
        return Refusal(status=code, body={"error": error})

    def error_event(self, kind: ErrorKind) -> bytes:
        return self._event(self.refuse(Wrong(kind=kind, model="gemini")).body)

    def listing(self, models: Sequence[str]) -> dict[str, Any]:
        methods = ["generateContent", "countTokens"]
        listed = [
            {"name": f"models/{model}", "displayName": model, "supportedGenerationMethods": methods}
            for model in models
        ]
        return {"models": listed}

    def headers(self, ask: Ask, answer: Answer | None, allowance: Allowance) -> Headers:
        headers = (("server-timing", "gfet4t7; dur=12"), ("x-content-type-options", "nosniff"))
        return (("content-disposition", "attachment"), *headers) if ask.streamed else headers

    def _candidate(
        self, answer: Answer, parts: list[dict[str, Any]], *, last: bool
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"parts": parts} if parts else {}
        candidate: dict[str, Any] = {"content": content | {"role": "model"}}
        if answer.no_content:
            candidate["content"] = {"role": "model"}
        if last:
            candidate["finishReason"] = FINISH[answer.finish]
        candidate["index"] = 0
        if answer.calls and last:
            candidate["finishMessage"] = "Model generated function call(s)."
        return candidate

    def _frame(
        self, answer: Answer, candidates: list[dict[str, Any]], *, last: bool
    ) -> dict[str, Any]:
        frame: dict[str, Any] = {"candidates": candidates}
        if answer.no_content == "absent":
            frame = {}
        if answer.tokens is not None:
            frame["usageMetadata"] = _usage(answer.tokens, last=last)
        frame["modelVersion"] = answer.model
        frame["responseId"] = answer.nonce[:22]
        return frame

    def _event(self, data: Mapping[str, Any]) -> bytes:
        return b"data: " + orjson.dumps(data) + b"\r\n\r\n"


def _turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    system = mapping(take(body, "systemInstruction", "system_instruction"), "systemInstruction")
    if system:
        turns.append(_turn("system", system, "systemInstruction"))
    contents = sequence(body.get("contents"), "contents")
    if not contents:
        raise BadAsk("* GenerateContentRequest.contents: contents is not specified\n")
    for index, content in enumerate(contents):
        content = mapping(content, f"contents[{index}]")
        if content.get("role", "user") not in ("user", "model", "function"):
            raise BadAsk("Please use a valid role: user, model.")
        role: Role = "assistant" if content.get("role") == "model" else "user"
        turns.append(_turn(role, content, f"contents[{index}]"))
    return tuple(turns)


def _turn(role: Role, content: Mapping[str, Any], where: str) -> Turn:
    parts = content.get("parts")
    texts, images = [], 0
    for part in [parts] if isinstance(parts, dict) else sequence(parts, f"{where}.parts"):
        part = mapping(part, f"{where}.parts")
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        response = take(part, "functionResponse", "function_response")
        if response is not None:
            role = "tool"
            texts.append(orjson.dumps(mapping(response, where).get("response")).decode())
        if take(part, "inlineData", "inline_data", "fileData", "file_data") is not None:
            images += 1
    return Turn(role, "\n".join(texts), images)


def _tools(tools: Any) -> tuple[Tool, ...]:
    found = []
    entries = [tools] if isinstance(tools, dict) else sequence(tools, "tools")
    for entry in entries:
        entry = mapping(entry, "tools")
        declared = take(entry, "functionDeclarations", "function_declarations")
        for function in sequence(declared, "tools.functionDeclarations"):
            function = mapping(function, "tools.functionDeclarations")
            parameters = mapping(
                take(function, "parameters", "parametersJsonSchema"), "tools.parameters"
            )
            description = str(function.get("description") or "")
            found.append(Tool(str(function.get("name")), description, parameters))
    return tuple(found)


def _tool_choice(config: Any) -> str:
    config = mapping(config, "toolConfig")
    calling = mapping(take(config, "functionCallingConfig", "function_calling_config"), "mode")
    allowed = strings(take(calling, "allowedFunctionNames", "allowed_function_names"), "allowed")
    if len(allowed) == 1:
        return allowed[0]
    return MODES.get(str(calling.get("mode", "AUTO")).upper(), "auto")


def _thought_parts(answer: Answer) -> list[dict[str, Any]]:
    return [{"text": answer.reasoning, "thought": True}] if answer.reasoning else []


def _call_parts(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": call.name, "args": call.arguments}} for call in answer.calls
    ]
    if parts:
        parts[0]["thoughtSignature"] = b64encode(bytes.fromhex(answer.nonce) * 2).decode()
    return parts


def _usage(tokens: Tokens, *, last: bool) -> dict[str, Any]:
    usage: dict[str, Any] = {"promptTokenCount": tokens.prompt}
    if last:
        usage["candidatesTokenCount"] = tokens.visible
        usage["totalTokenCount"] = tokens.total
    else:
        usage["totalTokenCount"] = tokens.prompt
    if tokens.cached:
        usage["cachedContentTokenCount"] = tokens.cached
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": tokens.prompt}]
    if tokens.reasoning:
        usage["thoughtsTokenCount"] = tokens.reasoning
    usage["serviceTier"] = "standard"
    return usage


def _fillings(wrong: Wrong) -> dict[str, object]:
    allowance = wrong.allowance
    by_tokens = allowance.which == "tokens"
    unit = "input_token_count" if by_tokens else "requests"
    return {
        "model": wrong.model,
        "key": f" ({wrong.key})" if wrong.key else "",
        "version": wrong.api_version or "v1beta",
        "prompt": wrong.prompt_tokens,
        "context": wrong.context_tokens,
        "metric": f"generativelanguage.googleapis.com/generate_content_free_tier_{unit}",
        "limit": allowance.limit_tokens if by_tokens else allowance.limit_requests,
        "wait": f"{allowance.retry_after_s or 0.0:g}",
        "per": "InputTokens" if by_tokens else "Requests",
    }


def _details(wrong: Wrong, fill: Mapping[str, object]) -> list[dict[str, Any]]:
    if wrong.kind == "auth":
        reason = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        service = {"service": "generativelanguage.googleapis.com"}
        told = {"locale": "en-US", "message": "API key not valid. Please pass a valid API key."}
        return [
            {"@type": f"{RPC}ErrorInfo", **reason, "metadata": service},
            {"@type": f"{RPC}LocalizedMessage", **told},
        ]
    if wrong.kind not in ("rate", "quota"):
        return []
    period = "Minute" if wrong.kind == "rate" else "Day"
    violation = {
        "quotaMetric": fill["metric"],
        "quotaId": f"Generate{fill['per']}Per{period}PerProjectPerModel-FreeTier",
        "quotaDimensions": {"model": wrong.model, "location": "global"},
        "quotaValue": str(fill["limit"]),
    }
    link = {
        "description": "Learn more about Gemini API quotas",
        "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
    }
    details: list[dict[str, Any]] = [
        {"@type": f"{RPC}Help", "links": [link]},
        {"@type": f"{RPC}QuotaFailure", "violations": [violation]},
    ]
    if wrong.kind == "rate" and wrong.allowance.retry_after_s is not None:
        details.append({"@type": f"{RPC}RetryInfo", "retryDelay": f"{fill['wait']}s"})
    return details
