"""Bodies of requests: what is wrong is told by its exact path, and no value of it is repeated."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.wire.bounds import DEPTH, MOST_VALUES, check_bounds
from orchestrator.wire.chat import ChatBody, asked_of
from orchestrator.wire.errors import Refused
from orchestrator.wire.native import asked_of as run_of
from orchestrator.wire.reading import MOST_PROBLEMS, read_body

HELLO = [{"role": "user", "content": "Hello"}]


def body_of(**fields: Any) -> bytes:
    return json.dumps({"model": "alpha", "messages": HELLO, **fields}).encode()


def refusal(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        asked_of(read_body(ChatBody, body))
    return caught.value


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [*HELLO, fields]}


def called(**call: Any) -> dict[str, Any]:
    return message(role="assistant", tool_calls=[call])


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


def allowed(**tools: Any) -> dict[str, Any]:
    return {**tool(name="f"), "tool_choice": {"type": "allowed_tools", "allowed_tools": tools}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"topp": 1}, "topp", "unknown_parameter"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
    ({"orchestration": {"modle": 1}}, "orchestration.modle", "unknown_parameter"),
    ({"orchestration": {"members": ["a", 5]}}, "orchestration.members[1]", "invalid_value"),
    ({"model": None}, "model", "invalid_value"),
    ({"n": "2"}, "n", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 9}, "n", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_value"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"temperature": "0.5"}, "temperature", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": float("nan")}, "temperature", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_value"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"metadata": {"str": 5}}, "metadata.str", "invalid_value"),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5", "invalid_value"),
    ({"modalities": ["audio"]}, "modalities", "unsupported_value"),
    ({"functions": [{}]}, "functions[0].name", "missing_required_parameter"),
    ({"function_call": "required"}, "function_call", "invalid_value"),
    ({"function_call": {"name": "g"}}, "function_call.name", "invalid_value"),
    (
        {"messages": [{"role": "function", "name": "f", "content": "5"}]},
        "messages[0].name",
        "invalid_value",
    ),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    (allowed(mode="never", tools=[]), "tool_choice.allowed_tools.mode", "invalid_value"),
    (allowed(mode="auto", tools=[]), "tool_choice.allowed_tools.tools", "invalid_value"),
    (allowed(mode="auto", tools=["f"]), "tool_choice.allowed_tools.tools[0]", "invalid_value"),
    (
        allowed(mode="auto", tools=[{"type": "function", "function": {"name": "g"}}]),
        "tool_choice.allowed_tools.tools[0].function.name",
        "invalid_value",
    ),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": ["Hello"]}, "messages[0]", "invalid_value"),
    (message(), "messages[1].role", "invalid_value"),
    (message(role="user"), "messages[1].content", "missing_required_parameter"),
    (message(role="user", content=5), "messages[1].content", "invalid_value"),
    (message(role="user", content=[]), "messages[1].content", "invalid_value"),
    (message(role="user", content=["a"]), "messages[1].content[0]", "invalid_value"),
    (
        message(role="user", content=[{"type": "x"}]),
        "messages[1].content[0].type",
        "invalid_value",
    ),
    (
        message(role="user", content=[{"type": "image_url", "image_url": {}}]),
        "messages[1].content[0].image_url.url",
        "missing_required_parameter",
    ),
    (message(role="user", content="a", name=5), "messages[1].name", "invalid_value"),
    (
        message(role="tool", content="a"),
        "messages[1].tool_call_id",
        "missing_required_parameter",
    ),
    (message(role="assistant"), "messages[1].content", "missing_required_parameter"),
    (called(id=5), "messages[1].tool_calls[0].id", "invalid_value"),
    (
        called(id="a", function={"name": "f"}),
        "messages[1].tool_calls[0].function.arguments",
        "missing_required_parameter",
    ),
    ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_value"),
    (tool(), "tools[0].function.name", "missing_required_parameter"),
    (tool(name="f", parameters=5), "tools[0].function.parameters", "invalid_value"),
    ({**tool(name="f"), "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    (
        {**tool(name="f"), "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    ({"plugins": [{"id": "web"}]}, "plugins[0].id", "invalid_value"),
    ({"plugins": [{"id": "fusion", "max": 1}]}, "plugins[0].max", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), WRONG, ids=lambda one: str(one)[:60])
def test_what_is_wrong_is_told_by_its_path_and_code(
    fields: dict[str, Any], param: str, code: str
) -> None:
    """As OpenAI writes it, and named in the message too."""
    refused = refusal(body_of(**fields))

    assert (refused.param, refused.code, refused.status) == (param, code, 400)


def test_an_unknown_field_is_told_what_it_may_have_meant() -> None:
    """A slip of the pen is the most likely cause."""
    assert "did you mean 'temperature'?" in str(refusal(body_of(temprature=1)))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"model": "a", "messages": "\xff"}', "invalid_json"),
        (body_of(messages=[{"role": "user", "content": "a", "x": float("inf")}]), "invalid_json"),
        (body_of(thinking={"a": [{"b": "HERE"}]}).replace(b'"HERE"', b"1e999"), "invalid_json"),
        (body_of(thinking={"a": [{"b": "HERE"}]}).replace(b'"HERE"', b"-2e308"), "invalid_json"),
        (body_of(thinking={"a": [{"b": "HERE"}]}).replace(b'"HERE"', b"NaN"), "invalid_json"),
        (body_of(response_format=json.loads("[" * 90 + "]" * 90)), "too_deep"),
        (b"[" * 100_000, "too_deep"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, code: str) -> None:
    """Broken, too deep, or of another kind; nobody fails on it."""
    assert refusal(body).code == code


def test_words_for_no_number_are_words_within_a_text() -> None:
    """And a number as large as there are is one."""
    body = body_of(thinking={"NaN": ['1e999 is "NaN"', 1.7e308, 10**400]})

    assert read_body(ChatBody, body).thinking == json.loads(body)["thinking"]


def test_what_nests_deeper_than_the_limit_is_refused_and_what_does_not_is_read() -> None:
    """One level more or less."""

    def nested(levels: int) -> bytes:
        inner: Any = "x"
        for _ in range(levels):
            inner = {"a": inner}
        return body_of(tools=[{"type": "function", "function": {"name": "f", "parameters": inner}}])

    asked_of(read_body(ChatBody, nested(DEPTH - 4)))  # the body, the list, the tool, the function

    assert refusal(nested(DEPTH - 3)).code == "too_deep"


def many(count: int, value: bytes) -> bytes:
    """A body that holds so many values, with the seven of everything around them."""
    return body_of()[:-1] + b',"thinking":{"a":[' + b",".join([value] * (count - 7)) + b"]}}"


@pytest.mark.parametrize("value", [b"1", b'"[,"', b'"\\""', b'"\\\\"'])
def test_more_values_than_anybody_sends_are_refused(value: bytes) -> None:
    """One more or less; a text is one, whatever it says."""
    read_body(ChatBody, many(MOST_VALUES, value))

    assert refusal(many(MOST_VALUES + 1, value)).code == "too_many_values"


@pytest.mark.parametrize("unit", [b"1", b"[]", b"{}", b'""', b'{"":[]}'])
def test_a_megabyte_of_values_is_never_read(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read it, or to tell of each what is wrong with it, would stop everybody for seconds."""
    monkeypatch.setattr(ChatBody, "model_validate_json", None)
    body = body_of(tools=["HERE"]).replace(b'"HERE"', b",".join([unit] * (10**6 // len(unit))))

    assert refusal(body).code == "too_many_values"


def test_of_very_many_problems_none_is_looked_for() -> None:
    """One is named as long as that is quick; then, how many there are."""
    named = refusal(body_of(tools=[1] * MOST_PROBLEMS))
    counted = refusal(body_of(tools=[1] * (MOST_PROBLEMS + 1)))

    assert named.param == "tools[0]"
    assert f"in {MOST_PROBLEMS + 1:,} places" in str(counted)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ChatBody.model_fields, "x"]), JSON, max_size=4))
def test_whatever_is_sent_is_asked_or_refused(fields: dict[str, Any]) -> None:
    """No body makes anything else of itself, and a refusal repeats no value of it."""
    try:
        told: object = asked_of(read_body(ChatBody, body_of(**fields))).requests
    except Refused as refused:
        told = refused.code if refused.status == 400 else None
    assert told


@given(st.dictionaries(st.sampled_from(["prompt", "messages", "tools", "seed", "x"]), JSON))
def test_whatever_is_sent_as_a_run_is_run_or_refused(fields: dict[str, Any]) -> None:
    """The orchestrator's own requests as well."""
    try:
        told: object = run_of(json.dumps(fields).encode(), tenant="t")[0].tenant
    except Refused as refused:
        told = refused.code
    assert told


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, list | dict) + max(map(depth_of, inner), default=0)


@given(JSON, st.integers(DEPTH - 5, DEPTH + 1))
def test_depth_is_judged_by_brackets_alone(value: Any, levels: int) -> None:
    """As it would be of the value that was read, whatever its texts say."""
    body = b"[" * levels + json.dumps(value).encode() + b"]" * levels
    is_deep = levels + depth_of(value) > DEPTH

    try:
        check_bounds(body)
        told = None
    except Refused as refused:
        told = refused.code
    assert told == ("too_deep" if is_deep else None)


@given(st.binary(max_size=60))
def test_whatever_bytes_are_sent_are_refused_or_read(body: bytes) -> None:
    """Nothing but `Refused` comes of them."""
    assert 400 <= refusal(body).status < 500
