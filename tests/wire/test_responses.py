"""The Responses API's JSON: what a request means, and that what is told is OpenAI's own."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent, response_create_params
from pydantic import BaseModel

from adapters.types import FinishReason, ToolCall, ToolCallDelta, Usage
from orchestrator.events import (
    Event,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    StageStarted,
    TextDelta,
    TextReset,
    ToolCallsDelta,
)
from orchestrator.responses import OrchestratorResponse, Receipt
from orchestrator.wire.chat import ChatBody, created
from orchestrator.wire.chat import asked_of as chat_asked_of
from orchestrator.wire.errors import Fault, Refused
from orchestrator.wire.reading import read_body
from orchestrator.wire.response_events import ResponseEvents
from orchestrator.wire.responses import Asked, ResponsesBody, asked_of, response_json

Json = dict[str, Any]
STARTED_AT = "2026-01-02T03:04:05+00:00"
# openai's types of events by their names.
EVENTS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(ResponseStreamEvent)[0])
}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "What it is like outside",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": None}
PERSON = {
    "type": "json_schema",
    "name": "person",
    "schema": {"type": "object", "properties": {"name": {"type": "string"}}},
    "strict": True,
}


def asked(**fields: Any) -> Asked:
    body = {"model": "gpt", "input": "Hi", **fields}
    return asked_of(read_body(ResponsesBody, orjson.dumps(body)), tenant="t")


def refused(**fields: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        asked(**fields)
    assert caught.value.status == 400
    return caught.value


def sent(given: Any) -> list[Json]:
    """The messages that an input amounts to."""
    return [dict(message) for message in asked(input=given).request.messages or ()]


def answered(
    content: str = "",
    *,
    reasoning: str = "",
    calls: Sequence[ToolCall] = (),
    finish: FinishReason = "stop",
) -> OrchestratorResponse:
    usage = Usage(
        prompt_tokens=7,
        completion_tokens=5,
        cached_tokens=3,
        cache_write_tokens=2,
        reasoning_tokens=1,
    )
    receipt = Receipt(
        run_id="r1",
        model="gpt",
        pattern="",
        prompt="Hi",
        seed=0,
        config_hash="0" * 16,
        started_at=STARTED_AT,
        elapsed_s=1.2,
        status="complete",
        causes=(),
        missing=(),
        calls=1,
        usage=usage,
        stages=(),
        content=content,
    )
    return OrchestratorResponse(
        content=content,
        status="complete",
        causes=(),
        model_responses={},
        receipt=receipt,
        finish_reason=finish,
        reasoning=reasoning,
        tool_calls=tuple(calls),
    )


def extras(value: Any) -> set[str]:
    """The names of fields that openai's types do not have, anywhere in a value."""
    if isinstance(value, BaseModel):
        inner = [getattr(value, name) for name in type(value).model_fields]
        return set(value.model_extra or ()).union(*map(extras, inner))
    if isinstance(value, list):
        return set().union(*map(extras, value))
    return set()


def check_response(told: Json) -> Response:
    """A response that openai's type takes as it is and gives back as it was."""
    response = Response.model_validate(told, strict=True)
    assert response.model_dump(mode="json", by_alias=True, exclude_unset=True) == told
    assert extras(response) <= {"orchestration", "store"}
    return response


def check_events(told: Sequence[Json]) -> None:
    """Events that openai's types take as they are, in an order that makes sense."""
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    for one in told:
        event = EVENTS[one["type"]].model_validate(one, strict=True)
        assert event.model_dump(mode="json", by_alias=True, exclude_unset=True) == one
        assert extras(event) <= {"orchestration", "store", "error"}
    assert [one["type"] for one in told][:2] == ["response.created", "response.in_progress"]
    is_open: dict[int, str] = {}
    for one in told:
        place = one.get("output_index")
        if one["type"] == "response.output_item.added":
            assert place not in is_open
            is_open[place] = one["item"]["id"]
        elif one["type"] == "response.output_item.done":
            assert is_open[place] == one["item"]["id"]
            is_open[place] = ""
        elif place is not None:
            assert is_open[place] == one["item_id"]
    assert not any(is_open.values())


def started() -> RunStarted:
    return RunStarted(run_id="r1", model="gpt", pattern="", members=("gpt",), stages=(), seed=0)


def told(wanted: Asked, events: Iterable[Event]) -> list[Json]:
    """What a stream tells of a run's events."""
    writer = ResponseEvents(wanted, at=created(STARTED_AT))
    return [one for event in (started(), *events) for one in writer.of(event)]


def snapshot(events: Sequence[Json]) -> Any:
    """What openai's own stream helper makes of events."""
    state = ResponseStreamState[None](input_tools=omit, text_format=omit)
    seen = None
    for one in events:
        seen = state.accumulate_event(EVENTS[one["type"]].model_validate(one))  # type: ignore[arg-type]
        state._ResponseStreamState__current_snapshot = seen  # type: ignore[attr-defined]
    return seen


# What is asked.


def test_a_text_and_instructions_are_a_system_and_a_user_message() -> None:
    """The shortest request there is, with everything that means the same elsewhere."""
    wanted = asked(
        instructions="Be brief",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        user="u",
        safety_identifier="s",
        service_tier="flex",
        reasoning={"effort": "low"},
    )

    request = wanted.request
    assert [dict(message) for message in request.messages or ()] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]
    assert (request.max_tokens, request.temperature, request.top_p) == (9, 0.5, 0.9)
    assert (request.reasoning_effort, request.tenant) == ("low", "t")
    assert request.extra == {
        "safety_identifier": "s",
        "service_tier": "flex",
        "user": "u",
    }
    assert wanted.ignored == {}


def test_it_asks_for_the_same_run_as_the_equal_chat_completion() -> None:
    """One and the same request, in either of OpenAI's two ways of writing it."""
    here = asked(
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        max_output_tokens=50,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        text={"format": PERSON},
        orchestration={"max_calls": 3, "tags": ["a"]},
    )
    function = {name: value for name, value in WEATHER.items() if name != "type"}
    schema = {name: value for name, value in PERSON.items() if name != "type"}
    there = {
        "model": "gpt",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 50,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": schema},
        "orchestration": {"max_calls": 3, "tags": ["a"]},
    }

    chat = chat_asked_of(read_body(ChatBody, orjson.dumps(there)), tenant="t")

    assert here.request == chat.requests[0]


def test_a_turn_with_tools_becomes_the_messages_of_a_chat() -> None:
    """Calls made together are one message; their results follow, and thoughts stay behind."""
    conversation = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "type": "message",
            "id": "msg",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Let me ", "annotations": [], "logprobs": []},
                {"type": "output_text", "text": "see", "annotations": []},
            ],
        },
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "clock", "arguments": "{}", "id": "fc"},
        {"type": "function_call_output", "call_id": "2", "output": "noon"},
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"type": "input_text", "text": "sun"}],
        },
        {"role": "developer", "content": "In French"},
    ]

    wanted = asked(input=conversation)

    def call(call_id: str, name: str) -> Json:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}

    assert [dict(message) for message in wanted.request.messages or ()] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see",
            "tool_calls": [call("1", "weather"), call("2", "clock")],
        },
        {"role": "tool", "tool_call_id": "2", "content": "noon"},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
        {"role": "developer", "content": "In French"},
    ]
    assert set(wanted.ignored) == {"input.reasoning"}


def test_what_is_said_after_a_call_joins_the_call() -> None:
    """No provider takes words between a call and its result."""
    (message, _) = sent(
        [
            {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
            {"role": "assistant", "content": "One moment"},
            {"type": "function_call_output", "call_id": "1", "output": "sun"},
        ]
    )

    assert message["content"] == "One moment"
    assert [call["id"] for call in message["tool_calls"]] == ["1"]


def test_a_refusal_of_earlier_is_what_the_assistant_said() -> None:
    """Providers other than OpenAI know no other way to be told of it."""
    (message,) = sent(
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "I would rather not"}]}]
    )

    assert message == {"role": "assistant", "content": "I would rather not"}


def test_images_and_files_are_parts_of_a_message() -> None:
    """What a user shows is sent as chat completions have it."""
    url = "data:image/png;base64,AAAA"
    (message,) = sent(
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": url, "detail": "low"},
                    {"type": "input_image", "image_url": url, "detail": "original"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:,x"},
                ],
            }
        ]
    )

    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,x"}},
    ]


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        (None, "input", "Missing"),
        (5, "input", "a text or a list of items, found a number"),
        ([], "input", "holds no message"),
        (["Hi"], "input[0]", "an object"),
        ([{"type": "web_search_call"}], "input[0].type", "'web_search_call'"),
        ([{"id": "msg_1"}], "input[0]", "send the item itself"),
        ([{"type": "item_reference", "id": "x"}], "input[0]", "send the item itself"),
        ([{"role": "tool", "content": ""}], "input[0].role", "assistant"),
        ([{"role": "user"}], "input[0].content", "found nothing"),
        ([{"role": "user", "content": "", "nme": "x"}], "input[0].nme", "Unknown"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
            "input[0].content[0].type",
            "input_text",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}],
            "input[0].content[0].file_id",
            "send image_url",
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a"}]}],
            "input[0].content[0].file_url",
            "file_data",
        ),
        (
            [{"role": "user", "content": [{**IMAGE, "detail": "tiny"}]}],
            "input[0].content[0].detail",
            "one of auto, low, high, original, found 'tiny'",
        ),
        ([{"role": "assistant", "content": [IMAGE]}], "input[0].content", "to be text"),
        ([{"role": "user", "content": "x"}] * 10_001, "input", "more than the 10000"),
        ([{**CALL, "arguments": {}}], "input[0].arguments", "a text"),
        ([{**CALL, "name": None}], "input[0].name", "Missing"),
        ([CALL], "input", "no function_call_output for the call '1'"),
        (
            [{"type": "function_call_output", "call_id": "9", "output": ""}],
            "input[0].call_id",
            "no function_call before",
        ),
    ],
)
def test_an_input_that_cannot_be_read_is_refused_where_it_is_wrong(
    given: Any, param: str, says: str
) -> None:
    """The place, what was found and what was wanted."""
    error = refused(input=given)

    assert error.param == param
    assert says in str(error)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' runs at OpenAI"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].name", "Missing"),
        ({"tools": [{**WEATHER, "strct": True}]}, "tools[0].strct", "Unknown"),
        ({"tools": [{**WEATHER, "parameters": "x"}]}, "tools[0].parameters", "JSON Schema"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "built-in"),
        (
            {"tool_choice": {"type": "function", "name": "f"}, "tools": [WEATHER]},
            "tool_choice",
            "no function 'f'",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice",
            "allowed_tools",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "mcp"}],
                },
                "tools": [WEATHER],
            },
            "tool_choice",
            "function tools only",
        ),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "Missing"),
        ({"text": {"format": {**PERSON, "type": "text"}}}, "text.format", "json_schema"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "json_object"),
        ({"conversation": "c"}, "conversation", "'input'"),
        ({"previous_response_id": "r"}, "previous_response_id", "'input'"),
        ({"prompt": {"id": "p"}, "input": None}, "prompt", "'instructions'"),
        ({"max_output_tokens": -1}, "max_output_tokens", "greater than or equal to 0"),
        ({"n": 2}, "n", "Unknown parameter"),
        ({"plugins": [{"id": "web"}]}, "plugins[0].id", "fusion"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_to_do(fields: Json, param: str, says: str) -> None:
    """Nothing that would change the answer is left out in silence."""
    error = refused(**fields)

    assert error.param == param
    assert says in str(error)


def test_allowed_tools_leave_the_others_out() -> None:
    """A model that may not call a tool is not told of it."""
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "clock"}],
    }

    wanted = asked(tools=[WEATHER, CLOCK], tool_choice=choice)

    tools = [tool["function"] for tool in wanted.request.tools or ()]
    assert tools == [{"name": "clock", "parameters": {"type": "object"}}]
    assert wanted.request.tool_choice == "required"
    check_response(response_json(wanted, answered("x")))


# Every field of openai's, with a value that says something.
SAMPLES: Json = {
    "background": True,
    "context_management": [{"type": "compaction"}],
    "conversation": "c",
    "include": ["reasoning.encrypted_content"],
    "input": "Another",
    "instructions": "Be brief",
    "max_output_tokens": 16,
    "max_tool_calls": 2,
    "metadata": {"a": "b"},
    "model": "claude",
    "moderation": {"model": "omni"},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_1",
    "prompt": {"id": "p"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "high"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "stream": True,
    "stream_options": {"include_obfuscation": True},
    "temperature": 0.3,
    "text": {"format": {"type": "json_object"}},
    "tool_choice": "auto",
    "tools": [WEATHER],
    "top_logprobs": 3,
    "top_p": 0.3,
    "truncation": "auto",
    "user": "u",
}
REFUSED = {"conversation", "previous_response_id", "prompt"}
FIELDS = {
    *response_create_params.ResponseCreateParamsBase.__annotations__,
    *response_create_params.ResponseCreateParamsStreaming.__annotations__,
}


def test_there_is_a_sample_of_every_field_of_the_sdk() -> None:
    """A new release of openai's cannot bring a field that nobody has thought of."""
    assert set(SAMPLES) == FIELDS


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_field_of_the_sdk_is_used_refused_or_reported(name: str) -> None:
    """Nothing is dropped in silence."""
    around = {"tools": [WEATHER]} if name == "tool_choice" else {}
    plain = asked(**around)
    if name in REFUSED:
        assert refused(**{name: SAMPLES[name]}).param == name
        return

    wanted = asked(**around, **{name: SAMPLES[name]})

    is_reported = any(told == name or told.startswith(f"{name}.") for told in wanted.ignored)
    is_used = (wanted.request, wanted.is_streamed) != (plain.request, plain.is_streamed)
    is_repeated = name == "metadata" and wanted.settings["metadata"] == SAMPLES["metadata"]
    assert is_reported + is_used + is_repeated == 1


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools.defer_loading"),
        (
            {"input": [{"role": "assistant", "content": "x", "phase": "final_answer"}]},
            "input.phase",
        ),
        ({"top_p": 0}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_has_no_effect_within_a_field_is_reported_too(fields: Json, reported: str) -> None:
    """Each under the name of where it stands."""
    assert list(asked(**fields).ignored) == [reported]


def test_what_says_nothing_is_not_reported() -> None:
    """The defaults, written out as careful clients do, are no news."""
    wanted = asked(
        background=False,
        store=False,
        truncation="disabled",
        include=[],
        metadata={},
        reasoning={"summary": "auto", "mode": "standard", "context": "auto"},
        text={"format": {"type": "text"}},
        tool_choice="auto",
        stream_options={"include_obfuscation": False},
    )

    assert wanted.ignored == {}
    assert wanted.request == asked().request


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "call_id", "name", "output", "id"]),
            inner
            | st.sampled_from(
                ["message", "input_text", "user", "assistant", "function_call", "input_image"]
            ),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(given=_JSON, tools=_JSON, choice=_JSON)
def test_any_json_is_understood_or_refused(given: Any, tools: Any, choice: Any) -> None:
    """No body of a request is an error of the gateway's own."""
    body = {"model": "gpt", "input": given, "tools": tools, "tool_choice": choice}
    with contextlib.suppress(Refused):
        wanted = asked_of(read_body(ResponsesBody, orjson.dumps(body)))
        assert wanted.request.messages


# What is told.


def test_a_response_is_openais_and_repeats_what_was_asked() -> None:
    """Every setting of the request, and the run beside it."""
    wanted = asked(
        instructions="Be brief",
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "name": "weather"},
        metadata={"a": "b"},
        text={"format": PERSON, "verbosity": "low"},
        reasoning={"effort": "low", "generate_summary": "concise"},
        max_output_tokens=40,
        truncation="auto",
        service_tier="flex",
        store=True,
        top_logprobs=2,
        user="u",
    )

    response = check_response(response_json(wanted, answered("Hello")))

    assert response.id == "resp_r1"
    assert response.output_text == "Hello"
    assert response.status == "completed"
    assert response.completed_at == response.created_at + 1
    assert response.instructions == "Be brief"
    assert response.metadata == {"a": "b"}
    assert response.text is not None
    assert response.text.to_dict() == {"format": PERSON, "verbosity": "low"}
    assert [tool.to_dict() for tool in response.tools] == [WEATHER, CLOCK]
    assert response.usage is not None
    assert response.usage.to_dict() == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }
    told = response.to_dict()
    assert told["store"] is False
    assert told["orchestration"]["run_id"] == "r1"  # type: ignore[index]
    assert told["orchestration"]["ignored"] == wanted.ignored  # type: ignore[index]


def test_thoughts_words_and_calls_are_items_in_this_order() -> None:
    """As OpenAI lists them."""
    call = ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}')
    whole = answered("Let me see", reasoning="Hm", calls=[call], finish="tool_calls")

    response = check_response(response_json(asked(), whole))

    assert [item.to_dict() for item in response.output] == [
        {
            "id": "rs_r1_0",
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {
            "id": "msg_r1_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Let me see", "annotations": [], "logprobs": []}
            ],
        },
        {
            "id": "fc_r1_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city": "Paris"}',
        },
    ]


def test_reasoning_is_its_own_summary_where_one_is_asked_for() -> None:
    """Most clients show nothing else."""
    wanted = asked(reasoning={"summary": "auto"})

    response = check_response(response_json(wanted, answered("x", reasoning="Hm")))

    assert response.output[0].to_dict() == {
        "id": "rs_r1_0",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "Hm"}],
    }


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_an_answer_that_is_cut_is_incomplete(finish: FinishReason, reason: str) -> None:
    """A response says so, its last item says so, and the stream ends with it."""
    whole = answered("Hel", reasoning="Hm", finish=finish)
    events = told(
        asked(),
        [ReasoningDelta(text="Hm"), TextDelta(text="Hel"), RunFinished(response=whole)],
    )

    response = check_response(response_json(asked(), whole))

    check_events(events)
    assert response.status == "incomplete"
    assert response.completed_at is None
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == reason
    statuses = [item["status"] for item in events[-1]["response"]["output"]]
    assert statuses == ["completed", "incomplete"]
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"] == response_json(asked(), whole)


# The stream.


def test_a_stream_tells_a_text_in_openais_order() -> None:
    """Begun, opened, told, closed, completed."""
    whole = answered("Hello")

    events = told(
        asked(), [TextDelta(text="Hel"), TextDelta(text="lo"), RunFinished(response=whole)]
    )

    check_events(events)
    assert [one["type"].removeprefix("response.") for one in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize(
    ("summary", "family", "part"),
    [
        (None, "reasoning_text", "content_part"),
        ("auto", "reasoning_summary_text", "reasoning_summary_part"),
    ],
)
def test_a_stream_tells_thoughts_and_calls_in_openais_order(
    summary: str | None, family: str, part: str
) -> None:
    """A thought is closed before anything else is opened."""
    wanted = asked(reasoning={"summary": summary})
    whole = answered(reasoning="Hm", calls=[ToolCall(id="1", name="f", arguments="{}")])
    pieces = [
        ReasoningDelta(text="Hm"),
        ToolCallsDelta(tool_calls=(ToolCallDelta(index=0, id="1", name="f", arguments="{"),)),
        ToolCallsDelta(tool_calls=(ToolCallDelta(index=0, arguments="}"),)),
        RunFinished(response=whole),
    ]

    events = told(wanted, pieces)

    check_events(events)
    assert [one["type"].removeprefix("response.") for one in events] == [
        "created",
        "in_progress",
        "output_item.added",
        f"{part}.added",
        f"{family}.delta",
        f"{family}.done",
        f"{part}.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[-1]["response"] == response_json(wanted, whole)


_TEXT = st.text(max_size=12)
_CALLS = st.lists(st.tuples(st.text(min_size=1, max_size=4), _TEXT), max_size=3).map(
    lambda calls: [
        ToolCall(id=f"c{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(calls)
    ]
)


def _cut(data: st.DataObject, text: str) -> list[str]:
    """The text in pieces, none of them empty."""
    ends = sorted({*data.draw(st.sets(st.integers(1, len(text)))), len(text)}) if text else []
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _pieces_of(data: st.DataObject, index: int, call: ToolCall) -> list[Event]:
    first, *rest = _cut(data, call.arguments) or [""]
    if data.draw(st.booleans()):
        first, rest = "", [first, *rest]
    deltas = [ToolCallDelta(index=index, id=call.id, name=call.name, arguments=first)]
    deltas += [ToolCallDelta(index=index, arguments=piece) for piece in rest]
    return [ToolCallsDelta(tool_calls=(delta,)) for delta in deltas]


@given(
    data=st.data(),
    text=_TEXT,
    reasoning=_TEXT,
    calls=_CALLS,
    finish=st.sampled_from(["stop", "length", "content_filter"]),
    summary=st.sampled_from([None, "auto"]),
)
def test_a_stream_adds_up_to_the_plain_response(
    data: st.DataObject,
    text: str,
    reasoning: str,
    calls: list[ToolCall],
    finish: FinishReason,
    summary: str | None,
) -> None:
    """However it is cut into pieces: the last event has it whole, and openai's helper agrees."""
    wanted = asked(reasoning={"summary": summary})
    whole = answered(text, reasoning=reasoning, calls=calls, finish=finish)
    events: list[Event] = [ReasoningDelta(text=piece) for piece in _cut(data, reasoning)]
    events += [TextDelta(text=piece) for piece in _cut(data, text)]
    for index, call in enumerate(calls):
        events += _pieces_of(data, index, call)

    stream = told(wanted, [*events, RunFinished(response=whole)])

    check_events(stream)
    plain = response_json(wanted, whole)
    assert stream[-1]["response"] == plain
    check_response(plain)
    seen = snapshot(stream)
    assert seen.output_text == text
    assert [item.arguments for item in seen.output if item.type == "function_call"] == [
        call.arguments for call in calls
    ]


@given(data=st.data(), text=_TEXT, reasoning=_TEXT, calls=_CALLS)
def test_pieces_in_any_order_are_all_told(
    data: st.DataObject, text: str, reasoning: str, calls: list[ToolCall]
) -> None:
    """A provider that speaks, thinks and calls by turns loses nothing but the order of items."""
    whole = answered(text, reasoning=reasoning, calls=calls)
    sources: list[list[Event]] = [
        [ReasoningDelta(text=piece) for piece in _cut(data, reasoning)],
        [TextDelta(text=piece) for piece in _cut(data, text)],
        *(_pieces_of(data, index, call) for index, call in enumerate(calls)),
    ]
    events: list[Event] = []
    while left := [source for source in sources if source]:
        events.append(data.draw(st.sampled_from(left)).pop(0))

    stream = told(asked(), [*events, RunFinished(response=whole)])

    check_events(stream)
    response = check_response(stream[-1]["response"])
    thoughts = [item.content or [] for item in response.output if item.type == "reasoning"]
    found = {item.call_id: item for item in response.output if item.type == "function_call"}
    assert response.output_text == text
    assert "".join(part.text for parts in thoughts for part in parts) == reasoning
    assert {call.id: (call.name, call.arguments) for call in calls} == {
        call_id: (item.name, item.arguments) for call_id, item in found.items()
    }


def test_a_call_is_told_once_its_name_is_known() -> None:
    """Nothing that was said before is lost, and a call that never gets an id is told at the end."""
    deltas = [
        ToolCallDelta(index=0, arguments="{"),
        ToolCallDelta(index=0, id="1", name="f"),
        ToolCallDelta(index=0, arguments="}"),
        ToolCallDelta(index=1, name="g", arguments="{}"),
    ]
    calls = [
        ToolCall(id="1", name="f", arguments="{}"),
        ToolCall(id="", name="g", arguments="{}"),
    ]
    whole = answered(calls=calls)

    stream = told(asked(), [ToolCallsDelta(tool_calls=tuple(deltas)), RunFinished(response=whole)])

    check_events(stream)
    assert stream[-1]["response"] == response_json(asked(), whole)


def test_words_that_are_withdrawn_end_the_stream() -> None:
    """What a reader has seen cannot be taken back."""
    writer = ResponseEvents(asked(), at=0)
    for event in (started(), TextDelta(text="Hel")):
        writer.of(event)

    with pytest.raises(Refused) as caught:
        writer.of(TextReset(cause="cut"))

    assert caught.value.status == 502


def test_thoughts_that_are_withdrawn_stay_as_incomplete() -> None:
    """Thoughts are no answer: another writer's answer may follow them."""
    whole = answered("Hello", reasoning="Ah")
    pieces = [
        ReasoningDelta(text="Hm"),
        TextReset(cause="cut"),
        ReasoningDelta(text="Ah"),
        TextDelta(text="Hello"),
        RunFinished(response=whole),
    ]

    stream = told(asked(), pieces)

    check_events(stream)
    response = check_response(stream[-1]["response"])
    assert [item.status for item in response.output] == ["incomplete", "completed", "completed"]
    assert response.output_text == "Hello"


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "rate_limit_exceeded"), (400, "invalid_prompt"), (502, "server_error")],
)
@pytest.mark.parametrize("said", ["", "Hel"])
def test_a_stream_that_fails_says_so_twice(status: int, code: str, said: str) -> None:
    """To whoever reads responses, and to openai's clients, which raise for the last event."""
    writer = ResponseEvents(asked(), at=0)
    stream = writer.of(started())
    stream += writer.of(TextDelta(text=said)) if said else []

    stream += writer.failed(Fault(status=status, message="No", kind="k", code="c", param="p"))

    assert [one["sequence_number"] for one in stream] == list(range(len(stream)))
    for one in stream:
        EVENTS[one["type"]].model_validate(one, strict=True)
    failed, error = stream[-2:]
    response = check_response(failed["response"])
    assert (failed["type"], response.status) == ("response.failed", "failed")
    assert response.error is not None
    assert response.error.to_dict() == {"code": code, "message": "No"}
    assert response.output_text == said
    assert all(item.status == "incomplete" for item in response.output)
    assert (error["type"], error["code"], error["param"]) == ("error", "c", "p")
    assert error["error"]["message"] == "No"


def test_a_run_that_never_began_fails_with_an_error_alone() -> None:
    """There is no response that could have failed."""
    (error,) = ResponseEvents(asked(), at=0).failed(Fault(status=500, message="No", kind="k"))

    assert EVENTS["error"].model_validate(error, strict=True).model_dump()["message"] == "No"


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_told_to_whoever_asks_for_it(progress: bool) -> None:
    """Inside an event that every client knows and passes over."""
    stage = StageStarted(stage="draft", index=0, total=2, members=("gpt",))
    whole = answered("Hello")

    stream = told(
        asked(orchestration={"progress": progress}),
        [stage, TextDelta(text="Hello"), RunFinished(response=whole)],
    )

    check_events(stream)
    found = [one for one in stream if "orchestration" in one]
    assert [one["type"] for one in found] == ["response.in_progress"] * progress
    assert [one["orchestration"]["event"] for one in found] == ["stage_started"] * progress


def test_the_names_of_items_are_all_different() -> None:
    """A response's items are known by their ids."""
    calls = [ToolCall(id="same", name="f", arguments="{}")] * 3
    output: list[Mapping[str, Any]] = response_json(
        asked(), answered("x", reasoning="y", calls=calls)
    )["output"]

    assert len({item["id"] for item in output}) == 5
