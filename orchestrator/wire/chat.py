"""OpenAI's chat completions: a request to what is asked, a run to a reply, events to chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StrictBool

from adapters.types import Logprob, ToolCall, ToolCallDelta, Usage
from orchestrator.config import RequestConfig
from orchestrator.events import (
    Event,
    ReasoningDelta,
    RunFinished,
    TextDelta,
    TextReset,
    ToolCallsDelta,
)
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire import orchestration
from orchestrator.wire.errors import Refused, withdrawn
from orchestrator.wire.functions import (
    as_choice,
    as_tools,
    call_delta,
    call_json,
    with_tool_messages,
)
from orchestrator.wire.fusion import FUSION, FusionPlugin, plugged
from orchestrator.wire.orchestration import Orchestration
from orchestrator.wire.reading import Body, Seed
from orchestrator.wire.shapes import (
    check_choice,
    check_format,
    check_functions,
    check_messages,
    check_tools,
)

MOST_CHOICES = 8  # runs that one request may start
MOST_MESSAGES = 10_000
MOST_STOPS = 16
Json = dict[str, Any]
Limit = Annotated[int, Field(ge=0, le=10**8)]  # beyond any model, within what is counted
Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(Body):
    """OpenAI's; `include_obfuscation` pads chunks against eavesdroppers, which is TLS's work."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None


class ChatBody(Body):
    """OpenAI's body of `POST /v1/chat/completions`, and `orchestration` and `plugins` beside it."""

    messages: Annotated[list[Json], Field(min_length=1, max_length=MOST_MESSAGES)]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    # What is understood.
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    function_call: str | Json | None = None
    functions: list[Json] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: StrictBool | None = None
    max_completion_tokens: Limit | None = None
    max_tokens: Limit | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    parallel_tool_calls: StrictBool | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    reasoning_effort: str | None = None
    response_format: Json | None = None
    safety_identifier: str | None = None
    seed: Seed | None = None
    service_tier: str | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: str | Json | None = None
    tools: list[Json] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    # What other clients send beside them, and is understood.
    orchestration: Orchestration | None = None
    plugins: Annotated[list[FusionPlugin], Field(max_length=1)] | None = None
    thinking: Json | None = None
    top_k: int | None = None
    # What has no meaning here: it is said in the reply that it was not used, or refused.
    audio: Json | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: Json | None = None
    prediction: Json | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: str | None = None
    store: StrictBool | None = None
    verbosity: str | None = None
    web_search_options: Json | None = None


# Why a field that is taken has no effect. Each is reported in the reply.
_UNUSED: Mapping[str, str] = {
    "audio": "answers are text",
    "metadata": "nothing is stored; orchestration.tags stand in the records of usage",
    "moderation": "no such service",
    "prediction": "no provider behind the gateway is told",
    "prompt_cache_key": "the cache has keys of its own",
    "prompt_cache_options": "the cache has settings of its own",
    "prompt_cache_retention": "the cache has settings of its own",
    "store": "answers are not stored for later requests; receipts are",
    "verbosity": "no provider behind the gateway is told",
    "web_search_options": "the gateway does not search",
}
_EXTRA = (
    "frequency_penalty",
    "logit_bias",
    "presence_penalty",
    "safety_identifier",
    "service_tier",
    "thinking",
    "top_k",
    "user",
)
_SAME = (
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        requests: One run for each choice.
        is_streamed: Whether the answer is to come as it is written.
        with_usage: Whether a stream ends with the usage.
        with_progress: Whether a stream tells what members do.
        with_logprobs: Whether the answer is to tell how probable its tokens were.
        with_functions: Whether tools were called functions, and calls are to be told that way.
        ignored: Fields that were given and have no effect, and why.
    """

    model: str
    requests: tuple[RequestConfig, ...]
    is_streamed: bool = False
    with_usage: bool = False
    with_progress: bool = False
    with_logprobs: bool = False
    with_functions: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict)

    def unheard(self, responses: Sequence[OrchestratorResponse]) -> Mapping[str, str]:
        """`ignored`, and what turned out to have had no effect."""
        return {**self.ignored, **orchestration.unheard(responses, logprobs=self.with_logprobs)}


def asked_of(body: ChatBody, *, tenant: str = "", is_configured: bool = False) -> Asked:
    """What a body asks for.

    Args:
        body: What was sent.
        tenant: On whose behalf.
        is_configured: Whether the configuration has that model: `fusion` may be one of its names.

    Raises:
        Refused: it contradicts itself, or asks for what cannot be had.
    """
    messages = with_tool_messages(body.messages)
    _refuse_the_impossible(body, messages)
    how = body.orchestration or Orchestration()
    ignored = _ignored(body)
    tools, choice = _tools(body)
    fields: Json = {
        **{name: value for name in _SAME if (value := getattr(body, name)) is not None},
        "model": body.model,
        **how.fields(),
        "messages": messages,
        "tenant": tenant,
        "max_tokens": body.max_completion_tokens or body.max_tokens or None,
        "top_p": body.top_p or None,
        "extra": {n: value for n in _EXTRA if (value := getattr(body, n)) is not None},
    }
    if body.logprobs:
        others = {} if body.top_logprobs is None else {"top_logprobs": body.top_logprobs}
        fields["extra"] |= {"logprobs": True, **others}
    if tools:
        fields |= {"tools": tools, "tool_choice": choice}
        if body.parallel_tool_calls is not None:
            fields["extra"]["parallel_tool_calls"] = body.parallel_tool_calls
    is_plugged = any(plugin.enabled for plugin in body.plugins or ())
    if is_plugged or (body.model in FUSION and not is_configured):
        meant, unused = plugged(body.model, body.plugins or (), fields)
        fields |= meant
        ignored |= unused
    request = RequestConfig.model_validate(fields)
    options = body.stream_options or StreamOptions()
    return Asked(
        model=body.model,
        requests=_each(request, body.n or 1),
        is_streamed=bool(body.stream),
        with_usage=options.include_usage,
        with_progress=how.progress,
        with_logprobs=bool(body.logprobs),
        with_functions=bool(body.functions) and not body.tools,
        ignored=ignored,
    )


def _tools(body: ChatBody) -> tuple[list[Json], str | Json | None]:
    """What may be called, and what is said about which; functions count where there are no tools.

    Of tools, those that `tool_choice` allows.
    """
    if not body.tools:
        return as_tools(body.functions or ()), as_choice(body.function_call)
    match body.tool_choice:
        case {"type": "allowed_tools", "allowed_tools": {"mode": str() as mode, "tools": [*few]}}:
            names = [one["function"]["name"] for one in few]
            return [tool for tool in body.tools if tool["function"]["name"] in names], mode
    return body.tools, body.tool_choice


def _each(request: RequestConfig, count: int) -> tuple[RequestConfig, ...]:
    """A run for each choice; equal runs would be one run, and its answer the answer of all."""
    if count == 1:
        return (request,)
    seed = request.seed or 0
    return tuple(
        request.model_copy(update={"seed": seed + place, "cache": "off"}) for place in range(count)
    )


def _ignored(body: ChatBody) -> dict[str, str]:
    """Fields that were given and have no effect, and why."""
    given = body.model_fields_set
    ignored = {name: why for name, why in _UNUSED.items() if name in given and _counts(body, name)}
    for name in ("max_completion_tokens", "max_tokens", "top_p"):
        if getattr(body, name) == 0:
            ignored[name] = "0 is no limit"
    if body.max_completion_tokens and body.max_tokens not in (None, body.max_completion_tokens):
        ignored["max_tokens"] = "max_completion_tokens goes before it"
    ignored |= _ignored_of_tools(body)
    if body.modalities is not None and "audio" in body.modalities:
        ignored["modalities"] = "answers are text"
    if body.stream_options is not None and not body.stream:
        ignored["stream_options"] = "the reply is no stream"
    elif body.stream_options is not None and body.stream_options.include_obfuscation:
        ignored["stream_options.include_obfuscation"] = "chunks are not padded"
    if body.orchestration is not None and body.orchestration.progress and not body.stream:
        ignored["orchestration.progress"] = "the reply is no stream"
    return ignored


def _ignored_of_tools(body: ChatBody) -> dict[str, str]:
    """What is said about tools that are not there, or in two ways at once."""
    calls = {"tool_choice": "there are no tools", "parallel_tool_calls": "there are no tools"}
    unused = {"functions": "replaced by tools", "function_call": "replaced by tool_choice"}
    if not body.tools:
        unused = calls
        if body.functions:
            unused = {"tool_choice": "functions are chosen by function_call"}
        elif body.function_call is not None:
            unused = {**calls, "function_call": "there are no functions"}
    return {name: why for name, why in unused.items() if _counts(body, name, is_switch=True)}


def _counts(body: ChatBody, name: str, *, is_switch: bool = False) -> bool:
    """Whether a field says more than that it is not used; a switch says that by being off."""
    value = getattr(body, name)
    return value is not None and (is_switch or value is not False) and value not in ([], {})


def _refuse_the_impossible(body: ChatBody, messages: Sequence[Json]) -> None:
    check_messages(messages)
    check_tools(body.tools or ())
    if body.tool_choice is not None and body.tools:
        check_choice(body.tool_choice, body.tools)
    if not body.tools:
        check_functions(body.functions or (), body.function_call)
    if body.response_format is not None:
        check_format(body.response_format)
    if body.modalities and "text" not in body.modalities:
        raise Refused(
            "Answers are text; add 'text' to 'modalities', or leave it out",
            param="modalities",
            code="unsupported_value",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused(
            "'top_logprobs' needs logprobs: true", param="top_logprobs", code="invalid_value"
        )


# The reply.


def completion(asked: Asked, responses: Sequence[OrchestratorResponse]) -> Json:
    """The `chat.completion` that runs amount to, a choice each."""
    first = responses[0]
    return {
        "id": completion_id(first.receipt.run_id),
        "object": "chat.completion",
        "created": created(first.receipt.started_at),
        "model": asked.model,
        "system_fingerprint": fingerprint(first.receipt.config_hash),
        "choices": [_choice(asked, index, response) for index, response in enumerate(responses)],
        "usage": usage_json(sum((one.usage for one in responses), Usage())),
        "orchestration": orchestration.outcome(responses, asked.unheard(responses)),
    }


def _choice(asked: Asked, index: int, response: OrchestratorResponse) -> Json:
    message: Json = {
        "role": "assistant",
        "content": response.content or (None if response.tool_calls else ""),
        "refusal": None,
    }
    if response.reasoning:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in response.tool_calls]
        if asked.with_functions:
            message["function_call"] = call_json(response.tool_calls)
    return {
        "index": index,
        "message": message,
        "finish_reason": _finish_reason(asked, response),
        "logprobs": _logprobs(response.logprobs),
    }


def _finish_reason(asked: Asked, response: OrchestratorResponse) -> str:
    called = asked.with_functions and response.finish_reason == "tool_calls"
    return "function_call" if called else response.finish_reason


def _logprobs(told: Sequence[Logprob]) -> Json | None:
    return {"content": list(told), "refusal": None} if told else None


def _tool_call(call: ToolCall) -> Json:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def usage_json(usage: Usage) -> Json:
    """OpenAI's usage, of every call that was paid for."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def completion_id(run_id: str) -> str:
    """What OpenAI's clients know a run by."""
    return f"chatcmpl-{run_id}"


def created(started_at: str) -> int:
    """Seconds since 1970."""
    return int(datetime.fromisoformat(started_at).timestamp())


def fingerprint(config_hash: str) -> str:
    """The configuration, in OpenAI's word for what stands behind a model."""
    return f"fp_{config_hash[:10]}"


# The stream.


class Chunks:
    """Turns the events of one choice into `chat.completion.chunk` objects.

    Args:
        asked: What the stream is to tell.
        run_id: Of the first run: all chunks of a stream have one id.
        at: When it began, seconds since 1970.
        index: Which choice.
    """

    def __init__(self, asked: Asked, *, run_id: str, at: int, index: int = 0) -> None:
        self._asked = asked
        self._index = index
        self._frame: Json = {
            "id": completion_id(run_id),
            "object": "chat.completion.chunk",
            "created": at,
            "model": asked.model,
        }
        if asked.with_usage:
            self._frame["usage"] = None
        self._has_begun = False
        self._has_text = False

    def begin(self) -> list[Json]:
        """The choice as it begins, unless it has begun."""
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def of(self, event: Event) -> list[Json]:
        """What an event is to somebody who reads the stream.

        Raises:
            Refused: what was sent is withdrawn, which no stream of this kind can say.
        """
        match event:
            case TextDelta():
                self._has_text = True
                return self._said({"content": event.text}, logprobs=_logprobs(event.logprobs))
            case ReasoningDelta():
                return self._said({"reasoning_content": event.text})
            case ToolCallsDelta():
                self._has_text = True
                return self._said(self._called(event.tool_calls))
            case TextReset() if self._has_text:
                raise withdrawn()
            case RunFinished():
                finish = _finish_reason(self._asked, event.response)
                return self._said({}, finish, **self._outcome(event.response))
            case _:
                told = orchestration.progress(event) if self._asked.with_progress else None
                return [] if told is None else [self._chunk({}, orchestration=told)]

    def _called(self, pieces: Sequence[ToolCallDelta]) -> Json:
        delta: Json = {"tool_calls": [_delta(one) for one in pieces]}
        older = call_delta(pieces) if self._asked.with_functions else None
        return delta if older is None else {**delta, "function_call": older}

    def _outcome(self, response: OrchestratorResponse) -> Json:
        """What has come of a run, where no chunk of all runs is to follow."""
        if self._asked.with_usage:
            return {}
        ignored = self._asked.unheard([response])
        return {"orchestration": orchestration.outcome([response], ignored)}

    def _said(
        self,
        delta: Json,
        finish_reason: str | None = None,
        *,
        logprobs: Json | None = None,
        **more: Any,
    ) -> list[Json]:
        return [*self.begin(), self._chunk(delta, finish_reason, logprobs=logprobs, **more)]

    def _chunk(
        self,
        delta: Json,
        finish_reason: str | None = None,
        *,
        logprobs: Json | None = None,
        **more: Any,
    ) -> Json:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._frame, "choices": [choice], **more}

    def end(self, responses: Sequence[OrchestratorResponse]) -> list[Json]:
        """The last chunk of all, if it is wanted: one usage for the whole, and what came of it."""
        if not self._asked.with_usage:
            return []
        told = orchestration.outcome(responses, self._asked.unheard(responses))
        usage = usage_json(sum((one.usage for one in responses), Usage()))
        return [{**self._frame, "choices": [], "usage": usage, "orchestration": told}]


def _delta(piece: ToolCallDelta) -> Json:
    function: Json = {"arguments": piece.arguments}
    if piece.name is not None:
        function["name"] = piece.name
    told: Json = {"index": piece.index, "function": function}
    if piece.id is not None:
        told |= {"id": piece.id, "type": "function"}
    return told
