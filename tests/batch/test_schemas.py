"""An answer is the JSON that was asked for, or what is wrong with it is said."""

from typing import Any

import pytest

from orchestrator.batch.schemas import AnswerReader, asked_again
from orchestrator.config import RequestConfig
from orchestrator.errors import InvalidRun


def wanted(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


PLACE = AnswerReader(
    wanted({"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}})
)


@pytest.mark.parametrize(
    "text", ['{"city": "Ulm"}', ' \n{"city": "Ulm"}\n', '```json\n{"city": "Ulm"}\n```\n']
)
def test_an_answer_that_follows_its_schema_is_read(text: str) -> None:
    """Alone, or in the code fence that models like to put around it."""
    parsed = PLACE.read(text)

    assert (parsed.value, parsed.problem) == ({"city": "Ulm"}, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ulm", "it is not JSON"),
        ("", "it is not JSON"),
        ("{}", "at $: 'city' is a required property"),
        ('{"city": 5}', "at $.city: 5 is not of type 'string'"),
        ('{"city": NaN}', "NaN is no number"),
        ('{"city": "Ulm"} or so', "it is not JSON"),
        ("[" * 99 + "]" * 99, "nests more than 56 levels"),
        ("[" * 99_999, "it is not JSON"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(text: str, said: str) -> None:
    """By its path, so that whoever is asked again knows what to mend."""
    assert said in PLACE.read(text).problem


def test_what_is_said_of_a_long_answer_is_short() -> None:
    """It goes into a prompt, and into a report."""
    assert len(PLACE.read('["' + "x" * 10_000 + '"]').problem) < 320


def test_a_format_without_a_schema_wants_what_it_says() -> None:
    """An object; any JSON; or text, of which nothing is read."""
    assert AnswerReader({"type": "json_object"}).read("[]").problem
    assert AnswerReader({"type": "json_schema", "json_schema": {"name": "x"}}).read(
        "[1]"
    ).value == [1]
    assert AnswerReader({"type": "text"}).read("hi").problem == ""


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "is no JSON Schema, at \\$.type"),
        ("x", "no JSON object"),
        ({"$ref": "https://example.com/x.json"}, "nothing is fetched"),
        ({"items": [{"$ref": "other.json"}]}, "nothing is fetched"),
    ],
)
def test_a_schema_that_is_none_is_refused_at_once(schema: object, said: str) -> None:
    """Before a row is asked, and without reaching for another machine."""
    with pytest.raises(InvalidRun, match=said):
        AnswerReader(wanted(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/absent"},
        {"$ref": "#"},
        {"$id": "https://example.com/a", "properties": {"x": {"$ref": "#/nowhere"}}},
        {"properties": {"x": {"$id": "https://example.com/b", "$ref": "#/nowhere"}}},
    ],
)
def test_a_schema_that_leads_nowhere_is_said_when_it_is_followed(schema: object) -> None:
    """It is the operator's fault and no answer's; asking again would not help."""
    with pytest.raises(InvalidRun, match="refers to what it does not hold, or to itself"):
        AnswerReader(wanted(schema)).read('{"x": 1}')


def test_a_schema_may_refer_to_its_own_parts() -> None:
    """As most generators write it."""
    schema = {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}

    assert AnswerReader(wanted(schema)).read("[1]").problem == ""
    assert "at $[0]" in AnswerReader(wanted(schema)).read('["x"]').problem


def test_a_second_question_shows_the_answer_and_what_is_wrong() -> None:
    """In the same conversation, with everything else as it was."""
    request = RequestConfig(prompt="Where?", system="Be brief.", model="gpt", seed=4)

    again = asked_again(request, "Ulm", "it is not JSON")

    assert again.messages is not None
    assert [message["role"] for message in again.messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert again.messages[2]["content"] == "Ulm"
    assert "it is not JSON" in again.messages[3]["content"]
    assert (again.prompt, again.system, again.model, again.seed) == (None, None, "gpt", 4)
