"""Every parameter that openai's SDK knows, with every kind of value that its types allow.

The values are made of the SDK's own type hints: what a later release brings is sent as well, and
fails here until somebody has decided what it is to mean.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from typing_extensions import get_type_hints, is_typeddict

from orchestrator import AsyncOpenAI
from orchestrator.simulator import Simulator
from tests.faces import HELLO, configured

Json = dict[str, Any]

# Texts that may not be any: by the field they stand in.
TEXTS: Mapping[str, str] = {
    "arguments": "{}",
    "call_id": "call_1",
    "data": "UklGRg==",
    "file_data": "data:application/pdf;base64,JVBERi0=",
    "file_url": "https://example.org/a.pdf",
    "id": "call_1",
    "image_url": "data:image/png;base64,iVBORw0KGgo=",
    "model": "alpha",
    "name": "weather",
    "tool_call_id": "call_1",
    "url": "data:image/png;base64,iVBORw0KGgo=",
}
# Objects that have any fields, as far as the types tell.
OBJECTS: Mapping[str, Json] = {
    "logit_bias": {"50256": -100},
    "tools": {"type": "function", "name": "weather", "function": {"name": "weather"}},
}
SIMPLE: Mapping[Any, Any] = {int: 1, float: 0.5, bool: True, object: {}}


def values(hint: Any, name: str = "", *, deep: int) -> list[Any]:
    """A value of each kind that a type allows; so many objects deep, each field's kinds."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Annotated, Required, NotRequired):
        return values(inner[0], name, deep=deep)
    if kind in (Union, UnionType):
        each = [values(one, name, deep=deep) for one in inner if one is not NoneType]
        return [value for found in each for value in found]
    if kind is Literal:
        return list(inner)
    if is_typeddict(hint):
        return objects(hint, deep - 1)
    if kind is dict:
        return [OBJECTS.get(name, {"key": values(inner[1], deep=deep)[0]})]
    if kind in (list, Iterable):
        return [[value] for value in values(inner[0], name, deep=deep)]
    if isinstance(kind, type):  # the SDK's own sequence of texts
        return [["x"]]
    return [SIMPLE[hint]] if hint is not str else [TEXTS.get(name, "x")]


@cache
def hints(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def objects(kind: Any, deep: int) -> list[Json]:
    """The object with all its fields; and with each other value of a field, one at a time."""
    each = {name: values(hint, name, deep=deep) for name, hint in hints(kind).items()}
    whole = {name: found[0] for name, found in each.items()}
    if deep < 0:
        return [whole]
    return [
        whole,
        *({**whole, name: value} for name, found in each.items() for value in found[1:]),
    ]


def sent(hinted: Mapping[str, Any], name: str, *, thorough: bool) -> list[Any]:
    """What is sent as a parameter; a model is one that is there."""
    return values(hinted[name], name, deep=6 if thorough else 2)[: 1 if name == "model" else None]


CALLING: Json = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ],
}
CALLED: Json = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
RESULT: Json = {"type": "function_call_output", "call_id": "call_1", "output": "Rain"}
FUNCTION: Json = {"name": "weather", "parameters": {"type": "object"}}


def chat_body(name: str, value: Any) -> Json:
    """A chat completion that is asked for with this value, and with what goes with it."""
    body: Json = {"model": "alpha", "messages": HELLO, name: value}
    match name:
        case "model":
            body["model"] = "alpha"
        case "messages":
            body["messages"] = [*HELLO, CALLING, *value, *HELLO]
        case "function_call":
            body["functions"] = [FUNCTION]
        case "tool_choice" | "parallel_tool_calls":
            body["tools"] = [{"type": "function", "function": FUNCTION}]
        case "top_logprobs":
            body["logprobs"] = True
    return body


def response_body(name: str, value: Any) -> Json:
    """A response that is asked for with this value, and with what goes with it."""
    body: Json = {"model": "alpha", "input": "Why?", name: value}
    match name, value:
        case "model", _:
            body["model"] = "alpha"
        case "input", [{"type": "function_call_output"}]:
            body["input"] = [*HELLO, CALLED, *value]
        case "input", [{"type": "function_call"}]:
            body["input"] = [*HELLO, *value, RESULT]
        case "input", [_]:
            body["input"] = [*value, *HELLO]
        case "tool_choice", _:
            body["tools"] = [{"type": "function", **FUNCTION}]
    return body


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    """Strict: a reply that is not of the SDK's types is an error."""
    config = configured(simulator)
    async with AsyncOpenAI(config=config, _strict_response_validation=True) as client:
        yield client


async def refusals(create: Any, bodies: Sequence[Json]) -> list[tuple[str, str]]:
    """Of those that were refused, what is blamed, without its places in lists, and the code."""
    found = []
    for body in bodies:
        try:
            await create(**body)
        except openai.BadRequestError as error:
            found.append((re.sub(r"\[\d+\]", "", str(error.param)), str(error.code)))
    return found


# What is refused, by whom it is asked: what is blamed, and the code. All of it is what would change
# the answer if it were left out, and what cannot be had here: sound, grammars and tools that run at
# OpenAI, and whatever was kept there.
CHAT_REFUSED: Mapping[str, set[tuple[str, str]]] = {
    "messages": {("messages.tool_calls.type", "invalid_value")},  # custom tools
    "modalities": {("modalities", "unsupported_value")},  # nothing but sound
    "tool_choice": {("tool_choice.type", "invalid_value")},  # custom tools
    "tools": {("tools.type", "unsupported_value")},  # custom tools
}
RESPONSES_REFUSED: Mapping[str, set[tuple[str, str]]] = {
    "conversation": {("conversation", "unsupported_parameter")},
    "input": {
        ("input.type", "unsupported_value"),  # what built-in tools have called and come to
        ("input.content.file_id", "unsupported_value"),
        ("input.output.file_id", "unsupported_value"),
        ("input", "unsupported_value"),  # references to what was kept
    },
    "previous_response_id": {("previous_response_id", "unsupported_parameter")},
    "prompt": {("prompt", "unsupported_parameter")},
    "tool_choice": {("tool_choice", "invalid_value")},  # built-in tools
    "tools": {("tools.type", "unsupported_value")},  # built-in tools
}
CHAT = hints(CompletionCreateParamsNonStreaming)
RESPONSES = hints(ResponseCreateParamsNonStreaming)


@pytest.mark.parametrize("name", CHAT)
async def test_chat_completions_take_what_the_sdk_may_send(
    client: AsyncOpenAI, name: str, thorough: bool
) -> None:
    """It is answered with the SDK's own types; what is refused is in the table, and blamed."""
    bodies = [chat_body(name, value) for value in sent(CHAT, name, thorough=thorough)]

    found = await refusals(client.chat.completions.create, bodies)

    assert set(found) == CHAT_REFUSED.get(name, set())
    assert len(found) < len(bodies)


@pytest.mark.parametrize("name", RESPONSES)
async def test_responses_take_what_the_sdk_may_send(
    client: AsyncOpenAI, name: str, thorough: bool
) -> None:
    """The same of the other way to ask."""
    bodies = [response_body(name, value) for value in sent(RESPONSES, name, thorough=thorough)]

    found = await refusals(client.responses.create, bodies)

    assert set(found) == RESPONSES_REFUSED.get(name, set())
    assert len(found) < len(bodies) or RESPONSES_REFUSED[name] == {(name, "unsupported_parameter")}


# As careful clients send them, all at once: some odd, all of them legal.
AT_ONCE: Json = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": -2,
    "function_call": "none",
    "functions": [FUNCTION],
    "logit_bias": {"50256": 0},
    "logprobs": True,
    "max_completion_tokens": 0,
    "max_tokens": 0,
    "metadata": {"team": "blue"},
    "modalities": ["text", "audio"],
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"content": "Blue", "type": "content"},
    "presence_penalty": -2,
    "response_format": {"type": "text"},
    "seed": -(2**53) + 1,
    "service_tier": "auto",
    "stop": "\n\n\n",
    "store": True,
    "stream_options": {"include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "u-1",
    "web_search_options": {"search_context_size": "low"},
}
UNUSED = {
    *("audio", "function_call", "functions", "max_completion_tokens", "max_tokens", "metadata"),
    *("modalities", "prediction", "store", "web_search_options"),
}


@pytest.mark.parametrize("role", ["system", "developer", "user"])
async def test_all_parameters_go_together(client: AsyncOpenAI, role: str) -> None:
    """Plain, raw and streamed, after a message of any kind; what had no effect is told."""
    create, messages = client.chat.completions, [{"role": role, "name": "me", "content": "Why?"}]
    asked: Json = {"model": "alpha", "messages": messages, **AT_ONCE}

    raw = await create.with_raw_response.create(**{**asked, "stream": False})
    stream = await create.create(**{**asked, "stream": True})
    chunks = [chunk async for chunk in stream]

    reply = raw.parse()
    ignored = set(reply.model_extra["orchestration"]["ignored"])  # type: ignore[index]
    assert ignored == UNUSED | {"stream_options"}
    assert set(raw.headers["x-orchestrator-ignored"].split(", ")) == ignored
    assert set(chunks[-1].model_extra["orchestration"]["ignored"]) == UNUSED
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == reply.choices[0].message.content
    assert chunks[-1].usage == reply.usage


# The same of a response.
RESPONSE_AT_ONCE: Json = {
    "background": True,
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    "include": ["file_search_call.results", "message.output_text.logprobs"],
    "input": "Why?",
    "instructions": "Be brief.",
    "max_output_tokens": 4000,
    "max_tool_calls": 3,
    "metadata": {"team": "blue"},
    "moderation": {"model": "omni"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "k-1",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning": {
        "context": "all_turns",
        "effort": "low",
        "generate_summary": "auto",
        "mode": "pro",
        "summary": "concise",
    },
    "safety_identifier": "s-1",
    "service_tier": "auto",
    "store": True,
    "stream_options": {"include_obfuscation": True},
    "temperature": 0,  # so that both ways give one answer
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tool_choice": "none",
    "tools": [
        {
            **FUNCTION,
            "type": "function",
            "description": "Tells it.",
            "strict": True,
            "allowed_callers": ["programmatic"],
            "defer_loading": True,
            "output_schema": {"type": "object"},
        }
    ],
    "top_logprobs": 1,
    "top_p": 1,
    "truncation": "auto",
    "user": "u-1",
}
RESPONSE_UNUSED = {
    *("background", "context_management", "include", "max_tool_calls", "moderation"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "store"),
    *("reasoning.context", "reasoning.mode", "reasoning.summary", "text.verbosity"),
    *("stream_options.include_obfuscation", "truncation"),
    *("tools.allowed_callers", "tools.defer_loading", "tools.output_schema"),
}


async def test_all_parameters_of_a_response_go_together(client: AsyncOpenAI) -> None:
    """Raw and streamed; what had no effect is told, and what had is repeated."""
    create = client.responses
    asked: Json = {"model": "alpha", **RESPONSE_AT_ONCE}

    raw = await create.with_raw_response.create(**{**asked, "stream": False})
    stream = await create.create(**{**asked, "stream": True})
    events = [event async for event in stream]

    reply, last = raw.parse(), events[-1]
    ignored = set(reply.model_extra["orchestration"]["ignored"])  # type: ignore[index]
    assert ignored == RESPONSE_UNUSED
    assert set(raw.headers["x-orchestrator-ignored"].split(", ")) == ignored
    assert last.type == "response.completed"
    assert last.response.output_text == reply.output_text
    assert last.response.usage == reply.usage
    assert (reply.max_output_tokens, reply.temperature, reply.user) == (4000, 0, "u-1")
    assert reply.metadata == {"team": "blue"}
