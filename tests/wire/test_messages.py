"""Anthropic's JSON to what is asked, and what has come of it to Anthropic's JSON."""

import json
from itertools import pairwise
from typing import Any, get_type_hints

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsBase
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from adapters.config import LLMProvider
from adapters.types import Chunk, CompletionFold, ToolCall, ToolCallDelta, Usage
from orchestrator.config import RequestConfig
from orchestrator.events import (
    Event,
    ReasoningDelta,
    RunFinished,
    StageFinished,
    TextDelta,
    TextReset,
    ToolCallsDelta,
)
from orchestrator.responses import OrchestratorResponse, Receipt
from orchestrator.wire.chat import Asked
from orchestrator.wire.errors import Fault, Refused
from orchestrator.wire.messages import (
    _UNUSED_HEADERS,
    CountBody,
    MessageEvents,
    MessagesBody,
    as_anthropic,
    asked_of,
    counted_of,
    message,
)
from orchestrator.wire.reading import read_body

ANTHROPIC, OPENAI = LLMProvider.ANTHROPIC, LLMProvider.OPENAI
TOOL = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
JSON = {"type": "json_schema", "schema": {"type": "object"}}


def asked(*providers: LLMProvider, headers: dict[str, str] | None = None, **fields: Any) -> Asked:
    """What a body with these fields beside the required ones asks for."""
    usual = {"model": "m", "max_tokens": 4000, "messages": [{"role": "user", "content": "Hi"}]}
    body = read_body(MessagesBody, json.dumps({**usual, **fields}).encode())
    return asked_of(body, providers=providers or (ANTHROPIC,), headers=headers or {})


def request_of(*providers: LLMProvider, **fields: Any) -> RequestConfig:
    return asked(*providers, **fields).requests[0]


def said(*blocks: Any, role: str = "user") -> list[Any]:
    """The messages that one message of these blocks becomes."""
    messages = request_of(messages=[{"role": role, "content": list(blocks)}]).messages
    return list(messages or ())


def refused(**fields: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        asked(**fields)
    return caught.value


# Requests.


@pytest.mark.parametrize(
    ("params", "body"),
    [(MessageCreateParamsBase, MessagesBody), (MessageCountTokensParams, CountBody)],
)
def test_every_field_of_anthropics_is_known(params: Any, body: type[MessagesBody]) -> None:
    """What its SDK may send is used, refused with a reason or reported: never unknown."""
    headers = {name.removeprefix("anthropic-").replace("-", "_") for name in _UNUSED_HEADERS}

    unknown = get_type_hints(params).keys() - body.model_fields.keys() - headers

    assert not unknown


# How each field that is not `messages`, `model` or `max_tokens` counts: in the request, in what is
# ignored, or as the parameter of a refusal.
USED: dict[str, tuple[Any, dict[str, Any]]] = {
    "system": (
        "Be brief",
        {
            "messages": (
                {"role": "system", "content": "Be brief"},
                {"role": "user", "content": "Hi"},
            )
        },
    ),
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.9, {"top_p": 0.9}),
    "top_k": (7, {"extra": {"top_k": 7}}),
    "metadata": ({"user_id": "u"}, {"extra": {"user": "u"}}),
    "stop_sequences": (["END"], {"stop": ("END",)}),
    "thinking": (
        {"type": "enabled", "budget_tokens": 2000},
        {"extra": {"thinking": {"type": "enabled", "budget_tokens": 2000}}},
    ),
    "output_config": ({"effort": "low"}, {"reasoning_effort": "low"}),
    "service_tier": ("auto", {}),
    "speed": ("standard", {}),
    "tools": (
        [TOOL],
        {
            "tools": (
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "description": "The weather",
                        "parameters": TOOL["input_schema"],
                    },
                },
            )
        },
    ),
    "orchestration": ({"max_calls": 3}, {"max_calls": 3}),
}
IGNORED: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"},
    "diagnostics": {"previous_message_id": "msg_1"},
    "service_tier": "standard_only",
    "speed": "fast",
}
REFUSED: dict[str, Any] = {
    "container": "container_1",
    "inference_geo": "us",
    "thread": {"type": "create"},
    "tool_choice": {"type": "auto"},  # without tools
    "max_tokens": 0,
    "messages": [],
    "model": "",
    "stream": "yes",
}


def test_every_field_has_its_row() -> None:
    """The three tables leave no field of a body out."""
    assert {*USED, *IGNORED, *REFUSED} == MessagesBody.model_fields.keys()


@pytest.mark.parametrize("name", USED)
def test_a_field_that_is_used_stands_in_the_request(name: str) -> None:
    """And nothing is said of it."""
    value, wanted = USED[name]

    told = asked(**{name: value})

    request = told.requests[0].model_dump(exclude_unset=True)
    assert {field: request[field] for field in wanted} == wanted
    assert told.ignored == {}


@pytest.mark.parametrize("name", IGNORED)
def test_a_field_without_effect_is_reported(name: str) -> None:
    """With the reason."""
    assert list(asked(**{name: IGNORED[name]}).ignored) == [name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_cannot_be_had_is_refused_by_its_name(name: str) -> None:
    """Whoever asks learns which field it is."""
    error = refused(**{name: REFUSED[name]})

    assert (error.status, error.param) == (400, name)


def test_max_tokens_is_required() -> None:
    """As it is there."""
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'

    with pytest.raises(Refused, match="Missing required parameter: 'max_tokens'"):
        read_body(MessagesBody, body)


def test_an_unknown_field_is_refused_with_a_suggestion() -> None:
    """A misspelt parameter would otherwise change nothing, without a word."""
    assert "did you mean 'stop_sequences'" in str(refused(stop_sequence=["a"]))


def test_headers_that_stand_for_fields_are_reported() -> None:
    """The SDK sends some of its parameters as headers."""
    headers = {"anthropic-workspace-id": "w", "anthropic-version": "2023-06-01"}

    assert list(asked(headers=headers).ignored) == ["anthropic-workspace-id"]


@pytest.mark.parametrize(
    ("choice", "wanted", "extra"),
    [
        ({"type": "auto"}, "auto", {}),
        ({"type": "any"}, "required", {}),
        ({"type": "none"}, "none", {}),
        (
            {"type": "tool", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
            {},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            "required",
            {"parallel_tool_calls": False},
        ),
    ],
)
def test_the_choice_of_tools_is_told_in_openais_words(
    choice: Any, wanted: Any, extra: dict[str, Any]
) -> None:
    """Adapters know no others."""
    request = request_of(tools=[TOOL], tool_choice=choice)

    assert (request.tool_choice, request.extra) == (wanted, extra)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search_20250305", "name": "web_search"}, "tools[0].type"),
        ({"name": "w"}, "tools[0].input_schema"),
        ({**TOOL, "inputs": {}}, "tools[0].inputs"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_refused(tool: Any, param: str) -> None:
    """Those that Anthropic runs itself, and those that are none."""
    assert refused(tools=[tool]).param == param


def test_a_chosen_tool_must_be_there() -> None:
    """A provider's own words for it would tell less."""
    error = refused(tools=[TOOL], tool_choice={"type": "tool", "name": "wether"})

    assert error.param == "tool_choice.name"


def test_what_has_no_effect_inside_is_reported_once() -> None:
    """Marks for a prompt cache stand in blocks and tools alike."""
    mark = {"cache_control": {"type": "ephemeral"}}
    block = {"type": "text", "text": "Hi", **mark}

    told = asked(
        tools=[{**TOOL, **mark}],
        system=[{"type": "text", "text": "S", **mark}],
        messages=[{"role": "user", "content": [block, block]}],
    )

    assert list(told.ignored) == ["cache_control"]


# The conversation.


def test_a_turn_with_tools_comes_to_calls_and_their_results() -> None:
    """The round trip of a tool: what the model called, what came of it, what the user adds."""
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "rain"}
    thought = {"type": "thinking", "thinking": "Hm", "signature": ""}

    told = asked(
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "So"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ]
    )

    function = {"name": "weather", "arguments": '{"city":"Köln"}'}
    assert told.requests[0].messages == (
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "So",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "Well?"},
    )
    assert list(told.ignored) == ["messages.thinking"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("gone", "The tool failed: gone"),
        ("", "The tool failed."),
        (
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            [
                {"type": "text", "text": "The tool failed:"},
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
            ],
        ),
    ],
)
def test_a_tool_that_failed_is_said_to_have_failed(content: Any, wanted: Any) -> None:
    """OpenAI's shape has no mark for it, and the model is to know."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": True}

    assert said(result)[0]["content"] == wanted


def test_pictures_and_files_are_passed_on() -> None:
    """In the parts that adapters take."""
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}

    (message,) = said(
        {"type": "image", "source": PIXEL},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": plain, "title": "T"},
    )

    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        },
        {"type": "text", "text": "T\n\nwords"},
    ]


def test_a_result_may_hold_a_picture() -> None:
    """A screenshot, for instance."""
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "image", "source": PIXEL}],
    }

    assert said(result)[0]["content"][0]["type"] == "image_url"


def test_a_turn_of_the_model_that_says_nothing_is_left_out() -> None:
    """Few providers take an empty message."""
    assert said({"type": "redacted_thinking", "data": "x"}, role="assistant") == []


def test_a_system_message_may_stand_among_the_others() -> None:
    """Newer models are told so in the middle of a conversation."""
    assert said(
        {"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}, role="system"
    ) == [{"role": "system", "content": "Be\n\nbrief"}]


@pytest.mark.parametrize(
    ("content", "at"),
    [
        ([], ""),
        ([{"type": "texts", "text": "a"}], "[0].type"),
        (["a"], "[0].type"),
        ([{"type": ["text"], "text": "a"}], "[0].type"),
        ([{"type": "text"}], "[0].text"),
        ([{"type": "text", "text": "a", "more": 1}], "[0].more"),
        ([{"type": "text", "text": "a"}, {"type": "tool_result", "tool_use_id": "t"}], "[1]"),
        ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "[0].source.type"),
        ([{"type": "image", "source": {**PIXEL, "media_type": "x/y"}}], "[0].source.media_type"),
        (
            [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_use"}]}],
            "[0].content[0].type",
        ),
        ([{"type": "tool_use", "id": "t", "name": "w", "input": {}}], "[0].type"),
    ],
)
def test_a_block_that_is_none_is_refused_by_its_place(content: Any, at: str) -> None:
    """`messages[0].content[1].source.type`: whoever asks finds it."""
    error = refused(messages=[{"role": "user", "content": content}])

    assert error.param == f"messages[0].content{at}"


BLOCK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("type", "text", "source", "content", "tool_use_id", "id", "data"))
            | st.text(max_size=3),
            inner | st.sampled_from(("text", "image", "tool_result", "tool_use", "base64")),
            max_size=4,
        )
    ),
    max_leaves=12,
)


MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("user", "assistant", "system")),
        "content": st.lists(BLOCK, max_size=3) | st.text(max_size=5),
    }
)


@given(st.lists(MESSAGE, min_size=1, max_size=3))
def test_whatever_a_body_holds_it_is_read_or_refused(messages: list[Any]) -> None:
    """No body makes the reader itself fail, and a refusal says where."""
    found = roles_or_refusal(messages)

    if isinstance(found, Refused):
        assert (found.status, found.param is None) == (400, False)
    else:
        assert found <= {"user", "assistant", "system", "tool"}


def roles_or_refusal(messages: list[Any]) -> set[str] | Refused:
    try:
        return {message["role"] for message in request_of(messages=messages).messages or ()}
    except Refused as error:
        return error


def test_an_answer_is_taken_back_as_it_was_given() -> None:
    """The SDK's answer, handed back as it stands, is a turn of the conversation."""
    answer = Message.model_validate(
        message(
            Asked(model="m", requests=()),
            finished("So", calls=(ToolCall(id="t", name="weather", arguments="{}"),)),
        )
    )
    turn = {"role": "assistant", "content": [block.to_dict() for block in answer.content]}

    (told,) = request_of(messages=[turn]).messages or ()

    assert told["content"] == "So"
    assert told["tool_calls"][0]["id"] == "t"


# Thinking.

ENABLED = {"type": "enabled", "budget_tokens": 2000}


@pytest.mark.parametrize(
    ("providers", "fields", "effort", "thinking", "ignored"),
    [
        ([ANTHROPIC], {"thinking": ENABLED}, None, ENABLED, []),
        ([ANTHROPIC], {"thinking": {"type": "disabled"}}, None, {"type": "disabled"}, []),
        (
            [ANTHROPIC, OPENAI],
            {"thinking": ENABLED},
            "medium",
            None,
            ["thinking.budget_tokens"],
        ),
        ([OPENAI], {"thinking": {"type": "disabled"}}, None, None, ["thinking"]),
        (
            [OPENAI],
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            "high",
            None,
            [],
        ),
        (
            [OPENAI],
            {"thinking": ENABLED, "output_config": {"effort": "high"}},
            "high",
            None,
            ["thinking"],
        ),
        (
            [ANTHROPIC],
            {"thinking": ENABLED, "output_config": {"effort": "high"}},
            None,
            ENABLED,
            ["output_config.effort"],
        ),
        (
            [ANTHROPIC],
            {"thinking": {**ENABLED, "display": "omitted"}},
            None,
            ENABLED,
            ["thinking.display"],
        ),
    ],
)
def test_thinking_is_asked_for_in_words_that_all_who_are_asked_know(
    providers: list[LLMProvider],
    fields: dict[str, Any],
    effort: str | None,
    thinking: Any,
    ignored: list[str],
) -> None:
    """A member that refuses a field would be missing from the panel."""
    told = asked(*providers, **fields)

    request = told.requests[0]
    assert (request.reasoning_effort, request.extra.get("thinking")) == (effort, thinking)
    assert list(told.ignored) == ignored


def test_a_turn_with_tools_goes_on_without_thinking_at_anthropics() -> None:
    """It wants the signed thinking of that turn back, which nobody here has kept."""
    use = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "rain"}
    turn = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]

    with_anthropic = asked(messages=turn, thinking=ENABLED)
    without = asked(LLMProvider.GOOGLE, messages=turn, thinking=ENABLED)

    assert with_anthropic.requests[0].extra == {}
    assert list(with_anthropic.ignored) == ["thinking"]
    assert without.requests[0].extra == {"thinking": ENABLED}


@pytest.mark.parametrize("thinking", [{"type": "enabled"}, {**ENABLED, "budget_tokens": 4000}])
def test_a_budget_of_thinking_must_fit(thinking: Any) -> None:
    """As it is there: given, and less than the whole answer may be."""
    assert refused(thinking=thinking).param == "thinking.budget_tokens"


def test_the_shape_of_an_answer_is_told_in_openais_words() -> None:
    """Adapters know no others."""
    wanted = request_of(output_config={"format": JSON}).response_format

    assert wanted == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }


def test_what_is_counted_is_what_would_be_asked() -> None:
    """The same messages and tools, and the same is said to have no effect."""
    written = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "system": "S",
        "tools": [TOOL],
        "cache_control": {"type": "ephemeral"},
    }

    counted, ignored = counted_of(read_body(CountBody, json.dumps(written).encode()))

    whole = asked(**written)
    assert (counted.messages, counted.tools) == (
        whole.requests[0].messages,
        whole.requests[0].tools,
    )
    assert ignored == whole.ignored


# Replies.


def finished(
    text: str = "",
    *,
    reasoning: str = "",
    calls: tuple[ToolCall, ...] = (),
    reason: Any = "stop",
    usage: Usage = Usage(prompt_tokens=10, completion_tokens=4),
) -> OrchestratorResponse:
    receipt = Receipt(
        run_id="r1",
        model="m",
        pattern="",
        prompt="",
        seed=1,
        config_hash="0",
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_s=1.0,
        status="complete",
        causes=(),
        missing=(),
        calls=1,
        usage=usage,
        stages=(),
        content=text,
    )
    return OrchestratorResponse(
        content=text,
        status="complete",
        causes=(),
        model_responses={},
        receipt=receipt,
        finish_reason=reason,
        reasoning=reasoning,
        tool_calls=calls,
    )


PLAIN = Asked(model="m", requests=())


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
    ],
)
def test_why_an_answer_ends_is_told_in_anthropics_words(reason: Any, wanted: str) -> None:
    """And the SDK's own model of a message takes it."""
    told = Message.model_validate(message(PLAIN, finished("So", reason=reason)))

    assert (told.id, told.stop_reason, told.stop_sequence) == ("msg_r1", wanted, None)


def test_the_cache_counts_apart_from_the_input() -> None:
    """The sum of the three is what was sent, as Anthropic counts it."""
    usage = Usage(
        prompt_tokens=100,
        completion_tokens=20,
        cached_tokens=60,
        cache_write_tokens=30,
        reasoning_tokens=5,
    )

    told = Message.model_validate(message(PLAIN, finished("So", usage=usage))).usage

    assert (told.input_tokens, told.output_tokens) == (10, 20)
    assert (told.cache_read_input_tokens, told.cache_creation_input_tokens) == (60, 30)
    assert told.output_tokens_details is not None
    assert told.output_tokens_details.thinking_tokens == 5


# Streams.


def told_by(events: list[Event], asked: Asked = PLAIN) -> list[tuple[str, dict[str, Any]]]:
    writer = MessageEvents(asked, "r1")
    return [told for event in events for told in writer.of(event)]


def folded(told: list[tuple[str, dict[str, Any]]]) -> Message:
    """What the SDK's stream helper makes of events, each of them checked by its models."""
    snapshot, buffers = None, dict[int, bytes]()
    for name, fields in told:
        assert fields["type"] == name
        event = EVENTS.validate_python(fields)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return Message.model_validate(snapshot.to_dict())


def cut(data: st.DataObject, text: str) -> list[str]:
    """The text in pieces."""
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    edges = [0, *places, len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


WORDS = st.text(alphabet='ab \n{}"\\é✓', max_size=12)
INPUTS = st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=4), max_size=3)


@given(
    data=st.data(),
    text=WORDS,
    reasoning=WORDS,
    inputs=st.lists(INPUTS, max_size=3),
    is_cut=st.booleans(),
    blank=st.sampled_from(("", "  ", "\n")),
)
def test_the_helpers_final_message_is_the_plain_one(
    data: st.DataObject,
    text: str,
    reasoning: str,
    inputs: list[dict[str, Any]],
    is_cut: bool,
    blank: str,
) -> None:
    """However the answer is cut into chunks, and its tool calls mixed; arguments may break off."""
    arguments = [blank + json.dumps(one) for one in inputs]
    if is_cut and arguments:
        arguments[-1] = arguments[-1][: data.draw(st.integers(0, len(arguments[-1])))]
    calls = [
        Chunk(tool_calls=(ToolCallDelta(index=place, id=f"t{place}", name=f"n{place}"),))
        for place in range(len(arguments))
    ]
    pieces = [iter(cut(data, written)) for written in arguments]
    turns = [place for place in range(len(arguments)) for _ in range(5)]
    calls += [
        Chunk(tool_calls=(ToolCallDelta(index=place, arguments=piece),))
        for place in data.draw(st.permutations(turns))
        if (piece := next(pieces[place], None)) is not None
    ]
    chunks = [Chunk(reasoning=piece) for piece in cut(data, reasoning)]
    chunks += [Chunk(text=piece) for piece in cut(data, text)]
    fold = CompletionFold()
    for chunk in (*chunks, *calls):
        fold.add(chunk)
    response = finished(
        fold.text,
        reasoning=fold.reasoning,
        calls=fold.tool_calls,
        reason="length" if is_cut else "tool_calls" if calls else "stop",
    )

    told = told_by([*events_of([*chunks, *calls]), RunFinished(response=response)])

    plain = Message.model_validate(message(PLAIN, response))
    assert folded(told).to_dict() == {
        name: value for name, value in plain.to_dict().items() if name != "orchestration"
    }
    assert told[-2][1]["orchestration"] == message(PLAIN, response)["orchestration"]


def events_of(chunks: list[Chunk]) -> list[Event]:
    events: list[Event] = []
    for chunk in chunks:
        if chunk.reasoning:
            events.append(ReasoningDelta(text=chunk.reasoning))
        if chunk.text:
            events.append(TextDelta(text=chunk.text))
        if chunk.tool_calls:
            events.append(ToolCallsDelta(tool_calls=chunk.tool_calls))
    return events


@given(
    st.lists(st.tuples(st.sampled_from(("thinking", "text")), st.sampled_from("ab")), max_size=9)
)
def test_thinking_between_words_has_a_block_of_its_own(pieces: list[tuple[str, str]]) -> None:
    """One block is open at a time, and nothing is lost."""
    events: list[Event] = [
        ReasoningDelta(text=text) if kind == "thinking" else TextDelta(text=text)
        for kind, text in pieces
    ]

    told = told_by([*events, RunFinished(response=finished())])

    blocks = folded(told).content
    for kind in ("thinking", "text"):
        found = "".join(getattr(one, kind) for one in blocks if one.type == kind)
        assert found == "".join(text for one, text in pieces if one == kind)
    opened = [name for name, _ in told if name in ("content_block_start", "content_block_stop")]
    assert opened == ["content_block_start", "content_block_stop"] * len(blocks)


def test_an_answer_that_is_withdrawn_ends_the_stream_with_an_error() -> None:
    """No event of Anthropic's takes words back."""
    with pytest.raises(Refused) as caught:
        told_by([TextDelta(text="So"), TextReset(cause="broken")])

    assert (caught.value.status, caught.value.code) == (502, "stream_broken")


def test_thinking_that_is_withdrawn_is_no_error() -> None:
    """The answer itself has not begun."""
    events = [ReasoningDelta(text="Hm"), TextReset(cause="broken"), TextDelta(text="So")]

    assert (
        folded(told_by([*events, RunFinished(response=finished("So"))])).content[-1].type == "text"
    )


def test_progress_is_told_in_pings_to_who_asks_for_it() -> None:
    """The SDK passes over them, before the message begins as well."""
    stage = StageFinished(stage="drafts", index=0, status="ok", elapsed_s=1.0)

    told = told_by([stage], Asked(model="m", requests=(), with_progress=True))

    assert [name for name, _ in told] == ["ping"]
    assert told[0][1]["orchestration"]["event"] == "stage_finished"
    assert told_by([stage]) == []


# Errors.


@pytest.mark.parametrize(
    ("status", "code", "wanted", "kind"),
    [
        (400, "invalid_value", 400, "invalid_request_error"),
        (401, "invalid_api_key", 401, "authentication_error"),
        (402, "", 402, "billing_error"),
        (403, "model_not_allowed", 403, "permission_error"),
        (404, "model_not_found", 404, "not_found_error"),
        (405, "method_not_allowed", 405, "invalid_request_error"),
        (409, "", 409, "conflict_error"),
        (413, "body_too_large", 413, "request_too_large"),
        (415, "unsupported_media_type", 415, "invalid_request_error"),
        (429, "rate_limit_exceeded", 429, "rate_limit_error"),
        (500, "internal_error", 500, "api_error"),
        (502, "stream_broken", 502, "api_error"),
        (503, "overloaded", 529, "overloaded_error"),
        (503, "deployment_busy", 529, "overloaded_error"),
        (503, "no_deployment_left", 503, "api_error"),
        (504, "deadline_exceeded", 504, "timeout_error"),
        (529, "provider_unavailable", 529, "overloaded_error"),
    ],
)
def test_an_error_is_told_in_anthropics_words(
    status: int, code: str, wanted: int, kind: str
) -> None:
    """The status, the type, and what the SDK goes by in the headers."""
    fault = Fault(
        status=status, message="why", kind="x", code=code, headers={"x-should-retry": "false"}
    )

    told = as_anthropic(fault)

    assert told.status == wanted
    details = {"details": {"error_code": code}} if code else {}
    assert told.body == {"type": "error", "error": {"type": kind, "message": "why", **details}}
    assert told.headers == fault.headers
    assert as_anthropic(told) == told
