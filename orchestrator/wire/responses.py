"""OpenAI's Responses API: a request to what is asked, a run to a response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from adapters.types import Logprob, Usage
from orchestrator.config import RequestConfig
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire import chat, orchestration
from orchestrator.wire.chat import ChatBody, Json, Limit, created
from orchestrator.wire.errors import Refused
from orchestrator.wire.orchestration import Orchestration
from orchestrator.wire.reading import Body, read_part
from orchestrator.wire.response_input import Ignored, choice_of, messages_of, tools_of

Detail = Literal["auto", "concise", "detailed"]


class TextFormat(Body):
    """What the text is to be: free, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: StrictBool | None = None
    description: str | None = None


class TextConfig(Body):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Body):
    """How much thinking there is to be, and whether it is told as a summary."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Detail | None = None
    generate_summary: Detail | None = None  # what summary was called once
    mode: str | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None


class StreamOptions(Body):
    """OpenAI's."""

    include_obfuscation: StrictBool | None = None


class ResponsesBody(Body):
    """OpenAI's body of `POST /v1/responses`, and `orchestration` and `plugins` beside it."""

    input: Any = None  # a text or items; what is wrong with one of many kinds is better said by us
    model: Annotated[str, Field(min_length=1, max_length=512)]
    # What is understood.
    instructions: str | None = None
    max_output_tokens: Limit | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: ReasoningConfig | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: TextConfig | None = None
    tool_choice: str | Json | None = None
    tools: list[Json] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    # What other clients send beside them, and is understood.
    orchestration: Orchestration | None = None
    plugins: list[Json] | None = None
    # What has no meaning here: it is said in the reply that it was not used.
    background: StrictBool | None = None
    context_management: list[Json] | None = None
    include: list[str] | None = None
    max_tool_calls: int | None = None
    moderation: Json | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: str | None = None
    store: StrictBool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # What is refused: it could not be left out without another answer.
    conversation: str | Json | None = None
    previous_response_id: str | None = None
    prompt: Json | None = None


# What means the same in a chat completion, and is used or reported as there.
_SAME = (
    "moderation",
    "orchestration",
    "parallel_tool_calls",
    "plugins",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "temperature",
    "top_p",
    "user",
)
# What is refused, and what to do instead.
_REFUSED: Mapping[str, str] = {
    "conversation": "conversations are not stored; send the whole of it in 'input'",
    "previous_response_id": "answers are not stored; send what was said before in 'input'",
    "prompt": "prompts are not stored; send their text in 'instructions' and 'input'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        settings: What a response repeats of the request.
        is_streamed: Whether the answer is to come as it is written.
        with_progress: Whether a stream tells what members do.
        as_summary: Whether reasoning is told as a summary of itself.
        with_logprobs: Whether the answer is to tell how probable its tokens were.
        ignored: Fields that were given and have no effect, and why.
    """

    model: str
    request: RequestConfig
    settings: Json
    is_streamed: bool = False
    with_progress: bool = False
    as_summary: bool = False
    with_logprobs: bool = False
    ignored: Mapping[str, str]

    def unheard(self, response: OrchestratorResponse) -> Mapping[str, str]:
        """`ignored`, and what turned out to have had no effect."""
        found = orchestration.unheard([response], logprobs=self.with_logprobs)
        return {**self.ignored, **({"include": found["logprobs"]} if found else {})}

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody whom the request names."""
        named = (self.model, self.request.synthesizer, *(self.request.members or ()))
        return tuple(name for name in named if name is not None)


def asked_of(body: ResponsesBody, *, tenant: str = "") -> Asked:
    """What a body asks for.

    Raises:
        Refused: it contradicts itself, or asks for what cannot be had.
    """
    for name, why in _REFUSED.items():
        if getattr(body, name):
            raise Refused(f"'{name}': {why}", param=name, code="unsupported_parameter")
    messages, ignored = messages_of(body.instructions, body.input)
    tools, unused = tools_of(body.tools or ())
    tools, choice = choice_of(body.tool_choice, tools)
    reasoning = body.reasoning or ReasoningConfig()
    told = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    fields: Json = {
        "model": body.model,
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens or None,
        "reasoning_effort": reasoning.effort,
        "response_format": _response_format(body.text),
        "tools": tools or None,
        "tool_choice": choice,
        **_probabilities(body),
        **told,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    asked = chat.asked_of(read_part(ChatBody, given, within=""), tenant=tenant)
    return Asked(
        model=body.model,
        request=asked.requests[0],
        settings=_settings(body),
        is_streamed=asked.is_streamed,
        with_progress=asked.with_progress,
        as_summary=(reasoning.summary or reasoning.generate_summary) is not None,
        with_logprobs=asked.with_logprobs,
        ignored={**ignored, **unused, **asked.ignored, **_unused(body)},
    )


def _response_format(text: TextConfig | None) -> Json | None:
    """The format of the text, as chat completions write it."""
    wanted = text.format if text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        beside = wanted.model_fields_set - {"type"}
        if beside:
            raise Refused(
                f"'text.format' has a schema's fields, and its type is {wanted.type!r}; "
                "set type: json_schema or leave them out",
                param="text.format",
                code="invalid_value",
            )
        return None if wanted.type == "text" else {"type": wanted.type}
    for name, value in (("name", wanted.name), ("schema", wanted.schema_)):
        if value is None:
            raise Refused(
                f"Missing required parameter: 'text.format.{name}'",
                param=f"text.format.{name}",
                code="missing_required_parameter",
            )
    schema = wanted.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
    return {"type": "json_schema", "json_schema": schema}


_LOGPROBS = "message.output_text.logprobs"


def _probabilities(body: ResponsesBody) -> Json:
    """What chat completions are to tell of their tokens, where the text is to come with it."""
    if _LOGPROBS not in (body.include or ()):
        return {}
    return {"logprobs": True, "top_logprobs": body.top_logprobs}


_NOT_TOLD = "no provider behind the gateway is told"


def _unused(body: ResponsesBody) -> Ignored:
    """What was given beside the fields of a chat completion and has no effect, and why."""
    text, reasoning = body.text or TextConfig(), body.reasoning or ReasoningConfig()
    padded = body.stream_options is not None and body.stream_options.include_obfuscation
    found: Sequence[tuple[str, object, str]] = (
        ("background", body.background, "nothing is fetched later: this is the answer"),
        ("context_management", body.context_management, "what is sent is not made shorter"),
        ("include", set(body.include or ()) - {_LOGPROBS}, "answers hold no more of that"),
        ("max_output_tokens", body.max_output_tokens == 0, "0 is no limit"),
        ("max_tool_calls", body.max_tool_calls, "no tool runs here"),
        (
            "top_logprobs",
            body.top_logprobs and not _probabilities(body),
            f"'include' does not hold {_LOGPROBS!r}",
        ),
        ("top_p", body.top_p == 0, "0 is no share"),
        ("truncation", body.truncation == "auto", "what is sent is not made shorter"),
        ("stream_options.include_obfuscation", padded, "events are not padded"),
        ("text.verbosity", text.verbosity, _NOT_TOLD),
        ("reasoning.mode", reasoning.mode not in (None, "standard"), _NOT_TOLD),
        ("reasoning.context", reasoning.context not in (None, "auto"), _NOT_TOLD),
        (
            "reasoning.summary",
            (reasoning.summary or reasoning.generate_summary) not in (None, "auto"),
            "reasoning is told as the model tells it",
        ),
    )
    return {name: why for name, given, why in found if given}


def _settings(body: ResponsesBody) -> Json:
    """What a response repeats of its request."""
    text, reasoning = body.text or TextConfig(), body.reasoning or ReasoningConfig()
    form = text.format or TextFormat(type="text")
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort,
            "summary": reasoning.summary or reasoning.generate_summary,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": body.service_tier,
        "store": False,
        "temperature": body.temperature,
        "text": {
            "format": form.model_dump(by_alias=True, exclude_none=True),
            "verbosity": text.verbosity,
        },
        "tool_choice": body.tool_choice or "auto",
        "tools": [{"parameters": None, "strict": False, **tool} for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }


# The response.


def response_json(asked: Asked, response: OrchestratorResponse) -> Json:
    """The `response` that a run amounts to."""
    receipt = response.receipt
    begun = in_progress(asked, receipt.run_id, at=created(receipt.started_at))
    return finished(asked, begun, _output(asked, response), response)


def in_progress(asked: Asked, run_id: str, *, at: int) -> Json:
    """A response as it begins, seconds since 1970."""
    return {
        "id": f"resp_{run_id}",
        "object": "response",
        "created_at": at,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **asked.settings,
    }


# Why a response ends before it is complete.
_CUT: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def last_status(response: OrchestratorResponse) -> Literal["completed", "incomplete"]:
    """The status of a response, and of the last item of its output."""
    return "incomplete" if response.finish_reason in _CUT else "completed"


def finished(
    asked: Asked, begun: Json, output: Sequence[Json], response: OrchestratorResponse
) -> Json:
    """What has begun as it is in the end."""
    status, receipt = last_status(response), response.receipt
    reason = _CUT.get(response.finish_reason)
    at = created(receipt.started_at) + round(receipt.elapsed_s)
    return {
        **begun,
        "status": status,
        "completed_at": at if status == "completed" else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": list(output),
        "usage": usage_json(response.usage),
        "orchestration": orchestration.outcome([response], asked.unheard(response)),
    }


def usage_json(usage: Usage) -> Json:
    """OpenAI's usage, of every call that was paid for."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _output(asked: Asked, response: OrchestratorResponse) -> list[Json]:
    """Reasoning, what is said, and what is called, in this order."""
    told: list[tuple[Kind, str, Json]] = []
    if response.reasoning:
        told.append((thinking(asked), response.reasoning, {}))
    if response.content or not (response.reasoning or response.tool_calls):
        told.append((MESSAGE, response.content, {}))
    told += [
        (CALL, call.arguments, {"call_id": call.id, "name": call.name})
        for call in response.tool_calls
    ]
    statuses = ["completed"] * (len(told) - 1) + [last_status(response)]
    items = [
        kind.item(kind.item_id(response.receipt.run_id, place), status, text, about)
        for place, ((kind, text, about), status) in enumerate(zip(told, statuses, strict=True))
    ]
    return [
        with_logprobs(item, response.logprobs) if item["type"] == MESSAGE.type else item
        for item in items
    ]


def with_logprobs(item: Json, told: Sequence[Logprob]) -> Json:
    """A message that tells how probable its tokens were."""
    return {**item, "content": [{**part, "logprobs": spelt(told)} for part in item["content"]]}


def spelt(told: Sequence[Logprob]) -> list[Json]:
    """The same with the bytes of every token, which a response always tells."""
    return [
        {**_spelt(one), "top_logprobs": [_spelt(other) for other in one["top_logprobs"]]}
        for one in told
    ]


def _spelt(one: Logprob) -> Logprob:
    if one["bytes"] is not None:
        return one
    return {**one, "bytes": list(one["token"].encode("utf-8", "replace"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of output item, and how a stream tells it.

    Attributes:
        prefix: Of its items' ids.
        deltas: The family of events that tell its text: `<deltas>.delta`, `<deltas>.done`.
        parts: The family that opens and closes the part that holds the text, if there is one.
        holds: The field that lists the parts, or else is the text.
        place: How events say which of the parts.
        part: A part with its text.
        same: What all its items have.
        beside: What deltas and their end have beside the text.
    """

    type: str
    prefix: str
    deltas: str
    holds: str
    parts: str = ""
    place: str = ""
    part: Callable[[str], Json] | None = None
    same: Mapping[str, Any]
    beside: Mapping[str, Any]

    def item_id(self, run_id: str, place: int) -> str:
        """The id of an item, by its place in the output."""
        return f"{self.prefix}_{run_id}_{place}"

    def item(self, item_id: str, status: str, text: str | None, about: Mapping[str, Any]) -> Json:
        """An item; without a text it has no part yet."""
        if self.part is None:
            held: object = text or ""
        else:
            held = [] if text is None else [self.part(text)]
        frame = {"id": item_id, "type": self.type, "status": status}
        return {**frame, **self.same, **about, self.holds: held}


def _said(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _thought(text: str) -> Json:
    return {"type": "reasoning_text", "text": text}


def _summed_up(text: str) -> Json:
    return {"type": "summary_text", "text": text}


MESSAGE = Kind(
    type="message",
    prefix="msg",
    deltas="response.output_text",
    holds="content",
    parts="response.content_part",
    place="content_index",
    part=_said,
    same={"role": "assistant"},
    beside={"logprobs": []},
)
CALL = Kind(
    type="function_call",
    prefix="fc",
    deltas="response.function_call_arguments",
    holds="arguments",
    same={},
    beside={},
)
_REASONING = Kind(
    type="reasoning",
    prefix="rs",
    deltas="response.reasoning_text",
    holds="content",
    parts="response.content_part",
    place="content_index",
    part=_thought,
    same={"summary": []},
    beside={},
)
_SUMMARY = Kind(
    type="reasoning",
    prefix="rs",
    deltas="response.reasoning_summary_text",
    holds="summary",
    parts="response.reasoning_summary_part",
    place="summary_index",
    part=_summed_up,
    same={},
    beside={},
)


def thinking(asked: Asked) -> Kind:
    """How reasoning is told: as a summary where one is asked for, which most clients show."""
    return _SUMMARY if asked.as_summary else _REASONING
