"""Anthropic's messages: a request to what is asked, a run to a message, events to events."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, TypeAdapter, ValidationError

from adapters.config import LLMProvider
from adapters.types import FinishReason, ToolCall, ToolCallDelta, Usage
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
from orchestrator.wire.chat import MOST_MESSAGES, Asked
from orchestrator.wire.errors import Fault, Refused, withdrawn
from orchestrator.wire.message_blocks import Conversation
from orchestrator.wire.orchestration import Orchestration
from orchestrator.wire.reading import Body

Json = dict[str, Any]

# Who takes Anthropic's `thinking` through its adapter; the others know a reasoning effort.
TAKE_THINKING = frozenset((LLMProvider.ANTHROPIC, LLMProvider.GOOGLE, LLMProvider.COHERE))
_EFFORTS = ((1_024, "low"), (2_048, "medium"))  # up to so many tokens; more is high


class Thinking(Body):
    """Whether, and how long, the model may think."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1_024)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class ToolChoice(Body):
    """Which of the tools the model is to use."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: StrictBool = False


class JsonFormat(Body):
    """The shape that the answer is to have."""

    type: Literal["json_schema"]
    schema_: Json = Field(alias="schema")


class OutputConfig(Body):
    """How much effort the answer is worth, and its shape."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(Body):
    """Whose request it is."""

    user_id: Annotated[str, Field(max_length=512)] | None = None


class CountBody(Body):
    """Anthropic's body of `POST /v1/messages/count_tokens`."""

    messages: Annotated[list[Json], Field(min_length=1, max_length=MOST_MESSAGES)]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    cache_control: Json | None = None
    output_config: OutputConfig | None = None
    speed: Literal["standard", "fast"] | None = None
    system: str | list[Any] | None = None
    thinking: Thinking | None = None
    tool_choice: ToolChoice | None = None
    tools: list[Json] | None = None


class MessagesBody(CountBody):
    """Anthropic's body of `POST /v1/messages`, and `orchestration` beside it."""

    max_tokens: Annotated[int, Field(ge=1)]
    container: str | Json | None = None
    diagnostics: Json | None = None
    inference_geo: str | None = None
    metadata: Metadata | None = None
    orchestration: Orchestration | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: list[str] | None = None
    stream: StrictBool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    thread: Json | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


# Why a field, or a header that stands for one, has no effect. Each is reported in the reply.
_UNUSED: Mapping[str, str] = {
    "cache_control": "the providers' prompt caches are not steered from here",
    "diagnostics": "nothing is kept of the requests before",
    "service_tier": "which tier a provider serves is settled with the provider",
    "speed": "which speed a provider serves is settled with the provider",
}
_UNUSED_HEADERS: Mapping[str, str] = {
    "anthropic-beta": "what is understood needs no leave, and nothing else is",
    "anthropic-user-profile-id": "metadata.user_id says whose request it is",
    "anthropic-workspace-id": "the key says on whose behalf",
}
_USUAL = (None, "auto", "standard")  # asks for nothing but what would be done anyway
_IMPOSSIBLE: Mapping[str, str] = {
    "container": "no containers are kept here",
    "inference_geo": "where a model runs is said in the configuration of its deployment",
    "thread": "no conversations are kept here; send all messages, and leave it out",
}
_NO_THREADS = "thread_unsupported_request"  # the SDK's tool runner goes on without one


def asked_of(
    body: MessagesBody,
    *,
    providers: Collection[LLMProvider],
    headers: Mapping[str, str],
    tenant: str = "",
) -> Asked:
    """What a body asks for.

    Args:
        body: As it was read.
        providers: Everybody who may be asked.
        headers: Of the request, by lower-case names.
        tenant: On whose behalf.

    Raises:
        Refused: it contradicts itself, or asks for what cannot be had.
    """
    _refuse_the_impossible(body)
    fields, ignored = _question(body)
    thought, unthought = _thinking(body, providers)
    effort = thought.pop("reasoning_effort", None)
    extra: Json = {**fields.pop("extra"), **thought}
    if body.metadata and body.metadata.user_id is not None:
        extra["user"] = body.metadata.user_id
    if body.top_k is not None:
        extra["top_k"] = body.top_k
    how = body.orchestration or Orchestration()
    request = RequestConfig.model_validate(
        {
            **fields,
            **how.fields(),
            "model": body.model,
            "tenant": tenant,
            "max_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "stop": body.stop_sequences or None,
            "reasoning_effort": effort,
            "response_format": _response_format(body),
            "extra": extra,
        }
    )
    named = {name: why for name, why in _UNUSED_HEADERS.items() if headers.get(name)}
    return Asked(
        model=body.model,
        requests=(request,),
        is_streamed=bool(body.stream),
        with_progress=how.progress,
        ignored={**_unused(body), **ignored, **unthought, **named},
    )


def counted_of(body: CountBody) -> tuple[RequestConfig, dict[str, str]]:
    """What is to be counted, and what of it has no effect.

    Raises:
        Refused: something in it is not what is wanted.
    """
    fields, ignored = _question(body)
    request = RequestConfig.model_validate({**fields, "model": body.model})
    return request, {**_unused(body), **ignored}


def _question(body: CountBody) -> tuple[Json, dict[str, str]]:
    """The fields that say what is asked and which tools there are; what in them has no effect."""
    conversation = Conversation()
    fields: Json = {"messages": conversation.messages(body.system, body.messages), "extra": {}}
    if body.tools:
        fields["tools"] = conversation.tools(body.tools)
    if body.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(body.tool_choice, body.tools or [])
        if body.tool_choice.disable_parallel_tool_use:
            fields["extra"] = {"parallel_tool_calls": False}
    return fields, conversation.ignored


def _unused(body: CountBody) -> dict[str, str]:
    given = _UNUSED.keys() & body.model_fields_set
    return {name: _UNUSED[name] for name in sorted(given) if getattr(body, name) not in _USUAL}


def _refuse_the_impossible(body: MessagesBody) -> None:
    for name, why in _IMPOSSIBLE.items():
        if getattr(body, name) is not None:
            code = _NO_THREADS if name == "thread" else "unsupported_parameter"
            raise Refused(f"Invalid '{name}': {why}", param=name, code=code)
    thinking = body.thinking
    if thinking is None or thinking.type != "enabled":
        return
    if thinking.budget_tokens is None:
        raise Refused(
            "Missing required parameter: 'thinking.budget_tokens'",
            param="thinking.budget_tokens",
            code="missing_required_parameter",
        )
    if thinking.budget_tokens >= body.max_tokens:
        raise Refused(
            "Invalid 'thinking.budget_tokens': it must be less than 'max_tokens'",
            param="thinking.budget_tokens",
            code="invalid_value",
        )


def _tool_choice(choice: ToolChoice, tools: list[Json]) -> str | Json:
    if not tools:
        raise Refused("'tool_choice' needs 'tools'", param="tool_choice", code="invalid_value")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name not in [tool.get("name") for tool in tools]:
        raise Refused(
            "Invalid 'tool_choice.name': wanted the name of one of 'tools'",
            param="tool_choice.name",
            code="invalid_value",
        )
    return {"type": "function", "function": {"name": choice.name}}


_CHOICES: Mapping[str, str] = {"auto": "auto", "any": "required", "none": "none"}


def _response_format(body: CountBody) -> Json | None:
    wanted = body.output_config.format if body.output_config else None
    if wanted is None:
        return None
    schema = {"name": "answer", "schema": wanted.schema_, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


# Thinking: Anthropic's own words to those who take them, a reasoning effort to the others.


def _thinking(
    body: MessagesBody, providers: Collection[LLMProvider]
) -> tuple[Json, dict[str, str]]:
    """`thinking` or `reasoning_effort`, and what of them has no effect."""
    thinking = body.thinking
    effort = body.output_config.effort if body.output_config else None
    if thinking is None or (thinking.type == "adaptive" and effort is not None):
        return ({} if effort is None else {"reasoning_effort": effort}), {}
    ignored = {}
    if thinking.display is not None:
        ignored["thinking.display"] = "thinking is shown as its provider shows it"
    if thinking.type == "enabled" and _is_within_a_turn(body) and _ANTHROPIC in providers:
        ignored["thinking"] = "Anthropic goes on with a turn only after its own signed thinking"
        return {}, ignored
    if TAKE_THINKING.issuperset(providers):
        if effort is not None:
            ignored["output_config.effort"] = "'thinking' says the same"
        return {"thinking": thinking.model_dump(exclude={"display"}, exclude_none=True)}, ignored
    if effort is not None:
        ignored["thinking"] = "not everybody who is asked takes it; output_config.effort counts"
        return {"reasoning_effort": effort}, ignored
    if thinking.budget_tokens is None or thinking.type != "enabled":
        ignored["thinking"] = "not everybody who is asked can be told so"
        return {}, ignored
    budget = thinking.budget_tokens
    word = next((word for most, word in _EFFORTS if budget <= most), "high")
    ignored["thinking.budget_tokens"] = f"not everybody takes it; they are told {word!r} effort"
    return {"reasoning_effort": word}, ignored


_ANTHROPIC = LLMProvider.ANTHROPIC


def _is_within_a_turn(body: CountBody) -> bool:
    """Whether the model waits for the results of tools that it has called."""
    content = body.messages[-1].get("content")
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


# The reply.

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",  # a stop sequence as well, where its provider does not say which it was
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def message(asked: Asked, response: OrchestratorResponse) -> Json:
    """The message that a run amounts to."""
    content: list[Json] = []
    if response.reasoning:
        content.append(_opening("thinking") | {"thinking": response.reasoning})
    if response.content:
        content.append({"type": "text", "text": response.content})
    content += [_tool_use(call) for call in response.tool_calls]
    return {
        **_frame(asked.model, response.receipt.run_id),
        "content": content,
        **_stop(response),
        "usage": usage_json(response.usage),
        "orchestration": orchestration.outcome([response], asked.ignored),
    }


def _frame(model: str, run_id: str) -> Json:
    return {"id": f"msg_{run_id}", "type": "message", "role": "assistant", "model": model}


def _stop(response: OrchestratorResponse) -> Json:
    reason, sequence = response.finish_reason, response.stop_sequence
    return {
        "stop_reason": STOP_REASONS[reason] if sequence is None else "stop_sequence",
        "stop_sequence": sequence,
        "stop_details": {"type": "refusal"} if reason == "content_filter" else None,
    }


def _opening(kind: Literal["thinking", "text"]) -> Json:
    return {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}


def _tool_use(call: ToolCall) -> Json:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}


def _input(arguments: str) -> Json:
    """What a tool is given; of arguments that were cut off, as much as there is."""
    if not arguments.strip():
        return {}
    try:
        return _OBJECT.validate_json(
            arguments.encode("utf-8", "replace"), experimental_allow_partial=True
        )
    except ValidationError:
        return {}


_OBJECT: TypeAdapter[Json] = TypeAdapter(Json)


def usage_json(usage: Usage) -> Json:
    """Anthropic's usage, of every call that was paid for: its cache counts apart from the rest."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


# The stream.

Named = tuple[str, Json]


class MessageEvents:
    """Turns the events of a run into Anthropic's, which come as their names and what they say.

    Args:
        asked: What the stream is to tell.
        run_id: Of the run.
    """

    def __init__(self, asked: Asked, run_id: str) -> None:
        self._asked = asked
        self._run_id = run_id
        self._has_begun = False
        self._has_answer = False
        self._blocks = 0
        self._open: str | int | None = None  # "thinking", "text", or which of the tool calls
        self._tools: dict[int, int] = {}  # tool calls and the blocks they are told in
        self._has_input: set[int] = set()

    def of(self, event: Event) -> list[Named]:
        """What an event is to somebody who reads the stream.

        Raises:
            Refused: what was sent is withdrawn, which no stream of this kind can say.
        """
        match event:
            case TextDelta():
                self._has_answer = True
                return self._said("text", event.text)
            case ReasoningDelta():
                return self._said("thinking", event.text)
            case ToolCallsDelta():
                self._has_answer = True
                return [told for piece in event.tool_calls for told in self._called(piece)]
            case TextReset() if self._has_answer:
                raise withdrawn()
            case RunFinished():
                return self._end(event.response)
            case _:
                told = orchestration.progress(event) if self._asked.with_progress else None
                return [] if told is None else [_event("ping", orchestration=told)]

    def _begin(self) -> list[Named]:
        """The message as it stands before anything of it is there."""
        if self._has_begun:
            return []
        self._has_begun = True
        frame = _frame(self._asked.model, self._run_id)
        stop = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
        begun = {**frame, "content": [], **stop, "usage": usage_json(Usage())}
        return [_event("message_start", message=begun)]

    def _said(self, kind: Literal["thinking", "text"], text: str) -> list[Named]:
        told = [] if self._open == kind else self._start(kind, _opening(kind))
        return [*told, _delta(self._blocks - 1, {"type": f"{kind}_delta", kind: text})]

    def _called(self, piece: ToolCallDelta) -> list[Named]:
        """A piece of a tool call; one that comes late still goes where the call stands."""
        told: list[Named] = []
        if piece.index not in self._tools:
            opening = {"type": "tool_use", "id": piece.id or "", "name": piece.name or ""}
            told = self._start(piece.index, {**opening, "input": {}})
            self._tools[piece.index] = self._blocks - 1
        # Blanks alone are no input, and no reader of JSON takes them for one.
        has_input = piece.index in self._has_input
        arguments = piece.arguments if has_input else piece.arguments.lstrip()
        if arguments:
            self._has_input.add(piece.index)
            delta = {"type": "input_json_delta", "partial_json": arguments}
            told.append(_delta(self._tools[piece.index], delta))
        return told

    def _start(self, what: str | int, block: Json) -> list[Named]:
        told = [*self._begin(), *self._stop_block()]
        told.append(_event("content_block_start", index=self._blocks, content_block=block))
        self._open = what
        self._blocks += 1
        return told

    def _stop_block(self) -> list[Named]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", index=self._blocks - 1)]

    def _end(self, response: OrchestratorResponse) -> list[Named]:
        return [
            *self._begin(),
            *self._stop_block(),
            _event(
                "message_delta",
                delta=_stop(response),
                usage=usage_json(response.usage),
                orchestration=orchestration.outcome([response], self._asked.ignored),
            ),
            _event("message_stop"),
        ]


def _event(name: str, **fields: Any) -> Named:
    return name, {"type": name, **fields}


def _delta(index: int, delta: Json) -> Named:
    return _event("content_block_delta", index=index, delta=delta)


# Errors.

_KINDS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED = frozenset(("overloaded", "deployment_busy"))  # codes: ask again soon


class AnthropicFault(Fault):
    """An error as Anthropic's clients are told it."""

    @property
    def body(self) -> Json:
        """Anthropic's error object."""
        error: Json = {"type": self.kind, "message": self.message}
        if self.code:
            error["details"] = {"error_code": self.code}
        if self.code == _NO_THREADS:
            error["details"]["unsupported"] = ["thread"]
        return {"type": "error", "error": error}


def as_anthropic(told: Fault) -> AnthropicFault:
    """The same error in Anthropic's words.

    >>> told = Fault(status=503, message="busy", kind="server_error", code="deployment_busy")
    >>> as_anthropic(told).status, as_anthropic(told).kind
    (529, 'overloaded_error')
    """
    status = 529 if told.status == 503 and told.code in _OVERLOADED else told.status
    usual = "invalid_request_error" if status < 500 else "api_error"
    return AnthropicFault(
        status=status,
        message=told.message,
        kind=_KINDS.get(status, usual),
        code=told.code,
        param=told.param,
        headers=told.headers,
    )
