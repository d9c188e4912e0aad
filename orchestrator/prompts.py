"""Turn a request, and what a member may see of a run, into the messages of one call. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from adapters.types import CompletionRequest, Message
from orchestrator.config import RequestConfig
from orchestrator.errors import InvalidRun
from orchestrator.fences import RULE, Fences
from orchestrator.patterns import Pattern, Stage, render
from orchestrator.synthesis import BALLOT_SCHEMAS, Draft

T = TypeVar("T")

_SYSTEM_ROLES = frozenset(("system", "developer"))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one caller of a stage may see. Lists are in the order they are shown."""

    question: str
    label: str = ""
    role: str = ""
    round: int = 1
    rounds: int = 1
    structured: bool = False  # the user asked for an answer in a given format
    own: Draft | None = None
    others: tuple[Draft, ...] = ()
    drafts: tuple[Draft, ...] = ()
    notes: tuple[str, ...] = ()
    ranking: str = ""
    item: str | None = None


# The conversation.


def conversation(request: RequestConfig) -> tuple[Message, ...]:
    """The messages a request stands for.

    Raises:
        InvalidRun: it holds no question, or two.
    """
    if request.prompt is not None and request.messages is not None:
        raise InvalidRun("'prompt' and 'messages' are both given; keep one")
    if request.prompt is not None and not request.prompt.strip():
        raise InvalidRun("The prompt is empty")
    messages: tuple[Message, ...] = request.messages or ()
    if request.prompt is not None:
        messages = ({"role": "user", "content": request.prompt},)
    if not messages:
        raise InvalidRun("There is no question: give 'prompt' or 'messages'")
    if request.system is not None:
        messages = ({"role": "system", "content": request.system}, *messages)
    return messages


def split_system(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """What the system messages say, and the others."""
    system = [text_of(message) for message in messages if message.get("role") in _SYSTEM_ROLES]
    return "\n\n".join(text for text in system if text), tuple(
        message for message in messages if message.get("role") not in _SYSTEM_ROLES
    )


def text_of(message: Message) -> str:
    """What a message says, its pictures and files named and its tool calls written out."""
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [_part(part) for part in content or ()]
    parts += [_spoken_call(call) for call in message.get("tool_calls") or ()]
    return "\n".join(part for part in parts if part)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type', 'attachment')}]"


def _spoken_call(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    return f"[called {function.get('name', 'a tool')} with {function.get('arguments', '')}]"


def question_text(messages: Sequence[Message]) -> str:
    """The question as one text: the only message, else the conversation as a transcript."""
    _, spoken = split_system(messages)
    if len(spoken) == 1:
        return text_of(spoken[0])
    return "\n\n".join(f"{message.get('role', 'user')}: {text_of(message)}" for message in spoken)


def without_tools(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation for somebody who has no tools: calls and results told in words."""
    told: list[Message] = []
    for message in messages:
        if message.get("role") == "tool":
            told.append({"role": "user", "content": f"[tool result] {text_of(message)}"})
        elif message.get("tool_calls"):
            told.append({"role": "assistant", "content": text_of(message)})
        else:
            told.append(message)
    return tuple(told)


# Messages.


def with_system(messages: Sequence[Message], addition: str) -> tuple[Message, ...]:
    """The messages, what their system messages say and the addition in one in front."""
    system, spoken = split_system(messages)
    both = "\n\n".join(text for text in (system, addition) if text)
    return ({"role": "system", "content": both}, *spoken) if both else tuple(messages)


def stage_messages(
    pattern: Pattern, stage: Stage, view: View, fences: Fences, messages: Sequence[Message]
) -> tuple[Message, ...]:
    """What one caller of a stage is sent.

    A stage without a prompt sends the conversation. Any other sends one system message, which no
    user and no model has a part in but for the caller's own system message, and one user message,
    in which whatever they wrote stands in fences.

    Raises:
        PatternError: a template failed, or its result is too long.
    """
    limit = pattern.prompt_characters
    about: dict[str, object] = {
        "label": view.label,
        "role": view.role,
        "round": view.round,
        "rounds": view.rounds,
        "count": len(view.drafts) or len(view.others),
        "structured": view.structured,
    }
    ours = render(stage.system, about, limit=limit) if stage.system else ""
    if stage.prompt is None:
        told = without_tools(messages)
        return with_system(told, ours) if ours else told
    answers_the_user = stage.product == "drafts" or stage.combine == "write"
    theirs = split_system(messages)[0] if answers_the_user else ""
    system = "\n\n".join(text for text in (theirs, ours, RULE) if text)
    values = about | _quoted(pattern, view, fences, asked=_asked(messages))
    return (
        {"role": "system", "content": system},
        {"role": "user", "content": render(stage.prompt, values, limit=limit)},
    )


def _asked(messages: Sequence[Message]) -> str:
    """What the question is called where it is quoted."""
    _, spoken = split_system(messages)
    if len(spoken) < 2:
        return "question"
    if spoken[-1].get("role") == "tool":
        return "conversation, which ends in what tools have brought for its question"
    return "conversation, whose last message is the question"


def _quoted(pattern: Pattern, view: View, fences: Fences, *, asked: str) -> dict[str, object]:
    """Everything somebody else wrote, each piece in its fence."""

    def draft(shown: Draft) -> str:
        cut = " (cut off by its length limit)" if shown.is_cut else ""
        return fences.quote(f"draft {shown.label}{cut}", shown.text, limit=pattern.draft_characters)

    def note(name: str, text: str) -> str:
        return fences.quote(name, text, limit=pattern.draft_characters)

    return {
        "question": fences.quote(asked, view.question, limit=pattern.question_characters),
        "own": draft(view.own) if view.own else "",
        "others": "\n\n".join(draft(other) for other in view.others),
        "drafts": "\n\n".join(draft(shown) for shown in view.drafts),
        "previous": "\n\n".join(note(f"note {n}", text) for n, text in enumerate(view.notes, 1)),
        "ranking": view.ranking,
        "item": "" if view.item is None else note("item", view.item),
    }


# Requests.


def plain_request(request: RequestConfig, messages: Sequence[Message]) -> CompletionRequest:
    """A call of one model, with everything the user asked for."""
    return CompletionRequest(
        messages=messages,
        tools=request.tools,
        tool_choice=request.tool_choice,
        response_format=request.response_format,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop,
        seed=request.seed,
        reasoning_effort=request.reasoning_effort,
        extra=request.extra,
    )


def written_request(request: RequestConfig, messages: Sequence[Message]) -> CompletionRequest:
    """A call for the answer that is written of several drafts, as the user asked for it.

    Probabilities are left out here and in drafts: those of one writer's tokens say nothing of an
    answer that several models have come to, and not every member can tell them.
    """
    plain = plain_request(request, messages)
    return replace(plain, extra=_without_logprobs(request.extra))


def _without_logprobs(extra: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in extra.items() if name not in _LOGPROBS}


_LOGPROBS = frozenset(("logprobs", "top_logprobs"))


def draft_request(
    request: RequestConfig,
    messages: Sequence[Message],
    stage: Stage | None = None,
    *,
    sample: int = 0,
    is_answer: bool = False,
) -> CompletionRequest:
    """A call for a draft: the user's settings, but never tools.

    `is_answer` says that one of the drafts will be the answer itself; only then do they keep the
    user's response format. A seed is moved on for every sample, or all would come out the same.
    """
    return CompletionRequest(
        messages=messages,
        response_format=request.response_format if is_answer else None,
        max_tokens=_given(request.max_tokens, stage.max_tokens if stage else None),
        temperature=_given(request.temperature, stage.temperature if stage else None),
        top_p=request.top_p,
        stop=request.stop,
        seed=None if request.seed is None else request.seed + sample,
        reasoning_effort=request.reasoning_effort,
        extra=_without_logprobs(request.extra),
    )


def note_request(
    request: RequestConfig, messages: Sequence[Message], stage: Stage
) -> CompletionRequest:
    """A call for a ballot or a note: the pattern's settings, no tools, a schema where it has one.

    The user's limits on the answer do not apply: they would cut the ballot short.
    """
    return CompletionRequest(
        messages=messages,
        response_format=response_format(stage),
        max_tokens=stage.max_tokens,
        temperature=stage.temperature,
        seed=request.seed,
    )


def response_format(stage: Stage) -> dict[str, Any] | None:
    """OpenAI's wrapping of the schema a stage's output must follow, if it must follow one."""
    schema = BALLOT_SCHEMAS.get(stage.combine or "") if stage.output is None else stage.output
    if schema is None:
        return None
    wrapped = {"name": stage.name, "schema": dict(schema), "strict": True}
    return {"type": "json_schema", "json_schema": wrapped}


def _given(first: T | None, second: T | None) -> T | None:
    """The first that is given; 0 is given."""
    return second if first is None else first
