"""Claims about checking YAML files against models, whatever the models."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.yaml_check import Vocabulary, validate
from orchestrator.yaml_source import read_yaml


class Dish(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern="^[a-z]+$")]
    spicy: bool = False


class Menu(BaseModel):
    """A file with everything a model can hold that a configuration does not."""

    model_config = ConfigDict(extra="forbid")

    course: Literal["lunch", "dinner"] | Dish | None = None
    dishes: list[Dish | str] = Field(default_factory=list)
    guests: Annotated[int, Field(lt=10)] = 1
    tables: Annotated[float, Field(le=2.5)] = 1
    notes: Annotated[tuple[str, ...], Field(min_length=2)] = ("a", "b")


VOCABULARY = Vocabulary(wanted={"course": "lunch, dinner or a dish"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("course: breakfast", ["f:1:9: course must be lunch, dinner or a dish, found the text"]),
        ("course: {nam: pie}", ["f:1:10: Unknown key 'nam' in course, did you mean 'name'?"]),
        ("course: {name: pie, spicy: 1}", ["f:1:28: course.spicy must be true or false, found 1"]),
        ("dishes: [1]", ["f:1:10: dishes[0] must be something else, found 1"]),
        ("dishes: pie", ["f:1:9: dishes must be a list, found the text 'pie'; write [pie]"]),
        ("dishes: [{}]", ["f:1:10: dishes[0] has no 'name'; add it"]),
        ("dishes: [{name: a, b: 1}]", ["f:1:20: Unknown key 'b' in dishes[0]; known here: name"]),
        ("guests: 12", ["f:1:9: guests must be less than 10, found 12"]),
        ("tables: 9", ["f:1:9: tables must be 2.5 or less, found 9"]),
        ("notes: [x]", ["f:1:8: notes has only 1; it needs at least 2 entries"]),
        ("notes: [x, 1]", ["f:1:12: notes[1] must be text, but YAML reads 1 as a number"]),
        (
            "dishes: [{name: PIE}]",
            ["f:1:17: dishes[0].name is not as it must be (string_pattern_mismatch)"],
        ),
        ("course: !x y\ndishes: [!x y]", []),
        ("course: {<<: {name: pie}}", []),
    ],
)
def test_every_kind_of_fault_has_words_and_a_place(text: str, expected: list[str]) -> None:
    """Unions complain once, and only of the form that was meant; what was refused, not again."""
    source = read_yaml(text, "f")

    value, problems = validate(source, Menu, VOCABULARY)

    lines = source.lines(problems)
    assert value is None
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


def test_what_fits_is_given_back_as_the_model() -> None:
    """No problem, one value."""
    value, problems = validate(
        read_yaml("course: lunch\ndishes: [soup, {name: pie}]"), Menu, VOCABULARY
    )

    assert value == Menu(course="lunch", dishes=["soup", Dish(name="pie")])
    assert tuple(problems) == ()
